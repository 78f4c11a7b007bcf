"""Training turns with tools on offer: call the calculator (or another offered tool), then answer from its
result.

Tool definitions vary in wording, names and order, so that names and arguments are read from the offer.
What a tool that is not on offer would be needed for is declined, never called.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from scripts.train_embedded.extract import city, person_name
from scripts.train_embedded.game24 import parse_expression
from scripts.train_embedded.phrases import CANNOT, listed
from scripts.train_embedded.prompts import worded
from scripts.train_embedded.puzzles import Message, Turn
from scripts.train_embedded.talk import OPERATOR_WORDS, nonsense

Tool = dict[str, Any]
Fields = dict[str, dict[str, Any]]


def define(name: str, description: str, required: Fields, optional: Fields | None = None) -> Tool:
    """An OpenAI function tool."""
    parameters: dict[str, Any] = {"type": "object", "properties": required | (optional or {})}
    parameters["required"] = list(required)
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def text_field(meaning: str | None = None) -> dict[str, Any]:
    return {"type": "string", "description": meaning} if meaning else {"type": "string"}


CALCULATOR = define(
    "calculator",
    "Evaluate an arithmetic expression.",
    {"expression": text_field("The expression, e.g. 2 + 3 * 4")},
)


def calculator(rng: Random) -> Tool:
    if rng.random() < 0.3:
        return CALCULATOR
    names = (
        "calculator",
        "calculate",
        "calc",
        "evaluate",
        "math",
        "compute",
        "run_calculator",
        "calculator_tool",
    )
    descriptions = listed("""
        Evaluate an arithmetic expression. | Calculate | A calculator | Does arithmetic. | Compute the value
        | Evaluates a mathematical expression and returns the result. | Evaluate a mathematical expression |
        A simple calculator | Calculates the result of an arithmetic expression.
    """)
    argument = rng.choice(("expression", "expression", "expr", "input", "query", "formula"))
    meanings = (None, "The expression", "An arithmetic expression", "What to compute, such as 3 * 7")
    return define(rng.choice(names), rng.choice(descriptions), {argument: text_field(rng.choice(meanings))})


def _weather(rng: Random) -> Tool:
    names = ("get_weather", "get_current_weather", "weather", "weather_lookup")
    descriptions = listed("""
        Get the weather. | Get the current weather in a given location | Weather of a city | Get current
        temperature for a given location. | Get the weather for a city
    """)
    meanings = listed(
        "The city | The city and state, e.g. San Francisco, CA | City and country e.g. Bogotá, Colombia"
    )
    field = text_field(rng.choice((None, *meanings)))
    unit: Fields = {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}
    optional = unit if rng.random() < 0.35 else None
    name = rng.choice(("city", "location", "location", "place"))
    return define(rng.choice(names), rng.choice(descriptions), {name: field}, optional)


def _clock(rng: Random) -> Tool:
    names, argument = ("get_time", "clock", "get_current_time"), rng.choice(("city", "location"))
    return define(rng.choice(names), "Get the local time of a city.", {argument: text_field()})


def _search(rng: Random) -> Tool:
    names = ("search", "web_search")
    return define(
        rng.choice(names), "Search the web.", {rng.choice(("query", "q")): text_field("What to find")}
    )


def _made_up(rng: Random) -> Tool:
    verb, noun = rng.choice(("get", "find", "lookup", "send", "open", "book")), nonsense(rng, 1)
    argument = rng.choice(("id", "name", "key", nonsense(rng, 1)))
    return define(f"{verb}_{noun}", f"{verb.capitalize()} {noun}.", {argument: text_field()})


_BINARY = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def _binary(rng: Random) -> Tool:
    verb = rng.choice(tuple(_BINARY))
    kind = {"type": rng.choice(("number", "integer"))}
    first, second = rng.choice((("a", "b"), ("x", "y"), ("first", "second")))
    return define(verb, f"{verb.capitalize()} two numbers", {first: kind, second: kind})


def name_of(tool: Tool) -> str:
    return str(tool["function"]["name"])


def arguments_of(tool: Tool) -> list[str]:
    return list(tool["function"]["parameters"]["required"])


def call(tool: Tool, *values: str | int) -> Message:
    arguments = dict(zip(arguments_of(tool), values, strict=True))
    return {"type": "function", "function": {"name": name_of(tool), "arguments": arguments}}


# ---- sums and their results

_SUM_ASKS = listed("""
    What is {e}? | Calculate {e} | Compute {e} | How much is {e}? | {e} = ? | What's {e}? | Evaluate {e} |
    {e} | {e}= | Use the calculator for {e} | Use the calculator to compute {e} | Work out {e} | Please
    calculate {e}. | What does {e} make? | I need the value of {e}. | Tell me {e} | Can you calculate {e}? |
    Use your tool: {e} | What is the result of {e}? | Use the tool to compute {e}
