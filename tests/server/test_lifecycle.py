"""Coming and going: clients that hang up or stop reading, silence, draining, and the process as a whole."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from benchmarks.event_stream import CONTESTANTS, FRAME, body_of, frames_of
from dendrite_server.config import ServerConfig
from dendrite_server.transport import EventStream
from tests.server.conftest import Serve, Server

LONG: dict[str, Any] = {"prompt": "the tree", "max_tokens": 1900, "ignore_eos": True, "temperature": 1}


def raw_request(server: Server, body: dict[str, Any]) -> socket.socket:
    """Send a completion request by hand; the connection is the caller's to break."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


class TestHangUp:
    @pytest.fixture(scope="class")
    def server(self, serve: Serve) -> Server:
        return serve()

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("n", [1, 8])
    def test_a_client_that_hangs_up_stops_its_generation(self, server: Server, stream: bool, n: int) -> None:
        with raw_request(server, {**LONG, "stream": stream, "n": n}) as connection:
            server.settle("running", n)
            if stream:
                assert connection.recv(100)
        server.settle("running", 0)
        server.settle("used", 0)
        server.settle("branches", 0)

    def test_all_prompts_of_a_request_stop(self, server: Server) -> None:
        with raw_request(server, {**LONG, "prompt": ["one", "two", "three"], "n": 2}):
            server.settle("running", 6)
            assert httpx.get(f"{server.url}/load").json() == {"server_load": 3}
        server.settle("running", 0)
        server.settle("used", 0)
        assert httpx.get(f"{server.url}/load").json() == {"server_load": 0}

    def test_one_bad_prompt_stops_the_others(self, server: Server) -> None:
        body = {**LONG, "prompt": [[1], [2], [3] * 200]}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        server.settle("running", 0)
        server.settle("used", 0)

    def test_the_sdk_breaks_off_a_stream(self, server: Server) -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            # Without ignore_eos it may have ended by itself, and then its branches stay.
            stream = client.completions.create(
                model="tiny", prompt="a", max_tokens=1900, stream=True, extra_body={"ignore_eos": True}
            )
            next(iter(stream))
            stream.close()
        server.settle("running", 0)
        server.settle("used", 0)

    def test_one_that_hangs_up_while_it_waits_leaves_nothing(self, serve: Serve) -> None:
        server = serve(max_rows=1)
        running = raw_request(server, LONG)
        server.settle("running", 1)
        waiting = raw_request(server, {**LONG, "prompt": "another one"})
        server.settle("waiting", 1)
        waiting.close()
        server.settle("waiting", 0)
        running.close()
        server.settle("running", 0)
        server.settle("used", 0)

    def test_one_that_hangs_up_while_it_waits_leaves_no_record(self, serve: Serve) -> None:
        server = serve(max_rows=1)
        running = raw_request(server, LONG)
        server.settle("running", 1)
        waiting = raw_request(server, LONG)
        server.settle("waiting", 1)
        waiting.close()
        running.close()
        server.settle("running", 0)
        server.settle("branches", 0, seconds=1)

    def test_a_parent_that_is_deleted_while_its_child_waits(self, serve: Serve) -> None:
        """The child is told that there is nothing to go on from; nobody's generation failed."""
        server = serve(max_rows=1)
        parent = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 2}).json()
        with raw_request(server, LONG):
            server.settle("running", 1)
            with raw_request(server, {"parent_id": parent["id"], "max_tokens": 2}) as waiting:
                server.settle("waiting", 1)
                httpx.delete(f"{server.url}/v1/branches/{parent['tree']['prompt_branch_id']}")
                answer = HTTPResponse(waiting)
                answer.begin()
                error = json.loads(answer.read())["error"]
        assert answer.status == 404
        assert (error["param"], error["code"]) == ("parent_id", "branch_not_found")
        server.settle("running", 0)
        server.settle("branches", 0)

    def test_what_others_forked_from_it_goes_on(self, server: Server) -> None:
        connection = raw_request(server, {**LONG, "stream": True})
        text = b""
        while b"branch_id" not in text:
            text += connection.recv(4096)
        found = re.search(rb'"branch_id":"(\w+)"', text)
        assert found is not None
        parent = found[1].decode()
        child = httpx.post(
            f"{server.url}/v1/completions",
            json={"parent_id": parent, "max_tokens": 4, "ignore_eos": True},
            timeout=30,
        ).json()
        connection.close()
        server.settle("running", 0)
        again = httpx.post(f"{server.url}/v1/completions", json={"parent_id": child["id"], "max_tokens": 2})
        assert again.status_code == 200
        # The tree has lost its first branches, and not its name.
        name = child["tree"]["tree_id"]
        tree = httpx.get(f"{server.url}/v1/trees/{name}").json()
        assert {one["tree_id"] for one in tree["branches"]} == {name}
        assert child["choices"][0]["branch_id"] in {one["id"] for one in tree["branches"]}
        for form in ("svg", "mermaid", "dot"):
            assert httpx.get(f"{server.url}/v1/trees/{name}?format={form}").status_code == 200
        httpx.delete(f"{server.url}/v1/branches/{child['tree']['prompt_branch_id']}")

    def test_a_branch_that_was_deleted_before_does_not_keep_the_others(self, serve: Serve) -> None:
        server = serve()
        connection = raw_request(server, {**LONG, "n": 3, "stream": True})
        names: set[str] = set()
        text = b""
        while len(names) < 3:
            text += connection.recv(4096)
            names = {name.decode() for name in re.findall(rb'"branch_id":"(\w+)"', text)}
        httpx.delete(f"{server.url}/v1/branches/{min(names)}")
        connection.close()
        server.settle("branches", 0)


