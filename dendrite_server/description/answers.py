"""The shapes of answers, as JSON Schema, for `/openapi.json`.

Only what every answer has is required; objects may carry more, as OpenAI's own do.
"""

from __future__ import annotations

from typing import Any

from dendrite_server.description.parameters import (
    BOOLEAN,
    INTEGER,
    OBJECT,
    STRING,
    Schema,
    list_of,
    ref,
    word,
)

NULLABLE_STRING: Schema = {"type": ["string", "null"]}
NULLABLE_OBJECT: Schema = {"type": ["object", "null"]}
NUMBER: Schema = {"type": "number"}


def shape(**properties: Any) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


_HEADER: dict[str, Any] = {"id": STRING, "created": INTEGER, "model": STRING, "system_fingerprint": STRING}
_FINISH = {"type": ["string", "null"], "enum": ["stop", "length", "tool_calls", "abort", None]}
_CHOICE: dict[str, Any] = {
    "index": INTEGER,
    "finish_reason": _FINISH,
    "branch_id": STRING,
    "usage": ref("ChoiceUsage"),
}

ANSWERS: dict[str, Schema] = {
    "Error": shape(
        error=shape(message=STRING, type=STRING, param=NULLABLE_STRING, code=NULLABLE_STRING),
    ),
    "Usage": shape(
        prompt_tokens=INTEGER,
        completion_tokens=INTEGER,
        total_tokens=INTEGER,
        prompt_tokens_details=shape(cached_tokens=INTEGER),
    ),
    "ChoiceUsage": shape(
        completion_tokens=INTEGER, own_tokens=INTEGER, shared_tokens=INTEGER, cached_tokens=INTEGER
    ),
    "Tree": shape(
        tree_id=STRING,
        parent_id=NULLABLE_STRING,
        prompt_branch_id=STRING,
        fork_us=NUMBER,
        shared_tokens=INTEGER,
    ),
    "ChatCompletion": shape(
        **_HEADER,
        object=word("chat.completion"),
        choices=list_of(shape(**_CHOICE, message=shape(role=word("assistant"), content=NULLABLE_STRING))),
        usage=ref("Usage"),
        tree=ref("Tree"),
    ),
    "ChatCompletionList": shape(object=word("list"), data=list_of(OBJECT), has_more=BOOLEAN),
    "TextCompletion": shape(
        **_HEADER,
        object=word("text_completion"),
        choices=list_of(shape(**_CHOICE, text=STRING, logprobs=NULLABLE_OBJECT)),
        usage=ref("Usage"),
    ),
    "Response": shape(
        id=STRING,
        object=word("response"),
        created_at=INTEGER,
        model=STRING,
        status=word("queued", "in_progress", "completed", "incomplete", "failed", "cancelled"),
        output=list_of(OBJECT),
        usage=NULLABLE_OBJECT,
        error=NULLABLE_OBJECT,
    ),
    "InputTokens": shape(object=word("response.input_tokens"), input_tokens=INTEGER),
    "List": shape(
        object=word("list"),
        data=list_of(shape(id=STRING)),
        first_id=STRING,
        last_id=STRING,
        has_more=BOOLEAN,
    ),
    "Item": shape(id=STRING, type=STRING),
    "Deleted": shape(id=STRING, object=STRING, deleted={"const": True}),
    "Conversation": shape(id=STRING, object=word("conversation"), created_at=INTEGER, metadata=OBJECT),
    "Branch": shape(
        id=STRING,
        object=word("branch"),
        kind=word("prompt", "completion", "fork"),
        tree_id=STRING,
        parent_id=NULLABLE_STRING,
        children=list_of(STRING),
        pinned=BOOLEAN,
        status=word("running", "idle"),
        finish_reason=NULLABLE_STRING,
        tokens=INTEGER,
        own_tokens=INTEGER,
        kv_tokens=INTEGER,
        cached_tokens=INTEGER,
        pages=shape(shared=INTEGER, owned=INTEGER),
        fork_us={"type": ["number", "null"]},
        text=STRING,
        metadata=OBJECT,
    ),
    "TreeOfBranches": shape(id=STRING, object=word("tree"), branches=list_of(ref("Branch"))),
    "Model": shape(
        id=STRING, object=word("model"), created=INTEGER, owned_by=STRING, root=STRING, max_model_len=INTEGER
    ),
    "ModelList": shape(object=word("list"), data=list_of(ref("Model"))),
    "Search": shape(id=STRING, object=STRING, status=STRING),
    "Tokens": shape(count=INTEGER, max_model_len=INTEGER, tokens=list_of(INTEGER)),
    "Prompt": shape(prompt=STRING),
    "TokenizerInfo": shape(
        eos_token=NULLABLE_STRING, bos_token=NULLABLE_STRING, chat_template=NULLABLE_STRING
    ),
    "Health": shape(status=word("ok", "draining", "closed")),
    "Load": shape(server_load=INTEGER),
    "Version": shape(version=STRING),
    "Document": shape(openapi=STRING, info=OBJECT, paths=OBJECT),
    "Message": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": word("system", "developer", "user", "assistant", "tool", "function"),
            "content": {"anyOf": [STRING, list_of(OBJECT), {"type": "null"}]},
            "name": STRING,
        },
    },
}
