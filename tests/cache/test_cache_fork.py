"""Forking: what is shared, what is copied, what is freed. The ids are those the project's research uses."""

from __future__ import annotations

import pytest

from dendrite_core.cache.branch import Branch
from dendrite_core.cache.invariants import check
from dendrite_core.cache.tree import TreeCache
from tests.cache.model import Storage


class Harness:
    """A cache over real storage, with the few steps of an engine that tests need."""

    def __init__(self, num_pages: int = 64, page_size: int = 16) -> None:
        self.cache = TreeCache(num_pages, page_size)
        self.storage = Storage(num_pages, page_size)

    def open(self, tokens: list[int]) -> Branch:
        return self.compute(self.cache.open(tokens))

    def compute(self, branch: Branch) -> Branch:
        """Write the KV of all tokens: each slot holds its token."""
        table = self.cache.start(branch)
        first, tokens = branch.kv_length, branch.tokens()
        assert self.cache.reserve(branch, len(tokens) - first)
        self.storage.copy(self.cache.take_copies())
        self.storage.write(table.pages, first, tokens[first:])
        self.cache.advance(branch, len(tokens) - first)
        self.cache.stop(branch)
        check(self.cache)
        return branch

    def continued(self, branch: Branch, tokens: list[int]) -> Branch:
        child = self.cache.fork(branch)
        child.extend(tokens)
        return self.compute(child)

    def read(self, branch: Branch) -> list[int]:
        self.storage.check_guards()
        return self.storage.read(self.cache.page_table(branch), branch.kv_length)


@pytest.fixture(params=[8, 16, 32])
def harness(request: pytest.FixtureRequest) -> Harness:
    return Harness(page_size=request.param)


def test_fork_refcount_001(harness: Harness) -> None:
    """Ten forks freed alternately: the shared pages live exactly as long as someone holds them."""
    prompt = harness.open(list(range(3 * harness.cache.page_size + 5)))
    assert harness.cache.pool.used == 4
    children = [harness.cache.fork(prompt) for _ in range(10)]
    assert harness.cache.pool.used == 4
    tail = prompt.tail[0]
    assert harness.cache.pool.refs[tail] == 11
    for left, child in zip(range(10, 0, -1), children[::2] + children[1::2], strict=True):
        assert harness.cache.release(child) == 0
        assert harness.cache.pool.refs[tail] == left
        check(harness.cache)
    assert harness.read(prompt) == prompt.tokens()
    assert harness.cache.release(prompt) == 4
    assert harness.cache.pool.free == harness.cache.pool.num_pages


def test_fork_cow_002(harness: Harness) -> None:
    """The first to write goes on in the page that all share; each of the others gets a copy of that page."""
    size = harness.cache.page_size
    prompt = harness.open([1] * (2 * size + 3))
    children = harness.cache.fork_many(prompt, 3)
    harness.cache.release(prompt)
    for number, child in enumerate(children):
        child.extend([10 + number] * 2)
        harness.compute(child)
    assert harness.cache.stats().copies == 2
    for number, child in enumerate(children):
        assert harness.read(child) == [1] * (2 * size + 3) + [10 + number] * 2
    assert len({child.tail[0] for child in children}) == 3
    assert harness.cache.pool.used == 2 + 3


def test_siblings_of_one_step_copy_once_less_than_they_are(harness: Harness) -> None:
    prompt = harness.open([1] * 5)
    children = harness.cache.fork_many(prompt, 4)
    harness.cache.release(prompt)
    for child in children:
        child.append(2)
        harness.cache.start(child)
        assert harness.cache.reserve(child, 1)
    copies = harness.cache.take_copies()
    assert len(copies) == 3
    assert {source for source, _ in copies}.isdisjoint(destination for _, destination in copies)
    assert harness.cache.take_copies() == []


@pytest.mark.parametrize("first", ["parent", "child"])
def test_the_first_to_write_goes_on_in_the_page_the_second_copies(harness: Harness, first: str) -> None:
    prompt = harness.open([1] * 5)
    child = harness.cache.fork(prompt)
    page = prompt.tail[0]
    for branch in (prompt, child) if first == "parent" else (child, prompt):
        branch.append(branch.id)
        harness.compute(branch)
    assert harness.cache.stats().copies == 1
    assert (prompt.tail[0] == page) == (first == "parent")
    assert (child.tail[0] == page) == (first == "child")
    assert harness.read(prompt) == [1] * 5 + [prompt.id]
    assert harness.read(child) == [1] * 5 + [child.id]


