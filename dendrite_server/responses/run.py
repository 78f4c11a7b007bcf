"""`Run`: one response being made, from the branch it follows to the record that is kept of it.

A response that follows another one forks its branch, in O(1), and only what is new is encoded. Where the
branch has been forgotten, or other instructions ask for another beginning, the past is told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from dendrite_core.engine.messages import ChoiceDelta, Request, Started
from dendrite_core.engine.stream import Stream
from dendrite_core.errors import BranchNotFound, EngineClosed, SequenceFailed
from dendrite_server.endpoints.chat import encode_messages, speech_of
from dendrite_server.errors import report
from dendrite_server.protocol.request import ChatRequest
from dendrite_server.responses.archive import Archive, Past, Tip, record_of
from dendrite_server.responses.body import Body, Ending, ending_of, failure_of
from dendrite_server.responses.items import messages_of
from dendrite_server.responses.reading import plain_text, with_calls
from dendrite_server.responses.request import ResponseRequest
from dendrite_server.responses.tools import in_callers_words
from dendrite_server.responses.writer import Event, Reader, Writer, event_frame
from dendrite_server.service import Service
from dendrite_server.tools.reading import PLAIN_SPEECH
from dendrite_server.tools.reasoning import ThoughtTokens

# More than any end-of-turn marker has.
_TAIL = 8

MakeRequest = Callable[[ChatRequest, tuple[int, ...], tuple[int, ...]], Request]


def after_branch(asked: ResponseRequest, past: Past) -> ChatRequest | None:
    """The request as a fork of the past's branch; None where there is none that begins alike."""
    tip = past.tip
    if tip is None or tip.head != asked.head:
        return None
    new = messages_of((*past.items[tip.covers :], *asked.items))
    return replace(asked.chat, messages=tuple(new), parent_id=tip.branch_id)


def from_the_start(asked: ResponseRequest, past: Past) -> ChatRequest:
    """The request with its whole past in it. Nothing new after an answer goes on with that answer."""
    said = messages_of((*past.items, *asked.items))
    goes_on = not asked.items and bool(said) and said[-1]["role"] == "assistant"
    if asked.instructions is not None:
        said.insert(0, {"role": "system", "content": asked.instructions})
    return replace(
        asked.chat,
        messages=tuple(said),
        continue_final_message=goes_on,
        add_generation_prompt=asked.chat.add_generation_prompt and not goes_on,
    )


