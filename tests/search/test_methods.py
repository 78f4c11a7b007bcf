"""The methods against trees worked out by hand: who is expanded, scored, pruned, and what wins."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from dendrite_core.params import SamplingParams
from dendrite_core.search import (
    BestOf,
    Branch,
    Budget,
    Call,
    Event,
    MonteCarlo,
    Propose,
    RegexCheck,
    Sample,
    Search,
    SelfConsistency,
    Template,
    Tree,
    TreeOfThoughts,
)
from dendrite_core.search.methods.mcts import Climb
from tests.search.fakes import Says, ScriptedBackend

WORTH = {"A": 0.9, "B": 0.2, "AA": 0.3, "AB": 0.5, "BA": 0.1, "BB": 0.2}


def ab(path: str, seed: int, index: int) -> Says:
    """Two children, A and B, wherever one is."""
    return Says("AB"[index % 2])


def worth(branch: Branch) -> float:
    return WORTH.get(branch.path_text, 0.0)


def is_full(branch: Branch) -> bool:
    return branch.path_text == "ABAB"


async def run(method: object, script: object = ab, **settings: object) -> tuple[Search, list[Event]]:
    search = Search(ScriptedBackend(script), "", method, **settings)  # type: ignore[arg-type]
    return search, [event async for event in search]


async def test_mcts_by_hand() -> None:
    """c = 1, one leaf at a time. Visits and totals after three expansions, by the formula:

    root -> A 0.9, B 0.2 (N=2). Q+U of A: 0.9+sqrt(ln2/1)=1.73 beats B: 1.03, so A is expanded:
    AA 0.3, AB 0.5 (A: n=3, W=1.7; N=4). A: 0.567+sqrt(ln4/3)=1.25, B: 0.2+sqrt(ln4)=1.38: B it is:
    BA 0.1, BB 0.2 (B: n=3, W=0.5; N=6).
    """
    method = MonteCarlo(evaluator=Call(worth), branching=2, wave=1, expansions=3, exploration=1.0)
    search, events = await run(method)
    tree = search.tree
    assert tree is not None
    by_path = {branch.path_text: branch for branch in tree.branches}
    expanded = [event.branches[0].parent for event in events if event.kind == "expanded"]
    assert expanded == [0, by_path["A"].id, by_path["B"].id]
    found = {path: (branch.visits, pytest.approx(branch.total)) for path, branch in by_path.items()}
    assert found == {
        "": (6, 2.2),
        "A": (3, 1.7),
        "B": (3, 0.5),
        "AA": (1, 0.3),
        "AB": (1, 0.5),
        "BA": (1, 0.1),
        "BB": (1, 0.2),
    }
    # The next one by hand: A 0.567+sqrt(ln6/3)=1.34, B 0.167+0.773=0.94; AB 0.5+sqrt(ln3)=1.55 beats AA.
    assert search.result is not None
    assert search.result.text == "AB"


@pytest.mark.parametrize("policy", ["uct", "puct"])
@pytest.mark.parametrize("seed", range(4))
async def test_mcts_is_the_textbook_one(policy: str, seed: int) -> None:
    """Forty expansions of a tree of random values and priors, against the formulas in twenty plain lines."""
    n, c, visits, totals, kids = 3, 0.7, {"": 0}, {"": 0.0}, dict[str, list[str]]()

    def value(path: str) -> float:
        return random.Random(f"{seed}{path}").random()

    def prior(path: str) -> float:
        weights = [0.1 + random.Random(f"{seed}p{path[:-1]}{letter}").random() for letter in "ABC"]
        return weights["ABC".index(path[-1])] / sum(weights)

    def bound(path: str) -> float:
        above, own = visits[path[:-1]], visits[path]
        if policy == "puct":
            return totals[path] / own + c * prior(path) * math.sqrt(above) / (1 + own)
        return totals[path] / own + c * math.sqrt(math.log(above) / own)

    for _ in range(40):
        path = ""
        while path in kids:
            path = max(kids[path], key=bound)
        kids[path] = [path + letter for letter in "ABC"]
        for child in kids[path]:
            visits[child] = totals[child] = 0
            for end in range(len(child) + 1):
                visits[child[:end]] += 1
                totals[child[:end]] += value(child)

    def script(path: str, seed: int, index: int) -> Says:
        return Says("ABC"[index], logprob=math.log(prior(path + "ABC"[index])))

    method = MonteCarlo(
        evaluator=Call(lambda branch: value(branch.path_text)),
        branching=n,
        wave=1,
        expansions=40,
        exploration=c,
        policy=policy,  # type: ignore[arg-type]
    )
    search, _ = await run(method, script)
    assert search.tree is not None
    found = {b.path_text: (b.visits, pytest.approx(b.total)) for b in search.tree.branches}
    assert found == {path: (visits[path], totals[path]) for path in visits}
    assert max(map(len, visits)) > 2, "it went down somewhere"


async def test_virtual_loss_by_hand() -> None:
    """c = 0.1; A (n=3, W=2.7) holds AA and AB (1 and 0.9 each), B has 1 and 0.8; N = 4.

    A: 0.9+0.1*sqrt(ln4/3)=0.968 beats B: 0.8+0.1*sqrt(ln4)=0.918, and AA comes before its equal AB. With a
    loss on that way A is worth 2.7/4+0.1*sqrt(ln5/4)=0.738, so the wave's second leaf is B and not AB.
    """
    tree = Tree(ScriptedBackend(ab), "")
    a, b = tree.root.append("A"), tree.root.append("B")
    aa, ab_ = a.append("A"), a.append("B")
    for branch, visits, total in (
        (tree.root, 4, 3.5),
        (a, 3, 2.7),
        (b, 1, 0.8),
        (aa, 1, 0.9),
        (ab_, 1, 0.9),
    ):
        branch.visits, branch.total = visits, total
    climb = Climb(MonteCarlo(exploration=0.1))
    assert climb.choose_wave(tree.root, 2) == [aa, b]
    assert climb.choose_wave(tree.root, 9) == [aa, b, ab_], "all leaves, each once"
    assert (tree.root.visits, a.total) == (4, 2.7), "losses are forgotten with the wave"


async def test_puct_follows_the_models_own_prior() -> None:
    def script(path: str, seed: int, index: int) -> Says:
        return Says("AB"[index], logprob=math.log((0.1, 0.9)[index]))

    method = MonteCarlo(
        evaluator=Call(lambda b: 0.5), branching=2, wave=1, expansions=2, policy="puct", exploration=2.0
    )
    search, events = await run(method, script)
    assert search.tree is not None
    priors = {b.text: b.prior for b in search.tree.branches[1:3]}
    assert priors == {"A": pytest.approx(0.1), "B": pytest.approx(0.9)}
    second = [event for event in events if event.kind == "expanded"][1]
    assert search.tree.branches[second.branches[0].parent or 0].path_text == "B"


async def test_virtual_loss_expands_a_whole_frontier_in_one_batch() -> None:
    backend = ScriptedBackend(ab)
    method = MonteCarlo(evaluator=Call(lambda b: 0.5), branching=2, wave=4, expansions=7)
    await Search(backend, "", method).run()
    assert [len(batch) for batch in backend.batches] == [1, 2, 4]
    assert len({ask.place.branch_id for ask in backend.batches[2]}) == 4


async def test_progressive_widening_keeps_to_its_law() -> None:
    """One more child only while there are fewer than 1.5 * sqrt(N): checked whenever a branch gets one."""
    widths: list[tuple[int, float]] = []

    class Watching(Sample):
        async def grow(self, tree: Tree, branches: Any, n: int, *, logprobs: bool) -> Any:
            widths.extend((len(b.children), 1.5 * math.sqrt(b.visits)) for b in branches if b.children)
            return await super().grow(tree, branches, n, logprobs=logprobs)

    def script(path: str, seed: int, index: int) -> Says:
        return Says(f"<{seed % 9973}.{index}>")

    method = MonteCarlo(
        generator=Watching(),
        evaluator=Call(lambda b: 0.5),
        branching=1,
        wave=1,
        expansions=40,
        widening=1.5,
    )
    search, _ = await run(method, script)
    assert all(children < room for children, room in widths)
    assert search.tree is not None
    root = search.tree.root
    assert 1.5 * math.sqrt(root.visits) - 1 <= len(root.children) <= 1.5 * math.sqrt(root.visits) + 1


async def test_a_rollout_values_a_leaf_by_how_it_ends() -> None:
    def script(path: str, seed: int, index: int) -> Says:
        return Says("AB"[index]) if len(path) < 1 else Says("!" if path == "A" else "?", finished=True)

    value = Call(lambda branch: 1.0 if branch.path_text.endswith("!") else 0.0)
    method = MonteCarlo(evaluator=value, branching=2, wave=1, expansions=1, rollout=Sample())
    search, _ = await run(method, script)
    assert search.tree is not None
    assert [(b.text, b.visits, b.total) for b in search.tree.root.children] == [("A", 1, 1.0), ("B", 1, 0.0)]
    assert all(not one.alive for one in search.tree.branches if one.finished)


async def test_tot_keeps_the_best_of_each_level_and_prunes_the_rest() -> None:
    method = TreeOfThoughts(evaluator=Call(worth), width=1, branching=2)
    search, events = await run(method, budget=Budget(depth=2))
    told = [(event.kind, [view.text for view in event.branches]) for event in events]
    assert told == [
        ("expanded", ["A", "B"]),
        ("scored", ["A", "B"]),
        ("pruned", ["B"]),
        ("expanded", ["A", "B"]),
        ("scored", ["A", "B"]),
        ("pruned", ["A"]),
        ("finished", ["B"]),
    ]
    assert search.result is not None
    assert (search.result.text, search.result.reason) == ("AB", "depth")


async def test_tot_frees_what_it_prunes_at_once() -> None:
    backend, most = ScriptedBackend(ab), 0

    def watch(event: Event) -> None:
        nonlocal most
        most = max(most, len(backend.held))

    method = TreeOfThoughts(evaluator=Call(lambda b: 0.5), width=1, branching=2)
    await Search(backend, "", method, budget=Budget(depth=30), on_event=watch).run()
    # On a path of 30: a prompt's end and a thought per level, plus the children being looked at.
    assert most <= 2 * 30 + 4
    assert backend.held == {}


async def test_a_level_is_one_batch_and_a_repeated_thought_is_kept_once() -> None:
    backend = ScriptedBackend(ab)
    method = TreeOfThoughts(evaluator=Call(lambda b: 0.5), width=8, branching=4)
    result = await Search(backend, "", method, budget=Budget(depth=3)).run()
    assert [len(batch) for batch in backend.batches] == [1, 2, 4]
    assert [view.status for view in result.tree].count("pruned") >= 2


@pytest.mark.parametrize("order", ["bfs", "dfs"])
async def test_tot_stops_at_a_solution(order: str) -> None:
    method = TreeOfThoughts(
        evaluator=Call(lambda b: 0.5),
        goal=is_full,
        order=order,  # type: ignore[arg-type]
        width=8,
        branching=2,
    )
    search, events = await run(method, budget=Budget(depth=4))
    assert search.result is not None
    assert (search.result.text, search.result.solved, search.result.reason) == ("ABAB", True, "solved")
    assert [event.kind for event in events][-2:] == ["solved", "finished"]


async def test_depth_first_backtracks_and_prunes_below_the_threshold() -> None:
    method = TreeOfThoughts(
        evaluator=Call(worth), goal=lambda b: b.path_text == "BB", order="dfs", branching=2
    )
    search, events = await run(method, budget=Budget(depth=2))
    pruned = ["".join(view.text for view in event.branches) for event in events if event.kind == "pruned"]
    assert pruned[:3] == ["B", "A", "A"], "AB, then AA, then A itself, before B is tried"
    assert search.result is not None
    assert search.result.text == "BB"
    strict = TreeOfThoughts(evaluator=Call(worth), goal=is_full, order="dfs", branching=2, threshold=0.4)
    search, events = await run(strict, budget=Budget(depth=4))
    assert search.tree is not None
    assert {b.path_text for b in search.tree.branches if b.children} == {"", "A", "AB"}


async def test_best_of_n_takes_the_best_and_waves_stop_early() -> None:
    def script(path: str, seed: int, index: int) -> Says:
        return Says("xyz"[index], finished=True)

    search, _ = await run(BestOf(n=3, evaluator=Call(lambda b: float(b.text == "y"))), script)
    assert search.result is not None
    assert search.result.text == "y"
    backend = ScriptedBackend(script)
    await Search(backend, "", BestOf(n=9, wave=3, goal=lambda b: b.text == "z")).run()
    assert len(backend.batches) == 1


async def test_self_consistency_is_a_vote() -> None:
    answers = ["so 7", "so 8", "I say 8", "none"]

    def script(path: str, seed: int, index: int) -> Says:
        return Says(answers[index], finished=True)

    search, _ = await run(SelfConsistency(n=4, answer=RegexCheck(r"(\d)")), script)
    assert search.result is not None
    assert (search.result.text, search.result.score) == ("so 8", pytest.approx(2 / 3))


async def test_proposals_become_children_without_being_computed() -> None:
    def script(path: str, seed: int, index: int) -> Says:
        return (
            Says("1. left\n2. right\n2. right\n\nno", tokens=9)
            if path.endswith("?")
            else Says("!", finished=True)
        )

    propose = Propose(prompt=Template("{prompt} {n} ways after {path}?"), line="left|right")
    backend = ScriptedBackend(script)
    method = TreeOfThoughts(generator=propose, evaluator=Call(lambda b: 0.5), branching=2)
    result = await Search(backend, "Go.", method, budget=Budget(depth=1)).run()
    assert [view.text for view in result.tree[1:]] == ["left\n", "right\n"]
    assert backend.batches[0][0].place.pending == ("Go. 2 ways after ?",)
    assert result.count.generated == 9


def test_settings_are_checked_by_name() -> None:
    with pytest.raises(Exception, match="width must be at least 1"):
        TreeOfThoughts(width=0)
    with pytest.raises(Exception, match="tokens must be greater"):
        Budget(tokens=0)
    assert Sample().params == SamplingParams(max_tokens=64)
