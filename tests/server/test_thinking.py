"""A model that thinks before it speaks: a small one, taught three answers through a Qwen3-like template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from dendrite_core import Engine
from dendrite_server.config import ServerConfig
from tests.checkpoints import make_checkpoint, quietly
from tests.server.conftest import Server, listen
from tests.text.templates import QWEN3

USER: list[Any] = [{"role": "user", "content": "one or two"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "pick"}}]
THOUGHT, SAID = "two is the best branch", "two"
CALL = '<tool_call>\n{"name": "pick", "arguments": {"n": 2}}\n</tool_call>'
# What is asked, and what the model has learned to say to it.
LESSONS: list[tuple[dict[str, Any], str]] = [
    ({}, f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"),
    ({"enable_thinking": False}, SAID),
    ({"tools": TOOLS}, f"<think>\n{THOUGHT}\n</think>\n\n{CALL}"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = make_checkpoint(tmp_path_factory.mktemp("models") / "thinker", max_position_embeddings=1024)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": QWEN3}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    teach(folder)
    with Engine.from_pretrained(str(folder), num_pages=512, dtype="float32", threads=1) as engine:
        uvicorn, thread = listen(engine, ServerConfig(keep_alive=5, model_names=("thinker",)))
        port = uvicorn.servers[0].sockets[0].getsockname()[1]
        yield Server(engine, f"http://127.0.0.1:{port}", port)
        uvicorn.should_exit = True
    thread.join()


def teach(folder: Path) -> None:
    """Adam on the answers alone, until the greedy choice is the lesson's at every place."""
    with Engine.from_pretrained(str(folder), num_pages=64, dtype="float32", threads=1) as engine:
        asked = [engine.encode_chat(USER, continues=False, **template)[0] for template, _ in LESSONS]
        told = [[*engine.tokenizer.encode(text), *engine.tokenizer.eos_ids] for _, text in LESSONS]
    torch.manual_seed(0)
    model = quietly(AutoModelForCausalLM.from_pretrained, folder, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(400):
        right = True
        optimizer.zero_grad()
        for prompt, answer in zip(asked, told, strict=True):
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
            right = right and logits.argmax(-1).tolist() == answer
            torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).backward()
        if right:
            break
        optimizer.step()
    assert right, "the model did not learn"
    quietly(model.save_pretrained, folder)


def ask(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json={"messages": USER, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def streamed(
    http: httpx.Client, **fields: Any
) -> tuple[dict[str, str], list[dict[str, Any]], dict[str, Any]]:
    """(texts by the name of their delta, tool call deltas, usage) of a stream."""
    texts: dict[str, str] = {}
    calls: list[dict[str, Any]] = []
    usage: dict[str, Any] = {}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"messages": USER, "temperature": 0, **options, **fields}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk["usage"] or usage
            for choice in chunk["choices"]:
                calls += choice["delta"].get("tool_calls", [])
                for name in ("content", "reasoning", "reasoning_content"):
                    texts[name] = texts.get(name, "") + (choice["delta"].get(name) or "")
    return texts, calls, usage


def thought_tokens(server: Server) -> int:
    return len(server.engine.tokenizer.encode(f"<think>\n{THOUGHT}\n</think>"))


def test_a_thought_is_split_from_what_is_said(http: httpx.Client, server: Server) -> None:
    made = ask(http)
    message = made["choices"][0]["message"]
    assert (message["reasoning_content"], message["reasoning"]) == (THOUGHT, THOUGHT)
    assert message["content"] == SAID
    # The token that closes the thought may hold the blank line after it.
    assert made["usage"]["completion_tokens_details"]["reasoning_tokens"] == pytest.approx(
        thought_tokens(server), abs=1
    )


def test_a_stream_says_the_same(http: httpx.Client) -> None:
    texts, calls, usage = streamed(http)
    assert texts == {"content": SAID, "reasoning": THOUGHT, "reasoning_content": THOUGHT}
    assert calls == []
    assert usage == ask(http)["usage"] | {"prompt_tokens_details": usage["prompt_tokens_details"]}


def test_a_template_that_is_told_not_to_think(http: httpx.Client) -> None:
    made = ask(http, chat_template_kwargs={"enable_thinking": False})
    message = made["choices"][0]["message"]
    assert message["content"] == SAID
    assert "reasoning_content" not in message
    assert made["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_thoughts_are_left_out_where_they_are_not_wanted(http: httpx.Client) -> None:
    message = ask(http, include_reasoning=False)["choices"][0]["message"]
    assert message["content"] == SAID
    assert not message.keys() & {"reasoning", "reasoning_content"}
    texts, _, usage = streamed(http, include_reasoning=False)
    assert texts == {"content": SAID, "reasoning": "", "reasoning_content": ""}
    assert usage["completion_tokens_details"]["reasoning_tokens"] > 0, "they were generated all the same"


def test_a_call_comes_after_a_thought(http: httpx.Client) -> None:
    choice = ask(http, tools=TOOLS)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == THOUGHT
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("pick", {"n": 2})
    texts, deltas, _ = streamed(http, tools=TOOLS)
    assert texts == {"content": "", "reasoning": THOUGHT, "reasoning_content": THOUGHT}
    assert deltas[0]["function"]["name"] == "pick"
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]


def test_a_thought_that_is_cut_goes_on_as_one(http: httpx.Client, server: Server) -> None:
    """Wherever in the thought `max_tokens` falls, once or twice."""
    tokenizer, opening = server.engine.tokenizer, "<think>\n"
    ids = tokenizer.encode(LESSONS[0][1])
    ends = [len(tokenizer.decode(ids[:cut])) - len(opening) for cut in range(len(ids))]
    cuts = [cut for cut, end in enumerate(ends) if 0 < end <= len(THOUGHT)]
    assert len(cuts) > 5
    for cut in cuts[::4]:
        halves = [ask(http, max_tokens=cut)["choices"][0]]
        for most in (1, None):
            more = {"messages": [], "parent_id": halves[-1]["branch_id"], "max_tokens": most}
            halves.append(ask(http, **more)["choices"][0])
        messages = [half["message"] for half in halves]
        assert "".join(message.get("reasoning_content", "") for message in messages) == THOUGHT
        assert "".join(message["content"] for message in messages) == SAID


def test_responses_have_an_item_of_reasoning(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        made = client.responses.create(model="thinker", input=USER, temperature=0)
        assert [item.type for item in made.output] == ["reasoning", "message"]
        assert made.output[0].to_dict()["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
        assert made.output_text == SAID
        assert made.usage is not None
        assert made.usage.output_tokens_details.reasoning_tokens > 0
        with client.responses.stream(model="thinker", input=USER, temperature=0) as stream:
            events = list(stream)
            final = stream.get_final_response()
        assert final.output_text == SAID
        deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
        assert "".join(deltas) == THOUGHT
        assert final.usage == made.usage.model_copy(
            update={"input_tokens_details": final.usage and final.usage.input_tokens_details}
        )
