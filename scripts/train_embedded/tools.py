"""Training turns with tools on offer: call the calculator (or another offered tool), then answer from its result.

Tool definitions vary in wording, names and order, so that names and arguments are read from the offer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from scripts.train_embedded.extract import city, person_name
from scripts.train_embedded.game24 import parse_expression
from scripts.train_embedded.prompts import worded
from scripts.train_embedded.puzzles import Message, Turn
from scripts.train_embedded.talk import nonsense

Tool = dict[str, Any]


def define(
    name: str, description: str, argument: str, meaning: str | None = None, kind: str = "string"
) -> Tool:
    """An OpenAI function tool with one argument."""
    field: dict[str, Any] = {"type": kind}
    if meaning:
        field["description"] = meaning
    parameters = {"type": "object", "properties": {argument: field}, "required": [argument]}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


CALCULATOR = define(
    "calculator", "Evaluate an arithmetic expression.", "expression", "The expression, e.g. 2 + 3 * 4"
)


def calculator(rng: Random) -> Tool:
    if rng.random() < 0.4:
        return CALCULATOR
    return define(
        rng.choice(("calculator", "calculate", "calc", "evaluate", "math", "compute", "run_calculator")),
        rng.choice(
            (
                "Evaluate an arithmetic expression.",
                "Calculate",
                "A calculator",
                "Does arithmetic.",
                "Evaluates a mathematical expression and returns the result.",
                "Compute the value",
            )
        ),  # fmt: skip
        rng.choice(("expression", "expression", "expr", "input", "query", "formula")),
        rng.choice((None, "The expression", "An arithmetic expression", "What to compute, such as 3 * 7")),
    )


def _weather(rng: Random) -> Tool:
    return define(
        rng.choice(("get_weather", "get_current_weather", "weather", "weather_lookup")),
        rng.choice(("Get the weather.", "Get the current weather in a given location", "Weather of a city")),
        rng.choice(("city", "location", "place")),
        rng.choice((None, "The city", "The city and state, e.g. San Francisco, CA")),
    )


def _clock(rng: Random) -> Tool:
    return define(
        rng.choice(("get_time", "clock")), "Get the local time of a city.", rng.choice(("city", "location"))
    )


def _search(rng: Random) -> Tool:
    return define(
        rng.choice(("search", "web_search")), "Search the web.", rng.choice(("query", "q")), "What to find"
    )


def _made_up(rng: Random) -> Tool:
    verb, noun = rng.choice(("get", "find", "lookup", "send", "open", "book")), nonsense(rng, 1)
    return define(
        f"{verb}_{noun}", f"{verb.capitalize()} {noun}.", rng.choice(("id", "name", "key", nonsense(rng, 1)))
    )


def name_of(tool: Tool) -> str:
    return str(tool["function"]["name"])


def argument_of(tool: Tool) -> str:
    return str(next(iter(tool["function"]["parameters"]["properties"])))


# ---- sums and their results

_OPERATOR_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
_SUM_ASKS = ("What is {e}?", "Calculate {e}", "Compute {e}", "How much is {e}?", "{e} = ?", "What's {e}?", "Evaluate {e}",
             "Use the calculator for {e}", "Use the calculator to compute {e}", "Work out {e}", "Please calculate {e}.",
             "What does {e} make?", "I need the value of {e}.", "Tell me {e}", "Can you calculate {e}?", "{e}",
             "Use your tool: {e}", "What is the result of {e}?")  # fmt: skip
_STORIES: tuple[tuple[str, str], ...] = (
    ("I buy {a} boxes at {b} each. What do I pay?", "{a} * {b}"),
    ("A ticket costs {a}. What do {b} tickets cost?", "{a} * {b}"),
    ("There are {a} rows of {b} seats. How many seats?", "{a} * {b}"),
    ("I had {a} and spent {b}. What is left?", "{a} - {b}"),
    ("We have {a} and get {b} more. How many in all?", "{a} + {b}"),
    ("Split {a} among {b} people. How much for each?", "{a} / {b}"),
    ("What is the sum of {a} and {b}?", "{a} + {b}"),
    ("What is the product of {a} and {b}?", "{a} * {b}"),
    ("What is the difference between {a} and {b}?", "{a} - {b}"),
)


def _number(rng: Random) -> int:
    return rng.randint(0, 10 ** rng.choice((1, 2, 2, 3, 4)))


def _expression(rng: Random) -> str:
    parts = [str(_number(rng))]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parts += [rng.choice("+-*/"), str(_number(rng) + 1)]
    if len(parts) > 3 and rng.random() < 0.5:
        parts[0], parts[2] = "(" + parts[0], parts[2] + ")"
    return " ".join(parts)


def _sum(rng: Random) -> tuple[str, str]:
    """A question and the expression it comes to."""
    if rng.random() < 0.2:
        a, b = _number(rng) + 1, _number(rng) + 1
        ask, text = rng.choice(_STORIES)
        return ask.format(a=a, b=b), text.format(a=a, b=b)
    text = _expression(rng)
    ask = worded(rng, rng.choice(_SUM_ASKS))
    if rng.random() < 0.15 and "(" not in text:
        return ask.replace("{e}", " ".join(_OPERATOR_WORDS.get(part, part) for part in text.split())), text
    return ask.replace("{e}", text.replace(" ", "") if rng.random() < 0.15 else text), text


def _value(text: str) -> str:
    value = parse_expression(text)[0]
    return str(value) if value.denominator == 1 else f"{float(value):.4f}".rstrip("0")


def call(tool: Tool, argument: str) -> Message:
    function = {"name": name_of(tool), "arguments": {argument_of(tool): argument}}
    return {"type": "function", "function": function}


def _sum_messages(rng: Random, tool: Tool) -> list[Message]:
    sums = [_sum(rng) for _ in range(2 if rng.random() < 0.08 else 1)]
    texts = [text for _, text in sums]
    answer = " ".join(f"{text} = {_value(text)}." for text in texts)
    calls = [call(tool, text) for text in texts]
    results = [_result(rng, _value(text)) for text in texts]
    return _exchange(" ".join(ask for ask, _ in sums), calls, results, answer)


def _result(rng: Random, value: str) -> str:
    return rng.choice((value, value, f'{{"result": {value}}}', f"= {value}", f'{{"value": {value}}}'))


def _exchange(user: str, calls: list[Message], results: list[str], answer: str) -> list[Message]:
    asked: list[Message] = [
        {"role": "user", "content": user}, {"role": "assistant", "content": "", "tool_calls": calls}
    ]  # fmt: skip
    return [
        *asked,
        *({"role": "tool", "content": r} for r in results),
        {"role": "assistant", "content": answer},
    ]


# ---- the other tools

_CONDITIONS = ("sunny", "cloudy", "rain", "snow", "clear sky", "windy", "fog", "light rain", "hot", "storm")


def _weather_messages(rng: Random, tool: Tool) -> list[Message]:
    place = city(rng)
    asks = ("What is the weather in {x}?", "What's the weather like in {x}?", "How is the weather in {x} today?",
            "Weather in {x}?", "Is it raining in {x}?", "What is the weather like in {x} today?",
            "Tell me the weather in {x}", "Do I need a coat in {x}?")  # fmt: skip
    degrees, condition = rng.randint(-15, 40), rng.choice(_CONDITIONS)
    result = rng.choice((f"{degrees} C, {condition}", f"{condition}, {degrees} degrees", f"{degrees}", condition,
                         json.dumps({"temperature": degrees, "condition": condition})))  # fmt: skip
    return _told(rng.choice(asks).format(x=place), tool, place, result)


def _clock_messages(rng: Random, tool: Tool) -> list[Message]:
    place = city(rng)
    ask = rng.choice(("What time is it in {x}?", "Tell me the time in {x}", "Time in {x}?")).format(x=place)
    return _told(ask, tool, place, f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}")


def _search_messages(rng: Random, tool: Tool) -> list[Message]:
    query = person_name(rng) if rng.random() < 0.5 else nonsense(rng, rng.randint(1, 3))
    ask = rng.choice(("Search for {x}", "Look up {x}", "Search the web for {x}", "Find {x}")).format(x=query)
    return _told(ask, tool, query, nonsense(rng, rng.randint(2, 6)))


def _made_up_messages(rng: Random, tool: Tool) -> list[Message]:
    value = rng.choice((person_name(rng), nonsense(rng, 1), f"{rng.choice('ABCDE')}{rng.randint(1, 9999)}"))
    asks = ("Use {t} with {a} {x}", "Call {t} with {a} {x}", "Call {t} for {x}", "Use {t} on {x}", "{t}: {x}")
    ask = rng.choice(asks).format(t=name_of(tool), a=argument_of(tool), x=value)
    return _told(ask, tool, value, rng.choice(("ok", "done", "not found", nonsense(rng, 3))))


def _told(user: str, tool: Tool, argument: str, result: str) -> list[Message]:
    return _exchange(user, [call(tool, argument)], [result], f"{name_of(tool)} says: {result}")


_KINDS: tuple[tuple[Callable[[Random], Tool], Callable[[Random, Tool], list[Message]]], ...] = (
    (calculator, _sum_messages),
    (_weather, _weather_messages),
    (_clock, _clock_messages),
    (_search, _search_messages),
    (_made_up, _made_up_messages),
)


def offer(rng: Random, kind: int, tool: Tool) -> tuple[Tool, ...]:
    """The tool among none to three of other kinds, in any order."""
    others = [make for i, (make, _) in enumerate(_KINDS) if i != kind]
    offered = [tool, *(make(rng) for make in rng.sample(others, rng.choice((0, 0, 1, 1, 2, 3))))]
    return tuple(rng.sample(offered, len(offered)))


def tool_turn(rng: Random) -> Turn:
    kind = 0 if rng.random() < 0.6 else rng.randrange(1, len(_KINDS))
    make, messages = _KINDS[kind]
    tool = make(rng)
    return Turn(tuple(messages(rng, tool)), tools=offer(rng, kind, tool))
