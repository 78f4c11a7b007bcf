"""Searches on a real engine: no page left behind, cancelled or not; one batch; the tree against resending."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_core.errors import RequestError
from dendrite_core.search import (
    BeamSearch,
    BestOf,
    Budget,
    Call,
    EngineBackend,
    Judge,
    MonteCarlo,
    ResendingEngine,
    Sample,
    Search,
    SelfConsistency,
    Template,
    Tree,
    TreeOfThoughts,
)
from dendrite_core.search.methods.guided import Method

MakeEngine = Callable[..., Engine]
FEW = Sample(SamplingParams(max_tokens=3, ignore_eos=True))
LENGTH = Call(lambda branch: len(branch.text) % 5 / 5)
JUDGE = Judge(
    prompt=Template("Is {last} good?"), labels={"e": 1.0}, votes=2, params=SamplingParams(max_tokens=2)
)


def methods() -> list[Method]:
    return [
        TreeOfThoughts(generator=FEW, width=2, branching=2),
        TreeOfThoughts(generator=FEW, order="dfs", branching=2, evaluator=LENGTH),
        TreeOfThoughts(generator=FEW, width=1, branching=2, evaluator=JUDGE),
        MonteCarlo(generator=FEW, branching=2, expansions=3, wave=2),
        BestOf(generator=FEW, n=3),
        SelfConsistency(generator=FEW, n=3),
        BeamSearch(width=2, max_tokens=4),
    ]


def stats(engine: Engine):  # type: ignore[no-untyped-def]
    return engine.stats().result()


async def test_a_thousand_searches_leave_no_page_behind(make_engine: MakeEngine) -> None:
    engine, rng = make_engine(canaries=True), random.Random(0)
    kinds = methods()

    async def one(number: int) -> None:
        budget = Budget(depth=2, nodes=rng.randint(3, 9))
        prompt = "the tree of thoughts"[: rng.randint(3, 20)]
        search = Search(EngineBackend(engine), prompt, kinds[number % 7], budget=budget, seed=number)
        running = asyncio.create_task(search.run())
        if number % 5 == 0:
            await asyncio.sleep(rng.random() * 0.02)
            search.cancel()
        await running

    for batch in range(125):
        await asyncio.gather(*(one(batch * 8 + number) for number in range(8)))
    assert (stats(engine).pages_used, stats(engine).running, engine.in_flight) == (0, 0, 0)
    # What is left of records is nothing either: everything hung below a root that is gone.
    assert stats(engine).branches == 0


@pytest.mark.parametrize("number", range(7))
async def test_cancelling_frees_every_page(make_engine: MakeEngine, number: int) -> None:
    engine = make_engine()
    long = Sample(SamplingParams(max_tokens=100, ignore_eos=True))
    method = methods()[number]
    if not isinstance(method, BeamSearch):
        method = type(method)(
            **{**{f: getattr(method, f) for f in method.__dataclass_fields__}, "generator": long}
        )  # type: ignore[attr-defined]
    for wait in (0.0, 0.002, 0.01, 0.05):
        search = Search(EngineBackend(engine), "a page is never a block", method, budget=Budget(depth=3))
        running = asyncio.create_task(search.run())
        await asyncio.sleep(wait)
        search.cancel()
        result = await running
        assert result.reason in ("cancelled", "depth", "exhausted")
        assert (stats(engine).pages_used, stats(engine).running, stats(engine).branches) == (0, 0, 0)


async def test_a_cancelled_task_and_a_left_loop_free_every_page(make_engine: MakeEngine) -> None:
    engine = make_engine()
    method = TreeOfThoughts(generator=Sample(SamplingParams(max_tokens=50, ignore_eos=True)))
    running = asyncio.create_task(Search(EngineBackend(engine), "x y z", method).run())
    await asyncio.sleep(0.03)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stats(engine).pages_used == 0
    events = aiter(Search(EngineBackend(engine), "x y z", method))
    assert (await anext(events)).kind == "expanded"
    await events.aclose()  # type: ignore[attr-defined]
    assert (stats(engine).pages_used, stats(engine).branches) == (0, 0)


async def test_a_search_that_fails_leaves_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine()

    def broken(branch: object) -> float:
        raise RuntimeError("no opinion")

    with pytest.raises(RuntimeError, match="no opinion"):
        await Search(EngineBackend(engine), "x", TreeOfThoughts(generator=FEW, evaluator=Call(broken))).run()
    with pytest.raises(RequestError, match="n must be in"):
        await Search(EngineBackend(engine), "x", BestOf(generator=FEW, n=1000)).run()
    assert (stats(engine).pages_used, stats(engine).branches) == (0, 0)


async def test_what_questions_begin_with_is_computed_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    rules = "how to judge the thoughts of a tree " * 8
    judge = Judge(prompt=Template(rules + "{last}"), params=SamplingParams(max_tokens=2, ignore_eos=True))
    length = len(engine.tokenizer.encode_prompt(rules))
    async with Tree(EngineBackend(engine), "the tree") as tree:
        costs = []
        level = [tree.root]
        for _ in range(3):
            (level,) = await tree.extend(level, 4, max_tokens=3, ignore_eos=True)
            before, pages = tree.count.computed, stats(engine).pages_used
            await judge.score(tree, level)
            costs.append(tree.count.computed - before)
            # Of four questions one is held, a few pages more than the rules take.
            assert stats(engine).pages_used - pages <= length // 16 + 3
            level = level[:1]
    assert length > 100
    assert length <= costs[0] < 2 * length, "four questions at once compute the rules once"
    assert max(costs[1:]) < length, "and the next ones find them"
    assert stats(engine).pages_used == 0


async def test_what_is_kept_can_be_continued(make_engine: MakeEngine) -> None:
    engine = make_engine()
    method = TreeOfThoughts(generator=FEW, width=2, branching=3)
    search = Search(EngineBackend(engine), "the tree", method, budget=Budget(depth=3), keep=True)
    result = await search.run()
    assert result.branch_id is not None
    more = await engine.agenerate("", SamplingParams(max_tokens=4), parent_id=result.branch_id)
    assert more.usage.cached_tokens == more.usage.prompt_tokens - 1
    assert search.tree is not None
    await search.tree.close()
    assert stats(engine).pages_used == 0


async def test_a_frontier_is_one_batch(make_engine: MakeEngine) -> None:
    engine = make_engine()
    method = TreeOfThoughts(
        generator=Sample(SamplingParams(max_tokens=8, ignore_eos=True)), width=4, branching=4
    )
    await Search(EngineBackend(engine), "one two three", method, budget=Budget(depth=3)).run()
    # Three levels of eight tokens; a level's prompts may reach the engine over two steps.
    assert stats(engine).steps <= 3 * (8 + 1)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 6])
async def test_the_tree_changes_what_is_computed_and_nothing_else(
    make_engine: MakeEngine, number: int
) -> None:
    engine, prompt = make_engine(), "the tree of thoughts branches at every step " * 2
    found, computed = [], []
    for backend in (
        EngineBackend(engine),
        ResendingEngine(engine, prefix_cache=True),
        ResendingEngine(engine, prefix_cache=False),
    ):
        result = await Search(backend, prompt, methods()[number], budget=Budget(depth=3), seed=7).run()
        found.append([(view.text, view.status) for view in result.tree])
        computed.append(result.count.computed)
        if isinstance(backend, ResendingEngine):
            await backend.close()
        assert stats(engine).pages_used == 0
    assert found[0] == found[1] == found[2]
    assert computed[0] <= computed[1] <= computed[2]


async def test_reproducible_in_company(make_engine: MakeEngine) -> None:
    engine = make_engine()

    async def tree(seed: int) -> list[str]:
        method = MonteCarlo(generator=FEW, branching=3, expansions=6)
        result = await Search(
            EngineBackend(engine), "the same", method, seed=seed, budget=Budget(depth=4)
        ).run()
        return [view.text for view in result.tree]

    alone = await tree(3)
    crowd = await asyncio.gather(*(tree(seed) for seed in (1, 2, 3, 4, 3)))
    assert crowd[2] == crowd[4] == alone
    assert crowd[0] != crowd[1]
