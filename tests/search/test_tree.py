"""The tree people write their own search on: extending, forking, rewinding, pruning, and what that costs."""

from __future__ import annotations

import asyncio

import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_core.search import Branch, Budget, BudgetExhausted, EngineBackend, Tree

PARAMS = SamplingParams(max_tokens=6, ignore_eos=True)


async def used(engine: Engine) -> int:
    return (await asyncio.wrap_future(engine.stats())).pages_used


async def test_a_search_of_your_own_in_ten_lines(engine: Engine) -> None:
    async with Tree(EngineBackend(engine), "the tree of thoughts", seed=1) as tree:
        frontier = [tree.root]
        for _ in range(3):
            grown = await tree.extend(frontier, 3, max_tokens=6)
            children = [child for siblings in grown for child in siblings]
            for child in children:
                child.score = len(child.text)
            frontier = sorted(children, key=lambda child: child.score or 0)[-2:]
            await tree.keep(frontier)
        assert len(frontier[-1].path) == 3
        assert len(list(tree.living)) <= 6


async def test_children_compute_only_what_is_new(engine: Engine) -> None:
    async with Tree(EngineBackend(engine), "a page is never a block " * 8) as tree:
        first = await tree.root.extend(2, params=PARAMS)
        before = tree.count
        await tree.extend(first, 2, params=PARAMS)
        more = tree.count
        assert more.requests - before.requests == 2
        # Each parent's last token has no KV before a child needs it.
        assert (more.prompt - more.cached) - (before.prompt - before.cached) == 2


async def test_forks_stand_where_their_parent_stands(engine: Engine) -> None:
    async with Tree(EngineBackend(engine), "user turn", seed=4) as tree:
        (stem,) = await tree.root.extend(params=PARAMS)
        left, right = stem.fork(2)
        (one,) = await left.extend(params=PARAMS)
        (two,) = await right.extend(params=PARAMS)
        assert one.path_text.startswith(stem.text)
        assert two.path_text.startswith(stem.text)
        assert one.text != two.text
        assert tree.count.cached >= 2 * (tree.count.prompt // 3 - 2)
        await left.prune()
        assert [left.alive, one.alive, right.alive, two.alive] == [False, False, True, True]
        assert await right.extend(params=PARAMS)


async def test_appended_text_is_computed_when_it_is_needed(engine: Engine) -> None:
    async with Tree(EngineBackend(engine), "one two three") as tree:
        (stem,) = await tree.root.extend(params=PARAMS)
        sent = tree.count.requests
        said = stem.append(" four five")
        assert tree.count.requests == sent
        assert said.branch_id is None
        await said.extend(2, params=PARAMS)
        assert said.branch_id is not None
        assert said.path_text == stem.text + " four five"


async def test_rewinding_goes_on_from_an_earlier_token(engine: Engine) -> None:
    greedy = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    async with Tree(EngineBackend(engine), "seven eight nine") as tree:
        (stem,) = await tree.root.extend(params=greedy)
        back = stem.rewind(2)
        await stem.prune()
        (again,) = await back.extend(params=SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
        assert stem.text.endswith(again.text)
        (further,) = await again.extend(params=greedy)
        assert further.depth == 3
        await back.prune()
    assert await used(engine) == 0


async def test_pruning_frees_pages_at_once(engine: Engine) -> None:
    async with Tree(EngineBackend(engine), "a branch is an identity " * 4) as tree:
        children = await tree.root.extend(4, max_tokens=40, ignore_eos=True)
        full = await used(engine)
        for child in children[:3]:
            await child.prune()
        assert await used(engine) <= full - 3 * 2
    assert await used(engine) == 0


async def test_messages_between_thoughts(engine: Engine) -> None:
    chat = ({"role": "user", "content": "one"},)
    async with Tree(EngineBackend(engine), chat) as tree:
        (first,) = await tree.root.extend(params=PARAMS)
        (second,) = await first.extend(prompt=({"role": "user", "content": "two"},), params=PARAMS)
        info = await asyncio.wrap_future(engine.describe(second.branch_id or ""))
        prompt = await asyncio.wrap_future(engine.describe(info.parent_id or ""))
        assert "two" in prompt.text
        assert "<|im_start|>assistant" in prompt.text


async def test_a_budget_holds_for_hand_written_searches(engine: Engine) -> None:
    async with Tree(EngineBackend(engine), "x", budget=Budget(nodes=3, depth=2, tokens=100)) as tree:
        children = await tree.root.extend(5, params=PARAMS)
        assert len(children) == 3
        with pytest.raises(BudgetExhausted, match="nodes"):
            await children[0].extend(params=PARAMS)
    async with Tree(EngineBackend(engine), "x", budget=Budget(seconds=1e-9)) as tree:
        with pytest.raises(BudgetExhausted, match="seconds"):
            await tree.root.extend(params=PARAMS)


def texts(branch: Branch) -> list[str]:
    return [child.text for child in branch.children]


async def test_the_same_seed_grows_the_same_tree(engine: Engine) -> None:
    grown = []
    for seed in (5, 5, 6):
        async with Tree(EngineBackend(engine), "the same", seed=seed) as tree:
            children = await tree.root.extend(3, params=PARAMS)
            await tree.extend(children, 2, params=PARAMS)
            grown.append([branch.path_text for branch in tree.branches])
    assert grown[0] == grown[1] != grown[2]


async def test_a_full_context_is_a_dead_end_not_an_error(engine: Engine) -> None:
    async with Tree(EngineBackend(engine), "y" * 480) as tree:
        (long,) = await tree.root.extend(max_tokens=30, ignore_eos=True)
        assert await long.extend(max_tokens=30, ignore_eos=True) == []
