"""A server that is killed and started again: branches, trees and responses go on under their names."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_server.trees.keeper import Keeper
from tests.checkpoints import make_checkpoint
from tests.server.test_stored import fill

GREEDY = {"temperature": 0, "max_tokens": 8, "extra_body": {"ignore_eos": True}}


class Process:
    """A server in a process of its own, which keeps what it is told in `store`."""

    def __init__(self, checkpoint: Path, store: Path) -> None:
        command = [sys.executable, "-m", "dendrite_server", "--model", str(checkpoint), "--port", "0"]
        options = ["--dtype", "float32", "--threads", "1", "--num-pages", "512", "--store-path", str(store)]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        url = self.process.stdout.readline().split(" at ")[-1].strip()
        assert url.startswith("http"), "the server did not start"
        self.http = httpx.Client(base_url=url, timeout=60)
        self.client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)

    def end(self, by: int) -> None:
        self.http.close()
        self.client.close()
        self.process.send_signal(by)
        self.process.communicate(timeout=30)


Start = Callable[[], Process]


@pytest.fixture
def start(checkpoint: Path, tmp_path: Path) -> Iterator[Start]:
    running: list[Process] = []

    def one() -> Process:
        running.append(Process(checkpoint, tmp_path / "kept.sqlite"))
        return running[-1]

    yield one
    for process in running:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)


def answer(server: Process, **fields: object) -> openai.types.chat.ChatCompletion:
    return server.client.chat.completions.create(model="tiny", **{**GREEDY, **fields})  # type: ignore[call-overload,no-any-return]


def names(answer: openai.types.chat.ChatCompletion) -> list[str]:
    """Of its branches, which OpenAI's types do not know."""
    return [choice.branch_id for choice in answer.choices]  # type: ignore[attr-defined]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_tree_survives_the_process(start: Start, by: int) -> None:
    server = start()
    first = answer(server, messages=[{"role": "user", "content": "one two three"}], n=2)
    named, dropped = names(first)
    parent = {"parent_id": named, "ignore_eos": True}
    expected = answer(server, messages=[{"role": "user", "content": "four"}], extra_body=parent)
    server.http.post(f"branches/{named}", json={"pinned": True, "metadata": {"score": 0.5}})
    assert server.http.delete(f"branches/{dropped}").status_code == 200
    tree = server.http.get(f"branches/{named}").json()["tree_id"]
    before = server.http.get(f"trees/{tree}").json()
    server.end(by)

    server = start()
    after = server.http.get(f"trees/{tree}").json()
    said = [{branch["id"]: branch["text"] for branch in one["branches"]} for one in (before, after)]
    assert said[0] == said[1]
    again = server.http.get(f"branches/{named}").json()
    assert (again["pinned"], again["metadata"]) == (True, {"score": 0.5})
    assert server.http.get(f"branches/{dropped}").status_code == 404
    found = answer(server, messages=[{"role": "user", "content": "four"}], extra_body=parent)
    assert found.choices[0].message.content == expected.choices[0].message.content
    assert found.usage is not None
    assert expected.usage is not None
    assert found.usage.prompt_tokens == expected.usage.prompt_tokens


def test_a_file_belongs_to_one_process_at_a_time(start: Start, checkpoint: Path, tmp_path: Path) -> None:
    """Each would lose what the other one keeps; so a second one does not even read its model."""
    first = start()
    command = [sys.executable, "-m", "dendrite_server", "--model", str(checkpoint), "--port", "0"]
    command += ["--store-path", str(tmp_path / "kept.sqlite")]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert "store_path" in second.stderr
    assert f"used by process {first.process.pid}" in second.stderr
    assert first.http.get("models").status_code == 200
    first.end(signal.SIGKILL)
    start()


def tree_of(server: Process, name: str) -> dict[str, object]:
    """What a tree holds, of every branch that has a name."""
    tree = server.http.get(f"branches/{name}").json()["tree_id"]
    shown = ("parent_id", "text", "own_tokens", "pinned", "metadata", "finish_reason")
    return {
        branch["id"]: [branch[field] for field in shown]
        for branch in server.http.get(f"trees/{tree}").json()["branches"]
    }


