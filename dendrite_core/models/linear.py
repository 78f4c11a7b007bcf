"""Linear layers, and which kernel computes them for how many rows.

A `Linear` is built from weights in the checkpoint's layout `[out, in]` and hands out a plain function from
`[T, in]` to `[T, out]` for a number of rows, so that nothing is decided inside a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]


def plain(weight: Tensor, bias: Tensor | None) -> Kernel:
    """torch's own matrix product over `[out, in]`."""

    def kernel(x: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    return kernel
