"""When the tokens of an answer came, and the field's latencies computed from that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.record import percentile


@dataclass(slots=True)
class Timeline:
    """One choice of one request: when it was sent, when its parts came, and how many tokens they held.

    Seconds of one clock. A part is what arrived at once: one token where every step is sent.
    """

    sent: float
    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0

    def add(self, at: float, tokens: int) -> None:
        """A part of `tokens` tokens came; one without tokens is no arrival."""
        if tokens:
            self.arrivals.append(at)
            self.tokens += tokens

    @property
    def time_to_first_token(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between parts, one less than there are parts."""
        return [later - sooner for sooner, later in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first part, which is counted as one token."""
        return (self.tokens - 1) / (self.arrivals[-1] - self.arrivals[0])


def latencies(timelines: Iterable[Timeline]) -> dict[str, float]:
    """Keys ttft_p50_ms, ttft_p99_ms, itl_p50_ms, itl_p99_ms; gaps of all answers are taken together."""
    told = [one for one in timelines if one.arrivals]
    first = [one.time_to_first_token for one in told]
    gaps = [gap for one in told for gap in one.gaps] or [0.0]
    return {
        "ttft_p50_ms": percentile(first, 50) * 1e3,
        "ttft_p99_ms": percentile(first, 99) * 1e3,
        "itl_p50_ms": percentile(gaps, 50) * 1e3,
        "itl_p99_ms": percentile(gaps, 99) * 1e3,
    }


def decode_figures(timelines: Sequence[Timeline]) -> dict[str, float]:
    """Keys decode_tok_s (median of trials), decode_p50_ms, decode_p99_ms, time_to_first_token_ms (median)."""
    gaps = [gap for one in timelines for gap in one.gaps]
    return {
        "decode_tok_s": median(one.decode_rate for one in timelines),
        "decode_p50_ms": percentile(gaps, 50) * 1e3,
        "decode_p99_ms": percentile(gaps, 99) * 1e3,
        "time_to_first_token_ms": median(one.time_to_first_token for one in timelines) * 1e3,
    }
