"""top_k, top_p and min_p as one number per row: the least probability that may still be drawn.

They apply in that order after temperature, top_p to what top_k leaves (renormalised), as in transformers
and, without min_p, in vLLM. Tokens exactly as likely as the last one kept are kept too, so that the outcome
does not hang on the order of a sort.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dendrite_core.params import SamplingParams
from dendrite_core.sampling.pick import greatest_values

# Almost every row is decided by its 64 best tokens; only flat ones need more.
_WIDTHS = (64, 1024)

Floats = NDArray[np.float32]


def least_kept(probabilities: Tensor, params: Sequence[SamplingParams]) -> Tensor | None:
    """The cut of each row as a column, None when no row has a filter. [R, V] -> [R, 1]"""
    limited = [row for row, p in enumerate(params) if p.top_k is not None or p.top_p < 1.0]
    floors = [p.min_p for p in params]
    cut = None
    if limited:
        cut = torch.from_numpy(_limits(probabilities, params, limited)).to(probabilities.device)[:, None]
    if any(floors):
        shares = torch.tensor(floors, dtype=probabilities.dtype, device=probabilities.device)
        floor = probabilities.amax(-1, keepdim=True) * shares[:, None]
        cut = floor if cut is None else torch.maximum(cut, floor)
    return cut


def _limits(probabilities: Tensor, params: Sequence[SamplingParams], rows: list[int]) -> Floats:
    """What top_k and top_p demand of each row, zero where they demand nothing. [R, V] -> [R]"""
    limits = np.zeros(len(params), dtype=np.float32)
    length = probabilities.shape[1]
    for width in (*(w for w in _WIDTHS if w < length), length):
        among = probabilities if len(rows) == len(params) else probabilities[rows]
        values = greatest_values(among, width).cpu().numpy()
        found, decided = _judge(values, [params[row] for row in rows], length)
        limits[rows] = found
        rows = [row for row, done in zip(rows, decided.tolist(), strict=True) if not done]
        if not rows:
            break
    return limits


def _judge(values: Floats, params: Sequence[SamplingParams], length: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The least kept of each row's best tokens, and whether those were enough to know. [R, K] -> [R] twice"""
    width, every = values.shape[1], np.arange(len(values))
    count = np.array([min(p.top_k or length, length) for p in params])
    share = np.array([p.top_p if p.top_p < 1.0 else math.inf for p in params])
    sums = values.cumsum(-1, dtype=np.float64)
    mass = np.where(count < length, sums[every, np.minimum(count, width) - 1], 1.0)
    before = sums - values
    kept = np.minimum((before < (share * mass)[:, None]).sum(-1), count)
    # A row of NaN keeps nothing; it is found out when its total is.
    limit = values[every, np.maximum(kept, 1) - 1]
    covered = (count == length) & (sums[:, -1] >= share)
    return limit, covered | (count <= width) | (width == length)
