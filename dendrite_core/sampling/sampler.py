"""`Sampler`: one step's logits to one token per draw.

Order: logit_bias, penalties, allowed and banned ids, grammar masks (on float32 logits), temperature, top_k,
top_p, min_p, then an inverse-CDF draw with one counter-based number per draw, or the greatest when greedy.
What a draw gives depends on its own row and parameters only, never on the batch it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dendrite_core.batching.batch import Draw
from dendrite_core.sampling import pick
from dendrite_core.sampling.filters import least_kept
from dendrite_core.sampling.logprobs import Logprobs, Reported
from dendrite_core.sampling.penalties import TokenMasks, adjusted
from dendrite_core.sampling.seeding import uniforms
from dendrite_core.sampling.transfers import Download

# Dividing by less overflows float32 for ordinary logits; vLLM draws the same line.
GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was drawn, in the order of the draws.

    `faults` names draws that had nothing to draw from (every token forbidden, or logits that are not
    numbers) and why; their token id means nothing.
    """

    token_ids: list[int]
    logprobs: list[Logprobs | None]
    faults: dict[int, str] = field(default_factory=dict)


class Drawn:
    """What was drawn while it is still on the device. found: int `[D]`, -1 where nothing could be drawn."""

    def __init__(self, found: Tensor, reported: Reported) -> None:
        self._found = found
        self._download = Download([found])
        self._reported = reported

    @property
    def tokens(self) -> Tensor:
        """The token ids on the device `[D]`, to be fed to the next step; some id also where there is none."""
        return self._found.clamp_min(0)

    def read(self) -> Sampled:
        """What was drawn, on the CPU; waits until it is there."""
        token_ids: list[int] = self._download.read()[0].tolist()
        faults = {at: _FAULT for at, token in enumerate(token_ids) if token < 0}
        for at in faults:
            token_ids[at] = 0
        return Sampled(token_ids, self._reported.read(), faults)


class Sampler:
    """Draws tokens from logits of `vocab_size` on `device`.

    Keeps nothing between steps but working memory: on a CPU fresh pages cost more than the arithmetic.
    """

    def __init__(self, vocab_size: int, device: str | torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = torch.device(device)
        self._memory = torch.empty(2, 0, vocab_size, device=self.device)

    def sample(self, logits: Tensor, draws: Sequence[Draw], masks: TokenMasks | None = None) -> Sampled:
        """One token per draw. logits: [R, V] float32, which draws point into and which stay as they are."""
        return self.launch(logits, draws, masks).read()

    def launch(self, logits: Tensor, draws: Sequence[Draw], masks: TokenMasks | None = None) -> Drawn:
        """As `sample`, without waiting for what comes out."""
        assert logits.shape[1] == self.vocab_size, "logits are not of this vocabulary"
        with torch.inference_mode():
            tokens = self.tokens(logits, draws, masks)
            return Drawn(tokens, Reported(logits, draws, tokens))

    def tokens(self, logits: Tensor, draws: Sequence[Draw], masks: TokenMasks | None = None) -> Tensor:
        """Token ids on the device `[D]`, -1 for a draw that has nothing to draw from. logits: [R, V]"""
        assert logits.dtype == torch.float32, "sampling is done in float32"
        own = adjusted(self._gathered(logits, draws), draws, masks, out=self._scratch(0, len(draws)))
        return self._choose(own, draws)

    def _scratch(self, which: int, rows: int) -> Tensor:
        if self._memory.shape[1] < rows:
            self._memory = torch.empty(2, rows, self.vocab_size, device=self.device)
        return self._memory[which, :rows]

    def _gathered(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Every draw's own row, without a copy in the usual case of one draw for each. [R, V] -> [D, V]"""
        rows = [draw.logits_row for draw in draws]
        if rows == list(range(len(logits))):
            return logits
        where = torch.tensor(rows, device=logits.device)
        return torch.index_select(logits, 0, where, out=self._scratch(0, len(rows)))

    def _choose(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Token ids on the device, -1 for a draw that has nothing to draw from. [D, V] -> [D]"""
        random = [row for row, draw in enumerate(draws) if draw.params.temperature >= GREEDY_BELOW]
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
        temperatures = [p.temperature for p in params]
        work, probabilities = self._scratch(0, len(draws)), self._scratch(1, len(draws))
        if any(temperature != 1.0 for temperature in temperatures):
            divisors = torch.tensor(temperatures, device=logits.device)[:, None]
            logits = torch.div(logits, divisors, out=work)
        torch.softmax(logits, -1, out=probabilities)
        cut = least_kept(probabilities, params)
        if cut is not None:
            probabilities.mul_(torch.ge(probabilities, cut, out=work))
        numbers = uniforms([(draw.seed, draw.stream, draw.position) for draw in draws])
        drawn, total = pick.draw(
            probabilities, torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        )
        return torch.where(total > 0, drawn, -1)


_FAULT = "no token can be drawn: all are forbidden, or the logits are not numbers"


def _greedy(logits: Tensor) -> Tensor:
    token_ids = pick.greatest(logits)
    best = logits.gather(1, token_ids[:, None]).squeeze(1)
    return torch.where(best > -torch.inf, token_ids, -1)
