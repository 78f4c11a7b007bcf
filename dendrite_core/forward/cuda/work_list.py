"""`WorkList`: what the tree-attention kernels do in one step, planned from a `Batch` with numpy.

    narrow, wide  int32 [n, 8]   first page | begin | end | first slot | queries | first query | reads | -
    query_slots   int32 [m]      for each query of an item where its partial result goes, -1 = straight out
    pages         int32 [p]      token t of an item lies in page pages[first page + t // page_size]
    slot_starts   int32 [T + 1]  partial results of a query, in the order of their tokens

Items come in two classes: `narrow` tiles of few rows for what few queries see, and `wide` ones. Heads that
share a K/V head are rows of one tile. An item's queries are tokens of the step, one after another; it
reads `reads` tokens of K and V from `begin`, and one more for every step that rows grow, up to `end`, which
is open for the last item of a row: so the list stays valid while rows grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import Span, adjacent_prefixes, spans

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Flags = NDArray[np.bool_]

OPEN = 2**31 - 1
ITEM = 8
_COLUMNS = (0, 1, 2, 4, 5, 6)
# What an item costs before its first step, in steps.
_ITEM_COST = 4
_ROUNDS = (1, 2, 3, 4, 6)


@dataclass(frozen=True, slots=True)
class Tiles:
    """What the planner has to know of the kernels.

    narrow, wide: rows of a tile; wide may be 0. tokens, wide_tokens: K/V tokens they step by. programs: how
    many run at once, narrow and wide. longest: when programs get more tokens than this, it is counted how
    items fall into rounds. worth_wide: when narrow tiles would read fewer tokens than this for what many
    share, wide ones do not earn their launch. grid: cut KV at multiples of this many tokens and nowhere
    else, so that a row's result does not depend on its neighbours; None cuts where nodes end and as the load
    asks.
    """

    group: int
    kv_heads: int
    page_size: int
    narrow: int = 16
    wide: int = 128
    tokens: int = 64
    wide_tokens: int = 64
    programs: int = 528
    wide_programs: int = 132
    longest: int = 1024
    worth_wide: int = 20000
    grid: int | None = None

    def per_tile(self, rows: int) -> int:
        """Queries whose heads fit into a tile of so many rows."""
        return max(1, rows // self.group)


@dataclass(frozen=True, slots=True)
class WorkList:
    """The plan of a step as arrays; see the top of this file.

    tail_pages[r]: token t of row r, from its last span on, lies in `pages[tail_pages[r] + t // page_size]`.
    room[r]: how many tokens row r may have before the plan has to be made anew.
    """

    narrow: Ints
    wide: Ints
    query_slots: Ints
    pages: Ints
    slot_starts: Ints
    tail_pages: Ints
    room: Ints

    @property
    def slots(self) -> int:
        """How many partial results there are, for all heads each."""
        return int(self.slot_starts[-1])


class _Nodes(NamedTuple):
    """The spans as arrays: where pages[] holds them, their tokens [start, end), queries [first, last).

    `reach` is the end as of now, `end` is OPEN where a row may still grow.
    """

    origin: Longs
    start: Longs
    reach: Longs
    end: Longs
    first: Longs
    last: Longs


def plan(batch: Batch, tiles: Tiles, spare: int = 0) -> WorkList:
    """The work list of a batch; `spare` is how many pages each row may grow by before the next plan."""
    found = batch.spans if tiles.grid is None else _on_grid(batch, tiles.grid // tiles.page_size)
    nodes, pages, tails, room = _lay_out(batch, found, tiles.page_size, spare)
    items, narrow = _cut(nodes, _widely_shared(nodes, tiles), np.array(batch.positions, np.int64), tiles)
    slots, starts = _connect(items, len(batch.positions))
    as_int = np.int32
    both = items.astype(as_int)
    return WorkList(
        both[:narrow],
        both[narrow:],
        slots.astype(as_int),
        pages,
        starts.astype(as_int),
        nodes.origin[tails].astype(as_int),
        room.astype(as_int),
    )


def _on_grid(batch: Batch, cell: int) -> list[Span]:
    """Spans that begin at multiples of `cell` pages: a cell that is shared in part counts as not shared."""
    shared = [pages // cell * cell for pages in adjacent_prefixes(batch.page_tables)]
    return spans(batch.page_tables, shared)


def _lay_out(
    batch: Batch, found: Sequence[Span], page_size: int, spare: int
) -> tuple[_Nodes, Ints, list[int], Longs]:
    """Nodes, the pages of all of them one after another, the last node of each row, and the row's room.

    The origin of a node is where its pages would start if it held its whole past. A node that is the last
    of all of its rows is open, and followed by `spare` empty entries.
    """
    depth, tails = [0] * batch.rows, [0] * batch.rows
    flat: list[int] = []
    rows: list[tuple[int, int, int, int, int, bool]] = []
    last = len(found) - 1
    for index, (held, first_row, end_row) in enumerate(found):
        start, count = depth[first_row], len(held)
        depth[first_row:end_row] = [start + count] * (end_row - first_row)
        tails[first_row:end_row] = [index] * (end_row - first_row)
        # What is below a node follows it at once.
        opens = index == last or found[index + 1].first_row >= end_row
        rows.append((len(flat) - start, start, start + count, first_row, end_row, opens))
        flat += held
        if opens:
            flat += [0] * spare
    origin, starts, ends, first_rows, end_rows, opened = np.array(rows, np.int64).T
    starts, ends = starts * page_size, ends * page_size
    row_starts = np.array(batch.row_starts, np.int64)
    length = np.array(batch.kv_lengths, np.int64)[first_rows]
    # A row's last node also ends where the row does.
    single = (opened == 1) & (end_rows - first_rows == 1)
    nodes = _Nodes(
        origin,
        starts,
        np.where(single, np.minimum(ends, length), ends),
        np.where(opened, OPEN, ends),
        row_starts[first_rows],
        row_starts[end_rows],
    )
    room: Longs = (ends + opened * (spare * page_size))[tails]
    return nodes, np.array(flat, np.int32), tails, room


def _widely_shared(nodes: _Nodes, tiles: Tiles) -> Flags:
    """Which nodes so many queries see that wide tiles read enough fewer tokens."""
    sharing = nodes.last - nodes.first
    is_wide: Flags = sharing > tiles.per_tile(tiles.narrow)
    again = (-(-sharing // tiles.per_tile(tiles.narrow)) * (nodes.reach - nodes.start))[is_wide].sum()
    if not tiles.wide or again < tiles.worth_wide:
        is_wide[:] = False
    return is_wide


def _cut(nodes: _Nodes, is_wide: Flags, positions: Longs, tiles: Tiles) -> tuple[Longs, int]:
    """Items `[n, 8]` of all nodes, and how many are narrow: those come first, of each class the most
    expensive. Column 3, the first slot, is left for later.
    """
    per_tile = np.where(is_wide, tiles.per_tile(tiles.wide), tiles.per_tile(tiles.narrow))
    length = np.maximum(nodes.reach - nodes.start, 1)
    blocks = -(-(nodes.last - nodes.first) // per_tile)
    step = np.empty_like(length)
    for kind, rows in ((~is_wide, tiles.narrow), (is_wide, tiles.wide)):
        if kind.any():
            step[kind] = _chunk(length[kind], blocks[kind], tiles, rows)
    cuts = -(-length // step)
    counts = blocks * cuts
    node = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(node)) - (np.cumsum(counts) - counts)[node]
    block, cut = np.divmod(number, cuts[node])
    per_tile, step = per_tile[node], step[node]
    first = nodes.first[node] + block * per_tile
    count = np.minimum(per_tile, nodes.last[node] - first)
    begin = nodes.start[node] + cut * step
    until = begin + step
    is_last = cut == cuts[node] - 1
    reads = np.where(is_last, nodes.reach[node], until)
    reads = np.minimum(reads, positions[first + count - 1] + 1) - begin
    items = np.zeros((len(node), ITEM), np.int64)
    end = np.where(is_last, nodes.end[node], until)
    for column, values in zip(_COLUMNS, (nodes.origin[node], begin, end, count, first, reads), strict=True):
        items[:, column] = values
    wide = is_wide[node]
    order = np.argsort(np.where(wide, OPEN, 0) - reads, kind="stable")
    # A query that comes before an item's first token needs nothing of it.
    order = order[((reads > 0) | (cut == 0))[order]]
    return items[order], len(order) - int(wide[order].sum())


def _chunk(length: Longs, blocks: Longs, tiles: Tiles, rows: int) -> Longs:
    """Tokens of one item for each node, a multiple of the tile's step."""
    if tiles.grid is not None:
        return np.full(len(length), tiles.grid, np.int64)
    load = int((length * blocks).sum()) * tiles.kv_heads
    wide = rows == tiles.wide
    programs, step = (tiles.wide_programs, tiles.wide_tokens) if wide else (tiles.programs, tiles.tokens)
    if not wide and load <= programs * tiles.longest:
        # Half of the programs are enough for what two steps are.
        share = max(-(-load // programs), min(-(-2 * load // programs), 2 * step), step)
        return _even(length, -(-length // share), step)
    # Few large items: how they fall into rounds matters more than their size.
    best, cuts = float("inf"), np.ones_like(length)
    shares = (max(int(load / (programs * rounds)), 4 * tiles.tokens) for rounds in _ROUNDS)
    for share in dict.fromkeys(shares):
        tried = np.maximum((length + share // 8) // share, 1)
        chunk = _even(length, tried, step)
        price, items = chunk + _ITEM_COST * tiles.tokens, blocks * tried * tiles.kv_heads
        # Wide items are bound by their multiprocessor, narrow ones by memory: half of them are as fast.
        cost = _rounds(price, items, programs, programs if wide else programs // 2)
        if cost < best * 0.97:
            best, cuts = cost, tried
    return _even(length, cuts, step)


def _even(length: Longs, cuts: Longs, step: int) -> Longs:
    """Tokens of each of so many cuts, in whole steps."""
    tokens: Longs = -(-length // (cuts * step)) * step
    return tokens


def _rounds(price: Longs, items: Longs, programs: int, least: int) -> float:
    """How long items take, dealt out in turn, the dearest first; fewer than `least` at once are no faster."""
    order = np.argsort(-price)
    dealt = np.repeat(price[order], items[order])
    at_once = np.minimum(len(dealt) - np.arange(0, len(dealt), programs), programs)
    return float((dealt[::programs] * np.maximum(at_once, least)).sum()) / programs


def _connect(items: Longs, tokens: int) -> tuple[Longs, Longs]:
    """Slots of the queries of all items, and where each query's slots start; fills in column 3."""
    counts = items[:, 4]
    items[:, 3] = np.cumsum(counts) - counts
    item = np.repeat(np.arange(len(items)), counts)
    query = items[item, 5] + np.arange(len(item)) - items[item, 3]
    order = np.lexsort((items[item, 1], query))
    found = np.bincount(query, minlength=tokens)
    # What sees one item only needs no merging.
    kept = np.where(found == 1, 0, found)
    starts = np.concatenate(([0], np.cumsum(kept)))
    rank = np.empty(len(item), np.int64)
    rank[order] = np.arange(len(item)) - (np.cumsum(found) - found)[query[order]]
    slots = np.where(found[query] == 1, -1, starts[query] + rank)
    return slots, starts
