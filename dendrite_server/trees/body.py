"""A branch as JSON, and a tree's summary."""

from __future__ import annotations

import re

from dendrite_core.engine.messages import BranchInfo
from dendrite_server.protocol.response import Body

TITLE_LENGTH = 80

# What chat templates put around turns; of no interest to who looks at a tree.
_MARKERS = re.compile(r"<\|[^|<>]{1,40}\|>|\[/?INST\]|</?s>|<bos>|<(?:start|end)_of_turn>")
_ROLES = {"system", "user", "assistant", "tool", "model"}


def branch_body(info: BranchInfo) -> Body:
    return {**_identity(info), "children": list(info.children), **_state(info), "text": info.text}


def event_body(info: BranchInfo) -> Body:
    """A branch in an event: without its children, who tell of their parent themselves, and without text."""
    return {**_identity(info), **_state(info)}


def _identity(info: BranchInfo) -> Body:
    return {
        "id": info.branch_id,
        "object": "branch",
        "kind": info.kind,
        "tree_id": info.tree_id,
        "parent_id": info.parent_id,
    }


def _state(info: BranchInfo) -> Body:
    return {
        "pinned": info.pinned,
        "pinned_for": None if info.pinned_for is None else round(info.pinned_for, 3),
        "status": "running" if info.running else "idle",
        "finish_reason": info.finish_reason,
        "tokens": info.length,
        "own_tokens": info.own_tokens,
        "kv_tokens": info.kv_tokens,
        "cached_tokens": info.cached_tokens,
        "pages": {"shared": info.pages_shared, "owned": info.pages_owned},
        "fork_us": info.fork_us,
        "metadata": dict(info.metadata),
    }


def plain_text(text: str) -> str:
    """A branch's text on one line, without what a chat template puts around turns."""
    lines = (line.strip() for line in _MARKERS.sub("\n", text).splitlines())
    return " ".join(line for line in lines if line and line not in _ROLES)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def title_of(text: str) -> str:
    return shortened(plain_text(text[: 20 * TITLE_LENGTH]), TITLE_LENGTH)
