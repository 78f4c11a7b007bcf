"""Answers in OpenAI's shapes: whole completions, and the pieces that streams share with them.

Beyond OpenAI's keys a choice carries `branch_id`, `stop_reason` and `usage`, the body `tree`; nothing else
is added unless it was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dendrite_core.engine.completion import Completion, CompletionChoice
from dendrite_core.engine.messages import Started, TokenLogprob, Usage
from dendrite_server.tools.reading import PLAIN_SPEECH, Speech
from dendrite_server.tools.speech import finish_reason, message_of

TokenBytes = Callable[[int], bytes]
Body = dict[str, Any]

SERVICE_TIER = "default"

# Plain ASCII: clients that split a stream with `str.splitlines` break on a raw U+2028.
encode_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Header:
    """What every message of one answer repeats."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str

    def body(self) -> Body:
        body: Body = {"id": self.id, "object": self.object, "created": self.created, "model": self.model}
        body["system_fingerprint"] = self.system_fingerprint
        if self.object.startswith("chat."):
            body["service_tier"] = SERVICE_TIER
        return body


@dataclass(frozen=True, slots=True)
class Wants:
    """What a request asked to see beside the text."""

    logprobs: bool = False
    prompt_logprobs: bool = False
    token_ids: bool = False


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is given back before each of its choices; `ids` are what its text was encoded to."""

    text: str = ""
    ids: tuple[int, ...] = ()


def usage_body(prompt: int, cached: int, completion: int, reasoning: int = 0) -> Body:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def sum_usage(parts: Iterable[Usage], reasoning: int = 0) -> Body:
    """One usage for the prompts of one request, of whose completions `reasoning` tokens are thoughts."""
    parts = list(parts)
    return usage_body(
        sum(part.prompt_tokens for part in parts),
        sum(part.cached_tokens for part in parts),
        sum(part.completion_tokens for part in parts),
        reasoning,
    )


def choice_usage(started: Started, completion: int) -> Body:
    """What one choice is made of: tokens of its own, and a past that its siblings read too."""
    return {
        "completion_tokens": completion,
        "own_tokens": completion,
        "shared_tokens": started.prompt_tokens,
        "cached_tokens": started.cached_tokens,
    }


def tree_body(started: Started) -> Body:
    return {
        "tree_id": started.tree_id,
        "parent_id": started.parent_id,
        "prompt_branch_id": started.prompt_branch_id,
        "fork_us": round(started.fork_us, 3),
        "shared_tokens": started.shared_tokens,
    }


def trees_body(started: Sequence[Started]) -> Body:
    """`tree` of a request with one prompt; with several, `trees` in the prompts' order."""
    if len(started) == 1:
        return {"tree": tree_body(started[0])}
    return {"trees": [tree_body(one) for one in started]}


# Chat completions.


def chat_completion(
    header: Header,
    completion: Completion,
    token_bytes: TokenBytes,
    wants: Wants,
    speech: Speech = PLAIN_SPEECH,
) -> Body:
    choices = completion.choices
    body = {
        **header.body(),
        "choices": [_chat_choice(choice, completion, token_bytes, wants, speech) for choice in choices],
        "usage": sum_usage([completion.usage], _reasoning_tokens(completion, token_bytes, speech)),
        **trees_body([completion.started]),
    }
    if wants.prompt_logprobs:
        body["prompt_logprobs"] = prompt_logprobs(completion.started, token_bytes)
    return body


def _reasoning_tokens(completion: Completion, token_bytes: TokenBytes, speech: Speech) -> int:
    found = 0
    for choice in completion.choices:
        if (counter := speech.thought_tokens()) is not None:
            counter.push(map(token_bytes, choice.token_ids))
            found += counter.count
    return found


def _chat_choice(
    choice: CompletionChoice, completion: Completion, token_bytes: TokenBytes, wants: Wants, speech: Speech
) -> Body:
    said = message_of(speech, choice.branch_id, choice.text)
    called = "tool_calls" in said or "function_call" in said
    body: Body = {
        "index": choice.index,
        "message": {"role": "assistant", **said, "refusal": None, "annotations": []},
        "logprobs": chat_logprobs(choice.logprobs, token_bytes) if wants.logprobs else None,
        "finish_reason": finish_reason(speech, choice.finish_reason, called),
        "stop_reason": choice.stop_reason,
        "branch_id": choice.branch_id,
        "usage": choice_usage(completion.started, len(choice.token_ids)),
    }
    if wants.token_ids:
        body["token_ids"] = choice.token_ids
    if wants.token_ids and wants.logprobs:
        body["logprobs"]["top_tokens"] = top_tokens(choice.logprobs, token_bytes)
    return body


def chat_logprobs(entries: Iterable[TokenLogprob], token_bytes: TokenBytes) -> Body:
    return {"content": [_chat_logprob(entry, token_bytes) for entry in entries], "refusal": None}


def _chat_logprob(entry: TokenLogprob, token_bytes: TokenBytes) -> Body:
    top = [_named_logprob(token_id, logprob, token_bytes) for token_id, logprob in entry.top]
    return {**_named_logprob(entry.token_id, entry.logprob, token_bytes), "top_logprobs": top}


