# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""A kernel that does nothing but read: the bandwidth that anything bound by reading is held against."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 16384


@triton.jit
def block_sums(source, sums, BLOCK: tl.constexpr = BLOCK):
    """sums[i] = sum of the i-th block of BLOCK float32."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(sums + tl.program_id(0), tl.sum(tl.load(source + at), 0))
