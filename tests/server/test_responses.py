"""Responses through the OpenAI SDK: shapes, settings, the life of a response, and items."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseItemList

from tests.server.conftest import MODEL, Serve

ASK: dict[str, Any] = {"model": MODEL, "input": "the best branch goes on", "max_output_tokens": 8}


def create(client: openai.OpenAI, **fields: Any) -> Response:
    answer: Response = client.responses.create(**{**ASK, "temperature": 0, **fields})
    return answer


def test_a_response(client: openai.OpenAI) -> None:
    answer = create(client)
    assert answer.id.startswith("resp_")
    assert answer.model == MODEL
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8
    assert answer.usage.total_tokens == answer.usage.input_tokens + 8
    details = answer.usage.input_tokens_details
    assert details.cached_tokens + details.cache_write_tokens == answer.usage.input_tokens
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": ASK["input"]}], max_tokens=8, temperature=0
    )
    assert answer.output_text == chat.choices[0].message.content


def test_it_is_complete_when_the_model_ends_it(client: openai.OpenAI) -> None:
    answer = create(client, extra_body={"stop": "e", "max_output_tokens": 200})
    assert answer.status == "completed"
    assert answer.completed_at is not None
    assert answer.incomplete_details is None
    assert answer.output[0].status == "completed"


SETTINGS: list[dict[str, Any]] = [
    {},
    {"instructions": "be a tree", "metadata": {"a": "b"}, "temperature": 0.5, "top_p": 0.25},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
    {"tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}], "tool_choice": "none"},
    {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "reasoning": {}, "truncation": "disabled"},
    {"safety_identifier": "s", "prompt_cache_key": "k", "user": "u", "service_tier": "auto"},
    {"prompt_cache_options": {"mode": "explicit"}, "prompt_cache_retention": "24h", "max_tool_calls": 3},
    {"store": False, "parallel_tool_calls": False, "seed": 3, "frequency_penalty": 0.5, "top_k": 4},
]


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_answers_are_valid_by_the_sdks_own_types(http: httpx.Client, fields: dict[str, Any]) -> None:
    body = http.post("/v1/responses", json={**ASK, **fields}).json()
    Response.model_validate(body, strict=True)
    assert Response.model_fields.keys() - {"tool_usage"} <= body.keys()
    assert {"store", "presence_penalty", "frequency_penalty", "branch_id", "tree"} <= body.keys()
    echoed = fields.keys() & body.keys() - {"service_tier", "text", "reasoning", "prompt_cache_options"}
    assert {name: body[name] for name in echoed} == {name: fields[name] for name in echoed}
    assert body["tree"]["parent_id"] is None


def test_logprobs(client: openai.OpenAI) -> None:
    answer = create(client, include=["message.output_text.logprobs"], top_logprobs=2)
    part: Any = answer.output[0].content[0]
    assert "".join(entry.token for entry in part.logprobs) == answer.output_text
    assert {len(entry.top_logprobs) for entry in part.logprobs} == {2}
    assert create(client).output[0].content[0].logprobs == []


def test_instructions_come_first(client: openai.OpenAI) -> None:
    told = create(client, instructions="be a tree")
    spelled = create(
        client,
        input=[{"role": "developer", "content": "be a tree"}, {"role": "user", "content": ASK["input"]}],
    )
    assert told.output_text == spelled.output_text
    assert told.usage is not None
    assert spelled.usage is not None
    assert told.usage.input_tokens == spelled.usage.input_tokens


def test_items_of_every_kind_reach_the_prompt(client: openai.OpenAI, http: httpx.Client) -> None:
    items: list[dict[str, Any]] = [
        {"role": "system", "content": "a"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "c"}]},
        {"role": "assistant", "content": "d", "phase": "commentary"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "e"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "f"}], "type": "message"},
        {"role": "user", "content": "g"},
    ]
    answer = create(client, input=items)
    listed = http.get(f"/v1/responses/{answer.id}/input_items?order=asc").json()
    kinds = [item["type"] for item in listed["data"]]
    assert kinds == [item.get("type", "message") for item in items]
    ResponseItemList.model_validate(listed, strict=True)
    count = client.responses.input_tokens.count(model=MODEL, input=items)
    assert answer.usage is not None
    assert count.input_tokens == answer.usage.input_tokens


def test_an_item_can_be_referred_to(client: openai.OpenAI) -> None:
    first = create(client)
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    user: Any = {"role": "user", "content": ASK["input"]}
    more: Any = {"role": "user", "content": "more"}
    told = create(client, input=[user, first.output[0].to_dict(), more])
    referred = create(client, input=[user, reference, more])
    assert referred.output_text == told.output_text
    with pytest.raises(openai.NotFoundError) as caught:
        create(client, input=[{"type": "item_reference", "id": "msg_none"}])
    assert caught.value.param == "input[0].id"


def test_get_and_delete(client: openai.OpenAI) -> None:
    answer = create(client, metadata={"a": "b"})
    kept = client.responses.retrieve(answer.id)
    assert kept == answer
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError, match="not found") as caught:
        client.responses.retrieve(answer.id)
    assert (caught.value.param, caught.value.code) == ("response_id", "response_not_found")
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(answer.id)


def test_what_is_not_stored_is_not_there(client: openai.OpenAI) -> None:
    answer = create(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, previous_response_id=answer.id)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


def test_deleting_gives_pages_back(serve: Serve) -> None:
    server = serve()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        before = server.pages()
        answer = create(client, input="a page is never a block " * 20)
        assert server.pages()["branches"] > before["branches"]
        client.responses.delete(answer.id)
        server.settle("branches", before["branches"])
        server.settle("free", before["free"])


def test_input_items_are_paged(client: openai.OpenAI) -> None:
    answer = create(client, input=[{"role": "user", "content": str(number)} for number in range(5)])
    newest = client.responses.input_items.list(answer.id, limit=2)
    texts = [item.content[0].text for item in newest]  # type: ignore[union-attr]
    assert texts == ["4", "3", "2", "1", "0"], "the SDK asks for page after page"
    assert newest.has_more
    oldest = client.responses.input_items.list(answer.id, order="asc", limit=100)
    assert [item.content[0].text for item in oldest.data] == texts[::-1]  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.input_items.list(answer.id, after="msg_none")
    assert caught.value.param == "after"


def test_parse_returns_what_is_plain(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(**ASK)
    assert parsed.output_parsed is None
    assert parsed.output_text


def test_errors_are_openais(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        create(client, model="other")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        create(client, max_output_tokens=100_000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "max_output_tokens")
    with pytest.raises(openai.BadRequestError) as far:
        create(client, input="x" * 5000, max_output_tokens=None)
    assert (far.value.code, far.value.param) == ("context_length_exceeded", "input")
    with pytest.raises(openai.BadRequestError) as nothing:
        client.responses.create(model=MODEL)
    assert nothing.value.param == "input"
    with pytest.raises(openai.BadRequestError) as sync:
        client.responses.cancel(create(client).id)
    assert sync.value.param == "response_id"
