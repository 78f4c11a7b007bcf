"""Training turns that take a small JSON object out of a sentence.

Names, places and things are drawn from lists and, as often, made up, so that what is learned is to copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from scripts.train_embedded.phrases import listed
from scripts.train_embedded.prompts import mistyped, worded
from scripts.train_embedded.puzzles import Turn, turn
from scripts.train_embedded.talk import foreign

_FIRST = listed("""
    Maria | Anna | Tom | John | Alice | Bob | Carol | David | Emma | Frank | Grace | Hugo | Ivan | Julia |
    Kofi | Lena | Mina | Noah | Olga | Paul | Quinn | Rosa | Sam | Tara | Uma | Victor | Wendy | Xavier |
    Yuki | Zoe | Ahmed | Bella | Chen | Diego | Elif | Fatima | George | Hannah | Ines | James | Karl | Liam
    | Marco | Nadia | Oscar | Priya | Ravi | Sofia | Theo | Ursula | Vera | Will | Yara | Ada | Alan | José
    | Zoë | Peter | Mary | Sarah | Mike | Jane | Lucas | Ben | Eva | Leo | Max | Nina | Omar | Bogdan |
    Björn
""")
_LAST = listed("""
    Lopez | Smith | Miller | Jones | Brown | Garcia | Kim | Chen | Novak | Rossi | Silva | Weber | Tanaka |
    Kaya | Patel | Okafor | Ivanov | Larsen | Dubois | Murphy | Cohen | Haddad | Singh | Moreau | Schmidt |
    Costa | Nguyen | Khan | Olsen | Ricci | Lovelace | Turing | Müller | Young | King | Wright | Hill |
    Green | Baker | Parker | Núñez | Doe
""")
_CITIES = listed("""
    Lisbon | Paris | London | Berlin | Madrid | Rome | Vienna | Oslo | Tokyo | Lima | Cairo | Delhi | Boston
    | Chicago | Dublin | Geneva | Istanbul | Jakarta | Kyoto | Lagos | Mumbai | Nairobi | Osaka | Prague |
    Quito | Riga | Seoul | Toronto | Utrecht | Venice | Warsaw | Zurich | Athens | Brussels | Denver |
    Austin | Munich | Hamburg | Milan | Porto | Sydney | Zürich | Bogotá | São Paulo | Köln | Málaga | New
    York | San Francisco | Los Angeles | Hong Kong | Buenos Aires | Cape Town | Tel Aviv | Paris, France |
    Boston, MA | San Francisco, CA
""")
_ITEMS = listed("""
    apple | notebook | pencil | lamp | chair | table | book | phone | cable | mug | bottle | shirt | ticket
    | keyboard | mouse | monitor | bag | banana | candle | clock | desk | fork | glove | hat | jar | kettle
    | knife | ladder | mirror | needle | orange | pillow | ring | sofa | spoon | towel | umbrella | vase |
    wallet | battery | coat | drum | coffee | pizza | sandwich | burger | pen | laptop | egg
""")
_MONTHS = listed("January|February|March|April|May|June|July|August|September|October|November|December")
_EVENTS = listed("""
    meeting | concert | workshop | lecture | party | conference | wedding | exam | interview | dinner | race
    | festival | seminar | review | training | call | exhibition | match
""")
_JOBS = listed("""
    teacher | doctor | nurse | engineer | baker | painter | lawyer | farmer | pilot | writer | chemist |
    cook | student | driver | plumber | singer | judge | dentist | programmer | designer
""")
_STEMS = listed("""
    bra|cor|dal|fen|gri|hol|jun|kes|lor|mar|nel|or|pra|qui|ros|sten|tul|var|wen|yor|zam|el|an|ti|vik|bo|da|sha|
    ick|ug|wil|ly|ett|he|py|xo
