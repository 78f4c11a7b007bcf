"""The same search in process, on a Dendrite server and on an endpoint without forks: the same tree."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_core.search import (
    BeamSearch,
    Budget,
    Call,
    DendriteBackend,
    EngineBackend,
    Judge,
    MonteCarlo,
    PlainBackend,
    Propose,
    Sample,
    Search,
    Template,
    Tree,
    TreeOfThoughts,
)
from dendrite_core.search.methods.guided import Method
from tests.search.conftest import settled

FEW = Sample(SamplingParams(max_tokens=5, ignore_eos=True))
STOPPED = Sample(SamplingParams(max_tokens=12, stop=("e", "o", "t")))
PROMPT = "the tree of thoughts branches at every step"
MESSAGES = ({"role": "user", "content": "one two three"},)


JUDGE = Judge(
    prompt=Template("Is {last} good?"), labels={"e": 1.0}, votes=3, params=SamplingParams(max_tokens=6)
)
METHODS: list[Method] = [
    TreeOfThoughts(generator=FEW, width=2, branching=2),
    TreeOfThoughts(generator=STOPPED, width=2, branching=3, evaluator=JUDGE),
    TreeOfThoughts(generator=FEW, order="dfs", branching=2, evaluator=Call(lambda b: len(b.text) % 5 / 5)),
    MonteCarlo(generator=FEW, branching=2, expansions=4, policy="puct"),
    BeamSearch(width=3, max_tokens=8),
]


@pytest.mark.parametrize("number", range(len(METHODS)))
@pytest.mark.parametrize("prompt", [PROMPT, MESSAGES], ids=["text", "chat"])
async def test_http_equals_in_process(
    served: tuple[Engine, str], client: openai.AsyncOpenAI, number: int, prompt: Any
) -> None:
    engine, _ = served
    found = []
    over_http = DendriteBackend(client, "", end_ids=engine.tokenizer.eos_ids)
    over_http.model = (await client.models.list()).data[0].id
    for backend in (EngineBackend(engine), over_http):
        result = await Search(backend, prompt, METHODS[number], budget=Budget(depth=3), seed=5).run()
        # What of a judge's questions is cached hangs on the order in which they arrive.
        sent = (result.count.prompt, result.count.generated, result.count.requests)
        found.append(([(v.text, v.status, v.tokens) for v in result.tree], result.text, sent))
        assert settled(engine) == (0, 0)
    assert found[0] == found[1]


async def test_without_forks_the_same_tree_costs_more(
    remembering: tuple[Engine, str], distant: openai.AsyncOpenAI
) -> None:
    engine, _ = remembering
    model = (await distant.models.list()).data[0].id
    prompt = engine.tokenizer.encode_prompt(PROMPT)
    found = []
    for backend in (DendriteBackend(distant, model), PlainBackend(distant, model, token_ids=True)):
        method = TreeOfThoughts(generator=STOPPED, width=2, branching=3)
        result = await Search(backend, prompt, method, budget=Budget(depth=3), seed=5).run()
        found.append(([view.text for view in result.tree], result.count))
    assert found[0][0] == found[1][0]
    assert found[0][1].generated == found[1][1].generated
    assert found[0][1].computed <= found[1][1].computed


async def test_a_plain_endpoint_goes_on_with_a_chat(distant: openai.AsyncOpenAI) -> None:
    model = (await distant.models.list()).data[0].id
    async with Tree(PlainBackend(distant, model), MESSAGES) as tree:
        (first,) = await tree.root.extend(max_tokens=4, logit_bias={300: 100.0})
        (second,) = await first.extend(max_tokens=4)
        (third,) = await second.extend(prompt=({"role": "user", "content": "and?"},), max_tokens=4)
        said = first.text + second.text
        assert [getattr(part, "text", part) for part in third.place.history][-2] != said
        assert third.depth == 3


class Repeating:
    """A client whose server says the unfinished turn again before it goes on, as llama.cpp's does."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.client = client

    async def post(self, path: str, *, cast_to: type[Any], body: dict[str, Any]) -> Any:
        found: Any = await self.client.post(path, cast_to=cast_to, body=body)
        if body.get("continue_final_message"):
            for choice in found["choices"]:
                choice["message"]["content"] = body["messages"][-1]["content"] + choice["message"]["content"]
        return found

    async def delete(self, path: str, *, cast_to: type[Any]) -> Any:
        raise AssertionError("a plain endpoint has nothing to delete")


async def test_a_server_that_repeats_what_was_begun_is_understood(distant: openai.AsyncOpenAI) -> None:
    model = (await distant.models.list()).data[0].id
    found = []
    for client in (distant, Repeating(distant)):
        method = TreeOfThoughts(generator=STOPPED, width=2, branching=3)
        backend = PlainBackend(client, model)
        result = await Search(backend, MESSAGES, method, budget=Budget(depth=3), seed=5).run()
        found.append([view.text for view in result.tree])
    assert found[0] == found[1]
    assert len(found[0]) > 6


async def test_rewinding_and_proposing_over_http(
    served: tuple[Engine, str], client: openai.AsyncOpenAI
) -> None:
    engine, _ = served
    model = (await client.models.list()).data[0].id
    greedy = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    async with Tree(DendriteBackend(client, model), PROMPT) as tree:
        (stem,) = await tree.root.extend(params=greedy)
        (again,) = await stem.rewind(2).extend(params=greedy)
        assert again.tokens == 6
        children = await Propose(prompt=Template("{prompt}?"), params=greedy).grow(
            tree, [stem], 2, logprobs=False
        )
        for child in children[0]:
            assert await child.extend(params=greedy)
    assert settled(engine) == (0, 0)


async def test_cancelling_over_http_frees_every_page(
    served: tuple[Engine, str], client: openai.AsyncOpenAI
) -> None:
    engine, _ = served
    model = (await client.models.list()).data[0].id
    long = TreeOfThoughts(generator=Sample(SamplingParams(max_tokens=120, ignore_eos=True)), width=3)
    for wait in (0.0, 0.01, 0.05, 0.2):
        search = Search(DendriteBackend(client, model), PROMPT, long, budget=Budget(depth=3))
        running = asyncio.create_task(search.run())
        await asyncio.sleep(wait)
        search.cancel()
        assert (await running).reason in ("cancelled", "depth")
        assert settled(engine) == (0, 0)
