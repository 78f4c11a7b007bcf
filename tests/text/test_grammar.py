"""Grammar states against the plain question: does some completion of this text match?"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from dendrite_core.errors import RequestError
from dendrite_core.params import GrammarSpec
from dendrite_core.text.grammar import GrammarCompiler, GrammarState
from dendrite_core.text.tokenizer import Tokenizer

EMBEDDED = Path(__file__).parents[2] / "dendrite_core" / "embedded"
VOCAB = 1024
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(EMBEDDED)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, VOCAB)


def allowed(compiler: GrammarCompiler, state: GrammarState) -> list[int]:
    bits, row_of = compiler.masks([state])
    assert row_of == [0]
    return np.flatnonzero(np.unpackbits(bits[0].view(np.uint8), bitorder="little")).tolist()


def walk(compiler: GrammarCompiler, state: GrammarState, tokenizer: Tokenizer, seed: int) -> list[int]:
    """Tokens drawn evenly from what is allowed, to the end."""
    rng, tokens = random.Random(seed), []
    for _ in range(400):
        token = rng.choice(allowed(compiler, state))
        if token in tokenizer.eos_ids:
            return tokens
        assert state.accept(token)
        tokens.append(token)
    return tokens


def test_every_walk_through_a_schema_is_valid_json(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = compiler.compile(GrammarSpec(kind="json_schema", source=json.dumps(SCHEMA)))
    ended = 0
    for seed in range(20):
        state = grammar.start()
        text = tokenizer.decode(walk(compiler, state, tokenizer, seed))
        if state.is_accepting:
            value = json.loads(text)
            assert set(value) == {"name", "age"}
            assert isinstance(value["age"], int)
            ended += 1
    assert ended > 5


@pytest.mark.parametrize(
    ("kind", "source", "pattern"),
    [
        ("regex", "[ab]{2,4}c", "[ab]{2,4}c"),
        ("choice", '["yes", "no", "maybe so"]', "yes|no|maybe so"),
        ("lark", 'start: "x" /[0-9]{1,3}/', "x[0-9]{1,3}"),
        ("grammar", 'root ::= "a" | "b" "c"', "a|bc"),
    ],
)
def test_every_walk_matches(
    kind: str, source: str, pattern: str, compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.compile(GrammarSpec(kind=kind, source=source))
    for seed in range(10):
        assert re.fullmatch(pattern, tokenizer.decode(walk(compiler, grammar.start(), tokenizer, seed)))


def test_a_fork_goes_its_own_way(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    parent = compiler.compile(GrammarSpec(kind="regex", source="(ab|ac)d")).start()
    assert parent.accept(tokenizer.encode("a")[0])
    left, right = parent.fork(), parent.fork()
    assert compiler.masks([left, None, right])[1] == [0, None, 0]
    before = allowed(compiler, parent)
    assert left.accept(tokenizer.encode("b")[0])
    assert right.accept(tokenizer.encode("c")[0])
    assert allowed(compiler, parent) == before
    assert not left.accept(tokenizer.encode("b")[0])
    assert allowed(compiler, left) == allowed(compiler, right) != before


def test_a_structural_tag_leaves_text_free(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    structure = {"begin": "<f=", "schema": {"type": "integer"}, "end": ">"}
    source = json.dumps({"type": "structural_tag", "structures": [structure], "triggers": ["<f"]})
    grammar = compiler.compile(GrammarSpec(kind="structural_tag", source=source))
    for text, fits in (("hello", True), ("so <f=12> and", True), ("so <f=x", False)):
        state = grammar.start()
        assert all(state.accept(token) for token in tokenizer.encode(text)) == fits


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("json_schema", '{"type": "strin"}', "Invalid type"),
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", "{", "EOF|parse|expected"),
        ("regex", "a(", "unclosed"),
        ("choice", "[]", "one or more"),
        ("structural_tag", '{"structures": [{"begin": "x", "end": ""}], "triggers": ["y"]}', "trigger"),
    ],
)
def test_a_bad_grammar_is_the_callers_mistake(
    kind: str, source: str, words: str, compiler: GrammarCompiler
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        compiler.compile(GrammarSpec(kind=kind, source=source, param="response_format.json_schema"))
    assert caught.value.param == "response_format.json_schema"
