"""Request bodies into typed requests: every field is honoured, harmless, or refused by name.

`HARMLESS` fields are checked for their type and change nothing about a result here; `UNSUPPORTED` ones
are known and refused with a reason; whatever is left over is unknown and refused too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dendrite_core.params import SamplingParams
from dendrite_server.protocol.constraints import read_constraint
from dendrite_server.protocol.fields import (
    Fields,
    as_object,
    as_strings,
    as_token_ids,
    invalid,
    missing,
    unsupported,
    wrong_type,
)
from dendrite_server.protocol.identity import as_branch_id
from dendrite_server.protocol.messages import Message, final_text, parse_messages
from dendrite_server.protocol.sampling import chat_logprobs, chat_max_tokens, read_sampling, top_count
from dendrite_server.protocol.tools import NO_TOOLS, ToolUse, read_tools
from dendrite_server.tools.dialect import PLAIN, Dialect

COMPLETION_MAX_TOKENS = 16

HARMLESS: dict[str, Callable[[Fields, str], object]] = {
    "metadata": Fields.object,
    "prediction": Fields.object,
    "prompt_cache_key": Fields.string,
    "prompt_cache_options": Fields.object,
    "guided_decoding_backend": Fields.string,
    "prompt_cache_retention": Fields.string,
    "safety_identifier": Fields.string,
    "service_tier": Fields.string,
    "spaces_between_special_tokens": Fields.boolean,
    "store": Fields.boolean,
    "user": Fields.string,
}

_TEXT_ONLY = "This server's models read and write text only."
_BEAMS = "Beam search is not a sampling mode here: fork with 'n_branches' and keep the best."
_NO_TRANSFER = "KV stays where it was computed."
# Of vLLM's requests, so that who comes from there is told what to write instead.
_VLLM = {
    "ec_transfer_params": _NO_TRANSFER,
    "kv_transfer_params": _NO_TRANSFER,
    "logprob_token_ids": "Use logprobs of the likeliest tokens.",
    "media_io_kwargs": _TEXT_ONLY,
    "mm_processor_kwargs": _TEXT_ONLY,
    "prompt_embeds": "Prompts are text or token ids.",
    "repetition_detection": "Use 'repetition_penalty' or 'stop'.",
    "return_prompt_text": "The prompt's branch has its text: see 'tree.prompt_branch_id'.",
    "return_tokens_as_token_ids": "Use 'return_token_ids'.",
    "session_id": "Name what came before by 'parent_id'.",
    "stream_interval": "Every step is sent as it is made.",
    "thinking_token_budget": "Use 'max_tokens', and go on from the branch.",
    "vllm_xargs": "They are vLLM's own.",
    "watermarking": "Nothing is hidden in the text.",
}
_EXTENSIONS = {
    "early_stopping": _BEAMS,
    "length_penalty": _BEAMS,
    "use_beam_search": _BEAMS,
    **_VLLM,
}
CHAT_UNSUPPORTED = {
    **_EXTENSIONS,
    "audio": _TEXT_ONLY,
    "best_of": "Use 'n' with 'logprobs' and choose.",
    "echo": "Only /v1/completions can echo its prompt.",
    "moderation": "This server has no moderation model.",
    "web_search_options": "This server does not search the web.",
}
COMPLETION_UNSUPPORTED = {
    **_EXTENSIONS,
    "suffix": "This model was not trained to fill in the middle.",
}
# What clients say of those by default, and what happens anyway.
NEUTRAL: dict[str, Any] = {
    "best_of": 1,
    "early_stopping": False,
    "echo": False,
    "length_penalty": 1.0,
    "return_prompt_text": False,
    "return_tokens_as_token_ids": False,
    "stream_interval": 1,
    "suffix": "",
    "use_beam_search": False,
}

# Names that the engine's call into the template uses itself.
_TEMPLATE_OWN = {"self", "messages", "tools", "continues", "add_generation_prompt", "continue_final_message"}
_TEMPLATE_OWN |= {"chat_template"}
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this server can take: known once it is up."""

    vocab_size: int
    max_branches: int
    dialect: Dialect = PLAIN
    trusts_templates: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """Leave `most` tokens of a prompt, None for what the context has room for: its end, or its beginning."""

    most: int | None
    keeps_end: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What chat and completions ask alike. `parent_id` is a branch id; `model` None means the default.

    `framed`: the model's own special tokens go around the prompt. `cut` shortens one that is too long.
    """

    model: str | None
    params: SamplingParams
    n: int
    parent_id: str | None
    parent_offset: int | None
    namespace: tuple[str, ...]
    priority: int
    return_token_ids: bool
    prompt_logprobs: bool
    framed: bool
    cut: Cut | None
    request_id: str | None
    stream: bool
    include_usage: bool
    continuous_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest(Common):
    messages: tuple[Message, ...]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    tool_use: ToolUse = NO_TOOLS
    include_reasoning: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest(Common):
    """`prompts` are texts or token ids; choices come prompt by prompt.

    Of `best_of` choices that are generated the `n` likeliest are given.
    """

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool
    best_of: int


def parse_chat(data: dict[str, Any], limits: Limits) -> ChatRequest:
    fields = Fields(data)
    fields.refuse(CHAT_UNSUPPORTED, NEUTRAL)
    fields.require("messages")
    messages = parse_messages(fields.array("messages") or [])
    if not messages and not fields.has("parent_id"):
        raise invalid("messages", "it may only be empty to continue a 'parent_id'.")
    continues = fields.boolean("continue_final_message", False)
    opens_turn = fields.boolean("add_generation_prompt", not continues)
    if continues:
        _check_continuation(fields, messages, opens_turn)
    tool_use = read_tools(fields, read_constraint(fields), limits.dialect)
    _read_defaults(fields)
    kwargs = {**template_kwargs(fields), **_told_to_template(fields, limits.dialect)}
    template = chat_template(fields, limits)
    shows_thoughts = fields.boolean("include_reasoning", True)
    of_prompt = top_count(fields, "prompt_logprobs")
    params = read_sampling(
        fields,
        max_tokens=chat_max_tokens(fields),
        logprobs=chat_logprobs(fields),
        prompt_logprobs=of_prompt,
        vocab_size=limits.vocab_size,
        grammar=tool_use.grammar,
    )
    if tool_use.offered and limits.dialect.marks_are_special:
        params = replace(params, skip_special_tokens=False)
    return ChatRequest(
        **_common(fields, params, limits, of_prompt, framed=False),
        messages=messages,
        add_generation_prompt=opens_turn,
        continue_final_message=continues,
        template_kwargs=kwargs,
        chat_template=template,
        tool_use=tool_use,
        include_reasoning=shows_thoughts,
    )


def parse_completion(data: dict[str, Any], limits: Limits) -> CompletionRequest:
    fields = Fields(data)
    fields.refuse(COMPLETION_UNSUPPORTED, NEUTRAL)
    prompts = _prompts(fields, limits.vocab_size)
    echo = fields.boolean("echo", False)
    if echo and fields.has("parent_id"):
        raise unsupported("echo", "The prompt of a fork is its parent's; only what is new could be echoed.")
    logprobs, of_prompt = top_count(fields, "logprobs"), top_count(fields, "prompt_logprobs")
    params = read_sampling(
        fields,
        max_tokens=fields.integer("max_tokens", COMPLETION_MAX_TOKENS, low=0),
        logprobs=logprobs,
        # What is echoed is part of the answer, and so are its logprobs.
        prompt_logprobs=logprobs if echo and of_prompt is None else of_prompt,
        vocab_size=limits.vocab_size,
        grammar=read_constraint(fields),
    )
    best_of = fields.integer("best_of", low=1, high=limits.max_branches)
    common = _common(fields, params, limits, of_prompt, framed=True)
    request = CompletionRequest(**common, prompts=prompts, echo=echo, best_of=best_of or common["n"])
    _check_choices(request, limits)
    return request


def _check_choices(request: CompletionRequest, limits: Limits) -> None:
    n, best_of, prompts = request.n, request.best_of, len(request.prompts)
    if best_of < n:
        raise invalid("best_of", f"it is {best_of}, but as many as 'n', {n}, are to be chosen from it.")
    if best_of > n and request.stream:
        raise invalid("best_of", "which choices are best is only known at the end; leave 'stream' away.")
    if best_of * prompts > limits.max_branches:
        raise invalid("prompt", f"{prompts} prompts of {best_of} choices exceed {limits.max_branches}.")


def _check_continuation(fields: Fields, messages: tuple[Message, ...], opens_turn: bool) -> None:
    if opens_turn:
        raise invalid("add_generation_prompt", "it cannot be true together with 'continue_final_message'.")
    if fields.has("parent_id"):
        raise unsupported("continue_final_message", "A branch is continued with 'messages': [].")
    final_text(messages)


def template_kwargs(fields: Fields) -> dict[str, Any]:
    kwargs = fields.mapping("chat_template_kwargs")
    for name in kwargs.keys() & _TEMPLATE_OWN:
        raise invalid(f"chat_template_kwargs.{name}", "it has a place of its own in the request.")
    return kwargs


def chat_template(fields: Fields, limits: Limits) -> str | None:
    """A template to use instead of the model's own: a program, for servers that trust their callers."""
    if fields.has("chat_template") and not limits.trusts_templates:
        raise unsupported("chat_template", "The server must be started with --trust-request-chat-template.")
    return fields.string("chat_template")


