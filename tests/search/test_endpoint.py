"""`POST /v1/search` and `search` in a chat completion: as JSON, with events, cancelled, refused by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_core.search import Budget, EngineBackend, Sample, Search, TreeOfThoughts
from tests.search.conftest import settled

MESSAGES = [{"role": "user", "content": "one two three"}]
THOUGHT = {"type": "sample", "max_tokens": 5, "ignore_eos": True}
TOT = {"type": "tot", "width": 2, "branching": 2}
PLAN: dict[str, Any] = {"method": TOT, "generator": THOUGHT, "budget": {"depth": 3}, "seed": 5}


@pytest.fixture
def http(served: tuple[Engine, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[1], timeout=20) as client:
        yield client


def post(http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_search_over_http_is_the_search_in_process(
    served: tuple[Engine, str], http: httpx.Client
) -> None:
    method = TreeOfThoughts(
        generator=Sample(SamplingParams(max_tokens=5, ignore_eos=True)), width=2, branching=2
    )
    here = await Search(EngineBackend(served[0]), MESSAGES, method, budget=Budget(depth=3), seed=5).run()
    there = await asyncio.to_thread(post, http, {"messages": MESSAGES, **PLAN})
    assert [view["text"] for view in there["tree"]] == [view.text for view in here.tree]
    assert there["result"]["text"] == here.text
    assert there["status"] == "completed"
    answer = there["completion"]["choices"][0]
    assert answer["message"]["content"] == here.text
    # The answer is a branch like any other, until the search is deleted.
    more = {"prompt": "", "parent_id": answer["branch_id"], "max_tokens": 2}
    assert (await asyncio.to_thread(http.post, "/completions", json=more)).status_code == 200
    assert http.delete(f"/search/{there['id']}").json()["deleted"] is True
    assert settled(served[0]) == (0, 0)
    assert http.get(f"/search/{there['id']}").status_code == 404


METHODS = [
    {"type": "tot", "order": "dfs", "branching": 2, "threshold": 0.0},
    {"type": "mcts", "expansions": 3, "policy": "puct", "widening": 2.0, "rollout": THOUGHT},
    {"type": "beam", "width": 2, "max_tokens": 4},
    {"type": "best_of_n", "n": 3, "wave": 2},
    {"type": "self_consistency", "n": 3, "answer": "(.)"},
    "tot",
]
EVALUATORS: list[dict[str, Any] | None] = [
    None,
    {"type": "logprob", "last_only": True},
    {"type": "judge", "prompt": "{last}?", "labels": {"e": 1}, "votes": 2, "max_tokens": 3},
    {"type": "regex", "pattern": "e"},
    {"type": "json", "required": ["a"]},
]


@pytest.mark.parametrize("number", range(len(METHODS)))
def test_every_method_and_evaluator(served: tuple[Engine, str], http: httpx.Client, number: int) -> None:
    beam = isinstance(METHODS[number], dict) and METHODS[number]["type"] == "beam"  # type: ignore[index]
    for evaluator in EVALUATORS[: 1 if beam else None]:
        plan = {"method": METHODS[number], "budget": {"nodes": 8, "depth": 2}}
        plan |= {} if beam else {"generator": THOUGHT, "evaluator": evaluator}
        found = post(http, {"prompt": "the tree", "goal": {"type": "regex", "pattern": "zzz"}, **plan})
        assert found["status"] == "completed", found
        assert 1 < len(found["tree"]) <= 9
        http.delete(f"/search/{found['id']}")
    assert settled(served[0]) == (0, 0)


def test_events_come_while_the_tree_grows(served: tuple[Engine, str], http: httpx.Client) -> None:
    events = []
    with http.stream("POST", "/search", json={"messages": MESSAGES, "stream": True, **PLAN}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append((kind, json.loads(line[6:])))  # noqa: F821
            elif line.startswith("event: "):
                kind = line[7:]  # noqa: F841
    kinds = [kind for kind, _ in events]
    assert kinds[:3] == ["created", "expanded", "scored"]
    assert kinds[-2:] == ["finished", "completed"]
    whole = events[-1][1]
    assert whole == http.get(f"/search/{whole['id']}").json()
    grown = [view["id"] for kind, event in events if kind == "expanded" for view in event["branches"]]
    assert grown == [view["id"] for view in whole["tree"][1:]]
    http.delete(f"/search/{whole['id']}")
    assert settled(served[0]) == (0, 0)


LONG = {
    "method": "tot",
    "generator": {"max_tokens": 200, "ignore_eos": True},
    "budget": {"nodes": 500, "depth": 2},
}


def test_cancel_and_hanging_up_free_every_page(served: tuple[Engine, str], http: httpx.Client) -> None:
    found = post(http, {"messages": MESSAGES, "background": True, **LONG})
    assert found["status"] == "in_progress"
    cancelled = http.post(f"/search/{found['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert settled(served[0]) == (0, 0)
    with http.stream("POST", "/search", json={"messages": MESSAGES, "stream": True, **LONG}) as answer:
        next(answer.iter_lines())
    assert settled(served[0]) == (0, 0)
    with pytest.raises(httpx.ReadTimeout):
        http.post("/search", json={"messages": MESSAGES, **LONG}, timeout=0.1)
    assert settled(served[0]) == (0, 0)


async def test_one_better_answer_and_nothing_else_changed(
    served: tuple[Engine, str], client: openai.AsyncOpenAI
) -> None:
    search = {"method": {"type": "best_of_n", "n": 4}, "seed": 2}
    settings: dict[str, Any] = {"model": "", "messages": MESSAGES, "max_tokens": 6, "temperature": 0.9}
    settings["model"] = (await client.models.list()).data[0].id
    answer = await client.chat.completions.create(**settings, extra_body={"search": search})
    assert len(answer.model_extra["search"]["tree"]) == 5  # type: ignore[index]
    stream = await client.chat.completions.create(**settings, extra_body={"search": search}, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == answer.choices[0].message.content
    for chosen in (answer.id,):
        await client.delete(f"/branches/{chosen}", cast_to=object)


async def test_a_chats_own_fields_are_those_of_its_search(client: openai.AsyncOpenAI) -> None:
    model = (await client.models.list()).data[0].id

    async def texts(generator: dict[str, Any] | None = None, **fields: Any) -> list[str]:
        plan = {"method": {"type": "best_of_n", "n": 3}, "generator": generator}
        answer = await client.chat.completions.create(
            model=model, messages=MESSAGES, extra_body={"search": plan}, **fields
        )
        await client.delete(f"/branches/{answer.id}", cast_to=object)
        return [view["text"] for view in answer.model_extra["search"]["tree"][1:]]  # type: ignore[index]

    assert await texts(seed=1, max_tokens=8) != await texts(seed=2, max_tokens=8)
    # Greedy answers are all alike, whether the generator is left out or only silent about it.
    for generator in (None, {"ignore_eos": True}):
        first, *others = await texts(generator, temperature=0, max_tokens=8)
        assert others == [first, first]
    assert len(set(await texts({"temperature": 1}, temperature=0, max_tokens=8, seed=1))) == 3
    digits = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [17]}}}
    assert await texts(response_format=digits) == ["17"] * 3
    assert await texts({"response_format": digits}) == ["17"] * 3


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"parent_id": "branch_1"}, "parent_id"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"store": True}, "store"),
        ({"search": {"method": "beam"}, "temperature": 0.5}, "temperature"),
        ({"search": {"method": "beam"}, "response_format": {"type": "json_object"}}, "response_format"),
        ({"search": {"method": {"type": "self_consistency", "distinct": True}}}, "search.method.distinct"),
        ({"search": 1}, "search"),
    ],
)
def test_what_an_answer_by_search_has_no_use_for_is_refused(
    http: httpx.Client, change: dict[str, Any], param: str
) -> None:
    body = {"messages": MESSAGES, "search": {"method": "best_of_n"}, **change}
    answer = http.post("/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"method": "magic"}, "method.type"),
        ({"method": {"type": "tot", "width": 0}}, "method.width"),
        ({"method": {"type": "tot", "depth": 2}}, "method.depth"),
        ({"budget": {"tokens": 0}}, "budget.tokens"),
        ({"generator": {"type": "sample", "temperature": "hot"}}, "generator.temperature"),
        ({"generator": {"type": "propose"}}, "generator.prompt"),
        ({"generator": {"structured_outputs": {}}}, "generator.structured_outputs.json"),
        ({"generator": {"response_format": {"type": "python"}}}, "generator.response_format"),
        (
            {"generator": {"response_format": {"type": "structural_tag", "structures": []}}},
            "generator.response_format.triggers",
        ),
        (
            {"generator": {"response_format": {"type": "json_object"}, "guided_regex": "a"}},
            "generator.response_format",
        ),
        ({"evaluator": {"type": "regex", "pattern": "("}}, "evaluator.pattern"),
        ({"evaluator": {"type": "judge", "prompt": "?", "labels": {"a": "b"}}}, "evaluator.labels.a"),
        ({"goal": {}}, "goal.type"),
        ({"messages": None}, "messages"),
        ({"colour": 1}, "colour"),
        ({"stream": True, "background": True}, "background"),
    ],
)
def test_mistakes_are_named(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    answer = http.post("/search", json={"messages": MESSAGES, **PLAN, **change})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
