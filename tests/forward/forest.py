"""A forest of rows with page tables, as the cache would hand them over, and batches made from it.

Rows share full pages, own the page they write to, and get their pages in order or scattered.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import spans, tree_order


@dataclass(eq=False)
class Row:
    pages: list[int] = field(default_factory=list)
    length: int = 0


class Forest:
    def __init__(self, page_size: int, num_pages: int, seed: int = 0, scattered: bool = False) -> None:
        self.page_size = page_size
        self.random = random.Random(seed)
        self.free = list(range(num_pages))
        self.scattered = scattered
        if scattered:
            self.random.shuffle(self.free)
        self.rows: list[Row] = []
        self.copies: list[tuple[int, int]] = []
        self.topology = 0

    def open(self) -> Row:
        row = Row()
        self.rows.append(row)
        self.topology += 1
        return row

    def fork(self, parent: Row) -> Row:
        """A child that shares the parent's full pages; the tail page is copied before the next write."""
        child = self.open()
        full, rest = divmod(parent.length, self.page_size)
        child.pages, child.length = parent.pages[:full], parent.length
        if rest:
            child.pages.append(self.free.pop(0))
            self.copies.append((parent.pages[full], child.pages[full]))
        return child

    def close(self, row: Row) -> None:
        """Drop a row; pages no other row holds are free again: lowest first, or used again first."""
        self.rows.remove(row)
        held = {page for other in self.rows for page in other.pages}
        self.free[:0] = [page for page in row.pages if page not in held]
        if not self.scattered:
            self.free.sort()
        self.topology += 1

    def step(self, new: dict[Row, int]) -> Batch:
        """The batch in which the given rows bring so many new tokens each (ids and draws are left empty)."""
        rows = [row for row in self.rows if new.get(row)]
        rows = [rows[i] for i in tree_order([row.pages for row in rows])]
        for row in rows:
            while len(row.pages) * self.page_size < row.length + new[row]:
                row.pages.append(self.free.pop(0))
        rows = [rows[i] for i in tree_order([row.pages for row in rows])]
        batch = Batch([], [], [], [0], [], [], [], self.copies, [], topology=self.topology)
        self.copies = []
        for row in rows:
            for position in range(row.length, row.length + new[row]):
                batch.token_ids.append(position)
                batch.positions.append(position)
                page, offset = divmod(position, self.page_size)
                batch.slots.append(row.pages[page] * self.page_size + offset)
            row.length += new[row]
            batch.row_starts.append(len(batch.token_ids))
            batch.kv_lengths.append(row.length)
            batch.page_tables.append(list(row.pages))
        batch.logits_at = [end - 1 for end in batch.row_starts[1:]]
        batch.spans = spans(batch.page_tables)
        return batch