def _told_to_template(fields: Fields, dialect: Dialect) -> dict[str, Any]:
    """How much to think, and documents to read, are the template's business, where it knows of them."""
    if not dialect.knows_effort and fields.has("reasoning_effort"):
        raise unsupported("reasoning_effort", "This model has no reasoning effort to choose.")
    if not dialect.knows_documents and fields.has("documents"):
        raise unsupported("documents", "This model's chat template shows none; put them into the messages.")
    told = {"reasoning_effort": fields.string("reasoning_effort"), "documents": fields.array("documents")}
    for at, one in enumerate(told["documents"] or ()):
        as_object(f"documents[{at}]", one)
    return {name: value for name, value in told.items() if value is not None}


def _cut(fields: Fields) -> Cut | None:
    """vLLM's `truncate_prompt_tokens`; -1 is as many as there is room for."""
    most = fields.integer("truncate_prompt_tokens", low=-1)
    side = fields.choice("truncation_side", ("left", "right"))
    if most is None:
        return None
    if most == 0:
        raise invalid("truncate_prompt_tokens", "a prompt has at least one token; -1 is as many as fit.")
    if fields.has("parent_id"):
        raise unsupported("truncate_prompt_tokens", "What a branch goes on from cannot be cut.")
    return Cut(None if most == -1 else most, keeps_end=side != "right")


