"""Networks as ONNX files: written by torch's exporter, made int8 and run on a CPU by onnxruntime.

The only file that imports what the extra brings, bench[onnx], and only where it is called for.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from bench.errors import ConfigError, MissingError, first_line

NAME = "model.onnx"  # as text-embeddings-inference looks for it
# int64: (rows, length); the last one says which of two texts a token is of
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUT = "logits"  # fp32: (rows, labels)
_SIZES = {0: "rows", 1: "length"}
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: texts in token ids in, logits out."""

    def __init__(self, session: Any, config: Any) -> None:
        super().__init__()
        self.session, self.config = session, config

    def forward(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Compute the head's outputs. # inputs: (rows, length) each"""
        [logits] = self.session.run([_OUTPUT], {name: value.numpy() for name, value in inputs.items()})
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))


class _Logits(nn.Module):
    """A network that returns its logits alone, as torch's exporter wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the head's outputs. # (rows, labels)"""
        inputs = (input_ids, attention_mask, token_type_ids)
        given = {name: one for name, one in zip(_INPUTS, inputs, strict=True) if one is not None}
        logits: torch.Tensor = self.network(**given).logits
        return logits


def require_packages() -> None:
    """Raise a MissingError unless the extra is installed."""
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise MissingError(
            f"ONNX: the package {missing[0]} is not installed; "
            'install the extra, pip install -c constraints.txt -e ".[onnx]"'
        )


def list_inputs(*, types: bool) -> list[str]:
    """List what a file takes; with ``types`` it is told which of two texts each token is of."""
    return list(_INPUTS if types else _INPUTS[:-1])


def write(network: nn.Module, path: Path, *, types: bool) -> None:
    """Write a network of fp32 weights on the CPU as ONNX, for any number of texts of any length.

    With ``types`` it is one that is told which of two texts each token is of.

    Raises:
        ConfigError: torch's exporter cannot express the network.
    """
    # Sizes of 1 would be taken for constants, and one tensor given twice for one input.
    names = list_inputs(types=types)
    example = {name: torch.ones(2, 8, dtype=torch.int64) for name in names}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Logits(network).eval(),
                kwargs=example,
                dynamic_shapes=dict.fromkeys(names, _SIZES),
                input_names=names,
                output_names=[_OUTPUT],
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(path)
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(
            f"{type(network).__name__}: torch's ONNX exporter cannot express it ({first_line(error)}); "
            "use --format merged"
        ) from None


def quantise(source: Path, target: Path) -> None:
    """Write the ONNX file again with int8 weights, whose products take activations in int8 too.

    Each output channel has its own scale. Weights take 7 of the 8 bits: with all 8, processors without
    instructions for such products (VNNI) saturate, and compute other numbers than those with them.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(source, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def load(folder: Path) -> OnnxNetwork:
    """Load the folder's ONNX file, to run on as many threads as torch does.

    Raises:
        MissingError: the extra is not installed.
        ConfigError: the file is not there or damaged.
    """
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(folder / NAME, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own derive from nothing narrower
        raise ConfigError(
            f"{folder}: its {NAME} does not load ({first_line(error)}); export it again"
        ) from None
    return OnnxNetwork(session, AutoConfig.from_pretrained(folder, local_files_only=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, what these packages warn and log of themselves stays unsaid; errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