class Run:
    """`submit` it, then read `events` to the end, once, or let it `drive` itself and `follow` it.

    `cancel` may come from elsewhere meanwhile. The items that are `asked` have an id each.
    """

    def __init__(
        self,
        service: Service,
        archive: Archive,
        asked: ResponseRequest,
        past: Past,
        writer: Writer,
        make: MakeRequest,
        reader: Reader = plain_text,
    ) -> None:
        self.asked = asked
        self._service = service
        self._archive = archive
        self._past = past
        self._writer = writer
        self._make = make
        self._reader = reader
        self._told_again = False
        self._cancelled = False
        self._tail: tuple[int, ...] = ()
        self._thought: ThoughtTokens | None = None
        self._stream: Stream | None = None
        self._frames: list[str] = []
        self._grown = asyncio.Event()
        self._done = False
        self._task: asyncio.Task[None]

    @property
    def body(self) -> Body:
        return self._writer.body()

    async def submit(self) -> None:
        """Queue the request. Raises `RequestError`, `QueueFull`, `EngineClosed`."""
        fork = after_branch(self.asked, self._past)
        if fork is None:
            await self._tell_again()
        else:
            await self._submit(fork)

    async def _tell_again(self) -> None:
        self._told_again = True
        await self._submit(from_the_start(self.asked, self._past))

    async def _submit(self, chat: ChatRequest) -> None:
        with in_callers_words():
            prompt, joint = await encode_messages(self._service, chat)
            await self._service.prepare(chat.params, chat.tool_use.schemas())
            speech = await speech_of(self._service, chat, prompt)
            self._thought = speech.thought_tokens()
            if speech != PLAIN_SPEECH:
                self._reader = with_calls(speech.reading())
            self._stream = self._service.submit(self._make(chat, prompt, joint))

    def cancel(self) -> None:
        """Stop where it is; what was said by then stays, as does its branch."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.abort()

    # In the foreground: whoever reads the events drives the run.

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """What there is to tell, in batches. The record is kept before the last batch is told."""
        ended = False
        if self._stream is None:
            await self.submit()
        try:
            async for events in self._tell():
                yield events
            ended = True
        except Exception as error:
            ended = True
            if not self._can_tell(error):
                raise
            report(error, self._writer.body()["id"])
            yield self._fail(error)
        finally:
            if not ended and self._stream is not None:
                self._service.abandon(self._stream)

    async def _tell(self) -> AsyncGenerator[list[Event], None]:
        stream, started = await self._started()
        yield self._record(self._writer.start(started))
        finish_reason: str | None = None
        async for progress in stream:
            events: list[Event] = []
            for delta in progress.choices:
                events += self._write(delta)
                finish_reason = finish_reason or delta.finish_reason
            if progress.usage is not None:
                thought = self._thought.count if self._thought else 0
                events += self._writer.finish(ending_of(finish_reason, progress.usage, thought))
            self._record(events)
            if progress.usage is not None:
                await self._service.kept()
                self._keep(started)
            if events:
                yield events

    async def _started(self) -> tuple[Stream, Started]:
        with in_callers_words():
            try:
                return await _start(self._stream)
            except BranchNotFound:
                if self._told_again or self._cancelled:
                    raise
                # The engine keeps so many branches; the record knows what this one said.
                await self._tell_again()
                return await _start(self._stream)

    def _write(self, delta: ChoiceDelta) -> list[Event]:
        self._tail = (*self._tail, *delta.token_ids)[-_TAIL:]
        if self._thought is not None:
            self._thought.push(map(self._service.engine.tokenizer.token_bytes, delta.token_ids))
        return [event for piece in self._reader(delta) for event in self._writer.write(piece)]

    def _can_tell(self, error: Exception) -> bool:
        """Whether a failure is told in the response: where an HTTP status can't tell it any more."""
        broken = isinstance(error, SequenceFailed | EngineClosed)
        return self.asked.background or (broken and self.asked.stream and self._writer.started)

    def _fail(self, error: Exception) -> list[Event]:
        ending = failure_of(error)
        if self._cancelled:
            ending = Ending(status="cancelled")
        events = self._record(self._writer.finish(ending))
        self._keep(None)
        return events

    # In the background: the run drives itself, and anybody may follow it from any event on.

    def queue(self) -> None:
        """Be there for others before anything is known."""
        self._record(self._writer.queue())
        self._archive.keep_response(self.body, self._past, self.asked.items)

    def begin(self) -> asyncio.Task[None]:
        """Let it drive itself, whoever listens."""
        self._task = asyncio.create_task(self._drive())
        return self._task

    async def ended(self) -> None:
        await asyncio.wait((self._task,))

    async def _drive(self) -> None:
        try:
            async for _ in self.events():
                pass
        finally:
            self._done = True
            self._grown.set()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Frames of the events after that sequence number, as they come."""
        at = after + 1
        while True:
            if frames := self._frames[at:]:
                at += len(frames)
                yield "".join(frames).encode()
            elif self._done:
                return
            else:
                await self._grown.wait()

    def _record(self, events: list[Event]) -> list[Event]:
        if self.asked.background and self.asked.stream:
            self._frames += map(event_frame, events)
            grown, self._grown = self._grown, asyncio.Event()
            grown.set()
        return events

    def _keep(self, started: Started | None) -> None:
        """Record what was said; `started` None if there is no branch that ends in it."""
        said = (*self.asked.items, *self._writer.output)
        tip: Tip | None = None
        if started is not None:
            tip = Tip(
                branch_id=started.branch_ids[0],
                prompt_branch_id=started.prompt_branch_id,
                head=self.asked.head,
                covers=len(self._past.items) + len(said),
                tail=self._tail,
            )
        if self.asked.store:
            replay = {"frames": self._frames} if self._frames else {}
            self._archive.keep_response(self.body, self._past, self.asked.items, tip=record_of(tip), **replay)
        if self.asked.conversation_id is not None and tip is not None:
            self._archive.extend_conversation(self.asked.conversation_id, len(self._past.items), said, tip)


async def _start(stream: Stream | None) -> tuple[Stream, Started]:
    assert stream is not None, "it is submitted first"
    return stream, await stream.started()


async def count_tokens(service: Service, asked: ResponseRequest, past: Past) -> int:
    """How many input tokens a response to this would have."""
    fork = after_branch(asked, past)
    if fork is not None and past.tip is not None:
        try:
            return await _count_after(service, fork, past.tip)
        except BranchNotFound:
            pass
    prompt, _ = await encode_messages(service, from_the_start(asked, past))
    return len(prompt)


async def _count_after(service: Service, fork: ChatRequest, tip: Tip) -> int:
    branch = await asyncio.wrap_future(service.engine.describe(tip.branch_id))
    prompt, joint = await encode_messages(service, fork)
    if not prompt:
        return branch.length - (tip.tail[-1:] != () and tip.tail[-1] in service.engine.tokenizer.eos_ids)
    closed = tip.tail[-len(joint) :] == joint if joint else True
    return branch.length + len(prompt) + (0 if closed else len(joint))