def _request_id(fields: Fields) -> str | None:
    name = fields.string("request_id")
    if name is not None and not _REQUEST_ID.fullmatch(name):
        raise invalid("request_id", "it must be 1 to 128 letters, digits or '_', '.', ':', '-'.")
    return name


def _read_defaults(fields: Fields) -> None:
    """Fields of which only the value that changes nothing can be honoured."""
    if fields.choice("verbosity", ("low", "medium", "high")) not in (None, "medium"):
        raise unsupported("verbosity", "How much the model says cannot be chosen; only 'medium' is accepted.")
    modalities = fields.take("modalities")
    if modalities is not None and as_strings("modalities", modalities) != ("text",):
        raise unsupported("modalities", _TEXT_ONLY)


def _common(
    fields: Fields, params: SamplingParams, limits: Limits, prompt_logprobs: int | None, *, framed: bool
) -> dict[str, Any]:
    """The fields of `Common`, and the end of the reading: harmless ones, then no others."""
    model, cut = fields.string("model"), _cut(fields)
    n = _choices(fields, limits.max_branches)
    parent = fields.string("parent_id")
    offset = fields.integer("parent_offset", low=0)
    if offset is not None and parent is None:
        raise invalid("parent_offset", "it needs a 'parent_id'.")
    salt = fields.string("cache_salt")
    if salt == "":
        raise invalid("cache_salt", "it must not be empty.")
    asked_frame = fields.boolean("add_special_tokens")
    if parent is not None and asked_frame:
        raise unsupported("add_special_tokens", "Nothing goes between a branch and what follows it.")
    streaming = _streaming(fields)
    if streaming["stream"] and prompt_logprobs is not None:
        raise unsupported("prompt_logprobs", "They are not streamed; leave 'stream' away.")
    common = {
        "model": model,
        "params": params,
        "n": n,
        "parent_id": None if parent is None else as_branch_id(parent),
        "parent_offset": offset,
        "namespace": () if salt is None else (salt,),
        "priority": fields.integer("priority", 0),
        "return_token_ids": fields.boolean("return_token_ids", False),
        "prompt_logprobs": prompt_logprobs is not None,
        "framed": parent is None and (framed if asked_frame is None else asked_frame),
        "cut": cut,
        "request_id": _request_id(fields),
        **streaming,
    }
    for name, read in HARMLESS.items():
        read(fields, name)
    fields.finish()
    return common


def _choices(fields: Fields, most: int) -> int:
    n = fields.integer("n", low=1, high=most)
    branches = fields.integer("n_branches", low=1, high=most)
    if n is not None and branches is not None and n != branches:
        raise invalid("n_branches", f"it is {branches} but 'n' is {n}; give one of them, or the same.")
    return n or branches or 1


def _streaming(fields: Fields) -> dict[str, bool]:
    stream = fields.boolean("stream", False)
    options = fields.object("stream_options")
    if options is None:
        return {"stream": stream, "include_usage": False, "continuous_usage": False}
    if not stream:
        raise invalid("stream_options", "it is only allowed when 'stream' is true.")
    usage = options.boolean("include_usage", False)
    continuous = options.boolean("continuous_usage_stats", False)
    if options.boolean("include_obfuscation", False):
        raise unsupported(options.path("include_obfuscation"), "Chunks are not padded here.")
    options.finish()
    return {"stream": stream, "include_usage": usage, "continuous_usage": usage and continuous}


def _prompts(fields: Fields, vocab_size: int) -> tuple[str | tuple[int, ...], ...]:
    """A string, strings, token ids or lists of them. Empty only to continue a `parent_id`."""
    may_be_empty = fields.has("parent_id")
    value = fields.take("prompt")
    if value is None:
        if may_be_empty:
            return ("",)
        raise missing("prompt")
    prompts = _prompt_list(value, vocab_size)
    if not may_be_empty and not all(prompts):
        raise invalid("prompt", "a prompt may only be empty to continue a 'parent_id'.")
    return prompts


def _prompt_list(value: Any, vocab_size: int) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise wrong_type("prompt", "a string, an array of strings, or token ids", value)
    if not value:
        return ((),)
    if isinstance(value[0], str):
        return as_strings("prompt", value)
    if isinstance(value[0], list):
        return tuple(as_token_ids(f"prompt[{at}]", ids, vocab_size) for at, ids in enumerate(value))
    return (as_token_ids("prompt", value, vocab_size),)
