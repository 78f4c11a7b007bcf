# mypy: disable-error-code="no-untyped-call"
"""Small things on their way between CPU and device, without either waiting for the other.

A plain copy from pageable memory waits until everything queued on the device before it is done. These go
through pinned memory, and what comes back says itself when it has arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def upload(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor on the device; copied in the order of what is queued there."""
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    pinned = device.type == "cuda"
    return torch.tensor(values, dtype=dtype, pin_memory=pinned).to(device, non_blocking=True)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device, likewise; itself where it is there already."""
    if tensor.device.type == device.type:
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class Download:
    """Tensors on their way to the CPU, as they are at this point of what is queued on their device."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._found = list(tensors)
        self._arrived: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors):
            self._found = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[Tensor]:
        """The tensors, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._found
