"""A byte-level-BPE tokenizer.json as a tiktoken encoding, where both provably split the same way.

tiktoken merges by the rank of the result, Hugging Face by the rank of the pair. They agree when every
token of the vocabulary is the result of a merge and merges come in the order of their results; what does
not fit is refused here (`Unconvertible`), and `disagreement` compares the two on probes besides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import tiktoken
from tokenizers import AddedToken

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Digits split off first end a piece, so whitespace before a digit is whitespace at the end of its piece.
GPT2_SINGLE_DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

# fancy-regex panics on a backtracking run somewhere between 0.4 and 1 million characters.
_LONGEST_RUN = 100_000
_LONG_RUN = re.compile(rf"\s{{{_LONGEST_RUN},}}|\S{{{_LONGEST_RUN},}}")


class Unconvertible(Exception):
    """This tokenizer.json has something that tiktoken does differently."""


def _byte_chars() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: character code -> latin-1 character of the byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    codes = {byte: chr(byte) for byte in printable}
    codes.update({256 + n: chr(byte) for n, byte in enumerate(others)})
    return codes


_BYTE_OF_CODE = _byte_chars()


def byte_level_bytes(token: str) -> bytes | None:
    """The bytes that a byte-level token's text stands for, None when it is not such a text."""
    try:
        return token.translate(_BYTE_OF_CODE).encode("latin-1")
    except UnicodeEncodeError:
        return None


class FastBPE:
    """tiktoken's encoder for one tokenizer.json; `encode` knows no special tokens."""

    def __init__(self, spec: Mapping[str, Any], added: Sequence[AddedToken]) -> None:
        _check_model(spec["model"])
        self._normalize = _normalizer(spec.get("normalizer"))
        _check_added(added, normalizes=self._normalize is not None)
        ranks, self._id_of_rank = _ranks(spec["model"], {token.content for token in added})
        try:
            self._encode = tiktoken.Encoding(
                "tokenizer.json",
                pat_str=_pattern(spec.get("pre_tokenizer")),
                mergeable_ranks=ranks,
                special_tokens={},
            ).encode_ordinary
        except ValueError as error:
            raise Unconvertible(f"its pattern is not one for tiktoken: {error}") from error

    def encode(self, text: str) -> list[int]:
        if self._normalize is not None:
            text = self._normalize(text)
        ranks = self._encode(text)
        if self._id_of_rank is None:
            return ranks
        ids = self._id_of_rank
        return [ids[rank] for rank in ranks]


def has_long_run(text: str) -> bool:
    """Whether tiktoken could overflow its stack on `text`."""
    return len(text) >= _LONGEST_RUN and _LONG_RUN.search(text) is not None


def disagreement(
    fast: Callable[[str], list[int]], reference: Callable[[str], list[int]], tokens: Sequence[str]
) -> str | None:
    """The first probe text that the two encode differently, of a few hundred made from `tokens`."""
    return next((text for text in _probes(tokens) if fast(text) != reference(text)), None)


def _check_model(model: Mapping[str, Any]) -> None:
    if model.get("type") != "BPE":
        raise Unconvertible(f"its model is {model.get('type')}, not BPE")
    for option in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise Unconvertible(f"its BPE model has {option}")


def _check_added(added: Iterable[AddedToken], *, normalizes: bool) -> None:
    flags = ("lstrip", "rstrip", "single_word", *(["normalized"] if normalizes else []))
    for token in added:
        for flag in flags:
            if getattr(token, flag):
                raise Unconvertible(f"its token {token.content!r} has {flag}")


def _normalizer(normalizer: Mapping[str, Any] | None) -> Callable[[str], str] | None:
    if normalizer is None:
        return None
    if normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers", ())
        if len(steps) <= 1:
            return _normalizer(steps[0] if steps else None)
    if normalizer.get("type") == "NFC":
        return lambda text: unicodedata.normalize("NFC", text)
    raise Unconvertible(f"its normalizer is {normalizer.get('type')}")


def _pattern(pre_tokenizer: Mapping[str, Any] | None) -> str:
    """The one pattern that splits a text as the pre-tokenizer's steps do one after another."""
    steps = _steps(pre_tokenizer)
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise Unconvertible("its pre-tokenizer does not end in a plain ByteLevel")
    before, gpt2 = steps[:-1], steps[-1].get("use_regex", True)
    if not before and gpt2:
        return GPT2
    if len(before) == 1 and before[0].get("type") == "Digits" and before[0].get("individual_digits") and gpt2:
        return GPT2_SINGLE_DIGITS
    if len(before) == 1 and before[0].get("type") == "Split" and not gpt2:
        split = before[0]
        regex = split.get("pattern", {}).get("Regex")
        if regex and split.get("behavior") == "Isolated" and not split.get("invert"):
            return str(regex)
    raise Unconvertible("its pre-tokenizer's steps do not fit one pattern")


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer.get("type") == "Sequence":
        return list(pre_tokenizer["pretokenizers"])
    return [pre_tokenizer]


def _ranks(model: Mapping[str, Any], added: set[str]) -> tuple[dict[bytes, int], list[int] | None]:
    """Ranks for tiktoken, and the token id of each rank where they are not the same."""
    vocab: dict[str, int] = model["vocab"]
    made = [_merged(merge) for merge in model["merges"]]
    if any(text not in vocab for text in made):
        raise Unconvertible("it has merges whose result is not in the vocabulary")
    in_order = all(left <= right for left, right in pairwise([vocab[text] for text in made]))
    if not in_order and len(set(made)) < len(made):
        raise Unconvertible("it reaches a token by several merges of different rank")
    singles = [text for text in vocab if len(text) == 1 and text not in added]
    if len(singles) < 256:
        raise Unconvertible("its vocabulary lacks some single bytes")
    reached = {*made, *singles} - added
    if model.get("ignore_merges") and len(reached) < len(vocab.keys() - added):
        raise Unconvertible("it has whole words that no merge reaches")
    if in_order:
        return {_bytes(text): vocab[text] for text in reached}, None
    order = [*singles, *(text for text in made if text not in added)]
    return {_bytes(text): rank for rank, text in enumerate(order)}, [vocab[text] for text in order]


def _merged(merge: str | Sequence[str]) -> str:
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def _bytes(token: str) -> bytes:
    found = byte_level_bytes(token)
    if found is None:
        raise Unconvertible(f"its token {token!r} is not byte-level")
    return found


_PROBES = (
    "Hello, world! It's a test; we'll see they'RE  fine.\n\n  indented\ttabs\r\n",
    "1 22 333 4444 55555 3.14159 1,000,000 ² ½ ٣٤ 4x4",
    "café cafe\u0301 naïve Ω≈ç√ ß İ ǅ 你好，世界 こんにちは 안녕 שלום مرحبا हिन्दी",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 \u200b\ufeff\u00a0\u3000 \u2028x\u0085y \x00\x01",
    "def f(x):\n    return {'a': [x**2, -1.5e-3], \"b\": None}  # ok?\n\n\n",
    "    \n \n\t  a   b\n   ",
    "aaaaaaaaaaaaaaaa      ------------====!!!!!!!?????",
)


def _probes(tokens: Sequence[str]) -> list[str]:
    """Texts with what splitters trip over, and random walks through the vocabulary."""
    random = Random(0)
    walks = ["".join(random.choices(tokens, k=8)) for _ in range(250)] if tokens else []
    return [*_PROBES, *walks]
