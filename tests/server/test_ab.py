"""scripts/ab_vllm.py between real servers: alike, of another model, and with a difference planted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from dendrite_core import Engine
from dendrite_server.config import ServerConfig
from scripts.ab_vllm import REQUESTS, differences, main, shape
from tests.checkpoints import make_checkpoint
from tests.server.conftest import Serve, Server, listen

# A tiny model of another server, under the name of the first one.
NAMED = ServerConfig(model_names=("tiny",))


def compared(a: str, b: str, tmp_path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """(exit status, reports by request)."""
    file = tmp_path / "report.json"
    status = main([f"{a}/v1", f"{b}/v1", "--tries", "1", "--json", str(file)])
    return status, {report["request"]: report for report in json.loads(file.read_text())}


def test_two_servers_alike_show_no_difference(server: Server, serve: Serve, tmp_path: Path) -> None:
    status, reports = compared(server.url, serve().url, tmp_path)
    assert status == 0
    assert reports.keys() == REQUESTS.keys()
    for name, report in reports.items():
        assert (report["shape"], report["texts_agree"]) == ({}, True), name
        assert report["status"] == [400, 400] if name == "error, temperature" else report["status"]
        assert min(*report["seconds"], *report["first_byte"]) > 0
    assert min(reports["chat again (cached)"]["cached_tokens"]) > 0


def test_another_model_says_other_things_in_the_same_shapes(
    server: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_checkpoint(tmp_path_factory.mktemp("other") / "other", seed=1, max_position_embeddings=2048)
    with Engine.from_pretrained(str(folder), num_pages=512, dtype="float32", threads=1) as engine:
        uvicorn, thread = listen(engine, NAMED)
        url = f"http://127.0.0.1:{uvicorn.servers[0].sockets[0].getsockname()[1]}"
        status, reports = compared(server.url, url, tmp_path)
        uvicorn.should_exit = True
    thread.join()
    assert status == 0
    assert not any(report["shape"] for report in reports.values())
    assert not reports["chat"]["texts_agree"]
    assert reports["chat, json schema"]["status"] == [200, 200]


@pytest.fixture
def planted(server: Server) -> Iterator[str]:
    """The server behind a proxy that forgets how many tokens were cached and refuses `structured_outputs`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(httpx.get(f"{server.url}{self.path}"))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if b"structured_outputs" in body:
                self.reply(httpx.Response(502, text="<html>Bad gateway</html>"))
                return
            answer = httpx.post(f"{server.url}{self.path}", content=body, timeout=60)
            if answer.headers["content-type"] == "application/json" and "usage" in answer.json():
                changed = answer.json()
                del changed["usage"]["prompt_tokens_details"]
                answer = httpx.Response(200, json=changed)
            self.reply(answer)

        def reply(self, answer: httpx.Response) -> None:
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{proxy.server_port}"
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def test_a_planted_difference_is_found(
    server: Server, planted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, reports = compared(server.url, planted, tmp_path)
    assert status == 1
    for name in ("chat", "completion", "completion, scored"):
        assert reports[name]["shape"] == {"usage.prompt_tokens_details": "only A"}
        assert reports[name]["cached_tokens"][1] is None
    assert reports["chat, streamed usage"]["shape"] == {}, "streams are passed on as they are"
    refused = reports["chat, a choice of vLLM's"]
    assert refused["status"] == [200, 502]
    assert refused["shape"]["text of the body"] == "only B"
    assert "usage.prompt_tokens_details: only A" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_said_to_be_not_there(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"{server.url}/v1", "http://127.0.0.1:9/v1"]) == 2
    assert "cannot be asked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ({"x": 1}, {"x": 2.5}, {}),
        ({"x": None}, {"x": "text"}, {}),
        ({"x": 1}, {"x": "1"}, {"x": "number / str"}),
        ({"x": [{"y": 1}]}, {"x": [{"y": 1, "z": 2}]}, {"x[].z": "only B"}),
        ({"x": []}, {"x": [1]}, {}),
        ({"top_logprobs": [{"a": -1.0}]}, {"top_logprobs": [None, {"b": -2.0}]}, {}),
        ({"x": True}, {"x": 1}, {"x": "bool / number"}),
    ],
)
def test_what_counts_as_a_difference(a: Any, b: Any, found: dict[str, str]) -> None:
    assert dict(differences(shape(a), shape(b))) == found
