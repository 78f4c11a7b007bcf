"""`POST /v1/chat/completions`: messages in, choices out, each one a branch that can be continued."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_core.engine.completion import Completion
from dendrite_core.engine.messages import Started
from dendrite_server.endpoints.generation import (
    Generation,
    cut,
    engine_requests,
    read_as,
    read_request,
    respond,
    wants_of,
)
from dendrite_server.endpoints.search import search_chat
from dendrite_server.endpoints.stored import keeping
from dendrite_server.protocol.identity import CHAT
from dendrite_server.protocol.request import ChatRequest, parse_chat
from dendrite_server.protocol.response import Body, chat_completion
from dendrite_server.protocol.stream import ChatEncoder
from dendrite_server.service import Service, service_of
from dendrite_server.tools.reading import Speech
from dendrite_server.tools.reasoning import CLOSING, OPENING

# Rendering and encoding about this much text takes a millisecond; more is not done on the event loop.
_LONG_PROMPT = 20_000
# No more tokens than this write the mark that opens a thought, and the space after it.
_OPENING_TOKENS = 12

T = TypeVar("T")


async def create_chat_completion(request: Request) -> Response:
    service = service_of(request)
    body = await read_request(request)
    if body.get("search") is not None:
        return await search_chat(request, body)
    asked = read_as(request, body, parse_chat)
    model = service.model_name(asked.model)
    prompt, joint = await encode_messages(service, asked)
    await service.prepare(asked.params, asked.tool_use.schemas())
    speech = await speech_of(service, asked, prompt)
    renamed = {"max_tokens": "max_completion_tokens"} if body.get("max_completion_tokens") else {}
    generation = Generation(service, engine_requests(request, asked, [prompt], joint), renamed)
    tokenizer = service.engine.tokenizer
    wants = wants_of(asked)

    def whole(completions: list[Completion]) -> Body:
        header = service.header(CHAT, "chat.completion", model, completions[0].started, asked.n)
        return chat_completion(header, completions[0], tokenizer.token_bytes, wants, speech)

    def encoder(started: Started) -> ChatEncoder:
        header = service.header(CHAT, "chat.completion.chunk", model, started, asked.n)
        return ChatEncoder(header, asked, tokenizer.token_bytes, speech)

    return await respond(request, generation, *keeping(request, body, whole, encoder), stream=asked.stream)


async def encode_messages(service: Service, asked: ChatRequest) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of what a request says: (prompt, joint), as the engine takes them."""
    template = {**asked.template_kwargs, "chat_template": asked.chat_template}
    if asked.tool_use.offered:
        template["tools"] = list(asked.tool_use.offered)
    if asked.parent_id is None:
        template["continue_final_message"] = asked.continue_final_message

    def encode() -> tuple[tuple[int, ...], tuple[int, ...]]:
        prompt, joint = service.engine.encode_chat(
            list(asked.messages),
            continues=asked.parent_id is not None,
            add_generation_prompt=asked.add_generation_prompt,
            **template,
        )
        if asked.framed:
            prompt = service.engine.tokenizer.framed(prompt)
        return cut(service, asked, prompt), joint

    if asked.chat_template is not None:
        return await asyncio.to_thread(encode)
    return await off_loop_if_long(sum(len(str(message["content"])) for message in asked.messages), encode)


async def speech_of(service: Service, asked: ChatRequest, prompt: tuple[int, ...]) -> Speech:
    """How the answers to a request are to be read."""
    dialect, use = service.dialect, asked.tool_use
    # What is all grammar has no room for thoughts; around structural tags there is free text.
    free = asked.params.grammar is None or asked.params.grammar.kind == "structural_tag"
    inside = dialect.thinks and await _is_thinking(service, asked, prompt)
    return Speech(
        calls=dialect.calls if use.offered else None,
        parallel=use.parallel,
        thinks=dialect.thinks and free,
        inside=inside,
        shows_thoughts=asked.include_reasoning,
        legacy=use.legacy,
    )


async def _is_thinking(service: Service, asked: ChatRequest, prompt: tuple[int, ...]) -> bool:
    """Whether the answer begins inside a thought: the prompt has opened one, or a branch is left in one."""
    if prompt or asked.parent_id is None:
        end = service.engine.tokenizer.decode(prompt[-_OPENING_TOKENS:], False)
        return end.rstrip().endswith(OPENING)
    name: str | None = asked.parent_id
    while name is not None:
        branch = await asyncio.wrap_future(service.engine.describe(name))
        opened, closed = branch.text.rfind(OPENING), branch.text.rfind(CLOSING)
        if opened != closed:
            return opened > closed
        name = branch.parent_id
    return False


async def off_loop_if_long(characters: int, work: Callable[[], T]) -> T:
    """Run `work` here, or in a thread where it would hold up every other request."""
    return work() if characters < _LONG_PROMPT else await asyncio.to_thread(work)


routes = [Route("/v1/chat/completions", create_chat_completion, methods=["POST"])]
