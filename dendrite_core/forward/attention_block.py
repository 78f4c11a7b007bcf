"""Decode rows attended together: a few large operators per layer, no work per row and step.

The tails of all rows lie side by side in a padded copy, which one batched product reads. Nodes are read
straight from the pages, one product each; a block's scores of nodes and tails lie in one
`[kv_heads, rows * group, columns]` tensor, so that one softmax takes the place of a merge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.attention_plan import BlockPlan, NodePlan, Piece
from dendrite_core.forward.kv_copies import (
    CopyCache,
    GatheredTails,
    Pair,
    Tails,
    lengths_of,
    positions_of,
    side_by_side,
    slots_of,
)
from dendrite_core.forward.kv_store import KVStore


class SharedNode:
    """KV that several rows read in one product."""

    def __init__(self, plan: NodePlan, shape: AttentionShape, copies: CopyCache) -> None:
        self.plan, store = plan, copies.store
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

    def add(self, layer: int, beta: int) -> None:
        """Add what the rows read here to `beta` times what they read so far."""
        values = self.pair(layer)[1]
        if self._out.is_contiguous():
            self._out.baddbmm_(self._probs, values, beta=beta)
        else:
            self._out.add_(torch.bmm(self._probs, values))


class NodeBlock:
    """Neighbouring rows that read shared nodes: one softmax over these and over each row's tail."""

    def __init__(
        self,
        plan: BlockPlan,
        stored: Sequence[int],
        shape: AttentionShape,
        copies: CopyCache,
        window: int | None,
    ) -> None:
        self._shape, self._window = shape, window
        self.rows = slice(plan.first_row, plan.end_row)
        self._columns = plan.node_columns
        self._nodes = [SharedNode(node, shape, copies) for node in plan.nodes]
        rows = plan.end_row - plan.first_row
        self._begins_whole = any(node.end_row - node.first_row == rows for node in plan.nodes[:1])
        self._queries = torch.empty(shape.kv_heads, rows * shape.group, shape.head_dim)
        self._out = torch.empty_like(self._queries)
        self._queries_by_row, self._out_by_row = self._rows_first(self._queries), self._rows_first(self._out)
        if window:
            self._position = torch.tensor(stored[self.rows])[:, None] - 1
            self._positions = self._all_positions(plan, rows)

    def join(self, scores: Tensor, probs: Tensor, out: Tensor) -> None:
        """Take part in what all rows have from now on.

        scores, probs: of tails `[rows, kv_heads, group, width]`, to read and to write. out: to add to
        `[rows, kv_heads, group, d]`.
        """
        self._tails_from, self._tails_to, self._total = scores[self.rows], probs[self.rows], out[self.rows]
        self._scores = torch.full((*self._queries.shape[:2], self._columns + scores.shape[3]), -torch.inf)
        self._probs = torch.empty_like(self._scores)
        self._node_scores = self._rows_first(self._scores)[..., : self._columns]
        self._tail_scores = self._rows_first(self._scores)[..., self._columns :]
        self._tail_probs = self._rows_first(self._probs)[..., self._columns :]
        for node in self._nodes:
            node.place(self._scores, self._probs, self._queries, self._out, self._shape.group)

    def slide(self, window: int) -> None:
        """Mask what has left the window of this step's tokens."""
        self._position += 1
        hidden = self._positions <= self._position - window
        self._mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None]

    def weigh(self, layer: int, q: Tensor) -> None:
        """One softmax over nodes and tails, for all rows' queries `[rows, kv_heads, group, d]`."""
        torch.mul(q[self.rows], self._shape.scale, out=self._queries_by_row)
        for node in self._nodes:
            node.score(layer)
        if self._window:
            self._node_scores.add_(self._mask)
        self._tail_scores.copy_(self._tails_from)
        torch.softmax(self._scores, -1, out=self._probs)
        self._tails_to.copy_(self._tail_probs)

    def add(self, layer: int) -> None:
        """Add what the rows read in nodes."""
        if not self._begins_whole:
            self._out.zero_()
        for beta, node in enumerate(self._nodes):
            node.add(layer, min(beta, 1))
        self._total.add_(self._out_by_row)

    def _rows_first(self, x: Tensor) -> Tensor:
        """`[kv_heads, rows * group, n]` seen as `[rows, kv_heads, group, n]`."""
        return x.view(len(x), -1, self._shape.group, x.shape[-1]).transpose(0, 1)

    def _all_positions(self, plan: BlockPlan, rows: int) -> Tensor:
        """The position of what every node column holds `[rows, node columns]`."""
        positions = torch.zeros(rows, self._columns, dtype=torch.int64)
        for node in plan.nodes:
            columns = slice(node.column, node.column + node.tokens)
            positions[node.first_row : node.end_row, columns] = positions_of(node.pieces)
        return positions


