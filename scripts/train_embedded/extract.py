"""Training turns that take a small JSON object out of a sentence.

Names, places and things are drawn from lists and, as often, made up, so that what is learned is to copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from scripts.train_embedded.prompts import worded
from scripts.train_embedded.puzzles import Turn, turn

_FIRST = ("Maria Anna Tom John Alice Bob Carol David Emma Frank Grace Hugo Ivan Julia Kofi Lena Mina Noah Olga Paul "
          "Quinn Rosa Sam Tara Uma Victor Wendy Xavier Yuki Zoe Ahmed Bella Chen Diego Elif Fatima George Hannah "
          "Ines James Karl Liam Marco Nadia Oscar Priya Ravi Sofia Theo Ursula Vera Will Yara Ada Alan José Zoë "
          "Peter Mary Sarah Mike Jane Lucas Ben Eva Leo Max Nina Omar").split()  # fmt: skip
_LAST = ("Lopez Smith Miller Jones Brown Garcia Kim Chen Novak Rossi Silva Weber Tanaka Kaya Okafor Patel Ivanov "
         "Larsen Dubois Murphy Cohen Haddad Singh Moreau Schmidt Costa Nguyen Khan Olsen Ricci Lovelace Turing "
         "Müller Young King Wright Hill Green Baker").split()  # fmt: skip
_CITIES = ("Lisbon Paris London Berlin Madrid Rome Vienna Oslo Tokyo Lima Cairo Delhi Boston Chicago Dublin Geneva "
           "Istanbul Jakarta Kyoto Lagos Mumbai Nairobi Osaka Prague Quito Riga Seoul Toronto Utrecht Venice Warsaw "
           "Zurich Athens Brussels Denver Austin Munich Hamburg Milan Porto Sydney Zürich").split()  # fmt: skip
_TWO_WORD_CITIES = (
    "New York",
    "San Francisco",
    "Los Angeles",
    "Hong Kong",
    "Buenos Aires",
    "Cape Town",
    "Tel Aviv",
)
_ITEMS = ("apple notebook pencil lamp chair table book phone cable mug bottle shirt ticket keyboard mouse monitor "
          "bag banana candle clock desk fork glove hat jar kettle knife ladder mirror needle orange pillow ring sofa "
          "spoon towel umbrella vase wallet battery brush coat drum coffee pizza sandwich").split()  # fmt: skip
_MONTHS = ("January February March April May June July August September October November December").split()
_EVENTS = ("meeting concert workshop lecture party conference wedding exam interview dinner race festival seminar "
           "review training call exhibition match").split()  # fmt: skip
_JOBS = ("teacher doctor nurse engineer baker painter lawyer farmer pilot writer chemist cook student driver "
         "plumber singer judge dentist programmer designer").split()  # fmt: skip
_STEMS = ("bra", "cor", "dal", "fen", "gri", "hol", "jun", "kes", "lor", "mar", "nel", "or", "pra", "qui", "ros", "sten",
          "tul", "var", "wen", "yor", "zam", "el", "an", "ti", "vik", "bo", "da", "sha")  # fmt: skip

Facts = dict[str, Any]


def _made_up(rng: Random) -> str:
    return "".join(rng.choices(_STEMS, k=rng.randint(1, 3))).capitalize()


def person_name(rng: Random) -> str:
    first, last = (
        (rng.choice(_FIRST), rng.choice(_LAST)) if rng.random() < 0.6 else (_made_up(rng), _made_up(rng))
    )
    return f"{first} {last}" if rng.random() < 0.6 else first


def city(rng: Random) -> str:
    kind = rng.random()
    return (
        rng.choice(_CITIES) if kind < 0.6 else rng.choice(_TWO_WORD_CITIES) if kind < 0.7 else _made_up(rng)
    )


def _item(rng: Random) -> str:
    word = rng.choice(_ITEMS) if rng.random() < 0.7 else _made_up(rng).lower()
    return (
        word
        if rng.random() < 0.7
        else f"{rng.choice(('red', 'blue', 'small', 'large', 'green', 'old'))} {word}"
    )


def _date(rng: Random) -> str:
    day, month = rng.randint(1, 28), rng.choice(_MONTHS)
    forms = (f"{day} {month}", f"{month} {day}", f"{day} {month} {rng.randint(2000, 2035)}",
             f"{rng.randint(2000, 2035)}-{rng.randint(1, 12):02}-{day:02}", "Monday", "Friday", "tomorrow")  # fmt: skip
    return rng.choice(forms)


def _time(rng: Random) -> str:
    return f"{rng.randint(0, 23):02}:{rng.choice((0, 15, 30, 45)):02}"


def _price(rng: Random) -> int | float:
    return rng.randint(1, 500) if rng.random() < 0.5 else rng.randint(100, 9999) / 100


def _person(rng: Random) -> Facts:
    return {"name": person_name(rng), "age": rng.randint(1, 99), "city": city(rng)}


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
    return {"name": name, "email": f"{name.lower()}{rng.choice(('', rng.randint(1, 99)))}@"
            f"{_made_up(rng).lower()}.{rng.choice(('com', 'org', 'net'))}"}  # fmt: skip


def _trip(rng: Random) -> Facts:
    return {"from": city(rng), "to": city(rng), "date": _date(rng)}


# Kind, its facts, and the sentences that tell them; a sentence's last character decides nothing.
_SCHEMAS: tuple[tuple[str, Callable[[Random], Facts], tuple[str, ...]], ...] = (
    ("person", _person, (
        "{name} is {age} years old and lives in {city}.", "{name}, {age}, lives in {city}.",
        "My name is {name}, I am {age} and I live in {city}.", "I'm {name}, {age} years old, from {city}.",
        "{name} from {city} is {age}.", "In {city} lives {name}, who is {age} years old.",
        "{name} moved to {city} at the age of {age}.", "Meet {name}, a {age}-year-old from {city}.",
        "{name} ({age}) comes from {city}.", "{name} turned {age} last week in {city}.",
    )),
    ("order", _order, (
        "I would like {quantity} {item}s at {price} each.", "Please send {quantity} {item}s for {price} each.",
        "We ordered {quantity} {item}s at a price of {price}.", "Order: {quantity} x {item}, {price} each.",
        "She bought {quantity} {item}s for {price} dollars each.", "{quantity} {item}s cost {price} each.",
        "Can I have {quantity} {item}s? The price is {price}.", "The {item} costs {price} and we need {quantity}.",
    )),
    ("event", _event, (
        "The {event} is on {date} in {city}.", "The {event} takes place in {city} on {date}.",
        "Join us for a {event} in {city} on {date}.", "On {date} there is a {event} in {city}.",
        "Don't miss the {event} in {city}, {date}.", "A {event} will be held in {city} on {date}.",
    )),
    ("appointment", _appointment, (
        "The {event} is on {date} at {time}.", "Your {event} starts at {time} on {date}.",
        "Let's have the {event} on {date} at {time}.", "{event} on {date}, {time}.",
        "Remind me of the {event} at {time} on {date}.",
    )),
    ("worker", _worker, (
        "{name} works as a {job} in {city}.", "{name} is a {job} from {city}.", "The {job} {name} lives in {city}.",
        "In {city}, {name} is known as a good {job}.", "{name}, a {job}, has moved to {city}.",
    )),
    ("contact", _contact, (
        "You can reach {name} at {email}.", "Write to {name}: {email}.", "{name}'s email is {email}.",
        "Contact {name} at {email} for details.", "The address of {name} is {email}.",
    )),
    ("trip", _trip, (
        "I fly from {from} to {to} on {date}.", "A ticket from {from} to {to} for {date}, please.",
        "We travel from {from} to {to} on {date}.", "Book a train to {to} from {from} on {date}.",
        "The bus leaves {from} on {date} and goes to {to}.",
    )),
)  # fmt: skip

_PLAIN_ASKS = (
    "Extract JSON: {s}", "Extract as JSON: {s}", "Extract the data as JSON: {s}", "Convert to JSON: {s}",
    "Turn this sentence into JSON: {s}", "Turn into JSON: {s}", "Give me this as JSON: {s}", "As JSON: {s}",
    "Return a JSON object for: {s}", "{s} Extract the facts as JSON.", "{s}\nJSON:", "Parse this into JSON: {s}",
    "Extract the {kind} as JSON: {s}", "Extract the {kind}: {s}", "Put this {kind} into JSON: {s}",
    "Extract a JSON object from this sentence: {s}",
)  # fmt: skip
_KEY_ASKS = (
    "Extract {k} as JSON: {s}", "Extract {k} from this sentence as JSON: {s}", "Extract JSON with {k}: {s}",
    "Extract {k}: {s}", "Return JSON with the keys {k}: {s}", "{s}\nGive me {k} as JSON.", "{s} Extract {k} as JSON.",
    "Give me a JSON object with {k} for: {s}", "From the sentence, extract {k} as JSON.\nSentence: {s}",
    "Text: {s}\nKeys: {k}\nJSON:", "What are {k}? Answer in JSON. {s}",
)  # fmt: skip
_SCHEMA_ASKS = (
    "Extract JSON that fits this schema: {j}\n{s}", "{s}\nAnswer with JSON for this schema: {j}", "Schema: {j}\n{s}",
)  # fmt: skip


def _joined(rng: Random, keys: list[str]) -> str:
    if len(keys) == 1 or rng.random() < 0.4:
        return ", ".join(keys)
    return ", ".join(keys[:-1]) + " and " + keys[-1]


def _schema(facts: Facts) -> str:
    kinds = {str: "string", int: "integer", float: "number"}
    fields = {key: {"type": kinds[type(value)]} for key, value in facts.items()}
    return json.dumps({"type": "object", "properties": fields, "required": list(facts)})


def statement(rng: Random) -> str:
    """One sentence of made-up facts, for long texts that a question follows."""
    _, draw, sentences = rng.choice(_SCHEMAS)
    return rng.choice(sentences).format(**draw(rng))


def extract_turn(rng: Random) -> Turn:
    kind, draw, sentences = rng.choice(_SCHEMAS)
    facts = draw(rng)
    sentence = rng.choice(sentences).format(**facts)
    how = rng.random()
    if how >= 0.4:
        keys = rng.sample(list(facts), len(facts)) if rng.random() < 0.4 else list(facts)
        facts = {
            key: facts[key] for key in (keys if rng.random() < 0.7 else keys[: rng.randint(1, len(keys))])
        }
    answer = json.dumps(facts, ensure_ascii=False)
    if how < 0.4:
        ask = rng.choice(_PLAIN_ASKS).replace("{kind}", kind)
    elif how < 0.85:
        ask = rng.choice(_KEY_ASKS).replace("{k}", _joined(rng, list(facts)))
    else:
        ask = rng.choice(_SCHEMA_ASKS).replace("{j}", _schema(facts))
    ask = worded(rng, ask) if how < 0.85 else ask
    return turn(ask.replace("{s}", sentence), answer)
