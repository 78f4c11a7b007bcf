"""Linear layers, and which kernel computes them for how many rows.

A kernel is a plain function from `[T, in]` to `[T, out]`, made once from a weight in the checkpoint's layout
`[out, in]`. On a CPU no kernel is best everywhere, so `choose` measures them on the model's own weights when
it is loaded: one winner for few rows, where reading the weights is all the work, and one for many.
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
_TURNS = 5
_SECONDS_EACH = 0.05
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
    """How to make the kernels for up to `few_rows` rows and for more."""

    few: MakeKernel
    many: MakeKernel
    few_rows: int = 1

    @property
    def names(self) -> tuple[str, str]:
        """For the start-up line."""
        return self.few.__name__, self.many.__name__


class Plain:
    """torch's own product; the only kernel that runs on every device. Those who fuse it read its weight."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        if x.is_meta:
            # torch imports computer algebra to find this shape.
            return x.new_empty(len(x), len(self.weight.matrix))
        return F.linear(x, self.weight.matrix, self.weight.bias)


def plain(weight: Weight) -> Kernel:
    """torch's own product."""
    return Plain(weight)


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
    """A row as a weighted sum of table rows, so that the weight is read strictly in order.

    `x @ W.T` is `sum_k x[k] * W[:, k]`, an embedding bag over the columns of W. The columns are cut into
    blocks, a bag for each row of x, which threads share. A BLAS reads several distant rows at once for a
    single row of x; where the weights come from memory, reading one stream is up to three times as fast.
    """
    outputs, inputs = weight.matrix.shape
    width = bag_width(outputs)
    if width is None:
        return plain(weight)
    blocks, bias = outputs // width, weight.bias
    table = weight.matrix.view(blocks, width, inputs).transpose(1, 2).contiguous().view(-1, width)
    drawn: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    bag = torch.embedding_bag

    def kernel(x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows not in drawn:
            drawn[rows] = _drawn(blocks, rows, inputs, table.dtype)
        indices, offsets, factors = drawn[rows]
        factors.copy_(x)
        product = bag(table, indices, offsets, False, 0, False, factors.view(-1))[0]
        if rows > 1:
            product = product.view(blocks, rows, width).transpose(0, 1)
        product = product.reshape(rows, outputs)
        return product if bias is None else product.add_(bias)

    return kernel


def _drawn(blocks: int, rows: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What each bag draws: table rows `[blocks * rows * inputs]`, where bags begin, and a place for factors.

    The rows of one block are drawn by all rows of x in turn, while the block is in a cache.
    """
    indices = torch.arange(blocks * inputs, dtype=torch.int32).view(blocks, 1, inputs).expand(-1, rows, -1)
    offsets = torch.arange(blocks * rows, dtype=torch.int32) * inputs
    return indices.reshape(-1), offsets, torch.empty(blocks, rows, inputs, dtype=dtype)


def bag_width(outputs: int) -> int | None:
    """The widest block that divides the outputs and gives every thread one."""
    fitting = [width for width in _BAG_WIDTHS if outputs % width == 0]
    shared = [width for width in fitting if outputs // width >= torch.get_num_threads()]
    return shared[0] if shared else fitting[-1] if fitting else None


def only(dtype: torch.dtype, device: torch.device) -> Choice:
    """The makers that need no measurement, the same at every start."""
    return Choice(half, half) if device.type == "cpu" and dtype is torch.float16 else Choice(plain, plain)


def choose(sample: Sequence[Weight], dtype: torch.dtype, device: torch.device, total_bytes: int) -> Choice:
    """The fastest makers for weights like `sample`, by measurement; a second layout only where it fits."""
    if device.type != "cpu" or dtype is torch.float16:
        return only(dtype, device)
    threads = torch.get_num_threads()
    # One thread ranks the kernels as several do, and does not wait for one that another process holds up.
    torch.set_num_threads(1)
    try:
        return _measured([_first_rows(weight) for weight in sample], total_bytes)
    finally:
        torch.set_num_threads(threads)


def _measured(sample: Sequence[Weight], total_bytes: int) -> Choice:
    many = _fastest([packed, plain], sample, _MANY_ROWS)
    if total_bytes > min(_DOUBLED_AT_MOST, _physical_memory() // 4):
        return Choice(many, many)
    few = _fastest([bags, many, packed, plain], sample, 1)
    # Where the two meet is somewhere in between; past four rows the products for many win everywhere seen.
    still = [rows for rows in (2, 4) if few is not many and _fastest([many, few], sample, rows) is few]
    return Choice(few, many, max(still, default=1))


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
        except (RuntimeError, AttributeError):
            continue  # This build or CPU lacks the kernel.
        if seconds < best_time * _CLEARLY_FASTER:
            best, best_time = maker, seconds
    return best


@torch.inference_mode()
def _seconds(maker: MakeKernel, sample: Sequence[Weight], rows: int) -> float:
    """The best of a few passes over the sample, in this thread's own time: other processes count less."""
    kernels = [maker(weight) for weight in sample]
    inputs = [torch.ones(rows, weight.matrix.shape[1], dtype=weight.matrix.dtype) for weight in sample]
    best, until = float("inf"), time.perf_counter() + _SECONDS_EACH
    for turn in range(_TURNS):
        if turn > 1 and time.perf_counter() > until:
            break
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
