"""What a search may spend, and the account of what it has: a request is granted before it is sent.

Grants assume the worst (every continuation as long as it may be), so no budget is ever exceeded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dendrite_core.errors import RequestError
from dendrite_core.search.backend import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one search; None is no limit.

    `tokens` are generated ones, of thoughts and judgements alike. `nodes` do not count the root, whose
    depth is 0. `seconds` count from the start of the search.

    >>> Budget(tokens=0)
    Traceback (most recent call last):
    dendrite_core.errors.RequestError: tokens must be greater than 0, got 0
    """

    tokens: int | None = None
    nodes: int | None = None
    seconds: float | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "nodes", "seconds", "depth"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RequestError(f"{name} must be greater than 0, got {value}", param=f"budget.{name}")


class BudgetExhausted(Exception):
    """Nothing more can be afforded; `limit` names what ran out. Ends a search, never reaches its caller."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"the budget of {limit} is used up")
        self.limit = limit


class Account:
    """What is left of a budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.tokens = 0
        self.nodes = 0
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        limit = self.budget.seconds
        return None if limit is None else max(0.0, limit - self.seconds)

    @property
    def nodes_left(self) -> int | None:
        return None if self.budget.nodes is None else self.budget.nodes - self.nodes

    def check_time(self) -> None:
        """Raises `BudgetExhausted` when time is up."""
        if self.seconds_left == 0.0:
            raise BudgetExhausted("seconds")

    def grant(self, asks: Sequence[Ask], *, nodes: bool) -> list[Ask | None]:
        """The asks as far as they can be afforded, with fewer continuations or None where not.

        `nodes` says that every continuation becomes a node. Raises `BudgetExhausted` if none can.
        """
        self.check_time()
        tokens = None if self.budget.tokens is None else self.budget.tokens - self.tokens
        room = self.nodes_left if nodes else None
        granted: list[Ask | None] = []
        for ask in asks:
            ask = _bounded(ask, tokens)
            n = _affordable(ask, tokens, room)
            granted.append(replace(ask, n=n) if n else None)
            if tokens is not None:
                tokens -= n * (ask.params.max_tokens or 0)
            if room is not None:
                room -= n
        if asks and not any(granted):
            raise BudgetExhausted("nodes" if room is not None and room <= 0 else "tokens")
        return granted


def _bounded(ask: Ask, tokens: int | None) -> Ask:
    """With a limit of tokens, every continuation needs a limit of its own."""
    if tokens is None or ask.params.max_tokens is not None:
        return ask
    share = max(1, ask.params.min_tokens, tokens // ask.n)
    return replace(ask, params=replace(ask.params, max_tokens=share))


def _affordable(ask: Ask, tokens: int | None, room: int | None) -> int:
    n = ask.n
    if tokens is not None:
        n = min(n, tokens // (ask.params.max_tokens or 1))
    if room is not None:
        n = min(n, room)
    return max(n, 0)
