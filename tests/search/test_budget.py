"""Budgets are never exceeded, whatever the model writes, and nothing is held when a search is over."""

from __future__ import annotations

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from dendrite_core.params import SamplingParams
from dendrite_core.search import (
    BeamSearch,
    BestOf,
    Budget,
    Call,
    Event,
    Judge,
    MonteCarlo,
    Propose,
    Sample,
    Search,
    SelfConsistency,
    Template,
    TreeOfThoughts,
)
from tests.search.fakes import Says, ScriptedBackend

limits = st.none() | st.integers(1, 60)
budgets = st.builds(Budget, tokens=limits, nodes=limits, depth=st.integers(1, 4))


def writer(seed: int, longest: int) -> ScriptedBackend:
    def script(path: str, ask_seed: int, index: int) -> Says:
        rng = random.Random(f"{seed}/{path}/{ask_seed}/{index}")
        text = "\n".join(rng.choice(["sure", "no", "x", "7"]) for _ in range(3))
        return Says(text, tokens=rng.randint(0, longest), finished=rng.random() < 0.1)

    table = {token: -1.0 - token for token in range(4)}
    return ScriptedBackend(script, tokens=lambda path: table, end_ids=(3,))


longest = SamplingParams(max_tokens=7)
generators = st.sampled_from(
    [Sample(longest), Sample(SamplingParams()), Propose(prompt=Template("{n}: {path}"), params=longest)]
)
evaluators = st.sampled_from(
    [
        Call(lambda branch: len(branch.path_text) % 7 / 7),
        Judge(prompt=Template("{last}?"), labels={"sure": 1.0, "no": 0.1}, votes=3, params=longest),
    ]
)
thoughts = {"generator": generators, "evaluator": evaluators}
counts = st.integers(1, 5)
methods = st.one_of(
    st.builds(
        TreeOfThoughts, order=st.sampled_from(["bfs", "dfs"]), width=counts, branching=counts, **thoughts
    ),
    st.builds(
        MonteCarlo,
        branching=counts,
        wave=counts,
        expansions=st.integers(1, 12),
        widening=st.none() | st.just(1.0),
        rollout=st.none() | st.just(Sample(longest)),
        **thoughts,
    ),
    st.builds(BestOf, n=counts, wave=st.none() | counts, **thoughts),
    st.builds(SelfConsistency, n=counts, **thoughts),
    st.builds(BeamSearch, width=counts, max_tokens=st.integers(1, 8)),
)


@given(method=methods, budget=budgets, seed=st.integers(0, 999))
@settings(max_examples=150, deadline=None)
async def test_budgets_are_never_exceeded(method: object, budget: Budget, seed: int) -> None:
    backend = writer(seed, 7)
    events: list[Event] = []
    # Depth-first without any other limit would visit thousands of branches.
    budget = budget if budget.tokens or budget.nodes else Budget(nodes=60, depth=budget.depth)
    search = Search(backend, "p", method, budget=budget, seed=seed, on_event=events.append)  # type: ignore[arg-type]
    result = await search.run()
    assert result.count.generated <= (budget.tokens or 10**9)
    assert result.nodes <= (budget.nodes or 10**9)
    assert max(view.depth for view in result.tree) <= (budget.depth or 10**9)
    assert backend.held == {}
    assert events[-1].kind == "finished"
    again = await Search(writer(seed, 7), "p", method, budget=budget, seed=seed).run()  # type: ignore[arg-type]
    assert [view.text for view in again.tree] == [view.text for view in result.tree]


async def test_seconds_end_a_search_in_the_middle_of_a_request() -> None:
    backend = writer(1, 7)
    backend.delay = 0.2
    method = TreeOfThoughts(evaluator=Call(lambda branch: 0.5))
    begin = time.monotonic()
    result = await Search(backend, "p", method, budget=Budget(seconds=0.3)).run()
    assert time.monotonic() - begin < 0.39
    assert result.reason == "seconds"
    assert result.nodes > 0
    assert backend.held == {}


async def test_seconds_hold_for_slow_evaluators_too() -> None:
    import asyncio

    method = TreeOfThoughts(evaluator=Call(lambda branch: asyncio.sleep(9, 0.5)))
    result = await Search(writer(1, 7), "p", method, budget=Budget(seconds=0.05)).run()
    assert (result.reason, result.seconds < 1) == ("seconds", True)