class TestSilence:
    """The stream response alone, with frames and an ASGI server of our own making."""

    @staticmethod
    async def run(
        frames: AsyncGenerator[bytes, None], *, stuck: bool = False, patience: float = 9.0
    ) -> list[bytes]:
        sent: list[bytes] = []
        never = asyncio.Event()

        async def receive() -> Any:
            await never.wait()

        async def send(message: Any) -> None:
            sent.append(message["type"].encode() if "status" in message else message["body"])
            if stuck and len(sent) > 1:
                await never.wait()

        stream = EventStream(frames, keep_alive=0.05, patience=patience)
        await stream({"type": "http", "dendrite.request_id": "req_test"}, receive, send)
        return sent

    async def test_silence_is_broken_by_comments(self) -> None:
        async def frames() -> AsyncGenerator[bytes, None]:
            await asyncio.sleep(0.2)
            yield b"data: 1\n\n"

        sent = await self.run(frames())
        assert sent[0] == b"http.response.start"
        assert sent[1] == b": keep-alive\n\n"
        assert sent[-2:] == [b"data: 1\n\n", b""]

    @pytest.mark.parametrize("count", [1, 2, 50])
    async def test_the_bytes_are_those_of_sse_starlette(self, count: int) -> None:
        (ours, theirs) = [await body_of(make(frames_of(count))) for make in CONTESTANTS.values()]
        assert ours == theirs == FRAME * count

    async def test_an_error_after_a_comment_is_an_event(self) -> None:
        async def frames() -> AsyncGenerator[bytes, None]:
            await asyncio.sleep(0.2)
            raise openai.OpenAIError("x")
            yield b""

        sent = await self.run(frames())
        assert b'"code":"internal_error"' in sent[-2]
        assert sent[-1] == b""

    async def test_an_error_before_anything_is_raised(self) -> None:
        async def frames() -> AsyncGenerator[bytes, None]:
            raise ValueError("x")
            yield b""

        with pytest.raises(ValueError, match="x"):
            await self.run(frames())

    async def test_a_reader_that_stops_reading_is_dropped(self, caplog: pytest.LogCaptureFixture) -> None:
        closed = False

        async def frames() -> AsyncGenerator[bytes, None]:
            nonlocal closed
            try:
                while True:
                    yield b"data: 1\n\n"
            finally:
                closed = True

        begin = time.monotonic()
        sent = await self.run(frames(), stuck=True, patience=0.1)
        assert closed
        assert len(sent) == 2
        assert time.monotonic() - begin < 2
        assert "stopped reading" in caplog.text


