"""From a parsed request to the engine and back: what chat and completions do alike.

A `Generation` is the engine's streams behind one HTTP request, one per prompt. When it is left early,
because the client hung up or one prompt failed, what still runs is stopped and its branches are freed:
nobody knows their names.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from dendrite_core.engine.completion import Completion, collect
from dendrite_core.engine.messages import Progress, Request, Started
from dendrite_core.engine.stream import Stream
from dendrite_core.errors import DendriteError, RequestError
from dendrite_server.lenient import parse_leniently
from dendrite_server.protocol.fields import read_json
from dendrite_server.protocol.request import Common, Limits
from dendrite_server.protocol.response import Body, Wants, encode_json
from dendrite_server.protocol.stream import Encoder
from dendrite_server.service import Service, service_of
from dendrite_server.transport import EventStream, read_body, unless_gone

T = TypeVar("T")
News = Started | Progress
Events = AsyncGenerator[tuple[int, News], None]


async def read_request(request: HttpRequest) -> Body:
    return read_json(await read_body(request, service_of(request).config.max_body_bytes))


def read_as(request: HttpRequest, body: Body, parse: Callable[[Body, Limits], T]) -> T:
    """A body as a typed request. What it names that nobody knows is refused, or left out and warned of."""
    service = service_of(request)
    if service.config.unknown_fields == "refuse":
        return parse(body, service.limits)
    asked, ignored = parse_leniently(body, lambda known: parse(known, service.limits))
    service.warn_of(ignored)
    request.scope["dendrite.ignored"] = ignored
    return asked


def cut(service: Service, asked: Common, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """A prompt shortened as the request wants it."""
    if asked.cut is None:
        return prompt
    wanted = asked.params.max_tokens
    room = service.engine.config.max_model_len - (1 if wanted is None else wanted)
    most = max(1, room) if asked.cut.most is None else asked.cut.most
    return prompt[-most:] if asked.cut.keeps_end else prompt[:most]


def json_response(body: Body) -> Response:
    return Response(encode_json(body), media_type="application/json")


async def respond(
    request: HttpRequest,
    generation: Generation,
    whole: Callable[[list[Completion]], Body],
    encoder: Callable[[Started], Encoder],
    *,
    stream: bool,
) -> Response:
    """The answer as one body or as a stream, for as long as somebody listens."""
    if not stream:
        return json_response(whole(await unless_gone(request.receive, generation.completions())))
    config = service_of(request).config
    return EventStream(_frames(generation, encoder), keep_alive=config.keep_alive, patience=config.patience)


def engine_requests(
    request: HttpRequest, asked: Common, prompts: Sequence[tuple[int, ...]], joint: tuple[int, ...] = ()
) -> list[Request]:
    if asked.request_id is not None:
        request.scope["dendrite.request_id"] = asked.request_id
    return [
        Request(
            request_id=request.scope["dendrite.request_id"],
            prompt=prompt,
            joint=joint,
            params=asked.params,
            n=asked.n,
            parent_id=asked.parent_id,
            parent_offset=asked.parent_offset,
            namespace=asked.namespace,
            priority=asked.priority,
        )
        for prompt in prompts
    ]


def wants_of(asked: Common) -> Wants:
    return Wants(
        logprobs=asked.params.logprobs is not None,
        prompt_logprobs=asked.prompt_logprobs,
        token_ids=asked.return_token_ids,
    )


class Generation:
    """The streams of one HTTP request. `renamed` gives the engine's names of fields back as the caller's."""

    def __init__(self, service: Service, requests: Sequence[Request], renamed: Mapping[str, str]) -> None:
        self._service = service
        self._renamed = renamed
        self._streams: list[Stream] = []
        self._open: set[Stream] = set()
        try:
            for request in requests:
                self._streams.append(service.submit(request))
                self._open.add(self._streams[-1])
        except DendriteError:
            self._discard()
            raise

    async def completions(self) -> list[Completion]:
        """Every prompt's completion, once all have ended."""
        seen: list[list[News]] = [[] for _ in self._streams]
        async for prompt, news in self.events():
            seen[prompt].append(news)
        return [_completion(stream, news) for stream, news in zip(self._streams, seen, strict=True)]

    async def events(self) -> Events:
        """What happens to each prompt, as it happens. Raises what the engine raises."""
        try:
            async for event in self._follow(0) if len(self._streams) == 1 else self._merge():
                yield event
        except RequestError as error:
            error.param = self._renamed.get(error.param or "", error.param)
            raise
        finally:
            self._discard()

    async def _follow(self, prompt: int) -> Events:
        stream = self._streams[prompt]
        try:
            yield prompt, await stream.started()
            async for progress in stream:
                if progress.usage is not None:
                    await self._service.kept()
                yield prompt, progress
        except Exception:
            self._open.discard(stream)
            raise
        self._open.discard(stream)

    async def _merge(self) -> Events:
        queue: asyncio.Queue[tuple[int, News] | Exception | None] = asyncio.Queue()
        pumps = [
            asyncio.create_task(_pump(self._follow(prompt), queue)) for prompt in range(len(self._streams))
        ]
        try:
            for _ in pumps:
                while (item := await queue.get()) is not None:
                    if isinstance(item, Exception):
                        raise item
                    yield item
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)

    def _discard(self) -> None:
        for stream in self._open:
            self._service.abandon(stream)
        self._open.clear()


async def _pump(events: Events, queue: asyncio.Queue[tuple[int, News] | Exception | None]) -> None:
    try:
        async for event in events:
            queue.put_nowait(event)
        queue.put_nowait(None)
    except Exception as error:
        queue.put_nowait(error)


def _completion(stream: Stream, news: list[News]) -> Completion:
    started, *progress = news
    assert isinstance(started, Started)
    return collect(started, stream.request.n, [one for one in progress if isinstance(one, Progress)])


async def _frames(generation: Generation, make: Callable[[Started], Encoder]) -> AsyncGenerator[bytes, None]:
    encoder: Encoder | None = None
    async for prompt, news in generation.events():
        if isinstance(news, Started):
            encoder = encoder or make(news)
            frame = encoder.start(prompt, news)
        else:
            assert encoder is not None, "the engine starts before it generates"
            frame = encoder.news(prompt, news)
        if frame:
            yield frame
    assert encoder is not None, "a generation that ends has started"
    yield encoder.end()