def _named_logprob(token_id: int, logprob: float, token_bytes: TokenBytes) -> Body:
    raw = token_bytes(token_id)
    return {"token": raw.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(raw)}


def finite(logprob: float) -> float:
    """JSON has no infinity; -9999 is what OpenAI writes for a token that could not be drawn."""
    return max(logprob, -9999.0)


def prompt_logprobs(started: Started, token_bytes: TokenBytes) -> list[Body | None]:
    """In vLLM's shape: by token id, ranks counted from one; null for the first token."""
    return [None if entry is None else _ranked(entry, token_bytes) for entry in started.prompt_logprobs or ()]


def _ranked(entry: TokenLogprob, token_bytes: TokenBytes) -> Body:
    ranked = {token_id: (logprob, rank) for rank, (token_id, logprob) in enumerate(entry.top, 1)}
    own = {entry.token_id: (entry.logprob, ranked.get(entry.token_id, (0.0, None))[1])}
    return {
        str(token_id): {
            "logprob": finite(logprob),
            "rank": rank,
            "decoded_token": token_bytes(token_id).decode(errors="replace"),
        }
        for token_id, (logprob, rank) in {**own, **ranked}.items()
    }


# Legacy completions.


def text_completion(
    header: Header,
    completions: Sequence[Completion],
    echoes: Sequence[Echo],
    token_bytes: TokenBytes,
    wants: Wants,
) -> Body:
    """The choices of every prompt in order; `echoes` are what is put before each prompt's choices."""
    choices: list[Body] = []
    for completion, echo in zip(completions, echoes, strict=True):
        for choice in completion.choices:
            body = _text_choice(choice, echo, completion.started, token_bytes, wants)
            choices.append({"index": len(choices), **body})
    return {
        **header.body(),
        "choices": choices,
        "usage": sum_usage(completion.usage for completion in completions),
        **trees_body([completion.started for completion in completions]),
    }


def _text_choice(
    choice: CompletionChoice, echo: Echo, started: Started, token_bytes: TokenBytes, wants: Wants
) -> Body:
    entries = [*echoed(echo, started), *own_entries(choice.logprobs)]
    body: Body = {
        "text": echo.text + choice.text,
        "logprobs": legacy_logprobs(entries, token_bytes, 0) if wants.logprobs else None,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "branch_id": choice.branch_id,
        "usage": choice_usage(started, len(choice.token_ids)),
    }
    if wants.token_ids:
        body["token_ids"] = choice.token_ids
    if wants.token_ids and wants.logprobs:
        body["logprobs"]["top_tokens"] = top_tokens(choice.logprobs, token_bytes)
    if wants.prompt_logprobs:
        body["prompt_logprobs"] = prompt_logprobs(started, token_bytes)
    return body


def top_tokens(entries: Iterable[TokenLogprob], token_bytes: TokenBytes) -> list[list[Body]]:
    """Each token's candidates by id, best first: names alone could not be sent back as the next token."""
    return [
        [{"token_id": token, **_named_logprob(token, logprob, token_bytes)} for token, logprob in one.top]
        for one in entries
    ]


Entry = tuple[int, TokenLogprob | None]


def echoed(echo: Echo, started: Started) -> list[Entry]:
    """The prompt's tokens with their logprobs, as far as it is echoed with them."""
    return list(zip(echo.ids, started.prompt_logprobs or (), strict=False))


def own_entries(logprobs: Iterable[TokenLogprob]) -> list[Entry]:
    return [(entry.token_id, entry) for entry in logprobs]


def legacy_logprobs(entries: Sequence[Entry], token_bytes: TokenBytes, offset: int) -> Body:
    """Parallel lists; `offset` is the number of characters before the first entry."""
    offsets = []
    for token_id, _ in entries:
        offsets.append(offset)
        offset += characters(token_id, token_bytes)
    return {
        "tokens": [token_name(token_id, token_bytes) for token_id, _ in entries],
        "token_logprobs": [None if entry is None else finite(entry.logprob) for _, entry in entries],
        "top_logprobs": [None if entry is None else _top_by_name(entry, token_bytes) for _, entry in entries],
        "text_offset": offsets,
    }


def characters(token_id: int, token_bytes: TokenBytes) -> int:
    """How many characters begin in a token: with those that end in a later one, each is counted once."""
    return sum(byte & 0xC0 != 0x80 for byte in token_bytes(token_id))


def _top_by_name(entry: TokenLogprob, token_bytes: TokenBytes) -> dict[str, float]:
    """The best tokens and the chosen one by name, as OpenAI has it."""
    best = {token_name(token_id, token_bytes): finite(logprob) for token_id, logprob in entry.top}
    best.setdefault(token_name(entry.token_id, token_bytes), finite(entry.logprob))
    return best


def token_name(token_id: int, token_bytes: TokenBytes) -> str:
    """A token as text; one that is not whole characters by its bytes, so that names stay distinct."""
    raw = token_bytes(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
