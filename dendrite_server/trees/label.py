"""What a branch says, in few words: for titles, drawings and terminals."""

from __future__ import annotations

import re

TITLE_LENGTH = 80

# What chat templates put around turns; of no interest to who looks at a tree.
_MARKERS = re.compile(r"<\|[^|<>]{1,40}\|>|\[/?INST\]|</?s>|<bos>|<(?:start|end)_of_turn>")
_ROLES = {"system", "user", "assistant", "tool", "model"}


def plain_text(text: str) -> str:
    """A branch's text on one line, without what a chat template puts around turns."""
    lines = (line.strip() for line in _MARKERS.sub("\n", text).splitlines())
    return " ".join(line for line in lines if line and line not in _ROLES)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def title_of(text: str) -> str:
    return shortened(plain_text(text[: 20 * TITLE_LENGTH]), TITLE_LENGTH)


def tone_of(score: float | None) -> str:
    """What a score between 0 and 1 is worth."""
    if score is None:
        return "plain"
    return "good" if score >= 0.8 else "fair" if score >= 0.35 else "poor"
