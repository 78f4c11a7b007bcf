"""Float32 copies of KV that no view reaches: scattered pages, other dtypes, the rows' tails side by side.

A copy is good until one of its slots is written again, whoever does so; `Writes` knows when that was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dendrite_core.forward.attention_plan import Piece
from dendrite_core.forward.kv_store import KVStore

Pair = tuple[Tensor, Tensor]
"""Keys, transposed, `[n, d, tokens]` and values `[n, tokens, d]`, in float32."""


COLUMNS = 16
"""Views and scores are made for this many steps at once; columns not yet written are masked."""


def slots_of(pieces: Sequence[Piece]) -> Tensor:
    """The slots of all tokens in order `[tokens]`."""
    return torch.cat([torch.arange(piece.slot, piece.slot + piece.tokens) for piece in pieces])


def positions_of(pieces: Sequence[Piece]) -> Tensor:
    return torch.cat([torch.arange(piece.position, piece.position + piece.tokens) for piece in pieces])


class Writes:
    """The step in which each slot was last written."""

    def __init__(self, store: KVStore) -> None:
        self.now = 0
        self._at = np.zeros((store.num_pages, store.page_size), dtype=np.int64)
        self._by_slot = self._at.reshape(-1)

    def step(self, slots: Sequence[int], copies: Sequence[tuple[int, int]]) -> None:
        """A new step begins, which copies pages and then writes to these slots."""
        self.now += 1
        self._by_slot[slots] = self.now
        for _, page in copies:
            self._at[page] = self.now

    def at(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._by_slot[slots]

    def newest(self, pieces: Sequence[Piece]) -> int:
        return max(int(self._by_slot[piece.slot : piece.slot + piece.tokens].max()) for piece in pieces)


class CopyCache:
    """Float32 copies of KV that no view reaches, `budget` bytes at most."""

    def __init__(self, store: KVStore, writes: Writes, budget: int) -> None:
        self.store, self.budget = store, budget
        self._writes = writes
        self._copies: dict[tuple[Piece, ...], tuple[int, Tensor]] = {}

    def get(self, pieces: Sequence[Piece]) -> Tensor | None:
        """`[layers, 2 * kv_heads, tokens, d]` of earlier steps' tokens, or None when there is no room."""
        key = tuple(pieces)
        found = self._copies.pop(key, None)
        if found is None or self._writes.newest(pieces) > found[0]:
            elements = sum(piece.tokens for piece in pieces) * self.store.data[:, :, 0].numel()
            if not self._make_room(4 * elements):
                return None
            found = (self._writes.now, self.store.gather(slots_of(pieces)).float())
        self._copies[key] = found
        return found[1]

    def _make_room(self, size: int) -> bool:
        """Drop the copies used longest ago until `size` more bytes fit."""
        held = sum(copy.nbytes for _, copy in self._copies.values())
        for key in list(self._copies):
            if held + size <= self.budget:
                break
            held -= self._copies.pop(key)[1].nbytes
        return held + size <= self.budget


