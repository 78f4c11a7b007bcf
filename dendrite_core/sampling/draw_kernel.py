# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""Triton kernels from logits to tokens; imported on CUDA only. A row never sees another.

No sort and no scan over the vocabulary. What changes logits works on a copy of them; then `block_sums` adds
up blocks, `find_cuts` finds what top_k and top_p keep, and `choose` inverts the cumulative sum, first over
blocks and then inside one.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Columns of one upload lie where the number of draws puts them, which is no reason to compile again: a row
# reads few numbers of each.
_ANYWHERE = ["inverse_temperatures", "highest", "best", "sums", "cuts", "floors", "greatest", "numbers"]


@triton.jit
def copy_rows(logits, stride, rows, out, WIDTH, BLOCK: tl.constexpr):
    """Each draw's own copy of its row of logits."""
    draw = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(rows + draw).to(tl.int64)
    value = tl.load(logits + source * stride + at, mask=at < WIDTH, other=0.0).to(tl.float32)
    tl.store(out + draw * WIDTH + at, value, mask=at < WIDTH)


@triton.jit(do_not_specialize=["COUNT"])
def add_at(logits, places, values, COUNT, BLOCK: tl.constexpr):
    """logit_bias and bans: add a number, or minus infinity, at single places of the logits `[D, V]`."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = at < COUNT
    place = tl.load(places + at, mask=valid, other=0)
    tl.atomic_add(logits + place, tl.load(values + at, mask=valid, other=0.0), mask=valid)


@triton.jit(do_not_specialize=["COUNT"], do_not_specialize_on_alignment=["histories", "owners"])
def tally(histories, owners, counts, COUNT, WIDTH, BLOCK: tl.constexpr):
    """Count tokens `[N]` of owners `[N]`; rows 2r and 2r + 1 of counts are of a draw's output and prompt."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = at < COUNT
    owner = tl.load(owners + at, mask=valid, other=0).to(tl.int64)
    token = tl.load(histories + at, mask=valid, other=0)
    tl.atomic_add(counts + owner * WIDTH + token, 1, mask=valid)


@triton.jit(do_not_specialize_on_alignment=["frequencies", "presences"])
def penalise(
    logits, draws, counts, repetitions, frequencies, presences, WIDTH, BLOCK: tl.constexpr
):  # fmt: skip
    """Repetition, then frequency and presence, of the rows `draws` of the logits `[D, V]`, in place."""
    row = tl.program_id(0).to(tl.int64)
    draw = tl.load(draws + row).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < WIDTH
    said = tl.load(counts + 2 * row * WIDTH + at, mask=inside, other=0)
    asked = tl.load(counts + (2 * row + 1) * WIDTH + at, mask=inside, other=0)
    value = tl.load(logits + draw * WIDTH + at, mask=inside, other=0.0)
    factor = tl.load(repetitions + draw)
    repeated = tl.where(value > 0, tl.div_rn(value, factor), value * factor)
    value = tl.where(said + asked > 0, repeated, value)
    # In double, as on a CPU, and rounded once.
    taken = tl.load(frequencies + draw) * said.to(tl.float64) + tl.load(presences + draw)
    value -= tl.where(said > 0, taken, 0.0).to(tl.float32)
    tl.store(logits + draw * WIDTH + at, value, mask=inside)


