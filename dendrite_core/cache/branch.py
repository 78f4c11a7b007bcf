"""`Branch`: an identity in the tree, with the tokens it added to its parent's and the KV it holds.

A branch is a record, not content: its past is its parent's tokens up to `start`, and its KV is a cursor
into the radix tree plus at most one partly filled tail page. Only `TreeCache` moves the KV fields.
`Records` keeps branches by id and knows which of them were used least recently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from operator import attrgetter

from dendrite_core.cache.page_table import PageTable
from dendrite_core.cache.radix import Node

Namespace = tuple[Hashable, ...]


class Branch:
    """One line of tokens in a tree of branches.

    id: unique in its cache; also the tick of its birth.
    start: position of its first own token; the tokens before it are its parent's.
    own: the tokens from `start` on.
    cursor: the node at whose end its sealed pages end; None once its KV was given up (*parked*).
    tail: pages after the cursor: the partly filled one, then room reserved while it runs.
    kv_length: tokens whose KV is valid, counted from the root.
    table: its page table while a sequence runs on it, else None.
    pinned: a client wants its KV kept: neither parked nor expired. Free to set.
    record: what the engine knows of the branch, of no meaning here.
    holds: reasons to keep the record from expiring (a waiting sequence). Free to count.
    """

    __slots__ = (
        "children",
        "cursor",
        "holds",
        "id",
        "kv_length",
        "last_used",
        "namespace",
        "own",
        "parent",
        "pinned",
        "record",
        "start",
        "table",
        "tail",
    )

    def __init__(
        self,
        id: int,
        parent: Branch | None,
        start: int,
        namespace: Namespace,
        own: list[int],
        cursor: Node | None,
        tail: list[int],
        kv_length: int,
    ) -> None:
        self.id = id
        self.parent = parent
        self.start = start
        self.namespace = namespace
        self.own = own
        self.cursor = cursor
        self.tail = tail
        self.kv_length = kv_length
        self.children: dict[int, Branch] = {}
        self.last_used = id
        self.table: PageTable | None = None
        self.pinned = False
        self.record: object = None
        self.holds = 0

    def __len__(self) -> int:
        """Tokens from the root."""
        return self.start + len(self.own)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"Branch({self.id}, {len(self)} tokens, {self.kv_length} in KV)"

    @property
    def running(self) -> bool:
        return self.table is not None

    @property
    def parked(self) -> bool:
        """Whether its KV was given up; `TreeCache.start` or `resume` finds again what is still cached."""
        return self.cursor is None

    @property
    def parkable(self) -> bool:
        """Whether pages may be won by parking it."""
        if self.cursor is None or self.running or self.pinned:
            return False
        return self.cursor.parent is not None or bool(self.tail)

    def append(self, token: int) -> None:
        """Add a token to the record; its KV is not there yet."""
        self.own.append(token)

    def extend(self, tokens: Iterable[int]) -> None:
        self.own.extend(tokens)

    def tokens(self, first: int = 0, end: int | None = None) -> list[int]:
        """A fresh list of the tokens at positions first..end-1, walking up as far as needed."""
        end = len(self) if end is None else end
        if first >= self.start:
            return self.own[first - self.start : end - self.start]
        parts: list[list[int]] = []
        branch: Branch | None = self
        while branch is not None and end > first:
            if end > branch.start:
                parts.append(branch.own[max(first - branch.start, 0) : end - branch.start])
                end = branch.start
            branch = branch.parent
        tokens: list[int] = []
        for part in reversed(parts):
            tokens += part
        return tokens

    def holder_of(self, position: int) -> Branch:
        """The branch, of this one and its past, whose own token is at a position."""
        branch = self
        while branch.start > position and branch.parent is not None:
            branch = branch.parent
        return branch

    def subtree(self) -> list[Branch]:
        """This branch and all its descendants, parents before children."""
        found = [self]
        for branch in found:
            found.extend(branch.children.values())
        return found


class Records:
    """Branches by id. `expire_above` is the number of records from which on `expirable` is worth a look.

    `on_forget`, where somebody sets it, hears of every record that goes.
    """

    __slots__ = ("_idle", "_limit", "by_id", "expire_above", "on_forget")

    def __init__(self, limit: int) -> None:
        assert limit > 0
        self.by_id: dict[int, Branch] = {}
        self.expire_above = limit
        self.on_forget: Callable[[Branch], None] | None = None
        self._limit = limit
        self._idle: deque[tuple[int, Branch]] = deque()

    def forget(self, branch: Branch) -> None:
        """Take a record out, with those ancestors that were only kept as the past of their children."""
        del self.by_id[branch.id]
        if self.on_forget is not None:
            self.on_forget(branch)
        link: Branch | None = branch
        while link is not None and not link.children and link.id not in self.by_id:
            if link.parent is not None:
                del link.parent.children[link.id]
            link = link.parent

    def with_past(self, id: int) -> Branch | None:
        """The branch of that id, also one that was released and lives on as the past of others."""
        if id in self.by_id:
            return self.by_id[id]
        for branch in self.by_id.values():
            past = branch.parent
            while past is not None and past.id not in self.by_id:
                if past.id == id:
                    return past
                past = past.parent
        return None

    def expirable(self, used_since: int) -> list[Branch]:
        """The excess over the limit and an eighth more of what nobody needs, least recently used first.

        Spares records with children, and those used at or after the tick `used_since`.
        """
        idle = [b for b in self.by_id.values() if b.last_used < used_since and not b.children]
        idle = [b for b in idle if not (b.running or b.pinned or b.holds)]
        idle.sort(key=attrgetter("last_used"))
        excess, slack = len(self.by_id) - self._limit, self._limit // 8
        chosen = idle[: excess + slack]
        # Where nothing may go, looking again at every fork would make forks slow.
        self.expire_above = max(self._limit, len(self.by_id) - len(chosen) + slack)
        return chosen

    def reconsider(self) -> None:
        """Records that could not go before may go now."""
        self.expire_above = self._limit

    def next_parkable(self) -> Branch | None:
        """The least recently used branch that holds KV and is neither running nor pinned."""
        for _ in range(2):
            while self._idle:
                last_used, branch = self._idle.popleft()
                if branch.last_used == last_used and branch.parkable and branch.id in self.by_id:
                    return branch
            # What became idle since the list was made is younger than all that was on it, so the list
            # stays a true order until it is used up, and making it is paid for by the whole of it.
            idle = sorted((b for b in self.by_id.values() if b.parkable), key=attrgetter("last_used"))
            self._idle.extend((branch.last_used, branch) for branch in idle)
        return None
