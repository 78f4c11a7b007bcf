"""`GridAttention`: attention whose result for a token does not depend on who else is in the batch.

KV is cut into cells at multiples of `CELL` positions, wherever nodes, chunks and pages of other rows begin
or end. A cell is multiplied with all queries of the step, always as many, and what a query may not see is
masked afterwards; cells are merged one after the other from the first position on. So the same numbers are
added in the same order in every batch. Rows that share a past share its cells. After Thinking Machines'
"Defeating Nondeterminism in LLM Inference" (2025), which fixes the size of the split, not their number.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from dendrite_core.batching.batch import Batch
from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.kv_store import KVStore

CELL = 256
_CELLS_AT_ONCE = 64
_NOTHING_SEEN = -1e30


class GridAttention:
    """An `AttentionBackend` for steps that all have the same number of tokens. A slot below 0: not stored."""

    def __init__(self, shape: AttentionShape, store: KVStore) -> None:
        self.shape = shape
        self.store = store

    def plan(self, batch: ForwardBatch) -> None:
        ints, device = batch.ints, self.store.device
        cells: dict[tuple[int, tuple[int, ...]], int] = {}
        of_row = [self._cells_of(ints, row, cells) for row in range(ints.rows)]
        self._slots = torch.tensor([self._slots_of(pages) for _, pages in cells], device=device).flatten()
        most = max(map(len, of_row))
        # Rows with fewer cells go on with one that nobody sees, which adds exact zeros.
        padded = [found + [len(cells)] * (most - len(found)) for found in of_row]
        counts = [end - start for start, end in pairwise(ints.row_starts)]
        rows = [row for row, count in enumerate(counts) for _ in range(count)]
        self._cell_of = torch.tensor([padded[row] for row in rows], device=device).T.contiguous()
        begins = torch.tensor([index * CELL for index, _ in cells], device=device)
        self._used = torch.zeros(len(cells) + 1, len(rows), dtype=torch.bool, device=device)
        self._used.scatter_(0, self._cell_of, torch.ones_like(self._cell_of, dtype=torch.bool))
        self._visible = {
            window: self._seen(begins, batch.positions, window) for window in set(self.shape.windows)
        }
        self._stored = sum(slot >= 0 for slot in ints.slots)
        self._new_slots = batch.slots[: self._stored]

    def _cells_of(self, ints: Batch, row: int, cells: dict[tuple[int, tuple[int, ...]], int]) -> list[int]:
        """Numbers of the row's cells from position 0 on; cells are known by their place and their pages."""
        size, length, table = self.store.page_size, ints.kv_lengths[row], ints.page_tables[row]
        used, a_cell = table[: -(-length // size)], CELL // size
        keys = [(index, tuple(used[index * a_cell :][:a_cell])) for index in range(-(-length // CELL))]
        return [cells.setdefault(key, len(cells)) for key in keys]

    def _slots_of(self, pages: tuple[int, ...]) -> list[int]:
        """The slots of a cell; what it lacks is read from its first page and seen by nobody."""
        size = self.store.page_size
        slots = [page * size + offset for page in pages for offset in range(size)]
        return slots + slots[:1] * (CELL - len(slots))

    def _seen(self, begins: Tensor, positions: Tensor, window: int | None) -> Tensor:
        """Which positions of which cell a token sees `[cells, tokens, CELL]`."""
        key = begins[:, None, None] + torch.arange(CELL, device=begins.device)
        query = positions[None, :, None]
        seen = self._used[:-1, :, None] & (key <= query)
        return seen if window is None else seen & (key > query - window)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v `[T, kv_heads, d]`, then attend q `[T, heads, d]` causally: `[T, heads * d]`."""
        shape, tokens = self.shape, q.shape[0]
        self.store.write(layer, self._new_slots, k[: self._stored], v[: self._stored])
        grouped = q.float().view(tokens, shape.kv_heads, shape.group, shape.head_dim).transpose(0, 1)
        queries = grouped.reshape(shape.kv_heads, 1, tokens * shape.group, shape.head_dim) * shape.scale
        kv = self.store.gather_layer(layer, self._slots).view(2, shape.kv_heads, -1, CELL, shape.head_dim)
        visible = self._visible[shape.windows[layer]]
        parts = [
            self._cells(queries, kv[:, :, some].float(), visible[some])
            for some in (slice(at, at + _CELLS_AT_ONCE) for at in range(0, len(visible), _CELLS_AT_ONCE))
        ]
        parts.append(self._nothing(parts[0]))
        by_token = (shape.kv_heads, -1, tokens, shape.group)
        highest, total, out = (
            torch.cat(part, 1).view(*by_token, part[0].shape[-1]) for part in zip(*parts, strict=True)
        )
        merged = self._merge(highest, total, out)
        return merged.transpose(0, 1).reshape(tokens, -1).to(q.dtype)

    def _cells(self, queries: Tensor, kv: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each cell: greatest score, sum of exponentials `[kv_heads, cells, n, 1]`, sum `[..., d]`."""
        keys, values = kv.unbind(0)
        scores = queries @ keys.transpose(-1, -2)
        scores.masked_fill_(~seen.repeat_interleave(self.shape.group, 1), -torch.inf)
        highest = scores.amax(-1, keepdim=True).clamp_min_(_NOTHING_SEEN)
        weights = scores.sub_(highest).exp_()
        return highest, weights.sum(-1, keepdim=True), weights @ values

    def _nothing(self, like: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The cell that nobody sees."""
        highest, total, out = (part[:, :1] for part in like)
        return torch.full_like(highest, _NOTHING_SEEN), torch.zeros_like(total), torch.zeros_like(out)

    def _merge(self, highest: Tensor, total: Tensor, out: Tensor) -> Tensor:
        """Cells `[kv_heads, cells, T, group, ...]` of each token, in order -> `[kv_heads, T, group, d]`."""
        token = torch.arange(out.shape[2], device=out.device)
        best, denominator, result = (part[:, self._cell_of[0], token] for part in (highest, total, out))
        for cell in self._cell_of[1:]:
            other = highest[:, cell, token]
            both = torch.maximum(best, other)
            kept, added = (best - both).exp_(), (other - both).exp_()
            denominator = denominator * kept + total[:, cell, token] * added
            result = result * kept + out[:, cell, token] * added
            best = both
        return result / denominator