@triton.jit
def forbid(logits, bits, words, mask_rows, WIDTH, BLOCK: tl.constexpr):
    """Minus infinity for what a mask does not allow. logits: `[D, V]`, in place.

    mask_rows: -1 for a draw without a mask, else which row of `bits` `[M, words]`; bit i is token i.
    """
    draw = tl.program_id(0).to(tl.int64)
    mask_row = tl.load(mask_rows + draw).to(tl.int64)
    if mask_row < 0:
        return
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = tl.load(bits + mask_row * words + at // 32, mask=at < words * 32, other=0)
    forbidden = ((word >> (at % 32)) & 1) == 0
    nothing = tl.full((BLOCK,), float("-inf"), tl.float32)
    tl.store(logits + draw * WIDTH + at, nothing, mask=forbidden & (at < WIDTH))


@triton.jit(do_not_specialize_on_alignment=_ANYWHERE)
def block_sums(
    logits, stride, inverse_temperatures, highest, best, sums, cuts, floors, greatest, WIDTH, BLOCKS,
    BLOCK: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """For each block of each row: the greatest logit, where it is, and the sum of weights relative to it.

    With `CUT` only the sum of what is kept is written: logits from the row's cut on, and weights relative to
    the row's greatest logit from its floor (min_p) on.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logits + row * stride + at, mask=at < WIDTH, other=float("-inf")).to(tl.float32)
    inverse = tl.load(inverse_temperatures + row)
    counted = at < WIDTH
    if CUT:
        top = tl.load(highest + row * BLOCKS + block)
        share = tl.exp((value - tl.load(greatest + row)) * inverse)
        # Said so that NaN counts: the row is found out when its total is.
        left_out = (value < tl.load(cuts + row)) | (share < tl.load(floors + row))
        counted = counted & (left_out == 0)
    else:
        top = tl.max(value, 0)
        tl.store(highest + row * BLOCKS + block, top)
        tl.store(best + row * BLOCKS + block, block * BLOCK + tl.argmax(value, 0))
    # Minus infinity weighs nothing, also at a temperature of 0, and NaN has to stay what it is.
    anchor = tl.where(top == float("-inf"), 0.0, top)
    weight = tl.where(value == float("-inf"), 0.0, tl.exp((value - anchor) * inverse))
    tl.store(sums + row * BLOCKS + block, tl.sum(tl.where(counted, weight, 0.0), 0))


@triton.jit
def above(row, limit, low, greatest, inverse, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Of the logits above `limit`: number, weight, the least; and the greatest between `low` and `limit`."""
    lane = tl.arange(0, BLOCK)
    count = tl.zeros((BLOCK,), tl.int32)
    weight = tl.zeros((BLOCK,), tl.float32)
    least = tl.full((BLOCK,), float("inf"), tl.float32)
    below = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        value = tl.load(row + start + lane, mask=start + lane < WIDTH, other=float("-inf")).to(tl.float32)
        over = value > limit
        count += over.to(tl.int32)
        weight += tl.where(over, tl.exp((value - greatest) * inverse), 0.0)
        least = tl.minimum(least, tl.where(over, value, float("inf")))
        below = tl.maximum(below, tl.where((value <= limit) & (value > low), value, float("-inf")))
    return tl.sum(count, 0), tl.sum(weight, 0), tl.min(least, 0), tl.max(below, 0)


@triton.jit
def least_kept(
    row, low, limit, greatest, inverse, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BY_WEIGHT: tl.constexpr
):
    """The least logit with less than `limit` above it, in number or in weight. Above `low` there is as much.

    Bisection between `low` and the least logit known to be kept, which is always one of the row's own; it
    ends when none lies between. So ties are kept together and the answer is exact, in at most as many passes
    as halve the range to neighbouring floats. Sort-free selection by pivots, as in FlashInfer's sampling
    kernels (Ye et al., 2025), whose pivots are drawn at random.
    """
    high = greatest
    searching = low < high
    while searching:
        middle = low + (high - low) * 0.5
        middle = tl.where(middle < high, middle, low)
        count, weight, least, below = above(row, middle, low, greatest, inverse, WIDTH, BLOCK)
        keeps = weight < limit if BY_WEIGHT else count < limit
        found_below = below > float("-inf")
        searching = tl.where(keeps, found_below, least < high)
        high = tl.where(keeps, tl.where(found_below, below, least), high)
        low = tl.where(keeps, low, middle)
    return high


@triton.jit(do_not_specialize_on_alignment=[*_ANYWHERE, "top_k", "top_p"])
def find_cuts(
    logits, stride, inverse_temperatures, top_k, top_p, highest, sums, cuts, greatest, BLOCKS,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """The least logit of each row that top_k and, of what that leaves, top_p keep; and its greatest."""
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * stride
    lane = tl.arange(0, MOST)
    top = tl.load(highest + index * BLOCKS + lane, mask=lane < BLOCKS, other=float("-inf"))
    summed = tl.load(sums + index * BLOCKS + lane, mask=lane < BLOCKS, other=0.0)
    most = tl.max(top, 0)
    inverse = tl.load(inverse_temperatures + index)
    mass = tl.sum(tl.where(top == float("-inf"), 0.0, summed * tl.exp((top - most) * inverse)), 0)
    kept, share = tl.load(top_k + index), tl.load(top_p + index)
    cut = tl.full((), float("-inf"), tl.float32)
    if (most < float("inf")) & (most > float("-inf")) & (inverse > 0):
        if kept < WIDTH:
            nothing = float("-inf")
            count, _, least, _ = above(row, nothing, nothing, most, inverse, WIDTH, BLOCK)
            if count > kept:
                low = least - tl.maximum(tl.abs(least), 1.0)
                cut = least_kept(row, low, kept, most, inverse, WIDTH, BLOCK, False)
                count, weight, least, _ = above(row, cut, cut, most, inverse, WIDTH, BLOCK)
                # Of equals at the cut, top_p counts as many as top_k asks for.
                mass = weight + (kept - count).to(tl.float32) * tl.exp((cut - most) * inverse)
        if share < 1.0:
            # What weighs (1 - top_p) / WIDTH of the best or less cannot make up for top_p all together.
            low = most - tl.log(WIDTH / tl.maximum(1.0 - share, 1e-7)) / inverse - 1.0
            cut = tl.maximum(cut, least_kept(row, low, share * mass, most, inverse, WIDTH, BLOCK, True))
    tl.store(cuts + index, cut)
    tl.store(greatest + index, most)


@triton.jit(do_not_specialize_on_alignment=[*_ANYWHERE, "tokens"])
def choose(
    logits, stride, inverse_temperatures, numbers, highest, best, sums, cuts, floors, tokens, WIDTH, BLOCKS,
    BLOCK: tl.constexpr, MOST: tl.constexpr, CUT: tl.constexpr,
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
    value = tl.load(logits + row * stride + at, mask=at < WIDTH, other=float("-inf")).to(tl.float32)
    share = tl.exp((value - greatest) * inverse)
    kept = value > float("-inf")
    if CUT:
        kept = kept & (value >= tl.load(cuts + row)) & (share >= tl.load(floors + row))
    inner = tl.where(kept, share.to(tl.float64), 0.0)
    passed = tl.sum((tl.cumsum(inner, 0) + before <= target).to(tl.int32), 0)
    final = tl.max(tl.where(inner > 0, tl.arange(0, BLOCK), 0), 0)
    drawn = chosen * BLOCK + tl.minimum(passed, final)
    first = tl.min(tl.where(top == greatest, lane, MOST - 1), 0)
    greedy = tl.load(best + row * BLOCKS + first)
    token = tl.where(inverse > 0, drawn, greedy)
    fine = (greatest > float("-inf")) & (greatest < float("inf")) & (total > 0)
    tl.store(tokens + row, tl.where(fine, token, -1))
