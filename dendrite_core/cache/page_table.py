"""Page tables of running branches, and what a batch of them shares.

All three functions lean on one fact of the tree: a page has one place in it, so two tables that hold the
same page hold it at the same index and agree on everything before it. Comparing one entry therefore
compares a whole prefix, and the length of a shared prefix is found by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class PageTable:
    """The pages of a running branch from the root, kept current by the cache.

    `pages[i]` holds positions `i * page_size` and on; pages past the branch's KV are reserved room.
    `version` moves whenever an entry that was there is replaced or cut off (a page copied on write, joined
    with an equal one, truncated); it stays while the table only gets longer. `promised` is the position up to
    which this run was last given slots to write; 0 once the branch has moved.
    """

    __slots__ = ("pages", "promised", "version")

    def __init__(self, pages: list[int]) -> None:
        self.pages = pages
        self.promised = 0
        self.version = 0

    def replace(self, first: int, pages: Sequence[int]) -> None:
        """Overwrite the entries from index `first` on, as many as `pages` has."""
        self.pages[first : first + len(pages)] = pages
        self.version += 1

    def rewrite(self, first: int, pages: Sequence[int]) -> None:
        """Let `pages` be everything from index `first` on."""
        self.pages[first:] = pages
        self.version += 1


class Span(NamedTuple):
    """A maximal run of pages that exactly the rows first_row..end_row-1 of a batch share."""

    pages: Sequence[int]
    first_row: int
    end_row: int


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading pages two tables of one cache have in common; O(log pages)."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high) // 2
        if a[middle] == b[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def tree_order(tables: Sequence[Sequence[int]]) -> list[int]:
    """Row numbers in depth-first order of the tree: rows that share a prefix come next to each other.

    Siblings follow each other by page id, and a table that is a prefix of another comes first.
    """
    common = len(tables[0]) if tables else 0
    for table in tables:
        if not _agree(tables[0], table, common):
            common = shared_prefix(tables[0], table)
    # Lists are compared just so, and what all begin with need not be.
    return sorted(range(len(tables)), key=[list(table[common:]) for table in tables].__getitem__)


def adjacent_prefixes(tables: Sequence[Sequence[int]]) -> list[int]:
    """`lcp[i]`: pages that row i shares with row i-1 (0 for the first row), for rows in tree order.

    An entry changes only when one of its two rows is admitted, ends, or gets a new table `version`, so a
    scheduler may keep the list between steps and mend single entries with `shared_prefix`.
    """
    found = [0] if tables else []
    shared = 0
    for left, right in pairwise(tables):
        # Siblings part where the two before them did.
        if not _agree(left, right, shared) or _agree(left, right, shared + 1):
            shared = shared_prefix(left, right)
        found.append(shared)
    return found


def _agree(a: Sequence[int], b: Sequence[int], count: int) -> bool:
    """Whether two tables of one cache both have `count` pages and begin with the same ones."""
    return count == 0 or (len(a) >= count <= len(b) and a[count - 1] == b[count - 1])


def spans(tables: Sequence[Sequence[int]], lcp: Sequence[int] | None = None) -> list[Span]:
    """The compressed trie over tables in tree order: at most two spans a row.

    Every row's pages are the spans that contain it, one after another in the order returned. `lcp` is
    `adjacent_prefixes(tables)` if the caller keeps it.
    """
    lcp = adjacent_prefixes(tables) if lcp is None else lcp
    found: list[tuple[int, int, int, int]] = []
    open_spans: list[tuple[int, int]] = []
    end = 0
    for row, shared in enumerate(lcp):
        _close(found, open_spans, shared, end, row)
        end = len(tables[row])
        if end > shared:
            open_spans.append((shared, row))
    _close(found, open_spans, 0, end, len(tables))
    found.sort()
    return [Span(tables[row][start:end], row, end_row) for row, start, end, end_row in found]


def _close(
    found: list[tuple[int, int, int, int]], open_spans: list[tuple[int, int]], shared: int, end: int, row: int
) -> None:
    """End every open span at `row`, as far as it lies beyond the first `shared` pages."""
    while open_spans and end > shared:
        start, first_row = open_spans[-1]
        found.append((first_row, max(start, shared), end, row))
        if start < shared:
            return
        open_spans.pop()
        end = start
