"""LlamaIndex's OpenAILike: one thought, then several turns that fork it."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

URL = sys.argv[1] if sys.argv[1:] else "http://localhost:8000/v1"
model = OpenAILike(
    model="dendrite", api_base=URL, api_key="none", is_chat_model=True, temperature=0, context_window=4096
)

thought = model.chat([ChatMessage(role="user", content="Explore 24: 4 9 10 13")], stop=["\n"])
print(thought.message.content)

# Nothing of the conversation is sent again: each turn goes on from the branch.
fork = {"parent_id": thought.raw.choices[0].branch_id}
for turn in ("Judge for 24: 3 4 9", "Propose 2 next steps for 24: 3 4 9", "Solve 24: 3 4 9 9"):
    answer = model.chat([ChatMessage(role="user", content=turn)], extra_body=fork)
    print(f"{turn} -> {answer.message.content!r}")