""")
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
    ("Add {a} and {b}", "{a} + {b}"),
    ("Multiply {a} by {b}", "{a} * {b}"),
    ("Subtract {b} from {a}", "{a} - {b}"),
    ("Divide {a} by {b}", "{a} / {b}"),
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
    if rng.random() < 0.25:
        a, b = _number(rng) + 1, _number(rng) + 1
        story, text = rng.choice(_STORIES)
        return story.format(a=a, b=b), text.format(a=a, b=b)
    text = _expression(rng)
    ask = worded(rng, rng.choice(_SUM_ASKS))
    if rng.random() < 0.15 and "(" not in text:
        return ask.replace("{e}", " ".join(OPERATOR_WORDS.get(part, part) for part in text.split())), text
    return ask.replace("{e}", text.replace(" ", "") if rng.random() < 0.25 else text), text


def _value(text: str) -> str:
    value = parse_expression(text)[0]
    return str(value) if value.denominator == 1 else f"{float(value):.4f}".rstrip("0")


def _sum_messages(rng: Random, tool: Tool) -> list[Message]:
    sums = [_sum(rng) for _ in range(2 if rng.random() < 0.08 else 1)]
    texts = [text for _, text in sums]
    answer = " ".join(f"{text} = {_value(text)}." for text in texts)
    calls = [call(tool, text) for text in texts]
    results = [_result(rng, _value(text)) for text in texts]
    return _exchange(" ".join(ask for ask, _ in sums), calls, results, answer)


def _result(rng: Random, value: str) -> str:
    return rng.choice((value, value, f'{{"result": {value}}}', f"= {value}", f'{{"value": {value}}}'))


_BINARY_ASKS = {
    sign: [
        *(ask for ask, text in _STORIES if sign in text),
        f"What is {{a}} {sign} {{b}}?",
        f"{{a}} {sign} {{b}}",
    ]
    for sign in "+-*/"
}


def _binary_messages(rng: Random, tool: Tool) -> list[Message]:
    sign = _BINARY[name_of(tool)]
    a, b = _number(rng) + 1, _number(rng) + 1
    ask = rng.choice(_BINARY_ASKS[sign]).format(a=a, b=b)
    value = _value(f"{a} {sign} {b}")
    return _exchange(ask, [call(tool, a, b)], [_result(rng, value)], f"{a} {sign} {b} = {value}.")


def _exchange(user: str, calls: list[Message], results: list[str], answer: str) -> list[Message]:
    return [
        {"role": "user", "content": user},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *({"role": "tool", "content": result} for result in results),
        {"role": "assistant", "content": answer},
    ]


# ---- the other tools

_CONDITIONS = ("sunny", "cloudy", "rain", "snow", "clear sky", "windy", "fog", "light rain", "hot", "storm")
_WEATHER_ASKS = listed("""
    What is the weather in {x}? | What's the weather like in {x}? | How is the weather in {x} today? |
    Weather in {x}? | Is it raining in {x}? | What is the weather like in {x} today? | Tell me the weather
    in {x} | How warm is it in {x}? | Do I need a coat in {x}? | What is the temperature in {x}? | weather
    {x} | What's the weather in {x}?
""")


def _weather_messages(rng: Random, tool: Tool) -> list[Message]:
    place, degrees, condition = city(rng), rng.randint(-15, 40), rng.choice(_CONDITIONS)
    both = json.dumps({"temperature": degrees, "condition": condition})
    results = (f"{degrees} C, {condition}", f"{condition}, {degrees} degrees", f"{degrees}", condition, both)
    return _told(worded(rng, rng.choice(_WEATHER_ASKS)).format(x=place), tool, place, rng.choice(results))


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
    ask = rng.choice(asks).format(t=name_of(tool), a=arguments_of(tool)[0], x=value)
    return _told(ask, tool, value, rng.choice(("ok", "done", "not found", nonsense(rng, 3))))


def _told(user: str, tool: Tool, argument: str, result: str) -> list[Message]:
    return _exchange(user, [call(tool, argument)], [result], f"{name_of(tool)} says: {result}")


_KINDS: tuple[tuple[Callable[[Random], Tool], Callable[[Random, Tool], list[Message]]], ...] = (
    (calculator, _sum_messages),
    (_binary, _binary_messages),
    (_weather, _weather_messages),
    (_clock, _clock_messages),
    (_search, _search_messages),
    (_made_up, _made_up_messages),
)
_SUMS = 2  # the first two kinds both do sums, so they are never offered together


def beside(rng: Random, kind: int, counts: tuple[int, ...]) -> list[Tool]:
    """Tools of other kinds, that cannot do what this kind does."""
    others = [make for i, (make, _) in enumerate(_KINDS) if i != kind and not (i < _SUMS and kind < _SUMS)]
    if kind >= _SUMS:
        others.pop(rng.randrange(_SUMS))
    return [make(rng) for make in rng.sample(others, rng.choice(counts))]


def tool_turn(rng: Random) -> Turn:
    kind = 0 if rng.random() < 0.5 else rng.randrange(1, len(_KINDS))
    make, messages = _KINDS[kind]
    tool = make(rng)
    offered = [tool, *beside(rng, kind, (0, 0, 1, 1, 2, 3))]
    return Turn(tuple(messages(rng, tool)), tools=tuple(rng.sample(offered, len(offered))))


def declined_turn(rng: Random) -> Turn:
    """A request for a tool that is not on offer, whatever else is."""
    kind = rng.randrange(_SUMS, len(_KINDS) - 1)
    make, messages = _KINDS[kind]
    asked = messages(rng, make(rng))[0]
    answer = {"role": "assistant", "content": rng.choice(CANNOT)}
    return Turn((asked, answer), tools=tuple(beside(rng, kind, (0, 0, 0, 1, 2))))
