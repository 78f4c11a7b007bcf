"""top_k, top_p and min_p as one number per row: the least probability that may still be drawn.

They apply in that order after temperature, top_p to what top_k leaves (renormalised), as in transformers
and, without min_p, in vLLM. Tokens exactly as likely as the last one kept are kept too, so that the outcome
does not hang on the order of a sort.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dendrite_core.params import SamplingParams
from dendrite_core.sampling.pick import greatest_k

# Almost every row is decided by its 64 best tokens; only flat ones need more.
_WIDTHS = (64, 1024)


def least_kept(probabilities: Tensor, params: Sequence[SamplingParams]) -> Tensor | None:
    """The cut of each row as a column, None when no row has a filter. [R, V] -> [R, 1]"""
    limited = [row for row, p in enumerate(params) if p.top_k is not None or p.top_p < 1.0]
    floors = [p.min_p for p in params]
    if not limited and not any(floors):
        return None
    cut = torch.zeros(len(params), dtype=probabilities.dtype, device=probabilities.device)
    if any(floors):
        cut = probabilities.amax(-1) * torch.tensor(floors, dtype=cut.dtype, device=cut.device)
    if limited:
        _raise_to_limits(cut, probabilities, limited, params)
    return cut[:, None]


def _raise_to_limits(
    cut: Tensor, probabilities: Tensor, rows: list[int], params: Sequence[SamplingParams]
) -> None:
    length = probabilities.shape[1]
    for width in (*(w for w in _WIDTHS if w < length), length):
        among = probabilities if len(rows) == len(params) else probabilities[rows]
        values = greatest_k(among, width)[0]
        limit, decided = _limits(values, [params[row] for row in rows], length)
        where = torch.tensor(rows, device=cut.device)
        cut[where] = torch.where(decided, torch.maximum(cut[where], limit), cut[where])
        rows = [row for row, done in zip(rows, decided.tolist(), strict=True) if not done]
        if not rows:
            return
    raise AssertionError("the whole vocabulary decides every row")


def _limits(values: Tensor, params: Sequence[SamplingParams], length: int) -> tuple[Tensor, Tensor]:
    """The least kept of each row's best tokens, and whether those were enough to know. [R, K] -> [R] twice"""
    width = values.shape[1]
    counts = [min(p.top_k or length, length) for p in params]
    columns = [counts, [p.top_p if p.top_p < 1.0 else math.inf for p in params]]
    count, share = torch.tensor(columns, dtype=torch.float64, device=values.device)[:, :, None]
    sums = values.cumsum(-1, dtype=torch.float64)
    inside = torch.arange(width, device=values.device) < count
    last = count.clamp_max(width).long() - 1
    mass = torch.where(count < length, sums.gather(1, last), 1.0)
    kept = inside & (sums - values < share * mass)
    limit = values.gather(1, kept.sum(-1, keepdim=True) - 1)
    reached = (count <= width) | ((count == length) & (sums[:, -1:] >= share))
    return limit.squeeze(1), reached.squeeze(1)
