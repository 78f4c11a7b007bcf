"""Tool calls are read alike however their text is cut, in every format, and nothing a model wrote is lost."""

from __future__ import annotations

import json
import random
from importlib.resources import files
from pathlib import Path

import pytest

from dendrite_core.params import GrammarSpec
from dendrite_core.text.grammar import GrammarCompiler
from dendrite_core.text.tokenizer import Tokenizer
from dendrite_server.protocol.fields import Fields
from dendrite_server.protocol.tools import read_tools
from dendrite_server.tools.dialect import Dialect
from dendrite_server.tools.events import CallArguments, CallStart, Content, Event
from dendrite_server.tools.formats import FORMATS, format_of

Calls = list[tuple[str, object]]

CASES: list[tuple[str, str, str, Calls]] = [
    ("hermes", "Just text, 3 < 4 and <tool.", "Just text, 3 < 4 and <tool.", []),
    (
        "hermes",
        'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}'
        "\n</tool_call>",
        "Let me see.\n",
        [("add", {"a": 1, "b": [2, {"c": "}"}]})],
    ),
    (
        "hermes",
        '<tool_call>{"arguments": {"q": "\\"é\\\\"}, "name": "find"}</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n',
        "",
        [("find", {"q": '"é\\'}), ("now", {})],
    ),
    ("hermes", "<tool_call>\nnot json\n</tool_call>", "<tool_call>\nnot json\n</tool_call>", []),
    ("hermes", '<tool_call>\n{"x": 1}', '<tool_call>\n{"x": 1}', []),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {}}]',
        "",
        [("a", {"x": 1}), ("b", {})],
    ),
    ("mistral", "no calls [TOOL", "no calls [TOOL", []),
    ("llama3_json", '{"name": "a", "parameters": {"x": "1"}}', "", [("a", {"x": "1"})]),
    (
        "llama3_json",
        '<|python_tag|>{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"y": null}}',
        "",
        [("a", {}), ("b", {"y": None})],
    ),
    ("llama3_json", "Hello {not a call}", "Hello {not a call}", []),
    (
        "pythonic",
        '[add(a=1, b=-2.5), look.up(q="x, y", deep=[true, {"k": None}])]',
        "",
        [
            ("add", {"a": 1, "b": -2.5}),
            ("look.up", {"q": "x, y", "deep": [True, {"k": None}]}),
        ],
    ),
    ("pythonic", "[1, 2] is a list", "[1, 2] is a list", []),
    ("pythonic", "plain", "plain", []),
]


def read(name: str, pieces: list[str]) -> tuple[str, Calls, list[Event]]:
    parser = FORMATS[name].parser()
    events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    content = "".join(event.text for event in events if isinstance(event, Content))
    starts = [event for event in events if isinstance(event, CallStart)]
    assert [event.index for event in starts] == list(range(len(starts))) == list(range(parser.calls))
    calls: Calls = []
    for start in starts:
        own = (e.fragment for e in events if isinstance(e, CallArguments) and e.index == start.index)
        calls.append((start.name, json.loads("".join(own))))
    return content, calls, events


@pytest.mark.parametrize(("name", "text", "content", "calls"), CASES)
def test_cuts_make_no_difference(name: str, text: str, content: str, calls: Calls) -> None:
    assert read(name, [text])[:2] == (content, calls)
    assert read(name, list(text))[:2] == (content, calls)
    rng = random.Random(1)
    for _ in range(30):
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(4))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert read(name, pieces)[:2] == (content, calls)


def test_arguments_stream_as_they_are_written() -> None:
    parser = FORMATS["hermes"].parser()
    events = parser.push('<tool_call>\n{"name": "add", "arguments": {"a": 1')
    assert events == [CallStart(0, "add"), CallArguments(0, '{"a": 1')]


def test_a_call_cut_short_keeps_what_it_has() -> None:
    parser = FORMATS["hermes"].parser()
    events = parser.push('<tool_call>\n{"name": "add", "arguments": {"a": 1') + parser.finish()
    assert [event for event in events if isinstance(event, Content)] == []


def test_the_template_gives_the_format_away() -> None:
    assert format_of("... <tool_call>\n{...} ...") is FORMATS["hermes"]
    assert format_of("{{ '[TOOL_CALLS] [' }}") is FORMATS["mistral"]
    assert format_of("plain") is None


PARAMETERS = {"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"]}
TOOL = {"name": "f", "parameters": PARAMETERS}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(Path(str(files("dendrite_core") / "embedded")))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_whitespace_in_the_arguments_of_a_call_is_bounded(name: str, tokenizer: Tokenizer) -> None:
    """A model that may write blank lines for ever sometimes does."""
    form, compiler = FORMATS[name], GrammarCompiler(tokenizer, 1024)
    first = "[f(a=" if name == "pythonic" else f'{form.first}{form.before}f{form.middle}{{"a": '
    grammars = [form.grammar([TOOL], parallel=True), form.in_text([TOOL])]
    for grammar in filter(None, grammars):
        for space, fits in ((" ", True), ("\n  ", True), ("\n\n", False), ("  ", False)):
            state = compiler.compile(grammar).start()
            text = f'{first}{{"x":{space}1}}'
            assert all(map(state.accept, tokenizer.encode(text, special=True))) == fits, (text, grammar.kind)


def test_whitespace_in_an_answer_beside_calls_is_bounded(tokenizer: Tokenizer) -> None:
    tools = [{"type": "function", "function": TOOL}]
    fields = Fields({"tools": tools})
    wanted = GrammarSpec(kind="json_schema", source='{"type": "object"}')
    grammar = read_tools(fields, wanted, Dialect(calls=FORMATS["hermes"])).grammar
    assert grammar is not None
    for space, fits in ((" ", True), ("\n\n", False)):
        state = GrammarCompiler(tokenizer, 1024).compile(grammar).start()
        assert all(map(state.accept, tokenizer.encode(f'{{"x":{space}1}}'))) == fits
