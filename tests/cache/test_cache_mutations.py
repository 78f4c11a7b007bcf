"""The fuzz test is tested: planted bugs, the classic ones of paged trees, must each be found by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dendrite_core.cache.branch import Branch
from dendrite_core.cache.page_table import PageTable
from dendrite_core.cache.pages import PagePool, PendingCopies
from dendrite_core.cache.radix import Node, RadixTree
from dendrite_core.cache.tree import TreeCache
from tests.cache.model import Model

SEEDS = range(16)
Patch = pytest.MonkeyPatch
BUGS: dict[str, Callable[[Patch], None]] = {}


def bug(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    BUGS[plant.__name__] = plant
    return plant


@bug
def no_copy_on_write(patch: Patch) -> None:
    patch.setattr(PendingCopies, "is_shared", lambda self, page: False)


@bug
def everybody_writes_on(patch: Patch) -> None:
    patch.setattr(TreeCache, "_is_overtaken", lambda self, page, end: False)


@bug
def promises_are_not_noted(patch: Patch) -> None:
    reserve = TreeCache.reserve

    def notes_what_is_written(self: TreeCache, branch: Branch, count: int) -> bool:
        noted = self.pool.written[branch.tail[0]] if branch.tail else 0
        found = reserve(self, branch, count)
        if branch.tail:
            self.pool.written[branch.tail[0]] = noted
        return found

    patch.setattr(TreeCache, "reserve", notes_what_is_written)


@bug
def a_stop_gives_back_what_others_were_promised(patch: Patch) -> None:
    stop = TreeCache.stop

    def always_gives_back(self: TreeCache, branch: Branch) -> None:
        stop(self, branch)
        if branch.tail and branch.cursor is not None:
            self.pool.written[branch.tail[0]] = branch.kv_length - branch.cursor.end

    patch.setattr(TreeCache, "stop", always_gives_back)


@bug
def a_promise_outlives_a_truncation(patch: Patch) -> None:
    forget = TreeCache.forget

    def keeps_it(self: TreeCache, branch: Branch, position: int) -> None:
        promised = branch.table.promised if branch.table is not None else 0
        forget(self, branch, position)
        if branch.table is not None:
            branch.table.promised = promised

    patch.setattr(TreeCache, "forget", keeps_it)


@bug
def forgotten_unpin(patch: Patch) -> None:
    patch.setattr(RadixTree, "unpin", lambda self, node: None)


@bug
def unpin_stops_at_the_node(patch: Patch) -> None:
    def unpin(self: RadixTree, node: Node) -> None:
        node.pins -= 1
        if not node.pins:
            self.cached_pages += len(node.pages)

    patch.setattr(RadixTree, "unpin", unpin)


@bug
def wrong_split(patch: Patch) -> None:
    split = RadixTree.split

    def off_by_a_page(self: RadixTree, node: Node, count: int) -> Node:
        upper = split(self, node, count)
        upper.pages[-1], node.pages[0] = node.pages[0], upper.pages[-1]
        return upper

    patch.setattr(RadixTree, "split", off_by_a_page)


@bug
def split_keeps_the_upper_end(patch: Patch) -> None:
    split = RadixTree.split

    def returns_lower(self: RadixTree, node: Node, count: int) -> Node:
        split(self, node, count)
        return node

    patch.setattr(RadixTree, "split", returns_lower)


@bug
def page_lost_on_join(patch: Patch) -> None:
    seal = TreeCache._seal

    def keeps_pages(self: TreeCache, branch: Branch, cursor: Node, count: int) -> None:
        joins, page = self._joins, branch.tail[0]
        self.pool.retain(page)
        seal(self, branch, cursor, count)
        if self._joins == joins:
            self.pool.release(page)

    patch.setattr(TreeCache, "_seal", keeps_pages)


@bug
def join_leaves_the_table_behind(patch: Patch) -> None:
    patch.setattr(PageTable, "replace", lambda self, first, pages: None)


@bug
def no_join(patch: Patch) -> None:
    patch.setattr(RadixTree, "match", lambda self, node, tokens: node)


@bug
def evicting_a_pinned_node(patch: Patch) -> None:
    def ignores_pins(self: RadixTree, node: Node, stamp: int) -> bool:
        return node.parent is not None and not node.children and node.last_used == stamp

    patch.setattr(RadixTree, "_evictable", ignores_pins)


@bug
def evicting_an_inner_node(patch: Patch) -> None:
    def takes_the_first(self: RadixTree, count: int) -> int:
        freed = 0
        for node in list(self.walk()):
            if freed < count and node.parent is not None and not node.pins:
                freed += self._drop_pages(node, min(count - freed, len(node.pages)))
        return freed

    patch.setattr(RadixTree, "evict", takes_the_first)


@bug
def growing_a_shared_node(patch: Patch) -> None:
    patch.setattr(RadixTree, "sole_user", lambda self, node: not node.children and node.parent is not None)


@bug
def growing_a_node_with_children(patch: Patch) -> None:
    patch.setattr(RadixTree, "sole_user", lambda self, node: node.pins == 1 and node.parent is not None)


@bug
def copy_of_a_copy_reads_too_early(patch: Patch) -> None:
    add = PendingCopies.add

    def forgets_origins(self: PendingCopies, page: int) -> int:
        self._origin.clear()
        return add(self, page)

    patch.setattr(PendingCopies, "add", forgets_origins)


@bug
def pages_of_pending_copies_are_reused(patch: Patch) -> None:
    add = PendingCopies.add

    def holds_nothing(self: PendingCopies, page: int) -> int:
        new = add(self, page)
        self._pool.release_many(self._pairs[-1])
        self._held.clear()
        return new

    patch.setattr(PendingCopies, "add", holds_nothing)
    patch.setattr(PendingCopies, "take", lambda self: [self._pairs.pop() for _ in self._pairs[:]])


@bug
def fork_does_not_hold_the_tail(patch: Patch) -> None:
    fork = TreeCache.fork

    def holds_no_page(self: TreeCache, branch: Branch, at: int | None = None) -> Branch:
        child = fork(self, branch, at)
        self.pool.release_many(child.tail)
        return child

    patch.setattr(TreeCache, "fork", holds_no_page)


@bug
def double_free(patch: Patch) -> None:
    leave = TreeCache._leave

    def frees_twice(self: TreeCache, branch: Branch, discard: bool = False) -> None:
        tail = branch.tail
        leave(self, branch, discard)
        self.pool.release_many(page for page in tail if self.pool.refs[page])

    patch.setattr(TreeCache, "_leave", frees_twice)


@bug
def namespaces_share_a_root(patch: Patch) -> None:
    root = RadixTree.root
    patch.setattr(RadixTree, "root", lambda self, namespace: root(self, ("everyone",)))


@bug
def truncation_keeps_kv(patch: Patch) -> None:
    patch.setattr(TreeCache, "forget", lambda self, branch, position: None)


@bug
def partly_equal_page_is_overrated(patch: Patch) -> None:
    within = RadixTree.match_within_page

    def one_more(self: RadixTree, node: Node, tokens: list[int]) -> tuple[int, int] | None:
        best = within(self, node, tokens)
        return (best[0], min(best[1] + 1, len(tokens))) if best else None

    patch.setattr(RadixTree, "match_within_page", one_more)


@bug
def release_leaks_some_pages(patch: Patch) -> None:
    release = PagePool.release

    def leaks(self: PagePool, page: int) -> bool:
        return release(self, page) if page % 7 else False

    patch.setattr(PagePool, "release", leaks)


def fuzz() -> None:
    for seed in SEEDS:
        model = Model(seed, page_size=8)
        model.run(300)
        model.drain()


@pytest.mark.parametrize("plant", BUGS.values(), ids=BUGS)
def test_planted_bug_is_found(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, IndexError, KeyError, AttributeError)):
        fuzz()
