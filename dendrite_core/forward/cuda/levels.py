"""`Level`: a batch's tree as a few partitions of its tokens, the form in which FlashInfer's cascade takes it.

Every level cuts the tokens of the step, in their order, into runs; a run sees all pages listed for it. The
last level has a run for each row and ends with the row's own tokens, so it alone is causal:

    level 0   [ ------------- root ------------- ]      one run, or an empty one where nothing is shared
    level 1   [ --- node a --- ][ ][ -- node b - ]
    level 2   [ row 0 ][ row 1 ][ row 2 ][ row 3 ]      whatever no other level covers

A node becomes a run of its own where that saves reading more bytes than one more level costs; no path has
more of them than there are levels, and the rest of a path is read by its rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dendrite_core.batching.batch import Batch

# One more level is two more launches a layer, about 8 us, in which 24 MB can be read.
LEVEL_COST = 24_000_000


@dataclass(slots=True)
class Level:
    """Runs of tokens and their pages, both as CSR; `last_page[i]` is 0 where run i has no pages."""

    tokens: list[int] = field(default_factory=lambda: [0])
    page_starts: list[int] = field(default_factory=lambda: [0])
    pages: list[int] = field(default_factory=list)
    last_page: list[int] = field(default_factory=list)

    def add(self, end: int, pages: Iterable[int], last_page: int) -> None:
        """A run up to token `end` that sees `pages`, the last of them with `last_page` tokens."""
        self.tokens.append(end)
        self.pages += pages
        self.page_starts.append(len(self.pages))
        self.last_page.append(last_page if self.page_starts[-1] > self.page_starts[-2] else 0)


@dataclass(frozen=True, slots=True)
class _Node:
    pages: list[int]
    first_row: int
    end_row: int

    @property
    def saved(self) -> int:
        """Pages that need not be read again when the node is read once for all of its rows."""
        return (self.end_row - self.first_row - 1) * len(self.pages)


def levels_of(
    batch: Batch, page_size: int, page_bytes: int, most: int, cost: int = LEVEL_COST
) -> list[Level]:
    """The cheapest 1 to `most` levels; a page is `page_bytes` a layer, a level costs like `cost` bytes."""
    shared, tails = _nodes(batch, page_size)
    best: list[_Node] = []
    least = 0
    for depth in range(1, most):
        chosen = _choose(shared, depth, batch.rows)
        balance = depth * cost - sum(node.saved for node in chosen) * page_bytes
        if balance < least:
            best, least = chosen, balance
    return _arranged(batch, page_size, shared, tails, best)


def _nodes(batch: Batch, page_size: int) -> tuple[list[_Node], list[list[int]]]:
    """Nodes that lie before all new tokens of two rows or more, and what remains of each row."""
    depth = [0] * batch.rows
    before = [batch.positions[start] for start in batch.row_starts[:-1]]
    shared: list[_Node] = []
    tails: list[list[int]] = [[] for _ in range(batch.rows)]
    for pages, first, end in batch.spans:
        reach = (depth[first] + len(pages)) * page_size
        depth[first:end] = [depth[first] + len(pages)] * (end - first)
        if end - first > 1 and reach <= min(before[first:end]):
            shared.append(_Node(list(pages), first, end))
        else:
            for row in range(first, end):
                tails[row] += pages
    return shared, tails


def _choose(nodes: list[_Node], depth: int, rows: int) -> list[_Node]:
    """The nodes that save most, at most `depth` of them on any path."""
    used = [0] * rows
    chosen = []
    for node in sorted(nodes, key=lambda node: -node.saved):
        if max(used[node.first_row : node.end_row]) < depth:
            chosen.append(node)
            for row in range(node.first_row, node.end_row):
                used[row] += 1
    return chosen


def _arranged(
    batch: Batch, page_size: int, shared: list[_Node], tails: list[list[int]], chosen: list[_Node]
) -> list[Level]:
    """Levels from the root on: the k-th chosen node of a path is in level k."""
    picked = {id(node) for node in chosen}
    used = [0] * batch.rows
    rows_of: list[list[_Node]] = []
    left: list[list[int]] = [[] for _ in range(batch.rows)]
    for node in shared:
        if id(node) not in picked:
            for row in range(node.first_row, node.end_row):
                left[row] += node.pages
            continue
        at = used[node.first_row]
        used[node.first_row : node.end_row] = [at + 1] * (node.end_row - node.first_row)
        if at == len(rows_of):
            rows_of.append([])
        rows_of[at].append(node)
    levels = [_level(batch, page_size, nodes) for nodes in rows_of]
    own = Level()
    for row, length in enumerate(batch.kv_lengths):
        whole = -(-length // page_size)
        spare = len(batch.page_tables[row]) - whole
        pages = left[row] + tails[row]
        own.add(batch.row_starts[row + 1], pages[: len(pages) - spare], length - (whole - 1) * page_size)
    return [*levels, own]


def _level(batch: Batch, page_size: int, nodes: list[_Node]) -> Level:
    level, row = Level(), 0
    for node in sorted(nodes, key=lambda node: node.first_row):
        if node.first_row > row:
            level.add(batch.row_starts[node.first_row], (), 0)
        level.add(batch.row_starts[node.end_row], node.pages, page_size)
        row = node.end_row
    if row < batch.rows:
        level.add(batch.row_starts[batch.rows], (), 0)
    return level
