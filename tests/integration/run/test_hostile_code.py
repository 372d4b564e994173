"""A model, a checkpoint, a cache and a configuration of other people are read and never run."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.config.schema import Config
from bench.errors import BenchError
from bench.run.run import run

Compose = Callable[..., Config]


@dataclasses.dataclass
class Trap:
    """Something that runs when a pickle is loaded or a module imported, and the mark that it leaves."""

    mark: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)

    @property
    def module(self) -> str:
        return f"import os\nos.mkdir({str(self.mark)!r})\n"


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "executed")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def change_json(path: Path, **values: Any) -> None:
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(found | values), encoding="utf-8")


def poison_safetensors(folder: Path, trap: Trap) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(trap))


def add_pickles(folder: Path, trap: Trap) -> None:
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "vocab.pkl"):
        (folder / name).write_bytes(pickle.dumps(trap))


def index_pickles(folder: Path, trap: Trap) -> None:
    add_pickles(folder, trap)
    weights = json.loads((folder / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "pytorch_model.bin")}
    change_json(folder / "model.safetensors.index.json", **index)


def add_code(folder: Path, trap: Trap) -> None:
    for name in ("modeling_x", "configuration_x", "tokenization_x"):
        (folder / f"{name}.py").write_text(trap.module + "class X: pass\n", encoding="utf-8")
    classes = ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM")
    auto_map = dict.fromkeys(classes, "modeling_x.X") | {"AutoConfig": "configuration_x.X"}
    change_json(folder / "config.json", auto_map=auto_map, architectures=["X"])


def add_code_of_its_own_kind(folder: Path, trap: Trap) -> None:
    add_code(folder, trap)
    change_json(folder / "config.json", model_type="x")


def add_tokenizer_code(folder: Path, trap: Trap) -> None:
    add_code(folder, trap)
    auto_map = {"AutoTokenizer": ["tokenization_x.X", "tokenization_x.X"]}
    change_json(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="X")


def add_adapter(folder: Path, trap: Trap) -> None:
    """transformers looks for an adapter beside a model and loads it and the base model that it names."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    add_code_of_its_own_kind(elsewhere, trap)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(trap))
    change_json(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(elsewhere))


def name_a_kernel(folder: Path, trap: Trap) -> None:
    """transformers can fetch an attention's code from the hub, where a configuration names it."""
    add_code(folder, trap)
    for name in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        change_json(folder / "config.json", **{name: "evil/kernel"})


POISONS = [
    poison_safetensors,
    add_pickles,
    index_pickles,
    add_code,
    add_code_of_its_own_kind,
    add_tokenizer_code,
    add_adapter,
    name_a_kernel,
]


@pytest.mark.parametrize("method", ["lora", "head"])
@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)
def test_a_model_cannot_run_code(
    compose_tiny: Compose,
    tiny_bert: Path,
    tmp_path: Path,
    trap: Trap,
    poison: Callable[[Path, Trap], None],
    method: str,
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    poison(folder, trap)
    before = names_in(tmp_path)
    steps = ["train.max_steps=2", "train.warmup_steps=0", f"method={method}"]
    with contextlib.suppress(BenchError):
        result = run(compose_tiny(f"model.path={folder}", *steps))
        assert result.status in ("success", "invalid", "failed")
    assert not trap.mark.exists()
    assert names_in(tmp_path) - before <= {"results", "cache"}


def test_what_is_cached_and_checkpointed_cannot_run_code(
    compose_tiny: Compose, tmp_path: Path, trap: Trap
) -> None:
    """Every file that a killed run leaves and a next one reads may have come from somebody else."""
    config = compose_tiny("train.max_steps=4", "train.warmup_steps=0", "train.checkpoint_steps=2")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.model.trained.read", stop)  # of the best weights, after the last step
        with pytest.raises(KeyboardInterrupt):
            run(config)
    read = [
        path
        for path in [*tmp_path.rglob("checkpoints/*/*"), *(tmp_path / "cache").rglob("*")]
        if path.is_file() and path.suffix not in (".json", ".lock")
    ]
    assert {path.relative_to(tmp_path).parts[0] for path in read} == {"results", "cache"}
    for path in read:
        path.write_bytes(pickle.dumps(trap))
        manifest = path.parent / "manifest.json"
        if manifest.exists():
            files = json.loads(manifest.read_text())["files"]
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            change_json(manifest, files=files | {path.name: digest})
    assert run(config).status in ("success", "failed")
    assert not trap.mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        "name: !!python/object/apply:os.mkdir ['{mark}']\n",
        "name: x\n_target_: os.mkdir\npath: '{mark}'\n",
        "name: x\nadapter:\n  peft_type: LORA\n  _target_: os.mkdir\n  path: '{mark}'\n",
        "name: ${{oc.eval:1}}\n",
    ],
)
def test_a_configuration_file_cannot_run_code(
    command: Callable[..., tuple[int, str, str]],
    tiny_bert: Path,
    texts: Path,
    tmp_path: Path,
    trap: Trap,
    content: str,
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    path = tmp_path / "conf" / "method" / "evil.yaml"
    path.write_text("defaults: [lora]\n" + content.format(mark=trap.mark), encoding="utf-8")
    settings = ["model=local", f"model.path={tiny_bert}", "data=files", f"data.train={texts}"]
    folders = [f"results_dir={tmp_path}/results", f"cache_dir={tmp_path}/cache"]
    short = ["track.mode=disabled", "train.max_steps=1", "train.warmup_steps=0"]
    given = ["--config-dir", f"{tmp_path}/conf", "method=evil", *settings, *folders, *short]
    code, _, err = command("run", *given)
    assert code in (1, 2)
    assert "Traceback" not in err
    assert not trap.mark.exists()
