"""Events of a response: their order, their shapes, and reading them again from the background."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from dendrite_core.engine.messages import ChoiceDelta, Started, TokenLogprob, Usage
from dendrite_server.responses.body import Ending, base_body, ending_of
from dendrite_server.responses.items import Names
from dendrite_server.responses.reading import plain_text, with_calls
from dendrite_server.responses.writer import (
    CallArguments,
    CallBegins,
    Event,
    Piece,
    Reasoning,
    Text,
    Writer,
    event_frame,
)
from dendrite_server.tools.parsers import JsonCallsParser
from tests.server.conftest import MODEL, Server

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ASK: dict[str, Any] = {"model": MODEL, "input": "the best branch goes on", "max_output_tokens": 8}


def read(lines: Any) -> list[Event]:
    """The events of a stream; each is named by its type and valid by the SDK's own types."""
    found: list[Event] = []
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append(json.loads(line.removeprefix("data: ")))
            assert found[-1]["type"] == name
            EVENT.validate_python(found[-1], strict=True)
    return found


def events(http: httpx.Client, **fields: Any) -> list[Event]:
    with http.stream("POST", "/v1/responses", json={**ASK, "stream": True, **fields}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return read(answer.iter_lines())


def kinds(told: list[Event]) -> list[str]:
    """The types without their prefix, runs of one type as one."""
    names = [event["type"].removeprefix("response.") for event in told]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


TEXT = [
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"instructions": "be a tree", "temperature": 0.5},
        {"stream_options": {"include_obfuscation": False}, "store": False},
    ],
    ids=str,
)
def test_the_order_of_events(http: httpx.Client, fields: dict[str, Any]) -> None:
    told = events(http, **{"seed": 5, "temperature": 0, **fields})
    assert kinds(told) == ["created", "in_progress", *TEXT, "incomplete"]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert len({event["item_id"] for event in told if "item_id" in event}) == 1


def test_events_add_up_to_the_response(http: httpx.Client) -> None:
    asked = {"seed": 5, "temperature": 1, "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    told = events(http, **asked)
    final = told[-1]["response"]
    (item,) = final["output"]
    (part,) = item["content"]
    deltas = [event for event in told if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in deltas) == part["text"]
    assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"]
    assert part["logprobs"]
    by_type = {event["type"].removeprefix("response."): event for event in told}
    assert by_type["output_text.done"]["text"] == part["text"]
    assert by_type["content_part.added"]["part"]["text"] == ""
    assert by_type["content_part.added"]["part"]["logprobs"] == []
    assert by_type["content_part.done"]["part"] == part
    assert by_type["output_item.added"]["item"] == {**item, "content": [], "status": "in_progress"}
    assert by_type["output_item.done"]["item"] == item
    assert http.get(f"/v1/responses/{final['id']}").json() == final
    whole = http.post("/v1/responses", json={**ASK, **asked}).json()
    assert whole["output"][0]["content"][0]["text"] == part["text"]


def test_a_fork_in_a_stream(http: httpx.Client) -> None:
    first = events(http)[-1]["response"]
    told = events(http, previous_response_id=first["id"])
    assert told[0]["response"]["tree"]["parent_id"] == first["branch_id"]
    assert told[0]["response"]["usage"] is None
    details = told[-1]["response"]["usage"]["input_tokens_details"]
    assert details["cached_tokens"] >= first["usage"]["total_tokens"] - 1


def test_a_model_that_says_nothing(http: httpx.Client, server: Server) -> None:
    end = server.engine.tokenizer.eos_ids[0]
    told = events(http, logit_bias={str(end): 100})
    assert kinds(told) == [
        "created",
        "in_progress",
        *(kind for kind in TEXT if kind[-5:] != "delta"),
        "completed",
    ]
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_the_sdks_stream_helper(client: openai.OpenAI, server: Server) -> None:
    end = str(server.engine.tokenizer.eos_ids[0])
    body = {"logit_bias": {end: 2}, "seed": 3, "stop": ["e"]}
    with client.responses.stream(
        model=MODEL, input="the tree", max_output_tokens=900, extra_body=body
    ) as stream:
        text = ""
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
                assert event.snapshot == text
        final = stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == text


async def test_the_async_client(aclient: openai.AsyncOpenAI) -> None:
    async def follow(text: str) -> Response:
        stream = await aclient.responses.create(model=MODEL, input=text, max_output_tokens=6, stream=True)
        async for event in stream:
            last = event
        assert last.type in ("response.completed", "response.incomplete")
        return last.response

    answers = await asyncio.gather(*(follow(f"number {number}") for number in range(16)))
    assert len({answer.id for answer in answers}) == 16


def test_errors_before_the_first_event_have_their_own_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="x" * 5000, stream=True)
    assert caught.value.code == "context_length_exceeded"


