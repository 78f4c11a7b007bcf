"""What an answer's text is held to: `response_format`, vLLM's `structured_outputs` and its older `guided_*`.

All spellings become one `GrammarSpec`, whose `param` is the field the caller wrote. At most one of them may
be given: two constraints on one text are a mistake of the caller, not a preference to be guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from dendrite_core.params import GrammarSpec
from dendrite_server.protocol.fields import (
    MAX_DEPTH,
    Fields,
    as_strings,
    invalid,
    missing,
    nests_too_deeply,
    unsupported,
    wrong_type,
)

_FORMATS = ("text", "json_object", "json_schema", "structural_tag", "grammar", "python")
_ANY_OBJECT = '{"type":"object"}'


def read_constraint(fields: Fields) -> GrammarSpec | None:
    """Take every constraining field; None if the text is free. Raises when there is more than one."""
    whitespace = _Whitespace(fields, "guided_whitespace_pattern")
    found = whitespace.applied_to(list(_guided(fields)))
    found += [*_structured(fields), *_response_format(fields)]
    if len(found) > 1:
        first, second = found[0].param, found[1].param
        raise invalid(second, f"an answer has one constraint, and '{first}' is given too.")
    return found[0] if found else None


def _response_format(fields: Fields) -> Iterator[GrammarSpec]:
    wanted = fields.object("response_format")
    if wanted is None:
        return
    wanted.require("type")
    kind, path = wanted.choice("type", _FORMATS), fields.path("response_format")
    if kind == "json_object":
        yield GrammarSpec(kind="json_schema", source=_ANY_OBJECT, param=path)
    elif kind == "json_schema":
        yield _json_schema(wanted)
    elif kind == "structural_tag":
        tag = {name: wanted.take(name) for name in ("structures", "triggers", "format")}
        given = {name: value for name, value in tag.items() if value is not None}
        yield _structural_tag(path, given)
    elif kind != "text":
        raise unsupported(path, "Write a grammar into 'structured_outputs.grammar'.")
    wanted.finish()


def _json_schema(wanted: Fields) -> GrammarSpec:
    """Strict or not, the text fits the schema: nothing is gained by holding to it loosely."""
    wanted.require("json_schema")
    given = wanted.object("json_schema") or Fields({}, wanted.path("json_schema"))
    given.require("name")
    given.string("name")
    given.string("description")
    given.boolean("strict")
    schema, path = given.take("schema"), given.path("schema")
    given.finish()
    if schema is None:
        return GrammarSpec(kind="json_schema", source=_ANY_OBJECT, param=path)
    if not isinstance(schema, dict):
        raise wrong_type(path, "an object", schema)
    return _schema(path, schema)


def _guided(fields: Fields) -> Iterator[GrammarSpec]:
    for kind, read in _KINDS.items():
        if (value := fields.take(f"guided_{kind}")) is not None:
            yield read(fields.path(f"guided_{kind}"), value)


def _structured(fields: Fields) -> Iterator[GrammarSpec]:
    wanted = fields.object("structured_outputs")
    if wanted is None:
        return
    found = [
        read(wanted.path(kind), value)
        for kind, read in {**_KINDS, "structural_tag": _structural_tag}.items()
        if (value := wanted.take(kind)) is not None
    ]
    if wanted.boolean("json_object", False):
        path = wanted.path("json_object")
        found.append(GrammarSpec(kind="json_schema", source=_ANY_OBJECT, param=path))
    whitespace = _Whitespace(wanted, "whitespace_pattern")
    if wanted.boolean("disable_any_whitespace", False):
        whitespace.path, whitespace.pattern = wanted.path("disable_any_whitespace"), whitespace.pattern or ""
    # Another engine to fall back to, there is none.
    wanted.boolean("disable_fallback")
    if wanted.boolean("disable_additional_properties", False):
        raise unsupported(wanted.path("disable_additional_properties"), "Say it in the schema.")
    wanted.finish()
    if not found:
        raise missing(wanted.path("json"))
    yield from whitespace.applied_to(found)


class _Whitespace:
    """What may stand between the parts of a JSON answer, a regular expression; None for the usual."""

    def __init__(self, fields: Fields, name: str) -> None:
        self.pattern = fields.string(name)
        self.path = fields.path(name)

    def applied_to(self, specs: list[GrammarSpec]) -> list[GrammarSpec]:
        if self.pattern is None:
            return specs
        if not specs or any(spec.kind != "json_schema" for spec in specs):
            raise invalid(self.path, "only of JSON can the whitespace be said.")
        detail = {"x-guidance": {"whitespace_pattern": self.pattern}}
        return [replace(spec, source=json.dumps({**json.loads(spec.source), **detail})) for spec in specs]


def _json(path: str, value: Any) -> GrammarSpec:
    """A schema as an object, or as its JSON text."""
    if isinstance(value, str):
        value = _decoded(path, value)
    if not isinstance(value, dict):
        raise wrong_type(path, "a JSON schema", value)
    return _schema(path, value)


def _schema(path: str, schema: dict[str, Any]) -> GrammarSpec:
    return GrammarSpec(kind="json_schema", source=json.dumps(schema), param=path)


def _text(kind: str) -> Callable[[str, Any], GrammarSpec]:
    def read(path: str, value: Any) -> GrammarSpec:
        if not isinstance(value, str):
            raise wrong_type(path, "a string", value)
        if not value:
            raise invalid(path, "it must not be empty.")
        return GrammarSpec(kind=kind, source=value, param=path)

    return read


def _choice(path: str, value: Any) -> GrammarSpec:
    choices = as_strings(path, value)
    if not choices or not all(choices):
        raise invalid(path, "it must be a list of one or more texts, none of them empty.")
    return GrammarSpec(kind="choice", source=json.dumps(choices), param=path)


def _structural_tag(path: str, value: Any) -> GrammarSpec:
    if isinstance(value, str):
        value = _decoded(path, value)
    tag = Fields(value, path) if isinstance(value, dict) else None
    if tag is None:
        raise wrong_type(path, "an object or its JSON text", value)
    tag.take("type")
    if tag.has("format"):
        raise unsupported(tag.path("format"), "Tags are given as 'structures' and 'triggers'.")
    structures, triggers = tag.array("structures"), tag.take("triggers")
    tag.finish()
    spec = {
        "structures": [
            _structure(tag.path(f"structures[{at}]"), one) for at, one in enumerate(structures or ())
        ],
        "triggers": as_strings(tag.path("triggers"), triggers),
    }
    if not spec["structures"]:
        raise missing(tag.path("structures"))
    return GrammarSpec(kind="structural_tag", source=json.dumps(spec), param=path)


def _structure(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    given = Fields(value, path)
    for name in ("begin", "end"):
        given.require(name)
    structure = {
        "begin": given.string("begin"),
        "schema": given.mapping("schema"),
        "end": given.string("end"),
    }
    given.finish()
    return structure


def _decoded(path: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(path, f"it is not JSON: {error}") from None
    if nests_too_deeply(value):
        raise invalid(path, f"it nests too deeply; {MAX_DEPTH} levels are allowed.")
    return value


_KINDS: dict[str, Callable[[str, Any], GrammarSpec]] = {
    "json": _json,
    "regex": _text("regex"),
    "choice": _choice,
    "grammar": _text("grammar"),
}
