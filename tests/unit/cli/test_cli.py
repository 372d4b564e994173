"""The command line: which results are meant, what a command prints, and its exit code."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from records import make_peft

from bench import cli
from bench.cli.results import find_results
from bench.config.identity import identify
from bench.config.schema import Config, replace_values, to_dict
from bench.errors import StoreError
from bench.results.store import RECORD, Result, Store
from bench.run import app

Bench = Callable[..., tuple[int, str, str]]

SHOW_MODULES = """
import sys
from bench.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.fixture
def bench(command: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """The command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return command


def add_runs(folder: Path, config: Config, statuses: dict[int, str]) -> Store:
    """Records as runs leave them, a status for each seed."""
    store = Store(folder)
    for seed, status in statuses.items():
        seeded = replace_values(config, {"seed": seed})
        identity = identify(seeded, data_fingerprint="texts", model_revision="weights")
        scores = {"accuracy": 0.875, "f1_macro": 0.85, "loss": 0.5}
        measured: dict[str, Any] = {
            "metrics": {"validation": scores, "test": scores},
            "memory": {"kind": "cpu_resident", "train": {"peak_resident_bytes": 2**30}},
            "time": {"train_seconds": 12.0},
            "parameters": {"trainable": 1000, "total": 2000},
        }
        result = Result(
            run_id=identity.run_id,
            status=status,
            attempt=1,
            phase="save",
            started_at="2026-01-01T00:00:00.000+00:00",
            ended_at=None,
            config=to_dict(seeded),
            canonical_config=dict(identity.canonical),
            **(measured if status == "success" else {}),
        )
        store.write(result)
    return store


@pytest.fixture
def quickstart(compose: Callable[..., Config], tmp_path: Path) -> Store:
    statuses = {0: "success", 1: "success", 2: "oom", 3: "crashed"}
    return add_runs(tmp_path / "results" / "quickstart", compose("method=lora"), statuses)


def make_folders(root: Path, *names: str) -> None:
    for name in names:
        (root / name / "runs").mkdir(parents=True)


def test_the_folder_that_is_given_is_meant(tmp_path: Path) -> None:
    make_folders(tmp_path, "quickstart", "mine")
    assert find_results(str(tmp_path / "mine"), tmp_path) == tmp_path / "mine"


def test_a_given_folder_must_hold_runs(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            StoreError, match=f"^--results {folder}: holds no runs; give a folder that `bench"
        ):
            find_results(str(folder), tmp_path)


def test_quickstart_is_meant_before_others(tmp_path: Path) -> None:
    make_folders(tmp_path, "a", "quickstart", "z")
    assert find_results(None, tmp_path) == tmp_path / "quickstart"


def test_the_only_folder_is_meant(tmp_path: Path) -> None:
    make_folders(tmp_path, "mine")
    (tmp_path / "README.md").touch()
    (tmp_path / "no-runs").mkdir()
    assert find_results(None, tmp_path) == tmp_path / "mine"


def test_of_several_folders_one_must_be_named(tmp_path: Path) -> None:
    make_folders(tmp_path, "b", "a")
    with pytest.raises(StoreError, match=f"there are {tmp_path}/a, {tmp_path}/b; name one, or") as caught:
        find_results(None, tmp_path)
    assert caught.value.exit_code == 3


def test_without_any_folder_a_sweep_comes_first(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no results folder is meant; run `bench sweep` first$"):
        find_results(None, tmp_path / "missing")


def test_status_counts_the_runs(bench: Bench, quickstart: Store) -> None:
    code, out, _ = bench("status")
    assert code == 0
    *counts, disk = out.splitlines()
    assert counts == ["results/quickstart", "     1 crashed", "     1 oom", "     2 success"]
    assert disk == "on disk: weights 0.0 MiB in 0 runs, checkpoints 0.0 MiB in 0 runs"
    damage(quickstart)
    code, out, _ = bench("status")
    assert code == 0
    *counts, last, _ = out.splitlines()
    assert last == "     1 not readable; `bench verify` names them"
    assert sum(int(line.split()[0]) for line in [*counts[1:], last]) == 4


def test_status_says_what_weights_and_checkpoints_take_of_the_disk(bench: Bench, quickstart: Store) -> None:
    first, second = (quickstart.run_folder(one.run_id) for one in quickstart.read_all()[0][:2])
    (first / "best.safetensors").write_bytes(bytes(2 * 2**20))
    (second / "best.safetensors").write_bytes(bytes(2**19))
    (second / "checkpoints" / "step-000100").mkdir(parents=True)
    (second / "checkpoints" / "step-000100" / "weights.safetensors").write_bytes(bytes(2**20))
    line = bench("status")[1].splitlines()[-1]
    assert line == "on disk: weights 2.5 MiB in 2 runs, checkpoints 1.0 MiB in 1 runs"


def test_verify_names_the_bad_records(bench: Bench, quickstart: Store) -> None:
    assert bench("verify") == (0, "4 good, 0 bad records in results/quickstart\n", "")
    path = damage(quickstart)
    code, out, _ = bench("verify")
    relative = path.relative_to(quickstart.folder.parents[1])
    assert code == 1
    assert out.splitlines() == [
        f"{relative}: its checksum does not match; it was changed or is damaged",
        "3 good, 1 bad records in results/quickstart",
    ]


def damage(store: Store) -> Path:
    path = min(store.folder.glob(f"runs/*/{RECORD}"))
    path.write_text(path.read_text(encoding="utf-8").replace("2026-01-01", "2026-01-02"), encoding="utf-8")
    return path


@pytest.mark.parametrize(("lang", "header"), [("en", "| Method"), ("zh", "| 方法")])
def test_table_writes_and_shows_the_table(
    bench: Bench, quickstart: Store, tmp_path: Path, lang: str, header: str
) -> None:
    code, out, _ = bench("table", "--lang", lang, "--results", str(quickstart.folder))
    assert code == 0
    assert header in out
    assert "LoRA" in out
    assert "87.5" in out
    table = (quickstart.folder / "table.md").read_text(encoding="utf-8")
    assert table in out
    names = ["table.csv", "table.md", "runs.csv", "comparisons.csv"]
    assert out.splitlines()[-4:] == [str(quickstart.folder / name) for name in names]
    assert all((quickstart.folder / name).is_file() for name in names)
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]


def test_table_writes_latex_where_it_is_asked_for(bench: Bench, quickstart: Store) -> None:
    code, out, _ = bench("table", "--latex")
    path = quickstart.folder / "table.tex"
    assert (code, out.splitlines()[-1]) == (0, "results/quickstart/table.tex")
    latex = path.read_text(encoding="utf-8")
    assert latex.startswith("% \\usepackage{booktabs, graphicx}\n")
    assert bench("table", "--latex", "--lang", "zh")[0] == 0
    chinese = path.read_text(encoding="utf-8")
    assert chinese.startswith("% \\usepackage{booktabs, graphicx, ctex}\n")
    assert "方法 & " in chinese


@pytest.mark.usefixtures("quickstart")
def test_a_margin_of_equality_that_is_none_is_refused(bench: Bench) -> None:
    code, _, error = bench("table", "report.equivalence_points=0")
    assert code == 2
    assert "report.equivalence_points=0.0: must lie in (0, 100); 1.0 is one point of accuracy" in error


def test_report_says_where_the_page_is(bench: Bench, quickstart: Store) -> None:
    code, said, _ = bench("report", "--lang", "zh")
    assert (code, said.splitlines()[-1]) == (0, "look at it in any browser: results/quickstart/report.html")
    page = (quickstart.folder / "report.html").read_text(encoding="utf-8")
    assert '<html lang="zh">' in page
    assert "figures as SVG and PNG: results/quickstart/figures" in said
    assert list((quickstart.folder / "figures").glob("*.svg"))


@pytest.mark.usefixtures("quickstart")
def test_table_takes_settings_of_the_report(bench: Bench) -> None:
    code, out, _ = bench("table", "report.price_per_hour=300")
    assert code == 0
    assert out.splitlines()[4].endswith("| Cost of one training |")
    assert out.splitlines()[6].endswith("|                    1 |")  # 12 s


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "report.price_per_hour=-1",
            "report.price_per_hour=-1.0: must be 0 or more, or null to show no cost",
        ),
        ("lora.r=8", "lora.r=8: only report.* can be set here; what was trained is in the results"),
        ("report.prize=1", ""),
        ("report.price_per_hour=much", ""),
    ],
)
def test_table_refuses_other_settings(bench: Bench, quickstart: Store, override: str, message: str) -> None:
    code, out, err = bench("table", override)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert override.partition("=")[0] in err
    assert "Traceback" not in err
    assert not (quickstart.folder / "table.md").exists()


@pytest.mark.parametrize(("lang", "words"), [("en", "Take LoRA with r=8"), ("zh", "采用 LoRA，r=8")])
@pytest.mark.usefixtures("quickstart")
def test_recommend_says_what_to_take(bench: Bench, lang: str, words: str) -> None:
    code, out, err = bench("recommend", "--vram", "1", "--max-hours", "1", "--lang", lang)
    assert (code, err) == (0, "")
    assert words in out


@pytest.mark.usefixtures("quickstart")
def test_recommend_says_what_comes_nearest_where_nothing_fits(bench: Bench) -> None:
    code, out, err = bench("recommend", "--vram", "0.5")
    assert (code, err) == (1, "")
    assert "Nearest: LoRA (needs 1.00 GiB, more than 0.5)." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vram", "0"], "--vram 0: must be a positive number of GiB"),
        (["--vram", "nan"], "--vram nan: must be a positive number of GiB"),
        (["--vram", "inf"], "--vram inf: must be a positive number of GiB"),
        (["--vram", "1", "--max-hours", "-1"], "--max-hours -1: must be a positive number of hours"),
        (
            ["--vram", "1", "--min-accuracy", "90"],
            "--min-accuracy 90: must be a share from 0 to 1, such as 0.9",
        ),
        ([], "recommend: give --vram GIB, --card CARD or --labels N"),
        (["--max-hours", "1"], "recommend: give --vram GIB, --card CARD or --labels N"),
        (["--labels", "0"], "--labels 0: must be a positive number of labelled texts"),
        (["--labels", "-5"], "--labels -5: must be a positive number of labelled texts"),
        (["--labels", "nan"], "argument --labels: invalid int value: 'nan'"),
        (["--labels", "200", "--label-cost", "0"], "--label-cost 0: must be a positive amount"),
        (["--labels", "200", "--label-cost", "-1"], "--label-cost -1: must be a positive amount"),
        (["--labels", "200", "--label-cost", "nan"], "--label-cost nan: must be a positive amount"),
        (["--vram", "1", "--label-cost", "1"], "--label-cost 1: needs --labels N"),
        (["--labels", "200"], "results/quickstart holds no learning curve"),
        (["--labels", "200"], "`bench sweep experiment=curve`"),
        (["--card", "rtx409"], "--card rtx409: must be one of"),
        (["--card", "rtx409"], "did you mean rtx4090?"),
    ],
)
@pytest.mark.usefixtures("quickstart")
def test_recommend_refuses_other_limits(bench: Bench, arguments: list[str], message: str) -> None:
    code, out, err = bench("recommend", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_import_says_what_it_took_and_what_it_does_not_know(
    bench: Bench, quickstart: Store, tmp_path: Path
) -> None:
    table = tmp_path / "other.csv"
    table.write_text("method,peak_memory_gib,train_hours,accuracy,ca\x1brd\nQLoRA,8.7,2.6,88.6%,x\n")
    said = "imported into results/quickstart/imported"
    code, out, _ = bench("import", "csv", str(table))
    assert (code, out.splitlines()) == (
        0,
        [
            "columns that bench does not know: ca\\x1brd",
            f"1 {said}, 0 of them known before; `bench table` shows them",
        ],
    )
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "lora.json").write_text(json.dumps(make_peft()))
    for known in (0, 1):
        code, out, _ = bench("import", "peft", str(tmp_path / "peft"), "--results", str(quickstart.folder))
        assert code == 0
        assert f", {known} of them known before" in out
    shown = bench("table")[1].partition("## Imported, not measured by bench")[2]
    assert "| QLoRA " in shown
    assert "| lora/tiny-rank8 " in shown
    assert "2 imported results are left out" in bench("recommend", "--vram", "1")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["import", "peft", "missing"], 3, "missing: there is no such folder"),
        (["import", "csv", "missing.csv"], 3, "missing.csv: there is no such file"),
        (["import", "peft", "results"], 2, "results: has 0 JSON files"),
        (["import", "excel", "x"], 2, "usage: bench import"),
        (["import"], 2, "usage: bench import"),
    ],
)
def test_import_refuses_what_is_not_there(
    bench: Bench, quickstart: Store, arguments: list[str], code: int, message: str
) -> None:
    ended, out, err = bench(*arguments)
    assert (ended, out) == (code, "")
    assert err.startswith(message)
    assert not (quickstart.folder / "imported").exists()


@pytest.mark.parametrize("line", ["table", "status", "verify", "sync", "recommend --vram 1", "import csv x"])
def test_without_results_a_command_is_one_message(bench: Bench, line: str) -> None:
    code, out, err = bench(*line.split())
    assert (code, out) == (3, "")
    assert err == "--results: no results folder is meant; run `bench sweep` first\n"


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], [], ["table", "--lang", "fr"], ["status", "--no-such-option"], ["verify", "extra"]],
)
def test_wrong_usage_is_exit_code_2(bench: Bench, arguments: list[str]) -> None:
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: bench")


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "nan"])
def test_sync_waits_for_a_bounded_time(bench: Bench, quickstart: Store, seconds: str) -> None:
    code, _, err = bench("sync", "--probe-seconds", seconds, "--results", str(quickstart.folder))
    assert code == 2
    assert err == f"--probe-seconds {float(seconds)}: must lie in (0, 60]\n"


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (["run", "method=full", "seed=1"], ["method=full", "seed=1"]),
        (["run", "--help"], ["--help"]),
        (["run"], []),
        (["sweep"], ["--multirun", "experiment=quickstart"]),
        (["sweep", "lora.r=8,16"], ["--multirun", "lora.r=8,16"]),
    ],
)
def test_run_and_sweep_are_the_hydra_app(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], passed_on: list[str]
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(app, "main", called.append)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    assert called == [passed_on]


def test_help_is_quick_and_lists_every_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHOW_MODULES, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: bench")
    for name in ("run", "sweep", "table", "recommend", "import", "status", "verify", "sync"):
        assert re.search(rf"^    {name}\s", done.stdout, flags=re.MULTILINE)
    assert "experiment=quickstart" in done.stdout
    slow = {"torch", "transformers", "pandas", "hydra", "omegaconf", "wandb", "sklearn"}
    assert slow & set(done.stderr.split()) == set()
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "no-such-command"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-command" in done.stderr
