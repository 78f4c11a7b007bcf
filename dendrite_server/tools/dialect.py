"""How a model speaks beyond plain text: its tool calls, its thoughts, and what its template can be told.

All of it is read off the chat template, once, when the server starts.
"""

from __future__ import annotations

from dataclasses import dataclass

from dendrite_core.text.tokenizer import Tokenizer
from dendrite_server.tools.formats import FORMATS, ToolFormat, format_of
from dendrite_server.tools.reasoning import CLOSING


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """`calls` is how it writes tool calls, None if that is not known; `marks_are_special` when the marks
    around calls are special tokens, which an answer's text leaves out unless told otherwise.
    """

    calls: ToolFormat | None = None
    marks_are_special: bool = False
    thinks: bool = False
    knows_effort: bool = False
    knows_documents: bool = False


PLAIN = Dialect()


def dialect_of(template: str, tokenizer: Tokenizer, parser: str | None) -> Dialect:
    """The dialect of a model; `parser` names a format where the template's own is not recognised."""
    calls = FORMATS[parser] if parser else format_of(template)
    return Dialect(
        calls=calls,
        marks_are_special=calls is not None and any(_is_special(mark, tokenizer) for mark in calls.marks),
        thinks=CLOSING in template,
        knows_effort="reasoning_effort" in template,
        knows_documents="documents" in template,
    )


def _is_special(mark: str, tokenizer: Tokenizer) -> bool:
    return mark not in tokenizer.decode(tokenizer.encode(mark, special=True), True)
