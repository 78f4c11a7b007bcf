"""Tree of Thoughts by hand: next steps of a thought, the model's own opinion of them, the best kept.

Needs nothing but OpenAI's SDK. The same in one call is `POST /v1/search`.
"""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if sys.argv[1:] else "http://localhost:8000/v1", api_key="none")
WORTH = {"sure": 2, "likely": 1, "impossible": 0}


def ask(messages, **fields):
    body = {name: fields.pop(name) for name in ("parent_id", "n_branches") if name in fields}
    return client.chat.completions.create(model="dendrite", messages=messages, extra_body=body, **fields)


def judge(step):
    """What the model thinks of the numbers that a step leaves over."""
    left = step.partition("left: ")[2].rstrip(")")
    question = [{"role": "user", "content": f"Judge for 24: {left}"}]
    return WORTH[ask(question, temperature=0).choices[0].message.content]


numbers = sys.argv[2] if sys.argv[2:] else "2 4 7 9"
grown = ask([{"role": "user", "content": f"Explore 24: {numbers}"}], n_branches=8, stop="\n", seed=1)
for depth in (1, 2, 3):
    thoughts = {choice.message.content: choice.branch_id for choice in reversed(grown.choices)}
    best = max(thoughts, key=judge)
    print(f"step {depth}: {len(thoughts)} thoughts, the best is {best}")
    grown = ask([], parent_id=thoughts[best], n_branches=8 if depth < 3 else 1, stop="\n", seed=depth)
print(grown.choices[0].message.content)
