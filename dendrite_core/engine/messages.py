"""What crosses the thread boundary between callers and the engine: frozen, picklable values.

Callers send a `Request`; the engine answers with one `Started`, then `Progress` messages, the last of
which carries `Usage`. Everything is ids, ints and text; no tensors and no live objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dendrite_core.engine.measures.requests import RequestStats
from dendrite_core.errors import RequestError
from dendrite_core.params import SamplingParams

# Of one branch, all updates together, in characters of JSON.
MAX_METADATA = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion request in token ids.

    Without `parent_id`, `prompt` is the whole prompt. With it, `prompt` is only what is new since that
    branch, and `joint` are tokens to put in between unless the parent already ends with them (the
    end-of-turn marker of a chat). An empty prompt continues the parent's own text where it ended;
    a final end-of-sequence token of the parent is then dropped. `parent_offset` keeps only that many of
    the parent's own completion tokens (0: right after its prompt). `n` children are sampled from the end
    of the prompt. `namespace` separates caches (tenant salt). Greater `priority` waits longer.
    """

    request_id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    n: int = 1
    parent_id: str | None = None
    parent_offset: int | None = None
    joint: tuple[int, ...] = ()
    namespace: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of a chosen token and of the most likely ones, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The prompt is computed and forked: the request's branches exist and can be named.

    `cached_tokens` of the `prompt_tokens` were not computed for this request; `shared_tokens` are the
    parent's. `fork_us` is how long making the children took, in microseconds. `prompt_logprobs` has an
    entry for every prompt token when asked for, None for the first.
    """

    tree_id: str
    parent_id: str | None
    prompt_branch_id: str
    branch_ids: tuple[str, ...]
    prompt_tokens: int
    cached_tokens: int
    shared_tokens: int
    fork_us: float
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None


@dataclass(slots=True)
class ChoiceDelta:
    """What one choice gained in one step. Not frozen only because one is made for every token.

    `text` may be empty while a character or a possible stop string is incomplete. `finish_reason` is
    `stop`, `length` or `abort`, set exactly once; `stop_reason` is the stop string or token id that
    ended it, None for the end-of-sequence token.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of a finished request. The prompt counts once however many choices there are.

    `cached_tokens` are the prompt tokens whose KV was not computed for this request.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Progress:
    """One step's news for one request; `usage` on the last message only."""

    choices: tuple[ChoiceDelta, ...]
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchInfo:
    """A branch as shown to callers. Lengths are tokens; `own` excludes what it shares with its parent.

    `kind` is `prompt` (what a request added to its parent), `completion` (what was generated after it), or
    `fork` (made by itself, with nothing in it yet).
    `pinned_for` is in seconds, None without an end. `pages_shared` of its pages other branches hold too,
    `pages_owned` it holds alone. `cached_tokens` of its past were not computed when it was made, and
    `fork_us` is how long forking it (with the siblings of its request) took, None for a new conversation.
    """

    branch_id: str
    tree_id: str
    parent_id: str | None
    children: tuple[str, ...]
    kind: str
    length: int
    own_tokens: int
    kv_tokens: int
    pages_shared: int
    pages_owned: int
    cached_tokens: int
    fork_us: float | None
    running: bool
    pinned: bool
    pinned_for: float | None
    finish_reason: str | None
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def with_notes(metadata: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
    """A branch's metadata once `notes` are merged into it. Raises `RequestError` where that is too large."""
    merged = {**metadata, **notes}
    try:
        size = len(json.dumps(merged, ensure_ascii=False, separators=(",", ":")))
    except (TypeError, ValueError) as error:
        raise RequestError(f"metadata must be what JSON can hold: {error}", param="metadata") from error
    if size > MAX_METADATA:
        raise RequestError(
            f"Invalid 'metadata': a branch has at most {MAX_METADATA} characters of JSON, not {size}. "
            "Keys that are given again are replaced.",
            param="metadata",
        )
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters and gauges at one moment. Pages are counted, not bytes; times are seconds.

    `queried_tokens` are the prompt tokens looked for in the tree, `cached_tokens` those of them that were
    found. `parked` counts branches whose KV was given up for want of pages. `steps_ahead` of the `steps` were
    launched before the tokens of the step before were known.
    """

    pages_total: int
    pages_free: int
    pages_used: int
    pages_shared: int
    pages_cached: int
    page_size: int
    running: int
    waiting: int
    branches: int
    forks: int
    cow_copies: int
    evictions: int
    preemptions: int
    prefill_tokens: int
    cached_tokens: int
    generated_tokens: int
    steps: int
    steps_ahead: int
    queried_tokens: int
    nodes: int
    parked: int
    requests: RequestStats
