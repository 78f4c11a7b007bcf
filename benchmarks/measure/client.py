"""A server behind an OpenAI-compatible base URL, asked through `/v1/completions` with token ids.

`ignore_eos` and its like are not OpenAI's, but vLLM, SGLang, llama.cpp and we take them; a server that
refuses them is asked without, and an answer that ends early is then an error, not a shorter measurement.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import aiohttp

from benchmarks.measure.target import Asked
from benchmarks.measure.timeline import Timeline

_PLAIN: Mapping[str, Any] = {"top_p": 1.0}
# With token ids a chunk says how many tokens it holds, also where they make no whole character yet.
_EXTENDED: Mapping[str, Any] = {**_PLAIN, "ignore_eos": True, "top_k": -1, "return_token_ids": True}
# llama.cpp filters by default in ways of its own; only its temperature is like everybody's.
_DIALECTS: Mapping[str, Mapping[str, Any]] = {"llamacpp": {"samplers": ["temperature"], "cache_prompt": True}}


class ServerRefused(RuntimeError):
    """The server answered with an error, or not with what was asked for."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: texts, and where the server names them, branches."""

    texts: list[str]
    branch_ids: list[str | None]
    fork_us: float | None
    prompt_branch_id: str | None
    completion_tokens: int


class Server:
    """One model of one server. Make it by `connect`."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, model: str, owner: str) -> None:
        self._session = session
        self._url = f"{base_url}/completions"
        self._chat_url = f"{base_url}/chat/completions"
        self._extra = {**_EXTENDED, **_DIALECTS.get(owner, {})}
        self.model = model
        self.has_tree = False

    async def prepare(self) -> None:
        """Find out what the server takes; the first requests of its life go into that."""
        probe = Asked([5, 6, 7], 2)
        try:
            reply = await self.complete(probe)
        except ServerRefused:
            self._extra = dict(_PLAIN)
            reply = await self.complete(probe)
        self.has_tree = reply.prompt_branch_id is not None

    async def complete(self, asked: Asked) -> Reply:
        """The whole answer at once. Raises `ServerRefused` if a choice is missing or ended early."""
        async with self._session.post(self._url, json=self._body(asked)) as response:
            body = _checked(await response.json(content_type=None), response.status)
        choices = sorted(body["choices"], key=lambda choice: choice["index"])
        if len(choices) != asked.n:
            raise ServerRefused(f"{len(choices)} choices instead of {asked.n}")
        _check_ends(choice["finish_reason"] for choice in choices)
        tree = body.get("tree") or {}
        return Reply(
            texts=[choice["text"] for choice in choices],
            branch_ids=[choice.get("branch_id") for choice in choices],
            fork_us=tree.get("fork_us"),
            prompt_branch_id=tree.get("prompt_branch_id"),
            completion_tokens=(body.get("usage") or {}).get("completion_tokens", asked.n * asked.new),
        )

    async def answer(self, question: str, longest: int) -> str:
        """A user's question, answered in a chat at temperature 0, in at most `longest` tokens."""
        messages = [{"role": "user", "content": question}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": longest}
        async with self._session.post(self._chat_url, json=body) as response:
            reply = _checked(await response.json(content_type=None), response.status)
        return str(reply["choices"][0]["message"]["content"])

    async def stream(self, asked: Asked) -> list[Timeline]:
        """When each choice's chunks came. Without token ids, a chunk with text counts as one, and the
        server's usage has the last word on how many there were."""
        body = {**self._body(asked), "stream": True, "stream_options": {"include_usage": True}}
        timelines, ends = [Timeline(perf_counter()) for _ in range(asked.n)], []
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                _checked(await response.json(content_type=None), response.status)
            async for event in _events(response):
                now = perf_counter()
                if "error" in event:
                    raise ServerRefused(str(event["error"]))
                for choice in event.get("choices") or ():
                    tokens = len(choice.get("token_ids") or ()) or int(bool(choice.get("text")))
                    timelines[choice.get("index", 0)].add(now, tokens)
                    ends += [choice["finish_reason"]] if choice.get("finish_reason") else []
                if usage := event.get("usage"):
                    for timeline in timelines:
                        timeline.tokens = usage["completion_tokens"] // asked.n
        _check_ends(ends)
        return timelines

    def _body(self, asked: Asked) -> dict[str, Any]:
        body = {
            "model": self.model,
            "prompt": list(asked.prompt),
            "max_tokens": asked.new,
            "n": asked.n,
            "temperature": asked.temperature,
            **self._extra,
        }
        if asked.seed is not None:
            body["seed"] = asked.seed
        if asked.parent is not None:
            body["parent_id"] = asked.parent
            # An empty list of ids is no prompt; an empty text goes on from the branch.
            body["prompt"] = list(asked.prompt) or ""
        return body


@asynccontextmanager
async def connect(base_url: str, *, key: str = "none", model: str | None = None) -> AsyncIterator[Server]:
    """A server that has answered once; `model` is the first that it lists unless named."""
    base_url = base_url.rstrip("/")
    limits = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {key}"}
    patience = aiohttp.ClientTimeout(total=None, sock_read=1800)
    async with aiohttp.ClientSession(connector=limits, headers=headers, timeout=patience) as session:
        async with session.get(f"{base_url}/models") as response:
            listed = _checked(await response.json(content_type=None), response.status)["data"][0]
        server = Server(session, base_url, model or listed["id"], listed.get("owned_by", ""))
        await server.prepare()
        yield server


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield json.loads(line[6:])


def _checked(body: Any, status: int) -> dict[str, Any]:
    if status != 200 or "error" in body:
        raise ServerRefused(f"{status}: {str(body)[:300]}")
    return dict(body)


def _check_ends(reasons: Any) -> None:
    if early := {reason for reason in reasons if reason != "length"}:
        raise ServerRefused(f"an answer ended early: {', '.join(map(str, early))}")
