"""Log-probabilities as reported: of the model's own logits, before temperature, penalties or masks.

That is OpenAI's meaning and vLLM's default (`raw_logprobs`): what the model believed, not how it was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dendrite_core.batching.batch import Draw, Score
from dendrite_core.params import MAX_TOP_LOGPROBS
from dendrite_core.sampling.pick import greatest_k

# Natural-log probability of the drawn token, and (token id, logprob) of the likeliest, best first.
Logprobs = tuple[float, list[tuple[int, float]]]


def report(logits: Tensor, draws: Sequence[Draw], token_ids: Sequence[int]) -> list[Logprobs | None]:
    """For each draw what its `params.logprobs` asks for, None where it asks for nothing. logits: [R, V]"""
    asked = [at for at, draw in enumerate(draws) if draw.params.logprobs is not None]
    found: list[Logprobs | None] = [None] * len(draws)
    if not asked:
        return found
    rows = sorted({draws[at].logits_row for at in asked})
    logprobs = torch.log_softmax(logits if len(rows) == len(logits) else logits[rows], -1)
    row_of = {row: index for index, row in enumerate(rows)}
    sources = [row_of[draws[at].logits_row] for at in asked]
    chosen = logprobs[sources, [token_ids[at] for at in asked]].tolist()
    top = _best(logprobs) if any(draws[at].params.logprobs for at in asked) else [[]] * len(rows)
    for at, source, logprob in zip(asked, sources, chosen, strict=True):
        found[at] = (logprob, top[source][: draws[at].params.logprobs])
    return found


def score(logits: Tensor, scores: Sequence[Score]) -> list[Logprobs]:
    """Logprobs of given tokens, each with its own row of logits. logits: [R, V]"""
    with torch.inference_mode():
        logprobs = torch.log_softmax(logits[[entry.logits_row for entry in scores]], -1)
        chosen = logprobs[range(len(scores)), [entry.token_id for entry in scores]].tolist()
        top = _best(logprobs) if any(entry.top for entry in scores) else [[]] * len(scores)
    return [(value, best[: e.top]) for value, best, e in zip(chosen, top, scores, strict=True)]


def _best(logprobs: Tensor) -> list[list[tuple[int, float]]]:
    # Always the same k: which of equals come last could otherwise hang on what a neighbour asked for.
    values, ids = greatest_k(logprobs, min(MAX_TOP_LOGPROBS, logprobs.shape[1]))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [list(zip(row_ids, row_values, strict=True)) for row_ids, row_values in pairs]
