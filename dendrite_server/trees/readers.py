"""Readers of the feed: server-sent events of one tree, and of the list of trees.

The events of one moment share a version, and only the last of them carries it as its `id`: a reader that
is cut off among them comes back with the id before, and is told all of them again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

from dendrite_core.errors import BranchNotFound
from dendrite_server.protocol.response import Body, encode_json
from dendrite_server.trees.feed import Feed, Seen

Event = tuple[str, Body]

# So that who comes back to a quiet tree is answered at once.
NOTHING_YET = b": nothing new\n\n"


@dataclass(slots=True)
class BranchReader:
    """What a reader of one tree knows: up to which version, and how much of each branch's text."""

    feed: Feed
    tree_id: str
    version: int | None = None
    told: dict[str, int] = field(default_factory=dict)

    def events(self) -> Iterator[Event]:
        """What changed since the version that is known; a snapshot if none is."""
        if self.version is None:
            yield "snapshot", self._snapshot()
            return
        gone = [one.branch_id for one in self.feed.gone_since(self.version) if one.tree_id == self.tree_id]
        if gone:
            for name in gone:
                self.told.pop(name, None)
            yield "released", {"tree_id": self.tree_id, "ids": gone[::-1]}
        news = [one for one in self.feed.newest_first(self.version) if one[1].body["tree_id"] == self.tree_id]
        # Parents before their children, also those of one moment.
        news.reverse()
        for name, seen in sorted(news, key=lambda one: one[1].born):
            yield self._event(name, seen, self.version)

    @property
    def is_over(self) -> bool:
        return self.tree_id not in self.feed.trees

    def _snapshot(self) -> Body:
        members = self.feed.trees[self.tree_id].members if not self.is_over else {}
        self.told = {name: len(seen.text) for name, seen in members.items()}
        return {"tree_id": self.tree_id, "branches": [seen.whole() for seen in members.values()]}

    def _event(self, name: str, seen: Seen, since: int) -> Event:
        known = self.told.get(name)
        self.told[name] = len(seen.text)
        if known is None:
            return ("created" if seen.born > since else "changed"), seen.whole()
        if seen.altered > since:
            kind = "ended" if seen.body["status"] == "idle" and seen.body["finish_reason"] else "changed"
            return kind, {**seen.body, "delta": seen.text[known:]}
        counts = ("own_tokens", "kv_tokens", "tokens", "pages")
        grown = {name: seen.body[name] for name in counts}
        return "tokens", {"id": name, **grown, "delta": seen.text[known:]}


@dataclass(slots=True)
class TreesReader:
    """What a reader of the list of trees knows: up to which version."""

    feed: Feed
    version: int | None = None

    def events(self) -> Iterator[Event]:
        if self.version is None:
            yield "snapshot", {"trees": [tree.summary() for tree in self.feed.trees.values()]}
            return
        for gone in reversed(list(self.feed.gone_since(self.version))):
            if gone.ended_tree and gone.tree_id not in self.feed.trees:
                yield "released", {"ids": [gone.tree_id]}
        for tree in reversed(list(self.feed.newest_trees(self.version))):
            yield "tree", tree.summary()

    @property
    def is_over(self) -> bool:
        return False


async def read(feed: Feed, tree_id: str | None, last_id: str | None) -> AsyncGenerator[bytes, None]:
    """Frames until the tree, or the server, ends. Raises `BranchNotFound` and `EngineClosed`."""
    # Counted before it begins, so that a feed about to stop for want of readers goes on.
    feed.readers += 1
    try:
        await feed.begin()
        # What somebody was told of before asking here is in what they are told first.
        await feed.catch_up()
        version = _known(feed, last_id)
        reader = TreesReader(feed, version) if tree_id is None else BranchReader(feed, tree_id, version)
        if reader.is_over and not (version is not None and _has_ended(feed, tree_id, version)):
            raise BranchNotFound(f"no tree '{tree_id}' on this server", param="tree_id")
        while True:
            now = feed.version
            if events := list(reader.events()):
                yield _frames(events, f"{feed.era}-{now}")
            elif reader.version == version:
                yield NOTHING_YET
            reader.version = now
            if reader.is_over or not await feed.newer(now):
                return
    finally:
        feed.readers -= 1


def _has_ended(feed: Feed, tree_id: str | None, since: int) -> bool:
    return any(gone.tree_id == tree_id for gone in feed.gone_since(since))


def _known(feed: Feed, last_id: str | None) -> int | None:
    """The version a reader has seen, if everything since is still known."""
    era, _, number = (last_id or "").partition("-")
    if era != feed.era or not (number.isascii() and number.isdigit() and len(number) < 18):
        return None
    return int(number) if feed.is_complete_since(int(number)) else None


def _frames(events: list[Event], id: str) -> bytes:
    frames = [f"event: {kind}\ndata: {encode_json(body)}\n" for kind, body in events]
    return ("\n".join(frames) + f"id: {id}\n\n").encode()
