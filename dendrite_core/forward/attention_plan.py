"""How the decode rows of a batch are cut up for attention, as plain ints.

A *node* is KV that one matrix product reads for several rows (or a long run of one row); what no node
covers is a row's *tail*, held side by side with all other tails in a padded copy that grows with the rows.
A *block* is a range of rows computed together: nodes nest like the tree, so every row has a fixed column
range for each of its nodes, and siblings use the same columns.

    columns of a block:   | node of rows 0-3        | tails, left-aligned  ->|
                          |            | node 0-1   | [tail of row 0]        |
                          |            | node 2-3 | | [tail of row 3 ...]    |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dendrite_core.cache.page_table import Span


class Piece(NamedTuple):
    """Tokens at consecutive slots, of consecutive positions."""

    slot: int
    tokens: int
    position: int


@dataclass(slots=True)
class NodePlan:
    """KV attended by rows first_row..end_row-1, at columns `column` and on. One piece can be a view."""

    first_row: int
    end_row: int
    pieces: list[Piece]
    column: int = 0

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)


@dataclass(slots=True)
class BlockPlan:
    """Rows first_row..end_row-1: their nodes, and the pieces of each row's tail."""

    first_row: int
    end_row: int
    nodes: list[NodePlan] = field(default_factory=list)
    tails: list[list[Piece]] = field(default_factory=list)

    @property
    def node_columns(self) -> int:
        return max((node.column + node.tokens for node in self.nodes), default=0)

    @property
    def tail_columns(self) -> int:
        return max((sum(piece.tokens for piece in tail) for tail in self.tails), default=0)


@dataclass(frozen=True, slots=True)
class Costs:
    """What decides the cut; all in tokens x rows.

    node: what is worth a product of its own. waste: the padding that is worth another block. cells: the
    most scores one block may have.
    """

    node: int
    waste: int
    cells: int


class DecodeRows(NamedTuple):
    """The rows of a batch that bring one token: their numbers in it, KV stored before this step, spans."""

    rows: list[int]
    stored: list[int]
    spans: list[Span]


def decode_rows(row_starts: Sequence[int], kv_lengths: Sequence[int], spans: Sequence[Span]) -> DecodeRows:
    """Leave out the rows that bring more than one token, and number the others anew in the spans."""
    rows = [row for row in range(len(kv_lengths)) if row_starts[row + 1] - row_starts[row] == 1]
    stored = [kv_lengths[row] - 1 for row in rows]
    if len(rows) == len(kv_lengths):
        return DecodeRows(rows, stored, list(spans))
    before, kept = [0], set(rows)
    for row in range(len(kv_lengths)):
        before.append(before[-1] + (row in kept))
    moved = [Span(span.pages, before[span.first_row], before[span.end_row]) for span in spans]
    return DecodeRows(rows, stored, [span for span in moved if span.first_row < span.end_row])


def pieces_of(pages: Sequence[int], position: int, begin: int, end: int, page_size: int) -> list[Piece]:
    """The tokens at positions begin..end-1 as runs; `pages` hold the positions from `position` on."""
    found: list[Piece] = []
    if begin >= end:
        return found
    first, last = (begin - position) // page_size, (end - 1 - position) // page_size
    start = first
    for index in range(first, last + 1):
        if index == last or pages[index + 1] != pages[index] + 1:
            low = max(begin, position + start * page_size)
            high = min(end, position + (index + 1) * page_size)
            slot = pages[start] * page_size + low - position - start * page_size
            found.append(Piece(slot, high - low, low))
            start = index + 1
    return found


def plan_blocks(decode: DecodeRows, page_size: int, window: int | None, costs: Costs) -> list[BlockPlan]:
    """Cut the rows into nodes and tails, then into blocks of rows that go well together."""
    nodes, tails = _cut(decode, page_size, window, costs)
    widths = [0] * len(tails)
    for node in nodes:
        node.column = widths[node.first_row]
        for row in range(node.first_row, node.end_row):
            widths[row] += node.tokens
    blocks = []
    for first, end in _ranges(nodes, widths, costs):
        block = BlockPlan(first, end, tails=tails[first:end])
        for node in nodes:
            low, high = max(node.first_row, first), min(node.end_row, end)
            if low < high:
                block.nodes.append(NodePlan(low - first, high - first, node.pieces, node.column))
        blocks.append(block)
    return blocks


def _cut(
    decode: DecodeRows, page_size: int, window: int | None, costs: Costs
) -> tuple[list[NodePlan], list[list[Piece]]]:
    """Nodes in tree order, and the rest of each row as its tail."""
    nodes: list[NodePlan] = []
    tails: list[list[Piece]] = [[] for _ in decode.rows]
    depth = [0] * len(decode.rows)
    for span in decode.spans:
        rows = range(span.first_row, span.end_row)
        position = depth[span.first_row]
        stop = position + len(span.pages) * page_size
        end = min(stop, min(decode.stored[row] for row in rows))
        seen_from = min(decode.stored[row] + 1 for row in rows) - window if window else 0
        shared, rest = _worthwhile(
            pieces_of(span.pages, position, max(position, seen_from), end, page_size), len(rows), costs.node
        )
        nodes += [NodePlan(span.first_row, span.end_row, group) for group in shared]
        for row in rows:
            depth[row] = stop
            begin = max(position, end, decode.stored[row] + 1 - window if window else 0)
            tails[row] += rest
            if begin < min(stop, decode.stored[row]):
                tails[row] += pieces_of(span.pages, position, begin, min(stop, decode.stored[row]), page_size)
    return nodes, tails


def _worthwhile(pieces: list[Piece], rows: int, least: int) -> tuple[list[list[Piece]], list[Piece]]:
    """Long runs as nodes of their own, short runs together as one gathered node, or left to the tails."""
    long = [[piece] for piece in pieces if piece.tokens * rows >= least]
    short = [piece for piece in pieces if piece.tokens * rows < least]
    if rows > 1 and sum(piece.tokens for piece in short) * rows >= least:
        return [*long, short], []
    return long, short


def _ranges(nodes: Iterable[NodePlan], widths: Sequence[int], costs: Costs) -> list[tuple[int, int]]:
    """Row ranges of the blocks: trees that stand next to each other share one unless padding costs more."""
    ranges: list[tuple[int, int]] = []
    widest, used = 0, 0
    for first, end in _trees(nodes, len(widths)):
        width = max(widths[first:end])
        cells = width * (end - first)
        if ranges:
            begin = ranges[-1][0]
            together = max(widest, width) * (end - begin)
            if together - used - cells <= costs.waste and together <= costs.cells:
                ranges[-1] = (begin, end)
                widest, used = max(widest, width), used + cells
                continue
        most = max(1, costs.cells // max(width, 1))
        ranges += [(row, min(row + most, end)) for row in range(first, end, most)]
        widest, used = width, width * (ranges[-1][1] - ranges[-1][0])
    return ranges


def _trees(nodes: Iterable[NodePlan], rows: int) -> list[tuple[int, int]]:
    """Maximal row ranges that a node holds together; rows in no node stand alone."""
    ends = list(range(1, rows + 1))
    for node in nodes:
        ends[node.first_row] = max(ends[node.first_row], node.end_row)
    found, row = [], 0
    while row < rows:
        found.append((row, ends[row]))
        row = ends[row]
    return found
