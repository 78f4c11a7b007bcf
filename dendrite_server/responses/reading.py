"""Readers: what a model's text is made of, as the pieces that a `Writer` writes.

This is the seam to the chat layer's tool parsers: one for a request with tools, plain text for all others.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from dendrite_core.engine.messages import ChoiceDelta
from dendrite_server.responses.writer import CallArguments, CallBegins, Piece, Reader, Reasoning, Text
from dendrite_server.tools import events
from dendrite_server.tools.parsers import Parser


def plain_text(delta: ChoiceDelta) -> Sequence[Piece]:
    """The reader of a model that only speaks."""
    return (Text(delta.text, delta.logprobs or ()),) if delta.text or delta.logprobs else ()


def with_calls(parser: Parser) -> Reader:
    """The reader of one answer that may call functions. Only what is said has logprobs, not the calls."""

    def read(delta: ChoiceDelta) -> Sequence[Piece]:
        found = parser.push(delta.text)
        if delta.finish_reason is not None:
            found = [*found, *parser.finish()]
        pieces = [_piece(event) for event in found]
        for index, piece in enumerate(pieces):
            if isinstance(piece, Text):
                pieces[index] = Text(piece.text, delta.logprobs or ())
                break
        return pieces

    return read


def _piece(event: events.Event) -> Piece:
    match event:
        case events.Content():
            return Text(event.text)
        case events.Reasoning():
            return Reasoning(event.text)
        case events.CallStart():
            return CallBegins(f"call_{secrets.token_hex(12)}", event.name)
        case events.CallArguments():
            return CallArguments(event.fragment)
