"""`Sampler`: one step's logits to one token per draw.

Order: logit_bias, penalties, banned ids and grammar masks (on float32 logits), temperature, top_k, top_p,
min_p, then an inverse-CDF draw with one counter-based number per draw, or the greatest when greedy. What a
draw gives depends on its own row and parameters only, never on the batch it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dendrite_core.batching.batch import Draw
from dendrite_core.sampling import logprobs, pick
from dendrite_core.sampling.filters import least_kept
from dendrite_core.sampling.logprobs import Logprobs
from dendrite_core.sampling.penalties import TokenMasks, adjusted
from dendrite_core.sampling.seeding import uniforms

# Dividing by less overflows float32 for ordinary logits; vLLM draws the same line.
_GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was drawn, in the order of the draws.

    `faults` names draws that had nothing to draw from (every token forbidden, or logits that are not
    numbers) and why; their token id means nothing.
    """

    token_ids: list[int]
    logprobs: list[Logprobs | None]
    faults: dict[int, str] = field(default_factory=dict)


class Sampler:
    """Draws tokens from logits of `vocab_size` on `device`. Keeps nothing between steps."""

    def __init__(self, vocab_size: int, device: str | torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = torch.device(device)

    def sample(self, logits: Tensor, draws: Sequence[Draw], masks: TokenMasks | None = None) -> Sampled:
        """One token per draw. logits: [R, V] float32, which draws point into and which stay as they are."""
        assert logits.dtype == torch.float32, "sampling is done in float32"
        assert logits.shape[1] == self.vocab_size, "logits are not of this vocabulary"
        with torch.inference_mode():
            rows = [draw.logits_row for draw in draws]
            own = logits if rows == list(range(len(logits))) else logits[rows]
            own = adjusted(own, draws, masks)
            token_ids: list[int] = self._choose(own, draws).tolist()
            faults = {at: _FAULT for at, token in enumerate(token_ids) if token < 0}
            for at in faults:
                token_ids[at] = 0
            return Sampled(token_ids, logprobs.report(logits, draws, token_ids), faults)

    def _choose(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Token ids on the device, -1 for a draw that has nothing to draw from. [D, V] -> [D]"""
        random = [row for row, draw in enumerate(draws) if draw.params.temperature >= _GREEDY_BELOW]
        if not random:
            return _greedy(logits)
        if len(random) == len(draws):
            return self._random(logits, draws)
        token_ids = _greedy(logits)
        where = torch.tensor(random, device=logits.device)
        token_ids[where] = self._random(logits[where], [draws[row] for row in random])
        return token_ids

    def _random(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        params = [draw.params for draw in draws]
        keys = [(draw.seed, draw.stream, draw.position) for draw in draws]
        columns = [uniforms(keys), [p.temperature for p in params]]
        numbers, temperatures = torch.tensor(columns, dtype=torch.float64).to(logits.device)
        scaled = logits / temperatures[:, None].float()
        probabilities = torch.softmax(scaled, -1)
        cut = least_kept(probabilities, params)
        if cut is not None:
            probabilities.mul_(probabilities >= cut)
        token_ids, total = pick.draw(probabilities, numbers)
        return torch.where(total > 0, token_ids, -1)


_FAULT = "no token can be drawn: all are forbidden, or the logits are not numbers"


def _greedy(logits: Tensor) -> Tensor:
    token_ids = pick.greatest(logits)
    best = logits.gather(1, token_ids[:, None]).squeeze(1)
    return torch.where(best > -torch.inf, token_ids, -1)
