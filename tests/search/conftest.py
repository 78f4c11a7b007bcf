"""Engines over one tiny random checkpoint, and the same over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dendrite_core import Engine
from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("search"), num_hidden_layers=1)


@pytest.fixture
def make_engine(tiny_model: Path) -> Iterator[Callable[..., Engine]]:
    """`make_engine(**EngineConfig fields)`; closed at the end of the test."""
    engines: list[Engine] = []

    def make(**settings: Any) -> Engine:
        settings = {"num_pages": 512, "dtype": "float32", **settings}
        engines.append(Engine.from_pretrained(str(tiny_model), **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def engine(tiny_model: Path) -> Iterator[Engine]:
    """One engine for tests that leave nothing behind."""
    with Engine.from_pretrained(str(tiny_model), num_pages=512, dtype="float32", canaries=True) as shared:
        yield shared
        assert shared.stats().result().pages_used == 0
