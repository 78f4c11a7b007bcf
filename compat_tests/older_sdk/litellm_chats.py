"""litellm against a server given as the first argument: whole, streamed, async, refused, formats, tools."""

import asyncio
import json
import sys

import litellm

ARGUMENTS = {
    "model": "openai/dendrite",
    "api_base": sys.argv[1],
    "api_key": "none",
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 30,
    "num_retries": 0,
}

whole = litellm.completion(**ARGUMENTS)
text = whole.choices[0].message.content
assert text
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

chunks = list(litellm.completion(**ARGUMENTS, stream=True, stream_options={"include_usage": True}))
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
rebuilt = litellm.stream_chunk_builder(chunks, messages=ARGUMENTS["messages"])
assert rebuilt.choices[0].message.content == text
assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens

again = asyncio.run(litellm.acompletion(**ARGUMENTS))
assert again.choices[0].message.content == text
assert again.usage.prompt_tokens_details.cached_tokens > 0

forked = litellm.completion(**ARGUMENTS, n=3, extra_body={"n_branches": 3})
assert len(forked.choices) == 3

legacy = litellm.text_completion(
    model="text-completion-openai/dendrite",
    api_base=sys.argv[1],
    api_key="none",
    prompt="Once",
    max_tokens=5,
)
assert legacy.choices[0].text

refusal = ""
try:
    litellm.completion(**{**ARGUMENTS, "temperature": 9})
except litellm.BadRequestError as error:
    refusal = str(error)
assert "temperature" in refusal

# Formats and tools.
SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "boolean"}},
    "required": ["good"],
    "additionalProperties": False,
}
wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
judged = litellm.completion(**ARGUMENTS, response_format=wanted)
assert json.loads(judged.choices[0].message.content)["good"] in (True, False)

TOOL = {"type": "function", "function": {"name": "judge", "parameters": SCHEMA}}
called = litellm.completion(**ARGUMENTS, tools=[TOOL], tool_choice="required")
(call,) = called.choices[0].message.tool_calls
assert call.function.name == "judge"
assert json.loads(call.function.arguments).keys() == {"good"}
parts = litellm.completion(**ARGUMENTS, tools=[TOOL], tool_choice="required", stream=True)
rebuilt = litellm.stream_chunk_builder(list(parts), messages=ARGUMENTS["messages"])
assert rebuilt.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
