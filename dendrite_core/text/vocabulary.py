"""`Vocabulary`: what every token id stands for, as bytes and where possible as text.

Read once from a Hugging Face tokenizer of any kind: byte-level tokens map to bytes directly, SentencePiece
tokens by their space and byte marks, and for the rest the tokenizer's own decoder is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import tokenizers

from dendrite_core.text.bpe import byte_level_bytes

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK = "\u2581"


@dataclass(frozen=True)
class Vocabulary:
    """Tables over token ids. A padding id or a hole in the numbering has no bytes.

    `pieces` are exact bytes. `strips_leading_space` is whether a text starts without the space its
    first token carries, as SentencePiece's do.
    """

    pieces: list[bytes]
    special_ids: frozenset[int]
    strips_leading_space: bool

    def shown(self, skip_special_tokens: bool) -> list[bytes]:
        """`pieces`, with nothing for special tokens where those are skipped."""
        return self._pieces_without_special if skip_special_tokens else self.pieces

    def texts(self, skip_special_tokens: bool) -> list[str | None]:
        """Text of each token that is whole characters by itself, else None."""
        return self._texts_without_special if skip_special_tokens else self._texts

    def sample_texts(self, size: int = 2000) -> list[str]:
        """Some tokens that are text by themselves, the same ones every time."""
        texts = [text for text in self._texts_without_special if text]
        return Random(0).sample(texts, min(size, len(texts)))

    @cached_property
    def _pieces_without_special(self) -> list[bytes]:
        special = self.special_ids
        return [b"" if i in special else piece for i, piece in enumerate(self.pieces)]

    @cached_property
    def _texts(self) -> list[str | None]:
        return [_text(piece) for piece in self.pieces]

    @cached_property
    def _texts_without_special(self) -> list[str | None]:
        special = self.special_ids
        return ["" if i in special else text for i, text in enumerate(self._texts)]


def read_vocabulary(hf: tokenizers.Tokenizer, decoder: Mapping[str, Any] | None) -> Vocabulary:
    """The tables of `hf`, whose decoder is described by `decoder` in tokenizer.json's words."""
    vocab = hf.get_vocab(with_added_tokens=True)
    added = hf.get_added_tokens_decoder()
    to_bytes = _reader(hf, decoder)
    pieces = [b""] * (max(vocab.values(), default=-1) + 1)
    for text, token_id in vocab.items():
        pieces[token_id] = text.encode() if token_id in added else to_bytes(text, token_id)
    special = frozenset(token_id for token_id, token in added.items() if token.special)
    return Vocabulary(pieces, special, _strips_leading_space(hf, pieces))


def _reader(hf: tokenizers.Tokenizer, decoder: Mapping[str, Any] | None) -> Callable[[str, int], bytes]:
    kinds = json.dumps(decoder, ensure_ascii=False)
    if '"ByteLevel"' in kinds:
        return lambda text, token_id: byte_level_bytes(text) or text.encode()
    if '"Metaspace"' in kinds or _SPACE_MARK in kinds:
        return lambda text, token_id: _sentencepiece_bytes(text, byte_tokens='"ByteFallback"' in kinds)
    return _asking_decoder(hf)


def _sentencepiece_bytes(text: str, *, byte_tokens: bool) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(text) if byte_tokens else None
    return bytes([int(byte[1], 16)]) if byte else text.replace(_SPACE_MARK, " ").encode()


def _asking_decoder(hf: tokenizers.Tokenizer) -> Callable[[str, int], bytes]:
    """What the decoder makes of a token in the middle of a text: after some other token."""
    anchor = hf.encode("a", add_special_tokens=False).ids
    start = hf.decode(anchor, skip_special_tokens=False)

    def read(text: str, token_id: int) -> bytes:
        decoded = hf.decode([*anchor, token_id], skip_special_tokens=False)
        return str(decoded[len(start) :]).encode()

    return read


def _strips_leading_space(hf: tokenizers.Tokenizer, pieces: list[bytes]) -> bool:
    spaced = next((i for i, piece in enumerate(pieces) if re.fullmatch(rb" [a-z]+", piece)), None)
    return spaced is not None and not str(hf.decode([spaced])).startswith(" ")


def _text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None
