"""A branch as JSON, and a tree's summary."""

from __future__ import annotations

from dendrite_core.engine.messages import BranchInfo
from dendrite_server.protocol.response import Body


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
