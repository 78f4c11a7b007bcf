"""Trees of page tables for benchmarks, as batches of a decode step; no text and no cache involved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dendrite_core.batching.batch import Batch, Draw
from dendrite_core.cache.page_table import spans
from dendrite_core.params import SamplingParams

PAGE = 16
_ONE = SamplingParams(temperature=1.0)

Level = tuple[int, int]
"""(nodes of a level, tokens of each); levels multiply down, the last one's nodes are the rows."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Rows that share `tables` and then write to pages of their own."""

    tables: list[list[int]]
    own: list[list[int]]
    length: int
    pages: int

    @classmethod
    def grow(cls, levels: Sequence[Level], room: int) -> Tree:
        """A full tree, every node in whole pages, with room for so many tokens at each leaf."""
        rows, at, length = levels[-1][0], 1, 0
        tables: list[list[int]] = [[] for _ in range(rows)]
        for nodes, tokens in levels:
            count = -(-tokens // PAGE)
            for node in range(nodes):
                for row in range(node * rows // nodes, (node + 1) * rows // nodes):
                    tables[row] += range(at, at + count)
                at += count
            length += count * PAGE
        count = -(-room // PAGE)
        own = [list(range(at + row * count, at + (row + 1) * count)) for row in range(rows)]
        return cls(tables, own, length, at + rows * count)

    def step(self, number: int, topology: int) -> Batch:
        """The decode step in which every row writes token `length + number`."""
        rows, position = len(self.tables), self.length + number
        used = number // PAGE + 1
        pairs = zip(self.tables, self.own, strict=True)
        tables: list[Sequence[int]] = [shared + own[:used] for shared, own in pairs]
        slots = [table[position // PAGE] * PAGE + position % PAGE for table in tables]
        draws = [Draw(row, _ONE, 7, row, position) for row in range(rows)]
        every = list(range(rows + 1))
        return Batch(
            [11] * rows, [position] * rows, slots, every, [position + 1] * rows, tables, spans(tables), [],
            every[:-1], draws, [], topology,
        )  # fmt: skip
