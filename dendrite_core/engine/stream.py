"""What passes between callers and the engine's thread: a `Stream` for each request, a `Command` for all else.

A stream is read from a thread or from an asyncio loop. The engine hands over all news of a step at once, with
one hop per event loop; a reader that falls `MAX_BACKLOG` messages behind is aborted rather than buffered
without bound.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dendrite_core.engine.messages import Progress, Request, Started
from dendrite_core.errors import DendriteError, SequenceFailed
from dendrite_core.text.grammar import Grammar

log = logging.getLogger("dendrite.engine")

MAX_BACKLOG = 16384

Message = Started | Progress | Exception


class Stream:
    """Messages of one request: `Started` first, then `Progress` until one carries `usage`.

    Iterating raises what ended the request early: `RequestError`, `SequenceFailed` or `EngineClosed`.
    """

    def __init__(
        self,
        request: Request,
        abort: Callable[[Stream], Future[None]],
        ended: Callable[[Stream], None],
        grammar: Grammar | None = None,
    ) -> None:
        self.request = request
        self.grammar = grammar
        self.ended = ended
        self.loop = _running_loop()
        self.submitted = time.monotonic()
        self._abort = abort
        self._messages: deque[Message] = deque()
        self._ready = threading.Condition()
        self._wake: asyncio.Event | None = asyncio.Event() if self.loop else None
        self._started: Started | None = None
        self._finished = False

    def abort(self) -> Future[None]:
        """Stop generating; the branches made so far stay. Safe from any thread, any number of times."""
        return self._abort(self)

    def put(self, messages: Iterable[Message]) -> None:
        """Called by the engine; in the reader's loop when there is one, else from the engine's thread."""
        if len(self._messages) > MAX_BACKLOG:
            self._messages.clear()
            messages = [SequenceFailed("the reader fell too far behind; the request was ended")]
            self.abort()
        if self._wake is not None:
            self._messages.extend(messages)
            self._wake.set()
            return
        with self._ready:
            self._messages.extend(messages)
            self._ready.notify()

    async def started(self) -> Started:
        """The branches' names, once the prompt is computed. Raises what made that impossible."""
        while self._started is None:
            self._take_started(await self._next_async())
        return self._started

    def wait_started(self) -> Started:
        """As `started`, blocking."""
        while self._started is None:
            self._take_started(self._next_blocking())
        return self._started

    async def __aiter__(self) -> AsyncIterator[Progress]:
        await self.started()
        while not self._finished:
            yield self._take_progress(await self._next_async())

    async def rest(self) -> list[Progress]:
        """What iterating gives, as a list; without a generator, because readers of one step wait in turn."""
        await self.started()
        found: list[Progress] = []
        while not self._finished:
            found.append(self._take_progress(await self._next_async()))
        return found

    def __iter__(self) -> Iterator[Progress]:
        self.wait_started()
        while not self._finished:
            yield self._take_progress(self._next_blocking())

    def _take_started(self, message: Message) -> None:
        if isinstance(message, Exception):
            self._finished = True
            raise message
        assert isinstance(message, Started)
        self._started = message

    def _take_progress(self, message: Message) -> Progress:
        if isinstance(message, Exception):
            self._finished = True
            raise message
        assert isinstance(message, Progress)
        self._finished = message.usage is not None
        return message

    async def _next_async(self) -> Message:
        assert self._wake is not None, "this stream was opened outside an event loop"
        while not self._messages:
            self._wake.clear()
            await self._wake.wait()
        return self._messages.popleft()

    def _next_blocking(self) -> Message:
        assert self._wake is None, "this stream belongs to an event loop; read it with `async for`"
        with self._ready:
            while not self._messages:
                self._ready.wait()
            return self._messages.popleft()


@dataclass(frozen=True, slots=True)
class Command:
    """A verb, or a function; its result or error goes into `future`."""

    verb: str | Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any]

    def run(self, *owners: object) -> None:
        """Do it, in the engine's thread; a verb is a method of the first owner that has it."""
        # Also for a caller who has left: what was to be released is released, only nobody hears of it.
        is_awaited = self.future.set_running_or_notify_cancel()
        try:
            result = self._action(owners)(*self.arguments)
        except Exception as error:
            if not isinstance(error, DendriteError):
                log.exception("command %s failed", self.verb)
            if is_awaited:
                self.future.set_exception(error)
        else:
            if is_awaited:
                self.future.set_result(result)

    def _action(self, owners: tuple[object, ...]) -> Callable[..., Any]:
        if callable(self.verb):
            return self.verb
        owner = next((owner for owner in owners if hasattr(owner, self.verb)), owners[-1])
        action: Callable[..., Any] = getattr(owner, self.verb)
        return action


class Outbox:
    """What a step has to say to readers, until it is handed over."""

    def __init__(self) -> None:
        self._mail: dict[Stream, list[Message]] = {}

    def post(self, stream: Stream, message: Message) -> None:
        """Keep a message for its reader; the last one ends the request."""
        self._mail.setdefault(stream, []).append(message)
        if isinstance(message, Exception) or (isinstance(message, Progress) and message.usage is not None):
            stream.ended(stream)

    def deliver(self) -> None:
        """Hand everything over: one hop per event loop, one notification per blocking reader."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, list[Message]]]] = {}
        for stream, messages in self._mail.items():
            if stream.loop is None:
                stream.put(messages)
            else:
                by_loop.setdefault(stream.loop, []).append((stream, messages))
        self._mail = {}
        for loop, mail in by_loop.items():
            # A loop closed by its owner, perhaps this very moment, has no reader left.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_put_all, mail)


def _put_all(mail: list[tuple[Stream, list[Message]]]) -> None:
    for stream, messages in mail:
        stream.put(messages)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
