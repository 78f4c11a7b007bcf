"""Grammar states against the plain question: does some completion of this text match?"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dendrite_core.errors import RequestError
from dendrite_core.params import GrammarSpec
from dendrite_core.text.grammar import Grammar, GrammarCompiler, GrammarState
from dendrite_core.text.tokenizer import Tokenizer, byte_tokenizer

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
        ("structural_tag", '{"structures": [], "triggers": ["y"]}', "empty"),
        ("structural_tag", '["x"]', "invalid"),
        ("abnf", "x", "no such kind"),
    ],
)
def test_a_bad_grammar_is_the_callers_mistake(
    kind: str, source: str, words: str, compiler: GrammarCompiler
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        compiler.compile(GrammarSpec(kind=kind, source=source, param="response_format.json_schema"))
    assert caught.value.param == "response_format.json_schema"


def test_an_error_in_a_schema_is_pointed_at(compiler: GrammarCompiler) -> None:
    bad = {"type": "array", "items": {"type": "object", "properties": {"a/b": {"not": {"type": "string"}}}}}
    schemas = {
        "#": {"type": "strin"},
        "#/properties/x/anyOf/1": {"properties": {"x": {"anyOf": [{"type": "null"}, {"type": "strin"}]}}},
        "#/properties/x/items/properties/a~1b": {"type": "object", "properties": {"x": bad}},
        "#/$defs/T": {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/T"}},
            "$defs": {"T": {"if": {}}},
        },
    }
    for path, schema in schemas.items():
        with pytest.raises(RequestError, match=re.escape(f"at {path}: ")):
            compiler.compile(GrammarSpec(kind="json_schema", source=json.dumps(schema)))


# --- special tokens in grammars --------------------------------------------------------------------------


def tag(**structure: object) -> GrammarSpec:
    structures = [{"begin": "<tool_call>\n", "end": "\n</tool_call>", **structure}]
    source = {"structures": structures, "triggers": ["<tool_call>"]}
    return GrammarSpec(kind="structural_tag", source=json.dumps(source))


def test_a_trigger_that_is_a_token_is_one_and_spelled_out_leads_no_way_past(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.compile(tag(schema={"type": "integer"}))
    call, end = tokenizer.token_id("<tool_call>"), tokenizer.token_id("</tool_call>")
    assert call is not None
    assert end is not None
    encode = tokenizer.encode
    spelled = [token for character in "<tool_call>" for token in encode(character)]
    good = [*encode("so "), call, *encode("\n12\n"), end, *encode("and "), call, *encode("\n3\n"), end]
    for tokens, fits in (
        (encode("just text"), True),
        (good, True),
        ([call, *encode("\nx")], False),
        ([*spelled, *encode("\n12\n"), end], True),
        ([*spelled, *encode("\nx")], False),
    ):
        state = grammar.start()
        assert all(state.accept(token) for token in tokens) == fits
        assert state.is_accepting or not fits


def test_other_special_tokens_may_be_said_in_free_text(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    state = compiler.compile(tag()).start()
    start = tokenizer.token_id("<|im_start|>")
    assert start in allowed(compiler, state)
    assert set(tokenizer.eos_ids) <= set(allowed(compiler, state)), "text may end at any time"


@pytest.mark.parametrize(
    "source",
    [
        'start: call | "no"\ncall: "<tool_call>" /[0-9]/',
        'start: "<tool_call>1" | "no" ',
        'start: ("<tool_call>" "2") | "no"\n    | "other"',
    ],
)
def test_a_literal_in_lark_is_said_in_the_models_tokens(
    source: str, compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    state = compiler.compile(GrammarSpec(kind="lark", source=source)).start()
    says_token = tokenizer.token_id("<tool_call>") in allowed(compiler, state)
    assert says_token != ("/" in source), "a line with more than literals is left as it is"


def test_terminals_regexes_and_schemas_in_lark_are_left_alone(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    source = 'start: TEXT json\nTEXT: "<tool_call>"\njson: %json {"const": "<tool_call>"}'
    state = compiler.compile(GrammarSpec(kind="lark", source=source)).start()
    text = '<tool_call>"<tool_call>"'
    tokens = [token for character in text for token in tokenizer.encode(character)]
    assert all(map(state.accept, tokens))
    assert state.is_finished


# --- forks and masks -------------------------------------------------------------------------------------


def test_siblings_that_go_on_alike_share_a_state_until_they_part(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    parent = compiler.compile(GrammarSpec(kind="regex", source="[ab]{8}")).start()
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    children = [parent.fork() for _ in range(4)]
    assert [child.accept(token) for child, token in zip(children, (a, b, a, b), strict=True)] == [True] * 4
    assert compiler.masks(children)[1] == [0, 1, 0, 1]
    assert children[0].accept(a)
    assert children[2].accept(b)
    assert compiler.masks(children)[1] == [0, 1, 2, 1]
    late = parent.fork()
    assert late.accept(a)
    assert late.matcher is not children[0].matcher, "that one has moved on since"


def test_any_sequence_of_forks_and_moves_is_what_separate_states_do(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.compile(GrammarSpec(kind="json_schema", source=json.dumps(SCHEMA)))
    rng = random.Random(4)
    branches: list[tuple[GrammarState, list[int]]] = [(grammar.start(), [])]
    for _ in range(400):
        state, said = rng.choice(branches)
        if rng.random() < 0.3 and len(branches) < 12:
            branches.append((state.fork(), list(said)))
            continue
        token = rng.choice(allowed(compiler, state)[:3])
        if token not in tokenizer.eos_ids and state.accept(token):
            said.append(token)
    for state, said in branches:
        fresh = grammar.start()
        assert all(map(fresh.accept, said))
        assert allowed(compiler, fresh) == allowed(compiler, state)
        assert fresh.is_accepting == state.is_accepting


def test_a_fork_is_cheap_however_much_was_said(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    state = compiler.compile(GrammarSpec(kind="regex", source="a*")).start()
    token = tokenizer.encode("a")[0]
    for _ in range(3000):
        state.accept(token)
    begin = time.perf_counter()
    forks = [state.fork() for _ in range(1000)]
    assert time.perf_counter() - begin < 0.02, "20 us each leaves room for a busy machine"
    assert len(forks) == 1000


def test_without_an_end_token_a_finished_text_allows_nothing_in_the_models_vocabulary() -> None:
    tokenizer = byte_tokenizer()
    compiler = GrammarCompiler(tokenizer, 256)
    state = compiler.compile(GrammarSpec(kind="regex", source="ab")).start()
    for token in tokenizer.encode("ab"):
        assert state.accept(token)
    assert state.is_finished
    assert all(token >= 256 for token in allowed(compiler, state))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"name":"a","age":1}', True),
        ('{"name": "a", "age": 1}', True),
        ('{\n  "name": "a",\n  "age": 1\n}', True),
        ('{"name":  "a"', False),
        ("{\n\n", False),
    ],
)
def test_whitespace_in_json_is_bounded(
    text: str, fits: bool, compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    state = compiler.compile(GrammarSpec(kind="json_schema", source=json.dumps(SCHEMA))).start()
    assert all(map(state.accept, tokenizer.encode(text))) == fits


def test_a_small_grammar_does_not_wait_for_a_large_one(compiler: GrammarCompiler) -> None:
    words = {f"p{i}": {"enum": [f"{i} {j}" for j in range(300)]} for i in range(120)}
    large = GrammarSpec(kind="json_schema", source=json.dumps({"type": "object", "properties": words}))
    begun, ended = threading.Event(), []

    def compile_large() -> None:
        begun.set()
        compiler.compile(large)
        ended.append(time.perf_counter())

    thread = threading.Thread(target=compile_large)
    thread.start()
    begun.wait()
    compiler.compile(GrammarSpec(kind="regex", source="[ab]{3}c"))
    small = time.perf_counter()
    thread.join()
    assert small < ended[0]


def test_the_same_grammar_is_compiled_once_however_many_ask(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[GrammarSpec] = []
    compile = GrammarCompiler._compile

    def counted(self: GrammarCompiler, spec: GrammarSpec) -> Grammar:
        compiled.append(spec)
        return compile(self, spec)

    monkeypatch.setattr(GrammarCompiler, "_compile", counted)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(compiler.compile, [GrammarSpec(kind="regex", source="[xy]{3}z")] * 8))
    assert len(compiled) == 1
    assert all(grammar is made[0] for grammar in made)


def test_what_llguidance_cannot_hold_is_refused_without_its_innards(compiler: GrammarCompiler) -> None:
    choices = json.dumps([f"{number}" for number in range(100_000)])
    with pytest.raises(RequestError, match=r"larger than the grammar engine can take$"):
        compiler.compile(GrammarSpec(kind="choice", source=choices))
    compiler.compile(GrammarSpec(kind="choice", source='["it", "goes", "on"]'))
