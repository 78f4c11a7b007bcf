"""A tool call and its answer: the tool's result goes on from the branch that asked for it."""

import json
import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if sys.argv[1:] else "http://localhost:8000/v1", api_key="none")
calculator = {
    "name": "calculator",
    "description": "Evaluates an arithmetic expression.",
    "parameters": {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
        "additionalProperties": False,
    },
}
ask = {"model": "dendrite", "temperature": 0, "tools": [{"type": "function", "function": calculator}]}

asked = client.chat.completions.create(**ask, messages=[{"role": "user", "content": "What is 1234 * 5678?"}])
call = asked.choices[0].message.tool_calls[0]
print(call.function.name, call.function.arguments)

left, right = json.loads(call.function.arguments)["expression"].split(" * ")
result = {"role": "tool", "tool_call_id": call.id, "content": str(int(left) * int(right))}
told = client.chat.completions.create(
    **ask, messages=[result], extra_body={"parent_id": asked.choices[0].branch_id}
)
print(told.choices[0].message.content)
print(f"{told.tree['shared_tokens']} of {told.usage.prompt_tokens} prompt tokens are the branch's, shared")