""")

Facts = dict[str, Any]


def _made_up(rng: Random) -> str:
    return "".join(rng.choices(_STEMS, k=rng.randint(1, 3))).capitalize()


def _word(rng: Random, known: tuple[str, ...]) -> str:
    kind = rng.random()
    return rng.choice(known) if kind < 0.6 else foreign(rng) if kind < 0.68 else _made_up(rng)


def person_name(rng: Random) -> str:
    first = _word(rng, _FIRST)
    return f"{first} {_word(rng, _LAST)}" if rng.random() < 0.6 else first


def city(rng: Random) -> str:
    return _word(rng, _CITIES)


def _item(rng: Random) -> str:
    word = rng.choice(_ITEMS) if rng.random() < 0.7 else _made_up(rng).lower()
    return (
        word
        if rng.random() < 0.7
        else f"{rng.choice(('red', 'blue', 'small', 'large', 'green', 'old'))} {word}"
    )


def _date(rng: Random) -> str:
    day, month = rng.randint(1, 28), rng.choice(_MONTHS)
    year = rng.randint(2000, 2035)
    forms = [f"{day} {month}", f"{month} {day}", f"{day} {month} {year}", f"{month} {day}, {year}"]
    return rng.choice([*forms, f"{year}-{rng.randint(1, 12):02}-{day:02}", "Monday", "Friday", "tomorrow"])


def _time(rng: Random) -> str:
    return f"{rng.randint(0, 23):02}:{rng.choice((0, 15, 30, 45)):02}"


def _price(rng: Random) -> int | float:
    return rng.randint(1, 500) if rng.random() < 0.5 else rng.randint(100, 9999) / 100


def _person(rng: Random) -> Facts:
    return {"name": person_name(rng), "age": rng.randint(1, 99), "city": city(rng)}


def _age(rng: Random) -> Facts:
    return {"name": person_name(rng), "age": rng.randint(1, 99)}


def _home(rng: Random) -> Facts:
    return {"name": person_name(rng), "city": city(rng)}


def _order(rng: Random) -> Facts:
    return {"item": _item(rng), "quantity": rng.randint(2, 60), "price": _price(rng)}


def _event(rng: Random) -> Facts:
    return {"event": rng.choice(_EVENTS), "date": _date(rng), "city": city(rng)}


def _appointment(rng: Random) -> Facts:
    return {"event": rng.choice(_EVENTS), "date": _date(rng), "time": _time(rng)}


def _worker(rng: Random) -> Facts:
    return {"name": person_name(rng), "job": rng.choice(_JOBS), "city": city(rng)}


def _contact(rng: Random) -> Facts:
    name = _made_up(rng) if rng.random() < 0.5 else rng.choice(_FIRST[:40])
    number, end = rng.choice(("", rng.randint(1, 99))), rng.choice(("com", "org", "net"))
    return {"name": name, "email": f"{name.lower()}{number}@{_made_up(rng).lower()}.{end}"}


def _trip(rng: Random) -> Facts:
    return {"from": city(rng), "to": city(rng), "date": _date(rng)}


# Kind, its facts, and the sentences that tell them.
_SCHEMAS: tuple[tuple[str, Callable[[Random], Facts], tuple[str, ...]], ...] = (
    ("person", _person, listed("""
        {name} is {age} years old and lives in {city}. | {name}, {age}, lives in {city}. | {name} ({age}) is
        from {city}. | My name is {name}, I am {age} and I live in {city}. | I'm {name}, {age} years old,
        from {city}. | {name} from {city} is {age}. | In {city} lives {name}, who is {age} years old. |
        {name}, aged {age}, of {city} | {name} moved to {city} at the age of {age}. | Meet {name}, a
        {age}-year-old from {city}. | {name} ({age}) comes from {city}. | {name} turned {age} last week in
        {city}. | {name} is {age} and lives in {city} | My friend {name} lives in {city}. She is {age} years
        old. | {name} is a {age} year old from {city}.
    """)),
    ("person", _age, listed("""
        {name} is {age} years old. | {name} is {age}. | I am {name} and I am {age}. | {name}, aged {age}. |
        My name is {name}. I am {age} years old. | {name} turned {age} today. | At {age}, {name} is the
        oldest.
    """)),
    ("person", _home, listed("""
        {name} lives in {city}. | {name} is from {city}. | I am {name} from {city}. | {name} moved to
        {city}. | My name is {name} and I live in {city}. | {name} comes from {city}. | In {city} we met
        {name}.
    """)),
    ("order", _order, listed("""
        I would like {quantity} {item}s at {price} each. | Please send {quantity} {item}s for {price} each.
        | We ordered {quantity} {item}s at a price of {price}. | Order: {quantity} x {item}, {price} each. |
        She bought {quantity} {item}s for {price} dollars each. | {quantity} {item}s cost {price} each. |
        Can I have {quantity} {item}s? The price is {price}. | The {item} costs {price} and we need
        {quantity}. | Order {quantity} {item}s at {price} each | {quantity} {item}s at ${price} each | I
        bought {quantity} {item}s for ${price} each.
    """)),
    ("event", _event, listed("""
        The {event} is on {date} in {city}. | The {event} takes place in {city} on {date}. | Join us for the
        {event} in {city} on {date}. | On {date} there is a {event} in {city}. | Don't miss the {event} in
        {city}, {date}. | A {event} will be held in {city} on {date}. | We have a {event} in {city} on
        {date}.
    """)),
    ("appointment", _appointment, listed("""
        The {event} is on {date} at {time}. | Your {event} starts at {time} on {date}. | {event} on {date},
        {time}. | Let's have the {event} on {date} at {time}. | Remind me of the {event} at {time} on
        {date}. | Please schedule a {event} on {date} at {time}.
    """)),
    ("worker", _worker, listed("""
        {name} works as a {job} in {city}. | {name} is a {job} from {city}. | The {job} {name} lives in
        {city}. | In {city}, {name} is known as a good {job}. | {name}, a {job}, has moved to {city}.
    """)),
    ("contact", _contact, listed("""
        You can reach {name} at {email}. | Write to {name}: {email}. | {name}'s email is {email}. | Contact
        {name} at {email} for details. | The address of {name} is {email}.
    """)),
    ("trip", _trip, listed("""
        I fly from {from} to {to} on {date}. | A ticket from {from} to {to} for {date}, please. | We travel
        from {from} to {to} on {date}. | Book a train to {to} from {from} on {date}. | The bus leaves {from}
        on {date} and goes to {to}.
    """)),
)  # fmt: skip

_PLAIN_ASKS = listed("""
    Extract JSON: {s} | Extract as JSON: {s} | Extract the data as JSON: {s} | Convert to JSON: {s} | {s} As
    JSON. | Turn this sentence into JSON: {s} | Turn into JSON: {s} | Give me this as JSON: {s} | As JSON:
    {s} | JSON: {s} | Return a JSON object for: {s} | {s} Extract the facts as JSON. | {s} JSON: | Parse
    this into JSON: {s} | Extract the {kind} as JSON: {s} | Extract the {kind}: {s} | Put this {kind} into
    JSON: {s} | {s} as JSON | Extract a JSON object from this sentence: {s} | Extract: {s} | Answer with
    JSON only: {s}
