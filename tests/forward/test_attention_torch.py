"""Tree attention gives what dense attention gives, over trees, chunks, windows and scattered pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dendrite_core.batching.batch import Batch
from dendrite_core.forward.attention import AttentionBackend, AttentionShape, DenseAttention
from dendrite_core.forward.attention_plan import Costs
from dendrite_core.forward.attention_torch import TreeAttention
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.kv_store import KVStore
from tests.forward.forest import Forest, Row


@pytest.fixture(autouse=True)
def _nothing_is_read_before_it_is_written() -> Iterator[None]:
    """With deterministic algorithms torch fills memory that nobody has written with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


TINY_COSTS = Costs(node=12, waste=40, cells=600)


class Both:
    """The two backends, each over its own store, fed the same random queries, keys and values."""

    def __init__(
        self,
        forest: Forest,
        heads: int = 4,
        kv_heads: int = 2,
        windows: Sequence[int | None] = (None, None),
        dtype: torch.dtype = torch.float32,
        costs: Costs | None = TINY_COSTS,
        copy_bytes: int | None = None,
        canaries: bool = False,
    ) -> None:
        self.shape = AttentionShape(heads, kv_heads, 8, 8**-0.5, tuple(windows))
        pages = len(forest.free)

        def store(canaries: bool) -> KVStore:
            return KVStore(len(windows), pages, forest.page_size, kv_heads, 8, dtype, canaries=canaries)

        self.dense = DenseAttention(self.shape, store(False))
        self.tree = TreeAttention(self.shape, store(canaries), copy_bytes=copy_bytes, costs=costs)
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def check(self, batch: Batch, equal_nan: bool = False) -> None:
        tolerance = 1e-4 if self.dtype is torch.float32 else 2e-2
        forward = ForwardBatch.build(batch, torch.device("cpu"))
        for backend in (self.dense, self.tree):
            backend.store.copy_pages(batch.copies)
            backend.plan(forward)
        for layer in range(len(self.shape.windows)):
            q, k, v = self.draw(forward.tokens)
            wanted = self.dense.attend(layer, q, k, v)
            found = self.tree.attend(layer, q, k, v)
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=equal_nan)

    def draw(self, tokens: int) -> tuple[torch.Tensor, ...]:
        heads = self.shape.heads + 2 * self.shape.kv_heads
        fused = torch.randn(tokens, heads, 8, generator=self.generator).mul_(2).to(self.dtype)
        return fused.split((self.shape.heads, self.shape.kv_heads, self.shape.kv_heads), dim=1)


def decode(forest: Forest, both: Both, steps: int) -> None:
    for _ in range(steps):
        both.check(forest.step(dict.fromkeys(forest.rows, 1)))


def grown(forest: Forest, both: Both, length: int) -> Row:
    row = forest.open()
    both.check(forest.step({row: length}))
    return row


def test_kv_multiblock_003_eighty_tokens_equal_dense_attention() -> None:
    forest = Forest(16, 40)
    both = Both(forest)
    grown(forest, both, 80)
    decode(forest, both, 40)


@pytest.mark.parametrize("page_size", [8, 16, 32])
@pytest.mark.parametrize("scattered", [False, True])
def test_siblings_share_their_past(page_size: int, scattered: bool) -> None:
    forest = Forest(page_size, 120, scattered=scattered)
    both = Both(forest)
    parent = grown(forest, both, 70)
    for _ in range(5):
        forest.fork(parent)
    decode(forest, both, 50)
    for row in forest.rows[2:4]:
        forest.close(row)
        decode(forest, both, 3)


@pytest.mark.parametrize("shape", [(2, 2), (8, 2), (6, 1)])
@pytest.mark.parametrize("costs", [None, TINY_COSTS])
def test_grouped_heads(shape: tuple[int, int], costs: Costs | None) -> None:
    forest = Forest(8, 100)
    both = Both(forest, *shape, costs=costs)
    parent = grown(forest, both, 90)
    forest.fork(forest.fork(parent))
    decode(forest, both, 10)


def test_a_deep_chain_of_forks() -> None:
    forest = Forest(8, 400)
    both = Both(forest)
    row = grown(forest, both, 9)
    for _ in range(20):
        decode(forest, both, 5)
        row = forest.fork(row)
    decode(forest, both, 3)


def test_unrelated_rows_of_unlike_length() -> None:
    forest = Forest(8, 200)
    both = Both(forest)
    for length in (1, 100, 3, 260, 17):
        grown(forest, both, length)
    decode(forest, both, 40)


