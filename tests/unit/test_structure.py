"""The house rules that keep the tree readable, and that everything which is declared is complete."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest

from bench.config import checks, schema
from bench.config.schema import CONF_DIR, Config

ROOT = CONF_DIR.parent
PACKAGE = ROOT / "bench"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
SOURCES = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
FILES = {path.relative_to(CONF_DIR).with_suffix("").as_posix(): path for path in CONF_DIR.rglob("*.yaml")}

# The rooms from the top down: a room may import itself and what stands in rows below its own.
ROOMS = (
    ("cli", "plugins"),
    ("extras",),  # what the core never imports
    ("sweep", "winner"),
    ("run",),
    ("memory", "packs"),
    ("report", "train"),
    ("data", "model", "results"),
    ("config",),
    ("ground",),  # the files in bench/ itself, and assets/
)
ENTRANCES = ("bench.__init__", "bench.__main__")  # bench.load and the command: they import from the top
# What is over a limit in the tests; each only gets smaller.
LONG_FUNCTIONS = {"make_run": 73, "emulate_torch": 105, "emulate_nvml": 70}
# The first word of a function's docstring says what it does: Return, Write, Tell whether ...
NO_VERB = re.compile(
    r"a|all|also|an|any|as|at|both|by|each|every|for|from|half|how|if|in|it|its|most|"
    r"no|none|nothing|of|on|one|so|some|such|that|the|their|them|these|they|this|those|"
    r"to|two|what|when|where|whether|which|who|whole|whose|why|with|without"
)
# Packages that one place owns, and the modules that make up that place.
OWNERS = {
    "wandb": ("bench.run.tracking.wandb_run",),
    "wandb_workspaces": ("bench.extras.dashboard",),
    "cleanlab": ("bench.extras.audit",),
    "setfit": ("bench.model.contrastive",),
    "sentence_transformers": ("bench.model.contrastive",),
    "onnx": ("bench.model.onnx",),
    "onnxruntime": ("bench.model.onnx",),
    "onnxscript": ("bench.model.onnx",),
    "omegaconf": ("bench.config.overrides", "bench.config.schema", "bench.run.app", "bench.plugins"),
}
HEAVY = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


def name_path(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(name: str) -> str:
    """The room that the module, or what is imported of it, is in."""
    second = name.split(".")[1]
    return second if (PACKAGE / second).is_dir() and second != "assets" else "ground"


def list_functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def opens_with_a_verb(text: str) -> bool:
    """Whether the first word can be an imperative: letters, no article or question word, no plural or -s."""
    word = re.match(r"[A-Za-z'&`-]*", text)[0].lower()  # type: ignore[index]
    return word.isalpha() and not NO_VERB.fullmatch(word) and (not word.endswith("s") or word.endswith("ss"))


@pytest.mark.parametrize("path", SOURCES, ids=name_path)
def test_a_file_is_short_and_so_is_each_function(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in list_functions(text)}
    assert len(text.splitlines()) <= 600
    assert {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTIONS.get(name, 60)} == {}


def test_no_two_classes_have_one_name() -> None:
    classes = Counter(
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in classes.items() if count > 1} == set()


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name) != "plugins"])
def test_a_functions_docstring_opens_with_a_verb(name: str) -> None:
    wrong = {
        node.name: text.partition("\n")[0]
        for node in list_functions(NAMES[name].read_text(encoding="utf-8"))
        if (text := ast.get_docstring(node)) and not is_property(node) and not opens_with_a_verb(text)
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Return the run's record.", True),
        ("Pass the error on.", True),
        ("Tell whether a run has ended.", True),
        ("The run's record.", False),
        ("Whether a run has ended.", False),
        ("Returns the record.", False),
        ("W&B's answer.", False),
        ("``a``, then b.", False),
        ("Rows of a table.", False),
    ],
)
def test_what_a_verb_is(text: str, expected: bool) -> None:
    assert opens_with_a_verb(text) == expected


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_down(name: str) -> None:
    climbs = [found for found in imports_of(name) if found.startswith("bench.") and is_above(found, name)]
    assert name in ENTRANCES or climbs == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=name_path)
def test_a_folder_holds_few_files(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.is_file()]
    assert len(files) <= 15


@pytest.mark.parametrize("name", NAMES)
def test_a_package_is_imported_only_by_the_module_that_owns_it(name: str) -> None:
    foreign = [package for package, owners in OWNERS.items() if not is_within(name, owners)]
    assert [found for found in imports_of(name) if is_within(found, foreign)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_named_after_what_it_holds(name: str) -> None:
    assert not re.search(r"utils?$|helpers?$|common$|manager$|base$|misc$", name)


def test_only_training_loads_torch() -> None:
    rooms = ("cli", "config", "plugins", "report", "results", "sweep")
    quick = [name for name in NAMES if room_of(name) in rooms and "hydra_plugins" not in name]
    quick += ["bench.run.app", "bench.run.run", "bench.memory.prediction"]
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *quick], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert set(quick) <= set(loaded)
    assert set(HEAVY) & set(loaded) == set()


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_conf_composes(name: str) -> None:
    group, _, option = name.rpartition("/")
    overrides = [f"{group}={option}"] if group else []
    assert isinstance(compose(*overrides), Config)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("method/", "experiment/"))])
def test_every_method_and_experiment_is_ready_to_run(name: str) -> None:
    group, _, option = name.partition("/")
    method = compose(f"{group}={option}").method
    needs = ["task=label_likelihood"] if option == "few_shot" else []  # which alone has prompts
    needs += ["teacher=best:lora"] if method.distils else []
    needs += ["data.pieces=2"] if method.update else []  # a stream
    assert checks.check(compose(f"{group}={option}", *needs)) == []


def test_a_method_is_named_like_its_file() -> None:
    names = [name.partition("/")[2] for name in FILES if name.startswith("method/")]
    assert [compose(f"method={name}").method.name for name in names] == names


def test_a_model_is_named_like_its_file_and_is_ready_to_run() -> None:
    names = {name.partition("/")[2] for name in FILES if name.startswith("model/")}
    presets = sorted(names - {"local", "hub"})  # which ask for what only the user knows
    for name in presets:
        config = compose(f"model={name}")
        assert config.model.name == name
        assert checks.check(config) == []
        assert config.lora.target_modules == config.model.target_modules
        assert config.train.precision == config.model.precision
    assert len(presets) == 13


def test_every_dependency_has_its_reason_and_a_tested_version() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    needed = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    reasons = dict(re.findall(r'^ +"([^"]+)", +# (\w.+)$', text, flags=re.MULTILINE))
    tested = "".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("constraints*.txt")))
    pins = re.findall(r"^(\S+)==\S+$", tested, flags=re.MULTILINE)
    assert [one for one in needed if one not in reasons] == []
    assert {package_of(one) for one in needed} - {package_of(one) for one in pins} == {"bench"}


def test_make_explains_every_target() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "setup" in targets
    assert re.findall(r"^  ([a-z-]+) +\w.+$", shown, flags=re.MULTILINE) == targets


def compose(*overrides: str) -> Config:
    schema.register_schema()
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return schema.from_hydra(hydra.compose("config", overrides=list(overrides)))


def is_above(found: str, name: str) -> bool:
    """Whether an import leaves the room of ``name`` for one in its own row or in a row above."""
    rows = {room: place for place, row in enumerate(ROOMS) for room in row}
    there, here = room_of(found), room_of(name)
    return there != here and rows[there] <= rows[here]


def imports_of(name: str) -> Iterator[str]:
    """Every module it may import, wherever the import stands; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(NAMES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: write the import from bench on"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, packages: set[str] | tuple[str, ...] | list[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def package_of(requirement: str) -> str:
    """The package's name as registries write it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ]", requirement)[0]).lower()
