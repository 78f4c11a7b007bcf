# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""Triton kernels of a decode step: norms, rotation and products for few rows. Imported on CUDA only.

A product for few rows is bound by reading its weight once, so what comes before and after it is computed
on the way: the RMS norm of its input, SiLU gating, the residual sum. With `PDL` a kernel is launched while
the one before still runs and fetches the first of its weights into the L2 cache before it waits for it.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _await_previous(PDL: tl.constexpr):
    """Let the next kernel start, and wait for what the one before has written."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _fetch(w, first, width, rows: tl.constexpr, columns: tl.constexpr, stride: tl.constexpr):
    """Ask for the first columns of some rows, `first` and on, to be brought into the L2 cache.

    64 numbers are a line. Beyond the last of `width` rows it is the last one again: nothing may lie there.
    """
    line = tl.arange(0, rows * (columns // 64))
    row = tl.minimum(first + line // (columns // 64), width - 1).to(tl.int64)
    at = row * stride + line % (columns // 64) * 64
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [w + at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit(do_not_specialize=["rows"])
def product(
    x, x_stride, w, bias, out, rows, width,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, SPLITS: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
    FETCH: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out = x `[rows, K]` @ w `[width, K]`^T for at most BLOCK_M rows. Programs: (blocks of width, SPLITS).

    With one split `[rows, width]`; with more each sums its part of K, and out is float32
    `[SPLITS, rows, width]`, for the next kernel to add up. GATED reads `[2 * width, K]` and gives
    silu(first half) * second half. The weight is the left operand, because tensor cores want many rows there.
    How many rows there are changes nothing in the code, and is no reason to compile it again.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    split = tl.program_id(1)
    PART: tl.constexpr = K // SPLITS
    in_n = n < width
    in_m = m < rows
    w += split * PART
    x += split * PART
    w_at = w + tl.minimum(n, width - 1).to(tl.int64)[:, None] * K + k[None, :]
    if FETCH > 0:
        first = tl.program_id(0) * BLOCK_N
        _fetch(w, first, width, BLOCK_N, FETCH, K)
        if GATED:
            _fetch(w + width.to(tl.int64) * K, first, width, BLOCK_N, FETCH, K)
    _await_previous(PDL)
    x_at = x + m[None, :] * x_stride + k[:, None]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in tl.range(0, PART, BLOCK_K, num_stages=STAGES):
        weight = tl.load(w_at + start)
        value = tl.load(x_at + start, mask=in_m[None, :], other=0.0)
        acc = tl.dot(weight, value, acc)
        if GATED:
            more = tl.load(w_at + start + width * K)
            up = tl.dot(more, value, up)
    if BIASED:
        once = tl.where(split == 0, width, 0)
        acc += tl.load(bias + n, mask=n < once, other=0.0).to(tl.float32)[:, None]
    if GATED:
        gate = acc.to(x.dtype.element_ty).to(tl.float32)
        acc = gate / (1.0 + tl.exp(-gate)) * up.to(x.dtype.element_ty).to(tl.float32)
    at = (split * rows + m)[None, :] * width + n[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=in_n[:, None] & in_m[None, :])


@triton.jit
def _vector_sum(
    x, w, norm, n, width, eps,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, NORMED: tl.constexpr, GATED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One row `[K]`, NORMED or not, times rows n of w `[width, K]`, or of both its halves: float32."""
    k = tl.arange(0, BLOCK_K)
    w_at = w + tl.minimum(n, width - 1).to(tl.int64)[:, None] * K + k[None, :]
    weight = tl.load(w_at)
    if GATED:
        more = tl.load(w_at + width * K)
    _await_previous(PDL)
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    up = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    for start in range(0, K, BLOCK_K):
        following = tl.minimum(start + BLOCK_K, K - BLOCK_K)
        next_weight = tl.load(w_at + following)
        if GATED:
            next_more = tl.load(w_at + following + width * K)
        value = tl.load(x + start + k).to(tl.float32)
        if NORMED:
            squares += value * value
            value *= tl.load(norm + start + k).to(tl.float32)
        acc += weight.to(tl.float32) * value[None, :]
        weight = next_weight
        if GATED:
            up += more.to(tl.float32) * value[None, :]
            more = next_more
    total = tl.sum(acc, 1)
    gate = tl.sum(up, 1)
    if NORMED:
        factor = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        total *= factor
        gate *= factor
    return total, gate


@triton.jit
def vector_product(
    x, w, bias, residual, norm, out, width, eps,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, NORMED: tl.constexpr, GATED: tl.constexpr,
    BIASED: tl.constexpr, RESIDUAL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`product` for one row, without tensor cores: K has to be a multiple of BLOCK_K."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < width
    total, gate = _vector_sum(x, w, norm, n, width, eps, K, BLOCK_N, BLOCK_K, NORMED, GATED, PDL)
    if BIASED:
        total += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)
    if GATED:
        total = total / (1.0 + tl.exp(-total)) * gate
    if RESIDUAL:
        total += tl.load(residual + n, mask=in_n, other=0.0).to(tl.float32)
    tl.store(out + n, total.to(out.dtype.element_ty), mask=in_n)


