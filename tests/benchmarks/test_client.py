"""The client against a server of fewer words, as transformers serve is: texts in, one choice out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.measure.client import ServerRefused, connect
from benchmarks.measure.target import Asked

TAKES = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "n"}


async def models(request: Request) -> JSONResponse:
    return JSONResponse({"data": [{"id": "plain"}]})


async def completions(request: Request) -> JSONResponse:
    body: dict[str, Any] = await request.json()
    if unknown := set(body) - TAKES:
        return JSONResponse({"error": f"unknown: {sorted(unknown)}"}, 422)
    if not isinstance(body["prompt"], str):
        return JSONResponse({"error": "prompt must be a string"}, 400)
    text = f"{body['prompt']} {body.get('seed')}"
    choice = {"index": 0, "text": text, "finish_reason": "stop" if body["max_tokens"] > 99 else "length"}
    return JSONResponse({"choices": [choice], "usage": {"completion_tokens": body["max_tokens"]}})


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    app = Starlette(
        routes=[Route("/v1/models", models), Route("/v1/completions", completions, methods=["POST"])]
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


def spelled(ids: Any) -> str:
    return "-".join(map(str, ids))


async def test_texts_where_ids_are_refused_and_a_request_for_each_choice(base_url: str) -> None:
    async with connect(f"{base_url}#another", spelled) as server:
        assert server.model == "another"
        assert not server.has_tree
        reply = await server.complete(Asked([1, 2], 5, n=3, seed=7))
    assert reply.texts == ["1-2 7", "1-2 8", "1-2 9"]
    assert reply.completion_tokens == 15


async def test_an_answer_that_ends_early_is_an_error(base_url: str) -> None:
    async with connect(base_url, spelled) as server:
        with pytest.raises(ServerRefused, match="ended early: stop"):
            await server.complete(Asked([1], 100))


async def test_without_a_tokenizer_a_server_of_texts_cannot_be_asked(base_url: str) -> None:
    with pytest.raises(ServerRefused, match="prompt must be a string"):
        async with connect(base_url):
            pass
