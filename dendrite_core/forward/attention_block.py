"""Decode rows attended together: a few large operators per layer, no work per row and step.

Scores of all rows lie in one `[kv_heads, rows * group, columns]` tensor, so that one softmax takes the place
of a merge. Node columns are filled by one product per node, straight from the pages. Tails live in a padded
copy into which every step writes one column; it is built from the pages when the tree changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.attention_plan import BlockPlan, NodePlan, Piece
from dendrite_core.forward.kv_copies import CopyCache, positions_of, slots_of
from dendrite_core.forward.kv_store import KVStore

COLUMNS = 16
"""Views and scores are made for this many steps at once; columns not yet written are masked."""

Pair = tuple[Tensor, Tensor]
"""Keys, transposed, `[n, d, tokens]` and values `[n, tokens, d]`, in float32."""


class SharedNode:
    """KV that several rows read in one product."""

    def __init__(self, plan: NodePlan, shape: AttentionShape, store: KVStore, copies: CopyCache) -> None:
        self.plan = plan
        self._store, self._kv_heads = store, shape.kv_heads
        self._slots: Tensor | None = None
        viewable = len(plan.pieces) == 1 and not store.canaries and store.dtype == torch.float32
        kv = store.run(plan.pieces[0].slot, plan.tokens) if viewable else copies.get(plan.pieces)
        if kv is None:
            self._slots = store.places(slots_of(plan.pieces))
            return
        self._keys = kv[:, : shape.kv_heads].transpose(2, 3).unbind(0)
        self._values = kv[:, shape.kv_heads :].unbind(0)

    def pair(self, layer: int) -> Pair:
        if self._slots is None:
            return self._keys[layer], self._values[layer]
        kv = self._store.layers[layer].index_select(1, self._slots).float()
        return kv[: self._kv_heads].transpose(1, 2), kv[self._kv_heads :]

    def place(self, scores: Tensor, probs: Tensor, queries: Tensor, out: Tensor, group: int) -> None:
        """Remember this node's parts of the block's tensors."""
        rows = slice(self.plan.first_row * group, self.plan.end_row * group)
        columns = slice(self.plan.column, self.plan.column + self.plan.tokens)
        self._queries, self._out = queries[:, rows], out[:, rows]
        self._target, self._probs = scores[:, rows, columns], probs[:, rows, columns]
        # Batched products are fast only into contiguous memory.
        self._scores = torch.empty_like(self._target, memory_format=torch.contiguous_format)

    def score(self, layer: int) -> None:
        torch.bmm(self._queries, self.pair(layer)[0], out=self._scores)
        self._target.copy_(self._scores)

    def add(self, layer: int) -> None:
        values = self.pair(layer)[1]
        if self._out.is_contiguous():
            self._out.baddbmm_(self._probs, values)
        else:
            self._out.add_(torch.bmm(self._probs, values))


class Tails:
    """The ends of the rows `[rows, room]`, aligned at the right, so that a step fills one column."""

    def __init__(
        self,
        tails: Sequence[Sequence[Piece]],
        shape: AttentionShape,
        copies: CopyCache,
        layers: Sequence[int],
    ) -> None:
        self._shape, self._store, self._layers = shape, copies.store, layers
        lengths = [sum(piece.tokens for piece in tail) for tail in tails]
        filled, rows = max(lengths), len(tails)
        self.column = filled - 1
        self.room = filled + max(2 * COLUMNS, filled // 2)
        self._width = filled
        unused = torch.arange(self.room) < filled - torch.tensor(lengths)[:, None]
        unused[:, filled:] = True
        self.mask = torch.zeros(shape.kv_heads, rows, 1, self.room).masked_fill_(unused[:, None], -torch.inf)
        self.slots = torch.from_numpy(_right_aligned(tails, lengths, filled, self.room))
        self._kept = copies.workspace.take(len(layers), 2 * shape.kv_heads, rows, self.room, shape.head_dim)
        # A weight of zero hides any number in the padding, but not a NaN that others may have left.
        self._empty = [row for row, length in enumerate(lengths) if not length]
        if self._kept is not None and filled:
            self._fill(self._kept, filled)
            for row in self._empty:
                self._kept[:, :, row, :filled] = 0

    def open(self, slots: Sequence[int]) -> None:
        """Make the next column that of this step's tokens, which are stored at `slots`."""
        self.column += 1
        self.mask[..., self.column].zero_()
        if self._kept is None:
            self.slots[:, self.column] = torch.tensor(slots)
            for row in self._empty:
                self.slots[row] = slots[row]
            self._empty = []
        else:
            self._new = dict(zip(self._layers, self._kept[..., self.column, :].unbind(0), strict=True))

    def widen(self, width: int) -> None:
        """Offer the first `width` columns."""
        if self._kept is not None:
            self._kept[..., self._width : width, :] = 0
            used = self._kept[..., :width, :]
            keys = used[:, : self._shape.kv_heads].flatten(1, 2).transpose(2, 3).unbind(0)
            values = used[:, self._shape.kv_heads :].flatten(1, 2).unbind(0)
            self._pairs = dict(zip(self._layers, zip(keys, values, strict=True), strict=True))
        self._width = width

    def extend(self, layer: int, kv: Tensor) -> Pair:
        """Add the new tokens' `[rows, 2 * kv_heads, d]`; all K `[kv_heads * rows, d, width]` and V."""
        if self._kept is not None:
            self._new[layer].copy_(kv.transpose(0, 1))
            return self._pairs[layer]
        kv = self._store.gather_layer(layer, self.slots[:, : self._width].flatten()).float()
        k, v = kv.view(2, -1, self._width, self._shape.head_dim).unbind(0)
        return k.transpose(1, 2), v

    def _fill(self, kept: Tensor, filled: int) -> None:
        slots = self.slots[:, :filled]
        if len(self._layers) == self._store.num_layers:
            found = self._store.gather(slots.flatten())
            kept[..., :filled, :] = found.view(*found.shape[:2], *slots.shape, -1)
            return
        for index, layer in enumerate(self._layers):
            one = self._store.gather_layer(layer, slots.flatten())
            kept[index, ..., :filled, :] = one.view(-1, *slots.shape, one.shape[-1])


