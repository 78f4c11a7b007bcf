"""`Watch`: what has changed in the tree since its reader last asked; lives on the engine's thread.

It keeps which branches changed, not what happened to them, so that a reader who asks seldom gets one
report per branch however much was generated meanwhile, and nothing is buffered beyond one entry each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from dendrite_core.cache.branch import Branch
from dendrite_core.engine.messages import BranchInfo

# How many branches one `take` reports at most, so that a large tree does not stop the engine's steps.
MAX_REPORTED = 1024

Describe = Callable[[Branch], BranchInfo]


@dataclass(frozen=True, slots=True)
class BranchNews:
    """A branch as it is now, without `text`, and those of its own tokens that were not told before."""

    info: BranchInfo
    token_ids: tuple[int, ...]
    only_grown: bool


@dataclass(frozen=True, slots=True)
class News:
    """Branches that changed, parents before children; names that are gone; whether there is more to take."""

    branches: tuple[BranchNews, ...]
    gone: tuple[str, ...]
    more: bool


class Watch:
    """One watcher. `wake` is called, on the engine's thread, when there is news and was none before."""

    __slots__ = ("_changed", "_gone", "_told", "_wake", "_woken")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._woken = False
        self._changed: dict[int, tuple[Branch, bool]] = {}
        self._told: dict[int, int] = {}
        self._gone: list[str] = []

    def grow(self, branch: Branch) -> None:
        """The branch has more tokens, or more of them in KV."""
        if branch.id not in self._changed:
            self._changed[branch.id] = (branch, True)
        self.wake()

    def change(self, branch: Branch) -> None:
        """The branch is new, or something about it that is no token."""
        self._changed[branch.id] = (branch, False)
        self.wake()

    def forget(self, branch: Branch, name: str) -> None:
        """The branch is gone; said only to a reader who was told of it."""
        self._changed.pop(branch.id, None)
        if self._told.pop(branch.id, None) is not None:
            self._gone.append(name)
            self.wake()

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake()

    def take(self, describe: Describe) -> News:
        """What is new, which then is no more."""
        taken = sorted(islice(self._changed, MAX_REPORTED))
        news = tuple(self._news(*self._changed.pop(id), describe) for id in taken)
        gone, self._gone = tuple(self._gone), []
        self._woken = bool(self._changed)
        return News(news, gone, self._woken)

    def _news(self, branch: Branch, only_grown: bool, describe: Describe) -> BranchNews:
        told = self._told.get(branch.id, 0)
        self._told[branch.id] = len(branch.own)
        return BranchNews(describe(branch), tuple(branch.own[told:]), only_grown)
