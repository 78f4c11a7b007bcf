"""A real server process on the embedded model, found by real clients over a real socket.

The suites of other people's clients (marked `clients`) run with `--clients` only; with it, a missing client
is a failure and not a skip.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

START_WITHIN = 60.0
MODEL, OTHER_NAME = "dendrite", "dendrite-by-another-name"
CLIENTS = ("agents", "langchain_openai", "langchain_tests", "pydantic_ai", "schemathesis")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--clients", action="store_true", help="run the suites of other people's clients too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clients: needs client packages of the extra 'compat'; slow")
    missing = [name for name in CLIENTS if importlib.util.find_spec(name) is None]
    if config.getoption("--clients") and missing:
        raise pytest.UsageError(f"--clients needs the extra 'compat', but there is no {', '.join(missing)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            # Clients keep connections in globals of theirs, which a new event loop cannot use.
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
    if not config.getoption("--clients"):
        left_out = pytest.mark.skip(reason="client suites run with --clients only")
        for item in items:
            if item.get_closest_marker("clients"):
                item.add_marker(left_out)


@dataclass(frozen=True)
class Abilities:
    """What the server can do beyond text, asked of the server itself."""

    tools: bool
    formats: bool


@pytest.fixture(scope="session")
def abilities(base_url: str) -> Abilities:
    return Abilities(
        tools=_accepts(base_url, tools=[{"type": "function", "function": {"name": "f"}}]),
        formats=_accepts(base_url, response_format={"type": "json_object"}),
    )


def _accepts(base_url: str, **fields: Any) -> bool:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **fields}
    request = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode())
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as refusal:
        with refusal:
            body = json.load(refusal)
    else:
        return True
    assert body["error"]["code"] == "unsupported_parameter"
    return False


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    """`http://127.0.0.1:PORT/v1` of a server that is ready; SIGTERM ends it cleanly."""
    with serving("--served-model-name", MODEL, OTHER_NAME) as url:
        yield url


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """A server process on the embedded model, as `base_url`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dendrite_server", "--port", str(port), *options]
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended before it was ready"
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"no answer from {url} within {START_WITHIN} s")
