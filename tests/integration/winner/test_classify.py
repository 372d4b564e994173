"""The commands that use a trained run, as a user types them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

import bench
import bench.extras
from bench.results.store import Result, Store
from bench.run import manifest
from bench.winner import agreement, classifier, export
from bench.winner.generate import generate

Train = Callable[..., tuple[Store, Result]]
Bench = Callable[..., tuple[int, str, str]]
PROMPTED = ("task=label_likelihood", "model.template='{text} Topic: '")


@pytest.fixture(scope="module")
def folder(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model"
    export.export(*train("method=lora"), path)
    return path


def test_a_run_and_its_folder_give_the_probabilities_of_predictions_csv(
    train: Train, folder: Path, command: Bench, tmp_path: Path
) -> None:
    store, result = train("method=lora")
    texts = agreement.read_test(result).texts
    pd.DataFrame({"number": range(len(texts)), "title": texts}).to_csv(tmp_path / "in.csv", index=False)
    expected = store.read_predictions(result.run_id).query("split == 'test'").iloc[:, 3:]
    for source, out in ((result.run_id, "out.csv"), (folder, "out.jsonl")):
        options = ["--results", store.folder, "--file", tmp_path / "in.csv", "--column", "title"]
        code, said, err = command("classify", source, *options, "--out", tmp_path / out)
        assert (code, err) == (0, "")
        assert said == f"{len(texts)} texts classified into {tmp_path / out}\n"
    found = pd.read_csv(tmp_path / "out.csv")
    assert list(found.columns[:3]) == ["number", "title", "prediction"]
    assert list(found.columns[2:]) == list(expected.columns)
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    powers = expected.iloc[:, 1:].to_numpy() ** (1 / manifest.read(folder).temperature)
    tempered = powers / powers.sum(axis=1, keepdims=True)
    assert np.abs(found.iloc[:, 3:].to_numpy() - tempered).max() < 1e-4
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert pd.DataFrame(rows)["prediction"].tolist() == found["prediction"].tolist()
    assert rows[0]["number"] == "0"


def test_texts_come_from_arguments_or_lines(folder: Path, command: Bench) -> None:
    (one,) = bench.load(folder).predict(["股票上涨"])
    line = f"{one.label}\t{one.probabilities[one.label]:.4f}\t股票上涨\n"
    assert command("classify", folder, "股票上涨") == (0, line, "")
    assert command("classify", folder, lines="股票上涨\n股票上涨") == (0, 2 * line, "")
    code, out, _ = command("classify", folder, "股票上涨", "--json")
    assert (code, json.loads(out)["prediction"]) == (0, one.label)
    assert json.loads(out)["probability_股市"] == pytest.approx(one.probabilities["股市"], abs=1e-6)


def test_batches_of_like_length_give_what_each_text_alone_gives(folder: Path) -> None:
    found = bench.load(folder)
    texts = ["股票", "美元 人民币 汇率 央行 干预 " * 4, "国债 收益率", "指数 上涨 下跌"] * 3
    alone = np.concatenate([found.score([text]) for text in texts])
    told: list[int] = []
    assert np.abs(found.score(texts, batch_size=5, advance=told.append) - alone).max() < 1e-4
    assert told == [5, 5, 2]


def test_a_text_below_the_least_confidence_is_none_of_these(
    folder: Path, command: Bench, tmp_path: Path
) -> None:
    texts = ["股票 指数 上涨", "国债 收益率", "美元", "汇率"]
    values = [max(one.probabilities.values()) for one in bench.load(folder).predict(texts)]
    least = round(sorted(values)[1] + 1e-4, 4)  # which the two least sure do not reach
    reasons = [
        f"the highest probability, {value:.4f}, is below {least:g}" if value < least else None
        for value in values
    ]
    code, out, err = command("classify", folder, *texts, "--min-confidence", least, "--json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["reason"] for row in rows] == reasons
    assert [row["prediction"] is None for row in rows] == [value < least for value in values]
    _, out, _ = command("classify", folder, *texts, "--min-confidence", least)
    assert [line.startswith("none of these\t") for line in out.splitlines()] == [
        value < least for value in values
    ]
    command("classify", folder, *texts, "--min-confidence", least, "--out", tmp_path / "out.csv")
    read = pd.read_csv(tmp_path / "out.csv")
    assert list(read.columns[:3]) == ["text", "prediction", "reason"]
    assert read["prediction"].isna().sum() == 2


@pytest.mark.parametrize(
    ("arguments", "lines", "code", "message"),
    [
        (["nowhere", "a"], "", 2, "nowhere: there is no such folder"),
        (["{folder}", ""], "", 2, "line 1 is empty; remove it"),
        (["{folder}"], "a\n\nb\n", 2, "line 2 is empty; remove it"),
        (["{folder}"], "", 2, "no text: give texts as arguments, with --file, or one a line"),
        (["{folder}", "--file", "{here}/in.csv"], "", 2, "has no such column; there are id, title"),
        (["{folder}", "--file", "{here}/in.txt"], "", 2, "must end in .csv"),
        (["{folder}", "--file", "{here}/no.csv"], "", 3, "there is no such file"),
        (["{folder}", "--file", "{here}/bad.jsonl"], "", 2, "cannot be read"),
        (["{folder}", "--file", "{here}/gap.jsonl"], "", 2, "row 2 has no text in text; remove it"),
        (["{folder}", "a", "--file", "{here}/in.csv"], "", 2, "give texts or a file, not both"),
        (["{folder}", "a", "--out", "out.xlsx"], "", 2, "--out out.xlsx: must end in .csv"),
        (["{folder}", "a", "--batch-size", "0"], "", 2, "--batch-size 0: must be at least 1"),
        (["{folder}", "a", "--min-confidence", "1"], "", 2, "--min-confidence 1: must lie in (0, 1)"),
        (["{folder}", "a", "--min-accuracy", "95"], "", 2, "--min-accuracy 95: must lie in (0, 1)"),
        (["{folder}", "a", "--min-accuracy", "0.99"], "", 2, "show no threshold at which answers are so"),
        (["0123456789ab", "a", "--results", "{results}"], "", 2, "has no such run"),
        (["best:nope", "a", "--results", "{results}"], "", 2, "has no run of it"),
    ],
)
def test_what_cannot_be_classified_is_one_message(
    train: Train,
    folder: Path,
    command: Bench,
    tmp_path: Path,
    arguments: list[str],
    lines: str,
    code: int,
    message: str,
) -> None:
    (tmp_path / "in.csv").write_text("id,title\n1,good\n")
    (tmp_path / "in.txt").write_text("good\n")
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "gap.jsonl").write_text('{"text": "good"}\n{"text": null}\n')
    places = {"folder": folder, "here": tmp_path, "results": train("method=lora")[0].folder}
    found, out, err = command("classify", *(one.format(**places) for one in arguments), lines=lines)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_options_may_stand_between_the_folder_and_the_texts(folder: Path, command: Bench) -> None:
    texts = ["Shares fall", "Striker scores"]
    plain = command("classify", folder, *texts)
    assert plain[0] == 0
    assert command("classify", folder, "--batch-size", 1, *texts) == plain
    assert command("classify", "--batch-size", 1, folder, *texts) == plain


def test_latency_of_a_folder_without_its_results_asks_for_texts(
    folder: Path, command: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command("latency", folder)
    assert (code, out) == (3, "")
    assert err.rstrip().endswith("its run's results hold the texts: name them, or give --file")


def test_latency_is_measured_in_every_form_and_kept_beside_the_run(train: Train, command: Bench) -> None:
    store, result = train("method=qlora")
    code, out, _ = command("latency", result.run_id, "--results", store.folder)
    assert code == 0
    path = store.run_folder(result.run_id) / "latency.json"
    assert out.splitlines()[-1] == str(path)
    written = json.loads(path.read_text())
    forms = [one["form"] for one in written["forms"] if one["batch_size"] == 1]
    assert forms == ["nf4 base + adapter", "merged", "merged, quantised to nf4"]
    for one in written["forms"]:
        assert 0 < one["p50_ms"] <= one["p95_ms"]
        assert one["texts_per_second"] > 0
    assert (written["run_id"], written["texts"]) == (result.run_id, 18)
    assert written["hardware"]["cores"] >= 1
    assert sum(f"| {form} " in out for form in forms) == 3


def test_export_and_merge_say_where_it_is(train: Train, command: Bench, tmp_path: Path) -> None:
    store, result = train("method=lora")
    where = ["--results", store.folder]
    code, out, _ = command("export", result.run_id, tmp_path / "adapter", *where)
    assert (code, out) == (0, f"{result.run_id} (lora): its adapter is in {tmp_path / 'adapter'}\n")
    code, out, _ = command("merge", result.run_id, tmp_path / "merged", *where, "--tolerance", "1")
    assert code == 0
    assert "| merged, fp32 " in out
    code, _, err = command("merge", result.run_id, tmp_path / "merged", *where)
    assert (code, err.splitlines()[0].endswith("give a new folder, or remove this one first")) == (2, True)
    code, _, err = command("merge", result.run_id, tmp_path / "other", *where, "--tolerance", "2")
    assert (code, err) == (2, "--tolerance 2: must be a share from 0 to 1, such as 0.01\n")


@pytest.mark.parametrize(
    ("base", "method"), [("llama", "lora"), pytest.param("gpt2", "full", marks=pytest.mark.slow)]
)
def test_what_is_written_is_the_likeliest_token_each_time(train: Train, base: str, method: str) -> None:
    """As the whole text read anew for each token says, without kept keys and without padding."""
    found = classifier.rebuild(*train(f"method={method}", *PROMPTED, base=base))
    texts = ["股票 指数 上涨", "国债"]
    settings = {"max_new_tokens": 5, "top_p": 1.0, "seed": 0}
    written = generate(found, texts, temperature=0.0, batch_size=2, **settings)
    split = found.tokenise(texts)
    for row, text in enumerate(written):
        read = split.row(row).tolist()
        new: list[int] = []
        with torch.inference_mode():
            while len(new) < 5 and found.tokenizer.eos_token_id not in new:
                ids = torch.tensor([read + new])
                logits = found.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                new.append(int(functional.log_softmax(logits[0, -1], dim=-1).argmax()))
        assert text == found.tokenizer.decode(new, skip_special_tokens=True)
    drawn = [
        generate(found, texts, temperature=5.0, batch_size=2, **{**settings, "seed": seed})
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_generate_prints_a_line_a_text_and_refuses_a_head(train: Train, folder: Path, command: Bench) -> None:
    store, result = train("method=lora", *PROMPTED, base="llama")
    code, out, _ = command("generate", result.run_id, "股票", "国债", "--results", store.folder)
    assert (code, len(out.splitlines())) == (0, 2)
    code, _, err = command("generate", folder, "股票")
    assert code == 2
    assert "was trained with a head that classifies and writes nothing" in err
    assert command("generate", folder, "a", "--top-p", "0")[0] == 2


def test_serving_without_its_extra_says_how_to_get_it(
    folder: Path, command: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "bench.extras.serve", raising=False)
    monkeypatch.delattr(bench.extras, "serve", raising=False)  # where an import finds it first
    code, _, err = command("serve", folder)
    assert code == 3
    assert 'fastapi is not installed; install the extra, pip install -c constraints.txt -e ".[serve]"' in err
