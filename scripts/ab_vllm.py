"""Sends the same requests to two servers and shows their answers side by side.

    python scripts/ab_vllm.py http://127.0.0.1:8000/v1 http://127.0.0.1:9000/v1 [--model NAME] [--json FILE]

For each request: whether the texts agree, where the JSON differs in structure, how long both took (the
median of a few tries, and the first byte of a stream), and how many prompt tokens they found cached. The
exit status is 1 when a status or a structure differs, 2 when a server cannot be asked. The requests are plain
OpenAI and vLLM, so that neither side needs anything of the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ASKED = "What is a tree? Answer in one sentence."
CHAT, TEXT = "/chat/completions", "/completions"
HELLO = [{"role": "user", "content": ASKED}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HELLO, **GREEDY}),
    "chat again (cached)": (CHAT, {"messages": HELLO, **GREEDY}),
    "chat, n=4": (CHAT, {"messages": HELLO, "n": 4, "seed": 7, "max_tokens": 24}),
    "chat, logprobs": (CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 3, **GREEDY}),
    "chat, token ids": (CHAT, {"messages": HELLO, "return_token_ids": True, **GREEDY}),
    "chat, streamed": (CHAT, {"messages": HELLO, "stream": True, **GREEDY}),
    "chat, streamed usage": (
        CHAT,
        {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}, **GREEDY},
    ),
    "chat, json schema": (
        CHAT,
        {
            "messages": HELLO,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "truth", "schema": {"type": "boolean"}},
            },
            **GREEDY,
        },
    ),
    "chat, sampling of vLLM's": (
        CHAT,
        {"messages": HELLO, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 3, "max_tokens": 24},
    ),
    "completion": (TEXT, {"prompt": "Once upon a time", **GREEDY}),
    "completion, scored": (
        TEXT,
        {"prompt": "Once upon a time", "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0},
    ),
    "completion, two prompts": (TEXT, {"prompt": ["Once upon", "A tree"], **GREEDY}),
    "chat, a tool": (
        CHAT,
        {
            "messages": HELLO,
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
            "tool_choice": "none",
            **GREEDY,
        },
    ),
    "chat, a choice of vLLM's": (
        CHAT,
        {"messages": HELLO, "structured_outputs": {"choice": ["yes"]}, **GREEDY},
    ),
    "chat, only some tokens": (CHAT, {"messages": HELLO, "allowed_token_ids": [70, 71], **GREEDY}),
    "completion, token ids": (TEXT, {"prompt": [[70, 71, 72]], **GREEDY}),
    "error, temperature": (CHAT, {"messages": HELLO, "temperature": 9}),
    "error, model": (CHAT, {"messages": HELLO, "model": "no-such-model"}),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a stream as the list of its chunks. Times are seconds."""

    status: int
    body: Any
    seconds: float
    first_byte: float

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return self.body if isinstance(self.body, list) else [self.body]

    @property
    def texts(self) -> list[str]:
        """What each choice says, in order."""
        said: dict[int, str] = {}
        for body in self.bodies:
            for choice in body.get("choices") or ():
                message = choice.get("message") or choice.get("delta") or {}
                text = choice.get("text") or message.get("content") or ""
                said[choice["index"]] = said.get(choice["index"], "") + text
        return [said[index] for index in sorted(said)]

    @property
    def cached(self) -> int | None:
        """Prompt tokens that were found; None if the server does not say."""
        usage = next((body["usage"] for body in reversed(self.bodies) if body.get("usage")), {})
        return (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


def ask(base_url: str, path: str, body: dict[str, Any], key: str) -> Answer:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(base_url + path, json.dumps(body).encode(), headers)
    begin = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            first, first_byte = answer.read(1), time.perf_counter() - begin
            status, raw = answer.status, first + answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, raw, first_byte = error.code, error.read(), time.perf_counter() - begin
    seconds = time.perf_counter() - begin
    streamed = body.get("stream") and status == 200
    return Answer(status, list(_chunks(raw)) if streamed else _parsed(raw), seconds, first_byte)


def _parsed(raw: bytes) -> Any:
    """A body; one that is no JSON object, as of a proxy's error page, as an object of its text."""
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"text of the body": raw.decode(errors="replace")[:200]}


def _chunks(raw: bytes) -> Iterator[Any]:
    for line in raw.decode().splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


# Objects whose names are tokens, different for different texts.
BY_TOKEN = ("top_logprobs", "prompt_logprobs")


def shape(value: Any, under: str = "") -> Any:
    """The structure of a value found `under` a name: names and types, one for all items of a list."""
    if isinstance(value, dict) and under in BY_TOKEN and "token" not in value:
        return {"*": shape(list(value.values()))}
    if isinstance(value, dict):
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        merged: Any = None
        for item in value:
            merged = _merged(merged, shape(item, under))
        return [merged] if value else []
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "number" if is_number else type(value).__name__


