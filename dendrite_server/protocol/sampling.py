"""The sampling fields that chat and completions share, read into `SamplingParams`."""

from __future__ import annotations

from typing import Any

from dendrite_core.params import MAX_TOP_LOGPROBS, GrammarSpec, SamplingParams
from dendrite_server.protocol.fields import (
    Fields,
    as_number,
    as_strings,
    as_token_ids,
    invalid,
    wrong_type,
)


def read_sampling(
    fields: Fields,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
    vocab_size: int,
    grammar: GrammarSpec | None = None,
) -> SamplingParams:
    """Take every sampling field. Ranges that depend on one value are checked by `SamplingParams` itself."""
    ids, allowed = fields.take("stop_token_ids"), fields.take("allowed_token_ids")
    bad_words = fields.take("bad_words")
    return SamplingParams(
        temperature=fields.number("temperature", 1.0),
        top_p=fields.number("top_p", 1.0),
        top_k=_top_k(fields),
        min_p=fields.number("min_p", 0.0),
        presence_penalty=fields.number("presence_penalty", 0.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0),
        repetition_penalty=fields.number("repetition_penalty", 1.0),
        logit_bias=_logit_bias(fields, vocab_size),
        allowed_token_ids=None
        if allowed is None
        else as_token_ids(fields.path("allowed_token_ids"), allowed, vocab_size),
        bad_words=() if bad_words is None else as_strings(fields.path("bad_words"), bad_words),
        seed=fields.integer("seed"),
        max_tokens=max_tokens,
        min_tokens=fields.integer("min_tokens", 0),
        ignore_eos=fields.boolean("ignore_eos", False),
        stop=_stop(fields),
        stop_token_ids=() if ids is None else as_token_ids(fields.path("stop_token_ids"), ids, vocab_size),
        include_stop_str_in_output=fields.boolean("include_stop_str_in_output", False),
        skip_special_tokens=fields.boolean("skip_special_tokens", True),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        grammar=grammar,
    )


def chat_max_tokens(fields: Fields) -> int | None:
    """`max_completion_tokens`, or `max_tokens` as it was called before."""
    new = fields.integer("max_completion_tokens", low=1)
    old = fields.integer("max_tokens", low=1)
    if new is not None and old is not None and new != old:
        raise invalid(fields.path("max_tokens"), "it differs from 'max_completion_tokens'; give one of them.")
    return old if new is None else new


def chat_logprobs(fields: Fields) -> int | None:
    """`logprobs: true` with `top_logprobs` as one number; None for no logprobs at all."""
    wanted = fields.boolean("logprobs", False)
    top = top_count(fields, "top_logprobs")
    if top is not None and not wanted:
        raise invalid(fields.path("top_logprobs"), "it needs 'logprobs' to be true.")
    return (top or 0) if wanted else None


def top_count(fields: Fields, name: str) -> int | None:
    """How many of the likeliest tokens are asked for; None for no logprobs at all."""
    return fields.integer(name, low=0, high=MAX_TOP_LOGPROBS)


def _top_k(fields: Fields) -> int | None:
    top_k = fields.integer("top_k", low=-1)
    # vLLM and SGLang write "no limit" as -1 or 0.
    return None if top_k in (-1, 0) else top_k


def _logit_bias(fields: Fields, vocab_size: int) -> dict[int, float]:
    path = fields.path("logit_bias")
    value = fields.take("logit_bias")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type(path, "an object of token ids to biases", value)
    return {_token_id(path, key, vocab_size): as_number(f"{path}.{key}", bias) for key, bias in value.items()}


def _token_id(path: str, key: str, vocab_size: int) -> int:
    if not key.isascii() or not key.isdigit() or len(key) > 9 or int(key) >= vocab_size:
        raise invalid(path, f"its keys must be token ids below {vocab_size}, but one is '{key[:40]}'.")
    return int(key)


def _stop(fields: Fields) -> tuple[str, ...]:
    value: Any = fields.take("stop")
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise wrong_type(fields.path("stop"), "a string or an array of strings", value)
    return as_strings(fields.path("stop"), value)
