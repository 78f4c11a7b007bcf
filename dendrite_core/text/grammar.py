"""Grammars: what a branch may say next, by llguidance, forked with the branch in O(1).

A fork shares its sibling's matcher until one of them moves; only then is the matcher copied, whose cost grows
with what it has read. Siblings that stand at the same place share one mask as well. No torch here: masks are
bits in int32 words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, StructTag, grammar_from
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from dendrite_core.errors import RequestError
from dendrite_core.params import GrammarSpec
from dendrite_core.text.tokenizer import Tokenizer

_COMPILED = 256

Bits = NDArray[np.int32]


class GrammarCompiler:
    """Grammars over one tokenizer. Any thread may compile; what was compiled lately is kept."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._guide: LLTokenizer | None = None
        self._executor: LLExecutor | None = None
        self._compile = lru_cache(_COMPILED)(self._compile_new)

    def compile(self, spec: GrammarSpec) -> Grammar:
        """The grammar of a spec. Raises `RequestError` with llguidance's words, naming `spec.param`."""
        with self._lock:
            return self._compile(spec)

    def masks(self, states: Sequence[GrammarState | None]) -> tuple[Bits, list[int | None]]:
        """What each state allows: bits [M, ceil(V / 32)], a row per distinct state, and each state's row.

        The rows are computed in parallel, with the interpreter free meanwhile.
        """
        rows: dict[int, int] = {}
        matchers: list[tuple[LLMatcher, int]] = []
        row_of: list[int | None] = []
        for state in states:
            if state is None:
                row_of.append(None)
                continue
            matcher = state.matcher
            if id(matcher) not in rows:
                rows[id(matcher)] = len(matchers)
                matchers.append((matcher, len(matchers)))
            row_of.append(rows[id(matcher)])
        bits: Bits = allocate_token_bitmask(max(1, len(matchers)), self.vocab_size)
        if matchers:
            assert self._executor is not None, "a state comes from a compiled grammar"
            fill_next_token_bitmask_par(self._executor, matchers, bits)
        return bits, row_of

    def _compile_new(self, spec: GrammarSpec) -> Grammar:
        guide = self._load()
        try:
            source = _SOURCES[spec.kind](spec.source)
            failed, notes = LLMatcher.validate_grammar_with_warnings(source, guide)
        except (ValueError, TypeError, KeyError, AssertionError) as error:
            raise RequestError(f"invalid {spec.kind}: {error}", param=spec.param) from error
        if failed:
            raise RequestError(f"invalid {spec.kind}: {'; '.join(notes)}", param=spec.param)
        return Grammar(spec, LLMatcher(guide, source, log_level=0, limits=_limits()))

    def _load(self) -> LLTokenizer:
        # On first use: at a vocabulary of 128k this takes seconds, and most servers never need it.
        if self._guide is None:
            eos = list(self._tokenizer.eos_ids) or None
            self._guide = LLTokenizer(self._tokenizer.to_json(), n_vocab=self.vocab_size, eos_token=eos)
            self._executor = LLExecutor()
        return self._guide


class Grammar:
    """A compiled grammar, at its beginning."""

    def __init__(self, spec: GrammarSpec, matcher: LLMatcher) -> None:
        self.spec = spec
        self._matcher = matcher

    def start(self) -> GrammarState:
        """The state of a branch that has said nothing yet."""
        return GrammarState(_Shared(self._matcher.deep_copy()))


class _Shared:
    """A matcher and how many states stand at its place."""

    __slots__ = ("holders", "matcher")

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher
        self.holders = 1


class GrammarState:
    """Where one branch is in its grammar. One thread at a time."""

    __slots__ = ("_shared",)

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    @property
    def matcher(self) -> LLMatcher:
        return self._shared.matcher

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here."""
        return bool(self.matcher.is_accepting())

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow."""
        return bool(self.matcher.is_stopped())

    def fork(self) -> GrammarState:
        """The same place for another branch; O(1), nothing is copied until one of them moves."""
        self._shared.holders += 1
        return GrammarState(self._shared)

    def accept(self, token_id: int) -> bool:
        """Move past a token; whether the grammar allowed it. A state that was refused stays where it is."""
        if self._shared.holders > 1:
            self._shared.holders -= 1
            self._shared = _Shared(self.matcher.deep_copy())
        return bool(self.matcher.try_consume_tokens([token_id]) == 1)

    def forced_tokens(self) -> list[int]:
        """Tokens that can only follow one way from here, not accepted yet."""
        return [] if self.is_finished else list(self.matcher.compute_ff_tokens())


def _limits() -> LLParserLimits:
    # A schema is a stranger's program: it may not hold up everybody's next token.
    return LLParserLimits(max_grammar_size=200_000, max_lexer_states=100_000, step_max_items=20_000)


def _json_schema(source: str) -> str:
    return str(LLMatcher.grammar_from_json_schema(source))


def _choice(source: str) -> str:
    choices = json.loads(source)
    if not (isinstance(choices, list) and choices and all(isinstance(c, str) and c for c in choices)):
        raise ValueError("it must be a list of one or more texts")
    return str(grammar_from("choice", source))


def _ebnf(source: str) -> str:
    """GBNF, as llama.cpp and xgrammar write it, or Lark."""
    return str(grammar_from("gbnf" if "::=" in source else "lark", source))


def _structural_tag(source: str) -> str:
    """vLLM's shape: {"structures": [{"begin", "schema", "end"}], "triggers": [...]}; any text around them."""
    spec: dict[str, Any] = json.loads(source)
    triggers = spec["triggers"]
    tags = []
    for structure in spec["structures"]:
        begin = structure["begin"]
        trigger = next((text for text in triggers if begin.startswith(text)), None)
        if trigger is None:
            raise ValueError(f"no trigger begins {begin!r}")
        schema = structure.get("schema") or {}
        tags.append(StructTag(trigger=trigger, begin=begin, grammar=schema, end=structure["end"]))
    return str(StructTag.to_grammar(tags, assume_special=False))


_SOURCES: dict[str, Callable[[str], str]] = {
    "json_schema": _json_schema,
    "json_object": lambda _: _json_schema('{"type": "object"}'),
    "regex": lambda source: str(LLMatcher.grammar_from_regex(source)),
    "lark": lambda source: str(grammar_from("lark", source)),
    "grammar": _ebnf,
    "choice": _choice,
    "structural_tag": _structural_tag,
}
