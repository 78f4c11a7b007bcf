"""FlashInfer's attention against dense attention: 1 to 4 levels, empty and ragged ones, prefill, windows."""

from __future__ import annotations

import random

import pytest
import torch

from dendrite_core.batching.batch import Batch
from dendrite_core.forward.attention import AttentionShape, DenseAttention
from dendrite_core.forward.kv_store import KVStore
from tests.forward.forest import Forest
from tests.gpu.test_attention_gpu import DEVICE, PAGE, SHAPES, attended, grown

pytest.importorskip("flashinfer")


def compare(batch: Batch, shape: AttentionShape, most: int, canaries: bool = False) -> int:
    """Attend with at most so many levels and hold it against dense attention; how many there were."""
    from dendrite_core.forward.cuda.attention_flashinfer import FlashInferAttention

    store = KVStore(1, 3000, PAGE, shape.kv_heads, shape.head_dim, torch.bfloat16, DEVICE, canaries)
    slots = torch.arange(3000 * PAGE, device=DEVICE)
    past = torch.randn(2, len(slots), shape.kv_heads, shape.head_dim, dtype=torch.bfloat16, device=DEVICE)
    store.write(0, slots, past[0], past[1])
    tokens = len(batch.token_ids)
    q = torch.randn(tokens, shape.heads, shape.head_dim, dtype=torch.bfloat16, device=DEVICE)
    k, v = torch.randn(2, tokens, shape.kv_heads, shape.head_dim, dtype=torch.bfloat16, device=DEVICE)
    want = attended(DenseAttention(shape, store), batch, q, k, v)
    backend = FlashInferAttention(shape, store, most_levels=most, level_cost=0)
    found = attended(backend, batch, q, k, v)
    error = (found - want).norm(dim=-1) / want.norm(dim=-1)
    assert error.max().item() < 1e-2
    if canaries:
        store.check_canaries()
    return len(backend.planned[shape.windows[0]])


def deep(seed: int, depth: int) -> Forest:
    """Every row is forked from one of the level above, whatever its length; some rows stand alone."""
    forest, rng = Forest(PAGE, 3000, seed, scattered=True), random.Random(seed)
    rows = [forest.open()]
    forest.step({rows[0]: 500})
    for _ in range(depth):
        rows = [forest.fork(row) for row in rows for _ in range(rng.randint(2, 3))]
        forest.step({row: rng.randint(20, 90) for row in rows})
    forest.step({forest.open(): 30})
    return forest


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_levels_equal_dense_attention(most: int) -> None:
    forest = deep(most, 3)
    assert compare(forest.step(dict.fromkeys(forest.rows, 1)), SHAPES["llama"], most, canaries=True) == most


@pytest.mark.parametrize("seed", range(4))
def test_ragged_forests_equal_dense_attention(seed: int) -> None:
    forest = grown(seed, 5 + 20 * seed, 300)
    compare(forest.step(dict.fromkeys(forest.rows, 1)), SHAPES["llama"], 4)


def test_prefill_beside_decode_equals_dense_attention() -> None:
    forest, rng = grown(5, 12, 400), random.Random(5)
    new = {row: rng.choice([1, 1, 5, 130, 300]) for row in forest.rows}
    compare(forest.step(new), SHAPES["llama"], 3)


def test_what_it_cannot_serve_is_said_by_name() -> None:
    from dendrite_core.errors import ModelLoadError
    from dendrite_core.forward.cuda.attention_flashinfer import FlashInferAttention

    shape = SHAPES["odd heads"]
    store = KVStore(1, 4, PAGE, shape.kv_heads, shape.head_dim, torch.bfloat16, DEVICE)
    with pytest.raises(ModelLoadError, match=r"attention_backend flashinfer: .* heads of 24"):
        FlashInferAttention(shape, store)


def test_the_choice_is_measured_and_can_be_forced(caplog: pytest.LogCaptureFixture) -> None:
    from dendrite_core.forward.cuda.choice import choose

    shape = AttentionShape(32, 8, 128, 128**-0.5, [None] * 2)
    store = KVStore(2, 3000, PAGE, 8, 128, torch.bfloat16, DEVICE)
    store.data.normal_()
    assert type(choose("flashinfer", shape, store)).__name__ == "FlashInferAttention"
    assert type(choose("tree", shape, store)).__name__ == "TreeAttention"
    with caplog.at_level("INFO", logger="dendrite.forward"):
        choose("auto", shape, store)
    assert "ms a step on 3 trees" in caplog.text
