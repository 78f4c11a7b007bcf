"""Constrained branches, forked and continued, on a random model; the promises are in test_grammar_bars."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from dendrite_core import Engine, GrammarSpec, RequestError, SamplingParams

MakeEngine = Callable[..., Engine]

OBJECT = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["leaf", "branch"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["kind", "size"],
    "additionalProperties": False,
}


def schema(value: object, **changes: object) -> SamplingParams:
    grammar = GrammarSpec(kind="json_schema", source=json.dumps(value))
    fields = {"temperature": 2.0, "max_tokens": 120, "seed": 1, "grammar": grammar, **changes}
    return SamplingParams(**fields)  # type: ignore[arg-type]


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine()


def test_every_branch_is_valid_at_any_temperature(engine: Engine) -> None:
    made = engine.generate("a tree: ", schema(OBJECT), n=16)
    ended = [choice for choice in made.choices if choice.finish_reason == "stop"]
    assert len(ended) > 8
    for choice in ended:
        value = json.loads(choice.text)
        assert value["kind"] in ("leaf", "branch")
        assert 0 <= value["size"] <= 99
    assert len({choice.text for choice in ended}) > 4


def test_branches_of_different_grammars_run_together(engine: Engine) -> None:
    alone = engine.generate("x", schema(OBJECT))
    regex = SamplingParams(max_tokens=20, seed=2, grammar=GrammarSpec(kind="regex", source="[a-c]{3}z"))
    several = (regex, schema(OBJECT), SamplingParams(max_tokens=9))
    requests = [engine._request("x", params, 2, None, None) for params in several]
    streams = [engine.submit(request) for request in requests]
    texts = ["".join(d.text for news in stream for d in news.choices if d.index == 0) for stream in streams]
    assert len(texts[0]) == 4
    assert texts[0][3] == "z"
    assert texts[1] == alone.text


def test_a_fork_in_the_middle_of_a_structure_stays_in_it(engine: Engine) -> None:
    half = engine.generate("a tree: ", schema(OBJECT, max_tokens=6))
    assert half.choices[0].finish_reason == "length"
    free = SamplingParams(temperature=2.0, max_tokens=150, seed=5)
    for params in (free, schema(OBJECT, max_tokens=150)):
        rest = engine.generate("", params, parent_id=half.branch_id, n=8)
        for choice in rest.choices:
            if choice.finish_reason == "stop":
                assert json.loads(half.text + choice.text)["kind"] in ("leaf", "branch")
    earlier = engine.generate("", free, parent_id=half.branch_id, parent_offset=2, n=4)
    kept = engine.tokenizer.decode(half.choices[0].token_ids[:2])
    for choice in earlier.choices:
        if choice.finish_reason == "stop":
            json.loads(kept + choice.text)


def test_forced_tokens_change_nothing_but_the_steps(engine: Engine) -> None:
    only = GrammarSpec(kind="choice", source='["branching"]')
    word = SamplingParams(max_tokens=60, temperature=0, grammar=only)
    before = engine.stats().result().steps
    assert engine.generate("x", word).text == "branching"
    steps = engine.stats().result().steps - before
    drawn = SamplingParams(max_tokens=60, temperature=0, logprobs=0, grammar=only)
    made = engine.generate("x", drawn)
    assert made.text == "branching"
    assert steps < len(made.choices[0].token_ids) + 1


def test_a_bad_schema_is_refused_before_anything_runs(engine: Engine) -> None:
    with pytest.raises(RequestError, match="uniqueItems"):
        engine.generate("x", schema({"type": "array", "uniqueItems": True}))
    assert engine.in_flight == 0


def test_an_idle_fork_stays_in_the_structure_of_its_origin(engine: Engine) -> None:
    half = engine.generate("a tree: ", schema(OBJECT, max_tokens=6))
    fork = engine.fork(half.branch_id).result()[0]
    rest = [engine.generate("", schema(OBJECT), parent_id=parent).text for parent in (half.branch_id, fork)]
    assert rest[0] == rest[1]
    assert json.loads(half.text + rest[1])["kind"] in ("leaf", "branch")


def test_a_structure_goes_on_after_its_grammar_was_compiled_anew(engine: Engine) -> None:
    """Only so many compiled grammars are kept; which object stands for one is no question of the text."""
    half = engine.generate("a tree: ", schema(OBJECT, max_tokens=6))
    for count in range(1, 300):
        engine.grammars.compile(GrammarSpec(kind="regex", source=f"a{{{count}}}"))
    rest = engine.generate("", schema(OBJECT), parent_id=half.branch_id)
    assert json.loads(half.text + rest.text)["kind"] in ("leaf", "branch")


@pytest.mark.parametrize("name", ["allowed_token_ids", "stop_token_ids"])
@pytest.mark.parametrize("token", [-1, 10**9])
def test_a_token_that_does_not_exist_is_refused_by_field(engine: Engine, name: str, token: int) -> None:
    with pytest.raises(RequestError) as caught:
        engine.generate("x", SamplingParams(max_tokens=2, min_tokens=1, **{name: (token,)}))
    assert caught.value.param == name
