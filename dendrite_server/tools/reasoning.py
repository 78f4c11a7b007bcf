"""Splits what a model thinks from what it says: `<think>...</think>` at the beginning of an answer."""

from __future__ import annotations

from collections.abc import Iterable

OPENING, CLOSING = "<think>", "</think>"


class Thoughts:
    """One answer's splitter. `inside`: the prompt has opened the thought already, as some templates do."""

    def __init__(self, *, inside: bool) -> None:
        self._text = ""
        self._begun = self._inside = inside
        self._fresh = True
        self._done = self._spoken = False

    def push(self, text: str) -> tuple[str, str]:
        """(thought, said) as far as it can be told apart by now."""
        if not self._done:
            self._text += text
            return self._split()
        return "", self._said(text)

    def finish(self) -> tuple[str, str]:
        """What was held back. A thought that was cut short stays one."""
        rest, self._text = self._text, ""
        return (rest, "") if self._inside else ("", rest)

    def _split(self) -> tuple[str, str]:
        if not self._begun and not self._begin():
            return "", ""
        if not self._inside:
            said, self._text, self._done, self._spoken = self._text, "", True, True
            return "", said
        if self._fresh:
            self._text = self._text.removeprefix("\n")
            self._fresh = not self._text
        thought, found, said = self._text.partition(CLOSING)
        if found:
            self._text, self._inside, self._done = "", False, True
            return thought.removesuffix("\n"), self._said(said)
        # The end of what is there may be the beginning of the closing mark.
        held = max(_held(self._text, CLOSING), _held(self._text, "\n" + CLOSING))
        cut = len(self._text) - held
        thought, self._text = self._text[:cut], self._text[cut:]
        return thought, ""

    def _begin(self) -> bool:
        """Whether the text's beginning shows if it is a thought."""
        start = self._text.lstrip()
        if start.startswith(OPENING):
            self._text, self._inside = start.removeprefix(OPENING), True
        elif OPENING.startswith(start):
            return False
        self._begun = True
        return True

    def _said(self, text: str) -> str:
        """The blank lines after a thought belong to neither."""
        if not self._spoken:
            text = text.lstrip("\n")
            self._spoken = bool(text)
        return text


class ThoughtTokens:
    """Counts the tokens of one answer's thought, those of its marks among them, by their bytes."""

    def __init__(self, *, inside: bool) -> None:
        self.count = 0
        self._seen = 0
        self._inside = inside
        self._over = False
        self._text = b""

    def push(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            if not self._over:
                self._seen += 1
                self._read(piece)

    def _read(self, piece: bytes) -> None:
        self._text += piece
        if not self._inside:
            start = self._text.lstrip()
            self._inside = start.startswith(OPENING.encode())
            self._over = not self._inside and not OPENING.encode().startswith(start)
        if self._inside:
            self.count = self._seen
            self._over = CLOSING.encode() in self._text
            self._text = self._text[-len(CLOSING) :]


def _held(text: str, mark: str) -> int:
    """How much of the end of `text` may be the beginning of `mark`."""
    return next((size for size in range(len(mark) - 1, 0, -1) if text.endswith(mark[:size])), 0)
