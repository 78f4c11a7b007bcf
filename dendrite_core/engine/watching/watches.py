"""`Watches`: who watches, and what each is to hear of; costs nothing while nobody does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from dendrite_core.batching.sequence import Sequence
from dendrite_core.cache.branch import Branch
from dendrite_core.cache.tree import TreeCache
from dendrite_core.engine.keeping.journal import Journal
from dendrite_core.engine.watching.watch import Watch

Watcher = Watch | Journal
AnyWatcher = TypeVar("AnyWatcher", Watch, Journal)


class Watches:
    """The watchers of one cache, whose branches are known to them by `name`."""

    def __init__(self, cache: TreeCache, name: Callable[[Branch], str]) -> None:
        self._cache = cache
        self._name = name
        self._open: list[Watcher] = []

    def __len__(self) -> int:
        return len(self._open)

    def open(self, wake: Callable[[], None]) -> Watch:
        """A watcher to whom every branch there is counts as new."""
        return self._begin(Watch(wake))

    def keep(self, wake: Callable[[], None]) -> Journal:
        """A journal in which nothing is written yet."""
        return self._begin(Journal(wake, self._is_known))

    def _begin(self, watch: AnyWatcher) -> AnyWatcher:
        self._open.append(watch)
        self._cache.records.on_forget = self._forgotten
        for branch in self._cache.branches.values():
            watch.change(branch)
        return watch

    def close(self, watch: Watcher) -> None:
        """It hears no more."""
        self._open.remove(watch)
        if not self._open:
            self._cache.records.on_forget = None

    def wake(self) -> None:
        """Have everybody look again, though there may be nothing."""
        for watch in self._open:
            watch.wake()

    def changed(self, branch: Branch) -> None:
        """Something about a branch is new that is no token."""
        for watch in self._open:
            if self._is_known(branch):
                watch.change(branch)

    def grown(self, rows: Iterable[Sequence]) -> None:
        """A step has added to branches, of which some may have been released while it ran."""
        for watch in self._open:
            for sequence in rows:
                if self._is_known(sequence.branch):
                    watch.grow(sequence.branch)

    def _is_known(self, branch: Branch) -> bool:
        return self._cache.lookup(branch.id) is not None

    def _forgotten(self, branch: Branch) -> None:
        for watch in self._open:
            watch.forget(branch, self._name(branch))