class JointRows:
    """Decode rows that go through attention together, for the steps in which each only gets longer.

    What is computed of tails is in the order of their places, all else in that of the rows.
    """

    def __init__(
        self,
        plans: Sequence[BlockPlan],
        stored: Sequence[int],
        shape: AttentionShape,
        copies: CopyCache,
        tails: Tails,
        window: int | None,
    ) -> None:
        self._shape, self._window = shape, window
        tails_of_rows = [tail for plan in plans for tail in plan.tails]
        places = tails.settle(tails_of_rows)
        self._tails = tails if places is not None else GatheredTails(tails_of_rows, copies.store)
        has_nodes = any(plan.nodes for plan in plans)
        self._blocks = [NodeBlock(plan, stored, shape, copies, window) for plan in plans if has_nodes]
        self._rows, self._width = len(stored), 0
        places = np.arange(self._rows) if places is None else places
        self._in_order = bool((places[1:] > places[:-1]).all())
        self._places, self._row_at = torch.from_numpy(places), torch.from_numpy(places.argsort())
        self._heads = (places[:, None] * shape.kv_heads + np.arange(shape.kv_heads)) * self._tails.room
        hidden = np.arange(self._tails.room) >= lengths_of(tails_of_rows)[:, None]
        self._hidden = torch.zeros(self._rows, shape.kv_heads, 1, self._tails.room)
        self._hidden.masked_fill_(self._by_place(torch.from_numpy(hidden))[:, None, None], -torch.inf)
        if window:
            at = [[piece._replace(slot=piece.position) for piece in tail] for tail in tails_of_rows]
            self._positions = torch.from_numpy(side_by_side(at, self._tails.room))
            self._position = torch.tensor(stored)[:, None] - 1

    def advance(self, slots: Sequence[int]) -> bool:
        """Take in the tokens of this step, one slot a row; False when planning anew is due."""
        columns = self._tails.open(slots)
        if columns is None:
            return False
        if self._tails.width > self._width:
            self._widen(self._tails.width)
        shown = torch.from_numpy((self._heads + columns[:, None]).ravel())
        self._hidden.view(-1).index_fill_(0, shown, 0)
        if self._window:
            self._slide(self._window, torch.from_numpy(columns)[:, None])
        return True

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """q `[rows, heads, d]`, kv `[rows, 2 * kv_heads, d]` of the new tokens -> `[rows, heads * d]`.

        The next call may write to what this one returns.
        """
        keys, values = self._tails.extend(layer, kv)
        queries = self._by_place(q.float()).reshape(self._found.shape)
        torch.baddbmm(self._mask, queries, keys, alpha=self._shape.scale, out=self._scores)
        if self._blocks:
            self._weigh_nodes(layer, q.float())
        else:
            torch.softmax(self._scores, -1, out=self._probs)
        torch.bmm(self._probs, values, out=self._found)
        if not self._in_order:
            torch.index_select(self._found.view(self._out.shape), 0, self._places, out=self._out)
        for block in self._blocks:
            block.add(layer)
        return self._out.flatten(1).to(q.dtype)

    def _weigh_nodes(self, layer: int, q: Tensor) -> None:
        by_row, q = self._row_scores.shape, q.view(self._out.shape)
        if not self._in_order:
            torch.index_select(self._scores.view(by_row), 0, self._places, out=self._row_scores)
        for block in self._blocks:
            block.weigh(layer, q)
        if not self._in_order:
            torch.index_select(self._row_probs, 0, self._row_at, out=self._probs.view(by_row))

    def _by_place(self, of_rows: Tensor) -> Tensor:
        return of_rows if self._in_order else of_rows.index_select(0, self._row_at)

    def _widen(self, width: int) -> None:
        """Make scores for `width` columns of tails, by place and by row; these may be the same."""
        shape, by_row = self._shape, (self._rows, self._shape.kv_heads, self._shape.group)
        self._width = width
        self._mask = self._hidden[..., :width].flatten(0, 1)
        self._scores = torch.empty(len(self._mask), shape.group, width)
        self._probs = torch.empty_like(self._scores)
        self._found = torch.empty(len(self._mask), shape.group, shape.head_dim)
        self._row_scores, self._row_probs, self._out = (
            x.view(*by_row, x.shape[2]) if self._in_order else torch.empty(*by_row, x.shape[2])
            for x in (self._scores, self._probs, self._found)
        )
        for block in self._blocks:
            block.join(self._row_scores, self._row_probs, self._out)

    def _slide(self, window: int, columns: Tensor) -> None:
        """Mask what has left the window of this step's tokens, which lie at `columns` `[rows, 1]`."""
        self._position += 1
        self._positions.scatter_(1, columns, self._position)
        left = self._by_place(self._positions <= self._position - window)
        self._hidden.masked_fill_(left[:, None, None], -torch.inf)
        for block in self._blocks:
            block.slide(window)


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
