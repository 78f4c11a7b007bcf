"""`POST /v1/completions`: raw prompts, as text or token ids, one or many."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_core.engine.completion import Completion, CompletionChoice
from dendrite_core.engine.messages import Request as EngineRequest
from dendrite_core.engine.messages import Started
from dendrite_server.endpoints.chat import off_loop_if_long
from dendrite_server.endpoints.generation import (
    Generation,
    cut,
    engine_requests,
    read_as,
    read_request,
    respond,
    wants_of,
)
from dendrite_server.protocol.identity import COMPLETION
from dendrite_server.protocol.request import CompletionRequest, parse_completion
from dendrite_server.protocol.response import Body, Echo, text_completion
from dendrite_server.protocol.stream import TextEncoder
from dendrite_server.service import Service, service_of


async def create_completion(request: Request) -> Response:
    service = service_of(request)
    asked = read_as(request, await read_request(request), parse_completion)
    model = service.model_name(asked.model)
    size = sum(len(prompt) for prompt in asked.prompts if isinstance(prompt, str))
    prompts = await off_loop_if_long(size, lambda: _encode(service, asked))
    await service.prepare(asked.params)
    generation = Generation(service, _engine_requests(request, asked, prompts), {"messages": "prompt"})
    echoes = _echoes(service, asked, prompts)
    choices = asked.n * len(prompts)
    tokenizer = service.engine.tokenizer
    wants = wants_of(asked)

    def whole(completions: list[Completion]) -> Body:
        completions = [_best(service, completion, asked) for completion in completions]
        header = service.header(COMPLETION, "text_completion", model, completions[0].started, choices)
        return text_completion(header, completions, echoes, tokenizer.token_bytes, wants)

    def encoder(started: Started) -> TextEncoder:
        header = service.header(COMPLETION, "text_completion", model, started, choices)
        return TextEncoder(header, asked, tokenizer.token_bytes, echoes)

    return await respond(request, generation, whole, encoder, stream=asked.stream)


def _engine_requests(
    request: Request, asked: CompletionRequest, prompts: list[tuple[int, ...]]
) -> list[EngineRequest]:
    """With more candidates than choices, each one's probability is needed to choose."""
    requests = engine_requests(request, asked, prompts)
    if asked.best_of == asked.n:
        return requests
    params = replace(asked.params, logprobs=asked.params.logprobs or 0)
    return [replace(one, n=asked.best_of, params=params) for one in requests]


def _best(service: Service, completion: Completion, asked: CompletionRequest) -> Completion:
    """The likeliest choices by the mean of their tokens' logprobs; the branches of the others are freed."""
    if asked.best_of == asked.n:
        return completion
    ranked = sorted(completion.choices, key=_mean_logprob, reverse=True)
    best = [replace(choice, index=index) for index, choice in enumerate(ranked[: asked.n])]
    service.free(choice.branch_id for choice in ranked[asked.n :])
    started = replace(completion.started, branch_ids=tuple(choice.branch_id for choice in best))
    return Completion(best, started, completion.usage)


def _mean_logprob(choice: CompletionChoice) -> float:
    logprobs = [entry.logprob for entry in choice.logprobs]
    return sum(logprobs) / len(logprobs) if logprobs else 0.0


def _encode(service: Service, asked: CompletionRequest) -> list[tuple[int, ...]]:
    tokenizer = service.engine.tokenizer

    def encode(text: str) -> list[int]:
        return tokenizer.encode_prompt(text) if asked.framed else tokenizer.encode(text, special=True)

    ids = [prompt if isinstance(prompt, tuple) else tuple(encode(prompt)) for prompt in asked.prompts]
    return [cut(service, asked, prompt) for prompt in ids]


def _echoes(service: Service, asked: CompletionRequest, prompts: list[tuple[int, ...]]) -> list[Echo]:
    if not asked.echo:
        return [Echo()] * len(prompts)
    skip = asked.params.skip_special_tokens
    decode = service.engine.tokenizer.decode
    shows_ids = asked.params.logprobs is not None
    texts = [
        given if isinstance(given, str) and not asked.cut else decode(ids, skip)
        for given, ids in zip(asked.prompts, prompts, strict=True)
    ]
    return [Echo(text, ids if shows_ids else ()) for text, ids in zip(texts, prompts, strict=True)]


routes = [Route("/v1/completions", create_completion, methods=["POST"])]