""")
_KEY_ASKS = listed("""
    Extract {k} as JSON: {s} | Extract {k} from this sentence as JSON: {s} | Extract JSON with {k}: {s} |
    Extract {k}: {s} | Return JSON with the keys {k}: {s} | {s} Give me {k} as JSON. | {s} Extract {k} as
    JSON. | Give me a JSON object with {k} for: {s} | From the sentence, extract {k} as JSON. Sentence: {s}
    | Text: {s} Keys: {k} JSON: | What are {k}? Answer in JSON. {s} | Give me JSON with {k}. {s} | JSON with
    {k}: {s} | Return only {k} as JSON: {s} | Make a JSON object with {k} from this: {s}
""")
_SCHEMA_ASKS = listed("""
    Extract JSON that fits this schema: {j} {s} | {s} Answer with JSON for this schema: {j} | Schema: {j}
    {s} | Answer in JSON matching this schema: {j} {s} | {s} JSON schema: {j}
""")


def _joined(rng: Random, keys: list[str]) -> str:
    if rng.random() < 0.2:
        keys = [f"the {key}" for key in keys]
    if len(keys) == 1 or rng.random() < 0.4:
        return ", ".join(keys)
    return ", ".join(keys[:-1]) + " and " + keys[-1]


def _schema(rng: Random, facts: Facts) -> str:
    kinds = {str: "string", int: "integer", float: "number"}
    fields = {key: {"type": kinds[type(value)]} for key, value in facts.items()}
    schema = {"type": "object", "properties": fields, "required": list(facts)}
    return json.dumps(schema | ({"additionalProperties": False} if rng.random() < 0.3 else {}))


def _told(rng: Random, sentence: str, facts: Facts) -> str:
    """The sentence with its facts in it; a price may be written with both its decimals."""
    price = facts.get("price")
    if isinstance(price, float) and rng.random() < 0.5:
        return sentence.format(**(facts | {"price": f"{price:.2f}"}))
    return sentence.format(**facts)


def statement(rng: Random) -> str:
    """One sentence of made-up facts, for long texts that a question follows."""
    _, draw, sentences = rng.choice(_SCHEMAS)
    return rng.choice(sentences).format(**draw(rng))


def extract_turn(rng: Random) -> Turn:
    kind, draw, sentences = rng.choice(_SCHEMAS)
    facts = draw(rng)
    sentence = _told(rng, rng.choice(sentences), facts)
    how = rng.random()
    if how >= 0.4:
        facts = _chosen(rng, facts)
    if how < 0.4:
        ask = worded(rng, mistyped(rng, rng.choice(_PLAIN_ASKS)).replace("{kind}", kind))
    elif how < 0.85:
        ask = worded(rng, mistyped(rng, rng.choice(_KEY_ASKS)).replace("{k}", _joined(rng, list(facts))))
    else:
        ask = rng.choice(_SCHEMA_ASKS).replace("{j}", _schema(rng, facts))
    # Lists are written on one line; people put a text on a line of its own.
    ask = ask.replace(" {s}", "\n{s}") if rng.random() < 0.2 else ask
    return turn(ask.replace("{s}", sentence), json.dumps(facts, ensure_ascii=False))


def _chosen(rng: Random, facts: Facts) -> Facts:
    """Some of the facts, perhaps in another order: an answer follows what was asked for."""
    keys = rng.sample(list(facts), len(facts)) if rng.random() < 0.4 else list(facts)
    return {key: facts[key] for key in (keys if rng.random() < 0.7 else keys[: rng.randint(1, len(keys))])}
