"""Formats over HTTP: what is held to a schema fits it, by jsonschema, even at temperature 2."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import httpx
import jsonschema
import openai
import pydantic
import pytest

from dendrite_core import Engine
from dendrite_server.config import ServerConfig
from tests.server.conftest import Server, listen

USER: Any = [{"role": "user", "content": "Extract name and age as JSON: I am Ada and I am 36."}]


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: dict[str, dict[str, Any]] = {
    "person": closed(name={"type": "string", "maxLength": 12}, age={"type": "integer", "minimum": 0}),
    "enum": closed(kind={"enum": ["leaf", "branch", 3, None]}, on={"type": "boolean"}),
    "array": {"type": "array", "items": {"type": "integer", "maximum": 99}, "minItems": 1, "maxItems": 4},
    "any_of": {"anyOf": [closed(a={"const": 1}), closed(b={"type": "null"})]},
    "nested": closed(at=closed(x={"type": "number", "minimum": -1, "maximum": 1}), tags={"const": ["a"]}),
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "reference": {
        "$defs": {"leaf": closed(v={"type": "integer", "minimum": 0, "maximum": 9})},
        **closed(left={"$ref": "#/$defs/leaf"}, right={"$ref": "#/$defs/leaf"}),
    },
    "pattern": closed(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    "format": closed(day={"type": "string", "format": "date"}),
    "tuple": {
        "type": "array",
        "prefixItems": [{"const": "n"}, {"type": "boolean"}],
        "items": False,
        "minItems": 2,
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The embedded model, served."""
    path = str(files("dendrite_core") / "embedded")
    with Engine.from_pretrained(path, num_pages=1024, dtype="float32", threads=1) as engine:
        uvicorn, thread = listen(engine, ServerConfig(keep_alive=5, model_names=("dendrite",)))
        port = uvicorn.servers[0].sockets[0].getsockname()[1]
        yield Server(engine, f"http://127.0.0.1:{port}", port)
        uvicorn.should_exit = True
    thread.join()


def strict(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **fields}}


def ask(http: httpx.Client, path: str = "chat/completions", **fields: Any) -> dict[str, Any]:
    prompt = {"prompt": "JSON: "} if path == "completions" else {"messages": USER}
    answer = http.post(f"/v1/{path}", json={"max_tokens": 200, **prompt, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_branch_fits_its_schema_at_temperature_2(http: httpx.Client, name: str) -> None:
    schema, ended = SCHEMAS[name], 0
    for seed in range(4):
        made = ask(
            http,
            n_branches=13,
            temperature=2,
            seed=seed,
            response_format=strict(schema, strict=seed % 2 == 0),
        )
        for choice in made["choices"]:
            if choice["finish_reason"] == "stop":
                ended += 1
                value = json.loads(choice["message"]["content"])
                jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    assert ended >= 40


def test_a_document_that_is_cut_says_so(http: httpx.Client) -> None:
    made = ask(http, max_tokens=3, response_format=strict(SCHEMAS["person"]))
    assert made["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"response_format": {"type": "json_object"}, "temperature": 0}, r"\{.*"),
        ({"structured_outputs": {"regex": "[ab]{3}c"}}, "[ab]{3}c"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"grammar": 'root ::= "a" | "b"'}}, "a|b"),
        ({"structured_outputs": {"json": '{"type": "boolean"}'}}, "true|false"),
        ({"structured_outputs": {"json_object": True}, "temperature": 0}, r"\{.*"),
        ({"guided_regex": "z{2}"}, "zz"),
        ({"guided_choice": ["one", "two"]}, "one|two"),
        ({"guided_grammar": 'start: "x" /[0-9]/'}, "x[0-9]"),
        ({"guided_json": {"enum": [7, 8]}}, "7|8"),
    ],
    ids=str,
)
def test_every_spelling(http: httpx.Client, path: str, fields: dict[str, Any], pattern: str) -> None:
    (choice,) = ask(http, path, **{"temperature": 2, **fields})["choices"]
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    assert re.fullmatch(pattern, text, re.DOTALL)


def test_the_sdk_parses_into_a_model(client: openai.OpenAI) -> None:
    class Person(pydantic.BaseModel):
        name: str
        age: int

    done = client.chat.completions.parse(
        model="dendrite", messages=USER, response_format=Person, temperature=0, max_tokens=60
    )
    assert done.choices[0].message.parsed == Person(name="Ada", age=36)


def test_a_stream_says_the_same(http: httpx.Client, client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"response_format": strict(SCHEMAS["person"]), "seed": 4, "temperature": 1.5}
    whole = ask(http, **fields)["choices"][0]["message"]["content"]
    stream = client.chat.completions.create(
        model="dendrite", messages=USER, max_tokens=200, stream=True, **fields
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole


def test_a_branch_goes_on_in_the_middle_of_a_structure(http: httpx.Client) -> None:
    schema = SCHEMAS["nested"]
    half = ask(http, max_tokens=5, temperature=0, response_format=strict(schema))["choices"][0]
    for own in ({}, {"response_format": strict(schema)}):
        more = {"messages": [], "parent_id": half["branch_id"], "n_branches": 6, "temperature": 2, **own}
        for choice in ask(http, **more)["choices"]:
            if choice["finish_reason"] == "stop":
                said = half["message"]["content"] + choice["message"]["content"]
                jsonschema.validate(json.loads(said), schema)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": strict({"type": "array", "uniqueItems": True})},
            "response_format.json_schema.schema",
        ),
        ({"response_format": strict({"type": "flower"})}, "response_format.json_schema.schema"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs.grammar"),
        (
            {
                "structured_outputs": {
                    "structural_tag": {"structures": [{"begin": "<a", "end": ">"}], "triggers": []}
                }
            },
            "structured_outputs.structural_tag",
        ),
    ],
    ids=str,
)
def test_a_bad_constraint_is_refused_by_name(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": USER, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
