"""The sampler said slowly: one row at a time, plain numpy in float64, every rule written out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dendrite_core.batching.batch import Draw

Row = NDArray[np.float64]


def distribution(logits: NDArray[np.float32], draw: Draw) -> Row:
    """The probabilities that one draw should follow."""
    row = penalised(logits.astype(np.float64), draw)
    params = draw.params
    if params.greedy:
        chosen = np.zeros_like(row)
        chosen[int(row.argmax())] = 1.0
        return chosen
    probabilities = softmax(row / params.temperature)
    if params.top_k is not None:
        least = np.sort(probabilities)[::-1][: params.top_k][-1]
        probabilities = _only(probabilities, probabilities >= least)
    if params.top_p < 1.0:
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        least = probabilities[order][before < params.top_p][-1]
        probabilities = _only(probabilities, probabilities >= least)
    return _only(probabilities, probabilities >= params.min_p * probabilities.max())


def penalised(row: Row, draw: Draw) -> Row:
    row = row.copy()
    params = draw.params
    for token, bias in params.logit_bias.items():
        row[token] += bias
    for token in set(draw.prompt) | set(draw.output):
        factor = params.repetition_penalty
        row[token] = row[token] / factor if row[token] > 0 else row[token] * factor
    for token in draw.output:
        row[token] -= params.frequency_penalty
    for token in set(draw.output):
        row[token] -= params.presence_penalty
    if params.allowed_token_ids is not None:
        row[[token for token in range(len(row)) if token not in params.allowed_token_ids]] = -np.inf
    row[list(draw.banned)] = -np.inf
    return row


def softmax(row: Row) -> Row:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def _only(probabilities: Row, kept: NDArray[np.bool_]) -> Row:
    rest = np.where(kept, probabilities, 0.0)
    return rest / rest.sum()
