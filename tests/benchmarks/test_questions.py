"""Every question of `dendrite-bench`, asked with tiny settings: its rows have the names and make sense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.measure.client import ServerRefused, connect
from benchmarks.measure.server import dendrite_server
from benchmarks.measure.target import Asked
from benchmarks.tokenizer import first_disagreement

TINY = ["--model", "shape:llama-8m", "--threads", "1"]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with dendrite_server(["--threads", "1"]) as url:
        yield url


class Asks:
    """Runs a question and reads its JSON line back."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> list[dict[str, Any]]:
        main(list(arguments))
        record = json.loads(self._capsys.readouterr().out.splitlines()[-1])
        assert record["benchmark"] == arguments[0]
        assert record["commit"]
        assert record["hardware"]
        rows: list[dict[str, Any]] = record["rows"]
        return rows


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asks:
    return Asks(capsys)


def test_decode_through_the_engine(ask: Asks) -> None:
    # What the model has no room for is left out.
    lengths = ["--prompt-length", "16", "--output-length", "8,10000"]
    (row,) = ask("decode", *TINY, *lengths, "--trials", "2")
    assert row["decode_p50_ms"] <= row["decode_p99_ms"]
    assert row["decode_tok_s"] > 0
    assert row["time_to_first_token_ms"] > 0
    assert row["bandwidth_share_pct"] > 0


def test_decode_through_a_server(ask: Asks, base_url: str) -> None:
    (row,) = ask(
        "decode", "--base-url", base_url, "--prompt-length", "16", "--output-length", "8", "--trials", "1"
    )
    assert row["decode_tok_s"] > 0
    assert "bandwidth_share_pct" not in row


def test_fork_overhead(ask: Asks) -> None:
    lengths = ["--prefix-length", "100,20000", "--num-forks", "1,4"]
    rows = ask("fork-overhead", *TINY, *lengths, "--trials", "1")
    assert [(row["prefix_length"], row["num_forks"]) for row in rows] == [
        (100, 1),
        (100, 4),
        (20000, 1),
        (20000, 4),
    ]
    assert all(0 < row["fork_time_us"] <= row["fork_p99_us"] for row in rows)
    assert all(0 < row["memory_overhead_bytes"] < 10_000 for row in rows)
    # The model has no room for the longer past, whose bookkeeping is measured all the same.
    assert [row["first_token_after_fork_ms"] is None for row in rows] == [False, False, True, True]


def test_fork_overhead_of_a_server(ask: Asks, base_url: str) -> None:
    (row,) = ask(
        "fork-overhead", "--base-url", base_url, "--prefix-length", "100", "--num-forks", "4", "--trials", "1"
    )
    assert 0 < row["fork_time_us"] < row["first_token_after_fork_ms"] * 1e3


def test_memory_profile(ask: Asks) -> None:
    small, large = ask(
        "memory-profile", *TINY, "--scenario", "64 branches of one prompt", "--page-size", "8,32"
    )
    # 512 tokens are shared; each branch has 63 of its own in KV: 8 pages of 8, or 2 of 32.
    assert small["kv_pages_allocated"] == 512 // 8 + 64 * 8
    assert large["kv_pages_allocated"] == 512 // 32 + 64 * 2
    assert large["kv_pages_shared"] == 512 // 32
    assert large["sharing_ratio"] == pytest.approx(64 * 18 / (16 + 128))
    assert large["fragmentation_pct"] == pytest.approx(100 * 64 / (144 * 32))


def test_serve_and_what_http_costs(ask: Asks) -> None:
    rows = ask(
        "serve",
        *TINY,
        "--streams",
        "1,4",
        "--requests",
        "4",
        "--output-length",
        "8",
        "--load",
        "50",
        "--seconds",
        "1",
    )
    assert [(row["way"], row["loop"], row["streams"]) for row in rows] == [
        ("HTTP", "closed", 1),
        ("HTTP", "closed", 4),
        ("HTTP", "open", None),
        ("engine", "closed", 1),
        ("engine", "closed", 4),
    ]
    over_http, bare = rows[0], rows[3]
    assert over_http["server_share_pct"] == pytest.approx(
        100 * (1 - over_http["tokens_s"] / bare["tokens_s"])
    )
    assert all(row["tokens_s"] == pytest.approx(8 * row["requests_s"]) for row in rows)


def test_vs_takes_the_first_server_as_one(ask: Asks, base_url: str) -> None:
    asked = ["--url", f"a={base_url}", "--url", f"b={base_url}", "--rounds", "1", "--patience", "0"]
    asked += ["--workload", "single_tok_s", "tree_s"]
    first, second = ask("vs", *asked)
    assert (first["server"], second["server"]) == ("a", "b")
    assert first["tree_ratio"] == first["single_ratio"] == 1
    assert second["tree_ratio"] == pytest.approx(second["tree_s"] / first["tree_s"])
    assert second["single_ratio"] == pytest.approx(first["single_tok_s"] / second["single_tok_s"])


async def test_an_answer_of_another_length_is_no_measurement(base_url: str) -> None:
    async with connect(base_url) as server:
        assert server.has_tree
        (timeline,) = await server.stream(Asked([5, 6, 7], 12))
        assert timeline.tokens == 12
        with pytest.raises(ServerRefused, match="Invalid 'n'"):
            await server.complete(Asked([5], 1, n=100_000))


def test_constraint_overhead(ask: Asks) -> None:
    settings = ["--output-length", "24", "--trials", "2"]
    as_asked, drawn = ask("constraint-overhead", *settings)
    assert as_asked["masks_per_token"] < 1 == drawn["masks_per_token"], "forced tokens need no mask"
    for row in (as_asked, drawn):
        assert min(row["unconstrained_tok_s"], row["constrained_tok_s"]) > 0
        assert 0 < row["mask_time_us_p50"] <= row["mask_time_us_p99"]


def test_tokenizer_agrees_before_it_is_timed(ask: Asks) -> None:
    rows = ask("tokenizer", "--rounds", "3")
    assert [row["characters"] for row in rows] == [100, 1_000, 10_000, 100_000]
    assert all(0 < row["tokens"] <= row["characters"] + 3 for row in rows)
    assert all(row["ratio"] > 0 for row in rows)


def test_two_tokenizers_that_differ_are_found_out() -> None:
    assert first_disagreement(list_of_codes, list_of_codes, []) is None
    found = first_disagreement(list_of_codes, lambda text: list_of_codes(text.replace("漢", "x")), [])
    assert found is not None
    assert "漢" in found


def list_of_codes(text: str) -> list[int]:
    return list(map(ord, text))


def test_determinism(ask: Asks) -> None:
    ordinary, deterministic = ask("determinism", "--prompts", "2", "--output-length", "6")
    assert ordinary["compared"] == deterministic["compared"] == 2 * 2 * 4
    assert deterministic["bits_differ"] == deterministic["tokens_differ"] == 0
    assert min(row["crowd_tok_s"] for row in (ordinary, deterministic)) > 0


def test_event_stream(ask: Asks) -> None:
    ours, theirs = ask("event-stream", "--frames", "50", "--streams", "20", "--rounds", "3")
    assert (ours["response"], theirs["response"]) == ("ours", "sse-starlette")
    assert ours["frame_us"] < theirs["frame_us"], "the reason for having our own"
