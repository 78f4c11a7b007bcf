"""What this card can do at best: copy, read, multiply. Every other figure is held against these.

The copy counts bytes read plus bytes written; the read-only sum is a plain Triton kernel over 8 GB; the
product is 8192 x 8192 x 8192 in bfloat16 on random numbers, because zeros run faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.gpu.timing import seconds
from benchmarks.record import emit

_BYTES = 8 << 30
_SIDE = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=12)


def run(args: argparse.Namespace) -> None:
    copied, read = _memory(torch.empty(_BYTES // 4, device="cuda").normal_(), args.repeats)
    a, b = torch.randn(2, _SIDE, _SIDE, device="cuda", dtype=torch.bfloat16)
    multiplied = seconds(lambda: a @ b, args.repeats)
    rows = [
        {"what": "copy, read + written", "rate": _BYTES / copied / 1e12, "unit": "TB/s"},
        {"what": "read only", "rate": _BYTES / read / 1e12, "unit": "TB/s"},
        {"what": "bf16 product", "rate": 2 * _SIDE**3 / multiplied / 1e12, "unit": "TFLOP/s"},
    ]
    emit("ceilings", {"bytes": _BYTES, "side": _SIDE}, rows, save=args.save)


def _memory(source: torch.Tensor, repeats: int) -> tuple[float, float]:
    """Seconds to copy one half of `source`, and to read all of it."""
    half, target = source[: len(source) // 2], torch.empty_like(source[: len(source) // 2])
    return seconds(lambda: target.copy_(half), repeats), seconds(_reader(source), repeats)


def _reader(source: torch.Tensor) -> Callable[[], object]:
    """Reads all of `source`; the sums are checked once against torch's."""
    from benchmarks.gpu.read_kernel import BLOCK, block_sums

    sums = torch.empty(source.numel() // BLOCK, device="cuda")

    def read() -> object:
        return block_sums[(len(sums),)](source, sums, num_warps=8)

    read()
    want = source.view(-1, BLOCK)[::4097].double().sum(1)
    assert torch.allclose(sums[::4097].double(), want, atol=0.1), "the sums are wrong"
    return read
