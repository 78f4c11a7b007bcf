"""Watching the tree: what a watcher is told adds up to what can be looked at."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_core.engine.messages import BranchInfo
from dendrite_core.engine.watching import watch as watching
from dendrite_core.errors import BranchNotFound

MakeEngine = Callable[..., Engine]


class Watcher:
    """Keeps what it is told: branches and their token ids."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.woken = threading.Event()
        self.watch = engine.watch(self.woken.set).result()
        self.branches: dict[str, BranchInfo] = {}
        self.tokens: dict[str, list[int]] = {}
        self.calls = 0

    def catch_up(self) -> None:
        more = True
        while more:
            news = self.engine.news(self.watch).result()
            more, self.calls = news.more, self.calls + 1
            for one in news.branches:
                name = one.info.branch_id
                assert not one.only_grown or name in self.branches
                self.branches[name] = one.info
                self.tokens.setdefault(name, []).extend(one.token_ids)
            for name in news.gone:
                del self.branches[name], self.tokens[name]


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 5, "seed": 1, "ignore_eos": True, **fields})


def looked_at(engine: Engine, names: list[str]) -> dict[str, BranchInfo]:
    """The branches as `describe` shows them, without what a watcher is not told of."""
    shown = (engine.describe(name).result() for name in names)
    return {one.branch_id: replace(one, text="", pinned_for=None, children=()) for one in shown}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_adds_up_to_what_is_there(make_engine: MakeEngine, seed: int) -> None:
    engine, draw = make_engine(num_pages=256, page_size=8), random.Random(seed)
    alive = [engine.generate([1, 2, 3], params()).branch_id]
    watcher = Watcher(engine)
    for step in range(40):
        name = draw.choice(alive)
        match draw.choice(["go on", "go on", "fork", "free", "note", "begin"]):
            case "go on":
                made = engine.generate([7] * draw.randint(0, 6), params(seed=step), parent_id=name, n=2)
                alive += [choice.branch_id for choice in made.choices]
            case "fork":
                alive += engine.fork(name, 2).result()
            case "free" if len(alive) > 3:
                gone = set(engine.release(name, prune=bool(step % 2)).result())
                alive = [one for one in alive if one not in gone]
            case "note":
                engine.update(name, pinned=True, metadata={"score": step}).result()
            case _:
                alive.append(engine.generate([step, 2, 3], params()).branch_id)
        if step % 3 == 0:
            watcher.catch_up()
    watcher.catch_up()
    assert set(alive) <= watcher.branches.keys()
    told = {
        n: replace(one, pinned_for=None, children=(), pages_shared=0, pages_owned=0, kv_tokens=0)
        for n, one in watcher.branches.items()
    }
    there = {
        n: replace(one, pages_shared=0, pages_owned=0, kv_tokens=0)
        for n, one in looked_at(engine, list(told)).items()
    }
    assert told == there
    for name, one in told.items():
        skip = one.kind != "prompt"
        decoded = engine.tokenizer.decode(watcher.tokens[name], skip_special_tokens=skip)
        assert decoded == engine.describe(name).result().text
        assert len(watcher.tokens[name]) == one.own_tokens


def test_pages_are_shared_when_a_second_table_has_them(make_engine: MakeEngine) -> None:
    engine = make_engine(page_size=8)
    first = engine.generate(list(range(1, 30)), params(max_tokens=9), n=3)
    below = engine.generate([5] * 11, params(), parent_id=first.choices[1].branch_id, n=2)
    engine.fork(below.choices[0].branch_id, 1).result()
    cache = engine._loop.book.cache
    tables = {branch.id: cache.page_table(branch) for branch in cache.branches.values()}
    holders = Counter(page for table in tables.values() for page in set(table))
    shown = {one.branch_id: one for one in engine.describe_tree(first.started.tree_id).result()}
    assert len(shown) == len(tables) == 8
    for branch in cache.branches.values():
        shared = sum(holders[page] > 1 for page in tables[branch.id])
        one = shown[engine._loop.book.name(branch)]
        assert (one.pages_shared, one.pages_owned) == (shared, len(tables[branch.id]) - shared)
    assert any(one.pages_owned for one in shown.values())


def test_cached_tokens_and_the_time_of_the_fork_are_on_the_branch(make_engine: MakeEngine) -> None:
    engine = make_engine()
    first = engine.generate(list(range(1, 30)), params(), n=2)
    again = engine.generate([4, 4], params(), parent_id=first.choices[0].branch_id)
    branch = engine.describe(first.choices[0].branch_id).result()
    assert branch.fork_us == first.started.fork_us
    assert branch.cached_tokens == 29
    prompt = engine.describe(again.started.prompt_branch_id).result()
    assert prompt.cached_tokens == again.usage.cached_tokens == 29 + 5 - 1


def test_a_large_tree_is_told_in_pieces(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_REPORTED", 10)
    engine = make_engine()
    root = engine.generate([1, 2, 3], params(max_tokens=1))
    children = engine.fork(root.branch_id, 35).result()
    watcher = Watcher(engine)
    watcher.catch_up()
    assert set(children) <= watcher.branches.keys()
    assert watcher.calls == 4


def test_a_watcher_is_woken_once_and_hears_of_the_end(make_engine: MakeEngine) -> None:
    engine = make_engine()
    watcher = Watcher(engine)
    watcher.catch_up()
    watcher.woken.clear()
    root = engine.generate([1, 2, 3], params(max_tokens=1))
    assert watcher.woken.wait(5)
    engine.release(root.started.prompt_branch_id).result()
    watcher.catch_up()
    assert watcher.branches == {}
    engine.unwatch(watcher.watch).result()
    engine.generate([1, 2, 3], params(max_tokens=1))
    assert engine._loop.book.cache.records.on_forget is None
    with pytest.raises(BranchNotFound):
        engine.describe(root.branch_id).result()
