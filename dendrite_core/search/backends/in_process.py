"""`EngineBackend`: an `Engine` in this process, forked in place.

`ResendingEngine` is the same engine asked as if it had no tree: whole prompts every time, with or without
its prefix cache, to measure what forking saves.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from dendrite_core.engine.completion import Completion, CompletionChoice, collect
from dendrite_core.engine.engine import Engine
from dendrite_core.engine.messages import Request
from dendrite_core.engine.stream import Stream
from dendrite_core.errors import BranchNotFound, DendriteError
from dendrite_core.search.backend import (
    Answer,
    Ask,
    Candidate,
    Continuation,
    Message,
    Place,
    Prompt,
    TokenCount,
    is_context_full,
    is_messages,
)

Reader = asyncio.Task[Completion | None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids to put after a branch; `joint` as in the engine's `Request`."""

    ids: tuple[int, ...]
    joint: tuple[int, ...] = ()


class EngineBackend:
    """Search in the engine's own process: every ask is a fork of its place.

    `namespace` keeps this search's cache apart, as in `Request`; `priority` lets other requests go first.
    """

    def __init__(self, engine: Engine, *, namespace: tuple[str, ...] = (), priority: int = 0) -> None:
        self.engine = engine
        self.namespace = namespace
        self.priority = priority
        self._ids = itertools.count(1)
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def end_ids(self) -> tuple[int, ...]:
        return self.engine.tokenizer.eos_ids

    async def generate(self, asks: Sequence[Ask]) -> list[Answer]:
        """As `Backend.generate`; the engine has every ask before the first one is waited for."""
        readers: dict[Stream, Reader] = {}
        try:
            requests = [self._request(ask) for ask in asks]
            for stream in map(self.engine.submit, requests):
                readers[stream] = asyncio.create_task(_completion(stream))
            completions = await asyncio.gather(*readers.values())
        except BaseException:
            await self._see_through(self._settle(readers))
            raise
        return [self._answer(ask, found) for ask, found in zip(asks, completions, strict=True)]

    async def release(self, places: Iterable[Place], *, below: bool = True) -> None:
        await self._free(places, below)

    async def _free(self, places: Iterable[Place], below: bool = True) -> None:
        names = [place.branch_id for place in places if place.branch_id is not None]
        freed = [asyncio.wrap_future(self.engine.release(name, prune=below)) for name in names]
        for result in await asyncio.gather(*freed, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, BranchNotFound):
                raise result

    def _request(self, ask: Ask) -> Request:
        bound = ask.place.branch_id is not None
        encoded = encode(self.engine, (*ask.place.pending, ask.prompt), continues=bound)
        return self._plain_request(ask, encoded, ask.place.branch_id, ask.place.offset)

    def _plain_request(self, ask: Ask, encoded: Encoded, parent: str | None, offset: int | None) -> Request:
        return Request(
            request_id=f"search_{id(self):x}_{next(self._ids)}",
            prompt=encoded.ids,
            joint=encoded.joint,
            params=ask.params,
            n=ask.n,
            parent_id=parent,
            parent_offset=offset,
            namespace=self.namespace,
            priority=self.priority,
        )

    def _answer(self, ask: Ask, completion: Completion | None) -> Answer:
        if completion is None:
            return Answer(place=ask.place, continuations=())
        return Answer(
            place=Place(branch_id=completion.started.prompt_branch_id),
            continuations=tuple(
                self._continuation(choice, Place(branch_id=choice.branch_id)) for choice in completion.choices
            ),
            count=_count(completion),
        )

    def _continuation(self, choice: CompletionChoice, place: Place) -> Continuation:
        entries = choice.logprobs
        raw = self.engine.tokenizer.token_bytes
        return Continuation(
            place=place,
            text=choice.text,
            tokens=len(choice.token_ids),
            token_ids=tuple(choice.token_ids),
            logprob=sum(entry.logprob for entry in entries) if entries else None,
            first=tuple(Candidate(token_id=t, logprob=p, raw=raw(t)) for t, p in entries[0].top)
            if entries
            else (),
            finished=choice.finish_reason == "stop" and choice.stop_reason is None,
        )

    async def _see_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end even if whoever waits for it is cancelled again."""
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        await asyncio.shield(task)

    async def _settle(self, readers: dict[Stream, Reader]) -> None:
        """End what runs. A new root has no owner yet, so it is waited for and freed."""
        for reader in readers.values():
            reader.cancel()
        await asyncio.gather(*readers.values(), return_exceptions=True)
        for stream, reader in readers.items():
            try:
                if stream.request.parent_id is None:
                    failed = not reader.cancelled() and (reader.exception() or reader.result() is None)
                    started = await asyncio.wait_for(stream.started(), 0 if failed else None)
                    await self._free([Place(branch_id=started.prompt_branch_id)])
                else:
                    await asyncio.wrap_future(stream.abort())
            except (DendriteError, TimeoutError):
                # It failed before it had a branch, or the engine is closed: nothing of it is left.
                continue


class ResendingEngine(EngineBackend):
    """The engine without its tree: every ask is a fresh prompt of all its tokens.

    With `prefix_cache` equal beginnings are found again, as in servers that hash them, and stay cached
    until `close`; without it every prompt is computed in full. Outputs equal `EngineBackend`'s.
    """

    def __init__(self, engine: Engine, *, prefix_cache: bool) -> None:
        super().__init__(engine)
        self.prefix_cache = prefix_cache
        self._held: list[Place] = []
        self._alone = itertools.count(1)

    async def release(self, places: Iterable[Place], *, below: bool = True) -> None:
        """Nothing to do for a client: what it does not ask about again is simply forgotten."""

    async def close(self) -> None:
        """Free what the cache still holds."""
        held, self._held = self._held, []
        await self._free(held)

    def _request(self, ask: Ask) -> Request:
        encoded = encode(self.engine, (*_tokens(ask.place), *ask.place.pending, ask.prompt), continues=False)
        request = self._plain_request(ask, encoded, None, None)
        if self.prefix_cache:
            return request
        return Request(
            request_id=request.request_id,
            prompt=request.prompt,
            params=request.params,
            n=request.n,
            namespace=("alone", str(id(self)), str(next(self._alone))),
        )

    async def generate(self, asks: Sequence[Ask]) -> list[Answer]:
        answers = await super().generate(asks)
        self._held += [answer.place for answer in answers]
        if not self.prefix_cache:
            await self.close()
        return [self._remember(ask, answer) for ask, answer in zip(asks, answers, strict=True)]

    def _remember(self, ask: Ask, answer: Answer) -> Answer:
        parts = (*_tokens(ask.place), *ask.place.pending, ask.prompt)
        ids = encode(self.engine, parts, continues=False).ids
        continuations = [
            Continuation(
                place=Place(history=((*ids, *one.token_ids), ids)),
                text=one.text,
                tokens=one.tokens,
                token_ids=one.token_ids,
                logprob=one.logprob,
                first=one.first,
                finished=one.finished,
            )
            for one in answer.continuations
        ]
        place = Place(history=(ids, ids))
        return Answer(place=place, continuations=tuple(continuations), count=answer.count)


def encode(engine: Engine, parts: Sequence[Prompt], *, continues: bool) -> Encoded:
    """Token ids of parts in order; `continues` if they follow a branch."""
    ids: tuple[int, ...] = ()
    joint: tuple[int, ...] = ()
    for part in parts:
        if len(part) == 0:
            continue
        if is_messages(part):
            messages = list(cast(Sequence[Message], part))
            more, end = engine.encode_chat(messages, continues=continues or bool(ids))
            if ids:
                more = more if ids[-len(end) :] == end else (*end, *more)
            else:
                joint = end
            ids += more
        elif isinstance(part, str):
            tokenizer = engine.tokenizer
            ids += tuple(
                tokenizer.encode(part, special=True) if continues or ids else tokenizer.encode_prompt(part)
            )
        else:
            ids += tuple(cast(Sequence[int], part))
    return Encoded(ids, joint)


def _tokens(place: Place) -> tuple[Prompt, ...]:
    """What leads to a place of `ResendingEngine`: all its tokens, and those before its own."""
    if not place.history:
        return ()
    whole, before = cast(tuple[tuple[int, ...], tuple[int, ...]], place.history)
    return (whole if place.offset is None else whole[: len(before) + place.offset],)


async def _completion(stream: Stream) -> Completion | None:
    """All of a stream; None if its text is as long as the context already."""
    try:
        started = await stream.started()
        return collect(started, stream.request.n, [progress async for progress in stream])
    except DendriteError as error:
        if is_context_full(error):
            return None
        raise


def _count(completion: Completion) -> TokenCount:
    usage = completion.usage
    return TokenCount(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, 1)
