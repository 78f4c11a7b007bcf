"""An engine's loop turned by hand, with random callers; after every turn all invariants hold.

No thread and no clock: one seed is one history. What every branch should have been is computed afterwards,
each request alone, by a loop that never overlaps.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from dendrite_core.cache.invariants import check
from dendrite_core.config import EngineConfig
from dendrite_core.engine.assemble import assemble
from dendrite_core.engine.loop import EngineLoop
from dendrite_core.engine.messages import Progress, Request, Started
from dendrite_core.engine.stream import Command, Stream
from dendrite_core.errors import DendriteError
from dendrite_core.params import GrammarSpec, SamplingParams


@dataclass
class Seen:
    """What the caller of one request has been told."""

    request: Request
    stream: Stream
    prompt: list[int] | None = None
    started: Started | None = None
    tokens: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    error: Exception | None = None

    @property
    def ended(self) -> bool:
        return self.error is not None or (self.started is not None and None not in self.reasons)

    def take(self, message: Any) -> None:
        if isinstance(message, Started):
            self.started = message
        elif isinstance(message, Progress):
            for delta in message.choices:
                assert self.reasons[delta.index] is None, "news of a branch that had ended"
                self.tokens[delta.index] += delta.token_ids
                self.texts[delta.index] += delta.text
                self.reasons[delta.index] = delta.finish_reason
                self.logprobs[delta.index] += [entry.logprob for entry in delta.logprobs or ()]
        else:
            self.error = message


class Turned:
    """A loop and what its callers have seen."""

    def __init__(self, **settings: Any) -> None:
        parts = assemble(EngineConfig(**settings))
        self.loop: EngineLoop = parts.loop
        self.cache = parts.loop.book.cache
        self.requests: list[Seen] = []
        self.live: list[Seen] = []

    @property
    def busy(self) -> bool:
        return self.loop.scheduler.has_work or not self.loop.inbox.empty() or self.loop._flight is not None

    def submit(self, request: Request) -> Seen:
        grammar = request.params.grammar
        compiled = None if grammar is None else self.loop.grammars.compile(grammar)
        stream = Stream(request, lambda _: Future(), lambda _: None, compiled)
        none: list[None] = [None] * request.n
        seen = Seen(
            request, stream, None, None, [[] for _ in none], ["" for _ in none], [*none], [[] for _ in none]
        )
        self.requests.append(seen)
        self.live.append(seen)
        self.loop.inbox.put(stream)
        return seen

    def command(self, verb: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.loop.inbox.put(Command(verb, arguments, future))
        return future

    def turn(self) -> None:
        self.loop.step()
        for seen in self.live:
            if seen.prompt is None and seen.stream in self.loop.jobs:
                seen.prompt = self.loop.jobs[seen.stream].prompt.branch.tokens()
            while seen.stream._messages:
                seen.take(seen.stream._messages.popleft())
        self.live = [seen for seen in self.live if not seen.ended]

    def finish(self) -> None:
        while self.busy:
            self.turn()


class Explorer(Turned):
    """Random callers: open, continue, fork, truncate, abort, release, pin, at any moment of a generation."""

    def __init__(self, seed: int, *, vocab: int, **settings: Any) -> None:
        super().__init__(canaries=True, **settings)
        self.rng = random.Random(seed)
        self.vocab = vocab
        self.names: list[str] = []
        self.operations: dict[Callable[[], None], int] = {
            self.open: 5, self.follow: 5, self.truncate: 3, self.fork: 2, self.abort: 1, self.release: 2,
            self.pin: 1, self.wait: 60,
        }  # fmt: skip

    def explore(self, operations: int, at_once: int = 12) -> None:
        chosen = self.rng.choices(list(self.operations), list(self.operations.values()), k=operations)
        for operation in chosen:
            if len(self.live) < at_once or operation == self.wait:
                operation()
            if self.busy:
                self.turn()
            self.verify()
        self.finish()
        self.verify()

    def verify(self) -> None:
        check(self.cache)
        for sequence in self.loop.scheduler.running:
            branch = sequence.branch
            assert len(branch) - branch.kv_length >= 1, "a branch's tokens lead its KV by one at least"
            assert sequence.drawing <= 1
            assert len(branch) + sequence.drawing <= sequence.longest or sequence.is_prompt

    # What callers do.

    def open(self) -> None:
        pasts = [seen.prompt for seen in self.requests[-8:] if seen.prompt]
        past = self.rng.choice(pasts)[: self.rng.randrange(60)] if pasts and self.rng.random() < 0.5 else []
        self._submit((*past, *self._tokens(1, 40)), None, None)

    def follow(self) -> None:
        """A continuation, as often as not of a branch that is being generated."""
        if name := self._any():
            self._submit(tuple(self._tokens(1, 20)), name, None)

    def truncate(self) -> None:
        if name := self._any():
            self._submit(tuple(self._tokens(1, 9)), name, self.rng.randrange(6))

    def fork(self) -> None:
        if name := self._any():
            self._noted(self.command("fork", name, self.rng.randint(1, 3), None))

    def abort(self) -> None:
        if self.live:
            self.command("abort", self.rng.choice(self.live).stream)

    def release(self) -> None:
        if name := self._any():
            self._noted(self.command("release", name, self.rng.random() < 0.7))

    def pin(self) -> None:
        if name := self._any():
            self.command("update", name, self.rng.random() < 0.4, None, None)

    def wait(self) -> None:
        pass

    def _noted(self, future: Future[Any]) -> None:
        self.turn()
        assert future.exception() is None or isinstance(future.exception(), DendriteError)

    def _any(self) -> str | None:
        book = self.loop.book
        names = [book.name(branch) for branch in self.cache.branches.values()]
        return self.rng.choice(names) if names else None

    def _tokens(self, least: int, most: int) -> list[int]:
        return [self.rng.randrange(3, self.vocab) for _ in range(self.rng.randint(least, most))]

    def _submit(self, prompt: tuple[int, ...], parent: str | None, offset: int | None) -> None:
        number, n = len(self.requests), self.rng.choice([1, 1, 2, 4])
        request = Request(
            request_id=str(number),
            prompt=prompt,
            params=self._params(),
            n=n,
            parent_id=parent,
            parent_offset=offset,
        )
        self.submit(request)

    def _params(self) -> SamplingParams:
        rng = self.rng
        fields: dict[str, Any] = {
            "temperature": rng.choice([0.0, 0.7, 1.0]),
            "max_tokens": rng.choice([0, 1, 2, *[rng.randint(3, 90) for _ in range(5)]]),
            "seed": rng.randrange(1000),
            "ignore_eos": rng.random() < 0.5,
        }
        fields |= rng.choice(
            [
                *[{}] * 9, {"logprobs": 2}, {"top_p": 0.8}, {"stop_token_ids": tuple(range(100, 120))},
                {"stop": ("a", "e", "i")}, {"min_tokens": min(3, fields["max_tokens"])},
                {"repetition_penalty": 1.2}, {"grammar": GrammarSpec(kind="regex", source="[a-f]{2,30}")},
            ]
        )  # fmt: skip
        return SamplingParams(**fields)


def alone(seen: Seen, plain: Turned) -> Seen:
    """The same prompt again as a request of its own, nothing beside it."""
    assert seen.prompt is not None
    request = seen.request
    again = plain.submit(
        Request(request_id="again", prompt=tuple(seen.prompt), params=request.params, n=request.n)
    )
    plain.finish()
    plain.requests.clear()
    return again
