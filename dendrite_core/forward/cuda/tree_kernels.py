# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""The tree-attention kernels: one pass over a work list, one merge of its partial results.

A work item is a run of tokens of one node of the tree and up to a tile of queries that see it. An item
streams its K and V once for all of its queries; a query seen by several items gets a partial result from
each, which `merge` joins in token order. Layouts are drawn in `work_list.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.compiler import CompilationError

__all__ = ["CompilationError", "attend", "grow", "merge"]

# A finite stand-in for minus infinity: the difference of two of them is a number.
NOTHING = tl.constexpr(-1.0e30)


@triton.jit
def _tile(
    item, head, grown, items, query_slots, pages, positions,
    q, q_stride, keys, values, head_stride, out, out_stride, partial, partial_lse,
    scale, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr, STRIDE: tl.constexpr, GUARD: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr,
    SPLIT_LOOP: tl.constexpr, WINDOWED: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One item and one K/V head: queries x heads of the group are the rows of a tile `[ROWS, D]`."""
    base = items + item * 8
    first_page = tl.load(base)
    begin = tl.load(base + 1)
    end = tl.minimum(tl.load(base + 2), begin + tl.load(base + 6) + grown)
    first_slot = tl.load(base + 3)
    count = tl.load(base + 4)
    first_query = tl.load(base + 5)

    row = tl.arange(0, ROWS)
    which = row // GROUP
    query_head = head * GROUP + row % GROUP
    valid = which < count
    query = tl.where(valid, first_query + which, 0)
    slot = tl.load(query_slots + first_slot + which, mask=valid, other=0)
    position = tl.load(positions + query, mask=valid, other=-1).to(tl.int32)
    dim = tl.arange(0, BLOCK_D)
    in_head = dim < D
    q_at = query.to(tl.int64) * q_stride + query_head * D
    if PDL:
        # The plan was there before this step; queries and the newest K and V come from the kernel before.
        tl.extra.cuda.gdc_wait()
    tile = tl.load(q + q_at[:, None] + dim[None, :], mask=valid[:, None] & in_head[None, :], other=0.0)

    if WINDOWED:
        earliest = tl.min(tl.where(valid, position, 2147483647), 0) - window + 1
        begin = tl.maximum(begin, tl.maximum(earliest, 0) // TOKENS * TOKENS)
    # Tokens before this every query sees, so their scores need no mask.
    if SPLIT_LOOP and not WINDOWED:
        seen = tl.minimum(end, tl.min(tl.where(valid, position, 2147483647), 0) + 1)
        whole = begin + tl.maximum(seen - begin, 0) // TOKENS * TOKENS
    else:
        whole = begin

    greatest = tl.full([ROWS], NOTHING, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    offset = tl.arange(0, TOKENS)
    head_at = (tl.full([], 0, tl.int64) + head) * head_stride
    keys += head_at
    values += head_at
    pages += first_page

    if SPLIT_LOOP and not WINDOWED:
        for start in tl.range(begin, whole, TOKENS, num_stages=STAGES):
            token = start + offset
            page = tl.load(pages + token // PAGE)
            place = (page * STRIDE + (token % PAGE + GUARD)) * D
            if BLOCK_D == D:
                k = tl.load(keys + place[:, None] + dim[None, :])
            else:
                k = tl.load(keys + place[:, None] + dim[None, :], mask=in_head[None, :], other=0.0)
            score = tl.dot(tile, tl.trans(k), input_precision=PRECISION) * scale
            higher = tl.maximum(greatest, tl.max(score, 1))
            weight = tl.exp2(score - higher[:, None])
            fade = tl.exp2(greatest - higher)
            total = total * fade + tl.sum(weight, 1)
            if BLOCK_D == D:
                v = tl.load(values + place[:, None] + dim[None, :])
            else:
                v = tl.load(values + place[:, None] + dim[None, :], mask=in_head[None, :], other=0.0)
            acc = tl.dot(weight.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
            greatest = higher

    # Pages are looked up a step ahead: a lookup between two steps would take a stage of the pipeline from K
    # and V. Tokens past the end are the last one again, so that nothing is read behind a mask.
    last = tl.maximum(end - 1, whole)
    page = tl.load(pages + tl.minimum(whole + offset, last) // PAGE)
    for start in tl.range(whole, end, TOKENS, num_stages=STAGES):
        token = start + offset
        place = (page * STRIDE + (tl.minimum(token, last) % PAGE + GUARD)) * D
        page = tl.load(pages + tl.minimum(token + TOKENS, last) // PAGE)
        if BLOCK_D == D:
            k = tl.load(keys + place[:, None] + dim[None, :])
        else:
            k = tl.load(keys + place[:, None] + dim[None, :], mask=in_head[None, :], other=0.0)
        score = tl.dot(tile, tl.trans(k), input_precision=PRECISION) * scale
        sees = (token < end)[None, :] & (token[None, :] <= position[:, None])
        if WINDOWED:
            sees = sees & (token[None, :] > position[:, None] - window)
        score = tl.where(sees, score, float("-inf"))
        higher = tl.maximum(greatest, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        fade = tl.exp2(greatest - higher)
        total = total * fade + tl.sum(weight, 1)
        if BLOCK_D == D:
            v = tl.load(values + place[:, None] + dim[None, :])
        else:
            v = tl.load(values + place[:, None] + dim[None, :], mask=in_head[None, :], other=0.0)
        acc = tl.dot(weight.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
        greatest = higher

    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    alone = valid & (slot < 0)
    out_at = query.to(tl.int64) * out_stride + query_head * D
    tl.store(out + out_at[:, None] + dim[None, :], result.to(out.dtype.element_ty),
             mask=alone[:, None] & in_head[None, :])  # fmt: skip
    joins = valid & (slot >= 0)
    part = slot.to(tl.int64) * HEADS + query_head
    tl.store(partial + part[:, None] * D + dim[None, :], result, mask=joins[:, None] & in_head[None, :])
    lse = tl.where(total > 0, greatest + tl.log2(total), NOTHING)
    tl.store(partial_lse + part, lse, mask=joins)


@triton.jit(do_not_specialize_on_alignment=["positions"])
def attend(
    counts, items, wide_items, query_slots, pages, positions,
    q, q_stride, keys, values, head_stride, out, out_stride, partial, partial_lse,
    scale, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr, STRIDE: tl.constexpr, GUARD: tl.constexpr,
    NARROW: tl.constexpr, NARROW_TOKENS: tl.constexpr, NARROW_STAGES: tl.constexpr,
    WIDE: tl.constexpr, WIDE_TOKENS: tl.constexpr, WIDE_STAGES: tl.constexpr,
    WINDOWED: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Every item of both tile classes, by a fixed number of programs: pid, pid + programs, ...

    The first half of the programs starts with wide items, which are bound by arithmetic, the second half
    with narrow ones, which are bound by memory, so that both are in flight on every multiprocessor.
    `counts` is [narrow items, wide items, tokens that rows grew since the plan]; a width of 0 leaves that
    class out.
    """
    KV_HEADS: tl.constexpr = HEADS // GROUP
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    pid = tl.program_id(0)
    programs = tl.num_programs(0)
    grown = tl.load(counts + 2)
    if WIDE > 0:
        wide_count = tl.load(counts + 1) * KV_HEADS
        for work in tl.range(pid, wide_count, programs):
            _tile(
                work // KV_HEADS, work % KV_HEADS, grown, wide_items, query_slots, pages, positions,
                q, q_stride, keys, values, head_stride, out, out_stride, partial, partial_lse,
                scale, window, HEADS, GROUP, D, BLOCK_D, PAGE, STRIDE, GUARD,
                WIDE, WIDE_TOKENS, WIDE_STAGES, True, WINDOWED, PRECISION, PDL,
            )  # fmt: skip
    if NARROW > 0:
        narrow_count = tl.load(counts) * KV_HEADS
        # Counted from the other end: programs that got a wide item less take a narrow one more.
        for work in tl.range(programs - 1 - pid, narrow_count, programs):
            _tile(
                work // KV_HEADS, work % KV_HEADS, grown, items, query_slots, pages, positions,
                q, q_stride, keys, values, head_stride, out, out_stride, partial, partial_lse,
                scale, window, HEADS, GROUP, D, BLOCK_D, PAGE, STRIDE, GUARD,
                NARROW, NARROW_TOKENS, NARROW_STAGES, False, WINDOWED, PRECISION, PDL,
            )  # fmt: skip


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["page_at", "page", "grown"])
def grow(pages, counts, page_at, page, grown, count, BLOCK: tl.constexpr):
    """pages[page_at] = page, and how many tokens rows grew since the plan."""
    row = tl.arange(0, BLOCK)
    place = tl.load(page_at + row, mask=row < count, other=0)
    tl.store(pages + place, tl.load(page + row, mask=row < count, other=0), mask=row < count)
    tl.store(counts + 2, tl.load(grown))


@triton.jit
def merge(
    slot_starts, partial, partial_lse, out, out_stride,
    HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, AT_ONCE: tl.constexpr,
    HEADS_AT_ONCE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Join a query's partial results for a few heads, in the order of their tokens."""
    query = tl.program_id(0)
    head = tl.program_id(1) * HEADS_AT_ONCE + tl.arange(0, HEADS_AT_ONCE)
    first = tl.load(slot_starts + query)
    last = tl.load(slot_starts + query + 1)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    if first == last:
        return
    dim = tl.arange(0, BLOCK_D)
    inside = (head < HEADS)[:, None] & (dim < D)[None, :]
    lane = tl.arange(0, AT_ONCE)
    greatest = tl.full([HEADS_AT_ONCE], NOTHING, tl.float32)
    total = tl.zeros([HEADS_AT_ONCE], tl.float32)
    acc = tl.zeros([HEADS_AT_ONCE, BLOCK_D], tl.float32)
    for start in tl.range(first, last, AT_ONCE):
        slot = start + lane
        there = (slot < last)[:, None] & (head < HEADS)[None, :]
        part = slot.to(tl.int64)[:, None] * HEADS + head[None, :]
        lse = tl.load(partial_lse + part, mask=there, other=NOTHING)
        value = tl.load(
            partial + part[:, :, None] * D + dim[None, None, :],
            mask=there[:, :, None] & inside[None, :, :],
            other=0.0,
        )
        higher = tl.maximum(greatest, tl.max(lse, 0))
        weight = tl.where(there, tl.exp2(lse - higher[None, :]), 0.0)
        fade = tl.exp2(greatest - higher)
        total = total * fade + tl.sum(weight, 0)
        acc = acc * fade[:, None] + tl.sum(value * weight[:, :, None], 0)
        greatest = higher
    out_at = query.to(tl.int64) * out_stride + head[:, None] * D + dim[None, :]
    tl.store(out + out_at, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)
