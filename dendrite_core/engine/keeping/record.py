"""`Record`: what the engine keeps of a branch beyond its tokens, which the cache holds for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dendrite_core.batching.sequence import Sequence
from dendrite_core.text.grammar import Grammar


class Constraint(NamedTuple):
    """A grammar, and the position from which a branch's tokens are in it."""

    grammar: Grammar
    start: int


@dataclass(slots=True)
class Record:
    """What the engine knows of a branch beyond its tokens.

    `kind` is prompt, completion or fork. `completion` is where its own output begins. `pinned_until` is in
    seconds of the monotonic clock. `constraint` is what its own output had to keep to. `cached` and
    `fork_us` are `BranchInfo`'s.
    """

    kind: str
    completion: int
    finish_reason: str | None = None
    sequence: Sequence | None = None
    pinned_until: float | None = None
    constraint: Constraint | None = None
    cached: int = 0
    fork_us: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
