"""The whole engine over graphs, as it is served: half precision, steps launched before tokens are read."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dendrite_core import Engine, SamplingParams

DEVICE = "cuda"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    settings = {"device": DEVICE, "num_pages": 2000, "attention_backend": "tree", "max_rows": 64}
    with Engine.from_pretrained("shape:llama-8m", **settings) as made:  # type: ignore[arg-type]
        yield made


def prompt(engine: Engine, tokens: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, engine.config.vocab_size) for _ in range(tokens)]


@pytest.mark.parametrize(
    ("n", "params"),
    [
        (1, {"temperature": 0.0}),
        (5, {"temperature": 1.0}),
        (40, {"temperature": 1.0, "top_p": 0.9}),
        (3, {"temperature": 1.0, "repetition_penalty": 1.2}),
    ],
    ids=["one stream", "branches", "many branches", "rows that are waited for"],
)
def test_overlapped_steps_give_the_tokens_of_steps_that_wait(
    engine: Engine, n: int, params: dict[str, float]
) -> None:
    """One request at a time and nothing kept of it: where pages are joined a plan is made a step later."""
    found, ahead = [], []
    for overlap in (False, True):
        engine._loop.overlap = overlap
        before = engine.stats().result().steps_ahead
        asked = SamplingParams(seed=3, max_tokens=70, ignore_eos=True, **params)  # type: ignore[arg-type]
        done = engine.generate(prompt(engine, 200, n), asked, n=n)
        engine.release(done.started.prompt_branch_id).result()
        found.append([choice.token_ids for choice in done.choices])
        ahead.append(engine.stats().result().steps_ahead - before)
    assert found[0] == found[1]
    assert ahead[0] == 0
    assert (ahead[1] > 60) == ("repetition_penalty" not in params)
    assert engine._loop.runner.graphs  # type: ignore[attr-defined]


def test_requests_at_once_get_all_their_tokens_and_leave_no_page(engine: Engine) -> None:
    for round_ in range(3):
        streams = []
        for seed in range(6):
            params = SamplingParams(temperature=1.0, seed=seed, max_tokens=30 + 5 * seed, ignore_eos=True)
            request = engine._request(prompt(engine, 100 + 50 * seed, seed + round_), params, 4, None, None)
            streams.append(engine.submit(request))
        names = [stream.wait_started().branch_ids[1] for stream in streams]
        forks = [name for parent in names for name in engine.fork(parent, 2).result()]
        for name in forks[::2]:
            engine.generate([5, 6], SamplingParams(seed=1, max_tokens=8, ignore_eos=True), parent_id=name)
        for seed, stream in enumerate(streams):
            tokens = sum(len(choice.token_ids) for news in stream for choice in news.choices)
            assert tokens == 4 * (30 + 5 * seed)
            engine.release(stream.wait_started().prompt_branch_id).result()
        stats = engine.stats().result()
        assert stats.pages_used == stats.pages_cached, "a page is held by nobody"
