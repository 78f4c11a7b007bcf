"""Reading a JSON object field by field: the right type or a 400 that names the path.

`Fields` hands each field out once, checked; what nobody took when `finish` is called was not understood
and is refused by name. `null` means "not given" everywhere, as at OpenAI.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar, overload

from dendrite_core.errors import RequestError, UnsupportedParameter

D = TypeVar("D")

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1

# More than any schema needs, and less than Python's own recursion bears.
MAX_DEPTH = 128

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class MalformedBody(RequestError):
    """A body that is not a JSON object."""

    code = "invalid_json"


class UnknownParameter(RequestError):
    """Fields that nobody here knows; `paths` are where they are."""

    code = "unknown_parameter"

    def __init__(self, paths: list[str]) -> None:
        names = ", ".join(f"'{path}'" for path in paths)
        super().__init__(f"Unknown parameter{'s' if len(paths) > 1 else ''}: {names}.", param=paths[0])
        self.paths = paths


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a request body. Raises `MalformedBody`."""
    try:
        value = json.loads(body, parse_constant=_reject_constant, object_pairs_hook=_object)
        if _SURROGATE_ESCAPE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise MalformedBody(_TOO_DEEP) from None
    except ValueError as error:
        raise MalformedBody(f"The request body is not valid JSON: {error}") from None
    # Few bodies have so many brackets at all.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and nests_too_deeply(value):
        raise MalformedBody(_TOO_DEEP)
    if not isinstance(value, dict):
        raise MalformedBody(f"The request body must be a JSON object, not {describe(value)}.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise MalformedBody(f"'{name}' is given twice in one object of the request body.")
    return found


_TOO_DEEP = f"The request body nests too deeply; {MAX_DEPTH} levels are allowed."


def nests_too_deeply(value: Any) -> bool:
    """Whether objects and arrays lie more than `MAX_DEPTH` deep in one another."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level for inner in _containers(one)]
        if not level:
            return False
    return True


def _containers(value: Any) -> Iterable[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    # Long arrays are of numbers, and are passed over as a whole.
    if {dict, list}.isdisjoint(map(type, inner)):
        return ()
    return [one for one in inner if isinstance(one, dict | list)]


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def describe(value: object) -> str:
    """How a value is named in a message about its type."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def wrong_type(path: str, expected: str, value: object) -> RequestError:
    message = f"Invalid type for '{path}': expected {expected}, but got {describe(value)} instead."
    return RequestError(message, param=path, code="invalid_type")


def missing(path: str) -> RequestError:
    message = f"Missing required parameter: '{path}'."
    return RequestError(message, param=path, code="missing_required_parameter")


def invalid(path: str, reason: str) -> RequestError:
    return RequestError(f"Invalid '{path}': {reason}", param=path, code="invalid_value")


def unsupported(path: str, reason: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"Unsupported parameter: '{path}'. {reason}", param=path)


class Fields:
    """One JSON object being read. Every getter takes its field out; `finish` refuses the rest."""

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        self._left = {name: value for name, value in data.items() if value is not None}
        self._prefix = f"{path}." if path else ""

    def path(self, name: str) -> str:
        return self._prefix + name

    def take(self, name: str) -> Any:
        """The field as it is, None if it was not given."""
        return self._left.pop(name, None)

    def has(self, name: str) -> bool:
        return name in self._left

    @overload
    def string(self, name: str) -> str | None: ...
    @overload
    def string(self, name: str, default: D) -> str | D: ...
    def string(self, name: str, default: Any = None) -> Any:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise wrong_type(self.path(name), "a string", value)
        return value

    @overload
    def boolean(self, name: str) -> bool | None: ...
    @overload
    def boolean(self, name: str, default: D) -> bool | D: ...
    def boolean(self, name: str, default: Any = None) -> Any:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise wrong_type(self.path(name), "a boolean", value)
        return value

    @overload
    def number(self, name: str) -> float | None: ...
    @overload
    def number(self, name: str, default: D) -> float | D: ...
    def number(self, name: str, default: Any = None) -> Any:
        value = self.take(name)
        return default if value is None else as_number(self.path(name), value)

    @overload
    def integer(self, name: str, *, low: int = ..., high: int = ...) -> int | None: ...
    @overload
    def integer(self, name: str, default: D, *, low: int = ..., high: int = ...) -> int | D: ...
    def integer(self, name: str, default: Any = None, *, low: int = LOWEST, high: int = HIGHEST) -> Any:
        value = self.take(name)
        return default if value is None else as_integer(self.path(name), value, low, high)

    def object(self, name: str) -> Fields | None:
        value = self.take(name)
        return None if value is None else as_object(self.path(name), value)

    def mapping(self, name: str) -> dict[str, Any]:
        """An object as it is, empty if it was not given."""
        value = self.take(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise wrong_type(self.path(name), "an object", value)
        return value

    def array(self, name: str) -> list[Any] | None:
        value = self.take(name)
        if value is None or isinstance(value, list):
            return value
        raise wrong_type(self.path(name), "an array", value)

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """A string out of a fixed list."""
        value = self.string(name)
        if value is not None and value not in allowed:
            options = ", ".join(f"'{option}'" for option in allowed)
            raise invalid(self.path(name), f"expected one of {options}, but got '{value}'.")
        return value

    def require(self, name: str) -> None:
        if name not in self._left:
            raise missing(self.path(name))

    def refuse(self, reasons: Mapping[str, str], neutral: Mapping[str, Any]) -> None:
        """Refuse the fields that are known but can't be honoured here, each with its reason.

        One whose value is the `neutral` one asks for nothing: it is taken out.
        """
        for name in [name for name in self._left if name in reasons]:
            if name not in neutral or not _same(self.take(name), neutral[name]):
                raise unsupported(self.path(name), reasons[name])

    def finish(self) -> None:
        if not self._left:
            return
        raise UnknownParameter([self.path(name) for name in self._left])


def _same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def as_number(path: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(path, "a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise invalid(path, "the number is too large.")
    return number


def as_integer(path: str, value: Any, low: int = LOWEST, high: int = HIGHEST) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(path, "an integer", value)
    if value < low:
        raise invalid(path, f"expected an integer of at least {low}, but got {value}.")
    if value > high:
        raise invalid(path, f"expected an integer of at most {high}, but got {value}.")
    return value


def as_object(path: str, value: Any) -> Fields:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    return Fields(value, path)


def as_strings(path: str, value: Any) -> tuple[str, ...]:
    """A list of strings, each checked."""
    if not isinstance(value, list):
        raise wrong_type(path, "an array of strings", value)
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise wrong_type(f"{path}[{index}]", "a string", item)
    return tuple(value)


def as_token_ids(path: str, value: Any, vocab_size: int) -> tuple[int, ...]:
    """A list of token ids that the model has."""
    if not isinstance(value, list):
        raise wrong_type(path, "an array of token ids", value)
    if set(map(type, value)) == {int} and min(value) >= 0 and max(value) < vocab_size:
        return tuple(value)
    return tuple(as_integer(f"{path}[{at}]", item, 0, vocab_size - 1) for at, item in enumerate(value))


def items(path: str, values: list[Any]) -> Iterator[Fields]:
    """The objects of a list, each with its own path."""
    for index, value in enumerate(values):
        yield as_object(f"{path}[{index}]", value)
