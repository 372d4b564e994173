"""Which errors mean that memory was out, so that a smaller micro-batch is tried."""

import pytest
import torch

from bench.errors import ConfigError
from bench.redaction import LONGEST
from bench.run.record import _describe_error, classify


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB.",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154',
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
    ],
)
def test_memory_that_is_out_is_told_by_its_many_names(message: str) -> None:
    assert classify(RuntimeError(message)) == "oom"


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasGemmEx(...)`",
        "CUDA error: device-side assert triggered",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/torch/csrc/other.cpp":1',
    ],
)
def test_other_errors_of_the_device_are_not_out_of_memory(message: str) -> None:
    assert classify(RuntimeError(message)) == "failed"


def test_the_type_counts_before_the_words() -> None:
    assert classify(torch.OutOfMemoryError()) == classify(MemoryError()) == "oom"
    assert classify(ConfigError("train.lr: out of memory")) == "invalid"
    assert classify(ValueError("out of memory")) == "failed"


def test_the_words_of_an_error_that_quotes_a_whole_file_are_cut() -> None:
    described = _describe_error(ValueError("begins " + "x" * 3_000_000 + " ends"))
    assert described is not None
    assert len(described["traceback_tail"]) <= LONGEST
    assert len(described["message"]) < LONGEST + 50
    assert described["message"].startswith("begins xxx")
    assert described["message"].endswith("xxx ends")
    assert f"[{3_000_012 - LONGEST} characters left out]" in described["message"]
    short = _describe_error(ValueError("as it is"))
    assert short is not None
    assert short["message"] == "as it is"
