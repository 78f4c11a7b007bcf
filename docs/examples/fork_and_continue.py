"""Fork a conversation into four branches and go on from each: what the README shows."""

from openai import OpenAI

client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
ask = {"model": "dendrite", "temperature": 1, "seed": 24}

puzzle = [{"role": "user", "content": "Explore 24: 4 9 10 13"}]
thoughts = client.chat.completions.create(**ask, messages=puzzle, stop=["\n"], extra_body={"n_branches": 4})
for thought in thoughts.choices:
    parent = {"parent_id": thought.branch_id}  # go on where this branch ended; nothing is sent again
    rest = client.chat.completions.create(**ask, messages=[], extra_body=parent)
    cached = rest.usage.prompt_tokens_details.cached_tokens
    answer = rest.choices[0].message.content.splitlines()[-1]
    print(f"{thought.message.content} ... {answer} [{cached} tokens cached]")
