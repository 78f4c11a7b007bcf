"""What every attention is: planned once per step, called once per layer. And the plain reference.

A backend owns no cache: K and V live in the `KVStore`, which pages hold what is said by the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.kv_store import KVStore


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads and scale of a model's attention; `windows[layer]` is its sliding window or None.

    A token attends to itself and to the window - 1 tokens before it.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    windows: Sequence[int | None]

    @property
    def group(self) -> int:
        """Query heads that share one K/V head."""
        return self.heads // self.kv_heads


class AttentionBackend(Protocol):
    def plan(self, batch: ForwardBatch) -> None:
        """Get ready for the layers of one step."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v `[T, kv_heads, d]`, then attend q `[T, heads, d]` causally: `[T, heads * d]`."""


class DenseAttention:
    """The reference: one row at a time, all of its pages gathered, softmax over everything, in fp32."""

    def __init__(self, shape: AttentionShape, store: KVStore) -> None:
        self.shape = shape
        self.store = store
        self._batch: ForwardBatch | None = None

    def plan(self, batch: ForwardBatch) -> None:
        self._batch = batch

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self._batch is not None
        self.store.write(layer, self._batch.slots, k, v)
        ends = itertools.pairwise(self._batch.ints.row_starts)
        rows = [self._attend_row(layer, row, q[start:end]) for row, (start, end) in enumerate(ends)]
        return torch.cat(rows).flatten(1)

    def _attend_row(self, layer: int, row: int, q: Tensor) -> Tensor:
        """q `[n, heads, d]` are the last n tokens of the row -> `[n, heads, d]`."""
        assert self._batch is not None
        length = self._batch.ints.kv_lengths[row]
        pages = torch.tensor(self._batch.ints.page_tables[row], device=q.device)
        offsets = torch.arange(self.store.page_size, device=q.device)
        slots = (pages[:, None] * self.store.page_size + offsets).flatten()[:length]
        kv = self.store.gather(slots)[layer].float().repeat_interleave(self.shape.group, dim=0)
        k, v = kv.chunk(2)
        scores = torch.einsum("nhd,htd->hnt", q.float(), k) * self.shape.scale
        scores = scores.masked_fill(~self._visible(layer, len(q), length, q.device), float("-inf"))
        return torch.einsum("hnt,htd->nhd", scores.softmax(-1), v).to(q.dtype)

    def _visible(self, layer: int, new: int, length: int, device: torch.device) -> Tensor:
        """Which of `length` tokens each of the last `new` sees `[new, length]`."""
        query = torch.arange(length - new, length, device=device)[:, None]
        key = torch.arange(length, device=device)
        window = self.shape.windows[layer]
        return (key <= query) & (key > query - (window or length))
