"""The four promises about constrained answers, on the embedded model: valid, in the mask, cached, quick."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest
import regex
from llguidance import LLMatcher, LLTokenizer

from dendrite_core import Engine, GrammarSpec, SamplingParams
from dendrite_core.engine.completion import Completion, collect
from dendrite_core.text.grammar import GrammarCompiler, GrammarState
from dendrite_core.text.grammar_source import json_schema
from dendrite_core.text.tokenizer import Tokenizer
from tests.server.test_structured import SCHEMAS, closed

MORE_SCHEMAS = {
    **SCHEMAS,
    "bounded strings": closed(a={"type": "string", "minLength": 2, "maxLength": 6}, b={"const": "é漢"}),
    "map": {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    path = str(files("dendrite_core") / "embedded")
    with Engine.from_pretrained(path, num_pages=4096, dtype="float32", threads=1) as engine:
        yield engine


def held_to(schema: Any, **fields: Any) -> SamplingParams:
    grammar = GrammarSpec(kind="json_schema", source=json.dumps(schema))
    return SamplingParams(**{"temperature": 2.0, "max_tokens": 1500, "grammar": grammar, **fields})


def together(engine: Engine, requests: list[tuple[str, SamplingParams, int]]) -> list[Completion]:
    """Completions of many requests that run side by side: (prompt, params, n) each."""
    streams = [
        engine.submit(engine._request(prompt, params, n, None, None)) for prompt, params, n in requests
    ]
    return [collect(stream.wait_started(), stream.request.n, stream) for stream in streams]


@pytest.mark.parametrize("name", sorted(MORE_SCHEMAS))
def test_grammar_json_001(engine: Engine, name: str) -> None:
    """All of 50 seeds at temperature 2 end by themselves and are valid, by the jsonschema package."""
    schema = MORE_SCHEMAS[name]
    asked = [("JSON: ", held_to(schema, seed=seed), 1) for seed in range(50)]
    texts = set()
    for made in together(engine, asked):
        (choice,) = made.choices
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.text), schema, format_checker=jsonschema.FormatChecker())
        texts.add(choice.text)
    assert len(texts) > 1, "seeds draw differently"


@pytest.mark.parametrize(
    "pattern", [r"[ab]{2,9}(c|dd)", r"([0-9]{1,3}\.){3}[0-9]{1,3}", r"yes|no|(may(be)? so)+!"]
)
def test_grammar_mask_002_by_regex(engine: Engine, pattern: str) -> None:
    """No token leads out of a pattern: after each one the text still begins a match, by another library."""
    params = SamplingParams(
        temperature=2, max_tokens=60, seed=3, grammar=GrammarSpec(kind="regex", source=pattern)
    )
    made = engine.generate("x", params, n=16)
    for choice in made.choices:
        for end in range(1, len(choice.token_ids) + 1):
            ids = [token for token in choice.token_ids[:end] if token not in engine.tokenizer.eos_ids]
            assert regex.fullmatch(pattern, engine.tokenizer.decode(ids), partial=True)
        assert choice.finish_reason != "stop" or regex.fullmatch(pattern, choice.text)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_grammar_mask_002(engine: Engine, name: str) -> None:
    """Every token, drawn or forced, before a fork or after it, is in the mask of a fresh matcher."""
    tokenizer = engine.tokenizer
    guide = LLTokenizer(tokenizer.to_json(), n_vocab=1024, eos_token=list(tokenizer.eos_ids), slices=[])
    halves = engine.generate("JSON: ", held_to(SCHEMAS[name], seed=1, max_tokens=4), n=6)
    said = [(half.token_ids, half.token_ids) for half in halves.choices]
    for half in halves.choices:
        free = SamplingParams(temperature=2, max_tokens=100, seed=2)
        if half.finish_reason == "length":
            rest = engine.generate("", free, parent_id=half.branch_id, n=3)
            said += [(half.token_ids, choice.token_ids) for choice in rest.choices]
    checked = 0
    for before, after in said:
        matcher = LLMatcher(guide, json_schema(json.dumps(SCHEMAS[name])), log_level=0)
        tokens = before if after is before else [*before, *after]
        for token in tokens:
            allowed = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            assert allowed[token // 8] >> token % 8 & 1, tokenizer.decode(tokens)
            assert matcher.is_stopped() or matcher.consume_token(token)
            checked += 1
    assert checked > 20


def test_grammar_cache_003(engine: Engine) -> None:
    """Cold, from the cache, beside others and as forks of one prompt: the same seed says the same."""
    prompt = "A list of people as JSON, one after the other, with their ages: "
    params = held_to(SCHEMAS["person"], seed=11)
    cold = engine.generate(prompt, params, n=8)
    warm = engine.generate(prompt, params, n=8)
    assert warm.usage.cached_tokens > cold.usage.cached_tokens
    others = [("x", held_to(schema, seed=5), 2) for schema in SCHEMAS.values()]
    among = together(engine, [*others, (prompt, params, 8), *others])[len(others)]
    texts = [choice.text for choice in cold.choices]
    assert len(set(texts)) > 4
    for again in (warm, among):
        assert [choice.text for choice in again.choices] == texts


def test_grammar_cache_003_forked_anywhere(engine: Engine) -> None:
    """A document cut at any token and continued by greedy draws is the document that was not cut."""
    params = held_to(SCHEMAS["nested"], temperature=0, max_tokens=100)
    whole = engine.generate("JSON: ", params)
    ids = whole.choices[0].token_ids
    for cut in range(1, len(ids)):
        half = engine.generate("JSON: ", held_to(SCHEMAS["nested"], temperature=0, max_tokens=cut))
        rest = engine.generate(
            "", SamplingParams(temperature=0, max_tokens=100), parent_id=half.branch_id, n=2
        )
        for choice in rest.choices:
            assert half.text + choice.text == whole.text
        earlier = engine.generate(
            "", SamplingParams(temperature=0), parent_id=whole.branch_id, parent_offset=cut
        )
        assert engine.tokenizer.decode(ids[:cut]) + earlier.text == whole.text


# --- speed -----------------------------------------------------------------------------------------------

LARGE = 128_256
SYLLABLES = [a + b + c for a in ("", *"bcdfghklmnprst") for b in "aeiou" for c in ("", *"nrst")]


@pytest.fixture(scope="module")
def large(engine: Engine) -> tuple[GrammarCompiler, Tokenizer]:
    """The embedded tokenizer with made-up words up to a vocabulary of 128k."""
    spec = json.loads(engine.tokenizer.to_json())
    vocab, rng = spec["model"]["vocab"], random.Random(0)
    while len(vocab) < LARGE - 356:
        word = rng.choice(["", "Ġ"]) + "".join(rng.choices(SYLLABLES, k=rng.choice([1, 2, 2, 3])))
        vocab.setdefault(word, len(vocab) + 5)
    spec["model"]["ignore_merges"] = True
    tokenizer = Tokenizer(json.dumps(spec), eos_ids=engine.tokenizer.eos_ids)
    return GrammarCompiler(tokenizer, LARGE), tokenizer


TIMED = {
    "free strings": closed(name={"type": "string"}, age={"type": "integer"}),
    "short strings": closed(name={"type": "string", "maxLength": 12}, age={"type": "integer"}),
    "longer strings": closed(name={"type": "string", "maxLength": 40}, age={"type": "integer"}),
    "bounded numbers": closed(
        name={"type": "string", "minLength": 1}, age={"type": "integer", "maximum": 130}
    ),
}


def test_grammar_latency_004(large: tuple[GrammarCompiler, Tokenizer]) -> None:
    """p50 under 50 us and mean under 100 us over documents of four schemas, in time of this thread."""
    compiler, tokenizer = large
    rng, times = random.Random(1), []
    for schema in TIMED.values():
        grammar = compiler.compile(GrammarSpec(kind="json_schema", source=json.dumps(schema)))
        for _ in range(12):
            name = "".join(rng.choices(SYLLABLES, k=rng.randrange(1, 5))).capitalize()[:12]
            document = json.dumps({"name": name, "age": rng.randrange(100)})
            times += _timed(compiler, grammar.start(), tokenizer.encode(document))
    assert np.median(times) < 50
    assert np.mean(times) < 100


def test_grammar_latency_004_of_random_walks(large: tuple[GrammarCompiler, Tokenizer]) -> None:
    """Tokens drawn evenly from what is allowed, which is rarely what a text is made of."""
    compiler, _ = large
    grammar = compiler.compile(GrammarSpec(kind="json_schema", source=json.dumps(TIMED["free strings"])))
    times: list[float] = []
    for seed in range(8):
        times += _timed(compiler, grammar.start(), None, random.Random(seed))
    assert np.median(times) < 50
    assert np.mean(times) < 100


def _timed(
    compiler: GrammarCompiler, state: GrammarState, tokens: list[int] | None, rng: random.Random | None = None
) -> list[float]:
    """Microseconds of each mask along the tokens, or along a walk."""
    times: list[float] = []
    for step in range(60 if tokens is None else len(tokens)):
        begin = time.thread_time()
        bits, _ = compiler.masks([state])
        times.append((time.thread_time() - begin) * 1e6)
        if tokens is not None:
            assert state.accept(tokens[step])
            continue
        allowed = np.flatnonzero(np.unpackbits(bits[0].view(np.uint8), bitorder="little"))
        assert rng is not None
        if not state.accept(int(rng.choice(allowed))):
            break
    return times
