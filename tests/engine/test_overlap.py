"""Overlapped steps give the tokens of steps that wait, whatever callers do meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dendrite_core.batching.batch import Draw
from dendrite_core.engine.messages import Request
from dendrite_core.params import GrammarSpec, SamplingParams
from dendrite_core.sampling.seeding import uniform
from tests.checkpoints import MAX_POSITION, VOCAB_SIZE
from tests.engine.conftest import Reference
from tests.engine.explorer import Explorer, Seen, Turned, alone
from tests.sampling.reference import distribution

Checkpoint = Callable[[str], Path]
InTransformers = Callable[[str], Reference]


def settings(checkpoint: Checkpoint, **changed: Any) -> dict[str, Any]:
    return {"model": str(checkpoint("llama")), "dtype": "float32", "num_pages": 512, **changed}


def ask(loop: Turned, prompt: list[int], n: int = 1, **params: Any) -> Seen:
    fields = {"seed": 5, "ignore_eos": True, **params}
    return loop.submit(Request(request_id="r", prompt=tuple(prompt), params=SamplingParams(**fields), n=n))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("num_pages", [32, 400])
def test_random_callers_get_the_tokens_of_a_loop_that_waits(
    checkpoint: Checkpoint, in_transformers: InTransformers, num_pages: int, seed: int
) -> None:
    many = Explorer(
        seed,
        vocab=VOCAB_SIZE,
        **settings(checkpoint, num_pages=num_pages, max_rows=8, max_batch_tokens=64, overlap=True),
    )
    many.explore(500, at_once=20)
    many.loop.runner.store.check_canaries()
    plain = Turned(**settings(checkpoint), overlap=False)
    compared = parted = 0
    for seen in many.requests[::4]:
        if seen.started is None:
            assert seen.error is not None
            continue
        want = alone(seen, plain)
        for index, tokens in enumerate(seen.tokens):
            cut = seen.reasons[index] in ("abort", None)
            wanted = want.tokens[index][: len(tokens)] if cut else want.tokens[index]
            compared += len(tokens)
            if tokens != wanted:
                assert on_an_edge(seen, index, wanted, in_transformers("llama"))
                parted += 1
                continue
            logprobs = want.logprobs[index][: len(seen.logprobs[index])]
            assert seen.logprobs[index] == pytest.approx(logprobs, abs=1e-4)
            assert cut or (seen.reasons[index], seen.texts[index]) == (want.reasons[index], want.texts[index])
    stats = many.loop.stats()
    assert compared > 400
    assert parted <= 1
    assert stats.steps_ahead > 100
    assert (stats.preemptions > 0) == (num_pages == 32)
    assert plain.loop.stats().steps_ahead == 0


def on_an_edge(seen: Seen, index: int, wanted: list[int], model: Reference) -> bool:
    """Whether the first token that differs was drawn with a number that float32 cannot tell from the edge.

    Rows are computed beside other rows than when alone, so their last bits may differ.
    """
    assert seen.prompt is not None
    params, pairs = seen.request.params, zip(seen.tokens[index], wanted, strict=False)
    at, (token, other) = next((at, pair) for at, pair in enumerate(pairs) if pair[0] != pair[1])
    past = seen.prompt + wanted[:at]
    logits = model.logits(past)[-1].numpy()
    assert params.seed is not None
    draw = Draw(0, params, params.seed, index, len(past), seen.prompt, wanted[:at])
    if params.greedy:
        return bool(abs(logits[token] - logits[other]) < 1e-4)
    edges = distribution(logits, draw).cumsum()[min(token, other) : max(token, other)]
    return bool(np.abs(edges - uniform(params.seed, index, len(past))).max() < 1e-5)


def test_every_step_of_a_plain_generation_but_the_first_two_goes_ahead(checkpoint: Checkpoint) -> None:
    loop = Turned(**settings(checkpoint), overlap=True)
    seen = ask(loop, [5, 6, 7], n=3, max_tokens=40)
    loop.finish()
    stats = loop.loop.stats()
    assert [len(tokens) for tokens in seen.tokens] == [40] * 3
    # The prompt's children do not exist before its token is drawn; known ends cost no step at all.
    assert (stats.steps, stats.steps_ahead) == (40, 38)


def test_what_ends_unforeseen_costs_one_row_and_leaves_no_page(checkpoint: Checkpoint) -> None:
    waiting, ahead = (Turned(**settings(checkpoint), overlap=overlap) for overlap in (False, True))
    for loop in (waiting, ahead):
        asked = [
            ask(loop, [9, 8, p], n=4, max_tokens=60, stop_token_ids=tuple(range(90))) for p in range(3, 9)
        ]
        loop.finish()
        assert {reason for seen in asked for reason in seen.reasons} >= {"stop"}
    one, other = waiting.loop.stats(), ahead.loop.stats()
    assert [seen.tokens for seen in waiting.requests] == [seen.tokens for seen in ahead.requests]
    assert (one.pages_used, one.generated_tokens) == (other.pages_used, other.generated_tokens)
    assert one.steps <= other.steps <= one.steps + 1


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.5},
        {"grammar": GrammarSpec(kind="regex", source="[a-z ]{40}")},
    ],
    ids=["repetition", "frequency", "grammar"],
)
def test_a_row_that_needs_its_last_token_is_waited_for(
    checkpoint: Checkpoint, params: dict[str, Any]
) -> None:
    waiting, ahead = (Turned(**settings(checkpoint), overlap=overlap) for overlap in (False, True))
    for loop in (waiting, ahead):
        ask(loop, [5, 6, 7], max_tokens=20, **params)
        loop.finish()
    assert waiting.requests[0].tokens == ahead.requests[0].tokens
    assert ahead.loop.stats().steps_ahead == 0


def test_a_branch_forked_while_its_step_is_in_flight_goes_on_from_what_it_showed(
    checkpoint: Checkpoint,
) -> None:
    loop = Turned(**settings(checkpoint), overlap=True)
    parent = ask(loop, list(range(5, 30)), max_tokens=60)
    while len(parent.tokens[0]) < 21:
        loop.turn()
    assert loop.loop._flight is not None
    assert parent.started is not None
    child = loop.submit(
        Request(
            request_id="c",
            prompt=(9, 9),
            params=parent.request.params,
            parent_id=parent.started.branch_ids[0],
        )
    )
    loop.finish()
    assert child.prompt == list(range(5, 30)) + parent.tokens[0][:21] + [9, 9]
    plain = Turned(**settings(checkpoint), overlap=False)
    assert child.tokens == alone(child, plain).tokens
    assert parent.tokens == alone(parent, plain).tokens


def test_a_failed_step_ends_its_rows_and_what_was_launched_after_it(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Turned(**settings(checkpoint), overlap=True)
    first = ask(loop, [5, 6, 7], n=2, max_tokens=40)
    while not first.tokens[0]:
        loop.turn()
    with monkeypatch.context() as patch:
        patch.setattr(loop.loop.runner, "run", lambda *_: 1 / 0)
        loop.turn()
    assert "division" in str(first.error)
    second = ask(loop, [5, 6, 7], n=2, max_tokens=40)
    loop.finish()
    assert second.reasons == ["length", "length"]


def test_what_a_failed_step_did_not_copy_is_computed_again(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step of siblings copies the page they share; one that fails before leaves none behind."""
    loop = Turned(**settings(checkpoint), overlap=False)
    failed = ask(loop, list(range(5, 30)), n=2, max_tokens=8, temperature=0)
    while failed.started is None:
        loop.turn()
    with monkeypatch.context() as patch:
        patch.setattr(loop.loop.runner.store, "copy_pages", lambda copies: 1 / len(copies) and 1 / 0)
        loop.turn()
    assert "division" in str(failed.error)
    params = failed.request.params
    for name in failed.started.branch_ids:
        child = loop.submit(Request(request_id="c", prompt=(9,), params=params, parent_id=name))
        loop.finish()
        assert child.tokens == alone(child, Turned(**settings(checkpoint), overlap=False)).tokens


@pytest.mark.parametrize("overlap", [False, True])
def test_a_prompt_preempted_while_it_is_scored_has_each_token_scored_once(
    checkpoint: Checkpoint, overlap: bool
) -> None:
    small = settings(checkpoint, num_pages=8, page_size=16, max_batch_tokens=16)
    loop = Turned(**small, overlap=overlap)
    older = ask(loop, list(range(5, 67)), max_tokens=50)
    while not older.tokens[0]:
        loop.turn()
    scored = ask(loop, list(range(100, 180)), max_tokens=1, prompt_logprobs=0)
    loop.finish()
    want = alone(scored, Turned(**small, overlap=False))
    assert loop.loop.stats().preemptions > 0
    assert scored.started is not None
    assert want.started is not None
    found, wanted = ([one.logprob for one in seen.started.prompt_logprobs[1:]] for seen in (scored, want))
    assert found == pytest.approx(wanted, abs=1e-4)


def test_the_context_ends_where_the_model_does(checkpoint: Checkpoint) -> None:
    loop = Turned(**settings(checkpoint), overlap=True)
    seen = ask(loop, [7] * (MAX_POSITION - 10), max_tokens=None)
    loop.finish()
    assert (seen.reasons, len(seen.tokens[0])) == (["length"], 10)