def test_a_reader_that_stops_reading_stops_its_generation(serve: Serve) -> None:
    server = serve(ServerConfig(patience=0.3), max_rows=64)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    content = json.dumps({**LONG, "n": 48, "stream": True, "logprobs": 20}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    server.settle("running", 48)
    server.settle("running", 0, seconds=30)
    server.settle("used", 0)
    connection.close()


class Process:
    """`python -m dendrite_server` as a child process, its port read off its first line."""

    def __init__(self, checkpoint: Path, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "dendrite_server", "serve", str(checkpoint), "--port", "0"]
        command += ["--num-pages", "512", "--threads", "1", *options]
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}
        )
        assert self.child.stdout is not None
        self.first_line = self.child.stdout.readline() + self.child.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", self.first_line)
        assert found is not None, self.child.communicate(timeout=5)
        self.url = found[0]

    def stop(self) -> int:
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(20)


@contextmanager
def process(checkpoint: Path, *options: str, **environment: str) -> Iterator[Process]:
    started = Process(checkpoint, *options, **environment)
    try:
        yield started
    finally:
        started.child.kill()
        started.child.communicate()


def test_a_process_says_what_it_serves_and_ends_cleanly(checkpoint: Path) -> None:
    names = ["--served-model-name", "a", "b"]
    with process(checkpoint, *names, DENDRITE_API_KEY="k") as served:
        assert "a, b" in served.first_line
        assert "float32" in served.first_line
        assert "512 pages x 16 tokens" in served.first_line
        assert httpx.get(f"{served.url}/v1/models").status_code == 401
        key = {"authorization": "Bearer k"}
        models = httpx.get(f"{served.url}/v1/models", headers=key).json()["data"]
        assert [(model["id"], model["root"]) for model in models] == [
            ("a", str(checkpoint)),
            ("b", str(checkpoint)),
        ]
        assert served.stop() == 0
        assert served.child.communicate()[1] == ""


def test_every_line_of_the_log_says_when_and_who(checkpoint: Path) -> None:
    with process(checkpoint, "--drain-timeout", "0", "--log-level", "info") as served:
        port = int(served.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(b"no HTTP at all\r\n\r\n")
            assert rude.recv(100).startswith(b"HTTP/1.1 400")
        assert served.stop() == 0
        lines = served.child.communicate()[1].splitlines()
    assert any("Invalid HTTP request" in line for line in lines)
    form = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) [\w.]+: .+")
    assert [line for line in lines if not form.fullmatch(line)] == []


def test_more_callers_than_a_process_may_have_files_by_default(checkpoint: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        with process(checkpoint) as served:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            port = int(served.url.rpartition(":")[2])
            with ExitStack() as callers:
                for _ in range(160):
                    callers.enter_context(socket.create_connection(("127.0.0.1", port)))
                assert httpx.get(f"{served.url}/health", timeout=10).status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sigterm_lets_running_requests_finish_and_takes_no_new_ones(checkpoint: Path) -> None:
    asked = {**LONG, "max_tokens": 600}
    with process(checkpoint) as served, httpx.Client(base_url=served.url, timeout=30) as http:
        assert http.get("/health").status_code == 200
        results: list[dict[str, Any]] = []

        def whole() -> None:
            results.append(httpx.post(f"{served.url}/v1/completions", json=asked, timeout=30).json())

        thread = threading.Thread(target=whole)
        with http.stream("POST", "/v1/completions", json={**asked, "stream": True}) as stream:
            thread.start()
            lines = stream.iter_lines()
            next(lines)
            while httpx.get(f"{served.url}/health").json()["running"] < 2:
                time.sleep(0.01)
            served.child.send_signal(signal.SIGTERM)
            health = http.get("/health")
            while health.status_code == 200:
                health = http.get("/health")
            assert health.json()["status"] == "draining"
            refused = http.post("/v1/completions", json=asked)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "server_shutting_down"
            fresh = httpx.post(f"{served.url}/v1/completions", json=asked)
            assert fresh.status_code == 503
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        thread.join()
        assert results[0]["usage"]["completion_tokens"] == 600
        http.close()
        assert served.child.wait(10) == 0


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("program", ["dendrite_server.terminal.entry", "dendrite_server.__main__"])
def test_a_process_that_still_loads_ends_when_told(
    checkpoint: Path, tmp_path: Path, by: signal.Signals, program: str
) -> None:
    """Also as the first process of a container, for which a signal that nobody handles is no signal."""
    slow = shutil.copytree(checkpoint, tmp_path / "slow")
    (slow / "config.json").unlink()
    os.mkfifo(slow / "config.json")
    line = f"import sys; from {program} import main; sys.exit(main())"
    command = [sys.executable, "-c", line, "serve", str(slow), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as loading:
        # To open a pipe takes somebody who reads it: this is how far it is.
        with (slow / "config.json").open("wb"):
            loading.send_signal(by)
            assert loading.wait(20) == 128 + by
        assert loading.stderr is not None
        assert loading.stderr.read() == ""


PLAN = {"method": {"type": "mcts"}, "budget": {"nodes": 500, "depth": 8}, "seed": 1}
PLAN |= {"generator": {"max_tokens": 24, "ignore_eos": True}}
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": ("/v1/search", {"prompt": "a", **PLAN}),
    "stream": ("/v1/search", {"prompt": "a", **PLAN, "stream": True}),
    "background": ("/v1/search", {"prompt": "a", **PLAN, "background": True}),
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "search": PLAN}),
}


