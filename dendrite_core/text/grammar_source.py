"""What callers write as a constraint, in llguidance's words.

llguidance keeps special tokens out of text, so every place where a model says such a token has to name it:
texts like `<tool_call>` become the model's token of that name here, wherever it has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llguidance import LLMatcher, grammar_from

from dendrite_core.params import GrammarSpec

# A space, or a line and its indent: in llguidance's default, unbounded whitespace, a hot model gets lost.
_JSON = {"whitespace_pattern": r"\x20|\n\x20{0,32}"}
_MAX_BLAMED = 200

_RULE = re.compile(r"(\s*(?:[a-z_][a-z0-9_]*\s*:|\|))(.*)", re.DOTALL)
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"')


class Vocabulary:
    """The tokens that are more than their text: `ids` by text, of which `ends` end a completion."""

    def __init__(self, ids: Mapping[str, int], ends: Sequence[int]) -> None:
        self.ids = ids
        self.ends = frozenset(ends)
        ordered = sorted(filter(None, ids), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def first_of(self, text: str) -> int | None:
        """The token that `text` begins with, if it begins with one."""
        found = self._pattern.match(text) if self._pattern else None
        return self.ids[found.group()] if found else None

    def spelled(self, text: str) -> str:
        """Lark for exactly `text`, with tokens where it holds their names."""
        parts, at = [], 0
        for found in self._pattern.finditer(text) if self._pattern else ():
            parts += [json.dumps(text[at : found.start()]), f"<[{self.ids[found.group()]}]>"]
            at = found.end()
        parts.append(json.dumps(text[at:]))
        return " ".join(part for part in parts if part != '""') or '""'


def to_llguidance(spec: GrammarSpec, vocabulary: Vocabulary) -> str:
    """The grammar of a spec; ValueError, TypeError or KeyError for a source that is not of its kind."""
    if spec.kind not in _SOURCES:
        raise ValueError(f"there is no such kind; it must be one of {', '.join(_SOURCES)}")
    return _SOURCES[spec.kind](spec.source, vocabulary)


def blamed(source: str, message: str, error_of: Callable[[str], str | None]) -> str:
    """Where in a JSON schema the error is: a pointer to the innermost part that fails in the same way."""
    schema = json.loads(source)
    if not isinstance(schema, dict):
        return "#"
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    path, checks = "#", 0
    children = _children(schema)
    while (child := next(children, None)) is not None and checks < _MAX_BLAMED:
        checks += 1
        step, part = child
        if error_of(json_schema(json.dumps({**part, **shared}))) == message:
            path, children = f"{path}/{step}", _children(part)
    return path


def in_lark(schema: Any) -> str:
    """A JSON schema as a part of a Lark rule."""
    return f"%json {json.dumps({'x-guidance': _JSON, **schema} if isinstance(schema, dict) else schema)}"


def json_schema(source: str) -> str:
    return str(LLMatcher.grammar_from_json_schema(source, defaults=_JSON))


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas directly inside a schema, definitions first: there a reference's error really is."""
    for key in ("$defs", "definitions", "properties", "patternProperties"):
        for name, part in (schema.get(key) or {}).items():
            if isinstance(part, dict):
                yield f"{key}/{name.replace('~', '~0').replace('/', '~1')}", part
    for key in ("prefixItems", "anyOf", "oneOf", "allOf"):
        for index, part in enumerate(schema.get(key) or ()):
            if isinstance(part, dict):
                yield f"{key}/{index}", part
    for key in ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"):
        if isinstance(schema.get(key), dict):
            yield key, schema[key]


def _choice(source: str) -> str:
    choices = json.loads(source)
    if not (isinstance(choices, list) and choices and all(isinstance(c, str) and c for c in choices)):
        raise ValueError("it must be a list of one or more texts")
    return str(grammar_from("choice", source))


def _ebnf(source: str, vocabulary: Vocabulary) -> str:
    """GBNF, as llama.cpp and xgrammar write it, or Lark."""
    return str(grammar_from("gbnf", source)) if "::=" in source else _lark(source, vocabulary)


def _lark(source: str, vocabulary: Vocabulary) -> str:
    return str(
        LLMatcher.grammar_from_lark("\n".join(_with_tokens(line, vocabulary) for line in source.split("\n")))
    )


def _with_tokens(line: str, vocabulary: Vocabulary) -> str:
    """A line of Lark, its literals spelled in tokens where it is plainly a rule of nothing but such parts."""
    rule = _RULE.fullmatch(line)
    if rule is None or set("/%#") & set(_LITERAL.sub("", rule[2])):
        return line
    return rule[1] + _LITERAL.sub(lambda literal: _respelled(literal.group(), vocabulary), rule[2])


def _respelled(literal: str, vocabulary: Vocabulary) -> str:
    text = json.loads(literal)
    spelled = vocabulary.spelled(text)
    return literal if spelled == json.dumps(text) else f"({spelled})"


def _structural_tag(source: str, vocabulary: Vocabulary) -> str:
    """vLLM's shape: {"structures": [{"begin", "schema", "end"}], "triggers": [...]}; any text around them.

    A trigger that is a token counts as itself and spelled out, so that neither way leads past the schema.
    """
    spec: dict[str, Any] = json.loads(source)
    structures, triggers = spec["structures"], spec["triggers"]
    if not structures:
        raise ValueError("structures must not be empty")
    marks = {first for text in triggers if (first := vocabulary.first_of(text)) is not None}
    others = sorted(set(vocabulary.ids.values()) - vocabulary.ends - marks)
    lead = f"(TEXT <[{','.join(map(str, others))}]>)*" if others else ""
    rules = ["start: tag* free", f"free: {lead} TEXT", r"TEXT: /(.|\n)*/"]
    rules.append("tag: " + " | ".join(f"tag_{i}" for i in range(len(structures))))
    for i, structure in enumerate(structures):
        rules += _tag(i, structure, triggers, lead, vocabulary)
    return str(LLMatcher.grammar_from_lark("\n".join(rules)))


def _tag(
    i: int, structure: Mapping[str, Any], triggers: Sequence[str], lead: str, vocabulary: Vocabulary
) -> Iterator[str]:
    begin = structure["begin"]
    trigger = next((text for text in triggers if text and begin.startswith(text)), None)
    if trigger is None:
        raise ValueError(f"no trigger begins {begin!r}")
    rest = f"{vocabulary.spelled(begin[len(trigger) :])} json_{i} {vocabulary.spelled(structure['end'])}"
    yield f"trigger_{i}[lazy]: TEXT {json.dumps(trigger)}"
    yield f"tag_{i}: {lead} trigger_{i} {rest}"
    if vocabulary.first_of(trigger) is not None:
        yield f"    | free {vocabulary.spelled(trigger)} {rest}"
    yield f"json_{i}: {in_lark(structure.get('schema') or {})}"


_SOURCES: dict[str, Callable[[str, Vocabulary], str]] = {
    "json_schema": lambda source, _: json_schema(source),
    "json_object": lambda source, _: json_schema('{"type": "object"}'),
    "regex": lambda source, _: str(LLMatcher.grammar_from_regex(source)),
    "lark": _lark,
    "grammar": _ebnf,
    "choice": lambda source, _: _choice(source),
    "structural_tag": _structural_tag,
}