def test_a_chain_of_short_steps_takes_the_pages_of_its_tokens(harness: Harness) -> None:
    """A thousand branches, each four tokens longer than the one before, and all of them can be named."""
    harness = Harness(num_pages=600, page_size=harness.cache.page_size)
    line = [harness.open([0] * 4)]
    for step in range(999):
        line.append(harness.cache.fork(line[-1]))
        line[-1].extend([step] * 4)
        harness.cache.start(line[-1])
        assert harness.cache.reserve(line[-1], 4)
        assert not harness.cache.take_copies()
        harness.storage.write(harness.cache.page_table(line[-1]), 4 * step + 4, [step] * 4)
        harness.cache.advance(line[-1], 4)
        harness.cache.stop(line[-1])
    check(harness.cache)
    assert harness.cache.pool.used == 4000 // harness.cache.page_size
    for branch in line[::97]:
        assert harness.read(branch) == branch.tokens()


def test_room_that_was_not_used_is_the_childs(harness: Harness) -> None:
    """A step written ahead for a branch that had ended leaves a slot behind that nobody has to avoid."""
    branch = harness.open([1] * 3)
    branch.append(2)
    table = harness.cache.start(branch)
    assert harness.cache.reserve(branch, 1)
    harness.storage.write(table.pages, 3, [2])
    assert harness.cache.reserve(branch, 2), "the step after the one that is not committed"
    harness.cache.advance(branch, 1)
    harness.cache.stop(branch)
    child = harness.continued(branch, [3])
    assert harness.cache.stats().copies == 0
    assert harness.read(child) == [1, 1, 1, 2, 3]


def test_a_branch_that_only_waited_gives_back_no_room_of_others(harness: Harness) -> None:
    prompt = harness.open([1] * 3)
    prompt.append(2)
    child = harness.cache.fork(prompt)
    child.append(3)
    harness.cache.start(prompt)
    harness.compute(child)
    harness.cache.stop(prompt)
    harness.compute(prompt)
    assert harness.read(child) == [1, 1, 1, 2, 3]
    assert harness.read(prompt) == [1, 1, 1, 2]
    assert harness.cache.stats().copies == 1


