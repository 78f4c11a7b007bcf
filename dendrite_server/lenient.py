"""Reading a request that has fields nobody knows, for callers of servers that ignore such fields.

Only what is unknown is left out: a field that is known and cannot be honoured is refused as ever.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, TypeVar

from dendrite_server.protocol.fields import UnknownParameter

T = TypeVar("T")

# Each object with unknown fields costs one more reading of the whole request.
MAX_READINGS = 200

_STEP = re.compile(r"\[(\d+)\]")


def parse_leniently(body: dict[str, Any], parse: Callable[[dict[str, Any]], T]) -> tuple[T, list[str]]:
    """(what `parse` makes of the known fields, the paths of the others). Raises what `parse` raises."""
    ignored: list[str] = []
    for _ in range(MAX_READINGS):
        try:
            return parse(body), ignored
        except UnknownParameter as error:
            # A copy, because the caller's own body may be kept as it was.
            body = copy.deepcopy(body)
            for path in error.paths:
                if not _remove(body, path):
                    raise
            ignored += error.paths
    return parse(body), ignored


def _remove(body: dict[str, Any], path: str) -> bool:
    """Take the field at `path` out; False if it is not there under that name."""
    holder: Any = body
    while True:
        if isinstance(holder, dict) and path in holder:
            del holder[path]
            return True
        name, at = _next_step(holder, path)
        if name is None:
            return False
        holder, path = holder[name], path[at:].removeprefix(".")


def _next_step(holder: Any, path: str) -> tuple[Any, int]:
    """(key or index to go down by, where the rest of the path begins); (None, 0) at a dead end."""
    if isinstance(holder, list):
        found = _STEP.match(path)
        return (int(found[1]), found.end()) if found and int(found[1]) < len(holder) else (None, 0)
    if isinstance(holder, dict):
        # Names of fields may hold dots themselves, so the longest one that is there counts.
        fits = [name for name in holder if path.startswith((f"{name}.", f"{name}["))]
        if fits:
            longest = max(fits, key=len)
            return longest, len(longest)
    return None, 0
