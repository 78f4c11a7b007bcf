"""The tree API: fork, continue, look, free; what is cached; and no page left behind."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import MODEL, Server

USER: Any = [{"role": "user", "content": "the tree of thoughts branches at every step"}]


def chat(http: httpx.Client, messages: Any = (), **fields: Any) -> dict[str, Any]:
    asked = {"messages": list(messages), "max_tokens": 6, "temperature": 0, "ignore_eos": True, **fields}
    answer = http.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def text_of(body: dict[str, Any], index: int = 0) -> str:
    text: str = body["choices"][index]["message"]["content"]
    return text


def branch_of(body: dict[str, Any], index: int = 0) -> str:
    name: str = body["choices"][index]["branch_id"]
    return name


def cached(body: dict[str, Any]) -> int:
    count: int = body["usage"]["prompt_tokens_details"]["cached_tokens"]
    return count


def test_a_fork_says_where_it_hangs(http: httpx.Client) -> None:
    body = chat(http, USER, n_branches=4, temperature=1)
    tree = body["tree"]
    assert set(tree) == {"tree_id", "parent_id", "prompt_branch_id", "fork_us", "shared_tokens"}
    assert tree["parent_id"] is None
    assert tree["shared_tokens"] == 0
    assert tree["fork_us"] > 0
    assert len({choice["branch_id"] for choice in body["choices"]} | {tree["prompt_branch_id"]}) == 5


def test_a_text_goes_on_mid_turn_as_if_never_interrupted(http: httpx.Client) -> None:
    whole = chat(http, USER, max_tokens=18)
    first = chat(http, USER)
    second = chat(http, parent_id=branch_of(first))
    third = chat(http, parent_id=second["id"])
    assert text_of(first) + text_of(second) + text_of(third) == text_of(whole)
    assert second["tree"]["parent_id"] == branch_of(first)
    assert second["tree"]["tree_id"] == first["tree"]["tree_id"]


def test_only_one_token_of_a_continued_branch_is_computed(http: httpx.Client) -> None:
    first = chat(http, USER)
    prompt = first["usage"]["prompt_tokens"]
    second = chat(http, parent_id=branch_of(first))
    assert second["usage"]["prompt_tokens"] == prompt + 6
    assert second["tree"]["shared_tokens"] == prompt + 6
    # A branch's tokens lead its KV by one: the last one drawn was never run through the model.
    assert cached(second) == prompt + 5


def test_a_new_turn_pays_for_the_turn_only(http: httpx.Client, server: Server) -> None:
    first = chat(http, USER)
    answer = chat(http, [{"role": "user", "content": "and then?"}], parent_id=branch_of(first))
    new = "<|im_end|>\n<|im_start|>user\nand then?<|im_end|>\n<|im_start|>assistant\n"
    known = first["usage"]["prompt_tokens"] + 6
    assert answer["usage"]["prompt_tokens"] == known + len(server.engine.tokenizer.encode(new, special=True))
    assert cached(answer) == known - 1


def test_a_finished_turn_is_not_closed_twice(http: httpx.Client, server: Server) -> None:
    end = server.engine.tokenizer.eos_ids[0]
    ended = chat(http, USER, ignore_eos=False, logit_bias={str(end): 100})
    assert ended["choices"][0]["finish_reason"] == "stop"
    answer = chat(http, [{"role": "user", "content": "and then?"}], parent_id=branch_of(ended))
    new = "\n<|im_start|>user\nand then?<|im_end|>\n<|im_start|>assistant\n"
    known = ended["usage"]["prompt_tokens"] + 1
    assert answer["usage"]["prompt_tokens"] == known + len(server.engine.tokenizer.encode(new, special=True))


def test_a_turn_after_a_branch_reads_as_the_whole_conversation(http: httpx.Client) -> None:
    first = chat(http, USER)
    said = {"role": "assistant", "content": text_of(first)}
    turn = {"role": "user", "content": "and then?"}
    by_branch = chat(http, [turn], parent_id=branch_of(first))
    assert text_of(by_branch)
    by_text = chat(http, [*USER, said, turn])
    if by_text["usage"]["prompt_tokens"] == by_branch["usage"]["prompt_tokens"]:
        assert text_of(by_text) == text_of(by_branch)


def test_siblings_are_asked_for_later(http: httpx.Client) -> None:
    first = chat(http, USER)
    more = chat(http, parent_id=first["tree"]["prompt_branch_id"], n_branches=3)
    assert [text_of(more, index) for index in range(3)] == [text_of(first)] * 3
    assert cached(more) == first["usage"]["prompt_tokens"] - 1


def test_a_parent_can_be_left_at_an_earlier_token(http: httpx.Client) -> None:
    first = chat(http, USER, return_token_ids=True, logprobs=True)
    for offset in range(7):
        again = chat(
            http,
            parent_id=branch_of(first),
            parent_offset=offset,
            max_tokens=7 - offset,
            return_token_ids=True,
        )
        assert again["choices"][0]["token_ids"][: 6 - offset] == first["choices"][0]["token_ids"][offset:]
    answer = http.post(
        "/v1/chat/completions", json={"messages": [], "parent_id": branch_of(first), "parent_offset": 7}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "parent_offset"


def test_a_chain_of_fifty(client: openai.OpenAI, server: Server) -> None:
    def ask(messages: Any, count: int, **extra: Any) -> Any:
        extra |= {"ignore_eos": True, "return_token_ids": True}
        return client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=count, temperature=0, extra_body=extra
        )

    step = ask(USER, 2)
    spoken, tokens = step.choices[0].token_ids, step.usage.total_tokens
    for _ in range(50):
        step = ask([], 2, parent_id=step.id)
        assert step.usage.prompt_tokens == tokens
        assert step.usage.prompt_tokens_details.cached_tokens == tokens - 1
        spoken, tokens = spoken + step.choices[0].token_ids, step.usage.total_tokens
    # Tokens, not texts: a step may end in the middle of a character.
    assert ask(USER, 102).choices[0].token_ids == spoken


def test_a_plain_prompt_finds_its_past_in_the_tree(http: httpx.Client, server: Server) -> None:
    messages = [{"role": "user", "content": "something nobody said before, at some length " * 3}]
    first, second = chat(http, messages), chat(http, messages)
    assert cached(first) < 16
    known, page = first["usage"]["prompt_tokens"] - 1, server.pages()["size"]
    assert known // page * page <= cached(second) <= known


def test_sixteen_branches_compute_their_prompt_once(http: httpx.Client, server: Server) -> None:
    def computed(n: int) -> int:
        before = server.engine.stats().result().prefill_tokens
        asked = {"prompt": [at % 256 for at in range(1000)], "cache_salt": f"{n} branches"}
        answer = http.post("/v1/completions", json={**asked, "n": n, "max_tokens": 4, "temperature": 1})
        assert answer.json()["usage"]["prompt_tokens"] == 1000
        assert cached(answer.json()) == 0
        return server.engine.stats().result().prefill_tokens - before

    assert computed(1) == computed(16) == 1000


def test_a_branch_and_its_tree_can_be_looked_at(http: httpx.Client) -> None:
    first = chat(http, USER, n_branches=2)
    second = chat(http, parent_id=branch_of(first))
    branch = http.get(f"/v1/branches/{branch_of(first)}").json()
    assert branch["object"] == "branch"
    assert branch["kind"] == "completion"
    assert branch["parent_id"] == first["tree"]["prompt_branch_id"]
    assert branch["children"] == [second["tree"]["prompt_branch_id"]]
    assert (branch["status"], branch["finish_reason"], branch["own_tokens"]) == ("idle", "length", 6)
    assert branch["text"] == text_of(first)
    assert http.get(f"/v1/branches/{second['id']}").json()["id"] == branch_of(second)
    tree = http.get(f"/v1/trees/{first['tree']['tree_id']}").json()
    names = [one["id"] for one in tree["branches"]]
    assert names[0] == first["tree"]["prompt_branch_id"]
    assert {*names} >= {branch_of(first, 0), branch_of(first, 1), branch_of(second)}
    for one in tree["branches"][1:]:
        assert names.index(one["parent_id"]) < names.index(one["id"])


def test_a_delete_prunes_what_hangs_below(http: httpx.Client) -> None:
    first = chat(http, USER, n_branches=2)
    second = chat(http, parent_id=branch_of(first))
    gone = http.delete(f"/v1/branches/{branch_of(first)}").json()
    assert gone["deleted"] is True
    assert {*gone["released"]} == {branch_of(first), second["tree"]["prompt_branch_id"], branch_of(second)}
    assert http.get(f"/v1/branches/{branch_of(second)}").status_code == 404
    assert http.get(f"/v1/branches/{branch_of(first, 1)}").status_code == 200


def test_a_branch_can_be_pinned_scored_and_unpinned(http: httpx.Client) -> None:
    name = branch_of(chat(http, USER))

    def update(**fields: Any) -> Any:
        return http.post(f"/v1/branches/{name}", json=fields)

    pinned = update(pinned=True, ttl=60, metadata={"score": 0.5}).json()
    assert pinned["pinned"] is True
    assert 0 < pinned["pinned_for"] <= 60
    assert update(metadata={"visits": 3}).json()["metadata"] == {"score": 0.5, "visits": 3}
    assert update(pinned=False).json()["pinned"] is False
    assert http.get(f"/v1/branches/{name}").json()["metadata"] == {"score": 0.5, "visits": 3}
    for bad, param in (({"ttl": 3}, "ttl"), ({"metadata": 3}, "metadata"), ({"pin": True}, "pin")):
        assert update(**bad).status_code == 400
        assert update(**bad).json()["error"]["param"] == param


def test_what_is_noted_of_a_branch_is_bounded_in_sum(http: httpx.Client) -> None:
    name = branch_of(chat(http, USER))

    def note(**fields: Any) -> httpx.Response:
        return http.post(f"/v1/branches/{name}", json=fields)

    def size(metadata: dict[str, str]) -> int:
        return len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")))

    held = {"a": "ä" * 8000, "b": "b" * 8000}
    assert note(metadata={"a": held["a"]}).status_code == 200
    assert note(metadata={"b": held["b"]}).status_code == 200
    room = 16_384 - size({**held, "c": ""})
    refused = note(metadata={"c": "c" * (room + 1)}, pinned=True)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "metadata", "invalid_value")
    shown = http.get(f"/v1/branches/{name}").json()
    assert (shown["metadata"], shown["pinned"]) == (held, False)
    assert note(metadata={"c": "c" * room}).status_code == 200
    assert note(metadata={"a": "short"}).json()["metadata"]["a"] == "short"


def test_a_branch_that_is_deleted_while_it_runs_says_so(http: httpx.Client, server: Server) -> None:
    asked = {"messages": USER, "max_tokens": 1500, "n": 2, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/chat/completions", json=asked) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
        chunks = (json.loads(line.removeprefix("data: ")) for line in lines)
        names = [next(chunks)["choices"][0]["branch_id"] for _ in range(2)]
        reasons: dict[int, str] = {}
        for name in names:
            httpx.delete(f"{server.url}/v1/branches/{name}")
        for chunk in chunks:
            choice = chunk["choices"][0]
            if choice["finish_reason"]:
                reasons[choice["index"]] = choice["finish_reason"]
    assert reasons == {0: "abort", 1: "abort"}


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_what_does_not_exist_is_not_found(http: httpx.Client, verb: str) -> None:
    answer = http.request(verb, "/v1/branches/branch_none")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "branch_not_found"
    assert answer.json()["error"]["param"] == "branch_id"
    assert http.get("/v1/trees/tree_none").json()["error"]["param"] == "tree_id"


def test_no_page_is_left_after_everything_is_deleted(serve: Any) -> None:
    server: Server = serve()
    with httpx.Client(base_url=server.url, timeout=30) as http:
        roots = []
        for word in ("one", "two", "three"):
            body = chat(http, [{"role": "user", "content": word * 20}], n_branches=8, temperature=1)
            roots.append(body["tree"]["prompt_branch_id"])
            for index in range(8):
                child = chat(http, parent_id=branch_of(body, index), n_branches=2, temperature=1)
                chat(http, [{"role": "user", "content": "go on"}], parent_id=branch_of(child))
        pages = server.pages()
        assert pages["used"] > pages["shared"] > 0
        for root in roots:
            http.delete(f"/v1/branches/{root}")
        pages = server.pages()
        assert (pages["used"], pages["shared"], pages["branches"]) == (0, 0, 0)
        assert pages["free"] + pages["cached"] == pages["total"]


async def test_a_parent_may_still_be_generating(aclient: openai.AsyncOpenAI) -> None:
    stream = await aclient.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=300, stream=True, extra_body={"ignore_eos": True}
    )
    parts: list[str] = []
    child = None
    async for chunk in stream:
        if chunk.choices[0].delta.role:
            parent = (chunk.choices[0].model_extra or {})["branch_id"]
        parts.append(chunk.choices[0].delta.content or "")
        if len(parts) == 10:
            child = await aclient.chat.completions.create(
                model=MODEL, messages=[], max_tokens=4, extra_body={"parent_id": parent, "ignore_eos": True}
            )
    assert child is not None
    assert child.usage is not None
    assert child.model_extra is not None
    assert child.model_extra["tree"]["parent_id"] == parent
    assert len(parts) > 100
