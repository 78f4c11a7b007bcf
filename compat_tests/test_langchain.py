"""LangChain's `ChatOpenAI` under LangChain's own standard suite for chat models.

The suite also asks for what a model must be able to do; what the embedded one, of 9 M parameters, cannot is
left out, each test with its reason.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import openai
import pytest

from compat_tests.conftest import MODEL, OTHER_NAME, Abilities

pytestmark = [pytest.mark.clients]

suite = pytest.importorskip("langchain_tests.integration_tests", reason="the extra 'compat' is missing")
ChatOpenAI = pytest.importorskip("langchain_openai", reason="the extra 'compat' is missing").ChatOpenAI

# How the client feels about its own objects is not this server's affair.
pytestmark += [
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema"),
]
TOO_SMALL = "the embedded model cannot do this; that calls and formats are well-formed is tested elsewhere"
LEFT_OUT = {
    "test_agent_loop": TOO_SMALL,
    "test_json_mode": TOO_SMALL,
    "test_structured_output_pydantic_2_v1": "without its schema's bounds the embedded model ends no string",
    "test_tool_calling": TOO_SMALL,
    "test_tool_calling_async": TOO_SMALL,
    "test_tool_calling_with_no_arguments": TOO_SMALL,
    "test_unicode_tool_call_integration": TOO_SMALL,
}


@pytest.fixture
def benchmark() -> None:
    pytest.skip("the suite's own recordings of other providers are not used here")


@pytest.fixture
def vcr() -> None:
    """Wanted together with `benchmark`."""


class TestChatOpenAI(suite.ChatModelIntegrationTests):  # type: ignore[name-defined,misc]
    """Against the embedded model. What the server cannot do, the suite skips by itself."""

    @pytest.fixture(autouse=True)
    def _server(self, base_url: str, abilities: Abilities, request: pytest.FixtureRequest) -> None:
        if reason := LEFT_OUT.get(request.node.originalname):
            pytest.skip(reason)
        self.base_url, self.abilities = base_url, abilities

    @property
    def chat_model_class(self) -> Any:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        server = {"model": MODEL, "base_url": self.base_url, "api_key": "none", "max_retries": 0}
        return {**server, "temperature": 0, "max_completion_tokens": 200, "stream_usage": True}

    @property
    def model_override_value(self) -> str:
        return OTHER_NAME

    @property
    def has_tool_calling(self) -> bool:
        return self.abilities.tools

    @property
    def has_tool_choice(self) -> bool:
        return self.abilities.tools

    @property
    def has_structured_output(self) -> bool:
        return self.abilities.formats

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self) -> bool:
        return self.abilities.formats

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> Any:
        """The same prompt again: its tokens are in the tree."""
        model = ChatOpenAI(**self.chat_model_params)
        model.invoke("Hello")
        again = functools.reduce(operator.add, model.stream("Hello")) if stream else model.invoke("Hello")
        assert again.usage_metadata["input_token_details"]["cache_read"] > 0
        return again


# What the suite asks of larger models, asked of this one in what it has learned.


@pytest.fixture
def model(base_url: str) -> Any:
    return ChatOpenAI(
        model=MODEL,
        base_url=base_url,
        api_key="none",
        max_retries=0,
        temperature=0,
        max_completion_tokens=100,
    )


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression."""
    return "7006652"


@pytest.mark.parametrize("responses", [False, True])
def test_a_run_of_a_tool(model: Any, abilities: Abilities, responses: bool) -> None:
    """The model asks, the tool answers, the model says so; streamed, its parts add up to the same call."""
    if not abilities.tools:
        pytest.skip("this server does not call tools")
    model.use_responses_api = responses
    able = model.bind_tools([calculator])
    asked = [("user", "What is 1234 * 5678?")]
    answer = able.invoke(asked)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("calculator", {"expression": "1234 * 5678"})
    parts = functools.reduce(operator.add, able.stream(asked))
    assert parts.tool_calls[0]["args"] == call["args"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": calculator(**call["args"])}
    assert "7006652" in able.invoke([*asked, answer, result]).text


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_object(model: Any, abilities: Abilities, method: str) -> None:
    if not (abilities.formats and abilities.tools):
        pytest.skip("this server neither constrains its output nor calls tools")
    schema = {
        "title": "verdict",
        "description": "A verdict.",
        "type": "object",
        "properties": {
            "good": {"type": "boolean"},
            "points": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["good", "points"],
        "additionalProperties": False,
    }
    found = model.with_structured_output(schema, method=method).invoke("Judge: 4 6 13")
    assert found.keys() == {"good", "points"}


def test_a_mistake_is_the_sdks_error(base_url: str) -> None:
    model = ChatOpenAI(model=MODEL, base_url=base_url, api_key="none", max_retries=0, temperature=9)
    with pytest.raises(openai.BadRequestError) as caught:
        model.invoke("Hello")
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
