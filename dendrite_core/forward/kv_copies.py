"""Float32 copies of KV that no view reaches: scattered pages, other dtypes, tails side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dendrite_core.forward.attention_plan import Piece
from dendrite_core.forward.kv_store import KVStore


def slots_of(pieces: Sequence[Piece]) -> Tensor:
    """The slots of all tokens in order `[tokens]`."""
    return torch.cat([torch.arange(piece.slot, piece.slot + piece.tokens) for piece in pieces])


def positions_of(pieces: Sequence[Piece]) -> Tensor:
    return torch.cat([torch.arange(piece.position, piece.position + piece.tokens) for piece in pieces])


class Workspace:
    """Float32 memory that every planning takes anew, so that no page of it has to be mapped twice."""

    def __init__(self, budget: int) -> None:
        self._room = budget // 4
        self._left = self._room
        self._memory = torch.empty(0)
        self._used = 0

    def reset(self) -> None:
        """What was taken before is not in use any more."""
        self._left, self._used = self._room, 0

    def take(self, *shape: int) -> Tensor | None:
        """An uninitialised tensor, or None beyond the budget."""
        size = math.prod(shape)
        if size > self._left:
            return None
        if self._used + size > len(self._memory):
            self._memory, self._used = torch.empty(2 * size), 0
        found = self._memory[self._used : self._used + size].view(shape)
        self._used += size
        self._left -= size
        return found


class CopyCache:
    """Float32 copies of KV that no view reaches, valid until one of their pages is written again."""

    def __init__(self, store: KVStore, budget: int) -> None:
        self.store = store
        self.budget = budget
        self._clock = 0
        self._written = [0] * store.num_pages
        self._copies: dict[tuple[Piece, ...], tuple[int, Tensor]] = {}
        self.workspace = Workspace(budget)

    def wrote(self, slots: Sequence[int]) -> None:
        """A new step begins, which writes to these slots. A page copied in it is also written to."""
        self._clock += 1
        for page in {slot // self.store.page_size for slot in slots}:
            self._written[page] = self._clock

    def get(self, pieces: Sequence[Piece]) -> Tensor | None:
        """`[layers, 2 * kv_heads, tokens, d]` of earlier steps' tokens, or None when there is no room."""
        key = tuple(pieces)
        found = self._copies.pop(key, None)
        if found is None or self._newest(pieces) > found[0]:
            elements = sum(piece.tokens for piece in pieces) * self.store.data[:, :, 0].numel()
            if not self._make_room(4 * elements):
                return None
            found = (self._clock, self.store.gather(slots_of(pieces)).float())
        self._copies[key] = found
        return found[1]

    def _newest(self, pieces: Sequence[Piece]) -> int:
        size = self.store.page_size
        return max(
            self._written[page]
            for piece in pieces
            for page in range(piece.slot // size, (piece.slot + piece.tokens - 1) // size + 1)
        )

    def _make_room(self, size: int) -> bool:
        """Drop the copies used longest ago until `size` more bytes fit."""
        held = sum(copy.nbytes for _, copy in self._copies.values())
        for key in list(self._copies):
            if held + size <= self.budget:
                break
            held -= self._copies.pop(key)[1].nbytes
        return held + size <= self.budget
