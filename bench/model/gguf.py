"""GGUF files as folders of safetensors, which is what bench trains: read once, kept in the cache.

``python -m bench.model.gguf FILE FOLDER`` does it, in a process of its own: the memory of the run that needs
the folder holds nothing of it, and a process without torch can ask for it too.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import MissingError
from bench.files import TEMPORARY, writing_folder

ORIGIN = "dequantised_from"  # in the folder's config.json: what the weights were held in before
SUFFIX = ".gguf"


def convert(file: Path, folder: Path) -> None:
    """Read the file into the folder, unless that is there already; it appears as a whole or not at all.

    Any number of processes may do this at once: one converts, and the others wait for it.

    Raises:
        MissingError: the file is none that transformers reads, or the cache cannot hold the folder.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(file, folder, f"{error.strerror or error}") from None
    done = subprocess.run(
        [sys.executable, "-m", "bench.model.gguf", str(file), str(folder)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # libraries look at the cards as they are imported
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        said = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise _explain(file, folder, said)


def _explain(file: Path, folder: Path, said: str) -> MissingError:
    return MissingError(
        f"{file}: cannot be converted to safetensors in {folder.parent} ({said}), where each weight takes 4 "
        "bytes; set XDG_CACHE_HOME to a folder that has them, or install a damaged file again"
    )


def main() -> None:
    """Convert the file that the command line names, or wait for the process that does."""
    file, folder = map(Path, sys.argv[1:])
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # no lock outlives its holder
        if folder.is_dir():
            return
        for left in folder.parent.glob(f"{TEMPORARY}*"):  # by a conversion that was killed
            shutil.rmtree(left)
        with writing_folder(folder) as partial:
            _write(file, partial)


def _write(file: Path, folder: Path) -> None:
    """Write the file's weights in fp32, which holds each of their values, its tokenizer and its licence."""
    import gguf
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.integrations.gguf.reader import read_gguf_metadata

    transformers.utils.logging.disable_progress_bar()
    # transformers has it made anew for each of 400 modules, which takes ten seconds.
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**place, dtype="float32")
    # What the weights were held in; transformers refuses to save them while these say that they still are.
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    said, _ = read_gguf_metadata(str(file))
    kind = gguf.LlamaFileType(said["general.file_type"]).name if "general.file_type" in said else ""
    setattr(model.config, ORIGIN, f"GGUF {kind.removeprefix('MOSTLY_').removeprefix('ALL_')}".strip())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    if licence := said.get("general.license"):
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")


if __name__ == "__main__":
    main()