@pytest.mark.parametrize("windows", [(16, 16), (None, 5), (24, 300)])
def test_sliding_windows(windows: Sequence[int | None]) -> None:
    forest = Forest(8, 200)
    both = Both(forest, windows=windows)
    parent = grown(forest, both, 60)
    forest.fork(parent)
    both.check(forest.step({forest.fork(parent): 20}))
    decode(forest, both, 45)
    grown(forest, both, 3)
    decode(forest, both, 30)


def test_a_single_row_with_a_window() -> None:
    forest = Forest(8, 200)
    both = Both(forest, windows=(16, None))
    grown(forest, both, 10)
    decode(forest, both, 30)


@pytest.mark.parametrize("scattered", [False, True])
def test_chunks_and_single_tokens_in_one_batch(scattered: bool) -> None:
    forest = Forest(8, 200, scattered=scattered)
    both = Both(forest)
    parent = grown(forest, both, 40)
    rows = [parent, *(forest.fork(parent) for _ in range(3)), forest.open()]
    for sizes in ((1, 1, 1, 1, 30), (1, 7, 1, 1, 33), (1, 1, 9, 1, 1), (1, 1, 1, 1, 1), (2, 0, 1, 1, 1)):
        both.check(forest.step(dict(zip(rows, sizes, strict=True))))


@pytest.mark.parametrize("canaries", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_room_for_copies(dtype: torch.dtype, canaries: bool) -> None:
    forest = Forest(8, 200, scattered=True)
    both = Both(forest, copy_bytes=0, dtype=dtype, canaries=canaries)
    parent = grown(forest, both, 60)
    forest.fork(parent)
    forest.fork(parent)
    decode(forest, both, 40)


def test_bfloat16() -> None:
    forest = Forest(16, 60)
    both = Both(forest, dtype=torch.bfloat16)
    parent = grown(forest, both, 50)
    decode(forest, both, 3)
    forest.fork(parent)
    decode(forest, both, 20)
    both.check(forest.step({parent: 9}))


def test_canaries_survive_the_whole_way() -> None:
    forest = Forest(8, 100)
    both = Both(forest, canaries=True, windows=(None, 20))
    parent = grown(forest, both, 30)
    forest.fork(parent)
    decode(forest, both, 20)
    both.check(forest.step({parent: 20}))
    both.tree.store.check_canaries()


@pytest.mark.parametrize("make", [DenseAttention, TreeAttention])
def test_chunked_equals_unchunked(make: Callable[[AttentionShape, KVStore], AttentionBackend]) -> None:
    """The last token's output is the same however its 60 tokens were cut."""
    shape = AttentionShape(4, 2, 8, 0.3, (None,))
    q, k, v = (torch.randn(60, heads, 8) for heads in (4, 2, 2))
    found = []
    for cuts in ([60], [20, 40], [1, 1, 17, 41], [59, 1]):
        forest, at = Forest(8, 20), 0
        backend = make(shape, KVStore(1, 20, 8, 2, 8, torch.float32))
        row = forest.open()
        for size in cuts:
            backend.plan(ForwardBatch.build(forest.step({row: size}), torch.device("cpu")))
            last = backend.attend(0, q[at : at + size], k[at : at + size], v[at : at + size])[-1]
            at += size
        found.append(last)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)


def test_a_page_written_again_is_not_taken_from_a_copy() -> None:
    """Rows come and go over the same pages, so every copy made of them has to be made anew."""
    forest = Forest(8, 30, scattered=True)
    both = Both(forest, costs=Costs(node=40, waste=40, cells=600))
    for _ in range(3):
        parent = grown(forest, both, 41)
        forest.fork(parent)
        decode(forest, both, 6)
        assert both.tree._copies._copies
        for row in list(forest.rows):
            forest.close(row)


def test_a_child_that_steps_into_the_pages_of_a_row_that_left() -> None:
    """Same length, same pages, same number of rows, other content: only the copy tells them apart."""
    forest = Forest(8, 40)
    both = Both(forest)
    parent = grown(forest, both, 16)
    left, stays = forest.fork(parent), forest.fork(parent)
    forest.close(parent)
    decode(forest, both, 3)
    before, pages = forest.topology, list(left.pages)
    forest.close(left)
    child = forest.fork(stays)
    forest.topology = before
    assert child.pages == pages
    decode(forest, both, 2)


def test_a_row_that_was_cut_back() -> None:
    forest = Forest(8, 40)
    both = Both(forest)
    forest.fork(grown(forest, both, 18))
    decode(forest, both, 4)
    forest.rows[1].length -= 3
    decode(forest, both, 2)


