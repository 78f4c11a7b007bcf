"""Tree attention on torch's own operators: what rows share is read by one matrix product.

Decode rows go through `attention_block`: planned when the tree changes, a few integers a step otherwise.
Rows that bring several tokens attend to their past and causally to themselves with torch's flash kernel,
merged by log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import Span
from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.attention_block import JointRows, SingleRun
from dendrite_core.forward.attention_plan import (
    Costs,
    DecodeRows,
    decode_rows,
    pieces_of,
    plan_blocks,
)
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.kv_copies import CopyCache, Tails, Writes, slots_of
from dendrite_core.forward.kv_store import KVStore, joined

HIDDEN = -1e30
"""Finite, so that a token that sees nothing of a part gets a weight of zero there and not NaN."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class TreeAttention:
    """The CPU backend.

    `copy_bytes` bounds the copies of shared pages that are scattered, twice as much those of tails; beyond it
    they are made in every step.
    """

    def __init__(
        self, shape: AttentionShape, store: KVStore, copy_bytes: int | None = None, costs: Costs | None = None
    ) -> None:
        self.shape, self.store = shape, store
        width = shape.heads * shape.head_dim
        self.costs = costs or Costs(
            node=max(32, 384 * 256 // width), waste=1 << 13, cells=(1 << 24) // shape.heads
        )
        budget = max(1 << 26, store.data.nbytes // 4) if copy_bytes is None else copy_bytes
        self._writes = Writes(store)
        self._copies = CopyCache(store, self._writes, budget)
        self._tail_bytes = 2 * budget
        self._seen: Seen | None = None
        self._windows: tuple[int | None, ...] = ()
        self._tails: dict[int | None, Tails] = {}
        self._rows: dict[int | None, JointRows | SingleRun] = {}
        self._k = self._v = self._kv = torch.empty(0)

    def plan(self, batch: ForwardBatch) -> None:
        ints = batch.ints
        self._writes.step(ints.slots, ints.copies)
        self._write = self.store.writer(ints.slots, batch.slots)
        decode = decode_rows(ints.row_starts, ints.kv_lengths, ints.spans)
        self._whole = len(decode.rows) == ints.rows
        tokens = [ints.row_starts[row] for row in decode.rows]
        self._decoding = None if self._whole else torch.tensor(tokens, dtype=torch.int64)
        longest = max(ints.kv_lengths)
        windows = tuple(window if window and window < longest else None for window in self.shape.windows)
        slots = [ints.slots[token] for token in tokens]
        seen = Seen.of(ints, decode)
        if windows != self._windows or not seen.follows(self._seen) or not self._advance(slots):
            self._plan_rows(decode, windows)
            started = self._advance(slots)
            assert started, "a new plan has no room for its first step"
        self._seen = seen
        chunks = [row for row in range(ints.rows) if ints.row_starts[row + 1] - ints.row_starts[row] > 1]
        self._chunks = {
            window: [Chunk(ints, row, self.shape, self.store, window) for row in chunks]
            for window in self._tails
        }

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kv = self._kv if k is self._k and v is self._v else self._joined(k, v)
        self._write(layer, kv)
        window = self._windows[layer]
        if self._whole:
            return self._rows[window].attend(layer, q, kv)
        return self._attend_parts(layer, window, q, k, v, kv)

    def _attend_parts(
        self, layer: int, window: int | None, q: Tensor, k: Tensor, v: Tensor, kv: Tensor
    ) -> Tensor:
        """Decode rows and chunks one after the other."""
        out, chosen = q.new_empty(q.shape[0], self.shape.heads * self.shape.head_dim), self._decoding
        if chosen is not None and (rows := self._rows.get(window)):
            found = rows.attend(layer, q.index_select(0, chosen), kv.index_select(0, chosen))
            out.index_copy_(0, chosen, found)
        for chunk in self._chunks[window]:
            own = slice(chunk.first, chunk.end)
            out[own] = chunk.attend(layer, q[own], k[own], v[own])
        return out

    def _joined(self, k: Tensor, v: Tensor) -> Tensor:
        """k and v as one; a view is kept, for a decoder that hands the same two tensors to every layer."""
        kv = joined(k, v)
        if kv.data_ptr() == k.data_ptr():
            self._k, self._v, self._kv = k, v, kv
        return kv

    def _advance(self, slots: Sequence[int]) -> bool:
        return all(rows.advance(slots) for rows in self._rows.values())

    def _plan_rows(self, decode: DecodeRows, windows: tuple[int | None, ...]) -> None:
        if windows != self._windows:
            self._windows = windows
            self._tails = {window: self._tails_of(window) for window in windows}
        self._rows = {}
        if decode.rows:
            self._rows = {window: self._rows_together(decode, window) for window in self._tails}

    def _tails_of(self, window: int | None) -> Tails:
        layers = [layer for layer, of_layer in enumerate(self._windows) if of_layer == window]
        return Tails(self.store, self._writes, layers, self._tail_bytes * len(layers) // len(self._windows))

    def _rows_together(self, decode: DecodeRows, window: int | None) -> JointRows | SingleRun:
        if len(decode.rows) == 1 and (single := self._single_run(decode, window)):
            return single
        plans = plan_blocks(decode, self.store.page_size, window, self.costs)
        return JointRows(plans, decode.stored, self.shape, self._copies, self._tails[window], window)

    def _single_run(self, decode: DecodeRows, window: int | None) -> SingleRun | None:
        if self.store.canaries or self.store.dtype != torch.float32:
            return None
        pages = [page for span in decode.spans for page in span.pages]
        end = decode.stored[0] + 1
        pieces = pieces_of(pages, 0, max(0, end - window) if window else 0, end, self.store.page_size)
        return SingleRun(pieces[0], self.shape, self.store, window) if len(pieces) == 1 else None


class Seen(NamedTuple):
    """What tells whether a batch is the one before with every row one token longer."""

    topology: int
    copies: int
    stored: list[int]
    spans: list[Span]

    @classmethod
    def of(cls, batch: Batch, decode: DecodeRows) -> Seen:
        return cls(batch.topology, len(batch.copies), decode.stored, decode.spans)

    def follows(self, before: Seen | None) -> bool:
        return (
            before is not None
            and self.topology == before.topology
            and not self.copies
            and self.stored == [stored + 1 for stored in before.stored]
            and len(self.spans) == len(before.spans)
            and all(map(_grown, self.spans, before.spans))
        )


def _grown(span: Span, before: Span) -> bool:
    """Whether it is the same span, perhaps longer. A page has one place, so one entry vouches for all."""
    last = len(before.pages) - 1
    return (
        span.first_row == before.first_row
        and span.end_row == before.end_row
        and len(span.pages) > last
        and span.pages[last] == before.pages[last]
    )


class Chunk:
    """A row that brings several tokens: its past, then causally among themselves."""

    def __init__(
        self, batch: Batch, row: int, shape: AttentionShape, store: KVStore, window: int | None
    ) -> None:
        self.first, self.end = batch.row_starts[row], batch.row_starts[row + 1]
        self._shape, self._store, self._window = shape, store, window
        self._places: Tensor | None = None
        stored = batch.kv_lengths[row] - (self.end - self.first)
        begin = max(0, stored + 1 - window) if window else 0
        self._past = stored - begin
        pieces = pieces_of(batch.page_tables[row], 0, begin, stored, store.page_size)
        if len(pieces) == 1 and not store.canaries:
            self._views = store.run(pieces[0].slot, pieces[0].tokens).unbind(0)
        elif pieces:
            self._places = store.places(slots_of(pieces))
        self._past_mask: Tensor | None = None
        self._own_mask: Tensor | None = None
        if window:
            self._past_mask, self._own_mask = self._masks(window)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q `[n, heads, d]`, k and v `[n, kv_heads, d]` -> `[n, heads * d]`."""
        own = self._flash(q, k.transpose(0, 1), v.transpose(0, 1), self._own_mask, causal=not self._window)
        if not self._past:
            return own[0].flatten(1)
        kv = self._views[layer] if self._places is None else self._gathered(layer)
        k, v = kv.chunk(2)
        past = self._flash(q, k, v, self._past_mask)
        weight = torch.sigmoid(past[1] - own[1])[..., None]
        return own[0].float().lerp(past[0].float(), weight).to(q.dtype).flatten(1)

    def _gathered(self, layer: int) -> Tensor:
        assert self._places is not None
        return self._store.layers[layer].index_select(1, self._places)

    def _flash(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """q `[n, heads, d]`, k and v `[kv_heads, m, d]` -> out `[n, heads, d]`, log-sum-exp `[n, heads]`."""
        out, lse = _flash(
            q.transpose(0, 1)[None], k[None], v[None], 0.0, causal, attn_mask=mask, scale=self._shape.scale
        )
        return out[0].transpose(0, 1), lse[0].transpose(0, 1)

    def _masks(self, window: int) -> tuple[Tensor, Tensor]:
        """What a sliding window leaves of the past `[n, past]` and of the new tokens `[n, n]`, additive."""
        new = self.end - self.first
        query = torch.arange(new)[:, None]
        past, own = torch.arange(-self._past, 0), torch.arange(new)
        hidden_past, hidden_own = past <= query - window, (own > query) | (own <= query - window)
        return self._additive(hidden_past), self._additive(hidden_own)

    def _additive(self, hidden: Tensor) -> Tensor:
        return torch.zeros(hidden.shape, dtype=self._store.dtype).masked_fill_(hidden, HIDDEN)
