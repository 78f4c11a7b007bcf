# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""The wide tiles of tree attention for Hopper: one group of warps multiplies while another exponentiates.

Same work list and same results as `tree_kernels.attend`, in Gluon, where it is said explicitly who does what.
Two warps only ask for copies, one for K and one for V: page after page goes from the store into a ring by
the tensor copy engine, across items. Two groups of four warps take half of a tile's rows each and never meet:
each waits for the rings, multiplies the scores of step j and the values of step j - 1, and lets the slots go.

    loader K    K0 K1 K2 ...                   waits where a slot is still read
    loader V    V0 V1 V2 ...
    attender 0  K0 | K1 V0 | K2 V1 | ...       softmax after every K, hidden by the products of the other
    attender 1  K0 | K1 V0 | K2 V1 | ...
"""

from __future__ import annotations

from typing import Any

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

NOTHING = gl.constexpr(-1.0e30)
# What Triton 3.6 and 3.9 call by different names.
meet = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier
bring = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
REINTERPRETS = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))
# How many channels of a page the copy engine brings at a time: what it swizzles are 128 bytes.
SLICE = gl.constexpr(64)


def sizes(queries: int) -> tuple[int, int, int]:
    """Rows of a tile, tokens of a step, slots of the rings.

    Many queries are bound by arithmetic, which long steps interrupt less often. With few the kernels before
    and after matter as much, and less shared memory is faster to come by.
    """
    return (128, 64, 3) if queries <= 64 else (128, 128, 2)


def takes(head_dim: int, page_size: int) -> bool:
    """Whether heads are whole slices, and steps whole pages of whole groups of 8 swizzled rows."""
    return head_dim in (64, 128) and page_size % 8 == 0 and 64 % page_size == 0


def described(layer: Any, page_size: int) -> TensorDescriptor:
    """K and V of one layer `[2 * kv_heads, places, d]` as the copy engine sees them, page by page.

    A Tensor: it has no name here, as this file is also compiled by processes that do not import torch.
    """
    heads, places, width = layer.shape
    block = [page_size, SLICE.value]
    # Of the type only its size matters.
    layout = gl.NVMMASharedLayout.get_default_for(block, gl.bfloat16)
    return TensorDescriptor(layer, [heads * places, width], [width, 1], block, layout)


@gluon.jit
def _bounds(base, grown, TOKENS: gl.constexpr):
    """First token, end, and how many steps: at least one, which may see nothing."""
    begin = gl.load(base + 1)
    end = gl.minimum(gl.load(base + 2), begin + gl.load(base + 6) + grown)
    steps = gl.maximum((end - begin + TOKENS - 1) // TOKENS, 1)
    return begin, end, steps


@gluon.jit
def _load(
    counts, items, pages, store, places, first_row, ring, full, empty, brought,
    KV_HEADS: gl.constexpr, D: gl.constexpr, PAGE: gl.constexpr, STRIDE: gl.constexpr, GUARD: gl.constexpr,
    TOKENS: gl.constexpr, DEPTH: gl.constexpr, ZEROED: gl.constexpr,
):  # fmt: skip
    """Bring K, or V, of every step of every item of this program into its ring.

    The K, or V, of the first head begin at row `first_row` of the store. What lies past an item's end may be
    another sequence's and no number at all. Scores of it are masked, but a weight of 0 does not make it
    harmless as a value: with ZEROED it is overwritten by 0, once it was `brought`, before it counts as there.
    """
    PAGES: gl.constexpr = TOKENS // PAGE
    SLICES: gl.constexpr = D // SLICE
    DTYPE: gl.constexpr = ring.dtype
    BLOCK: gl.constexpr = gl.NVMMASharedLayout.get_default_for([PAGE, SLICE], DTYPE)
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [1, 1], [1, 0])
    if REINTERPRETS:
        blocks = ring.reinterpret(DTYPE, [DEPTH * SLICES * PAGES, PAGE, SLICE], BLOCK)
    else:
        blocks = ring._reinterpret(DTYPE, [DEPTH * SLICES * PAGES, PAGE, SLICE], BLOCK)
    count = gl.load(counts + 1) * KV_HEADS
    grown = gl.load(counts + 2)
    nowhere = 2 * KV_HEADS * places
    done = gl.program_id(0) * 0
    torn = done
    for work in range(gl.program_id(0), count, gl.num_programs(0)):
        base = items + work // KV_HEADS * 8
        begin, end, steps = _bounds(base, grown, TOKENS)
        listed = pages + gl.load(base) + begin // PAGE
        head_row = first_row + work % KV_HEADS * places + GUARD
        whole = gl.maximum(end - begin, 0) // TOKENS
        for index in range(whole):
            slot = done % DEPTH
            mbarrier.wait(empty.index(slot), (done // DEPTH + 1) & 1)
            mbarrier.expect(full.index(slot), TOKENS * D * 2)
            for page in gl.static_range(PAGES):
                row = head_row + gl.load(listed + index * PAGES + page) * STRIDE
                for part in gl.static_range(SLICES):
                    block = blocks.index((slot * SLICES + part) * PAGES + page)
                    bring(store, [row, part * SLICE], full.index(slot), block)
            done += 1
        if whole < steps:
            rest = gl.maximum(end - begin, 0) - whole * TOKENS
            slot = done % DEPTH
            mbarrier.wait(empty.index(slot), (done // DEPTH + 1) & 1)
            arrived = brought if ZEROED else full.index(slot)
            mbarrier.expect(arrived, TOKENS * D * 2)
            for page in gl.static_range(PAGES):
                there = page * PAGE < rest
                row = head_row + gl.load(listed + whole * PAGES + page, mask=there, other=0) * STRIDE
                # Beyond the store the copy engine brings zeros.
                row = gl.where(there, row, nowhere)
                for part in gl.static_range(SLICES):
                    block = blocks.index((slot * SLICES + part) * PAGES + page)
                    bring(store, [row, part * SLICE], arrived, block)
            if ZEROED:
                mbarrier.wait(brought, torn & 1)
                torn += 1
                kept = gl.arange(0, PAGE, gl.SliceLayout(1, COPY)) < rest % PAGE
                if rest % PAGE > 0:
                    for part in gl.static_range(SLICES):
                        block = blocks.index((slot * SLICES + part) * PAGES + rest // PAGE)
                        value = block.load(COPY)
                        block.store(gl.where(kept[:, None], value, gl.zeros([PAGE, SLICE], DTYPE, COPY)))
                    fence_async_shared()
                mbarrier.arrive(full.index(slot))
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
    before = done - 1
    v_slot = before % DEPTH
    mbarrier.wait(k_full.index(slot), (done // DEPTH) & 1)
    mbarrier.wait(v_full.index(v_slot), (before // DEPTH) & 1)
    zero = gl.zeros([HALF, TOKENS], gl.float32, SCORES)
    score = warpgroup_mma(tile, k_ring.index(slot).permute((1, 0)), zero, use_acc=False, is_async=True)
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


@gluon.jit(do_not_specialize_on_alignment=["positions", "places"])
def attend_wide(
    counts, items, query_slots, pages, positions, store, places,
    q, q_stride, out, out_stride, partial, partial_lse, scale,
    HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr, PAGE: gl.constexpr, STRIDE: gl.constexpr,
    GUARD: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """Every wide item for every K/V head, by a fixed number of programs of 4 + 4 + 1 + 1 warps.

    `store` describes one layer, `[2 * KV_HEADS * places, D]`, to the copy engine; TOKENS are whole pages.
    """
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
    brought = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(brought, count=1)
    for slot in gl.static_range(DEPTH):
        # A loader arrives once, beside the bytes it asked for; each group of attenders once.
        mbarrier.init(k_full.index(slot), count=1)
        mbarrier.init(v_full.index(slot), count=1)
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
            counts, items, pages, store, places, 0, k_ring, k_full, k_empty, brought,
            KV_HEADS, D, PAGE, STRIDE, GUARD, TOKENS, DEPTH, False,
        )),
        (_load, (
            counts, items, pages, store, places, KV_HEADS * places, v_ring, v_full, v_empty, brought,
            KV_HEADS, D, PAGE, STRIDE, GUARD, TOKENS, DEPTH, True,
        )),
    ], [4, 1, 1], [224, 56, 56])  # fmt: skip
