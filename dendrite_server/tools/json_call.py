"""Reads one tool call written as a JSON object, while it is being written.

`{"name": ..., "arguments": {...}}` in any order of keys: the name is known as soon as it is complete, and
the arguments are handed on verbatim as they arrive. Only the outermost object is interpreted.
"""

from __future__ import annotations

import json

ARGUMENT_KEYS = ("arguments", "parameters")


class JsonCall:
    """Feed characters with `push` until `done`; `name` and `take_arguments` say what is known so far.

    `broken` is set when the text cannot be such a call (it then never is `done`).
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_fragment",
        "_in_string",
        "_key",
        "_taking",
        "_token",
        "broken",
        "done",
        "name",
    )

    def __init__(self) -> None:
        self.name: str | None = None
        self.done = False
        self.broken = False
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._key: str | None = None
        self._token = ""
        self._fragment = ""
        self._taking = False

    def push(self, text: str) -> int:
        """Read on; how many characters belonged to the call (all, unless it ended or broke)."""
        for at, character in enumerate(text):
            if self.done or self.broken:
                return at
            self._read(character)
        return len(text)

    def take_arguments(self) -> str:
        """Argument text not taken yet; held back until the name is known."""
        if self.name is None:
            return ""
        fragment, self._fragment = self._fragment, ""
        return fragment

    def _read(self, character: str) -> None:
        if self._in_string:
            self._in_string_read(character)
        elif self._depth == 0:
            self._open(character)
        elif self._depth == 1 and character in ":,}":
            self._between(character)
        else:
            self._nested(character)

    def _open(self, character: str) -> None:
        if character == "{":
            self._depth = 1
        elif not character.isspace():
            self.broken = True

    def _between(self, character: str) -> None:
        """At the outermost level: a key ends, a value ends, or the object does."""
        if character == ":" and self._key is None:
            self._key = _string(self._token)
            self.broken = self._key is None
            self._taking = self._key in ARGUMENT_KEYS
        else:
            self._end_value()
            self.done = character == "}"
            self.broken |= self.done and self.name is None
        self._token = ""

    def _end_value(self) -> None:
        if self._key == "name":
            self.name = _string(self._token)
            self.broken = not self.name
        self._key, self._taking = None, False

    def _nested(self, character: str) -> None:
        if character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        elif character == '"':
            self._in_string = True
        elif character.isspace() and not self._token:
            return
        self._keep(character)

    def _in_string_read(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
        self._keep(character)

    def _keep(self, character: str) -> None:
        self._token += character
        if self._taking:
            self._fragment += character


def _string(token: str) -> str | None:
    try:
        value = json.loads(token)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
