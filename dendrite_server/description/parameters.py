"""The fields of every request body, as JSON Schema: what is honoured and what is taken but changes nothing.

What is refused by name is in the parsers' own tables. A test parses each body and compares what was read
with what is here, so neither can forget a field of the other.
"""

from __future__ import annotations

from typing import Any

from dendrite_core.params import MAX_STOP_STRINGS, MAX_TOP_LOGPROBS

Schema = dict[str, Any]
Table = dict[str, Schema]


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(item: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": item, **bounds}


STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
OBJECT: Schema = {"type": "object"}
COUNT: Schema = {"type": "integer", "minimum": 1}
FROM_ZERO: Schema = {"type": "integer", "minimum": 0}
TOKEN_IDS = list_of(FROM_ZERO)
TOP: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_TOP_LOGPROBS}
PENALTY: Schema = {"type": "number", "minimum": -2, "maximum": 2}
STOP_TEXT: Schema = {"type": "string", "minLength": 1}
SCHEMA: Schema = {"anyOf": [OBJECT, STRING], "description": "A JSON Schema, or its text."}


def word(*allowed: str) -> Schema:
    return {"type": "string", "enum": list(allowed)}


SAMPLING: Table = {
    "allowed_token_ids": list_of(FROM_ZERO, minItems=1),
    "bad_words": list_of(STOP_TEXT),
    "frequency_penalty": PENALTY,
    "ignore_eos": BOOLEAN,
    "include_stop_str_in_output": BOOLEAN,
    "logit_bias": {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "description": "By token id.",
    },
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "min_tokens": FROM_ZERO,
    "presence_penalty": PENALTY,
    "repetition_penalty": {"type": "number", "minimum": 1e-6, "maximum": 2},
    "seed": INTEGER,
    "skip_special_tokens": BOOLEAN,
    "stop": {"anyOf": [STOP_TEXT, list_of(STOP_TEXT, maxItems=MAX_STOP_STRINGS)]},
    "stop_token_ids": TOKEN_IDS,
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_k": {"type": "integer", "minimum": -1, "description": "-1 and 0 are no limit."},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
}
CONSTRAINTS: Table = {
    "guided_choice": list_of(STOP_TEXT, minItems=1),
    "guided_grammar": STOP_TEXT,
    "guided_json": SCHEMA,
    "guided_regex": STOP_TEXT,
    "guided_whitespace_pattern": {**STRING, "description": "Between the parts of a JSON answer."},
    "response_format": {
        "type": "object",
        "required": ["type"],
        "properties": {"type": word("text", "json_object", "json_schema", "structural_tag")},
    },
    "structured_outputs": {"type": "object", "description": "One of json, regex, choice, grammar, ..."},
}
PROMPT: Table = {
    "add_special_tokens": BOOLEAN,
    "truncate_prompt_tokens": {**INTEGER, "minimum": -1, "description": "-1 is as many as fit."},
    "truncation_side": word("left", "right"),
}
TREE: Table = {
    "cache_salt": {**STOP_TEXT, "description": "Requests with different salts share nothing."},
    "model": STRING,
    "n": COUNT,
    "n_branches": {**COUNT, "description": "How many children to fork; the same as n."},
    "parent_id": {**STRING, "description": "The branch to go on from."},
    "parent_offset": {**FROM_ZERO, "description": "Keep only that many of the parent's own tokens."},
    "priority": {**INTEGER, "description": "Smaller runs earlier."},
    "prompt_logprobs": TOP,
    "request_id": {**STRING, "pattern": r"^[A-Za-z0-9_.:-]{1,128}$"},
    "return_token_ids": BOOLEAN,
    "stream": BOOLEAN,
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": BOOLEAN, "continuous_usage_stats": BOOLEAN},
    },
}
TEMPLATE: Table = {
    "add_generation_prompt": BOOLEAN,
    "chat_template": {**STRING, "description": "Where the server trusts requests' templates."},
    "chat_template_kwargs": OBJECT,
    "continue_final_message": BOOLEAN,
    "documents": list_of(OBJECT),
}
TOOLS: Table = {
    "function_call": {"anyOf": [STRING, OBJECT], "description": "The older name of tool_choice."},
    "functions": {**list_of(OBJECT), "description": "The older name of tools."},
    "include_reasoning": BOOLEAN,
    "parallel_tool_calls": BOOLEAN,
    "reasoning_effort": STRING,
    "tool_choice": {"anyOf": [STRING, OBJECT]},
    "tools": list_of(OBJECT),
}
CHAT: Table = {
    **SAMPLING,
    **CONSTRAINTS,
    **PROMPT,
    **TREE,
    **TEMPLATE,
    **TOOLS,
    "logprobs": BOOLEAN,
    "max_completion_tokens": COUNT,
    "max_tokens": COUNT,
    "messages": list_of(ref("Message")),
    "modalities": list_of(word("text")),
    "top_logprobs": TOP,
    "verbosity": word("low", "medium", "high"),
}
COMPLETION: Table = {
    **SAMPLING,
    **CONSTRAINTS,
    **PROMPT,
    **TREE,
    "best_of": COUNT,
    "echo": BOOLEAN,
    "logprobs": TOP,
    "max_tokens": FROM_ZERO,
    "prompt": {"anyOf": [STRING, list_of(STRING), TOKEN_IDS, list_of(TOKEN_IDS)]},
}
# Of `RESPONSES` and `TREE`, those that `POST /v1/responses` reads too are named by its parser.
RESPONSE: Table = {
    "background": BOOLEAN,
    "background_options": OBJECT,
    "conversation": {"anyOf": [STRING, {"type": "object", "properties": {"id": STRING}}]},
    "include": list_of(STRING),
    "input": {"anyOf": [STRING, list_of(OBJECT)]},
    "instructions": STRING,
    "max_output_tokens": COUNT,
    "metadata": {"type": "object", "additionalProperties": STRING, "maxProperties": 16},
    "parallel_tool_calls": BOOLEAN,
    "previous_response_id": STRING,
    "prompt_cache_options": OBJECT,
    "reasoning": OBJECT,
    "store": BOOLEAN,
    "stream_options": OBJECT,
    "text": OBJECT,
    "tool_choice": {"anyOf": [STRING, OBJECT]},
    "tools": list_of(OBJECT),
    "top_logprobs": TOP,
    "truncation": word("auto", "disabled"),
}
# Taken, checked, and without effect on any answer.
HARMLESS_SCHEMAS: Table = {
    "guided_decoding_backend": STRING,
    "max_tool_calls": COUNT,
    "metadata": OBJECT,
    "prediction": OBJECT,
    "prompt_cache_key": STRING,
    "prompt_cache_options": OBJECT,
    "prompt_cache_retention": STRING,
    "safety_identifier": STRING,
    "service_tier": STRING,
    "spaces_between_special_tokens": BOOLEAN,
    "store": BOOLEAN,
    "user": STRING,
}
TOKENIZE: Table = {
    **TEMPLATE,
    "add_special_tokens": BOOLEAN,
    "messages": list_of(ref("Message")),
    "model": STRING,
    "prompt": STRING,
    "return_token_strs": BOOLEAN,
    "tools": list_of(OBJECT),
}
DETOKENIZE: Table = {"model": STRING, "tokens": TOKEN_IDS}
BRANCH_UPDATE: Table = {
    "metadata": {"type": "object", "description": "Merged into what is there, such as a score."},
    "pinned": BOOLEAN,
    "ttl": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds to stay pinned."},
}
SEARCH: Table = {
    "background": BOOLEAN,
    "budget": {
        "type": "object",
        "properties": {"tokens": COUNT, "nodes": COUNT, "depth": COUNT, "seconds": {"type": "number"}},
    },
    "cache_salt": STRING,
    "evaluator": OBJECT,
    "generator": OBJECT,
    "goal": OBJECT,
    "messages": CHAT["messages"],
    "method": {"anyOf": [STRING, OBJECT]},
    "model": STRING,
    "priority": INTEGER,
    "prompt": STRING,
    "seed": INTEGER,
    "stream": BOOLEAN,
}
METADATA: Table = {"metadata": RESPONSE["metadata"]}
CONVERSATION: Table = {**METADATA, "items": list_of(OBJECT, maxItems=20)}
ITEMS: Table = {"items": CONVERSATION["items"]}
