"""Tree attention on a GPU against dense attention: random forests, decode, prefill and both at once."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import spans
from dendrite_core.forward.attention import AttentionShape, DenseAttention
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.kv_store import KVStore
from tests.forward.forest import Forest

PAGE = 16
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
DEVICE = torch.device("cuda")


def grown(seed: int, rows: int, root: int) -> Forest:
    """A forest whose rows were forked at random points of a few long pasts."""
    forest, rng = Forest(PAGE, 3000, seed, scattered=True), random.Random(seed)
    first = forest.open()
    forest.step({first: root})
    while len(forest.rows) < rows:
        parent = rng.choice(forest.rows) if rng.random() < 0.9 else forest.open()
        child = forest.fork(parent) if parent.length else parent
        forest.step({child: rng.randint(1, 200)})
    return forest


def attended(backend: Any, batch: Batch, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    backend.plan(ForwardBatch.build(batch, DEVICE))
    return backend.attend(0, q, k, v).float()


def compare(
    batch: Batch, shape: AttentionShape, dtype: torch.dtype, canaries: bool = False, poisoned: bool = False
) -> None:
    from dendrite_core.forward.cuda.attention_tree import TreeAttention

    store = KVStore(1, 3000, PAGE, shape.kv_heads, shape.head_dim, dtype, DEVICE, canaries)
    slots = torch.arange(3000 * PAGE, device=DEVICE)
    past = torch.randn(2, len(slots), shape.kv_heads, shape.head_dim, dtype=dtype, device=DEVICE)
    store.write(0, slots, past[0], past[1])
    if poisoned:
        rows = zip(batch.page_tables, batch.kv_lengths, strict=True)
        held = {table[at // PAGE] * PAGE + at % PAGE for table, length in rows for at in range(length)}
        store.data[:, :, [slot for slot in range(3000 * PAGE) if slot not in held]] = float("nan")
    tokens = len(batch.token_ids)
    q = torch.randn(tokens, shape.heads, shape.head_dim, dtype=dtype, device=DEVICE)
    k, v = torch.randn(2, tokens, shape.kv_heads, shape.head_dim, dtype=dtype, device=DEVICE)
    want = attended(DenseAttention(shape, store), batch, q, k, v)
    for _ in range(2):  # A race would move the error from run to run.
        tree = TreeAttention(shape, store)
        wide = tree.wide_kernel
        found = attended(tree, batch, q, k, v)
        assert tree.wide_kernel is wide, "Hopper's wide tiles did not compile"
        error = (found - want).norm(dim=-1) / want.norm(dim=-1)
        assert error.max().item() < TOLERANCE[dtype]
    if canaries:
        store.check_canaries()


SHAPES = {
    "llama": AttentionShape(32, 8, 128, 128**-0.5, [None]),
    "wide group": AttentionShape(28, 4, 128, 128**-0.5, [None]),
    "small heads": AttentionShape(4, 2, 64, 64**-0.5, [None]),
    "odd heads": AttentionShape(6, 2, 24, 24**-0.5, [None]),
    "windowed": AttentionShape(8, 2, 64, 64**-0.5, [100]),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("name", SHAPES)
def test_random_trees_equal_dense_attention(name: str, dtype: torch.dtype) -> None:
    for seed, rows, root in ((0, 1, 700), (1, 7, 300), (2, 40, 1500), (3, 90, 40)):
        forest = grown(seed, rows, root)
        compare(forest.step(dict.fromkeys(forest.rows, 1)), SHAPES[name], dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_prefill_beside_decode_equals_dense_attention(dtype: torch.dtype) -> None:
    forest, rng = grown(5, 12, 400), random.Random(5)
    new = {row: rng.choice([1, 1, 5, 130, 300]) for row in forest.rows}
    compare(forest.step(new), SHAPES["llama"], dtype, canaries=True)


@pytest.mark.parametrize("name", ["llama", "small heads"])
@pytest.mark.parametrize("branches", [10, 64, 100])
def test_a_long_shared_past_goes_through_wide_tiles(name: str, branches: int) -> None:
    forest = Forest(PAGE, 3000, 1, scattered=True)
    root = forest.open()
    forest.step({root: 9000})
    for _ in range(branches - 1):
        forest.step({forest.fork(root): 1 + len(forest.rows)})
    compare(forest.step(dict.fromkeys(forest.rows, 1)), SHAPES[name], torch.bfloat16)


@pytest.mark.parametrize("name", ["llama", "small heads"])
def test_what_no_row_holds_may_be_no_number(name: str) -> None:
    """Pages end with what a sequence before left there, which may have run into NaN."""
    forest = Forest(PAGE, 3000, 1, scattered=True)
    root = forest.open()
    forest.step({root: 5000})
    for _ in range(40):
        forest.step({forest.fork(root): 1 + len(forest.rows)})
    rows = forest.rows[:]
    compare(forest.step(dict.fromkeys(rows, 1)), SHAPES[name], torch.bfloat16, poisoned=True)
    prompts = {row: 1 + 37 * at for at, row in enumerate(rows[:9])}
    compare(forest.step(prompts), SHAPES[name], torch.bfloat16, poisoned=True)


def test_on_a_grid_a_row_does_not_depend_on_its_siblings() -> None:
    from dendrite_core.forward.cuda.attention_tree import TreeAttention

    shape, forest = SHAPES["llama"], grown(7, 20, 900)
    batch = forest.step(dict.fromkeys(forest.rows, 1))
    store = KVStore(1, 3000, PAGE, 8, 128, torch.bfloat16, DEVICE)
    store.data.normal_()
    q = torch.randn(20, 32, 128, dtype=torch.bfloat16, device=DEVICE)
    k, v = torch.randn(2, 20, 8, 128, dtype=torch.bfloat16, device=DEVICE)
    together = attended(TreeAttention(shape, store, grid=256), batch, q, k, v)
    for row in range(20):
        table = [batch.page_tables[row]]
        place, slot, length = batch.positions[row], batch.slots[row], batch.kv_lengths[row]
        one = Batch([0], [place], [slot], [0, 1], [length], table, spans(table), [], [0])
        at = slice(row, row + 1)
        alone = attended(TreeAttention(shape, store, grid=256), one, q[at], k[at], v[at])
        assert torch.equal(alone[0], together[row])
