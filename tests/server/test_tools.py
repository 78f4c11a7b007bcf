"""Tools over HTTP with the embedded model: a round trip, every tool choice, streams, branches, schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import httpx
import jsonschema
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from dendrite_core import Engine
from dendrite_server.config import ServerConfig
from tests.server.conftest import Server, listen


def function(name: str, strict: bool | None = None, **properties: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    entry: dict[str, Any] = {
        "name": name,
        "description": "Evaluate an arithmetic expression.",
        "parameters": schema,
    }
    return {"type": "function", "function": entry if strict is None else {**entry, "strict": strict}}


CALCULATOR = function(
    "calculator", expression={"type": "string", "description": "The expression, e.g. 2 + 3 * 4"}
)
SIZED = function("resize", width={"type": "integer", "minimum": 1, "maximum": 9}, kind={"enum": ["a", "b"]})
ASK: list[Any] = [{"role": "user", "content": "What is 1234 * 5678?"}]


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


def ask(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {"messages": ASK, "max_tokens": 150, "temperature": 0, "tools": [CALCULATOR], **fields}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def calls_of(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = choice["message"]["tool_calls"]
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def streamed(http: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    """The choices of a stream, put together as its deltas say."""
    body = {
        "messages": ASK,
        "max_tokens": 150,
        "temperature": 0,
        "tools": [CALCULATOR],
        **fields,
        "stream": True,
    }
    choices: dict[int, dict[str, Any]] = {}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                for part in json.loads(line[6:])["choices"]:
                    _add(choices.setdefault(part["index"], {"content": "", "tool_calls": []}), part)
    return [choices[index] for index in sorted(choices)]


def _add(choice: dict[str, Any], part: dict[str, Any]) -> None:
    choice["content"] += part["delta"].get("content") or ""
    choice["finish_reason"] = part["finish_reason"]
    for call in part["delta"].get("tool_calls", ()):
        if "id" in call:
            assert call["index"] == len(choice["tool_calls"])
            assert call["function"]["arguments"] == ""
            choice["tool_calls"].append({name: call[name] for name in ("id", "type", "function")})
        else:
            assert call.keys() == {"index", "function"}
            choice["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]


def test_a_round_trip(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="dendrite", messages=ASK, tools=[CALCULATOR], temperature=0)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"expression": "1234 * 5678"}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "7006652"}
    told: list[Any] = [*ASK, choice.message, result]
    for said in (
        client.chat.completions.create(model="dendrite", messages=told, tools=[CALCULATOR], temperature=0),
        client.chat.completions.create(
            model="dendrite",
            messages=[result],
            tools=[CALCULATOR],
            temperature=0,
            extra_body={"parent_id": choice.model_extra["branch_id"]} if choice.model_extra else {},
        ),
    ):
        assert said.choices[0].message.content == "1234 * 5678 = 7006652."
        assert said.choices[0].finish_reason == "stop"


def test_tools_that_are_not_to_be_called_are_not_called(http: httpx.Client) -> None:
    (choice,) = ask(http, tool_choice="none")["choices"]
    assert "tool_calls" not in choice["message"]
    assert "<tool_call>" not in choice["message"]["content"]


CHOICES: list[Any] = [
    "required",
    {"type": "function", "function": {"name": "resize"}},
    {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "resize"}}],
        },
    },
]


@pytest.mark.parametrize("choice", CHOICES, ids=["required", "named", "allowed"])
def test_calls_that_must_be_made_fit_their_schema_at_temperature_2(http: httpx.Client, choice: Any) -> None:
    tools = [SIZED] if choice == "required" else [CALCULATOR, SIZED]
    made = ask(http, tools=tools, tool_choice=choice, temperature=2, n=16, seed=3, parallel_tool_calls=False)
    ended = [one for one in made["choices"] if one["finish_reason"] == "tool_calls"]
    assert len(ended) >= 14
    for one in ended:
        ((name, arguments),) = calls_of(one)
        assert name == "resize"
        jsonschema.validate(arguments, SIZED["function"]["parameters"])


def test_strict_functions_are_held_to_their_schema_in_auto_mode(http: httpx.Client) -> None:
    picky = function("calculator", True, expression={"type": "string", "pattern": "^[0-9]+ [+] [0-9]+$"})
    (choice,) = ask(http, tools=[picky])["choices"]
    ((_, arguments),) = calls_of(choice)
    jsonschema.validate(arguments, picky["function"]["parameters"])


def test_several_calls_or_one(http: httpx.Client, server: Server) -> None:
    endless = {str(token): -100 for token in server.engine.tokenizer.eos_ids}
    fields = {"tools": [SIZED], "tool_choice": "required", "temperature": 2, "logit_bias": endless}
    (choice,) = ask(http, **fields)["choices"]
    assert len(choice["message"]["tool_calls"]) > 1
    (one,) = ask(http, **fields, parallel_tool_calls=False)["choices"]
    assert len(one["message"]["tool_calls"]) == 1


@pytest.mark.parametrize(
    "fields",
    [{}, {"n_branches": 3, "temperature": 1.2, "seed": 1}, {"tools": [SIZED], "tool_choice": "required"}],
    ids=str,
)
def test_a_stream_adds_up_to_the_whole(http: httpx.Client, fields: dict[str, Any]) -> None:
    whole = ask(http, **fields)["choices"]
    for told, said in zip(streamed(http, **fields), whole, strict=True):
        calls = said["message"].get("tool_calls", [])
        assert [call["function"] for call in told["tool_calls"]] == [call["function"] for call in calls]
        assert told["content"] == (said["message"]["content"] or "")
        assert told["finish_reason"] == said["finish_reason"]


def test_the_shapes_are_the_sdks(http: httpx.Client) -> None:
    made = ChatCompletion.model_validate(ask(http, logprobs=True, n=2), strict=True)
    ids = [call.id for choice in made.choices for call in choice.message.tool_calls or ()]
    assert len(ids) == len(set(ids)) == 2
    assert isinstance(made.choices[0].message, ChatCompletionMessage)


def test_a_call_or_an_answer_of_a_format(http: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for choice in ask(http, response_format=wanted, temperature=2, n=16, seed=2)["choices"]:
        if choice["finish_reason"] == "tool_calls":
            assert calls_of(choice)[0][0] == "calculator"
        elif choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)


def test_a_call_that_is_cut_says_so(http: httpx.Client) -> None:
    (choice,) = ask(http, max_tokens=14)["choices"]
    assert choice["finish_reason"] == "length"


def test_a_bad_tool_schema_is_named(http: httpx.Client) -> None:
    bad = function("bad", a={"type": "array", "uniqueItems": True})
    body = {"messages": ASK, "tools": [CALCULATOR, bad], "tool_choice": "required"}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[1].function.parameters"
    assert "uniqueItems" in answer.json()["error"]["message"]


# The same through /v1/responses.


def test_responses_call_tools_and_go_on_from_the_branch(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": True, **CALCULATOR["function"]}
    first = client.responses.create(
        model="dendrite", input=ASK[0]["content"], tools=[tool], temperature=0, max_output_tokens=100
    )
    (call,) = first.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"expression": "1234 * 5678"}
    said = client.responses.create(
        model="dendrite",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "7006652"}],
        tools=[tool],
        temperature=0,
    )
    assert said.output_text == "1234 * 5678 = 7006652."
    assert said.usage is not None
    assert said.usage.input_tokens_details.cached_tokens > 0


@pytest.mark.parametrize(
    "before", [[], [{"type": "function_call", "call_id": "other", "name": "f", "arguments": "{}"}]]
)
def test_an_output_without_its_call_is_refused(client: openai.OpenAI, before: list[Any]) -> None:
    first = client.responses.create(model="dendrite", input=ASK[0]["content"], max_output_tokens=2)
    output: Any = {"type": "function_call_output", "call_id": "call_never_made", "output": "1"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="dendrite", previous_response_id=first.id, input=[*before, output])
    assert refused.value.param == f"input[{len(before)}].call_id"
    assert "No tool call found for function call output with call_id call_never_made" in refused.value.message


def test_responses_stream_a_call_that_must_be_made(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": True, **SIZED["function"]}
    fragments = []
    with client.responses.stream(
        model="dendrite",
        input="x",
        tools=[tool],
        tool_choice="required",
        max_output_tokens=100,
        extra_body={"seed": 1},
    ) as stream:
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                fragments.append(event.delta)
        made = stream.get_final_response()
    call = made.output[0]
    assert call.type == "function_call"
    assert "".join(fragments)[: len(call.arguments)] == call.arguments
    jsonschema.validate(json.loads(call.arguments), SIZED["function"]["parameters"])


def test_responses_parse_into_a_model(client: openai.OpenAI) -> None:
    class Person(pydantic.BaseModel):
        name: str
        age: int

    asked = "Extract name and age as JSON: I am Ada and I am 36."
    made = client.responses.parse(model="dendrite", input=asked, text_format=Person, temperature=0)
    assert made.output_parsed == Person(name="Ada", age=36)


def test_a_bad_tool_schema_is_named_in_the_callers_words(http: httpx.Client) -> None:
    bad = {"type": "function", "name": "f", "parameters": {"properties": {"a": {"uniqueItems": True}}}}
    body = {"input": "x", "tools": [bad], "tool_choice": "required"}
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[0].parameters"
