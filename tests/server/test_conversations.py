"""Conversations through the OpenAI SDK: what they hold, item by item."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList

USER: Any = {"type": "message", "role": "user", "content": "the tree"}
CALL: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT: Any = {"type": "function_call_output", "call_id": "c", "output": "five"}


def test_the_life_of_a_conversation(client: openai.OpenAI, http: httpx.Client) -> None:
    made = client.conversations.create(items=[USER], metadata={"a": "b"})
    path = f"/v1/conversations/{made.id}"
    Conversation.model_validate(http.get(path).json(), strict=True)
    assert client.conversations.retrieve(made.id) == made
    updated = client.conversations.update(made.id, metadata={"c": "d"})
    assert updated.metadata == {"c": "d"}
    deleted = http.delete(path).json()
    ConversationDeletedResource.model_validate(deleted, strict=True)
    with pytest.raises(openai.NotFoundError) as gone:
        client.conversations.retrieve(made.id)
    assert gone.value.code == "conversation_not_found"


def test_items(client: openai.OpenAI, http: httpx.Client) -> None:
    made = client.conversations.create()
    empty = http.get(f"/v1/conversations/{made.id}/items").json()
    ConversationItemList.model_validate(empty, strict=True)
    added = client.conversations.items.create(made.id, items=[USER, CALL, RESULT])
    assert [item.type for item in added.data] == ["message", "function_call", "function_call_output"]
    listed = http.get(f"/v1/conversations/{made.id}/items?order=asc&limit=2").json()
    ConversationItemList.model_validate(listed, strict=True)
    assert listed["has_more"]
    assert [item.id for item in client.conversations.items.list(made.id, order="asc", limit=2)] == [
        item.id for item in added.data
    ]
    first: Any = added.data[0]
    assert client.conversations.items.retrieve(first.id, conversation_id=made.id) == first
    client.conversations.items.delete(first.id, conversation_id=made.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.conversations.items.retrieve(first.id, conversation_id=made.id)
    assert gone.value.param == "item_id"
    more: Any = client.conversations.items.create(made.id, items=[USER])
    assert more.data[0].id not in {item.id for item in added.data}, "an id is never given twice"


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("", {"items": [USER] * 21}, "items"),
    ("", {"items": "x"}, "items"),
    ("", {"items": [{**USER, "role": "robot"}]}, "items[0].role"),
    ("", {"metadata": {"a": 1}}, "metadata.a"),
    ("", {"metadata": {"a": "x" * 513}}, "metadata.a"),
    ("", {"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ("", {"color": "red"}, "color"),
    ("/ID/items", {}, "items"),
    ("/ID/items?limit=3", {"items": [USER]}, "limit"),
    ("/ID", {"metadata": 3}, "metadata"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD, ids=lambda value: str(value)[:40])
def test_bad_requests_name_what_is_wrong(
    client: openai.OpenAI, http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    made = client.conversations.create()
    answer = http.post("/v1/conversations" + path.replace("ID", made.id), json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
