"""LlamaIndex's `OpenAILike` against a server given as the first argument: every way, tools, objects."""

import asyncio
import sys
from typing import Any

import openai
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

HELLO = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hello")]


def model(is_chat: bool, **more: Any) -> OpenAILike:
    settings = {"temperature": 0, "max_tokens": 40, "max_retries": 0, "context_window": 4096, **more}
    return OpenAILike(
        model="dendrite", api_base=sys.argv[1], api_key="none", is_chat_model=is_chat, **settings
    )


chat = model(is_chat=True)
whole = chat.chat(HELLO)
assert whole.message.content
assert whole.raw.choices[0].branch_id
assert list(chat.stream_chat(HELLO))[-1].message.content == whole.message.content
assert asyncio.run(chat.achat(HELLO)).message.content == whole.message.content


async def streamed() -> str:
    last = ""
    async for part in await model(is_chat=True).astream_chat(HELLO):
        last = part.message.content or ""
    return last


assert asyncio.run(streamed()) == whole.message.content

text = model(is_chat=False)
completed = text.complete("Once upon")
assert completed.text
assert list(text.stream_complete("Once upon"))[-1].text == completed.text


# Tools, objects, mistakes.
class Verdict(BaseModel):
    """Small enough that any model ends it."""

    good: bool


def judge(good: bool) -> str:
    """Say whether it is good."""
    return str(good)


calling = model(is_chat=True, is_function_calling_model=True)
tool = FunctionTool.from_defaults(judge)
called = calling.chat_with_tools([tool], user_msg="Judge: 4 6 13", tool_required=True)
(call,) = calling.get_tool_calls_from_response(called)
assert (call.tool_name, call.tool_kwargs.keys()) == ("judge", {"good"})

objects = model(is_chat=True, is_function_calling_model=True, should_use_structured_outputs=True)
found = objects.structured_predict(Verdict, PromptTemplate("Judge: 4 6 13"))
assert isinstance(found, Verdict)

refusal = ""
try:
    model(is_chat=True, additional_kwargs={"frequency_penalty": 9}).chat(HELLO)
except openai.BadRequestError as error:
    refusal = error.param
assert refusal == "frequency_penalty"
