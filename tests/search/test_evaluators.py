"""What thoughts are worth: votes counted, checks made and prompts written, each against a value by hand."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from dendrite_core.params import SamplingParams
from dendrite_core.search import (
    Branch,
    Call,
    JSONCheck,
    Judge,
    MeanLogprob,
    RegexCheck,
    Template,
    Tree,
)
from dendrite_core.search.evaluators import Evaluator
from tests.search.fakes import Says, ScriptedBackend

VOTES = ["I am sure", "likely, not impossible", "IMPOSSIBLE", "well..."]
LABELS = {"sure": 1.0, "likely": 0.5, "impossible": 0.0}


def judged(path: str, seed: int, index: int) -> Says:
    """Questions end with a question mark; everything else is a thought."""
    return Says(VOTES[index % 4], tokens=2) if path.endswith("?") else Says("AB"[index % 2])


async def grown(backend: ScriptedBackend, n: int = 2) -> tuple[Tree, list[Branch]]:
    tree = Tree(backend, "Q:")
    return tree, await tree.root.extend(n)


async def scores(evaluator: Evaluator, tree: Tree, branches: list[Branch]) -> list[float]:
    return await evaluator.score(tree, branches)


async def test_a_judge_averages_the_votes_that_say_something() -> None:
    backend = ScriptedBackend(judged)
    tree, thoughts = await grown(backend)
    judge = Judge(prompt=Template("Is {last} good?"), labels=LABELS, votes=4)
    # sure 1, likely 0.5 (the first label in it counts), impossible 0; the last vote says nothing.
    assert await scores(judge, tree, thoughts) == [pytest.approx(0.5)] * 2
    assert [len(batch) for batch in backend.batches] == [1, 2], "all questions are one batch"
    assert [ask.n for ask in backend.batches[1]] == [4, 4]
    # Of what was asked on the side one question is held, with its votes, beside the prompt's end and two
    # thoughts; and nothing in the end.
    assert len(backend.held) == 3 + 5
    await tree.forget_questions()
    assert len(backend.held) == 3
    await tree.close()
    assert backend.held == {}


async def test_a_question_is_asked_once_per_text() -> None:
    backend = ScriptedBackend(lambda path, seed, index: judged(path, seed, 0))
    tree, thoughts = await grown(backend)
    judge = Judge(prompt=Template("Is {last} good?"), labels=LABELS)
    assert await scores(judge, tree, thoughts) == [1.0, 1.0]
    assert await scores(judge, tree, thoughts) == [1.0, 1.0]
    assert [len(batch) for batch in backend.batches] == [1, 1]


async def test_a_judge_in_the_branch_shares_its_tokens_and_reads_numbers() -> None:
    backend = ScriptedBackend(
        lambda path, seed, index: (
            Says("8 of 10" if path.endswith("A?") else "-5") if "?" in path else judged(path, 0, index)
        )
    )
    tree, thoughts = await grown(backend)
    judge = Judge(prompt=Template("?"), scale=10.0, turn=True)
    assert await scores(judge, tree, thoughts) == [0.8, -0.5]
    assert [ask.place for ask in backend.batches[1]] == [branch.place for branch in thoughts]


async def test_probabilities_are_geometric_means() -> None:
    says = {"Q:": Says("ab", tokens=2, logprob=math.log(0.25)), "Q:ab": Says("c", logprob=math.log(0.9))}
    tree, (first,) = await grown(ScriptedBackend(lambda path, seed, index: says[path]), 1)
    (second,) = await first.extend()
    assert await scores(MeanLogprob(), tree, [first, second]) == [
        pytest.approx(0.5),
        pytest.approx((0.25 * 0.9) ** (1 / 3)),
    ]
    assert await scores(MeanLogprob(last_only=True), tree, [second]) == [pytest.approx(0.9)]
    assert await scores(MeanLogprob(), tree, [second.append("more")]) == [
        pytest.approx((0.25 * 0.9) ** (1 / 3))
    ]


async def test_a_call_may_be_slow_or_a_yes_or_no() -> None:
    tree, thoughts = await grown(ScriptedBackend(judged))
    assert await scores(Call(lambda branch: branch.text == "A"), tree, thoughts) == [1.0, 0.0]
    assert await scores(Call(lambda branch: asyncio.sleep(0, 0.3)), tree, thoughts) == [0.3, 0.3]


@pytest.mark.parametrize(
    ("text", "check", "passes"),
    [
        ("so 7, no: 8", RegexCheck(r"(\d)", equals="8"), True),
        ("so 8, no: 7", RegexCheck(r"(\d)", equals="8"), False),
        ("anything", RegexCheck(r"\d"), False),
        ("x = 42 ", RegexCheck(r"= .*", equals="= 42"), True),
        ('{"a": 1, "b": null}', JSONCheck(required=("a", "b")), True),
        ('{"a": 1}', JSONCheck(required=("a", "b")), False),
        ('{"a": {"x": [1]}}', JSONCheck(equals={"a": {"x": [1]}}), True),
        ('{"a": 2}', JSONCheck(equals={"a": 1}), False),
        ('{"a": 1', JSONCheck(), False),
        ("[1]", JSONCheck(), False),
        ("[" * 100_000, JSONCheck(), False),
    ],
)
async def test_checks(text: str, check: Any, passes: bool) -> None:
    tree = Tree(ScriptedBackend(judged), "Q:")
    assert check(tree.root.append(text)) is passes


async def test_a_template_names_prompt_path_last_thought_and_the_last_match() -> None:
    tree = Tree(ScriptedBackend(judged), ({"role": "user", "content": "24: 1 2"},))
    first = tree.root.append("left: 3 4\n")
    template = Template("{prompt}|{path}|{last}|{n}|{left}|{json: {}}", r"(?:24|left): (?P<left>[\d ]+)")
    assert template.render(first.append("end"), n=2) == ("24: 1 2|left: 3 4\nend|end|2|3 4|{json: {}}")
    assert Template("{left}", r"left: (?P<left>\d)").render(tree.root) == "{left}", "no match, no value"


async def test_an_answer_is_drawn_alike_wherever_its_question_comes_up() -> None:
    backend = ScriptedBackend(lambda path, seed, index: judged(path, seed, 0))
    seeds = []
    for extra in (0, 3):
        tree = Tree(backend, "Q:", seed=5)
        for _ in range(extra):
            tree.root.append("other")
        await scores(Judge(prompt=Template("{last}?"), labels=LABELS), tree, [tree.root.append("A")])
        seeds.append(backend.batches[-1][0].params.seed)
    assert seeds[0] == seeds[1] is not None
    assert backend.batches[-1][0].params.max_tokens == SamplingParams(max_tokens=8).max_tokens
