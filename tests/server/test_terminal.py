"""`dendrite tree` and `dendrite search`: what they print is what the server has, live or not."""

from __future__ import annotations

import io
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from rich.console import Console

from dendrite_server.config import ServerConfig
from dendrite_server.protocol.request import Limits
from dendrite_server.search.request import parse_search
from dendrite_server.terminal.client import Client
from dendrite_server.terminal.entry import main
from dendrite_server.terminal.search import METHODS, _parser, request_body
from dendrite_server.terminal.tree import Watched
from tests.server.conftest import Serve, Server


def post(server: Server, **body: Any) -> Any:
    asked = {"ignore_eos": True, "max_tokens": 4, "temperature": 1, **body}
    return httpx.post(f"{server.url}/v1/completions", json=asked, timeout=30).json()


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    out, err = capsys.readouterr()
    return status, out, err


def at(server: Server) -> tuple[str, str]:
    return "--url", f"{server.url}/v1"


def test_a_tree_is_printed_branch_by_branch(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    made = post(server, prompt="one two three", n=3)
    httpx.post(
        f"{server.url}/v1/branches/{made['choices'][1]['branch_id']}",
        json={"metadata": {"score": 0.25}, "pinned": True},
    )
    more = post(server, prompt="", parent_id=made["choices"][0]["branch_id"], n=2)
    assert more["tree"]["tree_id"] == made["tree"]["tree_id"]
    status, out, _ = printed(capsys, "tree", made["tree"]["tree_id"], *at(server))
    lines = out.strip().splitlines()
    # The prompt, its three branches, and the two below the first: what the joint between adds is nothing.
    assert (status, len(lines)) == (0, 6)
    assert lines[0].startswith("one two three")
    assert [len(line) - len(line.lstrip("│├└─ ")) for line in lines] == [0, 4, 8, 8, 4, 4]
    assert "score 0.25 · pinned" in lines[4]
    listed = printed(capsys, "tree", "--list", *at(server))[1]
    assert next(line for line in listed.splitlines() if made["tree"]["tree_id"] in line).split()[1] == "7"


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/v1/", "http://127.0.0.1:{}", "127.0.0.1:{}/"])
def test_a_server_is_found_by_its_address_alone(
    server: Server, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    made = post(server, prompt="a b c")
    status, out, err = printed(capsys, "tree", "--list", "--url", url.format(server.port))
    assert (status, err) == (0, "")
    assert made["tree"]["tree_id"] in out


def test_a_text_cannot_drive_the_terminal(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    made = post(server, prompt="\x1b[2J[bold]x[/bold]\x07\x9b31m", max_tokens=1)
    out = printed(capsys, "tree", made["tree"]["tree_id"], *at(server))[1]
    assert "·[2J[bold]x[/bold]··31m" in out
    assert not set(out) & {"\x1b", "\x07", "\x9b"}


def test_a_tree_is_watched_until_it_is_gone(server: Server) -> None:
    made = post(server, prompt="watched", n=2)["tree"]
    screen = io.StringIO()
    watched = Watched(Client(f"{server.url}/v1", None), made["tree_id"])
    console = Console(file=screen, force_terminal=True, width=100)
    thread = threading.Thread(target=watched.show, args=(console,))
    thread.start()
    post(server, prompt="", parent_id=made["prompt_branch_id"], n=3, max_tokens=50)
    there = httpx.get(f"{server.url}/v1/trees/{made['tree_id']}").json()["branches"]
    deadline = time.monotonic() + 10
    texts = {one["id"]: one["text"] for one in there}
    while (seen := {name: one["text"] for name, one in watched._branches.items()}) != texts:
        assert time.monotonic() < deadline, (seen, texts)
        time.sleep(0.05)
    httpx.delete(f"{server.url}/v1/branches/{made['prompt_branch_id']}")
    thread.join(10)
    assert not thread.is_alive()
    assert screen.getvalue().rstrip().removesuffix("\x1b[0m").endswith("0 branches · 0 running · gone")


def test_every_method_can_be_asked_for() -> None:
    for method in METHODS:
        for start in (["--game24", "4 9 10 13"], ["hello", "--goal", "yes"]):
            body = request_body(_parser().parse_args([*start, "--method", method, "--seed", "3"]))
            plan = parse_search(body, Limits(vocab_size=100, max_branches=64)).plan
            assert (plan.name, plan.seed) == (method, 3)
    words = ["hi", "--width", "2", "--branching", "3", "--stop", "\\n", "--tokens", "9"]
    words += ["--body", '{"seed": 5}']
    body = request_body(_parser().parse_args(words))
    assert body["method"] == {"type": "tot", "width": 2, "branching": 3}
    assert (body["generator"]["stop"], body["budget"]["tokens"], body["seed"]) == ("\n", 9, 5)


def test_a_search_here_is_the_search_there(
    server: Server, checkpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "hello", "--width", "2", "--branching", "3", "--max-tokens", "4", "--depth", "3"]
    words += ["--tokens", "60", "--seed", "7"]
    here = printed(capsys, *words, "--local", str(checkpoint))
    there = printed(capsys, *words, *at(server))
    assert (here[0], there[0]) == (0, 0)

    def thoughts(out: str) -> list[str]:
        return [line for line in out.splitlines() if " s · tokens: " not in line]

    assert thoughts(here[1]) == thoughts(there[1])
    assert "of 60 tokens" in here[1]
    assert len(thoughts(here[1])) > 6


def test_what_is_not_solved_is_status_1(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "hello", "--max-tokens", "2", "--depth", "1", "--goal", "never said", *at(server)]
    status, out, _ = printed(capsys, *words)
    assert status == 1
    assert "ended: depth" in out


def test_errors_are_said_in_a_line(serve: Serve, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    status, _, err = printed(capsys, "tree", "--url", f"http://127.0.0.1:{port}/v1")
    assert status == 1
    assert err.startswith(f"dendrite tree: no server at http://127.0.0.1:{port}/v1")
    assert "tree_none" in printed(capsys, "tree", "tree_none", *at(server))[2]
    assert "give a prompt" in printed(capsys, "search", *at(server))[2]
    assert "'budget.depth'" in printed(capsys, "search", "x", "--depth", "0", *at(server))[2]
    guarded = serve(ServerConfig(api_keys=("k",)))
    assert "No API key" in printed(capsys, "tree", *at(guarded))[2]
    assert "no trees yet" in printed(capsys, "tree", "--api-key", "k", *at(guarded))[2]
