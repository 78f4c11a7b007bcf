"""`Journal`: which branches have to be written down again; lives on the engine's thread.

A branch is its tokens, and those of its past: KV is computed again from them. So a tree is kept when every
branch with a name is, and every one that lives on as the past of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dendrite_core.cache.branch import Branch, Namespace

# How many branches one `take` writes down at most, so that a large tree does not stop the engine's steps.
MAX_TAKEN = 256


@dataclass(frozen=True, slots=True)
class Saved:
    """A branch as it is written down: everything in it goes through JSON and comes back the same.

    `start` is the position of its first own token. One that is not `listed` was released and is only the
    past of others. `facts` are what the engine knows of it besides.
    """

    name: str
    parent: str | None
    start: int
    tokens: tuple[int, ...]
    namespace: Namespace
    listed: bool
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entries:
    """Branches to write down (again), names to strike out, and whether there may be more to take."""

    saved: tuple[Saved, ...]
    gone: tuple[str, ...]
    more: bool


class Journal:
    """A watcher of every branch. `wake` is called when there is something to write and was nothing before."""

    __slots__ = ("_changed", "_gone", "_is_listed", "_wake", "_woken", "_written")

    def __init__(self, wake: Callable[[], None], is_listed: Callable[[Branch], bool]) -> None:
        self._wake = wake
        self._is_listed = is_listed
        self._woken = False
        self._changed: dict[int, Branch] = {}
        self._written: dict[int, str] = {}
        self._gone: list[str] = []

    def grow(self, branch: Branch) -> None:
        """The branch has more tokens."""
        self.change(branch)

    def change(self, branch: Branch) -> None:
        """Something about the branch is new."""
        self._changed[branch.id] = branch
        self.wake()

    def forget(self, branch: Branch, name: str) -> None:
        """The branch has lost its name. It stays while it has children, as do its nameless ancestors."""
        if branch.children:
            self.change(branch)
            return
        self._strike(branch)
        last, parent = branch, branch.parent
        while parent is not None and not self._is_listed(parent) and set(parent.children) == {last.id}:
            self._strike(parent)
            last, parent = parent, parent.parent

    def _strike(self, branch: Branch) -> None:
        self._changed.pop(branch.id, None)
        written = self._written.pop(branch.id, None)
        if written is not None:
            self._gone.append(written)
            self.wake()

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake()

    def take(self, write_down: Callable[[Branch], Saved], wanted: Callable[[Branch], bool]) -> Entries:
        """What is to be written of the branches `wanted`, which then counts as written."""
        ids = (id for id, branch in self._changed.items() if wanted(branch))
        taken = [self._changed.pop(id) for id in sorted(islice(ids, MAX_TAKEN))]
        saved = []
        for branch in taken:
            for one in self._with_past(branch):
                saved.append(write_down(one))
                self._written[one.id] = saved[-1].name
        gone, self._gone = tuple(self._gone), []
        self._woken = bool(self._changed)
        return Entries(tuple(saved), gone, len(taken) == MAX_TAKEN)

    def _with_past(self, branch: Branch) -> Iterator[Branch]:
        """The branch, and those of its ancestors that went nameless before they were written."""
        yield branch
        while branch.parent is not None and branch.parent.id not in self._written:
            branch = branch.parent
            yield branch
