"""LangChain's ChatOpenAI: one thought, then several turns that fork it by the id of its answer."""

import sys

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

URL = sys.argv[1] if sys.argv[1:] else "http://localhost:8000/v1"
model = ChatOpenAI(model="dendrite", base_url=URL, api_key="none", temperature=0)

thought = model.invoke([HumanMessage("Explore 24: 4 9 10 13")], stop=["\n"])
print(thought.content)

# Nothing of the conversation is sent again: each turn goes on from the branch, and they run side by side.
after = model.bind(extra_body={"parent_id": thought.response_metadata["id"]})
turns = ["Judge for 24: 3 4 9", "Propose 2 next steps for 24: 3 4 9", "Solve 24: 3 4 9 9"]
for turn, answer in zip(turns, after.batch([[HumanMessage(turn)] for turn in turns]), strict=True):
    print(f"{turn} -> {answer.content!r}")
