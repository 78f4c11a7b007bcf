"""`Feed`: the branches of an engine as they change, for any number of readers.

One watcher of the engine serves all readers. The feed remembers branches as they are, each with the
version at which it last changed, and for a while the names of those that are gone; a reader is a version
and no queue. So a slow reader costs nothing and gets fewer, larger events, and one that comes back with
the id of the last event it saw misses nothing, or is told to begin anew.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile

from dendrite_core.engine.engine import Engine
from dendrite_core.engine.watching.watch import BranchNews, News, Watch
from dendrite_core.errors import DendriteError, EngineClosed
from dendrite_core.text.detokenizer import Detokenizer
from dendrite_server.protocol.response import Body
from dendrite_server.trees.body import event_body
from dendrite_server.trees.label import title_of

# Seconds: how often news is taken, and how long the feed goes on when nobody reads it any more.
PACE, LINGER = 0.05, 60.0
MAX_GONE = 4096


@dataclass(slots=True)
class Seen:
    """A branch as it is. Versions: when it came, when it last changed, when anything but its text did."""

    body: Body
    detokenizer: Detokenizer
    born: int
    changed: int = 0
    altered: int = 0
    text: str = ""

    def whole(self) -> Body:
        return {**self.body, "text": self.text}


@dataclass(slots=True)
class TreeSeen:
    """A tree in numbers, and the branches in it, the eldest first."""

    id: str
    changed: int = 0
    running: int = 0
    members: dict[str, Seen] = field(default_factory=dict)

    def summary(self) -> Body:
        eldest = next(iter(self.members.values()))
        return {
            "id": self.id,
            "object": "tree.summary",
            "title": title_of(eldest.text),
            "branches": len(self.members),
            "running": self.running,
        }


@dataclass(frozen=True, slots=True)
class Gone:
    """A branch that is no more; `ended_tree` if it was the last of its tree."""

    version: int
    branch_id: str
    tree_id: str
    ended_tree: bool


class Feed:
    """Runs while somebody reads, and for `LINGER` seconds more, for readers who come back."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._taking = asyncio.Lock()
        self._catching_up: set[asyncio.Task[None]] = set()
        self._watch: Watch | None = None
        self._closed = False
        self.readers = 0
        self.open = False
        self._forget()

    def _forget(self) -> None:
        self.era = secrets.token_hex(4)
        self.version = 0
        self.branches: OrderedDict[str, Seen] = OrderedDict()
        self.trees: OrderedDict[str, TreeSeen] = OrderedDict()
        self.gone: deque[Gone] = deque(maxlen=MAX_GONE)
        self._remembers_since = 0

    async def begin(self) -> None:
        """Returns once the feed knows all branches there are. Raises `EngineClosed`."""
        if not self._closed and (self._task is None or self._task.done()):
            self._forget()
            self.open = True
            self._first = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run())
        if not self._closed:
            await asyncio.shield(self._first)
        if not self.open:
            raise EngineClosed("the server is shutting down")

    async def catch_up(self) -> None:
        """Returns once the feed knows all that was so when this was called. Raises `EngineClosed`."""
        # On its own, because a caller who leaves would take along what the engine tells only once.
        task = asyncio.create_task(self._catch_up())
        self._catching_up.add(task)
        task.add_done_callback(self._catching_up.discard)
        await asyncio.shield(task)

    async def _catch_up(self) -> None:
        async with self._taking:
            assert self._watch is not None, "only a feed that has begun can catch up"
            more = True
            while more:
                news = await asyncio.wrap_future(self._engine.news(self._watch))
                self._apply(news)
                more = news.more
            self._announce()

    async def newer(self, version: int) -> bool:
        """Waits for something newer than `version`; False once the feed is over."""
        while self.open and self.version <= version:
            await self._changed.wait()
        return self.version > version

    def close(self) -> None:
        """End every reader, for good."""
        self._closed, self.open = True, False
        self._announce()
        if self._task is not None:
            self._task.cancel()

    def is_complete_since(self, version: int) -> bool:
        """Whether everything that is gone since `version` is still remembered."""
        return self._remembers_since <= version <= self.version

    def newest_first(self, since: int) -> Iterator[tuple[str, Seen]]:
        return takewhile(lambda one: one[1].changed > since, reversed(self.branches.items()))

    def newest_trees(self, since: int) -> Iterator[TreeSeen]:
        return takewhile(lambda tree: tree.changed > since, reversed(self.trees.values()))

    def gone_since(self, since: int) -> Iterator[Gone]:
        return takewhile(lambda one: one.version > since, reversed(self.gone))

    # The watcher.

    async def _run(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # On the engine's thread, while this loop may be closing.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(ready.set)

        try:
            self._watch = await asyncio.wrap_future(self._engine.watch(wake))
            try:
                await self._follow(ready)
            finally:
                self._engine.unwatch(self._watch)
        except DendriteError:
            pass
        finally:
            self.open = False
            self._settle()
            self._announce()

    async def _follow(self, ready: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        wanted = loop.time()
        ready.set()
        while self.readers or loop.time() - wanted < LINGER:
            if self.readers:
                wanted = loop.time()
            try:
                async with asyncio.timeout(LINGER / 4):
                    await ready.wait()
            except TimeoutError:
                continue
            ready.clear()
            await self.catch_up()
            self._settle()
            await asyncio.sleep(PACE)

    def _settle(self) -> None:
        if not self._first.done():
            self._first.set_result(None)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # What it knows.

    def _apply(self, news: News) -> None:
        self.version += 1
        for name in news.gone:
            self._lose(name)
        for one in news.branches:
            self._learn(one)

    def _learn(self, news: BranchNews) -> None:
        body, version = event_body(news.info), self.version
        name, tree = body["id"], self._tree(body["tree_id"])
        seen = self.branches.get(name)
        if seen is None:
            skip = body["kind"] != "prompt"
            seen = Seen({}, Detokenizer(self._engine.tokenizer, skip), born=version)
            self.branches[name] = tree.members[name] = seen
        tree.running += (body["status"] == "running") - (seen.body.get("status") == "running")
        self.branches.move_to_end(name)
        seen.body, seen.changed = body, version
        if not news.only_grown:
            seen.altered = version
        seen.text += "".join(map(seen.detokenizer.push, news.token_ids))
        if body["status"] == "idle":
            seen.text += seen.detokenizer.flush()

    def _lose(self, name: str) -> None:
        body = self.branches.pop(name).body
        tree = self._tree(body["tree_id"])
        del tree.members[name]
        tree.running -= body["status"] == "running"
        if not tree.members:
            del self.trees[tree.id]
        if len(self.gone) == MAX_GONE:
            self._remembers_since = self.gone[0].version
        self.gone.append(Gone(self.version, name, tree.id, not tree.members))

    def _tree(self, id: str) -> TreeSeen:
        tree = self.trees.setdefault(id, TreeSeen(id))
        tree.changed = self.version
        self.trees.move_to_end(id)
        return tree
