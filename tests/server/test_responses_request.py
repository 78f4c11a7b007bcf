"""Reading `/v1/responses`: every field of OpenAI's is honoured, harmless or refused by name."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from openai.types.responses import input_token_count_params, response_create_params
from openai.types.responses.response_includable import ResponseIncludable

from dendrite_core.errors import RequestError
from dendrite_server.protocol.request import CHAT_UNSUPPORTED, Limits
from dendrite_server.responses.items import messages_of
from dendrite_server.responses.request import (
    HARMLESS,
    INCLUDABLE,
    SHARED,
    UNSUPPORTED,
    ResponseRequest,
    parse_response,
    parse_token_count,
)

LIMITS = Limits(vocab_size=320, max_branches=16)


def parse(**fields: Any) -> ResponseRequest:
    return parse_response({"input": "hi", **fields}, LIMITS)


TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}

# One value of every field of OpenAI's that is honoured, and how the request then shows it.
HONOURED: dict[str, tuple[Any, str, Any]] = {
    "background": (True, "background", True),
    "background_options": ({"completion_window": "soonest"}, "background", False),
    "conversation": ("conv_1", "conversation_id", "conv_1"),
    "include": (["message.output_text.logprobs"], "chat.params.logprobs", 0),
    "input": ("hi", "items", parse().items),
    "instructions": ("be", "instructions", "be"),
    "max_output_tokens": (9, "chat.params.max_tokens", 9),
    "metadata": ({"a": "b"}, "echo.metadata", {"a": "b"}),
    "model": ("m", "chat.model", "m"),
    "parallel_tool_calls": (False, "echo.parallel_tool_calls", False),
    "previous_response_id": ("resp_1", "previous_response_id", "resp_1"),
    "prompt_cache_options": ({}, "echo.prompt_cache_options", {"mode": "implicit", "ttl": "30m"}),
    "reasoning": ({}, "echo.reasoning", {"effort": None, "summary": None}),
    "store": (False, "store", False),
    "stream": (True, "stream", True),
    "stream_options": ({"include_obfuscation": False}, "stream", True),
    "temperature": (0, "chat.params.temperature", 0.0),
    "text": ({"format": {"type": "text"}}, "echo.text", {"format": {"type": "text"}, "verbosity": "medium"}),
    "tool_choice": ("none", "echo.tool_choice", "none"),
    "tools": ([TOOL], "echo.tools", [TOOL]),
    "top_logprobs": (2, "chat.params.logprobs", 2),
    "top_p": (0.25, "chat.params.top_p", 0.25),
    "truncation": ("disabled", "echo.truncation", "disabled"),
}
NEEDS: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "tools": {"tool_choice": "none"},
    "top_logprobs": {"include": ["message.output_text.logprobs"]},
}


def show(request: Any, path: str) -> Any:
    for name in path.split("."):
        request = request[name] if isinstance(request, dict) else getattr(request, name)
    return request


@pytest.mark.parametrize("name", sorted(HONOURED))
def test_field_is_honoured(name: str) -> None:
    value, path, seen = HONOURED[name]
    assert show(parse(**{name: value}, **NEEDS.get(name, {})), path) == seen


def fields_of(module: Any, *names: str) -> set[str]:
    return {field for name in names for field in typing.get_type_hints(getattr(module, name))}


def test_no_field_of_openai_is_forgotten() -> None:
    names = ("ResponseCreateParamsNonStreaming", "ResponseCreateParamsStreaming")
    fields = fields_of(response_create_params, *names)
    assert fields == HONOURED.keys() | HARMLESS.keys() | (UNSUPPORTED.keys() & fields)
    assert not HONOURED.keys() & (HARMLESS.keys() | UNSUPPORTED.keys())
    assert not HARMLESS.keys() & UNSUPPORTED.keys()


def test_no_field_of_the_token_count_is_forgotten() -> None:
    fields = fields_of(input_token_count_params, "InputTokenCountParams")
    for name in fields - {"personality"}:
        value, path, seen = HONOURED[name]
        body = {"input": "hi", name: value, **NEEDS.get(name, {})}
        assert show(parse_token_count(body, LIMITS), path) == seen
    for name in ("personality", "temperature"):
        with pytest.raises(RequestError) as caught:
            parse_token_count({"input": "hi", name: "x"}, LIMITS)
        assert caught.value.param == name


def test_all_that_can_be_included_is_known() -> None:
    assert set(typing.get_args(ResponseIncludable)) == set(INCLUDABLE)


HARMLESS_VALUES = {"max_tool_calls": 3, "prompt_cache_retention": "24h"}


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_harmless_field_changes_nothing_but_is_checked_and_echoed(name: str) -> None:
    value = HARMLESS_VALUES.get(name, "text")
    asked, plain = parse(**{name: value}), parse()
    assert (asked.chat, asked.items, asked.head) == (plain.chat, plain.items, plain.head)
    assert asked.echo == {**plain.echo, name: value}
    with pytest.raises(RequestError) as caught:
        parse(**{name: 3.5})
    assert caught.value.param == name


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_unsupported_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError, match=f"'{name}'") as caught:
        parse(**{name: {}})
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


SHARED_VALUES: dict[str, Any] = {
    "allowed_token_ids": [3],
    "bad_words": ["x"],
    "guided_choice": ["a"],
    "guided_whitespace_pattern": " ?",
    "guided_grammar": "start: /a/",
    "guided_json": {},
    "guided_regex": "a",
    "structured_outputs": {"regex": "a"},
    "cache_salt": "tenant",
    "chat_template_kwargs": {"a": 1},
    "logit_bias": {"7": 1},
    "stop": "x",
    "stop_token_ids": [3],
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "skip_special_tokens": False,
    "min_tokens": 3,
    "min_p": 0.1,
    "model": "m",
    "seed": 5,
    "stream": True,
    "top_k": 4,
    "priority": 2,
}


@pytest.mark.parametrize("name", sorted(set(SHARED) - CHAT_UNSUPPORTED.keys() - {"parallel_tool_calls"}))
def test_what_chat_reads_is_read_alike(name: str) -> None:
    needs = {"guided_json": {}} if name == "guided_whitespace_pattern" else {}
    value = SHARED_VALUES.get(name, 0.5)
    assert parse(**{name: value}, **needs).chat != parse(**needs).chat


@pytest.mark.parametrize("name", sorted(set(SHARED) & CHAT_UNSUPPORTED.keys()))
def test_what_chat_refuses_is_refused_alike(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(**{name: "x"})
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


USER = {"role": "user", "content": "x"}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input": 3}, "input", "invalid_type"),
    ({"input": ["x"]}, "input[0]", "invalid_type"),
    ({"input": [{}]}, "input[0].role", "missing_required_parameter"),
    ({"input": [USER, {"role": "robot", "content": ""}]}, "input[1].role", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
    ({"input": [{"role": "user", "content": 3}]}, "input[0].content", "invalid_type"),
    ({"input": [{**USER, "mood": 1}]}, "input[0].mood", "unknown_parameter"),
    ({"input": [{**USER, "status": "done"}]}, "input[0].status", "invalid_value"),
    (
        {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        "input[0].content[0].type",
        "invalid_value",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
        "input[0].content[0].type",
        "invalid_value",
    ),
    (
        {"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]},
        "input[0].content[0].type",
        "invalid_value",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0].type",
        "unsupported_parameter",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input[0].content[0].text",
        "missing_required_parameter",
    ),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type", "unsupported_parameter"),
    ({"input": [{**CALL, "name": None}]}, "input[0].name", "missing_required_parameter"),
    ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments", "invalid_type"),
    (
        {"input": [{"type": "function_call_output", "output": "x"}]},
        "input[0].call_id",
        "missing_required_parameter",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "1", "output": {}}]},
        "input[0].output",
        "invalid_type",
    ),
    (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        "input[0].encrypted_content",
        "unsupported_parameter",
    ),
    ({"background": True, "store": False}, "background", "invalid_value"),
    (
        {"background_options": {"completion_window": "8h"}},
        "background_options.completion_window",
        "unsupported_parameter",
    ),
    ({"conversation": {}}, "conversation.id", "missing_required_parameter"),
    ({"conversation": 3}, "conversation", "invalid_type"),
    ({"include": ["x"]}, "include[0]", "invalid_value"),
    ({"include": "x"}, "include", "invalid_type"),
    ({"instructions": ["x"]}, "instructions", "invalid_type"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"metadata": {"a": {}}}, "metadata.a", "invalid_type"),
    ({"metadata": False}, "metadata", "invalid_type"),
    ({"metadata": []}, "metadata", "invalid_type"),
    ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm", "unsupported_parameter"),
    ({"reasoning": {"effort": "low"}}, "reasoning.effort", "unsupported_parameter"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "unsupported_parameter"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options", "invalid_value"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
        "unsupported_parameter",
    ),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
    (
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        "text.format.name",
        "missing_required_parameter",
    ),
    ({"text": {"color": 1}}, "text.color", "unknown_parameter"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading", "unknown_parameter"),
    ({"tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "mcp"}}, "tool_choice.type", "unsupported_parameter"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
    ({"messages": []}, "messages", "unknown_parameter"),
    ({"max_tokens": 3}, "max_tokens", "unknown_parameter"),
    ({"response_format": {}}, "response_format", "unknown_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD, ids=lambda value: str(value)[:60])
def test_bad_fields_are_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(RequestError, match=r"\w") as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_chats_complaints_use_the_callers_words() -> None:
    with pytest.raises(RequestError, match=r"'reasoning\.effort'"):
        parse(reasoning={"effort": "low"})


def test_tools_that_are_not_to_be_called_need_no_tools() -> None:
    for choice in (None, "auto", "none"):
        assert parse(tool_choice=choice).echo["tool_choice"] == (choice or "auto")


def test_null_means_not_given() -> None:
    optional = (HONOURED.keys() | HARMLESS.keys() | UNSUPPORTED.keys() | set(SHARED)) - {"input"}
    assert parse(**dict.fromkeys(optional)) == parse()


def test_neighbouring_items_of_the_assistant_are_one_turn() -> None:
    items = parse(
        input=[
            USER,
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"role": "assistant", "content": "I ask"},
            CALL,
            {**CALL, "call_id": "2"},
            {"type": "function_call_output", "call_id": "1", "output": "a"},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "b"}]},
        ]
    ).items
    function = {"name": "f", "arguments": "{}"}
    assert messages_of(items) == [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "content": "I ask",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "1", "type": "function", "function": function},
                {"id": "2", "type": "function", "function": function},
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "a"},
        {"role": "tool", "tool_call_id": "2", "content": "b"},
    ]