def _merged(one: Any, other: Any) -> Any:
    """A structure that both fit: what either has, the more telling type."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _merged(one.get(name), other.get(name)) for name in {**one, **other}}
    return one if one not in (None, "NoneType") else other


def differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, how it differs) between two shapes. A null says nothing of a type."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted({*a, *b}):
            here = f"{path}.{name}".lstrip(".")
            if name not in a or name not in b:
                yield here, "only A" if name in a else "only B"
            else:
                yield from differences(a[name], b[name], here)
    elif isinstance(a, list) and isinstance(b, list):
        if a and b:
            yield from differences(a[0], b[0], f"{path}[]")
    elif a != b and "NoneType" not in (a, b):
        yield path, f"{_kind(a)} / {_kind(b)}"


def _kind(shape: Any) -> str:
    return shape if isinstance(shape, str) else type(shape).__name__


@dataclass(frozen=True, slots=True)
class Comparison:
    """One request at both servers, several times each; the last answers count, times are medians."""

    name: str
    a: Answer
    b: Answer
    seconds: tuple[float, float]
    first_byte: tuple[float, float]

    def report(self) -> dict[str, Any]:
        return {
            "request": self.name,
            "status": [self.a.status, self.b.status],
            "texts_agree": self.a.texts == self.b.texts,
            "texts": [self.a.texts, self.b.texts],
            "shape": dict(differences(shape(self.a.body), shape(self.b.body))),
            "seconds": self.seconds,
            "first_byte": self.first_byte,
            "cached_tokens": [self.a.cached, self.b.cached],
        }


def compare(name: str, urls: list[str], body: dict[str, Any], path: str, tries: int, key: str) -> Comparison:
    """A and B in turns, so that what disturbs the machine disturbs both."""
    answers = [[ask(url, path, body, key) for url in urls] for _ in range(tries)]
    per_url = list(zip(*answers, strict=True))
    whole = [statistics.median(answer.seconds for answer in one) for one in per_url]
    first = [statistics.median(answer.first_byte for answer in one) for one in per_url]
    return Comparison(name, *answers[-1], (whole[0], whole[1]), (first[0], first[1]))


def lines(report: dict[str, Any]) -> Iterator[str]:
    a, b = report["seconds"]
    first_a, first_b = report["first_byte"]
    cached = " / ".join("-" if one is None else str(one) for one in report["cached_tokens"])
    status = report["status"][0] if len(set(report["status"])) == 1 else report["status"]
    text = "same text" if report["texts_agree"] else "texts differ"
    yield f"{report['request']}: {status}, {text}, cached {cached}"
    yield f"    {a * 1e3:.1f} / {b * 1e3:.1f} ms, first byte {first_a * 1e3:.1f} / {first_b * 1e3:.1f} ms"
    if not report["texts_agree"]:
        yield from (f"    {side}: {texts}" for side, texts in zip("AB", report["texts"], strict=True))
    yield from (f"    {path}: {how}" for path, how in report["shape"].items())


def first_model(base_url: str, key: str) -> str:
    request = urllib.request.Request(f"{base_url}/models", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        name: str = json.load(answer)["data"][0]["id"]
    return name


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("a", help="base URL of server A, with /v1")
    parser.add_argument("b", help="base URL of server B")
    parser.add_argument("--model", help="name to ask both for (default: the first of each)")
    parser.add_argument("--key", default="none", help="API key for both")
    parser.add_argument("--tries", type=int, default=3, help="of each request")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    asked = parser.parse_args(arguments)
    urls = [asked.a.rstrip("/"), asked.b.rstrip("/")]
    try:
        models = [asked.model or first_model(url, asked.key) for url in urls]
        if models[0] != models[1]:
            print(f"A serves {models[0]}, B serves {models[1]}: say --model, which both must answer to.")
            return 2
        reports = compare_all(urls, models[0], asked.tries, asked.key)
    except OSError as error:
        print(f"a server cannot be asked: {error}")
        return 2
    if asked.json is not None:
        asked.json.write_text(json.dumps(reports, indent=1), encoding="utf-8")
    return int(any(report["shape"] or len(set(report["status"])) > 1 for report in reports))


def compare_all(urls: list[str], model: str, tries: int, key: str) -> list[dict[str, Any]]:
    """Every request's report, printed as it comes."""
    reports = []
    for name, (path, body) in REQUESTS.items():
        reports.append(compare(name, urls, {"model": model, **body}, path, tries, key).report())
        print("\n".join(lines(reports[-1])), flush=True)
    return reports


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
