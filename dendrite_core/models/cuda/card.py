"""What kernels have to know of the card they run on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True, slots=True)
class Card:
    """early: a kernel may be launched while the one before runs. wgmma: it has Hopper's matrix instructions.

    shared: bytes of shared memory that a program may take.
    """

    early: bool
    wgmma: bool
    shared: int

    def stages(self, most: int, stage: int, taken: int) -> int:
        """How many stages of so many bytes fit beside what is taken, `most` at most; 0 if none does."""
        return max(0, min(most, (self.shared - taken) // stage))


@cache
def card_of(device: torch.device) -> Card:
    """The card; a CPU, where Triton's interpreter runs the kernels, has no limit.

    For tensors without memory, of which only the launches count, it is the one they would be launched on.
    """
    if device.type == "cpu":
        return Card(early=False, wgmma=False, shared=2**31)
    # Triton is there only where CUDA is.
    from triton.runtime import driver

    index = driver.active.get_current_device() if device.index is None else device.index
    major = driver.active.get_current_target().arch // 10
    properties = driver.active.utils.get_device_properties(index)
    return Card(early=major >= 9, wgmma=major == 9, shared=int(properties["max_shared_mem"]))
