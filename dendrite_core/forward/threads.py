"""How many threads a step on the CPU uses: what has been fastest lately, found by trying.

A step of a small model is hundreds of short operators, and threads meet at the end of each. On idle cores
more threads are faster; where another process holds one of them up, every meeting takes a slice of the
scheduler's, and the same step a hundred times as long. So a neighbouring number is tried now and then, as
often as the time that trials lost allows, and the next lower one at once when a step takes strangely long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

TRIAL_STEPS = 3
FASTER = 0.95
STRANGE = 2.0
SPENT_ON_TRIALS = 0.03
LARGEST_KIND = 7


class Threads:
    """The number of threads by kind of step, a kind being a power of two of new tokens; at most `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._searches: dict[int, Search] = {}

    @contextmanager
    def step(self, tokens: int) -> Iterator[None]:
        """Run a step of `tokens` new tokens with the number to use, and learn from how long it takes."""
        if self.most == 1:
            yield
            return
        kind = min((tokens - 1).bit_length(), LARGEST_KIND)
        if kind not in self._searches:
            self._searches[kind] = Search(self.most)
        search = self._searches[kind]
        torch.set_num_threads(search.threads)
        started = perf_counter()
        yield
        search.took((perf_counter() - started) / tokens)


class Search:
    """Which of 1, 2, 4, ... `most` is fastest for steps of one kind, as the machine's load changes."""

    def __init__(self, most: int) -> None:
        self.ladder = [*(1 << i for i in range((most - 1).bit_length())), most]
        self._at = max(0, len(self.ladder) - 3)
        self._trial: int | None = None
        self._tried: list[float] = []
        self._recent: deque[float] = deque(maxlen=8)
        self._steps = 0
        self._due = [0] * len(self.ladder)
        self._losses = [0] * len(self.ladder)

    @property
    def threads(self) -> int:
        """What the next step should use."""
        return self.ladder[self._at if self._trial is None else self._trial]

    def took(self, seconds: float) -> None:
        """A step with `threads` threads took so long."""
        self._steps += 1
        if self._trial is None:
            self._recent.append(seconds)
            self._trial = self._next_trial()
            return
        self._tried.append(seconds)
        if len(self._tried) == TRIAL_STEPS or seconds > STRANGE * max(self._recent):
            self._judge(self._trial)

    def _next_trial(self) -> int | None:
        if len(self._recent) < TRIAL_STEPS:
            return None
        lower, higher = self._at - 1, self._at + 1
        if lower >= 0 and self._recent[-1] > STRANGE * min(self._recent):
            return lower
        due = (i for i in (higher, lower) if 0 <= i < len(self.ladder) and self._steps >= self._due[i])
        return next(due, None)

    def _judge(self, trial: int) -> None:
        """Move if the trial was faster. The loser is due again when its loss is a small part of the time."""
        usual = sum(self._recent) / len(self._recent)
        # Threads that slept are slow to start, so the first step of a whole trial does not count.
        tried = self._tried[1:] if len(self._tried) == TRIAL_STEPS else self._tried
        found = sum(tried) / len(tried)
        won = found < FASTER * usual
        loser, best = (self._at, found) if won else (trial, usual)
        lost = sum(seconds - best for seconds in (self._recent if won else self._tried))
        self._losses[loser] += 1
        patience = max(lost / best, self._losses[loser]) / SPENT_ON_TRIALS
        self._due[loser] = self._steps + int(min(patience, 1e6))
        if won:
            self._at = trial
            self._recent.clear()
        self._tried.clear()
        self._trial = None
