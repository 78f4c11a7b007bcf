"""The benchmark itself: its trees are the same, its referee can tell a turned draw from a wrong one."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks import tree_vs_linear as bench
from benchmarks.measure.models import folder_of
from benchmarks.rounding import Referee, Turned, turned_draws
from dendrite_core import Engine
from dendrite_core.search import EngineBackend, Tree

SMALL = ["--tree-depth", "2", "--branch-factor", "2", "--root", "40", "--thought", "5", "--threads", "1"]


def arguments(*more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args([*SMALL, *more])


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.from_pretrained(
        folder_of(arguments().model), threads=1, dtype="float32", num_pages=256
    ) as one:
        yield one


def grown(engine: Engine, seed: int) -> tuple[Tree, tuple[int, ...]]:
    args = arguments("--seed", str(seed))
    prompt = bench._prompt(engine, args)
    ways = {"tree": EngineBackend(engine)}
    return asyncio.run(bench._grow_all(ways, prompt, args))["tree"].tree, prompt


def test_rows_and_ratios_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench.run(arguments("--problem", "game24"))
    tree, cached, linear = found["rows"]
    assert [row["way"] for row in found["rows"]] == ["tree", "prefix_cache", "linear"]
    assert [row["same_branches"] for row in found["rows"]] == [1, 1, 1]
    assert found["branches_explored"] == tree["branches"] == 2 + 4
    assert found["speedup_vs_linear"] == linear["times_slower"]
    # Six requests: two send the root of 40, four also the five tokens of the thought before them.
    assert linear["tokens_computed"] == 2 * 40 + 4 * 45 + 6 * 5
    assert tree["tokens_computed"] < cached["tokens_computed"] < linear["tokens_computed"]
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["settings"]["total_tree_time_s"] == found["total_tree_time_s"]


def test_the_referee_draws_every_token_of_a_tree_again(engine: Engine) -> None:
    tree, prompt = grown(engine, seed=1)
    other, _ = grown(engine, seed=1)
    assert turned_draws(tree, other, prompt) == []
    referee = Referee(folder_of(arguments().model), engine.tokenizer.eos_ids)
    before = tuple(tree.branches[1].token_ids)
    for branch in tree.branches[3:5]:
        seed = tree.seed_for("grow", 1, branch.id - 2)
        for at, token in enumerate(branch.token_ids):
            draw = Turned((*prompt, *before, *branch.token_ids[:at]), seed, token, token)
            assert referee.distance(draw) < 1e-5
            wrong = replace(draw, wanted=(token + 7) % engine.config.vocab_size)
            assert referee.distance(wrong) > 1e-4


def test_a_tree_of_another_seed_is_not_excused_by_rounding(engine: Engine) -> None:
    one, prompt = grown(engine, seed=1)
    other, _ = grown(engine, seed=2)
    referee = Referee(folder_of(arguments().model), engine.tokenizer.eos_ids)
    turned = turned_draws(one, other, prompt)
    assert turned
    assert max(map(referee.distance, turned)) > 0.01
