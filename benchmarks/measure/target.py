"""Whom a load is sent to: an engine in this process, or a server behind an OpenAI-compatible base URL."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from benchmarks.measure.timeline import Timeline
from dendrite_core import Engine, SamplingParams
from dendrite_core.engine.messages import Request


@dataclass(frozen=True, slots=True)
class Asked:
    """A completion of exactly `new` tokens for each of `n` choices; `parent` is a branch to go on from."""

    prompt: Sequence[int]
    new: int
    n: int = 1
    parent: str | None = None
    temperature: float = 1.0
    seed: int | None = None


class Target(Protocol):
    """Answers requests and says when the tokens of each choice came."""

    async def stream(self, asked: Asked) -> list[Timeline]: ...


class EngineTarget:
    """The engine without any HTTP."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ids = itertools.count()

    async def stream(self, asked: Asked) -> list[Timeline]:
        timelines = [Timeline(perf_counter()) for _ in range(asked.n)]
        async for progress in self._engine.submit(self._request(asked)):
            now = perf_counter()
            for delta in progress.choices:
                timelines[delta.index].add(now, len(delta.token_ids))
        return timelines

    def _request(self, asked: Asked) -> Request:
        return Request(
            request_id=f"bench_{next(self._ids)}",
            prompt=tuple(asked.prompt),
            params=SamplingParams(
                temperature=asked.temperature, max_tokens=asked.new, ignore_eos=True, seed=asked.seed
            ),
            n=asked.n,
            parent_id=asked.parent,
        )
