"""JSON that fits a schema, and several ends of one beginning: the grammar is forked with the branch."""

import json
import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if sys.argv[1:] else "http://localhost:8000/v1", api_key="none")
person = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
held = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": person}}
ask = {"model": "dendrite", "response_format": held}

text = "Extract name and age as JSON: I am Ada and I am 36."
whole = client.chat.completions.create(**ask, messages=[{"role": "user", "content": text}], temperature=0)
print(json.loads(whole.choices[0].message.content))

# Cut inside the document, then continued in four ways. Each of them is JSON of that schema.
text = "Extract name and age as JSON: Ada is 36, Grace is 41 and Alan is 29."
begun = client.chat.completions.create(
    **ask, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=4
).choices[0]
print(begun.finish_reason, repr(begun.message.content))
fork = {"parent_id": begun.branch_id, "n_branches": 4}
ends = client.chat.completions.create(**ask, messages=[], temperature=1, seed=5, extra_body=fork)
for end in ends.choices:
    print(json.loads(begun.message.content + end.message.content))
