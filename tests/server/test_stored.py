"""Chat completions that are kept with `store: true`, and the store that keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionDeleted

from dendrite_server.store import Disk, Store
from tests.server.conftest import MODEL, Serve

USER: Any = [{"role": "user", "content": "the best branch goes on"}]


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    asked = {"model": MODEL, "messages": USER, "max_tokens": 6, "temperature": 0, "store": True, **fields}
    return client.chat.completions.create(**asked)


def test_what_is_stored_can_be_fetched_changed_and_deleted(client: openai.OpenAI, http: httpx.Client) -> None:
    answer = chat(client, metadata={"topic": "trees"}, n=2, seed=3)
    path = f"/v1/chat/completions/{answer.id}"
    kept = http.get(path).json()
    ChatCompletion.model_validate(kept, strict=True)
    assert kept.items() >= answer.to_dict().items()
    assert (kept["metadata"], kept["seed"], kept["temperature"]) == ({"topic": "trees"}, 3, 0)
    updated: Any = client.chat.completions.update(answer.id, metadata={"topic": "pages"})
    assert updated.metadata == {"topic": "pages"}
    assert http.get(path).json()["metadata"] == {"topic": "pages"}
    ChatCompletionDeleted.model_validate(http.delete(path).json(), strict=True)
    with pytest.raises(openai.NotFoundError) as gone:
        client.chat.completions.retrieve(answer.id)
    assert (gone.value.param, gone.value.code) == ("completion_id", "completion_not_found")


def test_what_is_not_asked_for_is_not_kept(client: openai.OpenAI) -> None:
    for store in (False, None):
        answer = chat(client, store=store, metadata={"a": "b"})
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.retrieve(answer.id)


def test_a_stream_is_kept_as_the_answer_it_adds_up_to(client: openai.OpenAI) -> None:
    chunks = list(chat(client, stream=True, n=2, seed=4, temperature=1))
    kept = client.chat.completions.retrieve(chunks[0].id)
    whole = chat(client, n=2, seed=4, temperature=1)
    assert [choice.message for choice in kept.choices] == [choice.message for choice in whole.choices]
    assert kept.usage is not None
    assert kept.usage.completion_tokens == whole.usage.completion_tokens


def test_messages(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "be a tree"},
        {"role": "user", "content": [{"type": "text", "text": "one"}], "name": "me"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    answer = chat(client, messages=messages)
    listed = list(client.chat.completions.messages.list(answer.id, limit=3))
    assert [message.role for message in listed] == ["system", "user", "assistant", "user"]
    assert [message.content for message in listed] == ["be a tree", None, "two", "three"]
    assert listed[1].content_parts is not None
    assert listed[1].content_parts[0].type == "text"
    assert len({message.id for message in listed}) == 4
    newest = client.chat.completions.messages.list(answer.id, order="desc", limit=1)
    assert newest.data[0].content == "three"


def test_the_list_is_filtered_and_paged(serve: Serve) -> None:
    server = serve()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        ids = [chat(client, metadata={"n": str(n), "odd": str(n % 2)}).id for n in range(5)]
        found = client.chat.completions.list(limit=2)
        assert found.has_more
        assert [kept.id for kept in found] == ids
        client.chat.completions.retrieve(ids[0])
        newest = client.chat.completions.list(order="desc")
        assert [kept.id for kept in newest] == ids[::-1], "having been looked at does not change the order"
        odd = client.chat.completions.list(metadata={"odd": "1"})
        assert [kept.id for kept in odd] == [ids[1], ids[3]]
        assert client.chat.completions.list(metadata={"odd": "1", "n": "2"}).data == []
        assert client.chat.completions.list(model="other").data == []
        assert len(client.chat.completions.list(model=MODEL).data) == 5


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=x", "after"), ("x=1", "x")],
)
def test_bad_queries_name_what_is_wrong(http: httpx.Client, query: str, param: str) -> None:
    answer = http.get(f"/v1/chat/completions?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_bad_metadata_is_refused_before_anything_is_generated(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, metadata={"a": "x" * 600})
    assert caught.value.param == "metadata.a"


# The store itself.


def store(**bounds: Any) -> Store:
    return Store("thing", **{"max_count": 3, "max_bytes": 1000, **bounds})


def test_the_least_recently_used_goes_first() -> None:
    things = store()
    for name in "abc":
        things.put(name, {"name": name})
    assert things.get("a") == {"name": "a"}
    things.put("d", {})
    assert things.get("b") is None
    assert len(things) == 3


def test_bytes_are_bounded_too() -> None:
    things = store()
    things.put("a", {"text": "x" * 600})
    things.put("b", {"text": "x" * 600})
    assert things.get("a") is None
    assert things.bytes < 1000
    things.put("b", {})
    assert things.bytes == 2
    things.put("c", {"text": "x" * 5000})
    assert len(things) == 1, "what somebody was just told of stays until something else comes"
    assert things.remove("c") is not None
    assert (things.remove("c"), things.bytes) == (None, 0)


def test_what_is_shared_weighs_nothing() -> None:
    things = store(shared=frozenset({"past"}))
    things.put("a", {"past": "x" * 5000, "own": 1})
    assert things.bytes == len('{"own":1}')
    assert things.get("a") == {"past": "x" * 5000, "own": 1}


def test_a_file_holds_what_memory_holds(tmp_path: Path) -> None:
    path = str(tmp_path / "things.sqlite")
    disk = Disk(path)
    things = store(disk=disk)
    for name in "abcd":
        things.put(name, {"name": name})
    things.remove("c")
    things.put("b", {"name": "changed"})
    disk.close()
    again = Disk(path)
    assert list(store(disk=again)) == [{"name": "d"}, {"name": "changed"}]
    assert list(Store("other", max_count=3, max_bytes=9, disk=again)) == []
    assert list(store(disk=again, max_count=1)) == [{"name": "changed"}]
    assert len(again.load("thing")) == 1
    again.close()


def fill(disk: Disk, pages: int) -> None:
    """Let a file grow no further than it has, by `pages` at most, as on a disk that is full."""
    (count,) = disk._database.execute("PRAGMA page_count").fetchone()
    disk._database.execute(f"PRAGMA max_page_count={count + pages}")


def test_a_full_disk_costs_no_answer_and_is_written_to_once_there_is_room(tmp_path: Path) -> None:
    path = str(tmp_path / "things.sqlite")
    disk = Disk(path)
    things = store(disk=disk, max_bytes=1 << 20)
    things.put("a", {"name": "a"})
    fill(disk, 0)
    things.put("b", {"name": "b" * 9000})
    things.put("c", {"name": "c" * 9000})
    things.remove("a")
    things.remove("c")
    assert [id for id, _ in disk.load("thing")] == ["a"]
    assert list(things) == [{"name": "b" * 9000}]
    fill(disk, 1000)
    things.put("d", {"name": "d"})
    assert [id for id, _ in disk.load("thing")] == ["b", "d"]
    disk.close()
