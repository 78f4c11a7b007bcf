"""Agent frameworks on OpenAI's SDK: pydantic-ai and openai-agents, over chat completions and responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from compat_tests.conftest import MODEL, Abilities

pytestmark = pytest.mark.clients

pydantic_ai = pytest.importorskip("pydantic_ai", reason="the extra 'compat' is missing")
agents = pytest.importorskip("agents", reason="the extra 'compat' is missing")

SETTINGS: dict[str, Any] = {"temperature": 0, "max_tokens": 60}


class Verdict(BaseModel):
    """Small enough that any model ends it."""

    good: bool
    points: int = Field(ge=0, le=9)


@pytest.fixture
async def sdk(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


def pydantic_model(sdk: openai.AsyncOpenAI, api: str) -> Any:
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    kind = OpenAIChatModel if api == "chat" else OpenAIResponsesModel
    return kind(MODEL, provider=OpenAIProvider(openai_client=sdk))


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_pydantic_ai_talks_and_goes_on(sdk: openai.AsyncOpenAI, api: str) -> None:
    agent = pydantic_ai.Agent(pydantic_model(sdk, api), system_prompt="Be brief.", model_settings=SETTINGS)
    first = await agent.run("Hello")
    second = await agent.run("And you?", message_history=first.all_messages())
    assert first.output
    assert second.output
    assert second.usage.input_tokens > first.usage.input_tokens


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_pydantic_ai_streams_what_it_says(sdk: openai.AsyncOpenAI, api: str) -> None:
    agent = pydantic_ai.Agent(pydantic_model(sdk, api), model_settings=SETTINGS)
    whole = (await agent.run("Hello")).output
    async with agent.run_stream("Hello") as run:
        pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == whole
    assert len(pieces) > 1


async def test_pydantic_ai_reads_a_constrained_output(sdk: openai.AsyncOpenAI, abilities: Abilities) -> None:
    if not abilities.formats:
        pytest.skip("this server does not constrain its output")
    wanted = pydantic_ai.NativeOutput(Verdict)
    agent = pydantic_ai.Agent(pydantic_model(sdk, "chat"), output_type=wanted, model_settings=SETTINGS)
    assert isinstance((await agent.run("Judge: 4 6 13")).output, Verdict)


async def test_pydantic_ai_reads_a_tools_arguments(sdk: openai.AsyncOpenAI, abilities: Abilities) -> None:
    """Its way to an object: a tool that must be called, whose arguments are the object."""
    if not abilities.tools:
        pytest.skip("this server does not call tools")
    wanted = pydantic_ai.ToolOutput(Verdict, strict=True)
    agent = pydantic_ai.Agent(pydantic_model(sdk, "chat"), output_type=wanted, model_settings=SETTINGS)
    assert isinstance((await agent.run("Judge: 4 6 13")).output, Verdict)


def agent_of(sdk: openai.AsyncOpenAI, api: str, **more: Any) -> Any:
    kind = agents.OpenAIChatCompletionsModel if api == "chat" else agents.OpenAIResponsesModel
    settings = agents.ModelSettings(**SETTINGS)
    model = kind(model=MODEL, openai_client=sdk)
    return agents.Agent(name="one", instructions="Be brief.", model=model, model_settings=settings, **more)


@pytest.fixture
def quiet() -> None:
    """Traces would be sent to OpenAI."""
    agents.set_tracing_disabled(True)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_openai_agents_run_and_go_on(sdk: openai.AsyncOpenAI, api: str) -> None:
    agent = agent_of(sdk, api)
    first = await agents.Runner.run(agent, "Hello")
    again = [*first.to_input_list(), {"role": "user", "content": "And you?"}]
    second = await agents.Runner.run(agent, again)
    assert first.final_output
    assert second.final_output
    assert second.context_wrapper.usage.input_tokens_details.cached_tokens > 0


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_openai_agents_stream(sdk: openai.AsyncOpenAI, api: str) -> None:
    run = agents.Runner.run_streamed(agent_of(sdk, api), "Hello")
    kinds = [event.type async for event in run.stream_events()]
    assert {"raw_response_event", "run_item_stream_event"} <= set(kinds)
    assert run.final_output == (await agents.Runner.run(agent_of(sdk, api), "Hello")).final_output


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_openai_agents_read_an_object(sdk: openai.AsyncOpenAI, abilities: Abilities, api: str) -> None:
    if not abilities.formats:
        pytest.skip("this server does not constrain its output")
    run = await agents.Runner.run(agent_of(sdk, api, output_type=Verdict), "Judge: 4 6 13")
    assert isinstance(run.final_output, Verdict)


# A run of tools: the model asks, the tool answers, the model says so.

SUM = "What is 1234 * 5678?"


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression."""
    CALLED.append(expression)
    return "7006652"


CALLED: list[str] = []


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_pydantic_ai_runs_a_tool(sdk: openai.AsyncOpenAI, abilities: Abilities, api: str) -> None:
    if not abilities.tools:
        pytest.skip("this server does not call tools")
    CALLED.clear()
    agent = pydantic_ai.Agent(pydantic_model(sdk, api), tools=[calculator], model_settings=SETTINGS)
    assert "7006652" in (await agent.run(SUM)).output
    assert CALLED == ["1234 * 5678"]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_openai_agents_run_a_tool(
    sdk: openai.AsyncOpenAI, abilities: Abilities, api: str, streamed: bool
) -> None:
    if not abilities.tools:
        pytest.skip("this server does not call tools")
    CALLED.clear()
    agent = agent_of(sdk, api, tools=[agents.function_tool(calculator)])
    agent.instructions = None
    if streamed:
        run = agents.Runner.run_streamed(agent, SUM)
        async for _ in run.stream_events():
            pass
    else:
        run = await agents.Runner.run(agent, SUM)
    assert "7006652" in run.final_output
    assert CALLED == ["1234 * 5678"]


async def test_mistakes_are_told_in_each_frameworks_words(sdk: openai.AsyncOpenAI) -> None:
    hot = {**SETTINGS, "temperature": 9}
    agent = pydantic_ai.Agent(pydantic_model(sdk, "chat"), model_settings=hot)
    with pytest.raises(pydantic_ai.exceptions.ModelHTTPError, match="temperature") as caught:
        await agent.run("Hello")
    assert caught.value.status_code == 400
    other = agent_of(sdk, "responses")
    other.model_settings = agents.ModelSettings(**hot)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await agents.Runner.run(other, "Hello")
