"""The oracle of the cache tests: branches as plain lists, KV as a real array written through page tables.

Every slot of the array gets a hash of all tokens up to its position, so content read back through a page
table is right only if every page before it is. Guards around each page's slots catch a write that strays.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dendrite_core.cache.branch import Branch
from dendrite_core.cache.invariants import check
from dendrite_core.cache.tree import TreeCache

GUARD = 4
BEFORE, AFTER, FRESH = 0xA5A5A5A5, 0x5A5A5A5A, 0xDEAD


class Storage:
    """One value per slot of every page, with guard words before and after each page."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.words = np.full((num_pages, page_size + 2 * GUARD), FRESH, dtype=np.uint64)
        self.words[:, :GUARD] = BEFORE
        self.words[:, -GUARD:] = AFTER
        self.pages = self.words[:, GUARD:-GUARD]

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        for source, destination in pairs:
            self.pages[destination] = self.pages[source]

    def write(self, table: list[int], first: int, marks: list[int]) -> None:
        for position, mark in enumerate(marks, first):
            page, slot = divmod(position, self.page_size)
            self.pages[table[page], slot] = mark

    def read(self, table: list[int], length: int) -> list[int]:
        pages = table[: -(-length // self.page_size)]
        return self.pages[pages].reshape(-1)[:length].tolist()

    def check_guards(self) -> None:
        assert (self.words[:, :GUARD] == BEFORE).all(), "written before a page"
        assert (self.words[:, -GUARD:] == AFTER).all(), "written after a page"


@dataclass
class Line:
    """What a branch must be: its tokens, the marks of their KV, and how much of it is valid."""

    branch: Branch
    tokens: list[int]
    marks: list[int]
    kv: int

    def push(self, token: int) -> None:
        last = self.marks[-1] if self.marks else hash(self.branch.namespace) & 0xFFFF
        self.tokens.append(token)
        self.marks.append(hash((last, token)) & 0xFFFFFFFF)


class Model:
    """A cache and its oracle, driven by random operations; `log` tells what was done."""

    def __init__(self, seed: int, page_size: int = 16, num_pages: int = 24, max_branches: int = 24) -> None:
        self.rng = random.Random(seed)
        self.max_branches = max_branches
        self.cache = TreeCache(num_pages, page_size, max_branches)
        self.storage = Storage(num_pages, page_size)
        self.lines: dict[int, Line] = {}
        self.log: list[str] = []
        self.operations: dict[Callable[[], None], int] = {
            self.open: 10, self.fork: 8, self.fork_at: 6, self.fork_many: 3, self.start: 14, self.step: 40,
            self.stop: 8, self.truncate: 5, self.extend: 5, self.drop: 6, self.resume: 4, self.release: 5,
            self.prune: 1, self.evict: 2, self.pin: 2, self.step_with_forks: 8, self.explore: 8,
            self.abandon: 5,
        }  # fmt: skip

    def run(self, operations: int) -> None:
        chosen = self.rng.choices(list(self.operations), list(self.operations.values()), k=operations)
        for operation in chosen:
            try:
                operation()
                self.verify()
            except Exception as error:
                error.add_note("after " + "; ".join(self.log[-40:]))
                raise

    # Operations, as the engine makes them.

    def open(self) -> None:
        size = self.cache.page_size
        namespace = ("tenant", self.rng.randrange(2))
        tokens: list[int] = []
        if self.lines and self.rng.random() < 0.6:
            tokens = self.rng.choice(list(self.lines.values())).tokens[: self.rng.randrange(8 * size)]
        tokens = tokens + [self.token() for _ in range(self.rng.randrange(1, 3 * size))]
        expected = min(self.longest_cached(namespace, tokens), len(tokens) - 1)
        branch = self.cache.open(tokens, namespace)
        assert branch.kv_length == expected, "not the longest match"
        line = self.lines[branch.id] = Line(branch, [], [], expected)
        for token in tokens:
            line.push(token)
        self.note("open", branch, len(tokens), expected)

    def fork(self) -> None:
        if line := self.any():
            free = self.cache.pool.free
            self.adopt(line, self.cache.fork(line.branch), len(line.tokens))
            assert self.cache.pool.free >= free, "a fork takes no page"

    def fork_at(self) -> None:
        if line := self.any():
            at = self.rng.randint(0, len(line.tokens))
            self.adopt(line, self.cache.fork(line.branch, at), at)

    def fork_many(self) -> None:
        if line := self.any():
            count = self.rng.randrange(5)
            children = self.cache.fork_many(line.branch, count)
            assert len(children) == count
            for child in children:
                self.adopt(line, child, len(line.tokens))

    def start(self) -> None:
        if line := self.any(lambda line: not line.branch.running and line.tokens):
            self.cache.start(line.branch)
            assert line.branch.kv_length >= min(line.kv, len(line.tokens) - 1)
            assert line.branch.kv_length < len(line.tokens)
            line.kv = line.branch.kv_length
            self.note("start", line.branch, line.kv)

    def step(self) -> None:
        self.take_step(disturbed=False)

    def step_with_forks(self) -> None:
        """Forks that run at once, and an abort, between a step's reservations and its writes."""
        self.take_step(disturbed=True)

    def take_step(self, disturbed: bool) -> None:
        running = [line for line in self.lines.values() if line.branch.running]
        self.rng.shuffle(running)
        planned: list[tuple[Line, int]] = []
        for line in running[: self.rng.randint(1, 8)]:
            if not line.branch.running:
                continue
            missing = len(line.tokens) - line.kv
            count = min(missing, self.rng.choice([1, missing, self.rng.randint(1, 3 * self.cache.page_size)]))
            if count == 0:
                line.push(self.token())
                line.branch.append(line.tokens[-1])
                count = 1
            if self.reserve(line, count):
                planned.append((line, count))
            elif victim := self.any(lambda v: v.branch.running and v not in [line for line, _ in planned]):
                self.preempt(victim)
        if disturbed:
            self.disturb(planned)
        self.write([(line, count) for line, count in planned if line.branch.id in self.lines])

    def write(self, planned: list[tuple[Line, int]]) -> None:
        """The engine's step: copies in any order, then all writes, then what they sealed."""
        self.check_batch(planned)
        copies = self.cache.take_copies()
        self.rng.shuffle(copies)
        self.storage.copy(copies)
        for line, count in planned:
            assert line.branch.table is not None
            self.storage.write(line.branch.table.pages, line.kv, line.marks[line.kv : line.kv + count])
        for line, count in planned:
            self.cache.advance(line.branch, count)
            line.kv += count
            self.note("wrote", line.branch, count)
            if line.kv == len(line.tokens) and self.rng.random() < 0.9:
                line.push(self.token())
                line.branch.append(line.tokens[-1])

    def check_batch(self, planned: list[tuple[Line, int]]) -> None:
        """Attention reads a page once for all rows that have it: all see the whole of it, none writes."""
        size = self.cache.page_size
        ends: dict[int, list[int]] = {}
        for line, _ in planned:
            assert line.branch.table is not None
            for index, page in enumerate(line.branch.table.pages):
                ends.setdefault(page, []).append(line.kv - index * size)
        for page, filled in ends.items():
            assert len(filled) == 1 or min(filled) >= size, f"rows that share page {page} end in it: {filled}"

    def explore(self) -> None:
        """A child that runs ahead of its parent by a page or two and is given up again."""
        if line := self.any(lambda line: line.branch.running):
            child = self.cache.fork(line.branch)
            self.adopt(line, child, len(line.tokens))
            self.expect_expiry()
            ahead = self.lines[child.id]
            self.lengthen(ahead, self.rng.randint(1, 2 * self.cache.page_size))
            self.cache.start(child)
            ahead.kv = child.kv_length
            count = len(ahead.tokens) - ahead.kv
            if self.reserve(ahead, count):
                self.write([(ahead, count)])
            self.preempt(ahead)

    def abandon(self) -> None:
        """A row that was written ahead and then found to have ended: its slots hold what nobody reads."""
        if line := self.any(lambda line: line.branch.running):
            count = self.rng.randint(1, self.cache.page_size)
            if self.reserve(line, count):
                self.storage.copy(self.cache.take_copies())
                assert line.branch.table is not None
                self.storage.write(line.branch.table.pages, line.kv, [FRESH] * count)
            self.cache.stop(line.branch)
            self.note("abandon", line.branch, count)

    def disturb(self, planned: list[tuple[Line, int]]) -> None:
        for line, _ in planned[:2]:
            if line.branch.id in self.lines and line.kv < len(line.tokens):
                child = self.cache.fork(line.branch)
                self.adopt(line, child, len(line.tokens))
                self.expect_expiry()
                self.cache.start(child)
                self.lines[child.id].kv = child.kv_length
                if self.reserve(self.lines[child.id], 1):
                    planned.append((self.lines[child.id], 1))
        self.release()

    def preempt(self, line: Line) -> None:
        self.cache.drop(line.branch)
        line.kv = 0
        self.note("preempt", line.branch)

    def reserve(self, line: Line, count: int) -> bool:
        if self.cache.reserve(line.branch, count):
            return True
        idle = [other for other in self.lines.values() if other.branch.parkable]
        assert not idle, "refused room though an idle branch could be parked"
        assert self.cache.tree.cached_pages == 0, "refused room though content could be evicted"
        self.note("no room", line.branch, count)
        return False

    def stop(self) -> None:
        if line := self.any(lambda line: line.branch.running):
            self.cache.stop(line.branch)
            self.note("stop", line.branch)

    def truncate(self) -> None:
        if line := self.any():
            lowest = max((child.start for child in line.branch.children.values()), default=0)
            length = self.rng.randint(min(lowest, len(line.tokens)), len(line.tokens))
            self.cache.truncate(line.branch, length)
            del line.tokens[length:], line.marks[length:]
            line.kv = min(line.kv, length)
            self.note("truncate", line.branch, length)

    def extend(self) -> None:
        if line := self.any(lambda line: len(line.tokens) < 6 * self.cache.page_size):
            self.lengthen(line, self.rng.randint(1, self.cache.page_size))

    def lengthen(self, line: Line, count: int) -> None:
        tokens = [self.token() for _ in range(count)]
        line.branch.extend(tokens)
        for token in tokens:
            line.push(token)
        self.note("extend", line.branch, count)

    def drop(self) -> None:
        if line := self.any():
            self.preempt(line)

    def resume(self) -> None:
        if line := self.any():
            before, line.kv = line.branch.kv_length, self.cache.resume(line.branch)
            expected = min(self.longest_cached(line.branch.namespace, line.tokens), len(line.tokens) - 1)
            assert line.kv == max(before, expected, 0)
            self.note("resume", line.branch, line.kv)

    def release(self) -> None:
        if line := self.any():
            self.note("release", line.branch)
            del self.lines[line.branch.id]
            free = self.cache.pool.free
            assert self.cache.release(line.branch) == self.cache.pool.free - free

    def prune(self) -> None:
        if line := self.any(lambda line: len(line.branch.subtree()) < 6):
            self.note("prune", line.branch)
            for branch in line.branch.subtree():
                self.lines.pop(branch.id, None)
            self.cache.prune(line.branch)

    def evict(self) -> None:
        count = self.rng.randint(1, 6)
        cached, freed = self.cache.tree.cached_pages, self.cache.evict(count)
        assert freed <= min(count, cached)
        assert freed == count or self.cache.tree.cached_pages == 0
        self.note("evict", freed)

    def pin(self) -> None:
        if line := self.any():
            line.branch.pinned = not line.branch.pinned and self.rng.random() < 0.3

    # What must hold.

    def verify(self) -> None:
        self.expect_expiry()
        assert self.cache.branches.keys() == self.lines.keys()
        for line in self.lines.values():
            branch = line.branch
            if branch.parked and not branch.pinned and not branch.running:
                line.kv = 0
            assert branch.kv_length == line.kv, f"{branch} should have {line.kv} in KV"
            assert branch.tokens() == line.tokens, "other tokens than it was given"
            content = self.storage.read(self.cache.page_table(branch), line.kv)
            assert content == line.marks[: line.kv], f"{branch} reads KV of other tokens"
        self.storage.check_guards()
        check(self.cache)

    def expect_expiry(self) -> None:
        gone = [line for id, line in self.lines.items() if id not in self.cache.branches]
        assert not gone or len(self.lines) > self.max_branches, "a record is gone without need"
        for line in gone:
            assert not line.branch.running
            assert not line.branch.pinned
            assert not line.branch.children
            del self.lines[line.branch.id]

    def drain(self) -> None:
        """Release everything; no page may stay behind."""
        self.storage.copy(self.cache.take_copies())
        for line in list(self.lines.values()):
            self.cache.release(line.branch)
        self.lines.clear()
        self.verify()
        self.cache.evict(self.cache.pool.num_pages)
        assert self.cache.pool.used == 0, "pages lost"

    def longest_cached(self, namespace: tuple[object, ...], tokens: list[int]) -> int:
        """The longest common prefix of `tokens` with any path of the tree, the slow way."""
        root = self.cache.tree.roots.get(namespace)
        best, paths = 0, [(root, [])] if root else []
        for node, above in paths:
            path = above + node.tokens
            equal = next((i for i, (a, b) in enumerate(zip(path, tokens, strict=False)) if a != b), None)
            best = max(best, min(len(path), len(tokens)) if equal is None else equal)
            paths.extend((child, path) for child in node.children)
        return best

    def adopt(self, line: Line, child: Branch, at: int) -> None:
        kv = min(line.kv, at)
        self.lines[child.id] = Line(child, line.tokens[:at], line.marks[:at], kv)
        self.note("fork", line.branch, child, at)

    def token(self) -> int:
        """Mostly the same, so that branches write equal pages."""
        return 7 if self.rng.random() < 0.93 else self.rng.randrange(3)

    def any(self, wanted: Callable[[Line], object] = lambda line: True) -> Line | None:
        found = [line for line in self.lines.values() if wanted(line)]
        return self.rng.choice(found) if found else None

    def note(self, what: str, *about: object) -> None:
        self.log.append(f"{what} {' '.join(map(str, about))}")
