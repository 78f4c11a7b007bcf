# mypy: disable-error-code="no-untyped-call"
"""Which attention a CUDA device gets: ours or FlashInfer's, by what both cost on three trees at start.

Only what is ready is measured: FlashInfer compiles its kernels at first use, and a start does not wait for
that. `attention_backend` forces one or the other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import spans
from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.cuda.attention_flashinfer import (
    FlashInferAttention,
    is_compiled,
    nothing_compiled,
    unusable,
)
from dendrite_core.forward.cuda.attention_tree import TreeAttention
from dendrite_core.forward.kv_store import KVStore

log = logging.getLogger("dendrite.forward")

Attention = TreeAttention | FlashInferAttention

# (rows, tokens they share, tokens of each): one stream, rows that share nothing, branches of one past.
_TREES = ((1, 0, 2048), (16, 0, 1024), (32, 4096, 128))
_REPEATS = 7


def choose(asked: str, shape: AttentionShape, store: KVStore) -> Attention:
    """`asked` is tree, flashinfer or auto. Raises `ModelLoadError` where flashinfer is asked for in vain."""
    if asked == "flashinfer":
        return FlashInferAttention(shape, store)
    ours = TreeAttention(shape, store)
    if asked == "tree":
        return ours
    if reason := _not_ready(shape, store):
        log.info("attention: tree (%s)", reason)
        return ours
    theirs = FlashInferAttention(shape, store)
    trees = [tree for rows, shared, own in _TREES if (tree := small_tree(store, rows, shared, own))]
    costs = {name: _cost(backend, trees) for name, backend in (("tree", ours), ("flashinfer", theirs))}
    chosen = min(costs, key=lambda name: sum(costs[name]))
    measured = "; ".join(f"{name} {', '.join(f'{ms:.2f}' for ms in each)}" for name, each in costs.items())
    log.info("attention: %s (ms a step on %d trees: %s)", chosen, len(trees), measured)
    return ours if chosen == "tree" else theirs


def _not_ready(shape: AttentionShape, store: KVStore) -> str | None:
    """Why FlashInfer cannot be measured now, or None."""
    if reason := unusable(shape, store.dtype):
        return reason
    try:
        if not nothing_compiled() and is_compiled(shape, store.dtype):
            return None
    except Exception as error:
        # A start that did not ask for it does not fail with it, whatever its installation lacks.
        return f"FlashInfer does not load: {error}"
    return "FlashInfer's kernels are not compiled yet; one start with attention_backend flashinfer does that"


def small_tree(store: KVStore, rows: int, shared: int, own: int) -> Batch | None:
    """A decode step of `rows` branches of one past, or None where the store has too few pages."""
    size = store.page_size
    root, each = shared // size, own // size
    if root + rows * each > store.num_pages:
        return None
    tables: list[Sequence[int]] = [
        [*range(root), *range(root + row * each, root + (row + 1) * each)] for row in range(rows)
    ]
    last = (root + each) * size - 1
    slots = [table[-1] * size + size - 1 for table in tables]
    return Batch(
        [0] * rows, [last] * rows, slots, list(range(rows + 1)), [last + 1] * rows, tables, spans(tables), [],
        list(range(rows)),
    )  # fmt: skip


def _cost(backend: Attention, trees: Sequence[Batch]) -> list[float]:
    """Milliseconds of attention in one step of each tree, all layers."""
    return [_milliseconds(backend, batch) for batch in trees]


@torch.inference_mode()
def _milliseconds(backend: Attention, batch: Batch) -> float:
    """Best wall-clock time of one step's attention, run as the backend is run in decoding.

    Ours replays a graph, and its plan serves until the tree changes; FlashInfer plans every step and is
    launched kernel by kernel.
    """
    shape, device = backend.shape, backend.store.device
    forward = ForwardBatch.build(batch, device)
    q = torch.randn(batch.rows, shape.heads * shape.head_dim, dtype=backend.store.dtype, device=device)

    def layers() -> None:
        for layer in range(len(shape.windows)):
            backend.run_stored(layer, q)

    backend.plan(forward)
    layers()
    step: Callable[[], object]
    if isinstance(backend, TreeAttention):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            layers()
        step = graph.replay
    else:
        step = partial(_planned, backend, forward, layers)
    best = float("inf")
    for _ in range(_REPEATS):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best * 1e3


def _planned(backend: Attention, forward: ForwardBatch, layers: Callable[[], None]) -> None:
    backend.plan(forward)
    layers()
