"""LangChain's `ChatOpenAI` under LangChain's own standard suite for chat models.

The suite also asks for what a model must be able to do; what the embedded one, of 9 M parameters, cannot is
left out, each test with its reason.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

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
