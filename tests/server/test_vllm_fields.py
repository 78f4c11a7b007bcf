"""Fields of vLLM's and of OpenAI's past that users still send: that each does what it says, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from dendrite_core import Engine
from dendrite_server.config import ServerConfig
from tests.server.conftest import Serve, Server, listen

USER: list[Any] = [{"role": "user", "content": "the tree of thoughts"}]


def chat(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json={"messages": USER, "max_tokens": 40, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def complete(http: httpx.Client, prompt: Any, **fields: Any) -> dict[str, Any]:
    answer = http.post(
        "/v1/completions", json={"prompt": prompt, "max_tokens": 4, "temperature": 0, **fields}
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refusal(http: httpx.Client, path: str, **fields: Any) -> dict[str, Any]:
    answer = http.post(path, json=fields)
    assert answer.status_code == 400, answer.text
    return dict(answer.json()["error"])


# --- what may be drawn -----------------------------------------------------------------------------------


def test_only_allowed_tokens_are_drawn(http: httpx.Client) -> None:
    allowed = [70, 71, 300]
    made = chat(http, allowed_token_ids=allowed, n=8, temperature=2, return_token_ids=True, seed=1)
    drawn = {token for choice in made["choices"] for token in choice["token_ids"]}
    assert drawn == set(allowed)


def test_a_bad_word_is_not_said_in_its_own_tokens(http: httpx.Client, server: Server) -> None:
    """The word is two tokens that the model would say one after the other; the first alone is still said."""
    tokenizer = server.engine.tokenizer
    said = chat(http, temperature=0, return_token_ids=True)["choices"][0]["token_ids"]
    pairs = list(pairwise(said))
    word = next(p for p in pairs if tuple(tokenizer.encode(tokenizer.decode(p))) == p and p[0] != p[1])
    at = pairs.index(word)
    without = chat(http, temperature=0, return_token_ids=True, bad_words=[tokenizer.decode(word)])
    ids = without["choices"][0]["token_ids"]
    assert ids[: at + 1] == said[: at + 1]
    assert ids[at + 1] != said[at + 1]
    assert word not in pairwise(ids)


def test_a_request_that_leaves_nothing_to_draw_is_told_so(http: httpx.Client, server: Server) -> None:
    """The end is the only token allowed, and it may not come yet."""
    (end,) = server.engine.tokenizer.eos_ids
    fields = {"messages": USER, "allowed_token_ids": [end], "min_tokens": 5}
    assert refusal(http, "/v1/chat/completions", **fields)["param"] == "allowed_token_ids"
    constrained = {"messages": USER, "allowed_token_ids": [70], "guided_regex": "[0-9]+"}
    assert refusal(http, "/v1/chat/completions", **constrained)["param"] == "allowed_token_ids"


def test_tokens_that_a_grammar_forces_are_asked_for_permission(http: httpx.Client, server: Server) -> None:
    ids = server.engine.tokenizer.encode("branch")
    fields: dict[str, Any] = {"guided_choice": ["branching"], "temperature": 0}
    assert chat(http, **fields)["choices"][0]["message"]["content"] == "branching"
    error = refusal(http, "/v1/chat/completions", messages=USER, **fields, allowed_token_ids=ids)
    assert error["param"] == "allowed_token_ids"


# --- prompts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "kept"), [("left", slice(-5, None)), ("right", slice(5)), (None, slice(-5, None))]
)
def test_a_prompt_is_cut_to_so_many_tokens(http: httpx.Client, side: str | None, kept: slice) -> None:
    ids = list(range(60, 80))
    cut = complete(http, ids, truncate_prompt_tokens=5, truncation_side=side, echo=True, logprobs=0)
    assert cut["usage"]["prompt_tokens"] == 5
    assert cut["choices"][0] | {"branch_id": ""} == complete(http, ids[kept], echo=True, logprobs=0)[
        "choices"
    ][0] | {"branch_id": "", "usage": cut["choices"][0]["usage"]}
    long = complete(http, [*ids] * 200, truncate_prompt_tokens=-1)
    assert long["usage"]["prompt_tokens"] == 2048 - 4


def test_chats_are_cut_as_well_but_not_what_follows_a_branch(http: httpx.Client) -> None:
    made = chat(http, truncate_prompt_tokens=7, max_tokens=2)
    assert made["usage"]["prompt_tokens"] == 7
    fields = {"messages": USER, "parent_id": made["id"], "truncate_prompt_tokens": 7}
    assert refusal(http, "/v1/chat/completions", **fields)["code"] == "unsupported_parameter"


def test_a_request_may_bring_its_id(http: httpx.Client) -> None:
    for path, body in (("chat/completions", {"messages": USER}), ("completions", {"prompt": "a"})):
        answer = http.post(f"/v1/{path}", json={**body, "max_tokens": 1, "request_id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
    bad = refusal(http, "/v1/completions", prompt="a", request_id="no spaces")
    assert (bad["param"], bad["code"]) == ("request_id", "invalid_value")


TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"


def test_a_template_of_the_requests_own_where_the_server_trusts_it(serve: Serve) -> None:
    trusting = serve(ServerConfig(trust_request_chat_template=True))
    with httpx.Client(base_url=trusting.url, timeout=30) as http:
        body = {"messages": USER, "chat_template": TEMPLATE}
        expected = trusting.engine.tokenizer.encode("u:the tree of thoughts;")
        assert http.post("/tokenize", json=body).json()["tokens"] == expected
        assert chat(http, chat_template=TEMPLATE)["usage"]["prompt_tokens"] == len(expected)
        for broken, param in (("{% if %}", "chat_template"), ("{{ nothing.at.all }}", "messages")):
            fields = {"messages": USER, "chat_template": broken}
            assert refusal(http, "/v1/chat/completions", **fields)["param"] == param


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_a_template_is_refused_where_it_is_not_trusted(http: httpx.Client, path: str) -> None:
    error = refusal(http, path, messages=USER, chat_template=TEMPLATE)
    assert (error["param"], error["code"]) == ("chat_template", "unsupported_parameter")


# --- whitespace in JSON ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"json": {"const": [1, 2]}, "whitespace_pattern": ""}},
        {"structured_outputs": {"json": {"const": [1, 2]}, "disable_any_whitespace": True}},
        {"guided_json": {"const": [1, 2]}, "guided_whitespace_pattern": ""},
    ],
    ids=str,
)
def test_whitespace_is_what_was_said(http: httpx.Client, fields: dict[str, Any]) -> None:
    made = chat(http, temperature=2, n=8, **fields)
    assert {choice["message"]["content"] for choice in made["choices"]} == {"[1,2]"}


# --- functions, as they were before there were tools -----------------------------------------------------

FUNCTION = {
    "name": "calculator",
    "description": "Evaluate an arithmetic expression.",
    "parameters": {
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "The expression, e.g. 2 + 3 * 4"}},
        "required": ["expression"],
        "additionalProperties": False,
    },
}
SUM: list[Any] = [{"role": "user", "content": "What is 1234 * 5678?"}]


@pytest.fixture(scope="module")
def embedded() -> Iterator[httpx.Client]:
    path = str(files("dendrite_core") / "embedded")
    with Engine.from_pretrained(path, num_pages=1024, dtype="float32", threads=1) as engine:
        uvicorn, thread = listen(engine, ServerConfig(keep_alive=5, model_names=("dendrite",)))
        port = uvicorn.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
        uvicorn.should_exit = True
    thread.join()


@pytest.mark.parametrize("choice", [None, "auto", {"name": "calculator"}])
def test_a_function_is_called_as_before_there_were_tools(embedded: httpx.Client, choice: Any) -> None:
    fields = {"messages": SUM, "functions": [FUNCTION], "temperature": 0, "function_call": choice}
    whole = embedded.post("/v1/chat/completions", json={**fields, "max_tokens": 100}).json()
    ChatCompletion.model_validate(whole, strict=True)
    made = whole["choices"][0]
    assert made["finish_reason"] == "function_call"
    assert made["message"]["content"] is None
    assert "tool_calls" not in made["message"]
    call = made["message"]["function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("calculator", {"expression": "1234 * 5678"})

    name, arguments, reasons = "", "", []
    with embedded.stream("POST", "/v1/chat/completions", json={**fields, "stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunk = ChatCompletionChunk.model_validate_json(line[6:], strict=True).choices[0]
                reasons.append(chunk.finish_reason)
                if chunk.delta.function_call is not None:
                    name += chunk.delta.function_call.name or ""
                    arguments += chunk.delta.function_call.arguments or ""
    assert (name, arguments, reasons[-1]) == (call["name"], call["arguments"], "function_call")

    told = [*SUM, made["message"], {"role": "function", "name": name, "content": "7006652"}]
    said = embedded.post("/v1/chat/completions", json={**fields, "messages": told, "function_call": "auto"})
    assert said.json()["choices"][0]["message"]["content"] == "1234 * 5678 = 7006652."


def test_no_function_is_called_where_none_may_be(embedded: httpx.Client) -> None:
    fields = {"messages": SUM, "functions": [FUNCTION], "function_call": "none", "max_tokens": 20}
    assert (
        "function_call"
        not in embedded.post("/v1/chat/completions", json=fields).json()["choices"][0]["message"]
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [FUNCTION], "tools": []}, "functions"),
        ({"functions": [FUNCTION], "function_call": "required"}, "function_call"),
        ({"functions": [FUNCTION], "function_call": {"name": "other"}}, "function_call"),
        ({"functions": [{"name": ""}]}, "functions[0].name"),
        ({"function_call": "auto"}, "function_call"),
        (
            {
                "functions": [{"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}],
                "function_call": {"name": "f"},
            },
            "functions[0].parameters",
        ),
    ],
    ids=str,
)
def test_a_mistake_in_functions_is_named_as_it_was_written(
    embedded: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    assert refusal(embedded, "/v1/chat/completions", messages=SUM, **fields)["param"] == param


def test_the_tokens_of_a_chat_with_tools_can_be_counted(embedded: httpx.Client) -> None:
    tools = [{"type": "function", "function": FUNCTION}]
    counted = embedded.post("/tokenize", json={"messages": SUM, "tools": tools}).json()["count"]
    used = embedded.post(
        "/v1/chat/completions", json={"messages": SUM, "tools": tools, "max_tokens": 1}
    ).json()
    assert used["usage"]["prompt_tokens"] == counted


@pytest.mark.parametrize("framed", [True, False])
def test_special_tokens_around_a_prompt_are_the_tokenizers(serve: Serve, framed: bool) -> None:
    """With a model whose raw prompts begin with a token of its own."""
    server = serve()
    server.engine.tokenizer.prompt_prefix = (1,)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        extra = {"add_special_tokens": framed}
        text = client.completions.create(model="tiny", prompt="a tree", max_tokens=1, extra_body=extra)
        chat = client.chat.completions.create(model="tiny", messages=USER, max_tokens=1, extra_body=extra)
    with httpx.Client(base_url=server.url) as http:
        for made, asked in ((text, {"prompt": "a tree"}), (chat, {"messages": USER})):
            count = http.post("/tokenize", json={**asked, "add_special_tokens": framed}).json()["tokens"]
            assert made.usage is not None
            assert made.usage.prompt_tokens == len(count)
            assert (count[0] == 1 and count[1] != 1) == framed or "messages" in asked
            assert (count[:2] == [1, 1]) == (framed and "messages" in asked), "<|im_start|> is token 1 too"
