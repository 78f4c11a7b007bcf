"""The live feed of trees: what it tells adds up to what GET shows, whoever hangs up, lags or comes late."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from dendrite_server.config import ServerConfig
from dendrite_server.trees import feed as feeds
from tests.server.conftest import Serve, Server

LIVELY: dict[str, Any] = {"ignore_eos": True, "temperature": 1, "max_tokens": 40}


@dataclass
class Viewer:
    """What a client keeps of a tree, by the rules of docs/tree-api.md."""

    branches: dict[str, Any] = field(default_factory=dict)
    last_id: str | None = None
    kinds: list[str] = field(default_factory=list)

    def hear(self, kind: str, body: Any, id: str | None) -> None:
        self.kinds.append(kind)
        self.last_id = id or self.last_id
        if kind == "snapshot":
            self.branches = {one["id"]: one for one in body["branches"]}
        elif kind == "released":
            for name in body["ids"]:
                self.branches.pop(name, None)
        else:
            delta = body.pop("delta", "")
            known = self.branches.setdefault(body["id"], {"text": ""})
            known |= body
            known["text"] += delta


@contextmanager
def events(server: Server, path: str, last_id: str | None = None) -> Iterator[Iterator[tuple[str, Any, Any]]]:
    headers = {} if last_id is None else {"last-event-id": last_id}
    with httpx.stream("GET", f"{server.url}{path}", headers=headers, timeout=20) as answer:
        assert answer.status_code == 200, answer.read()
        yield _events(answer.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Any, Any]]:
    fields: dict[str, str] = {}
    deadline = time.monotonic() + 30
    for line in lines:
        assert time.monotonic() < deadline, "nothing but keep-alives"
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id")
            fields = {}


def post(server: Server, **body: Any) -> Any:
    answer = httpx.post(f"{server.url}/v1/completions", json={**LIVELY, **body}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def shown(server: Server, tree: str) -> dict[str, Any]:
    body = httpx.get(f"{server.url}/v1/trees/{tree}").json()
    return {one["id"]: one for one in body["branches"]}


def same(branches: dict[str, Any]) -> dict[str, Any]:
    """Without what no event is sent for: children (who name their parent) and pages as others share them."""
    left_out = ("children", "pages", "pinned_for", "kv_tokens")
    return {name: {k: v for k, v in one.items() if k not in left_out} for name, one in branches.items()}


def until_idle(server: Server, viewer: Viewer, stream: Iterator[tuple[str, Any, Any]], tree: str) -> None:
    """Hear on until what was heard is what GET shows."""
    deadline = time.monotonic() + 15
    for event in stream:
        viewer.hear(*event)
        if same(viewer.branches) == same(shown(server, tree)):
            return
        assert time.monotonic() < deadline


def grow(server: Server) -> str:
    """A tree that is at work: forked, forked again, noted, partly freed."""
    first = post(server, prompt="the tree", n=3, max_tokens=8)
    names = [choice["branch_id"] for choice in first["choices"]]
    post(server, prompt="", parent_id=names[0], n=2)
    post(server, prompt=" é😀 and", parent_id=names[1], n=2)
    httpx.post(f"{server.url}/v1/branches/{names[1]}", json={"metadata": {"score": 0.5}, "pinned": True})
    httpx.delete(f"{server.url}/v1/branches/{names[2]}")
    tree: str = first["tree"]["tree_id"]
    return tree


def test_a_viewer_sees_what_get_shows(server: Server) -> None:
    made = post(server, prompt="begin", max_tokens=3)
    tree, viewer = made["tree"]["tree_id"], Viewer()
    with events(server, f"/v1/trees/{tree}/events") as stream:
        viewer.hear(*next(stream))
        assert viewer.kinds == ["snapshot"]
        for at in range(6):
            above = list(shown(server, tree))[at]
            more = post(server, prompt=" 😀é" * (at % 2), parent_id=above, n=3)
            spare = more["choices"][2]["branch_id"]
            httpx.post(f"{server.url}/v1/branches/{spare}", json={"metadata": {"score": at}})
            if at % 2:
                httpx.delete(f"{server.url}/v1/branches/{spare}")
        until_idle(server, viewer, stream, tree)
    assert {"created", "ended", "released"} <= set(viewer.kinds)


def test_tokens_are_told_while_they_come_and_not_one_by_one(server: Server) -> None:
    made = post(server, prompt="begin", max_tokens=1)
    tree, viewer = made["tree"]["tree_id"], Viewer()
    with events(server, f"/v1/trees/{tree}/events") as stream:
        viewer.hear(*next(stream))
        parent = made["choices"][0]["branch_id"]
        post(server, prompt="", parent_id=parent, max_tokens=600)
        until_idle(server, viewer, stream, tree)
    assert 1 <= viewer.kinds.count("tokens") < 300
    assert [kind for kind in viewer.kinds if kind != "tokens"][-1] == "ended"


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_whoever_is_cut_off_and_comes_back_misses_nothing(server: Server, length: int) -> None:
    tree, viewer = grow(server), Viewer()
    for round in range(6):
        with events(server, f"/v1/trees/{tree}/events", viewer.last_id) as stream:
            if viewer.last_id is not None:
                # What happens while nobody is connected, and what is lost in the middle of a moment's events.
                names = [name for name, one in shown(server, tree).items() if one["own_tokens"]]
                post(server, prompt="", parent_id=names[round], n=2)
                httpx.delete(f"{server.url}/v1/branches/{names[-1]}")
            until_idle(server, viewer, itertools.islice(stream, length), tree)
    with events(server, f"/v1/trees/{tree}/events", viewer.last_id) as stream:
        httpx.post(f"{server.url}/v1/branches/{next(iter(shown(server, tree)))}", json={"metadata": {"n": 1}})
        until_idle(server, viewer, stream, tree)
    assert viewer.kinds.count("snapshot") == 1


@pytest.mark.parametrize("last_id", ["0-0", "ffffffff-3", "nonsense", "-"])
def test_an_id_of_another_time_gets_a_snapshot(server: Server, last_id: str) -> None:
    with events(server, f"/v1/trees/{grow(server)}/events", last_id) as stream:
        assert next(stream)[0] == "snapshot"


async def test_what_is_forgotten_is_not_skipped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_GONE", 3)
    server = serve()
    feed = feeds.Feed(server.engine)
    feed.readers = 1
    root = await server.engine.agenerate([1, 2, 3])
    await feed.begin()
    known, name = feed.version, root.branch_id
    assert name is not None
    for count in (2, 2):
        assert feed.is_complete_since(known)
        before = feed.version
        children = await asyncio.wrap_future(server.engine.fork(name, count))
        await feed.newer(before)
        before = feed.version
        for child in children:
            await asyncio.wrap_future(server.engine.release(child))
        await feed.newer(before)
        while set(children) & feed.branches.keys():
            await feed.newer(feed.version)
    assert len(feed.gone) == 3
    assert not feed.is_complete_since(known)
    assert feed.is_complete_since(feed.version)
    feed.close()


async def test_a_reader_who_leaves_takes_no_news_along(serve: Serve) -> None:
    server = serve()
    feed = feeds.Feed(server.engine)
    feed.readers = 1
    root = await server.engine.agenerate([1, 2, 3])
    await feed.begin()
    assert root.branch_id is not None
    for _ in range(20):
        (child,) = await asyncio.wrap_future(server.engine.fork(root.branch_id))
        leaving = asyncio.create_task(feed.catch_up())
        # So far that the engine has been asked, and not so far that its answer is here.
        for _ in range(3):
            await asyncio.sleep(0)
        leaving.cancel()
        await feed.catch_up()
        assert child in feed.branches
    feed.close()


def test_the_list_of_trees_is_told_too(server: Server) -> None:
    with events(server, "/v1/trees/events") as stream:
        kind, body, _ = next(stream)
        assert kind == "snapshot"
        known = {one["id"]: one for one in body["trees"]}
        made = post(server, prompt="hello there", n=2, max_tokens=3)
        name = made["tree"]["tree_id"]
        for kind, body, _ in stream:
            assert kind == "tree"
            known[body["id"]] = body
            if body["id"] == name and body["branches"] == 3 and not body["running"]:
                break
        listed = httpx.get(f"{server.url}/v1/trees", params={"limit": 100}).json()
        assert listed["data"][0] == known[name]
        assert listed["data"][0]["title"] == "hello there"
        httpx.delete(f"{server.url}/v1/branches/{made['tree']['prompt_branch_id']}")
        gone = next(body for kind, body, _ in stream if kind == "released")
        assert gone["ids"] == [name]
    assert name not in [one["id"] for one in httpx.get(f"{server.url}/v1/trees").json()["data"]]


def test_the_list_comes_in_pages(server: Server) -> None:
    names = [post(server, prompt=word, max_tokens=1)["tree"]["tree_id"] for word in ("one", "two", "three")]
    first = httpx.get(f"{server.url}/v1/trees?limit=2").json()
    assert [one["id"] for one in first["data"]] == names[:0:-1]
    second = httpx.get(f"{server.url}/v1/trees?limit=1&after={first['last_id']}").json()
    assert [one["id"] for one in second["data"]] == names[:1]
    assert httpx.get(f"{server.url}/v1/trees?limit=no").json()["error"]["param"] == "limit"


def test_a_tree_that_was_just_made_is_known(server: Server) -> None:
    for _ in range(20):
        tree = post(server, prompt="young", max_tokens=1)["tree"]["tree_id"]
        with events(server, f"/v1/trees/{tree}/events") as stream:
            assert [one["kind"] for one in next(stream)[1]["branches"]] == ["prompt", "completion"]
        assert httpx.get(f"{server.url}/v1/trees?limit=1").json()["data"][0]["id"] == tree


def test_a_tree_that_is_deleted_ends_its_stream(server: Server) -> None:
    made = post(server, prompt="soon gone", max_tokens=1)["tree"]
    with events(server, f"/v1/trees/{made['tree_id']}/events") as stream:
        assert next(stream)[0] == "snapshot"
        httpx.delete(f"{server.url}/v1/branches/{made['prompt_branch_id']}")
        assert [kind for kind, _, _ in stream][-1] == "released"
    answer = httpx.get(f"{server.url}/v1/trees/{made['tree_id']}/events")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "tree_id")


def test_a_search_puts_its_scores_on_the_branches(server: Server) -> None:
    body = {"prompt": "what is it", "method": {"type": "best_of_n", "n": 3}, "generator": {"max_tokens": 4}}
    with events(server, "/v1/trees/events") as trees:
        next(trees)
        found = httpx.post(f"{server.url}/v1/search", json=body, timeout=30).json()
    kept = httpx.get(f"{server.url}/v1/branches/{found['result']['branch_id']}").json()
    assert kept["metadata"] == {"score": found["result"]["score"], "visits": 0, "solved": False}


def test_nobody_reads_and_the_watch_ends(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LINGER", 0.2)
    server = serve()
    made = post(server, prompt="a", max_tokens=1)["tree"]
    book = server.engine._loop.book
    for _ in range(2):
        with events(server, f"/v1/trees/{made['tree_id']}/events") as stream:
            assert next(stream)[0] == "snapshot"
            assert len(book.watches) == 1
        deadline = time.monotonic() + 5
        while book.watches:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_reader_that_stops_reading_is_ended(serve: Serve) -> None:
    server = serve(ServerConfig(patience=0.4, keep_alive=0.2), num_pages=4096)
    made = post(server, prompt=list(range(200)) * 8, max_tokens=1)
    tree, parent = made["tree"]["tree_id"], made["choices"][0]["branch_id"]
    with httpx.stream("GET", f"{server.url}/v1/trees/{tree}/events", timeout=20) as answer:
        assert answer.status_code == 200
        # Far more than socket buffers hold, and nothing is read.
        for at in range(60):
            for name in server.engine.fork(parent, 40).result():
                server.engine.update(name, metadata={"note": "x" * 15_000, "at": at})
            time.sleep(0.02)
        time.sleep(1.0)
        with pytest.raises(httpx.HTTPError):
            for _ in answer.iter_bytes():
                pass
