"""Trees that are written down are there again in another engine: names, tokens, texts, places, pins."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_core.cache.invariants import check
from dendrite_core.engine.keeping.journal import Saved
from dendrite_core.errors import BranchNotFound
from dendrite_core.params import GrammarSpec

MakeEngine = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


class Notebook:
    """What a journal said, as it is after a way through JSON."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.woken = threading.Event()
        self.journal = engine.keep(self.woken.set).result()
        self.lines: dict[str, str] = {}

    def catch_up(self) -> None:
        more = True
        while more:
            entries = self.engine.entries(self.journal).result()
            for one in entries.saved:
                self.lines.pop(one.name, None)
                self.lines[one.name] = json.dumps(asdict(one))
            for name in entries.gone:
                del self.lines[name]
            more = entries.more

    def saved(self) -> list[Saved]:
        found = [Saved(**json.loads(line)) for line in self.lines.values()]
        return [replace(s, tokens=tuple(s.tokens), namespace=tuple(s.namespace)) for s in found]


def shown(engine: Engine, name: str) -> dict[str, Any]:
    """A branch as callers see it, without what is of this process only: KV, its pages and its timings."""
    info = engine.describe(name).result()
    here = {"kv_tokens": 0, "pages_shared": 0, "pages_owned": 0, "cached_tokens": 0, "fork_us": None}
    pinned_for = None if info.pinned_for is None else round(info.pinned_for / 60)
    return {**asdict(replace(info, **here)), "children": set(info.children), "pinned_for": pinned_for}


def grow(engine: Engine, draw: random.Random, alive: list[str]) -> None:
    """One thing that a caller may do."""
    prompt = [draw.randrange(3, 320) for _ in range(draw.randint(1, 30))]
    parent = draw.choice(alive) if alive else None
    match draw.randrange(7) if parent else 0:
        case 0:
            alive += [c.branch_id for c in engine.generate(prompt, GREEDY, n=draw.randint(1, 3)).choices]
        case 1 | 2:
            found = engine.generate(prompt, GREEDY, parent_id=parent, n=2)
            alive += [choice.branch_id for choice in found.choices]
        case 3:
            found = engine.generate("", GREEDY, parent_id=parent, parent_offset=0)
            alive.append(found.branch_id)
        case 4:
            alive += engine.fork(parent, 2).result()
        case 5:
            pinned, ttl = draw.random() < 0.7, draw.choice([None, 7200])
            engine.update(parent, pinned=pinned, ttl=ttl, metadata={"score": draw.random()}).result()
        case 6:
            gone = engine.release(parent, prune=draw.random() < 0.5).result()
            alive[:] = [name for name in alive if name not in gone]


@pytest.mark.parametrize("seed", range(6))
def test_a_tree_written_down_is_the_same_tree(make_engine: MakeEngine, seed: int) -> None:
    draw, alive = random.Random(seed), list[str]()
    engine = make_engine(num_pages=256, page_size=8)
    notebook = Notebook(engine)
    for _ in range(40):
        grow(engine, draw, alive)
        if draw.random() < 0.3:
            notebook.catch_up()
    notebook.catch_up()
    names = [one.name for one in notebook.saved() if one.listed]
    assert set(alive) <= set(names)
    again = make_engine(num_pages=256, page_size=8)
    assert again.restore(notebook.saved()).result() == len(names)
    check(again._loop.book.cache)
    for name in names:
        assert shown(again, name) == shown(engine, name)
        before, after = (one.generate([5, 6], GREEDY, parent_id=name, n=2) for one in (engine, again))
        assert [c.token_ids for c in after.choices] == [c.token_ids for c in before.choices]
    check(again._loop.book.cache)
    with pytest.raises(BranchNotFound):
        again.describe("branch_of_nobody").result()


def test_what_nobody_needs_is_struck_out(make_engine: MakeEngine) -> None:
    engine = make_engine()
    notebook = Notebook(engine)
    first = engine.generate([1, 2, 3], GREEDY)
    second = engine.generate([4], GREEDY, parent_id=first.branch_id)
    notebook.catch_up()
    assert len(notebook.lines) == 4
    engine.release(first.branch_id, prune=False).result()
    notebook.catch_up()
    assert not json.loads(notebook.lines[first.branch_id])["listed"], "it is still the past of another"
    assert second.branch_id in notebook.lines
    tree = engine.describe(second.branch_id).result().tree_id
    for info in engine.describe_tree(tree).result():
        engine.release(info.branch_id, prune=False).result()
    notebook.catch_up()
    assert notebook.lines == {}


def test_a_past_that_lost_its_name_before_it_was_written_is_written_with_its_children(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    notebook = Notebook(engine)
    first = engine.generate([1, 2, 3], GREEDY)
    child = engine.fork(first.branch_id).result()[0]
    engine.release(first.branch_id, prune=False).result()
    notebook.catch_up()
    again = make_engine()
    again.restore(notebook.saved()).result()
    expected = engine.generate([9], GREEDY, parent_id=child).choices[0].token_ids
    assert again.generate([9], GREEDY, parent_id=child).choices[0].token_ids == expected
    with pytest.raises(BranchNotFound):
        again.describe(first.branch_id).result()


def test_a_structure_goes_on_where_it_was_cut(make_engine: MakeEngine) -> None:
    engine = make_engine()
    notebook = Notebook(engine)
    held = SamplingParams(seed=2, max_tokens=4, grammar=GrammarSpec(kind="regex", source="([a-f]{2}-){6}z"))
    begun = engine.generate([1, 2, 3], held)
    notebook.catch_up()
    free = SamplingParams(seed=5, max_tokens=40)
    expected = engine.generate("", free, parent_id=begun.branch_id).text
    again = make_engine()
    again.restore(notebook.saved()).result()
    assert again.generate("", free, parent_id=begun.branch_id).text == expected
    assert expected.endswith("z")


def test_new_names_are_never_old_ones(make_engine: MakeEngine) -> None:
    engine = make_engine()
    notebook = Notebook(engine)
    old = [engine.generate([1, 2, 3], GREEDY).branch_id for _ in range(3)]
    notebook.catch_up()
    lost = engine.generate([1, 2, 3], GREEDY).branch_id
    again = make_engine()
    again.restore(notebook.saved()).result()
    new = [again.generate([7], GREEDY).branch_id for _ in range(8)]
    assert not {*old, lost} & set(new)
    with pytest.raises(BranchNotFound):
        again.describe(lost).result()


def test_more_branches_than_there_is_room_for(make_engine: MakeEngine) -> None:
    engine = make_engine()
    notebook = Notebook(engine)
    names = [engine.generate([i, 2, 3], GREEDY).branch_id for i in range(3, 23)]
    notebook.catch_up()
    again = make_engine(max_branches=8)
    again.restore(notebook.saved()).result()
    for _ in range(4):
        again.generate([1], GREEDY)
    check(again._loop.book.cache)
    assert again.stats().result().branches <= 16
    there = [name for name in names if again.describe(name).exception() is None]
    assert there == names[len(names) - len(there) :], "those used longest ago go first"