@pytest.mark.parametrize("step", ["whole", "stream", "response", "marked", "deleted", "search"])
def test_what_was_answered_outlives_a_kill_right_after_it(start: Start, step: str) -> None:
    """Others are being generated meanwhile, which is no reason to wait with what has ended."""
    server = start()
    first = answer(server, messages=[{"role": "user", "content": "one two three"}], n=3)
    name, other, _ = names(first)
    long = {"model": "tiny", "messages": [{"role": "user", "content": "four"}], "ignore_eos": True}
    with server.http.stream("POST", "chat/completions", json={**long, "n": 4, "stream": True}) as running:
        next(running.iter_lines())
        ask = {"model": "tiny", "messages": [], "parent_id": name, "max_tokens": 9, "ignore_eos": True}
        match step:
            case "whole":
                server.http.post("chat/completions", json=ask).raise_for_status()
            case "stream":
                with server.http.stream("POST", "chat/completions", json={**ask, "stream": True}) as told:
                    assert "data: [DONE]" in list(told.iter_lines())
            case "response":
                said = server.http.post("responses", json={"input": "five", "max_output_tokens": 16}).json()
            case "marked":
                server.http.post(f"branches/{name}", json={"pinned": True, "metadata": {"score": 1}})
            case "deleted":
                server.http.delete(f"branches/{other}").raise_for_status()
            case "search":
                plan = {"method": {"type": "best_of_n", "n": 3}, "generator": {"max_tokens": 8}}
                found = server.http.post("search", json={"prompt": "a", **plan})
                name = found.raise_for_status().json()["result"]["branch_id"]
        before = tree_of(server, name)
        server.process.kill()
    server.end(signal.SIGKILL)

    server = start()
    assert tree_of(server, name) == before
    if step == "deleted":
        assert server.http.get(f"branches/{other}").status_code == 404
    if step == "response":
        after = {"input": "six", "max_output_tokens": 16, "previous_response_id": said["id"]}
        usage = server.http.post("responses", json=after).raise_for_status().json()["usage"]
        assert usage["input_tokens"] > said["usage"]["total_tokens"], "it goes on from the whole answer"


def restored(model: Path | str, store: Path) -> int:
    """How many branches are there again in an engine of this model."""
    with Engine.from_pretrained(str(model), num_pages=64) as engine:
        keeper = Keeper(engine, str(store))
        keeper.close()
        return keeper.restored


def with_one_answer(model: Path | str, store: Path) -> None:
    with Engine.from_pretrained(str(model), num_pages=64) as engine:
        keeper = Keeper(engine, str(store))
        engine.generate([1, 2, 3], SamplingParams(max_tokens=2))
        keeper.close()


def test_another_model_does_not_take_these_tokens_for_its_own(tmp_path: Path) -> None:
    store = tmp_path / "kept.sqlite"
    one, another = make_checkpoint(tmp_path / "one"), make_checkpoint(tmp_path / "another", seed=1)
    with_one_answer(one, store)
    assert restored(another, store) == 0
    assert restored(one, store) == 2
    # Nor does one that has taken the place of the first.
    shutil.rmtree(one)
    another.rename(one)
    assert restored(one, store) == 0


def test_a_model_is_the_same_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, store = make_checkpoint(tmp_path / "here"), tmp_path / "kept.sqlite"
    with_one_answer(model, store)
    monkeypatch.chdir(tmp_path)
    for name in ("here", "./here/", "there"):
        if name == "there":
            model.rename(name)
        assert restored(name, store) == 2


def test_an_engine_that_ends_first_does_not_hold_the_keeper_up(checkpoint: Path, tmp_path: Path) -> None:
    with Engine.from_pretrained(str(checkpoint), num_pages=64) as engine:
        keeper = Keeper(engine, str(tmp_path / "kept.sqlite"))
        engine.generate([1, 2, 3], SamplingParams(max_tokens=2))
        keeper.written().result(10)
    keeper.written().result(10)
    keeper.close()


def test_trees_that_a_full_disk_did_not_take_are_written_once_there_is_room(
    checkpoint: Path, tmp_path: Path
) -> None:
    store, params = str(tmp_path / "kept.sqlite"), SamplingParams(max_tokens=2, ignore_eos=True)
    with Engine.from_pretrained(str(checkpoint), num_pages=512) as engine:
        keeper = Keeper(engine, store)
        keeper.flush()
        fill(keeper._disk, 0)
        kept = [engine.generate([3] * 1000 + [at], params).branch_id for at in range(20)]
        with pytest.raises(sqlite3.OperationalError, match="full"):
            keeper.flush()
        gone = engine.generate([5], params)
        engine.release(gone.started.prompt_branch_id).result()
        while not keeper._is_failing:
            time.sleep(0.01)
        keeper.written().result(10)  # No answer waits for a disk that takes nothing.
        fill(keeper._disk, 1000)
        keeper.close()
    with Engine.from_pretrained(str(checkpoint), num_pages=512) as engine:
        keeper = Keeper(engine, store)
        assert keeper.restored == 40
        assert [engine.describe(name).result().length for name in kept] == [1003] * 20
        keeper.close()


def test_a_background_response_that_was_cut_off_has_failed(start: Start) -> None:
    server = start()
    ask = {"model": "tiny", "input": "one two", "background": True, "extra_body": {"ignore_eos": True}}
    cut = server.client.responses.create(**ask, max_output_tokens=1900)  # type: ignore[call-overload]
    assert cut.status in ("queued", "in_progress")
    server.end(signal.SIGKILL)

    server = start()
    found = server.client.responses.retrieve(cut.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.code == "server_error"
    after = server.client.responses.create(model="tiny", input="three", previous_response_id=cut.id)
    assert after.status in ("completed", "incomplete")