@pytest.mark.parametrize("how", SEARCHES)
def test_sigterm_lets_a_running_search_finish(checkpoint: Path, how: str) -> None:
    """A search asks the engine again and again; what it asks after the signal is no new request."""
    path, body = SEARCHES[how]
    with process(checkpoint) as served, ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.post, served.url + path, json=body, timeout=60)
        while httpx.get(f"{served.url}/health").json()["branches"] < 10:
            time.sleep(0.01)
        served.child.send_signal(signal.SIGTERM)
        while (health := httpx.get(f"{served.url}/health")).status_code == 200:
            time.sleep(0.01)
        assert health.json()["branches"] < 300, "it was over before the signal"
        new = {"search": {"prompt": "b", **PLAN}, "completions": {"prompt": "b"}, "responses": {"input": "b"}}
        for name, asks in new.items():
            refused = httpx.post(f"{served.url}/v1/{name}", json=asks)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_shutting_down")
        answer = asked.result()
        assert answer.status_code == 200
        assert '"error":{' not in answer.text
        if how == "background":
            assert nodes_at_the_end(served, answer.json()["id"]) > 400
        assert served.child.wait(20) == 0


def nodes_at_the_end(served: Process, search: str) -> int:
    """How many thoughts a search had when it was last heard of."""
    count = 0
    while True:
        try:
            told = httpx.get(f"{served.url}/v1/search/{search}").json()
        except httpx.TransportError:
            return count
        assert told["status"] in ("in_progress", "completed")
        count = max(count, len(told["tree"]))


def test_somebody_who_watches_does_not_hold_up_the_end(checkpoint: Path) -> None:
    with process(checkpoint) as served:
        with httpx.stream("GET", f"{served.url}/v1/trees/events", timeout=20) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: snapshot"
            begin = time.monotonic()
            served.child.send_signal(signal.SIGTERM)
            # The stream ends as it should, and long before the ten seconds that open connections get.
            assert [line for line in lines if line.startswith("event")] == []
        assert served.child.wait(10) == 0
        assert time.monotonic() - begin < 5


def test_draining_has_an_end(checkpoint: Path) -> None:
    with process(checkpoint, "--drain-timeout", "0.2") as served:
        body = {**LONG, "n": 8, "stream": True}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            served.child.send_signal(signal.SIGTERM)
            events = [line for line in lines if line]
        assert '"server_shutting_down"' in events[-1]
        assert served.child.wait(10) == 0


def tokens_until_the_end(served: Process, signals: int) -> tuple[dict[str, int], str]:
    """Branches of a stream that `signals` end, with the tokens told of each; the stream's last event."""
    told: dict[str, int] = {}
    names: dict[int, str] = {}
    body = {**LONG, "n": 8, "stream": True, "return_token_ids": True}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=30) as stream:
        events = (line.removeprefix("data: ") for line in stream.iter_lines() if line)
        for event in events:
            if not event.startswith('{"id"'):
                return told, event
            for choice in json.loads(event)["choices"]:
                name = names.setdefault(choice["index"], choice.get("branch_id"))
                told[name] = told.get(name, 0) + len(choice.get("token_ids") or ())
            if signals and min(told.values()) >= 10:
                served.child.send_signal(signal.SIGTERM)
                signals -= 1
                while signals and httpx.get(f"{served.url}/health").status_code == 200:
                    time.sleep(0.01)
    raise AssertionError("the stream broke off")


