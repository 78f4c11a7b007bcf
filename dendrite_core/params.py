"""What one request asks of the sampler: `SamplingParams`, validated where it is built.

Names and ranges are OpenAI's, and vLLM's for the extensions (`top_k`, `min_p`, `repetition_penalty`,
`min_tokens`, `ignore_eos`, `stop_token_ids`, `include_stop_str_in_output`, `skip_special_tokens`,
`allowed_token_ids`, `bad_words`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dendrite_core.errors import RequestError

MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSpec:
    """A constraint on the generated text.

    `kind` is json_schema, json_object, regex, lark, grammar (GBNF or Lark), choice (a JSON list) or
    structural_tag (JSON, in vLLM's shape). `param` is the field that errors in `source` are about; two
    specs that differ in it only are equal.

    >>> held = SamplingParams(temperature=0, grammar=GrammarSpec(kind="regex", source="[a-f]{8}"))
    >>> len(engine.generate("Hello", held).text)
    8
    """

    kind: str
    source: str
    param: str = field(default="response_format", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the tokens of a completion are drawn, and where it ends.

    `temperature` 0 is greedy. `top_k=None` and `max_tokens=None` mean no limit of that kind (the
    context length always holds); `max_tokens=0` computes the prompt and keeps no token. `logprobs=None`
    reports none, `logprobs=k` the chosen token's and the k best; `prompt_logprobs` the same of the
    prompt's own tokens. `seed=None` draws a fresh seed per request. With `allowed_token_ids` nothing but
    those tokens is drawn; `bad_words` are not said in the tokens that they are encoded to, by themselves
    or after a space. Raises `RequestError` naming the field.

    >>> SamplingParams(temperature=0, max_tokens=16).greedy
    True
    >>> SamplingParams(top_p=2.0)
    Traceback (most recent call last):
    dendrite_core.errors.RequestError: top_p must be in (0, 1], got 2
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: GrammarSpec | None = None

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0.0, 2.0)
        _within("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        # Far below it float32 has no number for what the logits become.
        _within("repetition_penalty", self.repetition_penalty, 1e-6, 2.0)
        _at_least("top_k", self.top_k, 1)
        _at_least("max_tokens", self.max_tokens, 0)
        _at_least("min_tokens", self.min_tokens, 0)
        _within("logprobs", self.logprobs or 0, 0, MAX_TOP_LOGPROBS)
        _within("prompt_logprobs", self.prompt_logprobs or 0, 0, MAX_TOP_LOGPROBS)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError("min_tokens must not exceed max_tokens", param="min_tokens")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise RequestError(f"at most {MAX_STOP_STRINGS} stop strings are allowed", param="stop")
        if any(not text for text in self.stop):
            raise RequestError("a stop string must not be empty", param="stop")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise RequestError("allowed_token_ids must not be empty", param="allowed_token_ids")
        if any(not word.strip() for word in self.bad_words):
            raise RequestError("a bad word must not be empty", param="bad_words")
        for token_id, bias in self.logit_bias.items():
            if token_id < 0:
                raise RequestError("logit_bias keys must be token ids", param="logit_bias")
            _within("logit_bias", bias, -100.0, 100.0)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def forbids(self) -> bool:
        """Whether a token can be ruled out however likely it is."""
        return self.allowed_token_ids is not None or bool(self.bad_words)

    @property
    def has_penalties(self) -> bool:
        """Whether drawing a token needs the tokens before it."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0


def _within(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
    below = value <= low if low_open else value < low
    if math.isnan(value) or below or value > high:
        bounds = f"{'(' if low_open else '['}{low:g}, {high:g}]"
        raise RequestError(f"{name} must be in {bounds}, got {value:g}", param=name)


def _at_least(name: str, value: int | None, low: int) -> None:
    if value is not None and value < low:
        raise RequestError(f"{name} must be at least {low}, got {value}", param=name)
