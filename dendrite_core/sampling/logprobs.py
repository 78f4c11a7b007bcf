"""Log-probabilities as reported: of the model's own logits, before temperature, penalties or masks.

That is OpenAI's meaning and vLLM's default (`raw_logprobs`): what the model believed, not how it was drawn.
They are computed where the logits are, and read when they are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dendrite_core.batching.batch import Draw, Score
from dendrite_core.params import MAX_TOP_LOGPROBS
from dendrite_core.sampling.pick import greatest_k
from dendrite_core.sampling.transfers import Download, upload

# Natural-log probability of the drawn token, and (token id, logprob) of the likeliest, best first.
Logprobs = tuple[float, list[tuple[int, float]]]


class Logprobed:
    """Logprobs of tokens `[N]`, each on its own or a shared row of logits, on their way from the device."""

    def __init__(self, logits: Tensor, rows: Sequence[int], tokens: Tensor, tops: Sequence[int]) -> None:
        """logits: [R, V]. rows, tokens, tops: N each, `tops` how many of the likeliest are wanted."""
        distinct = sorted(set(rows))
        at = {row: index for index, row in enumerate(distinct)}
        self._tops, self._sources = tops, [at[row] for row in rows]
        if len(distinct) != len(logits):
            logits = logits.index_select(0, upload(distinct, torch.int64, logits.device))
        logprobs = torch.log_softmax(logits, -1, dtype=torch.float32)
        sources = upload(self._sources, torch.int64, logits.device)
        found = [logprobs[sources, tokens.to(torch.int64)]]
        if any(tops):
            # Always the same k: which of equals come last could otherwise hang on what a neighbour asked for.
            found += greatest_k(logprobs, min(MAX_TOP_LOGPROBS, logprobs.shape[1]))
        self._download = Download(found)

    def read(self) -> list[Logprobs]:
        """One entry per token, in their order."""
        chosen, *best = (tensor.tolist() for tensor in self._download.read())
        tops: list[list[tuple[int, float]]] = [[]] * len(chosen)
        if best:
            pairs = [list(zip(ids, values, strict=True)) for values, ids in zip(*best, strict=True)]
            tops = [pairs[source][:top] for source, top in zip(self._sources, self._tops, strict=True)]
        return list(zip(chosen, tops, strict=True))


class Reported:
    """For each draw what its `params.logprobs` asks for. logits: [R, V]; tokens: [D] on their device."""

    def __init__(self, logits: Tensor, draws: Sequence[Draw], tokens: Tensor) -> None:
        self._draws = len(draws)
        self._asked = [at for at, draw in enumerate(draws) if draw.params.logprobs is not None]
        self._found: Logprobed | None = None
        if self._asked:
            if len(self._asked) != len(draws):
                tokens = tokens.index_select(0, upload(self._asked, torch.int64, tokens.device))
            rows = [draws[at].logits_row for at in self._asked]
            self._found = Logprobed(
                logits, rows, tokens, [draws[at].params.logprobs or 0 for at in self._asked]
            )

    def read(self) -> list[Logprobs | None]:
        """None for a draw that asks for nothing."""
        entries: list[Logprobs | None] = [None] * self._draws
        if self._found is not None:
            for at, entry in zip(self._asked, self._found.read(), strict=True):
                entries[at] = entry
        return entries


def score(logits: Tensor, scores: Sequence[Score]) -> Logprobed:
    """Logprobs of given tokens, each with its own row of logits. logits: [R, V]"""
    with torch.inference_mode():
        tokens = upload([entry.token_id for entry in scores], torch.int64, logits.device)
        rows = [entry.logits_row for entry in scores]
        return Logprobed(logits, rows, tokens, [entry.top for entry in scores])
