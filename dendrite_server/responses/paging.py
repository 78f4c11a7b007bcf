"""Query strings and the lists they ask for: `after`, `limit` and `order` as OpenAI has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from dendrite_core.errors import RequestError
from dendrite_server.protocol.fields import Fields, as_strings, invalid
from dendrite_server.responses.request import INCLUDABLE

Body = dict[str, Any]

_INTEGERS = ("limit", "starting_after")
_BOOLEANS = ("stream", "include_obfuscation")
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is wanted."""

    after: str | None
    limit: int
    newest_first: bool

    def body(self, values: Sequence[Body]) -> Body:
        """The page out of `values`, which come oldest first and have an `id` each."""
        ordered = list(reversed(values)) if self.newest_first else list(values)
        rest = ordered[self._start(ordered) :]
        data = rest[: self.limit]
        return {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else "",
            "last_id": data[-1]["id"] if data else "",
            "has_more": len(rest) > len(data),
        }

    def _start(self, ordered: Sequence[Body]) -> int:
        if self.after is None:
            return 0
        for index, value in enumerate(ordered):
            if value["id"] == self.after:
                return index + 1
        raise RequestError(f"There is no '{self.after}' in this list.", param="after")


def read_query(request: Request) -> Fields:
    """A query string as fields: lists as `a=1&a=2` or `a[]=1`, objects as `a[b]=1`."""
    data: Body = {}
    for name, text in request.query_params.multi_items():
        stem, bracket, key = name.partition("[")
        if stem == "include":
            data.setdefault(stem, []).append(text)
        elif bracket:
            data.setdefault(stem, {})[key.removesuffix("]")] = text
        else:
            data[name] = _value(name, text)
    return Fields(data)


def _value(name: str, text: str) -> Any:
    if name in _BOOLEANS:
        return _WORDS.get(text.lower(), text)
    if name in _INTEGERS and text.lstrip("-").isascii() and text.lstrip("-").isdigit() and len(text) < 19:
        return int(text)
    return text


def read_page(fields: Fields, *, newest_first: bool) -> Page:
    order = fields.choice("order", ("asc", "desc"))
    return Page(
        after=fields.string("after"),
        limit=fields.integer("limit", 20, low=1, high=100),
        newest_first=newest_first if order is None else order == "desc",
    )


def read_include(fields: Fields) -> None:
    """Check `include`: what was asked for at the creation is there, and nothing else can be added later."""
    for index, name in enumerate(as_strings("include", fields.array("include") or [])):
        if name not in INCLUDABLE:
            raise invalid(f"include[{index}]", f"'{name}' is nothing that can be included.")
