"""`TreeCache`: branches over the radix tree and the page pool; what the engine calls.

Opening, forking, running, truncating, parking and releasing branches; sealing full pages into the radix
tree; copy-on-write of shared tail pages; reclaiming pages under pressure. One thread at a time.
The life of a branch that generates: open or fork, `start`, then per step `reserve`, write KV, `advance`
and `Branch.append`, and `stop` at the end. Between steps, any branch may be forked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from dendrite_core.cache.branch import Branch, Namespace, Records
from dendrite_core.cache.page_table import PageTable
from dendrite_core.cache.pages import PagePool, PendingCopies
from dendrite_core.cache.radix import Node, RadixTree
from dendrite_core.cache.stats import CacheStats


class TreeCache:
    """A tree of branches over `num_pages` pages of `page_size` tokens each.

    Keeps at most about `max_branches` records: beyond that the idle, childless, unpinned ones that were
    used least recently are forgotten (their KV stays as cached content).
    """

    def __init__(self, num_pages: int, page_size: int = 16, max_branches: int = 1 << 16) -> None:
        assert page_size > 0
        self.page_size = page_size
        self.pool = PagePool(num_pages)
        self.tree = RadixTree(self.pool, page_size)
        self.records = Records(max_branches)
        self.branches = self.records.by_id
        self._refs = self.pool.refs
        self._written = self.pool.written
        self._clock = 0
        self.pending_copies = PendingCopies(self.pool)
        self._forks = self._joins = self._parked = 0

    # Branches come and go.

    def open(self, tokens: Sequence[int], namespace: Namespace = ()) -> Branch:
        """A new branch without a parent, on as much KV of its tokens as the namespace has cached.

        All but the last token may be found cached, so that its logits are still to come.
        """
        self._clock += 1
        branch = Branch(self._clock, None, 0, namespace, list(tokens), None, [], 0)
        self._attach(branch, len(tokens) - 1)
        self._register(branch)
        return branch

    def fork(self, branch: Branch, at: int | None = None) -> Branch:
        """A child that continues `branch` from its end, or from its first `at` tokens. O(1) at the end.

        The child shares all KV up to there; nothing is copied until it or the parent writes.
        """
        if at is not None and at != len(branch):
            return self._fork_at(branch, at)
        clock = self._clock = self._clock + 1
        tail: list[int] = []
        cursor = branch.cursor
        if cursor is not None:
            cursor.pins += 1
            if branch.kv_length > cursor.end:
                page = branch.tail[0]
                self._refs[page] += 1
                tail.append(page)
        start = branch.start + len(branch.own)
        child = Branch(clock, branch, start, branch.namespace, [], cursor, tail, branch.kv_length)
        branch.last_used = clock
        branch.children[clock] = self.branches[clock] = child
        self._forks += 1
        if len(self.branches) > self.records.expire_above:
            self._expire()
        return child

    def fork_many(self, branch: Branch, count: int) -> list[Branch]:
        """`count` children at the end of `branch`, in order."""
        cursor, namespace, kv_length = branch.cursor, branch.namespace, branch.kv_length
        start, born = branch.start + len(branch.own), self._clock
        tail: list[int] = []
        if cursor is not None:
            cursor.pins += count
            if count and kv_length > cursor.end:
                tail.append(branch.tail[0])
                self._refs[tail[0]] += count
        children = [
            Branch(id, branch, start, namespace, [], cursor, tail.copy(), kv_length)
            for id in range(born + 1, born + count + 1)
        ]
        self._clock = branch.last_used = born + count
        records = {child.id: child for child in children}
        branch.children.update(records)
        self.branches.update(records)
        self._forks += count
        if len(self.branches) > self.records.expire_above:
            self._expire(newest=count)
        return children

    def _fork_at(self, branch: Branch, at: int) -> Branch:
        assert 0 <= at <= len(branch), "a fork point lies within the branch"
        self._clock += 1
        branch.last_used = self._clock
        child = Branch(self._clock, branch, at, branch.namespace, [], None, [], 0)
        if branch.cursor is not None:
            position = min(at, branch.kv_length)
            node, page = self._locate(branch, branch.cursor, position)
            self._move(child, node, page, position)
        branch.children[child.id] = child
        self._register(child)
        self._forks += 1
        return child

    def _register(self, branch: Branch) -> None:
        self.branches[branch.id] = branch
        if len(self.branches) > self.records.expire_above:
            self._expire()

    def lookup(self, id: int) -> Branch | None:
        """The record of that id, unless it was released or has expired."""
        return self.branches.get(id)

    def release(self, branch: Branch) -> int:
        """Forget a branch and free at once the pages that nothing else holds; how many.

        Its children go on: the object stays behind them as their past, without KV and out of the registry.
        """
        free = self.pool.free
        self.stop(branch)
        if branch.cursor is None:
            # A parked branch's content is still cached; deleting the branch deletes that too.
            self._attach(branch, len(branch))
        self._leave(branch, discard=True)
        self.records.forget(branch)
        return self.pool.free - free

    def prune(self, branch: Branch) -> int:
        """Release a branch and all its descendants; how many pages became free."""
        freed = 0
        for member in reversed(branch.subtree()):
            if member.id in self.branches:
                freed += self.release(member)
        return freed

    def _expire(self, newest: int = 1) -> None:
        """Forget what was used least recently, sparing the newest records; cached content stays."""
        for branch in self.records.expirable(self._clock - newest + 1):
            self._leave(branch)
            self.records.forget(branch)

    # A sequence runs on a branch.

    def start(self, branch: Branch) -> PageTable:
        """Begin to run a branch; its page table, which the cache keeps current until `stop`.

        KV that was given up, or that another branch has computed meanwhile, is picked up from the tree;
        `branch.kv_length` says how much there is. At least one token is left to compute.
        """
        assert branch.table is None, "a branch runs once at a time"
        last = max(len(branch) - 1, 0)
        if branch.cursor is None or branch.kv_length < last:
            self.resume(branch)
        self.forget(branch, last)
        assert branch.cursor is not None
        self._touch(branch)
        pages = branch.cursor.pages_from(0)
        pages += branch.tail
        branch.table = PageTable(pages)
        return branch.table

    def stop(self, branch: Branch) -> None:
        """End a run: room that was reserved and not written goes back. Its KV stays. May be repeated."""
        if branch.table is None:
            return
        assert branch.cursor is not None
        unused = branch.table.promised > branch.kv_length
        branch.table = None
        self._trim(branch, branch.cursor)
        if unused and branch.tail:
            self._written[branch.tail[0]] = branch.kv_length - branch.cursor.end
        self._touch(branch)

    def reserve(self, branch: Branch, count: int) -> bool:
        """Make room to write the KV of the next `count` tokens: all of it or, if impossible now, none.

        Of those who share a tail page the first to write goes on in it; for the others, who would overwrite,
        it is replaced by a copy (see `take_copies`). Under pressure, cached content is evicted and idle
        branches are parked.
        """
        cursor, tail, table, size = branch.cursor, branch.tail, branch.table, self.page_size
        assert cursor is not None
        assert table is not None, "only a running branch is written to"
        filled = branch.kv_length - cursor.end
        missing = (filled + count + size - 1) // size - len(tail)
        overtaken = filled > 0 and self._is_overtaken(tail[0], max(filled, table.promised - cursor.end))
        if missing > 0 or overtaken:
            if not self._make_room(max(missing, 0) + overtaken):
                return False
            if overtaken:
                self._copy_on_write(branch, cursor, table)
            if missing > 0:
                pages = self.pool.allocate_many(missing)
                tail += pages
                table.pages += pages
        table.promised = branch.kv_length + count
        for page in tail[: (filled + count) // size]:
            self._written[page] = size
        if rest := (filled + count) % size:
            self._written[tail[(filled + count) // size]] = rest
        return True

    def _is_overtaken(self, page: int, end: int) -> bool:
        """Whether somebody else has written to a page, or was promised to, after its first `end` slots."""
        return self._written[page] != min(end, self.page_size) and self.pending_copies.is_shared(page)

    def advance(self, branch: Branch, count: int) -> None:
        """Take note that the KV of the next `count` tokens was written; full pages are sealed.

        A sealed page may turn out to be in the tree already: then the branch joins that one, its own goes
        back, and the page table's `version` moves.
        """
        cursor = branch.cursor
        assert cursor is not None
        branch.kv_length += count
        filled = branch.kv_length - cursor.end
        assert branch.kv_length <= len(branch), "KV runs ahead of the tokens"
        assert filled <= len(branch.tail) * self.page_size, "written beyond what was reserved"
        if filled >= self.page_size:
            self._seal(branch, cursor, filled // self.page_size)

    def _seal(self, branch: Branch, cursor: Node, count: int) -> None:
        """Move the first `count` pages of the tail into the tree, joining equal ones that are there."""
        first, size = cursor.end, self.page_size
        tokens = branch.tokens(first, first + count * size)
        pages = branch.tail[:count]
        del branch.tail[:count]
        node = self.tree.match(cursor, tokens)
        joined = (node.end - first) // size
        if joined:
            self.tree.pin(node)
            self.tree.unpin(cursor)
            self.pool.release_many(pages[:joined])
            if branch.table is not None:
                branch.table.replace(first // size, node.pages_from(first))
            self._joins += joined
        if joined < count:
            node = self.tree.extend(node, tokens[joined * size :], pages[joined:])
        branch.cursor = node

    def page_table(self, branch: Branch) -> list[int]:
        """The pages of a branch from the root; the running table itself while it runs."""
        if branch.table is not None:
            return branch.table.pages
        return branch.cursor.pages_from(0) + branch.tail if branch.cursor is not None else []

    def _copy_on_write(self, branch: Branch, cursor: Node, table: PageTable) -> None:
        """Replace the partly filled tail page by a copy of it."""
        page = branch.tail[0] = self.pending_copies.add(branch.tail[0])
        table.replace(cursor.end // self.page_size, (page,))

    def take_copies(self) -> list[tuple[int, int]]:
        """The (source, destination) page copies due, in any order, before this step writes any KV.

        Call once per step, after its reservations. No page is both a source and a destination, and no
        destination comes twice.
        """
        return self.pending_copies.take()

    # A branch moves over the tree.

    def truncate(self, branch: Branch, length: int) -> None:
        """Keep the first `length` tokens; what only this branch held beyond them is freed.

        Must not cut below a point where a child was forked off.
        """
        assert 0 <= length <= len(branch)
        assert all(child.start <= length for child in branch.children.values()), "cut below a fork point"
        if length >= branch.start:
            del branch.own[length - branch.start :]
        else:
            branch.start, branch.own = length, []
        self.forget(branch, length)

    def resume(self, branch: Branch) -> int:
        """Pick up from the tree the KV of the branch's tokens that it lacks; its `kv_length` afterwards.

        For a parked branch, and for one whose next tokens another may have computed meanwhile.
        """
        self._attach(branch, len(branch) - 1)
        return branch.kv_length

    def drop(self, branch: Branch, discard: bool = False) -> None:
        """Park a branch: its tokens stay, its KV becomes cached content that eviction may take.

        With `discard`, for KV that nobody wants any more, pages that nothing else holds are freed at once.
        """
        self.stop(branch)
        if branch.cursor is not None:
            self._leave(branch, discard)
            self._parked += not discard

    def _attach(self, branch: Branch, limit: int) -> None:
        """Move the cursor down along the branch's tokens below `limit`, as far as KV is cached."""
        base = branch.cursor
        if base is None:
            base = branch.cursor = self.tree.root(branch.namespace)
            self.tree.pin(base)
        tokens = branch.tokens(base.end, max(limit, base.end))
        node = self.tree.match(base, tokens)
        within = self.tree.match_within_page(node, tokens[node.end - base.end :])
        page, equal = within if within is not None else (None, 0)
        if node.end + equal > branch.kv_length:
            self._move(branch, node, page, node.end + equal)

    def forget(self, branch: Branch, position: int) -> None:
        """Give up the KV of a branch from `position` on, if it has any; its tokens stay."""
        cursor = branch.cursor
        if cursor is None or branch.kv_length <= position:
            return
        if position < cursor.end:
            self._move(branch, *self._locate(branch, cursor, position), position)
        else:
            branch.kv_length = position
            if branch.table is not None:
                branch.table.promised = 0
            self._trim(branch, cursor)

    def _locate(self, branch: Branch, cursor: Node, position: int) -> tuple[Node, int | None]:
        """Cursor and partly filled page for the first `position` tokens of the branch's KV."""
        if position > cursor.end:
            return cursor, branch.tail[0]
        return self.tree.locate(cursor, position)

    def _move(self, branch: Branch, node: Node, page: int | None, kv_length: int) -> None:
        """Let a branch stand at `node` with at most one page after it, and leave where it stood."""
        old, old_tail = branch.cursor, branch.tail
        first = min(old.end, node.end) if old is not None else 0
        self.tree.pin(node)
        branch.tail = [page] if page is not None else []
        self.pool.retain_many(branch.tail)
        branch.cursor, branch.kv_length = node, kv_length
        self.pool.release_many(old_tail)
        if old is None:
            return
        self.tree.discard(old)
        if branch.table is not None:
            branch.table.promised = 0
            branch.table.rewrite(first // self.page_size, node.pages_from(first) + branch.tail)

    def _trim(self, branch: Branch, cursor: Node) -> None:
        """Give back the tail pages that hold no KV of the branch."""
        keep = 1 if branch.kv_length > cursor.end else 0
        self.pool.release_many(branch.tail[keep:])
        del branch.tail[keep:]
        if branch.table is not None:
            branch.table.rewrite(cursor.end // self.page_size, branch.tail)

    def _leave(self, branch: Branch, discard: bool = False) -> None:
        """Give up a branch's KV: freed at once as far as nothing else needs it, or left as cached."""
        if branch.cursor is not None:
            (self.tree.discard if discard else self.tree.unpin)(branch.cursor)
        self.pool.release_many(branch.tail)
        branch.cursor, branch.tail, branch.kv_length = None, [], 0

    # Pages under pressure.

    def evict(self, count: int) -> int:
        """Free up to `count` pages of cached content, oldest leaves first; how many were freed."""
        return self.tree.evict(count)

    def _make_room(self, count: int) -> bool:
        """Have `count` pages free: evict cached content, then park idle branches, oldest first."""
        pool = self.pool
        while pool.free < count:
            self.tree.evict(count - pool.free)
            if pool.free >= count:
                break
            idle = self.records.next_parkable()
            if idle is None:
                return False
            self.drop(idle)
        return True

    def _touch(self, branch: Branch) -> None:
        self._clock += 1
        branch.last_used = self._clock

    def stats(self) -> CacheStats:
        """Counters; O(nodes + pages), for a page of metrics and not for every step."""
        return CacheStats(
            pages_total=self.pool.num_pages,
            pages_free=self.pool.free,
            pages_used=self.pool.used,
            pages_shared=self._count_shared(),
            pages_cached=self.tree.cached_pages,
            branches=len(self.branches),
            nodes=self.tree.nodes,
            forks=self._forks,
            copies=self.pending_copies.added,
            joins=self._joins,
            parked=self._parked,
            evictions=self.tree.evicted_pages,
        )

    def _count_shared(self) -> int:
        tails = set(chain.from_iterable(branch.tail for branch in self.branches.values()))
        return len(self.tree.shared_pages().union(filter(self.pending_copies.is_shared, tails)))
