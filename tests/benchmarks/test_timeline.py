"""Latencies of timings made by hand."""

from __future__ import annotations

import pytest

from benchmarks.measure.timeline import Timeline, decode_figures, latencies


def answer(sent: float, *arrivals: float) -> Timeline:
    """One token at each of the times."""
    timeline = Timeline(sent)
    for at in arrivals:
        timeline.add(at, 1)
    return timeline


def test_first_token_and_gaps() -> None:
    timeline = answer(10.0, 10.5, 10.75, 11.5)
    assert timeline.time_to_first_token == 0.5
    assert timeline.gaps == [0.25, 0.75]
    assert timeline.decode_rate == 2 / 1.0


def test_a_part_of_several_tokens_is_one_arrival_and_an_empty_one_is_none() -> None:
    timeline = answer(0.0, 1.0)
    timeline.add(2.0, 0)
    timeline.add(3.0, 4)
    assert (timeline.arrivals, timeline.tokens) == ([1.0, 3.0], 5)
    assert timeline.decode_rate == 4 / 2.0


def test_decode_figures_are_medians_of_trials_and_percentiles_of_all_gaps() -> None:
    trials = [answer(0, 1, 2, 3), answer(0, 2, 4, 6), answer(0, 3, 7, 11)]
    assert decode_figures(trials) == {
        "decode_tok_s": 0.5,
        "decode_p50_ms": pytest.approx(2000),
        "decode_p99_ms": pytest.approx(4000),
        "time_to_first_token_ms": pytest.approx(2000),
    }


def test_latencies_leave_out_what_brought_no_token() -> None:
    told = latencies([answer(0, 0.1, 0.2), answer(0, 0.3, 0.6), Timeline(0.0)])
    assert told["ttft_p99_ms"] == pytest.approx(300)
    assert told["itl_p99_ms"] == pytest.approx(300)
    assert told["itl_p50_ms"] in (pytest.approx(100), pytest.approx(300))
