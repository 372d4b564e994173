"""The kernels of a device where torch's shape-only device ``meta`` would take another way.

A model on ``meta`` runs torch's own code without numbers, but torch chooses some kernels, and what autocast
casts, by the device. Here it is told to choose as on CUDA or on a CPU. Sources, of torch 2.13:
aten/src/ATen/autocast_mode.h (lists of operations), native/transformers/attention.cpp and cuda/attention*.cu,
native/Dropout.cpp, native/mkldnn/Matmul.cpp (is_mkldnn_optimized_format); of bitsandbytes 0.50:
backends/cuda/ops.py and backends/default/ops.py.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import bitsandbytes  # noqa: F401 (registers its operations)
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Its operations that begin with _ are what scaled_dot_product_attention chooses from, by the device.
aten: Any = torch.ops.aten
HALVES = (torch.bfloat16, torch.float16)
BLAS_WORKSPACE = 8 * 2**20 + 128 * 2**10  # cuBLAS's, kept from its first product on (CUDABlas.cpp)

# By device, what autocast computes in its low precision and what in fp32.
_LOWERED = {
    "cuda": "linear matmul __matmul__ __rmatmul__ mm mv bmm addmm addmv addbmm baddbmm einsum bilinear prelu "
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention",
    "cpu": "linear matmul __matmul__ __rmatmul__ mm mv bmm addmm addbmm baddbmm einsum "
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention",
}
_RAISED = {
    "cuda": "layer_norm group_norm softmax log_softmax softmin cross_entropy nll_loss mse_loss l1_loss "
    "smooth_l1_loss kl_div binary_cross_entropy_with_logits cosine_similarity normalize norm sum prod cumsum "
    "cumprod exp expm1 log log10 log2 log1p pow __pow__ __rpow__ __rtruediv__ __rdiv__ rsqrt reciprocal "
    "softplus tan acos asin cosh sinh erfinv cdist dist renorm",
    "cpu": "nll_loss mse_loss cosine_similarity binary_cross_entropy cdist kl_div",
}


class Kernels(TorchFunctionMode):
    """A mode in which torch computes on ``meta`` as on the device, cuda or cpu, also under CPU autocast."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self._lowered = frozenset(_LOWERED[device_type].split())
        self._raised = frozenset(_RAISED[device_type].split())
        self._casts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # of weights, until autocast ends

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, its inputs cast and its kernel chosen as on the device."""
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if torch.is_autocast_enabled("cpu"):
            if name in self._lowered:
                dtype = torch.get_autocast_dtype("cpu")
                args, options = self._cast(args, dtype), self._cast(options, dtype)
            elif name in self._raised:
                args, options = self._cast(args, torch.float32), self._cast(options, torch.float32)
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **options)
        if func is functional.dropout and self.device_type == "cuda":
            return _drop(*args, **options)
        return func(*args, **options)

    @contextlib.contextmanager
    def active(self) -> Iterator["Kernels"]:
        """Be active inside; the casts of weights are forgotten where autocast itself would forget them."""
        with self, replaced(torch, "clear_autocast_cache", self._casts.clear):
            yield self

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, torch.Tensor):
            return self._cast_tensor(value, dtype)
        if isinstance(value, dict):
            return {key: self._cast(item, dtype) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._cast(one, dtype) for one in value)
        return value

    def _cast_tensor(self, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Cast the tensor as autocast does: weights that are trained once (cached_cast)."""
        if not value.is_floating_point() or value.dtype in (dtype, torch.float64) or not value.is_meta:
            return value
        is_kept = value.is_leaf and value.requires_grad and not torch.is_inference_mode_enabled()
        if dtype == torch.float32 or not is_kept:
            return value.to(dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = (value, value.to(dtype))
        return self._casts[id(value)][1]

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Attend by the device's fused kernel, which never holds the weights of all pairs of tokens."""
        if self.device_type == "cpu":
            if enable_gqa or dropout_p > 0:
                return _attend_plainly(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
            mask = _as_bias(attn_mask, query)
            out, _ = aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale
            )
        elif attn_mask is None and query.dtype in HALVES and query.shape[-1] <= 256:
            out, *_ = aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, False, scale=scale
            )
        elif not enable_gqa:
            mask = _as_bias(attn_mask, query)
            if mask is not None:
                mask = mask.expand(*query.shape[:-1], key.shape[-2])
            needs = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
            out, *_ = aten._scaled_dot_product_efficient_attention(
                query, key, value, mask, needs, dropout_p, is_causal, scale=scale
            )
        else:
            return _attend_plainly(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        return out  # type: ignore[no-any-return]


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Let a library's attribute have another value inside."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def _attend_plainly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> torch.Tensor:
    """Attend where no fused kernel serves; torch does this on ``meta`` by itself."""
    return functional.scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def _as_bias(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """Turn a mask of booleans into what is added to scores, which every call makes anew."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, float("-inf")).to(query.dtype)


def _drop(values: torch.Tensor, p: float = 0.5, training: bool = True, *_: Any, **__: Any) -> torch.Tensor:
    """Drop out with a mask that takes a byte for each value."""
    if not training or p == 0:
        return values
    dropped: torch.Tensor = torch.native_dropout(values, p, True)[0]
    return dropped


def hidden_bytes(func: Any, args: Sequence[Any], device_type: str) -> list[int]:
    """List the bytes of each block that the device's kernel allocates and frees beside what it gives back."""
    measure = _HIDDEN.get((func, device_type))
    return [] if measure is None else measure(*args)


def _hide_flash_backward(_: Any, query: torch.Tensor, key: torch.Tensor, *__: Any) -> list[int]:
    """List queries' gradient in fp32 and a sum for each; that of shared keys and values for every head."""
    rows, heads, length, size = query.shape
    long, wide = -(-length // 128) * 128, -(-size // 32) * 32
    sizes = [4 * rows * heads * long * wide, 4 * rows * heads * long]
    if key.shape[1] != heads:
        sizes += [query.element_size() * rows * heads * key.shape[2] * size] * 2
    return sizes


def _hide_efficient_backward(_: Any, query: torch.Tensor, *__: Any) -> list[int]:
    """List a sum for each query and, where fp32 is not their own type, the gradient of queries in it."""
    sums = 4 * query.shape[:3].numel()
    return [sums, 4 * query.numel()] if query.dtype in HALVES else [sums]


def _hide_batched_product(left: torch.Tensor, right: torch.Tensor) -> list[int]:
    """List copies of what oneDNN does not take as it lies in bf16, like a weight repeated for all rows."""
    return [one.nbytes for one in (left, right) if one.dtype == torch.bfloat16 and not _is_plain(one)]


def _is_plain(matrices: torch.Tensor) -> bool:
    """Return whether they lie one after the other, each by rows or each by columns."""
    _, rows, columns = matrices.shape
    return matrices.stride() in ((rows * columns, columns, 1), (rows * columns, 1, rows))


_HIDDEN: dict[tuple[Any, str], Callable[..., list[int]]] = {
    (aten._scaled_dot_product_flash_attention_backward.default, "cuda"): _hide_flash_backward,
    (aten._scaled_dot_product_efficient_attention_backward.default, "cuda"): _hide_efficient_backward,
    (aten.bmm.default, "cpu"): _hide_batched_product,
}


def _multiply_dequantised(
    values: torch.Tensor,
    _: torch.Tensor,
    shape: Sequence[int],
    *__: Any,
    bias: torch.Tensor | None = None,
    absmax_8bit: torch.Tensor | None = None,
    absmax_offset: torch.Tensor | None = None,
    **___: Any,
) -> torch.Tensor:
    """Multiply with a 4-bit weight, which is made whole in the input's dtype first.

    On CUDA some cards have kernels that need not do so for few tokens; with more than 1536 all do it.
    """
    scales = None
    if absmax_8bit is not None and absmax_offset is not None:
        scales = torch.empty_like(absmax_8bit, dtype=torch.float32) + absmax_offset
    weight = torch.empty(list(shape), dtype=values.dtype, device=values.device).t()
    flat = values.reshape(-1, values.shape[-1])
    product = torch.mm(flat, weight) if bias is None else torch.addmm(bias, flat, weight)
    del scales  # held until here
    return product.view(*values.shape[:-1], shape[0])


# Operations in one that the device computes in several, which take memory of their own.
DECOMPOSED: dict[Any, Callable[..., torch.Tensor]] = {
    torch.ops.bitsandbytes.gemm_4bit.default: _multiply_dequantised,
}