@triton.jit(do_not_specialize_on_alignment=["positions", "places"])
def vector_qkv(
    x, w, bias, norm, queries, positions, places, rotations, keys, head_stride, width, eps,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BIASED: tl.constexpr,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`vector_product` of a normed row with the weights of Q, K and V, and `rotate_and_store` of the outcome.

    A block of the width lies in one head.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    head = tl.program_id(0) * BLOCK_N // D
    pair = tl.program_id(0) * BLOCK_N % D + 2 * tl.arange(0, BLOCK_N // 2)
    at = tl.load(positions).to(tl.int64) * D + pair
    cos = tl.load(rotations + at)
    sin = tl.load(rotations + at + 1)
    place = tl.load(places).to(tl.int64)
    total, _ = _vector_sum(x, w, norm, n, width, eps, K, BLOCK_N, BLOCK_K, True, False, PDL)
    if BIASED:
        total += tl.load(bias + n).to(tl.float32)
    value = total.to(queries.dtype.element_ty).to(tl.float32)
    real, imaginary = tl.split(tl.reshape(value, [BLOCK_N // 2, 2]))
    turned = tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos)
    value = tl.where(head < HEADS + KV_HEADS, tl.reshape(turned, [BLOCK_N]), value)
    value = value.to(queries.dtype.element_ty)
    tl.store(queries + n, value, mask=n < HEADS * D)
    to = (head - HEADS).to(tl.int64) * head_stride + place * D + n % D
    tl.store(keys + to, value, mask=n >= tl.where(place >= 0, HEADS * D, width))


@triton.jit
def _sum_parts(parts, at, stride, mask, PARTS: tl.constexpr):
    """Float32 sum of the parts of a product `[PARTS, stride numbers]`, in order."""
    total = tl.load(parts + at, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        total += tl.load(parts + tl.cast(stride, tl.int64) * part + at, mask=mask, other=0.0)
    return total


@triton.jit
def rms_norm(
    x, added, norm, out, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADDS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """x += added, in place; out = x / rms(x) * norm. One program per row of `[T, WIDTH]`.

    added is `[ADDS, T, WIDTH]`, the parts of a product; ADDS may be 0.
    """
    at = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, BLOCK)
    inside = tl.arange(0, BLOCK) < WIDTH
    gain = tl.load(norm + tl.arange(0, BLOCK), mask=inside, other=0.0).to(tl.float32)
    _await_previous(PDL)
    value = tl.load(x + at, mask=inside, other=0.0)
    if ADDS > 0:
        more = _sum_parts(added, at, tl.num_programs(0) * WIDTH, inside, ADDS).to(value.dtype)
        value = (value.to(tl.float32) + more.to(tl.float32)).to(value.dtype)
        tl.store(x + at, value, mask=inside)
    wide = value.to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    tl.store(out + at, (wide * factor * gain).to(out.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out `[T, WIDTH]` = silu(gate) * up of gate_up `[T, 2 * WIDTH]`. Programs: (T, blocks)."""
    _await_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize_on_alignment=["positions", "places"])
def rotate_and_store(
    qkv, queries, positions, places, rotations, head_norm, keys, head_stride, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HEAD_NORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rotate queries into `[T, HEADS, D]`, rotate keys and store them and the values in the cache.

    `qkv` is `[PARTS, T, all heads, D]`, the parts of a product. Pairs of channels lie next to each other.
    `keys` is `[2 * KV_HEADS, places, D]`, keys first; a place below 0 is stored nowhere. Programs: (T,
    blocks of BLOCK_H of all HEADS + 2 * KV_HEADS).
    """
    _await_previous(PDL)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    dim = tl.arange(0, BLOCK_D)
    ALL: tl.constexpr = HEADS + 2 * KV_HEADS
    inside = (head < ALL)[:, None] & (dim < D)[None, :]
    at = (token * ALL + head)[:, None] * D + dim[None, :]
    value = _sum_parts(qkv, at, tl.num_programs(0) * ALL * D, inside, PARTS)
    value = value.to(queries.dtype.element_ty).to(tl.float32)
    turned = head < HEADS + KV_HEADS
    if HEAD_NORM:
        factor = tl.rsqrt(tl.sum(value * value, 1) / D + eps)
        gain = tl.load(head_norm + head[:, None] * D + dim[None, :], mask=inside & turned[:, None], other=0.0)
        normed = (value * factor[:, None]).to(queries.dtype.element_ty).to(tl.float32) * gain.to(tl.float32)
        value = tl.where(turned[:, None], normed.to(queries.dtype.element_ty).to(tl.float32), value)
    position = tl.load(positions + token).to(tl.int64)
    pair = tl.arange(0, BLOCK_D // 2)
    in_pair = pair < D // 2
    cos = tl.load(rotations + position * D + 2 * pair, mask=in_pair, other=1.0)
    sin = tl.load(rotations + position * D + 2 * pair + 1, mask=in_pair, other=0.0)
    real, imaginary = tl.split(tl.reshape(value, [BLOCK_H, BLOCK_D // 2, 2]))
    turned_real = real * cos[None, :] - imaginary * sin[None, :]
    turned_imaginary = real * sin[None, :] + imaginary * cos[None, :]
    rotated = tl.reshape(tl.join(turned_real, turned_imaginary), [BLOCK_H, BLOCK_D])
    value = tl.where(turned[:, None], rotated, value).to(queries.dtype.element_ty)
    is_query = (head < HEADS)[:, None]
    to = (token * HEADS + head)[:, None] * D + dim[None, :]
    tl.store(queries + to, value, mask=inside & is_query)
    place = tl.load(places + token).to(tl.int64)
    to = (head - HEADS).to(tl.int64)[:, None] * head_stride + place * D + dim[None, :]
    first = tl.where(place >= 0, HEADS, ALL)
    tl.store(keys + to, value, mask=inside & (head >= first)[:, None])
