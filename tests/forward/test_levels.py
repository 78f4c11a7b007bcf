"""Cascade levels, checked without a GPU: every token meets what it may see exactly once, at any depth."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from dendrite_core.batching.batch import Batch
from dendrite_core.forward.cuda.levels import Level, levels_of
from tests.forward.forest import Forest
from tests.forward.test_work_list import PAGE, expected, forest


def met(levels: list[Level], batch: Batch) -> Counter[tuple[int, int]]:
    """(query, slot) of everything that the runs of all levels see."""
    seen: Counter[tuple[int, int]] = Counter()
    for level in levels:
        assert level.tokens[-1] == len(batch.token_ids), "every level cuts all tokens"
        for run, (first, end) in enumerate(itertools.pairwise(level.tokens)):
            pages = level.pages[level.page_starts[run] : level.page_starts[run + 1]]
            slots = [page * PAGE + offset for page in pages for offset in range(PAGE)]
            if pages:
                slots = slots[: len(slots) - PAGE + level.last_page[run]]
            for query in range(first, end):
                hidden = end - 1 - query if level is levels[-1] else 0
                seen.update((query, slot) for slot in slots[: len(slots) - hidden])
    return seen


def slots_of(batch: Batch) -> Counter[tuple[int, int]]:
    return Counter((query, page * PAGE + token % PAGE) for query, token, page in expected(batch).elements())


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_every_token_is_met_once(seed: int, most: int) -> None:
    grown, rng = forest(seed), random.Random(seed)
    for new in (dict.fromkeys(grown.rows, 1), {row: rng.randint(1, 9) for row in grown.rows}):
        batch = grown.step(new)
        levels = levels_of(batch, PAGE, page_bytes=100, most=most, cost=0)
        assert 1 <= len(levels) <= most
        assert met(levels, batch) == slots_of(batch)


def family(root: int, children: int, grandchildren: int, own: int) -> Forest:
    """root -> children -> grandchildren, each node of `own` pages and a token."""
    grown = Forest(PAGE, 4000)
    first = grown.open()
    grown.step({first: root * PAGE})
    middle = [grown.fork(first) for _ in range(children)]
    grown.step(dict.fromkeys(middle, own * PAGE))
    leaves = [grown.fork(node) for node in middle for _ in range(grandchildren)]
    for row in [first, *middle]:
        grown.close(row)
    grown.step(dict.fromkeys(leaves, own * PAGE))
    return grown


def test_a_level_is_added_where_it_saves_more_than_it_costs() -> None:
    grown = family(root=40, children=4, grandchildren=4, own=3)
    batch = grown.step(dict.fromkeys(grown.rows, 1))
    saved_by_root, saved_by_middle = 15 * 40, 4 * 3 * 3
    for cost, depth in ((saved_by_root, 1), (saved_by_middle + 1, 2), (saved_by_middle - 1, 3), (0, 3)):
        levels = levels_of(batch, PAGE, page_bytes=1, most=4, cost=cost)
        assert len(levels) == depth
        assert met(levels, batch) == slots_of(batch)


def test_a_row_that_shares_nothing_is_an_empty_run() -> None:
    grown = family(root=10, children=2, grandchildren=3, own=2)
    alone = grown.open()
    grown.step({alone: 5})
    batch = grown.step(dict.fromkeys(grown.rows, 1))
    root, *_ = levels = levels_of(batch, PAGE, page_bytes=1, most=4, cost=0)
    assert sorted(root.last_page) == [0, PAGE]
    assert met(levels, batch) == slots_of(batch)
