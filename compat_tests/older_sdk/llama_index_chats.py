"""LlamaIndex's `OpenAILike` against a server given as the first argument: chat and complete, every way."""

import asyncio
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

HELLO = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hello")]


def model(is_chat: bool) -> OpenAILike:
    return OpenAILike(
        model="dendrite",
        api_base=sys.argv[1],
        api_key="none",
        is_chat_model=is_chat,
        temperature=0,
        max_tokens=20,
        max_retries=0,
        context_window=4096,
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