def test_rows_that_take_turns() -> None:
    """The second step looks like the first with every row one token longer, but for the pages of one row."""
    forest = Forest(8, 40)
    both = Both(forest)
    parent = grown(forest, both, 16)
    one, other = forest.fork(parent), forest.fork(parent)
    both.check(forest.step({other: 1}))
    both.check(forest.step({parent: 1, one: 1}))
    both.check(forest.step({parent: 1, other: 1}))


@pytest.mark.parametrize("copy_bytes", [None, 0])
def test_what_others_left_in_memory_is_never_seen(copy_bytes: int | None) -> None:
    forest = Forest(8, 60)
    both = Both(forest, copy_bytes=copy_bytes)
    both.tree.store.data.fill_(torch.nan)
    parent = grown(forest, both, 24)
    forest.fork(parent)
    forest.fork(forest.fork(parent))
    decode(forest, both, 3)
    forest.open()
    decode(forest, both, 40)


@pytest.mark.parametrize("copy_bytes", [None, 0])
def test_a_row_of_nans_harms_nobody_who_takes_its_place(copy_bytes: int | None) -> None:
    forest = Forest(8, 60)
    both = Both(forest, copy_bytes=copy_bytes)
    broken = grown(forest, both, 60)
    grown(forest, both, 20)
    forest.open()
    for backend in (both.dense, both.tree):
        for page in broken.pages:
            backend.store.data[:, :, 8 * page : 8 * page + 8] = torch.nan
    for _ in range(3):
        both.check(forest.step(dict.fromkeys(forest.rows, 1)), equal_nan=True)
    forest.close(broken)
    grown(forest, both, 9)
    decode(forest, both, 30)


@pytest.mark.parametrize("windows", [(None, None), (16, None)])
@pytest.mark.parametrize("shared", [0, 40])
def test_rows_that_come_and_go_at_random(shared: int, windows: Sequence[int | None]) -> None:
    """Up to 12 rows, unrelated or of one past, some pausing: every step is right wherever their tails lie."""
    forest = Forest(8, 400, seed=5)
    both = Both(forest, windows=windows)
    chance = forest.random
    parent = grown(forest, both, shared) if shared else None
    for _ in range(80):
        if len(forest.rows) < 12 and chance.random() < 0.5:
            row = forest.fork(parent) if parent else forest.open()
            both.check(forest.step({row: chance.randint(1, 30)}))
        leaving = [row for row in forest.rows if row is not parent and chance.random() < 0.08]
        for row in leaving:
            forest.close(row)
        both.check(
            forest.step({row: 1 for row in forest.rows if chance.random() < 0.95} or {forest.open(): 3})
        )


def test_a_row_that_comes_or_goes_is_all_that_is_copied() -> None:
    forest = Forest(8, 400)
    both = Both(forest, costs=Costs(node=1000, waste=1000, cells=100_000))
    for length in range(30, 42):
        grown(forest, both, length)
    decode(forest, both, 2)
    gathered = both.tree.store.gather = Mock(wraps=both.tree.store.gather)
    decode(forest, both, 2)
    assert not gathered.called

    forest.close(forest.rows[3])
    decode(forest, both, 2)
    (last,) = [len(call.args[0]) for call in gathered.call_args_list]
    assert last == forest.rows[-1].length - 2

    gathered.reset_mock()
    grown(forest, both, 17)
    decode(forest, both, 2)
    assert [len(call.args[0]) for call in gathered.call_args_list] == [17]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_forests(data: st.DataObject) -> None:
    """Open, fork, close, decode and prefill at random; every step equals the reference."""
    page_size = data.draw(st.sampled_from([8, 16]))
    forest = Forest(page_size, 400, data.draw(st.integers(0, 99)), data.draw(st.booleans()))
    windows = data.draw(st.sampled_from([(None, None), (12, None)]))
    both = Both(forest, windows=windows, copy_bytes=data.draw(st.sampled_from([None, 0, 20000])))
    for _ in range(data.draw(st.integers(1, 12))):
        move = data.draw(st.sampled_from(["open", "fork", "close", "decode", "mixed"]))
        rows = forest.rows
        if move == "open" or not rows:
            grown(forest, both, data.draw(st.integers(1, 80)))
        elif move == "fork" and len(rows) < 8:
            forest.fork(data.draw(st.sampled_from(rows)))
        elif move == "close":
            forest.close(data.draw(st.sampled_from(rows)))
        elif move == "mixed":
            new = {row: data.draw(st.sampled_from([0, 1, 1, 1, 5, 20])) for row in rows}
            if any(new.values()):
                both.check(forest.step(new))
        else:
            decode(forest, both, data.draw(st.integers(1, 5)))