async def test_hanging_up_ends_it_and_keeps_nothing(aclient: openai.AsyncOpenAI, server: Server) -> None:
    before = server.pages()
    stream = await aclient.responses.create(
        model=MODEL, input="on and on", stream=True, extra_body={"ignore_eos": True}
    )
    async for event in stream:
        if event.type == "response.created":
            id = event.response.id
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    await asyncio.to_thread(server.settle, "branches", before["branches"])
    assert server.pages()["running"] == 0
    with pytest.raises(openai.NotFoundError):
        await aclient.responses.retrieve(id)


# In the background.


def settled(client: openai.OpenAI, id: str) -> Response:
    while (answer := client.responses.retrieve(id)).status in ("queued", "in_progress"):
        pass
    return answer


def test_background_is_there_at_once_and_ends_by_itself(client: openai.OpenAI) -> None:
    answer = client.responses.create(**ASK, background=True, extra_body={"ignore_eos": True})
    assert answer.status in ("queued", "in_progress")
    assert answer.background
    ended = settled(client, answer.id)
    assert ended.status == "incomplete"
    assert ended.output_text
    assert client.responses.cancel(answer.id) == ended
    more = client.responses.create(**ASK, previous_response_id=answer.id)
    assert more.model_extra is not None
    assert more.model_extra["tree"]["parent_id"] == ended.model_extra["branch_id"]  # type: ignore[index]


def test_a_background_stream_can_be_read_again_from_anywhere(http: httpx.Client) -> None:
    told = events(http, background=True)
    assert kinds(told)[:4] == ["created", "queued", "in_progress", "output_item.added"]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    id = told[0]["response"]["id"]
    for after in (None, 0, 4, len(told) - 1, len(told) + 5):
        query = {"stream": "true"} | ({} if after is None else {"starting_after": str(after)})
        with http.stream("GET", f"/v1/responses/{id}", params=query) as answer:
            assert read(answer.iter_lines()) == told[0 if after is None else after + 1 :]


def test_a_background_stream_is_followed_while_it_runs(client: openai.OpenAI) -> None:
    asked = {**ASK, "max_output_tokens": 300, "extra_body": {"ignore_eos": True}}
    stream = client.responses.create(**asked, background=True, stream=True)
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    stream.close()
    id = seen[0].response.id
    again = client.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number)
    seen += again
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    final = client.responses.retrieve(id)
    assert (
        "".join(event.delta for event in seen if event.type == "response.output_text.delta")
        == final.output_text
    )
    with client.responses.stream(response_id=id, starting_after=3) as helper:
        assert [event.sequence_number for event in helper] == list(range(4, len(seen)))


def test_cancel_stops_and_keeps_what_was_said(client: openai.OpenAI, server: Server) -> None:
    asked = {**ASK, "max_output_tokens": 1500, "extra_body": {"ignore_eos": True}}
    stream = client.responses.create(**asked, background=True, stream=True)
    told = []
    for event in stream:
        told.append(event)
        if len(told) == 12:
            cancelled = client.responses.cancel(told[0].response.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text
    assert told[-1].type == "response.incomplete"
    assert told[-1].response.status == "cancelled"
    assert cancelled.usage is not None
    assert cancelled.usage.output_tokens < 1500
    assert client.responses.retrieve(cancelled.id) == cancelled
    more = client.responses.create(**ASK, previous_response_id=cancelled.id)
    assert more.usage is not None
    assert more.usage.input_tokens_details.cached_tokens >= cancelled.usage.total_tokens - 1


def test_what_cannot_start_in_the_background_has_failed(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="x" * 5000, background=True)
    ended = settled(client, answer.id)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == "invalid_prompt"
    Response.model_validate(ended.to_dict(), strict=True)


def test_a_running_response_can_be_deleted_but_not_followed(client: openai.OpenAI, server: Server) -> None:
    before = server.pages()["branches"]
    body = {"ignore_eos": True}
    answer = client.responses.create(**{**ASK, "max_output_tokens": 1500}, background=True, extra_body=body)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASK, previous_response_id=answer.id)
    assert caught.value.param == "previous_response_id"
    client.responses.delete(answer.id)
    server.settle("branches", before)