def test_fork_deep_003(harness: Harness) -> None:
    """A hundred generations, released from the middle outwards; nothing leaks."""
    branch = harness.open([0, 1, 2])
    line = [branch]
    for generation in range(100):
        branch = harness.continued(branch, [generation])
        line.append(branch)
    assert branch.tokens() == [0, 1, 2, *range(100)]
    assert harness.read(branch) == branch.tokens()
    for member in sorted(line[:-1], key=lambda member: abs(member.id - branch.id // 2)):
        harness.cache.release(member)
        check(harness.cache)
        assert harness.read(branch) == branch.tokens()
    assert branch.tokens() == [0, 1, 2, *range(100)]
    harness.cache.release(branch)
    assert harness.cache.pool.used == 0
    assert harness.cache.tree.nodes == 0


def test_pruning_a_deep_line_releases_it_all(harness: Harness) -> None:
    root = branch = harness.open([0, 1, 2])
    for generation in range(100):
        branch = harness.continued(branch, [generation])
    used = harness.cache.pool.used
    assert harness.cache.prune(root) == used
    assert not harness.cache.branches
    check(harness.cache)


def test_fork_isolation_005(harness: Harness) -> None:
    """What one sibling or the parent writes, no other sees."""
    size = harness.cache.page_size
    past = list(range(size + size // 2))
    parent = harness.open(past)
    children = harness.cache.fork_many(parent, 8)
    for round_ in range(2 * size):
        for number, child in enumerate(children):
            child.append(1000 * number + round_)
            harness.compute(child)
        parent.append(-round_ % 97)
        harness.compute(parent)
    for number, child in enumerate(children):
        assert harness.read(child) == past + [1000 * number + round_ for round_ in range(2 * size)]
    assert harness.read(parent) == past + [-round_ % 97 for round_ in range(2 * size)]


@pytest.mark.parametrize("length", [15, 16, 17])
def test_kv_boundary_001(length: int) -> None:
    boundary(length)


@pytest.mark.parametrize("length", [31, 32, 33])
def test_kv_boundary_002(length: int) -> None:
    boundary(length)


def boundary(length: int) -> None:
    """Around a page's end: compute, fork, go on, open again, fork without anything new."""
    harness = Harness(page_size=16)
    tokens = list(range(length))
    branch = harness.open(tokens)
    assert harness.cache.pool.used == -(-length // 16)
    assert len(branch.tail) == (1 if length % 16 else 0)
    child = harness.continued(branch, [100, 101])
    assert harness.read(child) == [*tokens, 100, 101]
    assert harness.read(branch) == tokens
    again = harness.cache.open(tokens)
    assert again.kv_length == length - 1
    sibling = harness.compute(harness.cache.fork(branch))
    assert harness.read(sibling) == tokens
    for member in (branch, child, again, sibling):
        harness.cache.release(member)
    assert harness.cache.pool.used == 0


@pytest.mark.parametrize("at", [0, 1, 15, 16, 17, 31, 32, 39, 40])
def test_a_fork_at_any_offset_computes_nothing_again(at: int) -> None:
    harness = Harness(page_size=16)
    tokens = list(range(40))
    parent = harness.open(tokens)
    copies = harness.cache.stats().copies
    child = harness.cache.fork(parent, at)
    assert child.kv_length == at
    assert child.tokens() == tokens[:at]
    assert harness.cache.pool.used == 3
    child.append(999)
    harness.compute(child)
    assert harness.read(child) == [*tokens[:at], 999]
    assert harness.read(parent) == tokens
    # At the parent's end it writes where the parent has not; before that it would overwrite.
    assert harness.cache.stats().copies - copies == (1 if at % 16 and at < 40 else 0)


def test_a_fork_of_a_running_branch_leaves_it_running() -> None:
    harness = Harness()
    branch = harness.open([1] * 20)
    branch.append(2)
    table = harness.cache.start(branch)
    assert harness.cache.reserve(branch, 40)
    child = harness.cache.fork(branch)
    assert len(child.tail) == 1, "room reserved by the parent is not the child's"
    assert table.pages == harness.cache.page_table(branch)
    harness.cache.release(child)
    harness.cache.stop(branch)
    check(harness.cache)


def test_equal_siblings_join() -> None:
    """Two branches that generate the same page end on one page, and the running table says so."""
    harness = Harness()
    prompt = harness.open([1] * 10)
    first, second = harness.cache.fork_many(prompt, 2)
    for child in (first, second):
        child.extend([5] * 8)
    table = harness.cache.start(second)
    harness.compute(first)
    assert harness.cache.reserve(second, 8)
    harness.storage.copy(harness.cache.take_copies())
    own, version = table.pages[0], table.version
    harness.storage.write(table.pages, 10, [5] * 8)
    harness.cache.advance(second, 8)
    assert table.pages[0] == harness.cache.page_table(first)[0] != own
    assert table.version > version
    assert harness.cache.pool.refs[own] == 0
    assert harness.cache.stats().joins == 1


def test_released_parents_stay_as_the_past_of_their_children() -> None:
    harness = Harness()
    parent = harness.open(list(range(20)))
    child = harness.continued(parent, [50])
    grandchild = harness.continued(child, [51])
    harness.cache.release(parent)
    harness.cache.release(child)
    assert harness.cache.lookup(parent.id) is None
    assert grandchild.tokens() == [*range(20), 50, 51]
    assert harness.read(grandchild) == grandchild.tokens()
    harness.cache.release(grandchild)
    assert not parent.children
    assert harness.cache.pool.used == 0


def test_truncating_frees_what_only_this_branch_held() -> None:
    harness = Harness()
    branch = harness.open(list(range(100)))
    child = harness.cache.fork(branch, 50)
    harness.cache.truncate(branch, 60)
    assert harness.cache.pool.used == 4
    assert harness.read(branch) == list(range(60))
    assert child.tokens() == list(range(50))
    with pytest.raises(AssertionError, match="fork point"):
        harness.cache.truncate(branch, 49)
    check(harness.cache)
