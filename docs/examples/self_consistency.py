"""Self-consistency: 32 ways of thinking about one prompt, computed once, and a vote on their answers."""

import sys
from collections import Counter

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if sys.argv[1:] else "http://localhost:8000/v1", api_key="none")
ask = {"model": "dendrite", "messages": [{"role": "user", "content": "Solve 24 step by step: 2 4 7 9"}]}


def last_line(choice):
    return choice.message.content.splitlines()[-1]


greedy = client.chat.completions.create(**ask, temperature=0)
print("greedy:", last_line(greedy.choices[0]))

sampled = client.chat.completions.create(**ask, temperature=1, seed=1, extra_body={"n_branches": 32})
votes = Counter(line for line in map(last_line, sampled.choices) if line.startswith("Answer:"))
for answer, count in votes.most_common(3):
    print(f"{count} votes: {answer}")
print(f"{sampled.usage.prompt_tokens} prompt tokens, {sampled.usage.completion_tokens} generated")
