"""What a search tells while it runs and when it is over: `Event` and `Result`, as values and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dendrite_core.search.backend import TokenCount


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A branch of the search as it was at one moment. `branch_id` is the backend's name, if it has one."""

    id: int
    parent: int | None
    depth: int
    text: str
    status: str
    score: float | None
    visits: int
    tokens: int
    branch_id: str | None

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """News of a search: `expanded`, `scored`, `pruned`, `solved` and, last, `finished`.

    `branches` are those the news is about; `reason` (of `finished`) says why the search ended.
    """

    kind: str
    seconds: float
    branches: tuple[View, ...]
    count: TokenCount
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": self.kind,
            "seconds": round(self.seconds, 6),
            "branches": [view.as_dict() for view in self.branches],
            "tokens": count_dict(self.count),
        }
        return body if self.reason is None else {**body, "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a search found.

    `text` is all that was generated on the way to the best branch, "" if there is none; `branch_id` can be
    continued where the search was told to keep it. `reason` is `solved`, `exhausted` (nothing left to try),
    `tokens`, `nodes`, `seconds`, `depth` or `cancelled`. `tree` are all branches, parents first.
    """

    text: str
    solved: bool
    score: float | None
    reason: str
    count: TokenCount
    seconds: float
    tree: tuple[View, ...]
    best: int | None = None
    branch_id: str | None = None

    @property
    def nodes(self) -> int:
        """How many branches were made, without the root."""
        return len(self.tree) - 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "solved": self.solved,
            "score": self.score,
            "reason": self.reason,
            "best": self.best,
            "branch_id": self.branch_id,
            "seconds": round(self.seconds, 6),
            "tokens": count_dict(self.count),
            "tree": [view.as_dict() for view in self.tree],
        }


def count_dict(count: TokenCount) -> dict[str, int]:
    return {
        "prompt": count.prompt,
        "cached": count.cached,
        "generated": count.generated,
        "computed": count.computed,
        "requests": count.requests,
    }
