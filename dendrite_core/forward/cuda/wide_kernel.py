# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""The wide tiles of tree attention for Hopper: the matrix product of one step hides the softmax of another.

Same work list and same results as `tree_kernels.attend`, in Gluon, where it is said explicitly what is in
flight: K and V arrive by asynchronous copies several steps ahead, scores of step j + 1 and the values of
step j are multiplied while the exponentials of step j + 1 are computed.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_wait,
)

NOTHING = gl.constexpr(-1.0e30)


@gluon.jit
def _copy_tile(
    buffer, source, page, start, end, index, steps,
    D: gl.constexpr, PAGE: gl.constexpr, STRIDE: gl.constexpr, GUARD: gl.constexpr, TOKENS: gl.constexpr,
    COPY: gl.constexpr,
):  # fmt: skip
    """Start to copy one tile of K or V; nothing if there is no step `index`."""
    token = start + gl.arange(0, TOKENS, gl.SliceLayout(1, COPY))
    token = gl.minimum(token, end - 1)
    dim = gl.arange(0, D, gl.SliceLayout(0, COPY))
    place = (page * STRIDE + (token % PAGE + GUARD)) * D
    there = gl.full([TOKENS, D], 0, gl.int32, COPY) + index < steps
    async_copy.async_copy_global_to_shared(buffer, source + (place[:, None] + dim[None, :]), mask=there)


