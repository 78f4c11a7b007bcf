"""A real server on a real socket: uvicorn in a thread over a tiny random model, and clients of it."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from dendrite_core import Engine
from dendrite_server.app import create_app
from dendrite_server.config import ServerConfig
from dendrite_server.service import Service
from dendrite_server.transport import HttpProtocol
from tests.checkpoints import make_checkpoint

MODEL = "tiny"


@dataclass
class Server:
    """A listening server; `pages()` and `settle()` look at it through /health as anybody could."""

    engine: Engine
    url: str
    port: int
    service: Service | None = None

    def pages(self) -> dict[str, int]:
        health = httpx.get(f"{self.url}/health").json()
        return {**health["pages"], **{name: health[name] for name in ("running", "waiting", "branches")}}

    def settle(self, what: str, value: int, seconds: float = 5.0) -> None:
        """Wait until a number of /health is `value`."""
        deadline = time.monotonic() + seconds
        while (now := self.pages())[what] != value:
            assert time.monotonic() < deadline, f"{what} is not {value}: {now}"
            time.sleep(0.01)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / MODEL, max_position_embeddings=2048)


Serve = Callable[..., Server]


def listen(engine: Engine, config: ServerConfig) -> tuple[uvicorn.Server, threading.Thread]:
    app: Any = create_app(engine, config)
    settings = uvicorn.Config(
        app, http=HttpProtocol, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.005)
    return server, thread


@pytest.fixture(scope="module")
def serve(checkpoint: Path) -> Iterator[Serve]:
    """`serve(ServerConfig(...), **EngineConfig fields)`: one more server, closed at the end of the module."""
    opened: list[tuple[Engine, uvicorn.Server, threading.Thread]] = []

    def start(config: ServerConfig | None = None, **settings: Any) -> Server:
        settings = {"num_pages": 1024, "dtype": "float32", "threads": 1, **settings}
        engine = Engine.from_pretrained(str(checkpoint), **settings)
        server, thread = listen(engine, config or ServerConfig(keep_alive=0.5))
        opened.append((engine, server, thread))
        port = server.servers[0].sockets[0].getsockname()[1]
        app: Any = server.config.app
        return Server(engine, f"http://127.0.0.1:{port}", port, app.state.service)

    yield start
    for engine, server, thread in opened:
        server.should_exit = True
        engine.close()
        thread.join()


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def aclient(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
