# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""The wide tiles of tree attention for Hopper: one group of warps multiplies while another exponentiates.

Same work list and same results as `tree_kernels.attend`, in Gluon, where it is said explicitly who does what.
Four warps only copy: they bring K and V of one step after another into two rings, across items. Two groups of
four warps take half of a tile's rows each and never meet: each waits for the ring, multiplies the scores of
step j and the values of step j - 1, and lets the slots go.

    loader      K0 V0 K1 V1 K2 V2 ...          waits where a slot is still read
    attender 0  K0 | K1 V0 | K2 V1 | ...       softmax after every K, hidden by the products of the other
    attender 1  K0 | K1 V0 | K2 V1 | ...
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

NOTHING = gl.constexpr(-1.0e30)
# What Triton 3.6 and 3.9 call by different names.
meet = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier
bring = async_copy.async_load if hasattr(async_copy, "async_load") else async_copy.async_copy_global_to_shared


@gluon.jit
def _bounds(base, grown, TOKENS: gl.constexpr):
    """First token, end, and how many steps: at least one, which may see nothing."""
    begin = gl.load(base + 1)
    end = gl.minimum(gl.load(base + 2), begin + gl.load(base + 6) + grown)
    steps = gl.maximum((end - begin + TOKENS - 1) // TOKENS, 1)
    return begin, end, steps


@gluon.jit
def _load(
    counts, items, pages, keys, values, head_stride, k_ring, v_ring, k_full, k_empty, v_full, v_empty,
    KV_HEADS: gl.constexpr, D: gl.constexpr, PAGE: gl.constexpr, STRIDE: gl.constexpr, GUARD: gl.constexpr,
    TOKENS: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """Bring K and V of every step of every item of this program into the rings."""
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [32 * 8 // D, D // 8], [4, 1], [1, 0])
    row = gl.arange(0, TOKENS, gl.SliceLayout(1, COPY))
    dim = gl.arange(0, D, gl.SliceLayout(0, COPY))
    count = gl.load(counts + 1) * KV_HEADS
    grown = gl.load(counts + 2)
    done = gl.program_id(0) * 0
    for work in range(gl.program_id(0), count, gl.num_programs(0)):
        base = items + work // KV_HEADS * 8
        begin, end, steps = _bounds(base, grown, TOKENS)
        listed = pages + gl.load(base)
        head_at = (work % KV_HEADS).to(gl.int64) * head_stride
        k_head = keys + head_at
        v_head = values + head_at
        last = gl.maximum(end - 1, begin)
        token = gl.minimum(begin + row, last)
        page = gl.load(listed + token // PAGE)
        for index in range(steps):
            place = (page * STRIDE + (token % PAGE + GUARD)) * D
            at = place[:, None] + dim[None, :]
            token = gl.minimum(begin + (index + 1) * TOKENS + row, last)
            page = gl.load(listed + token // PAGE)
            slot = done % DEPTH
            free = (done // DEPTH + 1) & 1
            mbarrier.wait(k_empty.index(slot), free)
            bring(k_ring.index(slot), k_head + at)
            async_copy.mbarrier_arrive(k_full.index(slot), increment_count=False)
            mbarrier.wait(v_empty.index(slot), free)
            bring(v_ring.index(slot), v_head + at)
            async_copy.mbarrier_arrive(v_full.index(slot), increment_count=False)
            done += 1


@gluon.jit
def _softmax(
    score, start, end, position, greatest, scale,
    TOKENS: gl.constexpr, SCORES: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Weights of one step relative to the new maximum, and that maximum."""
    if MASKED:
        token = start + gl.arange(0, TOKENS, gl.SliceLayout(0, SCORES))
        sees = (token[None, :] < end) & (token[None, :] <= position[:, None])
        score = gl.where(sees, score, float("-inf"))
    higher = gl.maximum(greatest, gl.max(score, 1) * scale)
    return gl.exp2(score * scale - higher[:, None]), higher


@gluon.jit
def _step(
    done, start, end, tile, k_ring, v_ring, k_full, k_empty, v_full, v_empty,
    position, greatest, total, acc, weight, scale,
    HALF: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr,
    SCORES: gl.constexpr, RESULT: gl.constexpr, WEIGHTS: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Scores of step `done`, values of the step before it."""
    slot = done % DEPTH
    mbarrier.wait(k_full.index(slot), (done // DEPTH) & 1)
    fence_async_shared()
    zero = gl.zeros([HALF, TOKENS], gl.float32, SCORES)
    score = warpgroup_mma(tile, k_ring.index(slot).permute((1, 0)), zero, use_acc=False, is_async=True)
    before = done - 1
    v_slot = before % DEPTH
    mbarrier.wait(v_full.index(v_slot), (before // DEPTH) & 1)
    fence_async_shared()
    acc = warpgroup_mma(weight, v_ring.index(v_slot), acc, is_async=True)
    score = warpgroup_mma_wait(1, deps=[score])
    mbarrier.arrive(k_empty.index(slot))
    p, higher = _softmax(score, start, end, position, greatest, scale, TOKENS, SCORES, MASKED)
    fade = gl.exp2(greatest - higher)
    total = total * fade + gl.sum(p, 1)
    acc = warpgroup_mma_wait(0, deps=[acc])
    mbarrier.arrive(v_empty.index(v_slot))
    acc = acc * gl.convert_layout(fade, gl.SliceLayout(1, RESULT))[:, None]
    weight = gl.convert_layout(p.to(k_ring.dtype), WEIGHTS)
    return higher, total, acc, weight


@gluon.jit
def _attend(
    counts, items, query_slots, positions, q, q_stride, out, out_stride, partial, partial_lse, scale,
    tile, k_ring, v_ring, k_full, k_empty, v_full, v_empty,
    WHO: gl.constexpr, HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr,
    HALF: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """Half WHO of the rows of every item of this program."""
    KV_HEADS: gl.constexpr = HEADS // GROUP
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [32 * 8 // D, D // 8], [4, 1], [1, 0])
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 16])
    RESULT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, RESULT, 2)
    work_count = gl.load(counts + 1) * KV_HEADS
    grown = gl.load(counts + 2)
    done = gl.program_id(0) * 0
    for work in range(gl.program_id(0), work_count, gl.num_programs(0)):
        head = work % KV_HEADS
        base = items + work // KV_HEADS * 8
        begin, end, steps = _bounds(base, grown, TOKENS)
        first_slot = gl.load(base + 3)
        count = gl.load(base + 4)
        first_query = gl.load(base + 5)
        if count * GROUP <= WHO * HALF:
            # None of the queries is ours; the slots have to be let go all the same.
            for _ in range(steps):
                slot = done % DEPTH
                mbarrier.wait(k_full.index(slot), (done // DEPTH) & 1)
                mbarrier.arrive(k_empty.index(slot))
                mbarrier.wait(v_full.index(slot), (done // DEPTH) & 1)
                mbarrier.arrive(v_empty.index(slot))
                done += 1
        else:
            row = WHO * HALF + gl.arange(0, HALF, gl.SliceLayout(1, COPY))
            listed = row // GROUP < count
            query = gl.where(listed, first_query + row // GROUP, 0)
            q_at = query.to(gl.int64) * q_stride + (head * GROUP + row % GROUP) * D
            dim = gl.arange(0, D, gl.SliceLayout(0, COPY))
            tile.store(gl.load(q + q_at[:, None] + dim[None, :], mask=listed[:, None], other=0.0))
            fence_async_shared()
            meet()

            row = WHO * HALF + gl.arange(0, HALF, gl.SliceLayout(1, SCORES))
            valid = row // GROUP < count
            query = gl.where(valid, first_query + row // GROUP, 0)
            position = gl.load(positions + query, mask=valid, other=-1).to(gl.int32)
            seen = gl.minimum(end, gl.min(gl.where(valid, position, 2147483647), 0) + 1)
            whole = gl.maximum(seen - begin, 0) // TOKENS

            slot = done % DEPTH
            mbarrier.wait(k_full.index(slot), (done // DEPTH) & 1)
            fence_async_shared()
            zero = gl.zeros([HALF, TOKENS], gl.float32, SCORES)
            score = warpgroup_mma(tile, k_ring.index(slot).permute((1, 0)), zero, use_acc=False)
            mbarrier.arrive(k_empty.index(slot))
            greatest = gl.full([HALF], NOTHING, gl.float32, gl.SliceLayout(1, SCORES))
            p, greatest = _softmax(score, begin, end, position, greatest, scale, TOKENS, SCORES, True)
            total = gl.sum(p, 1)
            acc = gl.zeros([HALF, D], gl.float32, RESULT)
            weight = gl.convert_layout(p.to(k_ring.dtype), WEIGHTS)
            done += 1
            for index in range(1, whole):
                greatest, total, acc, weight = _step(
                    done, begin + index * TOKENS, end, tile, k_ring, v_ring, k_full, k_empty, v_full, v_empty,
                    position, greatest, total, acc, weight, scale, HALF, TOKENS, DEPTH,
                    SCORES, RESULT, WEIGHTS, False,
                )  # fmt: skip
                done += 1
            for index in range(gl.maximum(whole, 1), steps):
                greatest, total, acc, weight = _step(
                    done, begin + index * TOKENS, end, tile, k_ring, v_ring, k_full, k_empty, v_full, v_empty,
                    position, greatest, total, acc, weight, scale, HALF, TOKENS, DEPTH,
                    SCORES, RESULT, WEIGHTS, True,
                )  # fmt: skip
                done += 1
            before = done - 1
            slot = before % DEPTH
            mbarrier.wait(v_full.index(slot), (before // DEPTH) & 1)
            fence_async_shared()
            acc = warpgroup_mma(weight, v_ring.index(slot), acc)
            mbarrier.arrive(v_empty.index(slot))

            lse = gl.where(total > 0, greatest + gl.log2(total), NOTHING)
            slot_of = gl.load(query_slots + first_slot + row // GROUP, mask=valid, other=0)
            part = slot_of.to(gl.int64) * HEADS + head * GROUP + row % GROUP
            gl.store(partial_lse + part, lse, mask=valid & (slot_of >= 0))

            row = WHO * HALF + gl.arange(0, HALF, gl.SliceLayout(1, RESULT))
            valid = row // GROUP < count
            query = gl.where(valid, first_query + row // GROUP, 0)
            slot_of = gl.load(query_slots + first_slot + row // GROUP, mask=valid, other=0)
            total = gl.convert_layout(total, gl.SliceLayout(1, RESULT))
            result = acc / gl.where(total > 0, total, 1.0)[:, None]
            dim = gl.arange(0, D, gl.SliceLayout(0, RESULT))
            query_head = head * GROUP + row % GROUP
            alone = valid & (slot_of < 0)
            out_at = query.to(gl.int64) * out_stride + query_head * D
            gl.store(
                out + out_at[:, None] + dim[None, :], result.to(out.dtype.element_ty), mask=alone[:, None]
            )
            part = (slot_of.to(gl.int64) * HEADS + query_head) * D
            gl.store(partial + part[:, None] + dim[None, :], result, mask=(valid & (slot_of >= 0))[:, None])


@gluon.jit
def attend_wide(
    counts, items, query_slots, pages, positions,
    q, q_stride, keys, values, head_stride, out, out_stride, partial, partial_lse, scale,
    HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr, PAGE: gl.constexpr, STRIDE: gl.constexpr,
    GUARD: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """Every wide item for every K/V head, by a fixed number of programs of 4 + 4 + 4 warps."""
    KV_HEADS: gl.constexpr = HEADS // GROUP
    HALF: gl.constexpr = ROWS // 2
    DTYPE: gl.constexpr = q.dtype.element_ty
    ROW_TILE: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HALF, D], DTYPE)
    STEP_TILE: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TOKENS, D], DTYPE)
    tiles = gl.allocate_shared_memory(DTYPE, [2, HALF, D], ROW_TILE)
    k_ring = gl.allocate_shared_memory(DTYPE, [DEPTH, TOKENS, D], STEP_TILE)
    v_ring = gl.allocate_shared_memory(DTYPE, [DEPTH, TOKENS, D], STEP_TILE)
    k_full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(DEPTH):
        # Every thread of the loader arrives when its copies have; each group of attenders once.
        mbarrier.init(k_full.index(slot), count=128)
        mbarrier.init(v_full.index(slot), count=128)
        mbarrier.init(k_empty.index(slot), count=2)
        mbarrier.init(v_empty.index(slot), count=2)
    gl.warp_specialize([
        (_attend, (
            counts, items, query_slots, positions, q, q_stride, out, out_stride, partial, partial_lse, scale,
            tiles.index(0), k_ring, v_ring, k_full, k_empty, v_full, v_empty,
            0, HEADS, GROUP, D, HALF, TOKENS, DEPTH,
        )),
        (_attend, (
            counts, items, query_slots, positions, q, q_stride, out, out_stride, partial, partial_lse, scale,
            tiles.index(1), k_ring, v_ring, k_full, k_empty, v_full, v_empty,
            1, HEADS, GROUP, D, HALF, TOKENS, DEPTH,
        )),
        (_load, (
            counts, items, pages, keys, values, head_stride, k_ring, v_ring, k_full, k_empty, v_full, v_empty,
            KV_HEADS, D, PAGE, STRIDE, GUARD, TOKENS, DEPTH,
        )),
    ], [4, 4], [224, 56])  # fmt: skip