@pytest.mark.parametrize(("signals", "drain"), [(1, "0.2"), (2, "60")], ids=["time-is-up", "second-signal"])
def test_what_the_end_cuts_off_is_told_so_and_kept_to_the_last_token(
    checkpoint: Path, tmp_path: Path, signals: int, drain: str
) -> None:
    options = ["--drain-timeout", drain, "--store-path", str(tmp_path / "kept.sqlite")]
    with process(checkpoint, *options) as served:
        begin = time.monotonic()
        told, last = tokens_until_the_end(served, signals)
        assert '"server_shutting_down"' in last
        assert served.child.wait(10) == 0
        assert time.monotonic() - begin < 10
        assert "Task" not in served.child.communicate()[1]
    assert len(told) == 8
    with process(checkpoint, *options) as served:
        kept = {name: httpx.get(f"{served.url}/v1/branches/{name}").json() for name in told}
    assert {name: branch.get("own_tokens") for name, branch in kept.items()} == told
    assert {branch["finish_reason"] for branch in kept.values()} == {"abort"}


def test_who_has_stopped_reading_does_not_hold_up_the_end(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--store-path", str(tmp_path / "kept.sqlite")]
    with process(checkpoint, *options) as served, socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", int(served.url.rpartition(":")[2])))
        content = json.dumps({**LONG, "n": 48, "stream": True, "logprobs": 20}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
        stuck.sendall(head.encode() + content)
        while httpx.get(f"{served.url}/health").json()["running"] < 48:
            time.sleep(0.01)
        tree = httpx.get(f"{served.url}/v1/trees").json()["data"][0]["id"]
        time.sleep(0.5)
        for _ in range(2):
            served.child.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert served.child.wait(10) == 0
        logged = served.child.communicate()[1]
    assert "did not take the rest" in logged
    assert "Traceback" not in logged
    with process(checkpoint, *options) as served:
        branches = httpx.get(f"{served.url}/v1/trees/{tree}").json()["branches"]
    assert [branch["own_tokens"] > 0 for branch in branches if branch["kind"] == "completion"] == [True] * 48


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dendrite_server", "--model", str(tmp_path / "none")]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    assert ended.returncode == 1
    assert "cannot serve" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("path", ["none/kept.sqlite", "text", "."])
def test_a_store_that_cannot_be(checkpoint: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "text").write_text("no database, whatever its name says")
    command = [sys.executable, "-m", "dendrite_server", "--model", str(checkpoint), "--num-pages", "64"]
    command += ["--port", "0", "--store-path", str(tmp_path / path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "store_path" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_ends_the_start_before_the_model_is_read(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "dendrite_server", "--port", port, "--model", str(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert f"127.0.0.1:{port}: address already in use" in ended.stderr


def test_the_access_log_has_a_line_for_each_request(checkpoint: Path) -> None:
    with process(checkpoint, "--access-log") as served:
        httpx.get(f"{served.url}/health?a=b", headers={"x-request-id": "mine"})
        httpx.get(f"{served.url}/no%0Asuch")
        served.stop()
        lines = served.child.communicate()[1].splitlines()
    health, unknown = [line.partition("dendrite.access: ")[2] for line in lines]
    assert re.fullmatch(r"mine 127\.0\.0\.1 GET /health 200 \d+ ms", health)
    assert re.fullmatch(r"req_\w+ 127\.0\.0\.1 GET /no%0Asuch 404 \d+ ms", unknown)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO ", lines[0])


def test_what_a_start_says_on_a_cpu_but_not_of_each_request(checkpoint: Path) -> None:
    with process(checkpoint, "--log-level", "info", "--gpu-memory-utilization", "0.5") as served:
        httpx.get(f"{served.url}/health")
        served.stop()
        logged = served.child.communicate()[1]
    assert "dendrite: --gpu-memory-utilization changes nothing: the model is on a CPU" in logged
    assert "draining" in logged
    assert "dendrite.access" not in logged
