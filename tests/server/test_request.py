"""Reading requests: what is honoured, what is harmless, what is refused, and how the refusal reads."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest
from openai.types import completion_create_params as openai_completion
from openai.types.chat import completion_create_params as openai_chat

from dendrite_core.errors import RequestError
from dendrite_server.protocol.fields import read_json
from dendrite_server.protocol.request import (
    CHAT_UNSUPPORTED,
    COMPLETION_UNSUPPORTED,
    HARMLESS,
    NEUTRAL,
    ChatRequest,
    CompletionRequest,
    Cut,
    Limits,
    parse_chat,
    parse_completion,
)
from dendrite_server.tools.dialect import Dialect
from dendrite_server.tools.formats import HERMES, LLAMA3_JSON, MISTRAL

DIALECT = Dialect(calls=HERMES, knows_effort=True, knows_documents=True)
LIMITS = Limits(vocab_size=320, max_branches=16, dialect=DIALECT, trusts_templates=True)
USER = {"role": "user", "content": "hi"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


def chat(**fields: Any) -> ChatRequest:
    return parse_chat({"messages": [USER], **fields}, LIMITS)


def completion(**fields: Any) -> CompletionRequest:
    return parse_completion({"prompt": "hi", **fields}, LIMITS)


# One value of every field of OpenAI's that is honoured, and how the request then shows it.
CHAT_HONOURED: dict[str, tuple[Any, str, Any]] = {
    "model": ("m", "model", "m"),
    "messages": ([USER], "messages", (USER,)),
    "function_call": ({"name": "f"}, "params.grammar.kind", "lark"),
    "functions": ([TOOL["function"]], "tool_use.offered", (TOOL,)),
    "frequency_penalty": (0.5, "params.frequency_penalty", 0.5),
    "logit_bias": ({"7": -100}, "params.logit_bias", {7: -100.0}),
    "logprobs": (True, "params.logprobs", 0),
    "max_completion_tokens": (9, "params.max_tokens", 9),
    "max_tokens": (9, "params.max_tokens", 9),
    "modalities": (["text"], "stream", False),
    "n": (3, "n", 3),
    "parallel_tool_calls": (False, "tool_use.parallel", False),
    "presence_penalty": (-2, "params.presence_penalty", -2.0),
    "reasoning_effort": ("low", "template_kwargs", {"reasoning_effort": "low"}),
    "response_format": ({"type": "json_object"}, "params.grammar.kind", "json_schema"),
    "seed": (5, "params.seed", 5),
    "stop": ("x", "params.stop", ("x",)),
    "stream": (True, "stream", True),
    "stream_options": ({"include_usage": True}, "include_usage", True),
    "temperature": (0, "params.temperature", 0.0),
    "tool_choice": ("required", "params.grammar.kind", "lark"),
    "tools": ([TOOL], "tool_use.offered", (TOOL,)),
    "top_logprobs": (2, "params.logprobs", 2),
    "top_p": (0.25, "params.top_p", 0.25),
    "verbosity": ("medium", "stream", False),
}
NEEDS: dict[str, dict[str, Any]] = {
    "function_call": {"functions": [TOOL["function"]]},
    "guided_whitespace_pattern": {"guided_json": {"type": "null"}},
    "truncation_side": {"truncate_prompt_tokens": 5},
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [TOOL]},
    "parallel_tool_calls": {"tools": [TOOL]},
}
CHAT_EXTENSIONS: dict[str, tuple[Any, str, Any]] = {
    "add_special_tokens": (True, "framed", True),
    "allowed_token_ids": ([3, 4], "params.allowed_token_ids", (3, 4)),
    "bad_words": (["x", "y z"], "params.bad_words", ("x", "y z")),
    "chat_template": ("{{ messages[0].content }}", "chat_template", "{{ messages[0].content }}"),
    "documents": ([{"title": "t"}], "template_kwargs", {"documents": [{"title": "t"}]}),
    "guided_whitespace_pattern": (
        "",
        "params.grammar.source",
        '{"type": "null", "x-guidance": {"whitespace_pattern": ""}}',
    ),
    "include_reasoning": (False, "include_reasoning", False),
    "request_id": ("mine-1", "request_id", "mine-1"),
    "truncate_prompt_tokens": (5, "cut", Cut(5)),
    "truncation_side": ("right", "cut", Cut(5, keeps_end=False)),
    "add_generation_prompt": (False, "add_generation_prompt", False),
    "cache_salt": ("tenant", "namespace", ("tenant",)),
    "chat_template_kwargs": ({"a": 1}, "template_kwargs", {"a": 1}),
    "guided_choice": (["a"], "params.grammar.kind", "choice"),
    "guided_grammar": ("start: /a/", "params.grammar.kind", "grammar"),
    "guided_json": ('{"type": "null"}', "params.grammar.source", '{"type": "null"}'),
    "guided_regex": ("a+", "params.grammar.kind", "regex"),
    "ignore_eos": (True, "params.ignore_eos", True),
    "include_stop_str_in_output": (True, "params.include_stop_str_in_output", True),
    "min_p": (0.1, "params.min_p", 0.1),
    "min_tokens": (3, "params.min_tokens", 3),
    "n_branches": (4, "n", 4),
    "parent_id": ("branch_1a", "parent_id", "branch_1a"),
    "priority": (-1, "priority", -1),
    "prompt_logprobs": (2, "params.prompt_logprobs", 2),
    "repetition_penalty": (1.5, "params.repetition_penalty", 1.5),
    "return_token_ids": (True, "return_token_ids", True),
    "skip_special_tokens": (False, "params.skip_special_tokens", False),
    "stop_token_ids": ([3, 4], "params.stop_token_ids", (3, 4)),
    "structured_outputs": ({"choice": ["a"]}, "params.grammar.param", "structured_outputs.choice"),
    "top_k": (40, "params.top_k", 40),
}
COMPLETION_HONOURED: dict[str, tuple[Any, str, Any]] = {
    **{name: CHAT_HONOURED[name] for name in ("frequency_penalty", "logit_bias", "max_tokens", "model", "n")},
    **{name: CHAT_HONOURED[name] for name in ("presence_penalty", "seed", "stop", "stream", "temperature")},
    **{name: CHAT_HONOURED[name] for name in ("stream_options", "top_p")},
    "best_of": (3, "best_of", 3),
    "echo": (True, "echo", True),
    "logprobs": (3, "params.logprobs", 3),
    "prompt": ("hi", "prompts", ("hi",)),
}


def show(request: object, path: str) -> Any:
    for name in path.split("."):
        request = getattr(request, name)
    return request


@pytest.mark.parametrize("name", sorted(CHAT_HONOURED.keys() | CHAT_EXTENSIONS.keys()))
def test_chat_field_is_honoured(name: str) -> None:
    value, path, seen = {**CHAT_HONOURED, **CHAT_EXTENSIONS}[name]
    assert show(chat(**{name: value}, **NEEDS.get(name, {})), path) == seen


@pytest.mark.parametrize("name", sorted(COMPLETION_HONOURED))
def test_completion_field_is_honoured(name: str) -> None:
    value, path, seen = COMPLETION_HONOURED[name]
    assert show(completion(**{name: value}, **NEEDS.get(name, {})), path) == seen


def fields_of(*classes: type) -> set[str]:
    return {name for cls in classes for name in typing.get_type_hints(cls)}


def test_no_field_of_openai_is_forgotten() -> None:
    asked = openai_chat
    fields = fields_of(asked.CompletionCreateParamsNonStreaming, asked.CompletionCreateParamsStreaming)
    refused = CHAT_UNSUPPORTED.keys() & fields
    assert fields == CHAT_HONOURED.keys() | (HARMLESS.keys() & fields) | refused
    assert not CHAT_HONOURED.keys() & refused


def test_no_field_of_legacy_completions_is_forgotten() -> None:
    asked = openai_completion
    fields = fields_of(asked.CompletionCreateParamsNonStreaming, asked.CompletionCreateParamsStreaming)
    refused = COMPLETION_UNSUPPORTED.keys() & fields
    assert fields == COMPLETION_HONOURED.keys() | (HARMLESS.keys() & fields) | refused
    assert not COMPLETION_HONOURED.keys() & refused


HARMLESS_VALUES = {
    "spaces_between_special_tokens": True,
    "metadata": {"a": "b"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"mode": "implicit"},
    "store": True,
}


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_harmless_field_changes_nothing_but_its_type_is_checked(name: str) -> None:
    assert chat(**{name: HARMLESS_VALUES.get(name, "text")}) == chat()
    with pytest.raises(RequestError) as caught:
        chat(**{name: 3.5})
    assert (caught.value.param, caught.value.code) == (name, "invalid_type")


@pytest.mark.parametrize("name", sorted(CHAT_UNSUPPORTED))
def test_unsupported_chat_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError, match=f"'{name}'") as caught:
        chat(**{name: {}})
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("name", sorted(COMPLETION_UNSUPPORTED))
def test_unsupported_completion_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        completion(**{name: {}})
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_the_value_of_a_refused_field_that_asks_for_nothing_is_taken(name: str) -> None:
    """Clients write their defaults out; only what would be another behaviour is refused."""
    for refused, ask in ((CHAT_UNSUPPORTED, chat), (COMPLETION_UNSUPPORTED, completion)):
        if name in refused:
            assert ask(**{name: NEUTRAL[name]}) == ask()
            other = not NEUTRAL[name] if isinstance(NEUTRAL[name], bool) else True
            with pytest.raises(RequestError, match="Unsupported"):
                ask(**{name: other})


TOOL_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BAD_CHAT: list[tuple[dict[str, Any], str, str]] = [
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "invalid_type"),
    ({"chat_template_kwargs": False}, "chat_template_kwargs", "invalid_type"),
    (
        {"structured_outputs": {"structural_tag": {"structures": [{"begin": "a", "end": "", "schema": 0}]}}},
        "structured_outputs.structural_tag.structures[0].schema",
        "invalid_type",
    ),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{**USER, "mood": 1}]}, "messages[0].mood", "unknown_parameter"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
        "messages[0].content[0].text",
        "invalid_type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "missing_required_parameter"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{**TOOL_CALL, "type": "custom"}]}]},
        "messages[0].tool_calls[0].type",
        "unsupported_parameter",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{**TOOL_CALL, "function": {"name": "f"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
        "missing_required_parameter",
    ),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": 2.5}, "temperature", "invalid_value"),
    ({"temperature": 10**400}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
    ({"max_completion_tokens": -1}, "max_completion_tokens", "invalid_value"),
    ({"max_completion_tokens": 1, "max_tokens": 2}, "max_tokens", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 17}, "n", "invalid_value"),
    ({"n": 2, "n_branches": 3}, "n_branches", "invalid_value"),
    ({"n_branches": "2"}, "n_branches", "invalid_type"),
    ({"parent_id": 3}, "parent_id", "invalid_type"),
    ({"parent_id": "chatcmpl-1a-8"}, "parent_id", "invalid_value"),
    ({"parent_offset": 3}, "parent_offset", "invalid_value"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"320": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1": "a"}}, "logit_bias.1", "invalid_type"),
    ({"logit_bias": [1]}, "logit_bias", "invalid_type"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
    ({"logprobs": 3}, "logprobs", "invalid_type"),
    ({"seed": 1 << 63}, "seed", "invalid_value"),
    ({"stop": 3}, "stop", "invalid_type"),
    ({"stop": ["a", 3]}, "stop[1]", "invalid_type"),
    ({"stop": ""}, "stop", "invalid_value"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"stop_token_ids": [320]}, "stop_token_ids[0]", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"a": 1}}, "stream_options.a", "unknown_parameter"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        "stream_options.include_usage",
        "invalid_type",
    ),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
        "unsupported_parameter",
    ),
    ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
    ({"tools": [{"type": "custom"}]}, "tools[0].type", "unsupported_parameter"),
    (
        {"tools": [TOOL, {"type": "function", "function": {"name": "a b"}}]},
        "tools[1].function.name",
        "invalid_value",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
        "tools[0].function.parameters",
        "invalid_value",
    ),
    ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "invalid_value"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
        "invalid_value",
    ),
    (
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
        "tool_choice.allowed_tools.tools",
        "missing_required_parameter",
    ),
    ({"tools": [TOOL], "guided_regex": "a"}, "guided_regex", "unsupported_parameter"),
    ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
    ({"response_format": {"type": "python"}}, "response_format", "unsupported_parameter"),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 3}}},
        "response_format.json_schema.schema",
        "invalid_type",
    ),
    ({"guided_json": "{"}, "guided_json", "invalid_value"),
    ({"guided_json": {}, "guided_regex": "x"}, "guided_regex", "invalid_value"),
    ({"structured_outputs": {}}, "structured_outputs.json", "missing_required_parameter"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex", "invalid_value"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
    ({"structured_outputs": {"grammar": ""}}, "structured_outputs.grammar", "invalid_value"),
    (
        {"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
        "structured_outputs.whitespace_pattern",
        "invalid_value",
    ),
    (
        {"structured_outputs": {"structural_tag": {"format": {}}}},
        "structured_outputs.structural_tag.format",
        "unsupported_parameter",
    ),
    (
        {"guided_choice": ["a"], "response_format": {"type": "json_object"}},
        "response_format",
        "invalid_value",
    ),
    ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
    ({"verbosity": "low"}, "verbosity", "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "invalid_value"),
    ({"cache_salt": ""}, "cache_salt", "invalid_value"),
    ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
    (
        {"continue_final_message": True, "parent_id": "branch_1"},
        "continue_final_message",
        "unsupported_parameter",
    ),
    ({"chat_template_kwargs": 3}, "chat_template_kwargs", "invalid_type"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "invalid_value"),
    ({"frequency_penality": 1}, "frequency_penality", "unknown_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD_CHAT, ids=lambda value: str(value)[:60])
def test_bad_chat_names_what_is_wrong(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


BAD_COMPLETION: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "missing_required_parameter"),
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": ["a", ""]}, "prompt", "invalid_value"),
    ({"prompt": ["a", 3]}, "prompt[1]", "invalid_type"),
    ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
    ({"prompt": [[1], 2]}, "prompt[1]", "invalid_type"),
    ({"prompt": [[1], [320]]}, "prompt[1][0]", "invalid_value"),
    ({"prompt": [True]}, "prompt[0]", "invalid_type"),
    ({"prompt": {"a": 1}}, "prompt", "invalid_type"),
    ({"prompt": ["a"] * 9, "n": 2}, "prompt", "invalid_value"),
    ({"logprobs": True}, "logprobs", "invalid_type"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "unsupported_parameter"),
    ({"echo": True, "parent_id": "branch_1"}, "echo", "unsupported_parameter"),
    ({"messages": []}, "messages", "unknown_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD_COMPLETION, ids=lambda value: str(value)[:60])
def test_bad_completion_names_what_is_wrong(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        completion(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_all_unknown_fields_are_named() -> None:
    with pytest.raises(RequestError, match=r"Unknown parameters: 'a', 'b'\."):
        chat(a=1, b=2)


def test_null_means_not_given() -> None:
    optional = (CHAT_HONOURED.keys() | CHAT_EXTENSIONS.keys() | CHAT_UNSUPPORTED.keys()) - {"messages"}
    assert chat(**dict.fromkeys(optional)) == chat()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        ([1.0], ((1,),)),
    ],
)
def test_prompt_in_all_its_forms(prompt: Any, prompts: Any) -> None:
    assert completion(prompt=prompt).prompts == prompts


def test_a_parent_may_be_continued_with_nothing_new() -> None:
    assert chat(messages=[], parent_id="branch_1").messages == ()
    assert parse_completion({"parent_id": "branch_1"}, LIMITS).prompts == ("",)


@pytest.mark.parametrize("name", ["chatcmpl-1a2b", "cmpl-1a2b", "branch_1a2b"])
def test_a_completion_of_one_choice_names_its_branch(name: str) -> None:
    assert chat(parent_id=name).parent_id == "branch_1a2b"


@pytest.mark.parametrize("top_k", [-1, 0, None])
def test_top_k_without_limit(top_k: int | None) -> None:
    assert chat(top_k=top_k).params.top_k is None


def test_messages_reach_the_template_in_its_own_words() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "q", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "4"},
        {"role": "assistant", "function_call": {"name": "g", "arguments": "not json"}},
        {"role": "function", "name": "g", "content": "5"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "reasoning_content": "hm"},
    ]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    legacy = {"type": "function", "function": {"name": "g", "arguments": "not json"}}
    assert list(chat(messages=messages).messages) == [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "q", "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c"},
        {"role": "assistant", "content": "", "tool_calls": [legacy]},
        {"role": "tool", "content": "5", "name": "g"},
        {"role": "assistant", "content": "no", "reasoning_content": "hm"},
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read_json(body)
    assert caught.value.code == "invalid_json"


def test_escaped_surrogate_pairs_are_text() -> None:
    assert read_json(json.dumps({"a": "😀"}).encode()) == {"a": "😀"}


def test_what_a_template_does_not_know_is_refused_by_name() -> None:
    plain = Limits(vocab_size=320, max_branches=16)
    for param, value in (
        ("tools", [TOOL]),
        ("functions", [TOOL["function"]]),
        ("reasoning_effort", "low"),
        ("documents", [{"text": "x"}]),
        ("chat_template", "{{ messages }}"),
    ):
        fields = {param: value}
        with pytest.raises(RequestError) as caught:
            parse_chat({"messages": [USER], **fields}, plain)
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
    unused = parse_chat({"messages": [USER], "tools": [TOOL], "tool_choice": "none"}, plain)
    assert unused.tool_use.offered == ()


def test_when_a_tool_request_is_held_to_a_grammar() -> None:
    strict = {"type": "function", "function": {"name": "s", "strict": True}}
    only_f = {"mode": "auto", "tools": [TOOL]}

    def kind(dialect: Dialect = DIALECT, **fields: Any) -> str | None:
        limits = Limits(vocab_size=320, max_branches=16, dialect=dialect)
        grammar = parse_chat({"messages": [USER], **fields}, limits).params.grammar
        return grammar and grammar.kind

    assert kind(tools=[TOOL]) is None
    assert kind(tools=[strict]) == "structural_tag"
    assert kind(Dialect(calls=MISTRAL), tools=[strict]) == "lark"
    assert kind(tools=[TOOL, strict], tool_choice="none") is None
    assert kind(tools=[TOOL, strict], tool_choice={"type": "allowed_tools", "allowed_tools": only_f})
    assert kind(tools=[TOOL], response_format={"type": "json_object"}) == "lark"
    with pytest.raises(RequestError, match="response_format"):
        kind(Dialect(calls=LLAMA3_JSON), tools=[TOOL], response_format={"type": "json_object"})


@pytest.mark.parametrize("depth", [100, 127, 128, 129, 900, 100_000])
def test_how_deeply_a_body_may_nest(depth: int) -> None:
    """The body itself is the first level."""
    body = b'{"a": [1, ' + b"[" * (depth - 2) + b"]" * (depth - 2) + b"]}"
    if depth <= 128:
        assert read_json(body)
        return
    with pytest.raises(RequestError, match="deeply") as caught:
        read_json(body)
    assert caught.value.code == "invalid_json"


def test_many_brackets_beside_each_other_are_not_deep() -> None:
    assert len(read_json(json.dumps({"prompt": [[1, 2]] * 500}).encode())["prompt"]) == 500


def test_a_schema_given_as_text_may_not_nest_deeper() -> None:
    text = '{"items": ' * 300 + "{}" + "}" * 300
    with pytest.raises(RequestError, match="deeply") as caught:
        chat(guided_json=text)
    assert caught.value.param == "guided_json"
