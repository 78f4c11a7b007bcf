"""`/metrics`: well-formed Prometheus text, whose numbers are those of the requests that were made."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dendrite_server.config import ServerConfig
from tests.server.conftest import Serve
from tests.server.test_lifecycle import LONG, raw_request

# Every sample says which model it is about, and what comes after that is its own.
SAMPLE = re.compile(r'(dendrite_[a-z0-9_]+)\{model_name="tiny"((?:,[a-z_]+="[^"]*")*)\} (\S+)')
SHARED_NAMES = {
    "dendrite_num_requests_running",
    "dendrite_num_requests_waiting",
    "dendrite_kv_cache_usage_perc",
    "dendrite_prefix_cache_queries_total",
    "dendrite_prefix_cache_hits_total",
    "dendrite_prompt_tokens_total",
    "dendrite_generation_tokens_total",
    "dendrite_num_preemptions_total",
    "dendrite_request_success_total",
    "dendrite_time_to_first_token_seconds",
    "dendrite_inter_token_latency_seconds",
    "dendrite_time_per_output_token_seconds",
    "dendrite_e2e_request_latency_seconds",
    "dendrite_request_queue_time_seconds",
}
OWN_NAMES = {
    "dendrite_kv_pages",
    "dendrite_forks_total",
    "dendrite_cow_copies_total",
    "dendrite_evictions_total",
    "dendrite_request_tree_depth",
    "dendrite_branches",
}


def parse(text: str) -> tuple[dict[str, str], dict[str, float]]:
    """(kind by family, value by sample); asserts that every line is what the format allows."""
    kinds: dict[str, str] = {}
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            found = SAMPLE.fullmatch(line)
            assert found, line
            family = re.sub(r"_(bucket|sum|count)$", "", found[1])
            assert found[1] in kinds or kinds.get(family) == "histogram", line
            own = found[2].removeprefix(",")
            samples[found[1] + (f"{{{own}}}" if own else "")] = float(found[3])
    return kinds, samples


@pytest.fixture
def fresh(serve: Serve) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serve().url, timeout=30) as client:
        yield client


def scrape(http: httpx.Client) -> dict[str, float]:
    return parse(http.get("/metrics").text)[1]


def complete(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"temperature": 0, "ignore_eos": True, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_names_in_common_use_and_our_own(fresh: httpx.Client) -> None:
    answer = fresh.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    kinds, _ = parse(answer.text)
    assert set(kinds) >= SHARED_NAMES | OWN_NAMES


def test_the_numbers_are_those_of_the_requests(fresh: httpx.Client) -> None:
    first = complete(fresh, prompt="the tree of thoughts is a tree", max_tokens=6, n=3)
    again = complete(fresh, prompt=" and", max_tokens=2, parent_id=first["choices"][0]["branch_id"])
    seen, usages = scrape(fresh), (first["usage"], again["usage"])
    prompts = sum(usage["prompt_tokens"] for usage in usages)
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    assert seen["dendrite_prompt_tokens_total"] == seen["dendrite_prefix_cache_queries_total"] == prompts
    assert seen["dendrite_prefix_cache_hits_total"] == cached > 0
    assert seen["dendrite_generation_tokens_total"] == 3 * 6 + 2
    assert seen['dendrite_request_success_total{finished_reason="length"}'] == 4
    assert seen["dendrite_forks_total"] >= 4
    assert seen["dendrite_request_params_n_sum"] == 4
    # The second prompt hangs below a choice, which hangs below the first prompt.
    assert seen["dendrite_request_tree_depth_sum"] == 2


def test_every_token_and_request_is_timed_once(fresh: httpx.Client) -> None:
    complete(fresh, prompt="a page", max_tokens=5, n=2)
    seen = scrape(fresh)
    assert seen["dendrite_time_to_first_token_seconds_count"] == 1
    assert seen["dendrite_request_queue_time_seconds_count"] == 1
    assert seen["dendrite_e2e_request_latency_seconds_count"] == 1
    assert seen["dendrite_inter_token_latency_seconds_count"] == 2 * 4
    whole = seen["dendrite_e2e_request_latency_seconds_sum"]
    assert 0 <= seen["dendrite_request_queue_time_seconds_sum"] < whole
    assert 0 < seen["dendrite_time_to_first_token_seconds_sum"] < whole
    per_branch = seen["dendrite_inter_token_latency_seconds_sum"] / 2
    assert per_branch <= whole - seen["dendrite_time_to_first_token_seconds_sum"] + 1e-6


def test_buckets_add_up(fresh: httpx.Client) -> None:
    complete(fresh, prompt="a page", max_tokens=5)
    name = "dendrite_inter_token_latency_seconds"
    seen = scrape(fresh)
    buckets = [
        (float(found[1].replace("+Inf", "inf")), value)
        for sample, value in seen.items()
        if (found := re.fullmatch(name + r'_bucket\{le="([^"]+)"\}', sample))
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == (math.inf, seen[f"{name}_count"])


def test_pages_are_counted_as_health_counts_them(fresh: httpx.Client) -> None:
    complete(fresh, prompt="a page", max_tokens=40)
    pages, seen = fresh.get("/health").json()["pages"], scrape(fresh)
    for state in ("free", "used", "shared", "cached"):
        assert seen[f'dendrite_kv_pages{{state="{state}"}}'] == pages[state]


def ends(seen: dict[str, float]) -> dict[str, float]:
    """How many choices ended, by finish reason."""
    name = "dendrite_request_success_total"
    return {found[1]: n for key, n in seen.items() if (found := re.fullmatch(name + r'{.*"(\w+)"}', key))}


def test_every_reason_is_there_before_its_first_choice(fresh: httpx.Client) -> None:
    """So that a rate over it sees the first one as well."""
    assert ends(scrape(fresh)) == {"stop": 0, "length": 0, "abort": 0, "error": 0}


def test_callers_who_leave_before_their_first_token_are_no_failures(serve: Serve) -> None:
    server = serve(max_rows=1)
    with raw_request(server, LONG):
        server.settle("running", 1)
        with raw_request(server, {**LONG, "prompt": "another", "n": 3}):
            server.settle("waiting", 1)
        server.settle("waiting", 0)
    server.settle("running", 0)
    with httpx.Client(base_url=server.url) as http:
        seen = scrape(http)
    assert ends(seen) == {"stop": 0, "length": 0, "abort": 1 + 3, "error": 0}
    assert seen["dendrite_request_failure_total"] == 0


def test_a_parent_that_is_deleted_meanwhile_is_no_failure_of_the_server(serve: Serve) -> None:
    server = serve(max_rows=1)
    with httpx.Client(base_url=server.url, timeout=30) as http:
        parent = complete(http, prompt="a", max_tokens=2)
        with raw_request(server, LONG):
            server.settle("running", 1)
            with raw_request(server, {"parent_id": parent["id"], "max_tokens": 2, "n": 2}):
                server.settle("waiting", 1)
                http.delete(f"/v1/branches/{parent['tree']['prompt_branch_id']}").raise_for_status()
                server.settle("waiting", 0)
        server.settle("running", 0)
        seen = scrape(http)
    assert ends(seen) == {"stop": 0, "length": 1, "abort": 1, "error": 2}
    assert seen["dendrite_request_failure_total"] == 0


def test_a_fault_ends_what_is_left_of_a_request(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    runner = server.engine._loop.runner
    with httpx.Client(base_url=server.url, timeout=30) as http:
        monkeypatch.setattr(runner, "run", lambda batch: 1 / 0)
        assert http.post("/v1/completions", json={"prompt": "a", "n": 2}).status_code == 500
        monkeypatch.undo()
        complete(http, prompt="b", max_tokens=2)
        seen = scrape(http)
    assert ends(seen) == {"stop": 0, "length": 1, "abort": 0, "error": 2}
    assert seen["dendrite_request_failure_total"] == 1


def test_tokens_that_could_only_follow_one_way_are_generated_too(fresh: httpx.Client) -> None:
    held = {"structured_outputs": {"regex": "the tree of (page|root)s"}}
    body = complete(fresh, prompt="a", max_tokens=40, **held)
    seen = scrape(fresh)
    assert body["usage"]["completion_tokens"] > seen["dendrite_steps_total"], "nothing was taken at once"
    assert seen["dendrite_generation_tokens_total"] == body["usage"]["completion_tokens"]
    assert seen["dendrite_request_generation_tokens_sum"] == body["usage"]["completion_tokens"]


def test_what_callers_delete_was_not_given_up_for_want_of_pages(serve: Serve) -> None:
    server = serve(num_pages=24)
    with httpx.Client(base_url=server.url, timeout=30) as http:
        for number in range(3):
            tree = complete(http, prompt=[number] * 40, max_tokens=8, n=3)["tree"]
            http.delete(f"/v1/branches/{tree['prompt_branch_id']}").raise_for_status()
        assert scrape(http)["dendrite_branches_parked_total"] == 0
        for number in range(8):
            complete(http, prompt=[number] * 64, max_tokens=8)
        assert scrape(http)["dendrite_branches_parked_total"] > 0


def test_answers_are_counted_by_status_also_those_that_no_engine_saw(serve: Serve) -> None:
    server = serve(ServerConfig(max_body_bytes=2048), max_rows=1, max_waiting=1)
    with httpx.Client(base_url=server.url, timeout=30) as http:
        before = scrape(http)
        complete(http, prompt="a", max_tokens=2)
        with http.stream("POST", "/v1/completions", json={"prompt": "a", "stream": True}) as stream:
            stream.read()
        http.post("/v1/completions", json={"prompt": "a", "n": -1})
        http.post("/v1/completions", json={"prompt": "a" * 4096})
        http.post("/v1/nowhere", json={})
        with raw_request(server, LONG), raw_request(server, LONG):
            server.settle("waiting", 1)
            assert http.post("/v1/completions", json={"prompt": "a"}).status_code == 429
        server.settle("running", 0)
        after = scrape(http)
    counts = {
        found[1]: after[key] - before[key]
        for key in after
        if (found := re.fullmatch(r'dendrite_http_responses_total{status="(\d+)"}', key))
    }
    health = counts.pop("200") - 2 - 1  # Both completions, and the first scrape.
    assert health >= 2
    once, never = ("400", "404", "413", "429"), ("401", "405", "415", "500", "503")
    assert counts == {**dict.fromkeys(once, 1), **dict.fromkeys(never, 0)}
