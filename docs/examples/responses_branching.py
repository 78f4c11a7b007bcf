"""Branching through OpenAI's own API: the same previous_response_id, said again, forks that response."""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if sys.argv[1:] else "http://localhost:8000/v1", api_key="none")
ask = {"model": "dendrite", "temperature": 0, "instructions": "You are a helpful assistant."}

first = client.responses.create(**ask, input="Solve 24: 4 9 10 13")
print(first.output_text)

for text in ("Judge for 24: 4 6", "Propose 2 next steps for 24: 4 6", "Who are you?"):
    child = client.responses.create(**ask, input=text, previous_response_id=first.id)
    print(f"{text} -> {child.output_text!r} ({child.tree['shared_tokens']} tokens shared)")

# A response is a branch: what follows it can be looked at, and given back with all below it.
branch = client.get(f"/branches/{first.branch_id}", cast_to=dict)
print(branch["kind"], branch["status"], len(branch["children"]), "children")
client.responses.delete(first.id)