@gluon.jit
def _pages_of(pages, start, end, PAGE: gl.constexpr, TOKENS: gl.constexpr, COPY: gl.constexpr):
    token = start + gl.arange(0, TOKENS, gl.SliceLayout(1, COPY))
    return gl.load(pages + gl.minimum(token, end - 1) // PAGE)


@gluon.jit
def _masked(score, start, end, position, TOKENS: gl.constexpr, SCORES: gl.constexpr):
    token = start + gl.arange(0, TOKENS, gl.SliceLayout(0, SCORES))
    sees = (token[None, :] < end) & (token[None, :] <= position[:, None])
    return gl.where(sees, score, float("-inf"))


@gluon.jit
def _step(
    index, tile, k_ring, v_ring, keys, values, pages, page_v, page_k, page_next,
    begin, end, steps, position, greatest, total, acc, weight, scale,
    D: gl.constexpr, PAGE: gl.constexpr, STRIDE: gl.constexpr, GUARD: gl.constexpr,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr, COPY: gl.constexpr,
    SCORES: gl.constexpr, RESULT: gl.constexpr, WEIGHTS: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Scores of step `index`, values of the step before it."""
    async_copy.wait_group(DEPTH - 2)
    fence_async_shared()
    zero = gl.zeros([ROWS, TOKENS], gl.float32, SCORES)
    k = k_ring.index(index % DEPTH).permute((1, 0))
    score = warpgroup_mma(tile, k, zero, use_acc=False, is_async=True)
    acc = warpgroup_mma(weight, v_ring.index((index - 1) % DEPTH), acc, is_async=True)

    ahead = index + DEPTH - 1
    at = begin + ahead * TOKENS
    _copy_tile(k_ring.index(ahead % DEPTH), keys, page_k, at, end, ahead, steps,
               D, PAGE, STRIDE, GUARD, TOKENS, COPY)  # fmt: skip
    _copy_tile(v_ring.index((ahead - 1) % DEPTH), values, page_v, at - TOKENS, end, ahead - 1, steps,
               D, PAGE, STRIDE, GUARD, TOKENS, COPY)  # fmt: skip
    async_copy.commit_group()
    page_v = page_k
    page_k = page_next
    page_next = _pages_of(pages, at + 2 * TOKENS, end, PAGE, TOKENS, COPY)

    score = warpgroup_mma_wait(1, deps=[score])
    if MASKED:
        score = _masked(score, begin + index * TOKENS, end, position, TOKENS, SCORES)
    higher = gl.maximum(greatest, gl.max(score, 1) * scale)
    p = gl.exp2(score * scale - higher[:, None])
    fade = gl.exp2(greatest - higher)
    total = total * fade + gl.sum(p, 1)
    acc = warpgroup_mma_wait(0, deps=[acc])
    acc = acc * gl.convert_layout(fade, gl.SliceLayout(1, RESULT))[:, None]
    weight = gl.convert_layout(p.to(tile.dtype), WEIGHTS)
    return higher, total, acc, weight, page_v, page_k, page_next


@gluon.jit
def _item(
    item, head, grown, items, query_slots, pages, positions,
    q, q_stride, keys, values, head_stride, out, out_stride, partial, partial_lse, scale,
    tile, k_ring, v_ring,
    HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr, PAGE: gl.constexpr, STRIDE: gl.constexpr,
    GUARD: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    WARPS: gl.constexpr = gl.num_warps()
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [32 * 8 // D, D // 8], [WARPS, 1], [1, 0])
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, TOKENS, 16])
    RESULT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, RESULT, 2)
    base = items + item * 8
    pages += gl.load(base)
    begin = gl.load(base + 1)
    end = gl.minimum(gl.load(base + 2), begin + gl.load(base + 6) + grown)
    first_slot = gl.load(base + 3)
    count = gl.load(base + 4)
    first_query = gl.load(base + 5)
    head_at = head.to(gl.int64)
    keys += head_at * head_stride
    values += head_at * head_stride

    row = gl.arange(0, ROWS, gl.SliceLayout(1, COPY))
    listed = row // GROUP < count
    query = gl.where(listed, first_query + row // GROUP, 0)
    q_at = query.to(gl.int64) * q_stride + (head * GROUP + row % GROUP) * D
    dim = gl.arange(0, D, gl.SliceLayout(0, COPY))
    value = gl.load(q + q_at[:, None] + dim[None, :], mask=listed[:, None], other=0.0)
    tile.store(value)

    row = gl.arange(0, ROWS, gl.SliceLayout(1, SCORES))
    valid = row // GROUP < count
    query = gl.where(valid, first_query + row // GROUP, 0)
    position = gl.load(positions + query, mask=valid, other=-1).to(gl.int32)
    seen = gl.minimum(end, gl.min(gl.where(valid, position, 2147483647), 0) + 1)
    steps = gl.maximum((end - begin + TOKENS - 1) // TOKENS, 0)
    whole = gl.maximum(seen - begin, 0) // TOKENS

    # Group i of the copies holds K of step i and V of step i - 1.
    page_v = _pages_of(pages, begin, end, PAGE, TOKENS, COPY)
    page_k = page_v
    for i in gl.static_range(DEPTH - 1):
        _copy_tile(k_ring.index(i), keys, page_k, begin + i * TOKENS, end, i, steps,
                   D, PAGE, STRIDE, GUARD, TOKENS, COPY)  # fmt: skip
        if i > 0:
            _copy_tile(v_ring.index(i - 1), values, page_v, begin + (i - 1) * TOKENS, end, i - 1, steps,
                       D, PAGE, STRIDE, GUARD, TOKENS, COPY)  # fmt: skip
        async_copy.commit_group()
        page_v = page_k
        page_k = _pages_of(pages, begin + (i + 1) * TOKENS, end, PAGE, TOKENS, COPY)
    page_next = _pages_of(pages, begin + DEPTH * TOKENS, end, PAGE, TOKENS, COPY)

    async_copy.wait_group(DEPTH - 2)
    fence_async_shared()
    zero = gl.zeros([ROWS, TOKENS], gl.float32, SCORES)
    score = warpgroup_mma(tile, k_ring.index(0).permute((1, 0)), zero, use_acc=False)
    at = begin + (DEPTH - 1) * TOKENS
    _copy_tile(k_ring.index(DEPTH - 1), keys, page_k, at, end, DEPTH - 1, steps,
               D, PAGE, STRIDE, GUARD, TOKENS, COPY)  # fmt: skip
    _copy_tile(v_ring.index(DEPTH - 2), values, page_v, at - TOKENS, end, DEPTH - 2, steps,
               D, PAGE, STRIDE, GUARD, TOKENS, COPY)  # fmt: skip
    async_copy.commit_group()
    page_v = page_k
    page_k = page_next
    page_next = _pages_of(pages, at + 2 * TOKENS, end, PAGE, TOKENS, COPY)
    score = _masked(score, begin, end, position, TOKENS, SCORES)
    lowest = gl.full([ROWS], NOTHING, gl.float32, gl.SliceLayout(1, SCORES))
    greatest = gl.maximum(lowest, gl.max(score, 1) * scale)
    p = gl.exp2(score * scale - greatest[:, None])
    total = gl.sum(p, 1)
    acc = gl.zeros([ROWS, D], gl.float32, RESULT)
    weight = gl.convert_layout(p.to(tile.dtype), WEIGHTS)

    for index in range(1, whole):
        greatest, total, acc, weight, page_v, page_k, page_next = _step(
            index, tile, k_ring, v_ring, keys, values, pages, page_v, page_k, page_next, begin, end, steps,
            position, greatest, total, acc, weight, scale, D, PAGE, STRIDE, GUARD, ROWS, TOKENS, DEPTH,
            COPY, SCORES, RESULT, WEIGHTS, False,
        )  # fmt: skip
    for index in range(gl.maximum(whole, 1), steps):
        greatest, total, acc, weight, page_v, page_k, page_next = _step(
            index, tile, k_ring, v_ring, keys, values, pages, page_v, page_k, page_next, begin, end, steps,
            position, greatest, total, acc, weight, scale, D, PAGE, STRIDE, GUARD, ROWS, TOKENS, DEPTH,
            COPY, SCORES, RESULT, WEIGHTS, True,
        )  # fmt: skip
    async_copy.wait_group(0)
    fence_async_shared()
    acc = warpgroup_mma(weight, v_ring.index((gl.maximum(steps, 1) - 1) % DEPTH), acc)

    lse = gl.where(total > 0, greatest + gl.log2(total), NOTHING)
    slot = gl.load(query_slots + first_slot + row // GROUP, mask=valid, other=0)
    part = slot.to(gl.int64) * HEADS + head * GROUP + row % GROUP
    gl.store(partial_lse + part, lse, mask=valid & (slot >= 0))

    row = gl.arange(0, ROWS, gl.SliceLayout(1, RESULT))
    valid = row // GROUP < count
    query = gl.where(valid, first_query + row // GROUP, 0)
    slot = gl.load(query_slots + first_slot + row // GROUP, mask=valid, other=0)
    total = gl.convert_layout(total, gl.SliceLayout(1, RESULT))
    result = acc / gl.where(total > 0, total, 1.0)[:, None]
    dim = gl.arange(0, D, gl.SliceLayout(0, RESULT))
    query_head = head * GROUP + row % GROUP
    alone = valid & (slot < 0)
    out_at = query.to(gl.int64) * out_stride + query_head * D
    gl.store(out + out_at[:, None] + dim[None, :], result.to(out.dtype.element_ty), mask=alone[:, None])
    part = (slot.to(gl.int64) * HEADS + query_head) * D
    gl.store(partial + part[:, None] + dim[None, :], result, mask=(valid & (slot >= 0))[:, None])


@gluon.jit
def attend_wide(
    counts, items, query_slots, pages, positions,
    q, q_stride, keys, values, head_stride, out, out_stride, partial, partial_lse, scale,
    HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr, PAGE: gl.constexpr, STRIDE: gl.constexpr,
    GUARD: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """Every wide item for every K/V head, by a fixed number of programs of ROWS // 16 warps."""
    KV_HEADS: gl.constexpr = HEADS // GROUP
    DTYPE: gl.constexpr = q.dtype.element_ty
    ROW_TILE: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], DTYPE)
    STEP_TILE: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TOKENS, D], DTYPE)
    tile = gl.allocate_shared_memory(DTYPE, [ROWS, D], ROW_TILE)
    k_ring = gl.allocate_shared_memory(DTYPE, [DEPTH, TOKENS, D], STEP_TILE)
    v_ring = gl.allocate_shared_memory(DTYPE, [DEPTH, TOKENS, D], STEP_TILE)
    count = gl.load(counts + 1) * KV_HEADS
    grown = gl.load(counts + 2)
    for work in range(gl.program_id(0), count, gl.num_programs(0)):
        _item(
            work // KV_HEADS, work % KV_HEADS, grown, items, query_slots, pages, positions,
            q, q_stride, keys, values, head_stride, out, out_stride, partial, partial_lse, scale,
            tile, k_ring, v_ring, HEADS, GROUP, D, PAGE, STRIDE, GUARD, ROWS, TOKENS, DEPTH,
        )  # fmt: skip
