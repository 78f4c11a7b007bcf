"""Tree attention's kernels and plans against dense attention: decode, prefill, windows, wide tiles."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import pytest
import torch

from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import spans
from dendrite_core.forward.attention import AttentionShape, DenseAttention
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.cuda.attention_tree import TreeAttention
from dendrite_core.forward.kv_store import KVStore
from dendrite_core.models.cuda.card import Card
from tests.forward.forest import Forest
from tests.interpreted.conftest import FewPrograms

PAGE, PAGES = 8, 400
CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}

SHAPES = {
    "grouped": AttentionShape(4, 2, 32, 32**-0.5, [None]),
    "one group": AttentionShape(6, 1, 16, 16**-0.5, [None]),
    "odd heads": AttentionShape(6, 2, 24, 24**-0.5, [None]),
    "windowed": AttentionShape(4, 2, 32, 32**-0.5, [40]),
}


def grown(seed: int, rows: int, root: int) -> Forest:
    """A forest whose rows were forked at random points of a few pasts."""
    forest, rng = Forest(PAGE, PAGES, seed, scattered=True), random.Random(seed)
    first = forest.open()
    forest.step({first: root})
    while len(forest.rows) < rows:
        parent = rng.choice(forest.rows) if rng.random() < 0.9 else forest.open()
        child = forest.fork(parent) if parent.length else parent
        forest.step({child: rng.randint(1, 30)})
    return forest


def store_of(shape: AttentionShape, dtype: torch.dtype, canaries: bool = False) -> KVStore:
    """A store full of random numbers, which a wrong mask or place would let in."""
    store = KVStore(1, PAGES, PAGE, shape.kv_heads, shape.head_dim, dtype, CPU, canaries)
    slots = torch.arange(PAGES * PAGE)
    past = torch.randn(2, len(slots), shape.kv_heads, shape.head_dim).to(dtype)
    store.write(0, slots, past[0], past[1])
    return store


def inputs(shape: AttentionShape, tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    q = torch.randn(tokens, shape.heads, shape.head_dim).to(dtype)
    k, v = torch.randn(2, tokens, shape.kv_heads, shape.head_dim).to(dtype)
    return q, k, v


def compare(batch: Batch, shape: AttentionShape, dtype: torch.dtype, canaries: bool = False) -> FewPrograms:
    store = store_of(shape, dtype, canaries)
    given, forward = inputs(shape, len(batch.token_ids), dtype), ForwardBatch.build(batch, CPU)
    results = []
    dense, tree = DenseAttention(shape, store), FewPrograms(shape, store)
    for attention in (dense, tree):
        attention.plan(forward)
        results.append(attention.attend(0, *given).float())
    want, found = results
    error = (found - want).norm(dim=-1) / want.norm(dim=-1)
    assert error.max().item() < TOLERANCE[dtype]
    if canaries:
        store.check_canaries()
    return tree


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_random_trees_equal_dense_attention(name: str, dtype: torch.dtype) -> None:
    forest = grown(2, 9, 100)
    compare(forest.step(dict.fromkeys(forest.rows, 1)), SHAPES[name], dtype)


@pytest.mark.parametrize("name", ["grouped", "windowed"])
def test_prefill_beside_decode_equals_dense_attention(name: str) -> None:
    forest, rng = grown(5, 7, 60), random.Random(5)
    new = {row: rng.choice([1, 1, 5, 40]) for row in forest.rows}
    compare(forest.step(new), SHAPES[name], torch.float32, canaries=True)


def test_what_many_rows_share_goes_through_wide_tiles() -> None:
    forest = Forest(PAGE, PAGES, 1, scattered=True)
    root = forest.open()
    forest.step({root: 700})
    for _ in range(79):
        forest.fork(root)
    forest.rows = forest.rows[1:]
    tree = compare(forest.step(dict.fromkeys(forest.rows, 1)), SHAPES["one group"], torch.float32)
    assert tree.step is not None
    assert tree.step.plan.has_wide


@pytest.mark.parametrize(
    ("shared", "head_dim", "dtype", "wide"),
    [
        (232_448, 128, torch.float16, 3),
        (232_448, 256, torch.float16, 2),
        (232_448, 256, torch.float32, 2),
        (101_376, 128, torch.float16, 2),
        (101_376, 256, torch.float16, 0),
    ],
)
def test_tiles_fit_into_the_shared_memory_of_the_card(
    shared: int, head_dim: int, dtype: torch.dtype, wide: int
) -> None:
    """For Hopper 128 rows compile to 131,072 bytes with heads of 128, to 262,144 with heads of 256."""
    shape = AttentionShape(8, 2, head_dim, 1.0, [None])
    tree = TreeAttention(shape, KVStore(1, 2, PAGE, 2, head_dim, dtype))
    tree.card = Card(early=False, wgmma=False, shared=shared)
    rows, tokens, most = (128, 64, 3) if dtype == torch.float16 else (64, 32, 2)
    assert tree._stages(rows, tokens, most) == wide
    assert bool(tree.tiles(64).wide) == bool(wide)


def test_where_hoppers_wide_tiles_do_not_compile_plain_ones_attend(caplog: pytest.LogCaptureFixture) -> None:
    from triton.compiler import CompilationError

    class Refused:
        """A kernel of a Triton that has renamed what it calls."""

        attend_wide: ClassVar[Any] = {}

        @staticmethod
        def sizes(_: int) -> tuple[int, int, int]:
            return 64, 32, 2

    class Launch:
        def __call__(self, *_: object, **__: object) -> None:
            raise CompilationError("", None, "no such builtin")

    shape, forest = SHAPES["one group"], Forest(PAGE, PAGES, 1, scattered=True)
    root = forest.open()
    forest.step({root: 700})
    for _ in range(79):
        forest.fork(root)
    batch, store = forest.step(dict.fromkeys(forest.rows, 1)), store_of(shape, torch.float32)
    Refused.attend_wide[(132,)] = Launch()
    tree, given = FewPrograms(shape, store), inputs(shape, 80, torch.float32)
    results = []
    for kernel in (None, Refused):
        tree.wide_kernel, tree.described = kernel, [None]
        tree.plan(ForwardBatch.build(batch, CPU))
        results.append(tree.attend(0, *given))
    assert torch.equal(*results)
    assert tree.wide_kernel is None
    assert "plain wide tiles" in caplog.text


def test_a_token_below_slot_zero_attends_and_is_stored_nowhere() -> None:
    """As the deterministic mode fills its blocks up: the last token again, which writes nothing."""
    shape, forest = SHAPES["grouped"], grown(4, 3, 50)
    batch = forest.step(dict.fromkeys(forest.rows, 1))
    store = store_of(shape, torch.float32)
    q, k, v = inputs(shape, 3, torch.float32)
    tree = FewPrograms(shape, store, grid=32)
    tree.plan(ForwardBatch.build(batch, CPU))
    want, stored = tree.attend(0, q, k, v), store.data.clone()
    again = [0, 1, 2, 2, 2]
    tables = [batch.page_tables[row] for row in again]
    filled = Batch(
        [0] * 5, [batch.positions[row] for row in again], [*batch.slots, -1, -1], list(range(6)),
        [batch.kv_lengths[row] for row in again], tables, spans(tables), [], [],
    )  # fmt: skip
    tree.plan(ForwardBatch.build(filled, CPU))
    found = tree.attend(0, q[again], k[again], v[again])
    assert torch.equal(found, want[again])
    assert torch.equal(store.data, stored)


@pytest.mark.parametrize("name", ["grouped", "windowed"])
def test_on_a_grid_a_row_does_not_depend_on_its_siblings(name: str) -> None:
    shape, forest = SHAPES[name], grown(7, 12, 150)
    batch = forest.step(dict.fromkeys(forest.rows, 1))
    store = store_of(shape, torch.float32)
    q, k, v = inputs(shape, 12, torch.float32)

    def attended(some: Batch, at: slice) -> torch.Tensor:
        tree = FewPrograms(shape, store, grid=64)
        tree.plan(ForwardBatch.build(some, CPU))
        return tree.attend(0, q[at], k[at], v[at])

    together = attended(batch, slice(None))
    for row in range(12):
        table = [batch.page_tables[row]]
        place, slot, length = batch.positions[row], batch.slots[row], batch.kv_lengths[row]
        one = Batch([0], [place], [slot], [0, 1], [length], table, spans(table), [], [0])
        assert torch.equal(attended(one, slice(row, row + 1))[0], together[row])
