# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""Triton kernels that draw one token from each row of logits; imported on CUDA only.

Two passes over blocks of the vocabulary, no sort and no scan over all of it: sums of the blocks, then one
program per row picks a block and a token in it by inverting the cumulative sum. A row never sees another.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def block_sums(logits, stride, inverse_temperatures, highest, best, sums, WIDTH, BLOCKS, BLOCK: tl.constexpr):
    """For each block of each row: the greatest logit, where it is, and the sum of weights relative to it."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logits + row * stride + at, mask=at < WIDTH, other=float("-inf"))
    top = tl.max(value, 0)
    # A block of minus infinities weighs nothing, and NaN has to stay what it is.
    anchor = tl.where(top == float("-inf"), 0.0, top)
    weight = tl.exp((value - anchor) * tl.load(inverse_temperatures + row))
    tl.store(highest + row * BLOCKS + block, top)
    tl.store(best + row * BLOCKS + block, block * BLOCK + tl.argmax(value, 0))
    tl.store(sums + row * BLOCKS + block, tl.sum(tl.where(at < WIDTH, weight, 0.0), 0))


@triton.jit
def choose(
    logits, stride, inverse_temperatures, numbers, highest, best, sums, tokens, WIDTH, BLOCKS,
    BLOCK: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """The token of each row, -1 where there is none. A temperature of 0 (its inverse is 0) takes the best."""
    row = tl.program_id(0).to(tl.int64)
    inverse = tl.load(inverse_temperatures + row)
    lane = tl.arange(0, MOST)
    top = tl.load(highest + row * BLOCKS + lane, mask=lane < BLOCKS, other=float("-inf"))
    summed = tl.load(sums + row * BLOCKS + lane, mask=lane < BLOCKS, other=0.0)
    greatest = tl.max(top, 0)
    weight = tl.where(top == float("-inf"), 0.0, summed * tl.exp((top - greatest) * inverse)).to(tl.float64)
    upto = tl.cumsum(weight, 0)
    total = tl.sum(weight, 0)
    target = tl.load(numbers + row) * total
    # The last block with any weight stands in when rounding puts the target past the end.
    last = tl.max(tl.where(weight > 0, lane, 0), 0)
    chosen = tl.minimum(tl.sum((upto <= target).to(tl.int32), 0), last)
    before = tl.sum(tl.where(lane < chosen, weight, 0.0), 0)
    at = chosen * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logits + row * stride + at, mask=at < WIDTH, other=float("-inf"))
    inner = tl.exp((value - greatest) * inverse).to(tl.float64)
    inner = tl.where(value == float("-inf"), 0.0, inner)
    passed = tl.sum((tl.cumsum(inner, 0) + before <= target).to(tl.int32), 0)
    final = tl.max(tl.where(inner > 0, tl.arange(0, BLOCK), 0), 0)
    drawn = chosen * BLOCK + tl.minimum(passed, final)
    first = tl.min(tl.where(top == greatest, lane, MOST - 1), 0)
    greedy = tl.load(best + row * BLOCKS + first)
    token = tl.where(inverse > 0, drawn, greedy)
    fine = (greatest > float("-inf")) & (greatest < float("inf")) & (total > 0)
    tl.store(tokens + row, tl.where(fine, token, -1))
