"""Pages and tokens of a grown tree, against a count over every branch's token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.measure.models import ModelChoice
from benchmarks.memory import Scenario, _grow, distinct_tokens, pages_alone
from dendrite_core import Engine

SCENARIOS = [
    Scenario(20, ((3, 5),) * 3),
    Scenario(33, ((2, 40),) * 3, keep=1),
    Scenario(16, ((1, 4),) * 12),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with ModelChoice("shape:llama-8m", threads=1).engine(num_pages=512) as engine:
        yield engine


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_distinct_tokens_are_the_nodes_of_a_trie_of_all_that_is_held(
    engine: Engine, scenario: Scenario
) -> None:
    tree_id, _ = asyncio.run(_grow(engine, scenario))
    branches = engine.describe_tree(tree_id).result()
    book = engine._loop.book
    mine = [record for record in book.cache.branches.values() if book.tree_name(record) == tree_id]
    trie = {tuple(record.tokens(0, end)) for record in mine for end in range(1, record.kv_length + 1)}
    assert distinct_tokens(branches) == len(trie)


def test_a_leaf_alone_needs_its_whole_past(engine: Engine) -> None:
    tree_id, _ = asyncio.run(_grow(engine, Scenario(40, ((4, 9),))))
    # 40 of the prompt and 8 of its own: the last token drawn has not been through the model.
    assert pages_alone(engine.describe_tree(tree_id).result(), 16) == 4 * 3
