# mypy: disable-error-code="no-untyped-call"
"""Where a `WorkList` lies on the device: integers at fixed places, and room for partial results.

A CUDA graph reads the plan through these addresses, so they stay when the plan changes. Only what a new
plan uses is copied, from pinned memory, and a page that a row has grown into is one entry. A graph may have
more tokens than the plan: those beyond have no item and, as all their `slot_starts` are the last one, no
partial result either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dendrite_core.forward.cuda.work_list import ITEM, WorkList


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much of everything there is room for."""

    narrow: int
    wide: int
    queries: int
    pages: int
    tokens: int
    slots: int

    def holds(self, work: WorkList) -> bool:
        return (
            len(work.narrow) <= self.narrow
            and len(work.wide) <= self.wide
            and len(work.query_slots) <= self.queries
            and len(work.pages) <= self.pages
            and len(work.slot_starts) <= self.tokens + 1
            and work.slots <= self.slots
        )

    @classmethod
    def of(cls, work: WorkList) -> Capacity:
        """Just enough, but never nothing: a pointer has to point somewhere."""
        tokens = len(work.slot_starts) - 1
        return cls(
            max(1, len(work.narrow)),
            max(1, len(work.wide)),
            max(1, len(work.query_slots)),
            max(1, len(work.pages)),
            tokens,
            max(1, work.slots),
        )


class DevicePlan:
    """The arrays of a work list on the device; see `work_list.py` for what they hold.

    partial: float32 `[slots, heads, d]`, partial_lse: float32 `[slots, heads]`. counts: how many narrow and
    wide items, and by how many tokens rows grew since the plan was made. A plan may be loaded while the
    copies of the `stages - 1` before it are still queued.
    """

    def __init__(
        self, capacity: Capacity, heads: int, head_dim: int, device: torch.device, *, stages: int = 1
    ) -> None:
        self.capacity = capacity
        sizes = (
            4,
            capacity.narrow * ITEM,
            capacity.wide * ITEM,
            capacity.queries,
            capacity.pages,
            capacity.tokens + 1,
        )
        # 16-byte alignment of every array is something the kernels are compiled for.
        places = np.cumsum([0, *(-(-size // 4) * 4 for size in sizes)])
        self.buffer = torch.zeros(int(places[-1]), dtype=torch.int32, device=device)
        on_gpu = device.type == "cuda"
        self.staging = [
            torch.empty(int(places[-1]), dtype=torch.int32, pin_memory=on_gpu) for _ in range(stages)
        ]
        self.places = [int(place) for place in places]
        parts = [self.buffer[start : start + size] for start, size in zip(self.places, sizes, strict=False)]
        self.counts, self.narrow, self.wide, self.query_slots = parts[:4]
        self.pages, self.slot_starts = parts[4:]
        self.partial = torch.empty(capacity.slots, heads, head_dim, device=device)
        self.partial_lse = torch.empty(capacity.slots, heads, device=device)
        self.has_narrow = self.has_wide = self.merges = False
        self.most_slots = 0
        self._copied = [torch.cuda.Event() if on_gpu else None for _ in range(stages)]
        self._turn = 0

    def load(self, work: WorkList) -> None:
        """Bring a work list to the device."""
        self._turn = (self._turn + 1) % len(self.staging)
        staging, copied = self.staging[self._turn], self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        numbers = staging.numpy()
        numbers[:4] = len(work.narrow), len(work.wide), 0, 0
        arrays = (
            work.narrow.reshape(-1),
            work.wide.reshape(-1),
            work.query_slots,
            work.pages,
            work.slot_starts,
        )
        ends = []
        for start, array in zip(self.places[1:], arrays, strict=False):
            ends.append(start + len(array))
            numbers[start : ends[-1]] = array
        # Tokens beyond the plan have nothing to merge.
        known, ends[-1] = ends[-1], self.places[5] + self.capacity.tokens + 1
        numbers[known : ends[-1]] = work.slots
        # The counts lie just before the narrow items and go with them.
        for start, end in zip((0, *self.places[2:]), ends, strict=False):
            if end > start:
                self.buffer[start:end].copy_(staging[start:end], non_blocking=True)
        if copied is not None:
            copied.record()
        self.has_narrow, self.has_wide = len(work.narrow) > 0, len(work.wide) > 0
        self.merges = work.slots > 0
        self.most_slots = int(np.diff(work.slot_starts).max()) if self.merges else 0


def fresh(work: WorkList, heads: int, head_dim: int, device: torch.device) -> DevicePlan:
    """A plan for one step that no graph will see."""
    plan = DevicePlan(Capacity.of(work), heads, head_dim, device)
    plan.load(work)
    return plan
