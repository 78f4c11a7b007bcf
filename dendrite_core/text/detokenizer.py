"""`Detokenizer`: a branch's text as it grows, token by token, never in half characters.

Its whole state is the bytes of an unfinished character, so a fork copies three bytes at most.
"""

from __future__ import annotations

from codecs import utf_8_decode

from dendrite_core.text.tokenizer import Tokenizer


class Detokenizer:
    """Text of one growing branch: all `push` results and the `flush` together equal `Tokenizer.decode`.

    `continues` is for a text that goes on where another ended, so that a SentencePiece model's leading
    space stays.
    """

    __slots__ = ("_at_start", "_pending", "_pieces", "_texts")

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True, *, continues: bool = False):
        vocabulary = tokenizer.vocabulary
        self._texts = vocabulary.texts(skip_special_tokens)
        self._pieces = vocabulary.shown(skip_special_tokens)
        self._pending = b""
        self._at_start = vocabulary.strips_leading_space and not continues

    def push(self, token_id: int) -> str:
        """The characters that `token_id` completes, possibly none."""
        text = self._texts[token_id] if token_id < len(self._texts) else ""
        if text is None or self._pending:
            text = self._join(token_id)
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """What is left at the end of the text: U+FFFD for a character that never became whole."""
        pending, self._pending = self._pending, b""
        return pending.decode("utf-8", "replace")

    def fork(self) -> Detokenizer:
        """An independent detokenizer at the same place."""
        other = object.__new__(Detokenizer)
        other._texts, other._pieces = self._texts, self._pieces
        other._pending, other._at_start = self._pending, self._at_start
        return other

    def _join(self, token_id: int) -> str:
        data = self._pending + (self._pieces[token_id] if token_id < len(self._pieces) else b"")
        text, used = utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text
