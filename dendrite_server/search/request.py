"""What asks for a search, read: the body of `POST /v1/search`, and a chat completion with `search`.

A chat's own fields are honoured in the search or refused by name: what an answer found by search has no use
for is not taken in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dendrite_core.search.backend import Prompt
from dendrite_server.protocol.fields import Fields, invalid, missing, unsupported, wrong_type
from dendrite_server.protocol.messages import parse_messages
from dendrite_server.protocol.request import ChatRequest, Limits, parse_chat
from dendrite_server.search.plan import SearchPlan, read_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A search as it was asked for. `model` None means the default."""

    model: str | None
    prompt: Prompt
    plan: SearchPlan
    namespace: tuple[str, ...]
    priority: int
    stream: bool
    background: bool = False
    include_usage: bool = False
    continuous_usage: bool = False


def parse_search(data: dict[str, Any], limits: Limits) -> SearchRequest:
    """The body of `POST /v1/search`."""
    fields = Fields(data)
    stream, background = fields.boolean("stream", False), fields.boolean("background", False)
    if stream and background:
        raise invalid("background", "a search in the background has no stream; ask for it by its id.")
    salt = fields.string("cache_salt")
    request = SearchRequest(
        model=fields.string("model"),
        prompt=_prompt(fields),
        plan=read_plan(fields, limits),
        namespace=() if salt is None else (salt,),
        priority=fields.integer("priority", 0),
        stream=stream,
        background=background,
    )
    fields.finish()
    return request


def _prompt(fields: Fields) -> Prompt:
    """`messages`, or `prompt` as text."""
    messages, text = fields.array("messages"), fields.string("prompt")
    if messages is not None and text is not None:
        raise invalid("prompt", "give either 'prompt' or 'messages'.")
    if not messages and not text:
        raise missing("messages")
    return parse_messages(messages) if messages else text or ""


def parse_chat_search(data: dict[str, Any], limits: Limits) -> SearchRequest:
    """A chat completion whose `search` says how to look for its answer; sampling fields go for thoughts."""
    chat = parse_chat({name: value for name, value in data.items() if name != "search"}, limits)
    _refuse_what_has_no_use(chat, bool(data.get("store")))
    if not isinstance(data["search"], dict):
        raise wrong_type("search", "an object", data["search"])
    fields = Fields(data["search"], "search")
    plan = read_plan(fields, limits, chat.params)
    fields.finish()
    return SearchRequest(
        model=chat.model,
        prompt=chat.messages,
        plan=plan,
        namespace=chat.namespace,
        priority=chat.priority,
        stream=chat.stream,
        include_usage=chat.include_usage,
        continuous_usage=chat.continuous_usage,
    )


_ONE_START = "A search starts from its messages and gives one answer."
_ONE_TEXT = "The answer of a search is the text of its best branch: see that branch, or 'search.tree'."
_OWN_TURN = "A search opens the model's turn as its chat template does."


def _refuse_what_has_no_use(chat: ChatRequest, is_stored: bool) -> None:
    template = sorted(chat.template_kwargs)
    refusals = (
        ("n", chat.n != 1, _ONE_START),
        ("parent_id", chat.parent_id is not None, _ONE_START),
        ("tools", bool(chat.tool_use.offered), "The thoughts of a search call no tools."),
        ("logprobs", chat.params.logprobs is not None, _ONE_TEXT),
        ("prompt_logprobs", chat.prompt_logprobs, _ONE_TEXT),
        ("return_token_ids", chat.return_token_ids, _ONE_TEXT),
        ("continue_final_message", chat.continue_final_message, _OWN_TURN),
        ("add_generation_prompt", not chat.add_generation_prompt, _OWN_TURN),
        ("reasoning_effort", "reasoning_effort" in template, _OWN_TURN),
        ("chat_template_kwargs", bool(template), _OWN_TURN),
        ("store", is_stored, "A search is kept as itself: see /v1/search/{id}."),
    )
    for name, is_given, reason in refusals:
        if is_given:
            raise unsupported(name, reason)
