"""Grammars: what a branch may say next, by llguidance, forked with the branch in O(1).

A fork shares its sibling's matcher until one of them moves; only then is the matcher copied, whose cost grows
with what it has read. Siblings that stand at the same place share one mask as well. No torch here: masks are
bits in int32 words.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import tokenizers
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from dendrite_core.errors import RequestError
from dendrite_core.params import GrammarSpec
from dendrite_core.text.grammar_source import Vocabulary, blamed, to_llguidance
from dendrite_core.text.tokenizer import Tokenizer

_COMPILED = 256
# A schema is a stranger's program: it may not hold up everybody's next token, nor take all memory.
_LIMITS = LLParserLimits(
    max_grammar_size=200_000, max_lexer_states=100_000, step_max_items=20_000, verbose_errors=False
)

# llguidance takes a whole slice of the vocabulary at once where all of it fits, and else tries every token
# (1 ms at 128k). Its own slices begin at ten characters: a string with fewer to go never took one whole.
_IN_A_STRING = r'[^"\\\x00-\x1F\x7F]'
_SLICES = [*(f"{_IN_A_STRING}{{1,{most}}}" for most in (*range(1, 13), 16, 30)), f"{_IN_A_STRING}+"]

Bits = NDArray[np.int32]


class GrammarCompiler:
    """Grammars over one tokenizer. Any thread may compile; what was compiled lately is kept.

    Different grammars compile side by side; of two calls with the same one the second waits for the first.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._guide: LLTokenizer | None = None
        self._executor: LLExecutor | None = None
        self._kept = lru_cache(_COMPILED)(_Compiled)

    def compile(self, spec: GrammarSpec) -> Grammar:
        """The grammar of a spec. Raises `RequestError` with llguidance's words, naming `spec.param`."""
        with self._lock:
            kept = self._kept(spec)
        with kept.lock:
            if kept.grammar is None:
                kept.grammar = self._compile(spec)
            return kept.grammar

    def masks(self, states: Sequence[GrammarState | None]) -> tuple[Bits, list[int | None]]:
        """What each state allows: bits [M, ceil(V / 32)], a row per distinct state, and each state's row.

        The rows are computed in parallel, with the interpreter free meanwhile. A state whose grammar got
        too complex to go on allows nothing.
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
        return self._fill(matchers), row_of

    def _fill(self, matchers: list[tuple[LLMatcher, int]]) -> Bits:
        width = self.vocab_size if self._guide is None else self._guide.vocab_size
        bits: Bits = np.zeros((max(1, len(matchers)), (width + 31) // 32), np.int32)
        if len(matchers) == 1:
            fill_next_token_bitmask(matchers[0][0], bits, 0)
        elif matchers:
            assert self._executor is not None, "a state comes from a compiled grammar"
            fill_next_token_bitmask_par(self._executor, matchers, bits)
        for matcher, row in matchers:
            if matcher.is_error():
                bits[row] = 0
        return bits

    def _compile(self, spec: GrammarSpec) -> Grammar:
        guide = self._load()
        tokenizer = self._tokenizer
        try:
            source = to_llguidance(spec, Vocabulary(tokenizer.added_ids, tokenizer.eos_ids))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RequestError(f"invalid {spec.kind}: {error}", param=spec.param) from error
        matcher = LLMatcher(guide, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise RequestError(self._complaint(spec, matcher.get_error()), param=spec.param)
        return Grammar(spec, matcher)

    def _complaint(self, spec: GrammarSpec, message: str) -> str:
        if "<backtrace>" in message:
            return f"invalid {spec.kind}: it is larger than the grammar engine can take"
        if spec.kind != "json_schema":
            return f"invalid {spec.kind}: {message}"

        def error_of(source: str) -> str | None:
            return LLMatcher(self._load(), source, log_level=0, limits=_LIMITS).get_error() or None

        return f"invalid json_schema at {blamed(spec.source, message, error_of)}: {message}"

    def _load(self) -> LLTokenizer:
        # On first use: at a vocabulary of 128k this takes seconds, and most servers never need it.
        with self._loading:
            if self._guide is None:
                tokenizer, ends = self._tokenizer, list(self._tokenizer.eos_ids)
                source = tokenizer.to_json() if ends else _with_an_end(tokenizer)
                # Without an end token llguidance would take token 0 for it: give it one beyond all others.
                size = max(self.vocab_size, tokenizer.vocab_size + (not ends))
                end = ends or tokenizer.vocab_size
                self._executor = LLExecutor()
                self._guide = LLTokenizer(source, n_vocab=size, eos_token=end, slices=_SLICES)
            return self._guide


def _with_an_end(tokenizer: Tokenizer) -> str:
    ended = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    ended.add_special_tokens(["<|end of a text without end|>"])
    return str(ended.to_str())


class _Compiled:
    """What became of one spec: no grammar until somebody, holding the lock, has compiled it."""

    __slots__ = ("grammar", "lock")

    def __init__(self, spec: GrammarSpec) -> None:
        self.lock = threading.Lock()
        self.grammar: Grammar | None = None


class Grammar:
    """A compiled grammar, at its beginning."""

    def __init__(self, spec: GrammarSpec, matcher: LLMatcher) -> None:
        self.spec = spec
        self._matcher = matcher

    def start(self) -> GrammarState:
        """The state of a branch that has said nothing yet."""
        return GrammarState(_Shared(self._matcher.deep_copy()))


class _Shared:
    """A matcher, how many states stand at its place, and where copies of it went from here by which token.

    Siblings that go on alike meet again in one of those copies, unless it has moved on (`moves`).
    """

    __slots__ = ("__weakref__", "holders", "matcher", "moves", "onward")

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher
        self.holders = 1
        self.moves = 0
        self.onward: dict[int, tuple[weakref.ref[_Shared], int]] = {}

    def move(self, token_id: int) -> bool:
        if self.matcher.try_consume_tokens([token_id]) != 1:
            return False
        self.moves += 1
        self.onward.clear()
        return True

    def sibling_after(self, token_id: int) -> _Shared | None:
        """A copy that took `token_id` from here and still stands there."""
        known = self.onward.get(token_id)
        if known is None:
            return None
        sibling, moves = known[0](), known[1]
        return sibling if sibling is not None and sibling.moves == moves else None


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
        """Whether nothing may follow but the end."""
        return bool(self.matcher.is_stopped() and not self.matcher.is_error())

    def fork(self) -> GrammarState:
        """The same place for another branch; O(1), nothing is copied until one of them moves."""
        self._shared.holders += 1
        return GrammarState(self._shared)

    def accept(self, token_id: int) -> bool:
        """Move past a token; whether the grammar allowed it. A state that was refused stays where it is."""
        here = self._shared
        if (sibling := here.sibling_after(token_id)) is not None:
            sibling.holders += 1
        elif here.holders == 1:
            return here.move(token_id)
        else:
            sibling = _Shared(here.matcher.deep_copy())
            if not sibling.move(token_id):
                return False
            here.onward[token_id] = (weakref.ref(sibling), sibling.moves)
        here.holders -= 1
        self._shared = sibling
        return True

    def forced_tokens(self) -> list[int]:
        """Tokens that can only follow one way from here, not accepted yet."""
        return [] if self.is_finished else list(self.matcher.compute_ff_tokens())
