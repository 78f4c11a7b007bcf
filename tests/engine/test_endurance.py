"""Long lives: 10,000 random operations with real pages and guards, 10,000 requests without growth.

The model is as small as one can be: what is tested is what is kept and given back.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dendrite_core.engine.messages import Request
from dendrite_core.params import SamplingParams
from tests.checkpoints import VOCAB_SIZE, make_checkpoint
from tests.engine.explorer import Explorer, Turned

_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("smallest"), "llama", **_SHAPE)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A product of this size is done before a second thread has woken up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(folder: Path, **changed: Any) -> dict[str, Any]:
    return {"model": str(folder), "dtype": "float32", "max_rows": 6, "max_batch_tokens": 64, **changed}


@pytest.mark.parametrize("overlap", [True, False], ids=["overlapped", "waiting"])
def test_10000_random_operations_keep_every_invariant(smallest: Path, overlap: bool) -> None:
    """`Explorer` checks after every operation; half of the 10,000 in either kind of loop."""
    many = Explorer(3, vocab=VOCAB_SIZE, **settings(smallest, num_pages=20, max_branches=30, overlap=overlap))
    for _ in range(50):
        many.explore(100, at_once=6)
        many.loop.runner.store.check_canaries()
        del many.requests[:-8]
    stats = many.loop.stats()
    assert min(stats.forks, stats.cow_copies, stats.evictions, stats.parked) > 100
    assert stats.preemptions > 10
    assert (stats.steps_ahead > 500) == overlap
    book = many.loop.book
    while many.cache.branches:
        many.command("release", book.name(next(iter(many.cache.branches.values()))), True)
        many.turn()
    many.verify()
    many.cache.evict(stats.pages_total)
    assert many.cache.stats().pages_used == 0, "pages are lost"


def test_nothing_grows_over_10000_requests(smallest: Path) -> None:
    loop = Turned(**settings(smallest, num_pages=120, max_branches=200, max_rows=32, overlap=True))
    held, on_device = [], []
    for round_ in range(20):
        for number in range(500):
            prompt = (3 + number % 300, 3 + round_, *range(5, 5 + number % 30))
            params = SamplingParams(max_tokens=1 + number % 2, seed=number, ignore_eos=True)
            loop.submit(Request(request_id=str(number), prompt=prompt, params=params, n=1 + number % 3 // 2))
        loop.finish()
        loop.requests.clear()
        gc.collect()
        stats = loop.loop.stats()
        assert (stats.running, stats.waiting, len(loop.loop.jobs)) == (0, 0, 0)
        assert stats.branches <= 250
        held.append(len(gc.get_objects()))
        on_device.append(torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)
    assert sum(stats.requests.finished.values()) > 10_000
    # The first rounds fill what is bounded: records, cached pages, the sampler's table of streams.
    assert max(held[10:]) < 1.03 * max(held[5:10])
    assert max(on_device[10:]) <= 1.01 * max(on_device[5:10])
