"""Tree order and spans of a batch, against the plain definitions."""

from __future__ import annotations

import random

import pytest

from dendrite_core.cache.page_table import Span, adjacent_prefixes, shared_prefix, spans, tree_order

Table = list[int]


def random_tables(rng: random.Random, rows: int) -> list[Table]:
    """Tables of one tree: every page has one place in it."""
    fresh = iter(rng.sample(range(10_000), 10_000))
    tables: list[Table] = []
    for _ in range(rows):
        above = rng.choice(tables) if tables and rng.random() < 0.8 else []
        kept = above[: rng.randint(0, len(above))]
        tables.append(kept + [next(fresh) for _ in range(rng.randint(0, 12))])
    return tables


def test_spans_of_a_small_tree() -> None:
    tables = [[1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 6], [9]]
    assert spans(tables) == [
        Span([1, 2], 0, 3),
        Span([3], 0, 1),
        Span([4], 1, 3),
        Span([5], 1, 2),
        Span([6], 2, 3),
        Span([9], 3, 4),
    ]


def test_equal_tables_and_prefixes() -> None:
    assert spans([[1, 2], [1, 2], [1, 2, 3]]) == [Span([1, 2], 0, 3), Span([3], 2, 3)]
    assert spans([[1, 2, 3], [1, 2]]) == [Span([1, 2], 0, 2), Span([3], 0, 1)]


def test_empty_batches_and_tables() -> None:
    assert spans([]) == []
    assert tree_order([]) == []
    assert adjacent_prefixes([]) == []
    assert spans([[], [1], []]) == [Span([1], 1, 2)]


@pytest.mark.parametrize("seed", range(60))
def test_spans_are_the_compressed_trie(seed: int) -> None:
    rng = random.Random(seed)
    tables = random_tables(rng, rng.randint(1, 40))
    order = tree_order(tables)
    assert [tables[row] for row in order] == sorted(tables)
    ordered = [tables[row] for row in order]
    lcp = adjacent_prefixes(ordered)
    found = spans(ordered, lcp)
    assert found == spans(ordered)
    for row, table in enumerate(ordered):
        mine = [span for span in found if span.first_row <= row < span.end_row]
        assert [page for span in mine for page in span.pages] == table
        for span in mine:
            for page in span.pages:
                holders = [other for other, pages in enumerate(ordered) if page in pages]
                assert holders == list(range(span.first_row, span.end_row)), "exactly the rows that share it"
    keys = [(span.first_row, span.end_row) for span in found]
    assert len(keys) == len(set(keys)), "runs are maximal"
    assert len(found) <= 2 * len(ordered)


@pytest.mark.parametrize("seed", range(20))
def test_shared_prefix_is_the_longest(seed: int) -> None:
    rng = random.Random(seed)
    tables = random_tables(rng, 12)
    for a in tables:
        for b in tables:
            length = shared_prefix(a, b)
            assert a[:length] == b[:length]
            assert a[length : length + 1] != b[length : length + 1] or length in (len(a), len(b))
