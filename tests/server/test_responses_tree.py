"""`previous_response_id` and conversations as edges of the tree, and what is done without a branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from dendrite_server.config import ServerConfig
from tests.checkpoints import tiny_tokenizer
from tests.server.conftest import MODEL, Serve, Server

# Digits alone: a random model's bytes are no text, and digits are told again in the tokens they were said in.
DIGITS = {str(token): 100 for token in tiny_tokenizer().encode("0123456789").ids}
LONG = "a page is never a block, a branch is an identity in the tree " * 8


def ask(http: httpx.Client, text: str | None, **fields: Any) -> dict[str, Any]:
    """A greedy response in digits, as the server sent it."""
    asked = {"model": MODEL, "input": text, "max_output_tokens": 6, "temperature": 0, **fields}
    asked["logit_bias"] = DIGITS
    answer = http.post("/v1/responses", json=asked)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    Response.model_validate(body, strict=True)
    return body


def text_of(body: dict[str, Any]) -> str:
    return "".join(part["text"] for item in body["output"] for part in item["content"])


def cached(body: dict[str, Any]) -> int:
    count: int = body["usage"]["input_tokens_details"]["cached_tokens"]
    return count


def test_several_responses_follow_one(http: httpx.Client) -> None:
    first = ask(http, LONG)
    children = [ask(http, more, previous_response_id=first["id"]) for more in ("one", "two", "three")]
    for child in children:
        assert child["previous_response_id"] == first["id"]
        assert child["tree"]["tree_id"] == first["tree"]["tree_id"]
        assert child["tree"]["parent_id"] == first["branch_id"]
        # All that was computed before is shared; the last token said was never fed to the model.
        assert child["tree"]["shared_tokens"] == first["usage"]["total_tokens"]
        assert cached(child) >= first["usage"]["total_tokens"] - 1
    branch = http.get(f"/v1/branches/{first['branch_id']}").json()
    assert len(branch["children"]) == 3


def test_a_fork_copies_nothing(http: httpx.Client, server: Server) -> None:
    first = ask(http, LONG)
    before = server.pages()["used"]
    bodies = [ask(http, "on", previous_response_id=first["id"]) for _ in range(4)]
    grown = server.pages()["used"] - before
    assert grown <= 4 * 3, f"four answers of a few tokens took {grown} pages"
    assert {text_of(body) for body in bodies} == {text_of(bodies[0])}


def test_following_says_what_the_whole_conversation_would(http: httpx.Client) -> None:
    first = ask(http, "one two three")
    second = ask(http, "four five", previous_response_id=first["id"])
    third = ask(http, "six", previous_response_id=second["id"])
    whole: Any = [
        {"role": "user", "content": "one two three"},
        *first["output"],
        {"role": "user", "content": "four five"},
        *second["output"],
        {"role": "user", "content": "six"},
    ]
    retold = ask(http, whole)
    assert retold["tree"]["tree_id"] != first["tree"]["tree_id"]
    assert text_of(retold) == text_of(third)
    assert retold["usage"]["input_tokens"] == third["usage"]["input_tokens"]
    listed = http.get(f"/v1/responses/{third['id']}/input_items?order=asc").json()["data"]
    assert [item["role"] for item in listed] == ["user", "assistant", "user", "assistant", "user"]


def test_nothing_new_goes_on_with_the_answer(http: httpx.Client, client: openai.OpenAI) -> None:
    whole = ask(http, "eight nine ten", max_output_tokens=12)
    first = ask(http, "eight nine ten", max_output_tokens=5)
    rest = ask(http, None, previous_response_id=first["id"], max_output_tokens=7)
    assert text_of(first) + text_of(rest) == text_of(whole)
    count = client.responses.input_tokens.count(model=MODEL, previous_response_id=first["id"])
    assert count.input_tokens == rest["usage"]["input_tokens"]


def test_input_tokens_of_a_fork(http: httpx.Client, client: openai.OpenAI) -> None:
    first = ask(http, "one two three")
    count = client.responses.input_tokens.count(model=MODEL, input="four", previous_response_id=first["id"])
    second = ask(http, "four", previous_response_id=first["id"])
    assert count.input_tokens == second["usage"]["input_tokens"]


def test_the_same_instructions_stay_on_the_branch(http: httpx.Client) -> None:
    first = ask(http, LONG, instructions="be a tree")
    same = ask(http, "on", previous_response_id=first["id"], instructions="be a tree")
    assert same["tree"]["parent_id"] == first["branch_id"]
    assert cached(same) >= first["usage"]["total_tokens"] - 1


@pytest.mark.parametrize("instructions", [None, "be a page"])
def test_other_instructions_begin_again(http: httpx.Client, instructions: str | None) -> None:
    first = ask(http, LONG, instructions="be a tree")
    other = ask(http, "on", previous_response_id=first["id"], instructions=instructions)
    assert other["tree"]["parent_id"] is None
    told: Any = [{"role": "user", "content": LONG}, *first["output"], {"role": "user", "content": "on"}]
    assert text_of(other) == text_of(ask(http, told, instructions=instructions))


def test_another_salt_does_not_share(http: httpx.Client) -> None:
    first = ask(http, LONG, cache_salt="mine")
    other = ask(http, "on", previous_response_id=first["id"], cache_salt="yours")
    assert other["tree"]["parent_id"] is None
    assert cached(other) == 0


def test_a_forgotten_branch_is_told_again(http: httpx.Client, server: Server) -> None:
    first = ask(http, LONG)
    forked = ask(http, "on", previous_response_id=first["id"])
    http.delete(f"/v1/branches/{first['branch_id']}").raise_for_status()
    again = ask(http, "on", previous_response_id=first["id"])
    assert again["tree"]["parent_id"] is None
    assert text_of(again) == text_of(forked)


def test_a_deleted_response_leaves_its_children(http: httpx.Client) -> None:
    first = ask(http, LONG)
    second = ask(http, "on", previous_response_id=first["id"])
    http.delete(f"/v1/responses/{first['id']}").raise_for_status()
    third = ask(http, "and on", previous_response_id=second["id"])
    assert third["tree"]["parent_id"] == second["branch_id"]
    assert cached(third) >= second["usage"]["total_tokens"] - 1


def test_a_branch_of_a_response_is_a_branch(http: httpx.Client) -> None:
    first = ask(http, LONG)
    chat = http.post(
        "/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "on"}],
            "parent_id": first["branch_id"],
            "max_tokens": 6,
            "temperature": 0,
            "logit_bias": DIGITS,
        },
    ).json()
    assert chat["tree"]["parent_id"] == first["branch_id"]
    followed = ask(http, "on", previous_response_id=first["id"])
    assert chat["choices"][0]["message"]["content"] == text_of(followed)


def test_what_is_kept_outlives_the_server(serve: Serve, tmp_path: Path) -> None:
    config = ServerConfig(store_path=str(tmp_path / "kept.sqlite"))
    server = serve(config)
    with httpx.Client(base_url=server.url, timeout=30) as before:
        first = ask(before, "one two three")
        second = ask(before, "four", previous_response_id=first["id"])
        gone = ask(before, "gone")
        before.delete(f"/v1/responses/{gone['id']}").raise_for_status()
    assert server.service is not None
    server.service.keep()
    with httpx.Client(base_url=serve(config).url, timeout=30) as after:
        assert after.get(f"/v1/responses/{first['id']}").json() == first
        assert after.get(f"/v1/responses/{gone['id']}").status_code == 404
        again = ask(after, "four", previous_response_id=first["id"])
        assert text_of(again) == text_of(second)
        assert again["tree"]["parent_id"] == first["branch_id"], "its branch is there again too"


# Conversations.


def test_a_conversation_is_a_branch_that_grows(http: httpx.Client) -> None:
    conversation = http.post("/v1/conversations", json={}).json()["id"]
    first = ask(http, LONG, conversation=conversation)
    second = ask(http, "on", conversation={"id": conversation})
    assert second["conversation"] == {"id": conversation}
    assert second["tree"]["parent_id"] == first["branch_id"]
    assert cached(second) >= first["usage"]["total_tokens"] - 1
    listed = http.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
    assert [item["role"] for item in listed] == ["user", "assistant", "user", "assistant"]
    assert text_of(second) == text_of(ask(http, "on", previous_response_id=first["id"]))


def test_items_added_by_hand_follow_the_branch(http: httpx.Client) -> None:
    conversation = http.post("/v1/conversations", json={}).json()["id"]
    first = ask(http, LONG, conversation=conversation)
    added = {"items": [{"role": "user", "content": "by hand"}]}
    http.post(f"/v1/conversations/{conversation}/items", json=added).raise_for_status()
    second = ask(http, None, conversation=conversation)
    assert second["tree"]["parent_id"] == first["branch_id"]
    assert text_of(second) == text_of(ask(http, "by hand", previous_response_id=first["id"]))


def test_an_item_taken_away_was_never_said(http: httpx.Client) -> None:
    items = [{"role": "user", "content": "aaa"}, {"role": "user", "content": "bbb"}]
    made = http.post("/v1/conversations", json={"items": items}).json()["id"]
    ask(http, "ccc", conversation=made)
    listed = http.get(f"/v1/conversations/{made}/items?order=asc").json()["data"]
    http.delete(f"/v1/conversations/{made}/items/{listed[0]['id']}").raise_for_status()
    second = ask(http, "ddd", conversation=made)
    assert second["tree"]["parent_id"] is None
    said: Any = [*listed[1:], {"role": "user", "content": "ddd"}]
    assert text_of(second) == text_of(ask(http, said))


def test_a_response_that_is_not_kept_still_adds_to_its_conversation(http: httpx.Client) -> None:
    conversation = http.post("/v1/conversations", json={}).json()["id"]
    first = ask(http, "one", conversation=conversation, store=False)
    second = ask(http, "two", conversation=conversation)
    assert second["tree"]["parent_id"] == first["branch_id"]


def test_a_past_is_one_or_the_other(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as both:
        client.responses.create(input="x", conversation="conv_1", previous_response_id="resp_1")
    assert both.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(input="x", conversation="conv_1")
    assert unknown.value.param == "conversation"
