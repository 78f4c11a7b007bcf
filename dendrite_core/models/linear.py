"""Linear layers, and which kernel computes them for how many rows.

A kernel is a plain function from `[T, in]` to `[T, out]`, made once from a weight in the checkpoint's layout
`[out, in]`. On a CPU no kernel is best everywhere, so `choose` measures them on the model's own weights when
it is loaded: one winner for a single row, which is all reading, and one for several rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dendrite_core.errors import ModelLoadError

Kernel = Callable[[Tensor], Tensor]
MakeKernel = Callable[["Weight"], Kernel]

_SAMPLE_BYTES = 24 << 20
_SAMPLE_ROWS_OF_WEIGHT = 1 << 20
_MANY_ROWS = 16
_CLEARLY_FASTER = 0.9
_DOUBLED_AT_MOST = 4 << 30
_BAG_WIDTHS = (384, 256, 128, 64, 32, 16)
_LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix `[out, in]` and its bias `[out]`."""

    matrix: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """How to make the kernels for one row and for several; `names` are for the start-up line."""

    one: MakeKernel
    many: MakeKernel
    names: tuple[str, str]


def plain(weight: Weight) -> Kernel:
    """torch's own product; the only kernel that runs on every device."""
    matrix, bias = weight.matrix, weight.bias

    def kernel(x: Tensor) -> Tensor:
        return F.linear(x, matrix, bias)

    return kernel


def packed(weight: Weight) -> Kernel:
    """oneDNN over a weight in the blocked layout it prefers for a few dozen rows."""
    matrix = torch.ops.mkldnn._reorder_linear_weight(weight.matrix.contiguous(), _MANY_ROWS)
    bias = weight.bias
    linear = torch.ops.mkldnn._linear_pointwise.default

    def kernel(x: Tensor) -> Tensor:
        product: Tensor = linear(x, matrix, bias, "none", [], "")
        return product

    return kernel


def half(weight: Weight) -> Kernel:
    """FBGEMM over a weight packed as float16; rows and sums stay float32."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise ModelLoadError("dtype float16 needs FBGEMM, which this CPU build of torch does not have")
    if weight.matrix.abs().max() > _LARGEST_HALF:
        raise ModelLoadError("a weight is beyond the range of float16; use float32 or bfloat16")
    pack = torch.ops.quantized.linear_prepack_fp16(weight.matrix.float().contiguous(), weight.bias)
    linear = torch.ops.quantized.linear_dynamic_fp16.default

    def kernel(x: Tensor) -> Tensor:
        product: Tensor = linear(x, pack)
        return product

    return kernel


def bags(weight: Weight) -> Kernel:
    """One row at a time as a weighted sum of table rows, so that the weight is read strictly in order.

    `x @ W.T` is `sum_k x[k] * W[:, k]`, an embedding bag over the columns of W. The columns are cut into
    blocks, one bag each, which threads share. A BLAS reads several distant rows at once for a single row
    of x; where the weights come from memory, reading one stream is up to three times as fast.
    """
    outputs, inputs = weight.matrix.shape
    width = bag_width(outputs)
    if width is None:
        return plain(weight)
    blocks, bias = outputs // width, weight.bias
    table = weight.matrix.view(blocks, width, inputs).transpose(1, 2).contiguous().view(-1, width)
    indices = torch.arange(blocks * inputs, dtype=torch.int32)
    offsets = indices[::inputs].contiguous()
    factors = torch.empty(blocks, inputs, dtype=table.dtype)
    flat, bag = factors.view(-1), torch.embedding_bag

    def kernel(x: Tensor) -> Tensor:
        factors.copy_(x)
        product = bag(table, indices, offsets, False, 0, False, flat)[0].view(1, outputs)
        return product if bias is None else product.add_(bias)

    return kernel


def bag_width(outputs: int) -> int | None:
    """The widest block that divides the outputs and gives every thread one."""
    fitting = [width for width in _BAG_WIDTHS if outputs % width == 0]
    shared = [width for width in fitting if outputs // width >= torch.get_num_threads()]
    return shared[0] if shared else fitting[-1] if fitting else None


def choose(sample: Sequence[Weight], dtype: torch.dtype, device: torch.device, total_bytes: int) -> Choice:
    """The fastest makers for weights like `sample`, by measurement; a second layout only where it fits."""
    if device.type != "cpu":
        return Choice(plain, plain, ("plain", "plain"))
    if dtype is torch.float16:
        return Choice(half, half, ("half", "half"))
    sample = [_first_rows(weight) for weight in sample]
    several = _fastest([packed, plain], sample, _MANY_ROWS)
    doubles = total_bytes <= min(_DOUBLED_AT_MOST, _physical_memory() // 4)
    single = _fastest([several, bags, packed, plain], sample, 1) if doubles else several
    return Choice(single, several, (single.__name__, several.__name__))


def sample_size(bytes_per_layer: int, layers: int) -> int:
    """How many layers to measure on: enough that the weights do not sit in a cache, as in a real step."""
    return max(1, min(layers, -(-_SAMPLE_BYTES // bytes_per_layer)))


def _fastest(makers: Iterable[MakeKernel], sample: Sequence[Weight], rows: int) -> MakeKernel:
    """The first maker, unless a later one is clearly faster: a noisy machine shall not change the choice."""
    best: MakeKernel = plain
    best_time = float("inf")
    for maker in dict.fromkeys(makers):
        try:
            seconds = _seconds(maker, sample, rows)
        except RuntimeError:
            continue  # This build or CPU lacks the kernel.
        if seconds < best_time * _CLEARLY_FASTER:
            best, best_time = maker, seconds
    return best


@torch.inference_mode()
def _seconds(maker: MakeKernel, sample: Sequence[Weight], rows: int) -> float:
    """The best of a few passes over the sample, in this thread's own time: other processes count less."""
    kernels = [maker(weight) for weight in sample]
    inputs = [torch.ones(rows, weight.matrix.shape[1], dtype=weight.matrix.dtype) for weight in sample]
    best = float("inf")
    for _ in range(5):
        started = time.thread_time()
        for kernel, x in zip(kernels, inputs, strict=True):
            kernel(x)
        best = min(best, time.thread_time() - started)
    return best


def _first_rows(weight: Weight) -> Weight:
    """A large matrix cut to a size that can be measured in a moment."""
    kept = max(256, _SAMPLE_ROWS_OF_WEIGHT // weight.matrix.shape[1] // 256 * 256)
    return Weight(weight.matrix[:kept], None if weight.bias is None else weight.bias[:kept])


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
