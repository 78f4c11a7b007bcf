"""Bodies of `POST /v1/responses` into typed requests: every field is honoured, harmless or refused by name.

How to generate is asked of the chat layer in its own words (`ChatRequest`), so that sampling, tools and
formats mean the same in both APIs; what is said comes later, once the past is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dendrite_core.params import MAX_TOP_LOGPROBS
from dendrite_server.protocol.fields import Fields, as_strings, invalid, unsupported
from dendrite_server.protocol.request import ChatRequest, Limits, parse_chat
from dendrite_server.protocol.response import encode_json
from dendrite_server.responses.items import Item, read_input
from dendrite_server.responses.tools import in_callers_words, read_text, read_tools

Body = dict[str, Any]

INCLUDE_LOGPROBS = "message.output_text.logprobs"
# What can be asked to be included; all but logprobs belong to items that no answer of this server has.
INCLUDABLE = (
    INCLUDE_LOGPROBS,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)

HARMLESS: dict[str, Callable[[Fields, str], object]] = {
    "max_tool_calls": lambda fields, name: fields.integer(name, low=1),
    "prompt_cache_key": Fields.string,
    "prompt_cache_retention": lambda fields, name: fields.choice(name, ("in_memory", "24h")),
    "safety_identifier": Fields.string,
    "service_tier": Fields.string,
    "user": Fields.string,
}
_ONE_ANSWER = "A response is one answer; send several requests with the same 'previous_response_id'."
UNSUPPORTED = {
    "access_programs": "This server has no access programs.",
    "context_management": "Nothing is compacted here; a context that is too long is refused.",
    "image": "This server's models read and write text only.",
    "moderation": "This server has no moderation model.",
    "n": _ONE_ANSWER,
    "n_branches": _ONE_ANSWER,
    "parent_id": "Use 'previous_response_id'.",
    "prompt": "This server keeps no prompt templates.",
}
# What the chat layer reads under the same name.
SHARED = (
    "allowed_token_ids",
    "bad_words",
    "cache_salt",
    "chat_template_kwargs",
    "frequency_penalty",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "min_p",
    "min_tokens",
    "model",
    "parallel_tool_calls",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "seed",
    "skip_special_tokens",
    "stop",
    "stop_token_ids",
    "stream",
    "structured_outputs",
    "temperature",
    "top_k",
    "top_p",
)
_SHOWN_PARAMS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
# The chat layer wants messages to read a request at all; the real ones take their place later.
_PLACEHOLDER = [{"role": "user", "content": ""}]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRequest:
    """`items` are the new input. `head` tells apart what is said before any item: a branch can only be
    followed by requests with the same one. `echo` is what the response object repeats of the request.
    """

    chat: ChatRequest
    items: tuple[Item, ...]
    instructions: str | None
    head: str
    previous_response_id: str | None
    conversation_id: str | None
    store: bool
    background: bool
    echo: Body

    @property
    def stream(self) -> bool:
        return self.chat.stream


def parse_response(data: Body, limits: Limits) -> ResponseRequest:
    fields = Fields(data)
    fields.refuse(UNSUPPORTED, {})
    items = read_input(fields)
    instructions = fields.string("instructions")
    previous, conversation = read_past(fields)
    if not fields_given(data, "input", "previous_response_id", "conversation"):
        reason = "one of 'input', 'previous_response_id' or 'conversation' must be provided."
        raise invalid("input", reason)
    tools_echo, asked = read_tools(fields)
    text_echo, text = read_text(fields)
    generation = {"max_completion_tokens": fields.integer("max_output_tokens", low=1), **asked, **text}
    generation |= {"reasoning_effort": _reasoning_effort(fields), **_logprobs(fields)}
    generation |= {name: fields.take(name) for name in SHARED}
    store, background = fields.boolean("store", True), _background(fields)
    if background and not store:
        raise invalid("background", "a background response can only be fetched if 'store' is true.")
    echo = {**tools_echo, **text_echo, **_settings(fields, generation)}
    echo |= {"instructions": instructions, "previous_response_id": previous, "background": background}
    echo |= {"conversation": None if conversation is None else {"id": conversation}, "store": store}
    fields.finish()
    with in_callers_words():
        chat = parse_chat({"messages": _PLACEHOLDER, **generation}, limits)
    return ResponseRequest(
        chat=chat,
        items=items,
        instructions=instructions,
        head=_head(instructions, generation),
        previous_response_id=previous,
        conversation_id=conversation,
        store=store,
        background=background,
        echo={**echo, **{name: getattr(chat.params, name) for name in _SHOWN_PARAMS}},
    )


def fields_given(data: Body, *names: str) -> bool:
    return any(data.get(name) is not None for name in names)


def parse_token_count(data: Body, limits: Limits) -> ResponseRequest:
    """`POST /v1/responses/input_tokens`: the fields of a creation that make up its input."""
    if "personality" in data:
        raise unsupported("personality", "This server's models have none to choose.")
    allowed = {"conversation", "input", "instructions", "model", "parallel_tool_calls", "reasoning", "text"}
    allowed |= {"previous_response_id", "tool_choice", "tools", "truncation", "chat_template_kwargs"}
    Fields({name: value for name, value in data.items() if name not in allowed}).finish()
    return parse_response(data, limits)


def read_past(fields: Fields) -> tuple[str | None, str | None]:
    """(previous_response_id, conversation id); at most one is given."""
    previous = fields.string("previous_response_id")
    conversation = fields.take("conversation")
    if isinstance(conversation, dict):
        named = Fields(conversation, "conversation")
        named.require("id")
        conversation = named.string("id")
        named.finish()
    elif conversation is not None:
        conversation = Fields({"conversation": conversation}).string("conversation")
    if previous is not None and conversation is not None:
        raise invalid("previous_response_id", "it cannot be given together with 'conversation'.")
    return previous, conversation


def _background(fields: Fields) -> bool:
    background = fields.boolean("background", False)
    options = fields.object("background_options")
    if options is not None:
        window = options.choice("completion_window", ("soonest", "2h", "8h"))
        if window not in (None, "soonest"):
            raise unsupported("background_options.completion_window", "Requests run as soon as they can.")
        options.string("continuation_id")
        options.finish()
    return background


def _reasoning_effort(fields: Fields) -> str | None:
    reasoning = fields.object("reasoning")
    if reasoning is None:
        return None
    for name in ("summary", "generate_summary", "mode", "context"):
        if reasoning.has(name):
            raise unsupported(f"reasoning.{name}", "Reasoning is shown as it is or not at all.")
    effort = reasoning.string("effort")
    reasoning.finish()
    return effort


def _logprobs(fields: Fields) -> Body:
    included = as_strings("include", fields.array("include") or [])
    for index, name in enumerate(included):
        if name not in INCLUDABLE:
            raise invalid(f"include[{index}]", f"'{name}' is nothing that can be included.")
    top = fields.integer("top_logprobs", low=0, high=MAX_TOP_LOGPROBS)
    if INCLUDE_LOGPROBS in included:
        return {"logprobs": True, "top_logprobs": top}
    if top:
        raise invalid("top_logprobs", f"it needs 'include' to have '{INCLUDE_LOGPROBS}'.")
    return {}


def _settings(fields: Fields, generation: Body) -> Body:
    """Take what is left, and tell the settings as the response object shows them."""
    options = fields.object("stream_options")
    if options is not None:
        if not generation["stream"]:
            raise invalid("stream_options", "it is only allowed when 'stream' is true.")
        if options.boolean("include_obfuscation", False):
            raise unsupported("stream_options.include_obfuscation", "Events are not padded here.")
        options.finish()
    if fields.choice("truncation", ("auto", "disabled")) == "auto":
        raise unsupported("truncation", "Nothing is dropped from a context; one that is too long is refused.")
    settings = {name: read(fields, name) for name, read in HARMLESS.items()}
    parallel = generation["parallel_tool_calls"]
    return {
        **settings,
        "metadata": read_metadata(fields),
        "prompt_cache_options": _cache_options(fields),
        "max_output_tokens": generation["max_completion_tokens"],
        "parallel_tool_calls": True if parallel is None else parallel,
        "top_logprobs": generation.get("top_logprobs") or 0,
        "reasoning": {"effort": generation["reasoning_effort"], "summary": None},
        "truncation": "disabled",
    }


def _cache_options(fields: Fields) -> Body | None:
    """Prefixes are cached by themselves; how long and where the boundaries are changes no result."""
    options = fields.object("prompt_cache_options")
    if options is None:
        return None
    for name in ("comparison_response_id", "prewarm"):
        if options.take(name):
            raise unsupported(f"prompt_cache_options.{name}", "The cache tells nothing but 'cached_tokens'.")
    mode = options.choice("mode", ("implicit", "explicit")) or "implicit"
    ttl = options.choice("ttl", ("30m", "12h")) or "30m"
    options.finish()
    return {"mode": mode, "ttl": ttl}


def read_metadata(fields: Fields) -> dict[str, str]:
    """Up to 16 pairs of short strings, as OpenAI has it."""
    given = fields.mapping("metadata")
    if len(given) > 16:
        raise invalid("metadata", f"at most 16 pairs are kept, but there are {len(given)}.")
    metadata = Fields(given, "metadata")
    pairs = {name: metadata.string(name) for name in given}
    for name, value in pairs.items():
        if len(name) > 64 or len(value or "") > 512:
            raise invalid(f"metadata.{name[:64]}", "keys have at most 64 characters, values at most 512.")
    return {name: value for name, value in pairs.items() if value is not None}


def _head(instructions: str | None, generation: Body) -> str:
    """What a branch says before its first item, or what decides who may read it."""
    tools = None if generation.get("tool_choice") == "none" else generation.get("tools")
    template, salt = generation["chat_template_kwargs"], generation["cache_salt"]
    return encode_json([instructions, tools, template, salt, generation["reasoning_effort"]])