def test_only_background_streams_are_read_again(client: openai.OpenAI) -> None:
    answer = client.responses.create(**ASK)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.retrieve(answer.id, stream=True)
    assert caught.value.param == "stream"
    with pytest.raises(openai.BadRequestError) as alone:
        client.responses.retrieve(answer.id, starting_after=3)
    assert alone.value.param == "starting_after"


# The seam: pieces that a reader of tool calls or reasoning would give.

STARTED = Started(
    tree_id="tree_1",
    parent_id=None,
    prompt_branch_id="branch_1",
    branch_ids=("branch_2",),
    prompt_tokens=3,
    cached_tokens=1,
    shared_tokens=0,
    fork_us=1.0,
)
ECHO: dict[str, Any] = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
USAGE = Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=5)


def write(*pieces: Piece, ending: Ending | None = None) -> list[Event]:
    writer = Writer(base_body("resp_1", "m", ECHO), Names("resp_1"), lambda token: b"t")
    told = writer.start(STARTED)
    for piece in pieces:
        told += writer.write(piece)
    told += writer.finish(ending or ending_of("stop", USAGE))
    return read("".join(map(event_frame, told)).splitlines())


CALL = [
    "output_item.added",
    "function_call_arguments.delta",
    "function_call_arguments.done",
    "output_item.done",
]


def test_calls_are_items_of_their_own() -> None:
    told = write(
        Text("I "),
        Text("ask"),
        CallBegins("call_1", "f"),
        CallArguments('{"a"'),
        CallArguments(": 1}"),
        CallBegins("call_2", "g"),
        CallArguments("{}"),
    )
    assert kinds(told) == ["created", "in_progress", *TEXT, *CALL, *CALL, "completed"]
    output = told[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert [item.get("arguments") for item in output] == [None, '{"a": 1}', "{}"]
    assert [item.get("call_id") for item in output] == [None, "call_1", "call_2"]
    assert {item["status"] for item in output} == {"completed"}
    deltas = [event for event in told if event["type"].endswith("arguments.delta")]
    assert [event["output_index"] for event in deltas] == [1, 1, 2]


def test_reasoning_comes_before_the_message() -> None:
    told = write(Reasoning("hm"), Reasoning("m"), Text("yes"))
    thought = [kind.replace("output_text", "reasoning_text") for kind in TEXT]
    assert kinds(told) == ["created", "in_progress", *thought, *TEXT, "completed"]
    assert told[-1]["response"]["output"][0]["content"] == [{"type": "reasoning_text", "text": "hmm"}]


def test_what_is_cut_short_is_incomplete() -> None:
    told = write(CallBegins("call_1", "f"), CallArguments('{"a'), ending=ending_of("length", USAGE))
    assert told[-1]["type"] == "response.incomplete"
    assert told[-1]["response"]["output"][0]["status"] == "incomplete"


def test_a_failure_is_told_in_the_response() -> None:
    error = {"code": "server_error", "message": "no"}
    told = write(Text("a"), ending=Ending(status="failed", error=error))
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["error"] == error


def test_a_tool_parser_feeds_the_writer() -> None:
    read_calls = with_calls(JsonCallsParser("<tool_call>", "</tool_call>", ""))
    said = 'I ask <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    deltas = [ChoiceDelta(0, letter, (1,)) for letter in said]
    deltas[-1].finish_reason = "stop"
    told = write(*(piece for delta in deltas for piece in read_calls(delta)))
    message, call = told[-1]["response"]["output"]
    assert message["content"][0]["text"].strip() == "I ask"
    assert (call["name"], json.loads(call["arguments"])) == ("f", {"a": 1})
    assert call["call_id"].startswith("call_")
    assert kinds(told)[-5:-1] == CALL


def test_plain_text_passes_silence_over() -> None:
    assert plain_text(ChoiceDelta(0, "", (1,))) == ()
    entry = TokenLogprob(1, -0.5)
    assert plain_text(ChoiceDelta(0, "", (1,), logprobs=(entry,))) == (Text("", (entry,)),)
