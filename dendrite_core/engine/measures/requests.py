"""How requests fare: their times, sizes and ends, noted by the loop as it tells their readers.

Times are the engine's own, from `submit` to the moment a message is on its way; what HTTP adds is outside.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dendrite_core.engine.measures import histogram
from dendrite_core.engine.measures.histogram import Histogram, HistogramData
from dendrite_core.errors import SequenceFailed


@dataclass(slots=True)
class Clock:
    """When what happened to one request, in seconds of the monotonic clock. `last_token` is by choice."""

    submitted: float
    last_token: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStats:
    """What `RequestMeasures` has noted so far.

    `finished` counts choices by finish reason, `error` among them: each that was asked for ends under one.
    `failed` counts requests that a fault ended.
    """

    queue_seconds: HistogramData
    first_token_seconds: HistogramData
    inter_token_seconds: HistogramData
    whole_seconds: HistogramData
    prompt_tokens: HistogramData
    completion_tokens: HistogramData
    branches: HistogramData
    depth: HistogramData
    finished: dict[str, int]
    failed: int


class RequestMeasures:
    """Notes of all requests since the engine was made; lives on the engine's thread."""

    def __init__(self) -> None:
        self._queue = Histogram(histogram.TO_FIRST_TOKEN)
        self._first_token = Histogram(histogram.TO_FIRST_TOKEN)
        self._inter_token = Histogram(histogram.PER_TOKEN)
        self._whole = Histogram(histogram.PER_REQUEST)
        self._prompt_tokens = Histogram(histogram.COUNTS)
        self._completion_tokens = Histogram(histogram.COUNTS)
        self._branches = Histogram(histogram.BRANCHES)
        self._depth = Histogram(histogram.DEPTHS)
        self._finished = Counter({"stop": 0, "length": 0, "abort": 0, "error": 0})
        self._failed = 0

    def start(self, *, queued: float, prompt_tokens: int, branches: int, depth: int) -> None:
        """A request's prompt is computed; it had waited `queued` seconds for its first step."""
        self._queue.observe(queued)
        self._prompt_tokens.observe(prompt_tokens)
        self._branches.observe(branches)
        self._depth.observe(depth)

    def tokens(self, clock: Clock, choices: Iterable[int]) -> int:
        """One more token for each of these choices of a request; how many those are."""
        now, count = time.monotonic(), 0
        for index in choices:
            count += 1
            before = clock.last_token.get(index)
            if before is not None:
                self._inter_token.observe(now - before)
            elif not clock.last_token:
                self._first_token.observe(now - clock.submitted)
            clock.last_token[index] = now
        return count

    def end(self, clock: Clock, reasons: Iterable[str], completion_tokens: Iterable[int]) -> None:
        """All choices of a request have ended."""
        self._whole.observe(time.monotonic() - clock.submitted)
        for reason, count in zip(reasons, completion_tokens, strict=True):
            self._finished[reason] += 1
            self._completion_tokens.observe(count)

    def break_off(self, reasons: Collection[str], error: Exception) -> None:
        """A request was ended early by an error, its choices for these reasons.

        A caller who was wrong, or who has left, is no fault of the server's.
        """
        self._finished.update(reasons)
        self._failed += isinstance(error, SequenceFailed) and "error" in reasons

    def stats(self) -> RequestStats:
        return RequestStats(
            queue_seconds=self._queue.data(),
            first_token_seconds=self._first_token.data(),
            inter_token_seconds=self._inter_token.data(),
            whole_seconds=self._whole.data(),
            prompt_tokens=self._prompt_tokens.data(),
            completion_tokens=self._completion_tokens.data(),
            branches=self._branches.data(),
            depth=self._depth.data(),
            finished=dict(self._finished),
            failed=self._failed,
        )
