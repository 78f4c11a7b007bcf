"""Random operations against the oracle: contents and every invariant after each of them."""

from __future__ import annotations

import pytest

from tests.cache.model import Model

# (pages, records): some pressure, none, and hardly a page at all.
SIZES = {"tight": (24, 24), "roomy": (400, 60), "starved": (6, 8)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page_size", [8, 16, 32])
@pytest.mark.parametrize("seed", range(6))
def test_random_operations_match_the_oracle(seed: int, page_size: int, size: str) -> None:
    pages, records = SIZES[size]
    model = Model(seed, page_size, pages, records)
    model.run(250)
    model.drain()


def test_kv_canary_004() -> None:
    """A thousand random operations, and no write has left its page."""
    model = Model(seed=4, page_size=16, num_pages=40, max_branches=40)
    model.run(1000)
    model.drain()
    assert model.cache.stats().copies > 50, "the run hardly wrote to shared pages"