def _right_aligned(
    tails: Sequence[Sequence[Piece]], lengths: Sequence[int], filled: int, room: int
) -> NDArray[np.int64]:
    """The slots of every tail, `[rows, room]`; what is left over repeats a slot of the same row."""
    slots = np.zeros((len(tails), room), dtype=np.int64)
    for row, (tail, length) in enumerate(zip(tails, lengths, strict=True)):
        column = filled - length
        if tail:
            slots[row] = tail[0].slot
        for piece in tail:
            slots[row, column : column + piece.tokens] = np.arange(piece.slot, piece.slot + piece.tokens)
            column += piece.tokens
    return slots


class RowBlock:
    """Rows that go through attention together, for the steps in which each only gets longer."""

    def __init__(
        self,
        plan: BlockPlan,
        stored: Sequence[int],
        shape: AttentionShape,
        store: KVStore,
        layers: Sequence[int],
        copies: CopyCache,
        window: int | None,
    ) -> None:
        self._shape, self._window = shape, window
        self.rows = plan.end_row - plan.first_row
        self._node_columns = plan.node_columns
        self._nodes = [SharedNode(node, shape, store, copies) for node in plan.nodes]
        self._tails = Tails(plan.tails, shape, copies, layers)
        self._width = 0
        self._queries = torch.empty(shape.kv_heads, self.rows * shape.group, shape.head_dim)
        self._out = torch.empty_like(self._queries)
        self._q = self._q_grouped = torch.empty(0)
        if window:
            self._position = torch.tensor(stored)[:, None] - 1
            self._positions = self._all_positions(plan)

    def advance(self, slots: Sequence[int]) -> bool:
        """Open the column of this step's tokens, one slot a row; False when planning anew is due."""
        tails = self._tails
        if tails.column + 1 == tails.room:
            return False
        tails.open(slots)
        if tails.column >= self._width:
            self._widen(min(tails.room, (tails.column // COLUMNS + 1) * COLUMNS))
        if self._window:
            self._slide(self._window)
        return True

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """q `[rows, heads, d]`, kv `[rows, 2 * kv_heads, d]` of the new tokens -> `[rows, heads * d]`."""
        keys, values = self._tails.extend(layer, kv)
        torch.mul(self._grouped(q), self._shape.scale, out=self._grouped_queries)
        for node in self._nodes:
            node.score(layer)
        torch.baddbmm(self._tail_mask, self._tail_queries, keys, out=self._tail_scores)
        if self._nodes:
            self._tail_target.copy_(self._tail_scores)
        if self._window:
            self._grouped_scores.add_(self._window_mask)
        torch.softmax(self._scores, -1, out=self._probs)
        torch.bmm(self._tail_probs, values, out=self._tail_out)
        for node in self._nodes:
            node.add(layer)
        out = self._grouped_out.transpose(0, 1).reshape(self.rows, -1)
        return out if q.dtype == torch.float32 else out.to(q.dtype)

    def _grouped(self, q: Tensor) -> Tensor:
        """`[rows, heads, d]` -> `[kv_heads, rows, group, d]`; a view is kept, as layers may share q."""
        if q is not self._q:
            shape = self._shape
            by_head = q.float().view(self.rows, shape.kv_heads, shape.group, shape.head_dim).transpose(0, 1)
            if q.dtype != torch.float32:
                return by_head
            self._q, self._q_grouped = q, by_head
        return self._q_grouped

    def _widen(self, width: int) -> None:
        """Make scores for `width` tail columns, and every view of them that a layer needs."""
        shape, rows, nodes = self._shape, self.rows, self._node_columns
        self._width = width
        self._tails.widen(width)
        self._scores = torch.full((shape.kv_heads, rows * shape.group, nodes + width), -torch.inf)
        self._probs = torch.empty_like(self._scores)
        by_row = (shape.kv_heads, rows, shape.group, -1)
        by_head_and_row = (shape.kv_heads * rows, shape.group, -1)
        self._grouped_queries, self._grouped_out = self._queries.view(by_row), self._out.view(by_row)
        self._grouped_scores = self._scores.view(by_row)
        self._tail_queries = self._queries.view(by_head_and_row)
        self._tail_out = self._out.view(by_head_and_row)
        self._tail_mask = self._tails.mask[..., :width].flatten(0, 1)
        self._tail_target = self._scores.view(by_head_and_row)[..., nodes:]
        self._tail_scores = torch.empty_like(self._tail_target) if self._nodes else self._tail_target
        self._tail_probs = self._probs.view(by_head_and_row)[..., nodes:]
        for node in self._nodes:
            node.place(self._scores, self._probs, self._queries, self._out, shape.group)

    def _slide(self, window: int) -> None:
        """Mask what has left the window of this step's tokens."""
        self._position += 1
        column = self._node_columns + self._tails.column
        self._positions[:, column : column + 1] = self._position
        shown = self._positions[:, : self._node_columns + self._width]
        hidden = shown <= self._position - window
        self._window_mask = torch.zeros(shown.shape).masked_fill_(hidden, -torch.inf)[None, :, None]

    def _all_positions(self, plan: BlockPlan) -> Tensor:
        """The position of what every column holds `[rows, node columns + room]`."""
        positions = torch.zeros(self.rows, plan.node_columns + self._tails.room, dtype=torch.int64)
        for node in plan.nodes:
            columns = slice(node.column, node.column + node.tokens)
            positions[node.first_row : node.end_row, columns] = positions_of(node.pieces)
        end = plan.node_columns + self._tails.column + 1
        for row, tail in enumerate(plan.tails):
            if tail:
                found = positions_of(tail)
                positions[row, end - len(found) : end] = found
        return positions


class SingleRun:
    """One row whose pages all follow each other: attention straight from the store, own tokens included."""

    def __init__(self, piece: Piece, shape: AttentionShape, store: KVStore, window: int | None) -> None:
        self.rows = 1
        self._shape, self._store, self._window = shape, store, window
        self._slot, self._end = piece.slot, piece.slot + piece.tokens - 1
        self._nothing = torch.zeros(1, 1, 1)
        self._q = self._q_grouped = torch.empty(0)

    def advance(self, slots: Sequence[int]) -> bool:
        """Take in this step's token; False when its slot is not the next one in memory."""
        if slots[0] != self._end:
            return False
        self._end += 1
        start = max(self._slot, self._end - self._window) if self._window else self._slot
        kv = self._store.run(start, self._end - start)
        self._keys = kv[:, : self._shape.kv_heads].transpose(2, 3).unbind(0)
        self._values = kv[:, self._shape.kv_heads :].unbind(0)
        return True

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """q `[1, heads, d]`; kv is in the store already. -> `[1, heads * d]`"""
        shape = self._shape
        if q is not self._q:
            self._q, self._q_grouped = q, q.view(shape.kv_heads, shape.group, shape.head_dim)
        scores = torch.baddbmm(self._nothing, self._q_grouped, self._keys[layer], beta=0, alpha=shape.scale)
        return torch.bmm(scores.softmax(-1), self._values[layer]).view(1, -1)
