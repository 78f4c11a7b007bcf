"""Engines over one tiny random checkpoint, and the same over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from dendrite_core import Engine
from dendrite_server.app import create_app
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


@pytest.fixture(scope="module")
def served(tiny_model: Path) -> Iterator[tuple[Engine, str]]:
    yield from serve(tiny_model)


@pytest.fixture(scope="module")
def remembering(tiny_model: Path) -> Iterator[tuple[Engine, str]]:
    """A server for searches without forks, which free nothing."""
    yield from serve(tiny_model)


def serve(tiny_model: Path) -> Iterator[tuple[Engine, str]]:
    engine = Engine.from_pretrained(str(tiny_model), num_pages=512, dtype="float32", canaries=True)
    app: Any = create_app(engine)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield engine, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()
    engine.close()


@pytest.fixture
async def client(served: tuple[Engine, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=served[1], api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture
async def distant(remembering: tuple[Engine, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=remembering[1], api_key="none", max_retries=0) as one:
        yield one


def settled(engine: Engine) -> tuple[int, int]:
    """(pages, running) once a server that was hung up on has noticed."""
    deadline = time.monotonic() + 3
    while (now := engine.stats().result()).pages_used + now.running and time.monotonic() < deadline:
        time.sleep(0.01)
    return now.pages_used, now.running
