"""What the four products of a layer cost for few rows, ours against cuBLAS: weights of Llama-3-8B's shapes.

Weights rotate so that none waits in the L2 cache. `TB/s` counts the bytes of the weight. Checked against
float32 first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.timing import graph_micros
from benchmarks.record import emit
from dendrite_core.models.cuda.forward import FewTile, few_product
from dendrite_core.models.linear import Weight

# (name, outputs, inputs, gated)
PRODUCTS = (
    ("qkv", 6144, 4096, False),
    ("out", 4096, 4096, False),
    ("gate-up", 28672, 4096, True),
    ("down", 4096, 14336, False),
)
_BYTES = 600_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 16, 32, 64])


def run(args: argparse.Namespace) -> None:
    rows = [
        measure(name, weights, count, gated)
        for name, outputs, inputs, gated in PRODUCTS
        for weights in [make_weights(outputs, inputs)]
        for count in args.rows
    ]
    emit("products", {"dtype": "bf16"}, rows, save=args.save)


def make_weights(outputs: int, inputs: int) -> list[torch.Tensor]:
    """As many matrices as it takes to be far larger than the L2 cache together."""
    copies = -(-_BYTES // (2 * outputs * inputs))
    return [torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) / 64 for _ in range(copies)]


def measure(name: str, weights: Sequence[torch.Tensor], rows: int, gated: bool) -> dict[str, Any]:
    x = torch.randn(rows, weights[0].shape[1], device="cuda", dtype=torch.bfloat16)
    ours = ours_micros(x, weights, gated, None)
    theirs = graph_micros(lambda i: F.linear(x, weights[i % len(weights)]), 2 * len(weights), 7)
    size = weights[0].numel() * 2 / 1e6
    return {
        "product": name,
        "rows": rows,
        "us": ours,
        "cuBLAS us": theirs,
        "TB/s": size / ours,
        "cuBLAS TB/s": size / theirs,
    }


def ours_micros(x: torch.Tensor, weights: Sequence[torch.Tensor], gated: bool, tile: FewTile | None) -> float:
    """Checked, then timed; with `gated` ours also does what takes cuBLAS a kernel more."""
    found = few_product(x, Weight(weights[0]), gated=gated, tile=tile)
    found = found.sum(0) if found.dim() == 3 else found.float()
    want = x.float() @ weights[0].float().T
    if gated:
        gate, up = want.chunk(2, -1)
        want = F.silu(gate) * up
    error = ((found - want).norm() / want.norm()).item()
    assert error < 1e-2, f"the product is off by {error}"
    made = [Weight(weight) for weight in weights]
    return graph_micros(
        lambda i: few_product(x, made[i % len(made)], gated=gated, tile=tile), 2 * len(made), 7
    )
