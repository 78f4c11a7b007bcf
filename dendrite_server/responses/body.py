"""The response object: every field that OpenAI's has, the settings as asked, the rest as it went.

Beyond OpenAI's fields it carries `branch_id` and `tree` once the prompt is computed, as chat does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dendrite_core.engine.messages import Usage
from dendrite_core.errors import QueueFull, RequestError
from dendrite_server.errors import error_body
from dendrite_server.protocol.response import SERVICE_TIER
from dendrite_server.responses.items import Item

Body = dict[str, Any]

# What OpenAI's object has and no request of this server can set.
_NEVER_SET = (
    "access_programs",
    "image",
    "input_transformations",
    "moderation",
    "prompt",
    "prompt_cache_diagnostics",
    "tool_usage",
)


UNFINISHED = ("queued", "in_progress")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a response stands or ended: its status, and what explains it. `thought`: tokens of reasoning."""

    status: str
    usage: Usage | None = None
    thought: int = 0
    incomplete: str | None = None
    error: Body | None = None

    @property
    def final(self) -> bool:
        return self.status not in UNFINISHED


IN_PROGRESS = Ending(status="in_progress")
QUEUED = Ending(status="queued")


def base_body(id: str, model: str, echo: Body) -> Body:
    """What stays the same from the first event to the last."""
    return {
        "id": id,
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        **dict.fromkeys(_NEVER_SET),
        **echo,
        "service_tier": SERVICE_TIER,
    }


def response_body(base: Body, output: Sequence[Item], ending: Ending) -> Body:
    reason = None if ending.incomplete is None else {"reason": ending.incomplete}
    return {
        **base,
        "status": ending.status,
        "completed_at": int(time.time()) if ending.status == "completed" else None,
        "error": ending.error,
        "incomplete_details": reason,
        "output": list(output),
        "usage": None if ending.usage is None else usage_body(ending.usage, ending.thought),
    }


def usage_body(usage: Usage, thought: int) -> Body:
    """What was not found in the tree is in it now, so it counts as written to the cache."""
    written = usage.prompt_tokens - usage.cached_tokens
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": written},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.total_tokens,
    }


def ending_of(finish_reason: str | None, usage: Usage, thought: int = 0) -> Ending:
    """The engine's word for how it ended, in this API's."""
    if finish_reason == "length":
        return Ending(status="incomplete", usage=usage, thought=thought, incomplete="max_output_tokens")
    status = "cancelled" if finish_reason == "abort" else "completed"
    return Ending(status=status, usage=usage, thought=thought)


def failure_of(error: Exception) -> Ending:
    """A failure that can no longer be an HTTP status."""
    code = "server_error"
    if isinstance(error, QueueFull):
        code = "rate_limit_exceeded"
    elif isinstance(error, RequestError):
        code = "invalid_prompt"
    told = error_body(error)["error"]
    return Ending(status="failed", error={"code": code, "message": told["message"], "param": told["param"]})