class Tails:
    """The rows' own ends side by side, `[place, column]`, kept from plan to plan.

    A place belongs to one row and holds its tail from the first column on, then zeros up to `width`. Rows
    that stay are found again by their slots; those that come, and the last ones when others leave, fill gaps.

        memory:  [layers, K or V, place, kv_heads, column, d]
    """

    def __init__(self, store: KVStore, writes: Writes, layers: Sequence[int], budget: int) -> None:
        self._store, self._writes = store, writes
        self._layers, self._budget = list(layers), budget
        self.width = 0
        self._allocate(0, 0)

    @property
    def room(self) -> int:
        return self._slots.shape[1]

    def settle(self, tails: Sequence[Sequence[Piece]]) -> NDArray[np.int64] | None:
        """Hold these tails, of earlier steps' tokens; each place, None if they take too much."""
        lengths, rows = lengths_of(tails), len(tails)
        longest = int(lengths.max())
        if not self._make_room(rows, longest + 1):
            return None
        self._lengths[rows:] = 0
        slots = side_by_side(tails, longest + 1)
        places = self._find(slots, lengths)
        missing = np.flatnonzero(places < 0)
        self._widen(places[places >= 0], longest)
        places[missing] = np.setdiff1d(np.arange(rows), places)
        for row in missing:
            self._fill(places[row], slots[row, : lengths[row]])
        self._places, self._heads = places, self._heads_of(places)
        self._offer()
        return places

    def open(self, slots: Sequence[int]) -> NDArray[np.int64] | None:
        """Take in the tokens that this step stores at `slots`; their columns, or None if a place is full."""
        places, columns = self._places, self._lengths[self._places]
        last = int(columns.max())
        if last == self.room:
            return None
        if last >= self.width:
            self._widen(slice(len(places)), last)
            self._offer()
        self._slots[places, columns] = slots
        self._lengths[places] += 1
        self._made[places] = self._writes.now
        self._targets = torch.from_numpy((self._heads + columns[:, None]).ravel())
        return columns

    def extend(self, layer: int, kv: Tensor) -> Pair:
        """Add the new tokens' `[rows, 2 * kv_heads, d]`; all K `[places * kv_heads, d, width]` and V."""
        self._flat[layer].index_copy_(0, self._targets, kv.reshape(-1, kv.shape[-1]).float())
        return self._pairs[layer]

    def _widen(self, places: slice | NDArray[np.int64], column: int) -> None:
        """Let the width reach beyond `column`; these places hold nothing yet that is new in it."""
        before, self.width = self.width, width_beyond(column, self.room)
        # A weight of zero hides any number, but not a NaN that another row may have left.
        self._memory[:, :, places, :, before : self.width] = 0

    def _offer(self) -> None:
        """Make each layer's views of the places in use."""
        used = self._memory[:, :, : len(self._places)].flatten(2, 3)[..., : self.width, :]
        pairs = zip(used[:, 0].transpose(2, 3).unbind(0), used[:, 1].unbind(0), strict=True)
        self._pairs = dict(zip(self._layers, pairs, strict=True))

    def _find(self, slots: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place that holds a row's tail already, or -1, for each row."""
        rows, filled = np.arange(len(slots)), np.flatnonzero(self._lengths)
        ends = dict(
            zip(self._slots[filled, self._lengths[filled] - 1].tolist(), filled.tolist(), strict=True)
        )
        last = np.where(lengths > 0, slots[rows, lengths - 1], -1)
        places = np.array([ends.pop(slot, -1) for slot in last.tolist()])
        held = self._slots[places, : slots.shape[1]] == slots
        fresh = self._writes.at(slots) <= self._made[places, None]
        behind = np.arange(slots.shape[1]) >= lengths[:, None]
        good = (places >= 0) & (self._lengths[places] == lengths) & (held & fresh | behind).all(1)
        # Where most are new the rest is not worth an order other than the rows' own.
        return np.where(good, places, -1) if 2 * good.sum() >= len(rows) else np.full(len(rows), -1)

    def _fill(self, place: int, slots: NDArray[np.int64]) -> None:
        """Copy a tail from the pages."""
        target, tokens = self._memory[:, :, place], len(slots)
        found = self._store.gather(torch.from_numpy(slots))
        if len(self._layers) < self._store.num_layers:
            found = found[self._layers]
        target[..., :tokens, :] = found.view(*target.shape[:3], tokens, found.shape[-1])
        target[..., tokens : self.width, :] = 0
        self._slots[place, :tokens] = slots
        self._lengths[place], self._made[place] = tokens, self._writes.now

    def _heads_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in `_flat` each K head, then each V head of these places begins `[rows, 2 * kv_heads]`."""
        _, kinds, capacity, heads, room, _ = self._memory.shape
        first = (np.arange(kinds) * capacity + places[:, None])[..., None] * heads + np.arange(heads)
        return first.reshape(len(places), -1) * room

    def _make_room(self, rows: int, columns: int) -> bool:
        if rows <= len(self._slots) and columns <= self.room:
            return True
        token = 8 * len(self._layers) * self._store.kv_heads * self._store.head_dim
        for room in (columns + max(32, columns // 4), columns + 16):
            capacity = min(rows + rows // 2, self._budget // (token * room))
            if capacity >= rows:
                self._allocate(capacity, room)
                self.width = 0
                return True
        self._allocate(0, 0)
        return False

    def _allocate(self, capacity: int, room: int) -> None:
        shape = (len(self._layers), 2, capacity, self._store.kv_heads, room, self._store.head_dim)
        self._memory = torch.empty(shape)
        self._flat = dict(zip(self._layers, self._memory.flatten(1, 4).unbind(0), strict=True))
        self._slots = np.zeros((capacity, room), dtype=np.int64)
        self._lengths = np.zeros(capacity, dtype=np.int64)
        self._made = np.zeros(capacity, dtype=np.int64)


class GatheredTails:
    """Tails that would take too much memory: gathered from the pages in every layer of every step."""

    def __init__(self, tails: Sequence[Sequence[Piece]], store: KVStore) -> None:
        self._store = store
        self._lengths = lengths_of(tails)
        self.room, self.width = int(self._lengths.max()) + 64, 0
        self._slots = side_by_side(tails, self.room)
        heads = torch.arange(2 * store.kv_heads) * store.data.shape[2]
        self._heads = heads.view(2, 1, store.kv_heads, 1)

    def open(self, slots: Sequence[int]) -> NDArray[np.int64] | None:
        """As `Tails.open`."""
        columns = self._lengths.copy()
        last = int(columns.max())
        if last == self.room:
            return None
        if last >= self.width:
            self.width = width_beyond(last, self.room)
            tokens = 2 * self._store.kv_heads * len(slots) * self.width
            self._found = torch.empty(tokens, self._store.head_dim, dtype=self._store.dtype)
        self._slots[np.arange(len(slots)), columns] = slots
        self._lengths += 1
        # What lies behind a tail is its own first token again: no number that others have left.
        begun = columns == 0
        self._slots[begun] = self._slots[begun, :1]
        places = self._store.places(torch.from_numpy(self._slots[:, : self.width]))
        self._index = (self._heads + places[:, None]).flatten()
        return columns

    def extend(self, layer: int, kv: Tensor) -> Pair:
        """As `Tails.extend`; the new tokens are in the store already."""
        tokens = self._store.layers[layer].flatten(0, 1)
        torch.index_select(tokens, 0, self._index, out=self._found)
        keys, values = self._found.float().view(2, -1, self.width, kv.shape[-1]).unbind(0)
        return keys.transpose(1, 2), values


def width_beyond(column: int, room: int) -> int:
    """How many columns are offered when this one is needed, so that few steps have to make new views."""
    return min(room, (column // COLUMNS + 1) * COLUMNS)


def lengths_of(tails: Sequence[Sequence[Piece]]) -> NDArray[np.int64]:
    return np.array([sum(piece.tokens for piece in tail) for tail in tails], dtype=np.int64)


def side_by_side(tails: Sequence[Sequence[Piece]], width: int) -> NDArray[np.int64]:
    """The slots of every tail from its first token on, which comes again behind it `[tails, width]`."""
    slots = np.zeros((len(tails), width), dtype=np.int64)
    for row, tail in enumerate(tails):
        if tail:
            slots[row] = tail[0].slot
        column = 0
        for piece in tail:
            slots[row, column : column + piece.tokens] = np.arange(piece.slot, piece.slot + piece.tokens)
            column += piece.tokens
    return slots
