"""What attention of one layer costs over a tree: 32 query heads, 8 K/V heads of 128, bf16, by graph replay.

Layers rotate so that K and V never wait in the L2 cache. Every workload is checked against dense attention.
`TB/s` counts the bytes of unique K and V over the time of work list and merge together.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.gpu.timing import graph_micros
from benchmarks.gpu.trees import PAGE, Level, Tree
from benchmarks.record import emit
from dendrite_core.forward.attention import AttentionShape, DenseAttention
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.cuda.attention_flashinfer import FlashInferAttention, unusable
from dendrite_core.forward.cuda.attention_tree import TreeAttention
from dendrite_core.forward.cuda.choice import Attention
from dendrite_core.forward.kv_store import KVStore

_WORKLOADS: dict[str, list[Level]] = {
    "16 x 8k+128": [(1, 8192), (16, 112)],
    "64 x 8k+128": [(1, 8192), (64, 112)],
    "256 x 8k+128": [(1, 8192), (256, 112)],
    "64 x 32k+128": [(1, 32768), (64, 112)],
    "8k -> 16 x 512 -> 256 x 64": [(1, 8192), (16, 512), (256, 48)],
    "64 x 2k, nothing shared": [(64, 2032)],
    "16 x 8k, nothing shared": [(16, 8176)],
    "1 x 512": [(1, 496)],
    "1 x 4096": [(1, 4080)],
    "1 x 32768": [(1, 32752)],
}
_SHAPE = AttentionShape(32, 8, 128, 128**-0.5, [None] * 16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--replays", type=int, default=9)


def run(args: argparse.Namespace) -> None:
    rows = [_measure(name, levels, args.replays) for name, levels in _WORKLOADS.items()]
    emit("attention", {"heads": 32, "kv_heads": 8, "head_dim": 128, "dtype": "bf16"}, rows, save=args.save)


def _measure(name: str, levels: list[Level], replays: int) -> dict[str, Any]:
    tree = Tree.grow(levels, PAGE)
    size = tree.pages * PAGE * 4096
    layers = max(1, min(16, 400_000_000 // size))
    store = KVStore(layers, tree.pages, PAGE, 8, 128, torch.bfloat16, "cuda")
    for layer in store.layers:
        layer.normal_()
    attention, batch = TreeAttention(_SHAPE, store), tree.step(PAGE - 1, 1)
    forward = ForwardBatch.build(batch, store.device)
    attention.plan(forward)
    q = torch.randn(len(tree.tables), 4096, dtype=torch.bfloat16, device="cuda")
    error = _error(attention, store, forward, q)
    micros = _micros(attention, q, layers, replays)
    return {
        "workload": name,
        "us": micros,
        "unique MB": size / 1e6,
        "TB/s": size / micros / 1e6,
        "relative error": error,
        **_flashinfer(store, forward, q, layers, replays),
    }


def _flashinfer(
    store: KVStore, forward: ForwardBatch, q: torch.Tensor, layers: int, replays: int
) -> dict[str, Any]:
    """The same through FlashInfer where it is installed: rows read one by one, and as its cascade."""
    if unusable(_SHAPE, store.dtype) is not None:
        return {}
    found: dict[str, Any] = {}
    for column, most in (("flat us", 1), ("cascade us", 4)):
        attention = FlashInferAttention(_SHAPE, store, most_levels=most)
        attention.plan(forward)
        _error(attention, store, forward, q)
        found[column] = _micros(attention, q, layers, replays)
        found["levels"] = len(attention.planned[None])
    started = time.perf_counter()
    attention.plan(forward)
    found["cascade plan us"] = (time.perf_counter() - started) * 1e6
    return found


def _micros(attention: Attention, q: torch.Tensor, layers: int, replays: int) -> float:
    return graph_micros(lambda layer: attention.run_stored(layer % layers, q), 2 * layers, replays)


def _error(attention: Attention, store: KVStore, forward: ForwardBatch, q: torch.Tensor) -> float:
    """Against dense attention in float32, for the first, the middle and the last row."""
    dense = DenseAttention(_SHAPE, store)
    dense.plan(forward)
    found, rows, worst = attention.run_stored(0, q).float(), q.shape[0], 0.0
    for row in {0, rows // 2, rows - 1}:
        want = dense._attend_row(0, row, q[row].view(1, 32, 128)).flatten().float()
        worst = max(worst, ((found[row] - want).norm() / want.norm()).item())
    assert worst < 1e-2, f"attention is off by {worst}"
    return worst
