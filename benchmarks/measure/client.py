"""A server behind an OpenAI-compatible base URL, asked through `/v1/completions`.

`ignore_eos` and its like are not OpenAI's, but vLLM, SGLang, llama.cpp and we take them; a server that
refuses them is asked without, and an answer that ends early is then an error, not a shorter measurement.
Prompts are token ids, texts where only those are taken (transformers serve), and a server that makes one
choice a request is sent as many requests at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.measure.target import Asked
from benchmarks.measure.timeline import Timeline

if TYPE_CHECKING:
    import aiohttp

_PLAIN: Mapping[str, Any] = {"top_p": 1.0}
# With token ids a chunk says how many tokens it holds, also where they make no whole character yet.
_EXTENDED: Mapping[str, Any] = {**_PLAIN, "ignore_eos": True, "top_k": -1, "return_token_ids": True}
# llama.cpp filters by default in ways of its own; only its temperature is like everybody's.
_DIALECTS: Mapping[str, Mapping[str, Any]] = {"llamacpp": {"samplers": ["temperature"], "cache_prompt": True}}


Decode = Callable[[Sequence[int]], str]


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

    def __init__(self, session: aiohttp.ClientSession, base_url: str, model: str) -> None:
        self._session = session
        self._url = f"{base_url}/completions"
        self._chat_url = f"{base_url}/chat/completions"
        self._extra: Mapping[str, Any] = _PLAIN
        self._decode: Decode | None = None
        self._one_by_one = False
        self.model = model
        self.has_tree = False

    async def prepare(self, extended: Mapping[str, Any], decode: Decode | None) -> None:
        """Find out what the server takes; the first requests of its life go into that."""
        manners = [(extended, None), (_PLAIN, None), *([(_PLAIN, decode)] if decode else [])]
        for number, (self._extra, self._decode) in enumerate(manners, 1):
            try:
                reply = await self.complete(Asked([5, 6, 7], 2))
                break
            except ServerRefused:
                if number == len(manners):
                    raise
        self.has_tree = reply.prompt_branch_id is not None
        try:
            await self.complete(Asked([5, 6, 7], 2, n=2))
        except ServerRefused:
            self._one_by_one = True

    async def complete(self, asked: Asked) -> Reply:
        """The whole answer at once. Raises `ServerRefused` if a choice is missing or ended early."""
        if self._one_by_one and asked.n > 1:
            replies = await asyncio.gather(*map(self.complete, _singles(asked)))
            return Reply(
                texts=[reply.texts[0] for reply in replies],
                branch_ids=[reply.branch_ids[0] for reply in replies],
                fork_us=None,
                prompt_branch_id=replies[0].prompt_branch_id,
                completion_tokens=sum(reply.completion_tokens for reply in replies),
            )
        async with self._session.post(self._url, json=self._body(asked)) as response:
            body = await _body_of(response)
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
            reply = await _body_of(response)
        return str(reply["choices"][0]["message"]["content"])

    async def stream(self, asked: Asked) -> list[Timeline]:
        """When each choice's chunks came. Without token ids, a chunk with text counts as one, and the
        server's usage has the last word on how many there were."""
        if self._one_by_one and asked.n > 1:
            apart = await asyncio.gather(*map(self.stream, _singles(asked)))
            return [timeline for one in apart for timeline in one]
        body = {**self._body(asked), "stream": True, "stream_options": {"include_usage": True}}
        timelines, ends = [Timeline(perf_counter()) for _ in range(asked.n)], []
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                await _body_of(response)
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
        if self._decode is not None:
            body["prompt"] = self._decode(asked.prompt)
        if asked.n == 1:
            del body["n"]
        return body


@asynccontextmanager
async def connect(base_url: str, decode: Decode | None = None, *, key: str = "none") -> AsyncIterator[Server]:
    """A server that has answered once, with the model that follows a # in its URL, else the first listed.

    `decode` makes texts of token ids, for servers that take nothing else.
    """
    import aiohttp  # of the extra `bench`, which nobody needs who asks no server

    base_url, _, model = base_url.partition("#")
    base_url = base_url.rstrip("/")
    limits = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {key}"}
    patience = aiohttp.ClientTimeout(total=None, sock_read=1800)
    async with aiohttp.ClientSession(connector=limits, headers=headers, timeout=patience) as session:
        owner = ""
        if not model:
            async with session.get(f"{base_url}/models") as response:
                listed = (await _body_of(response))["data"][0]
            model, owner = listed["id"], listed.get("owned_by", "")
        server = Server(session, base_url, model)
        await server.prepare({**_EXTENDED, **_DIALECTS.get(owner, {})}, decode)
        yield server


def _singles(asked: Asked) -> list[Asked]:
    """The choices as requests of their own."""
    seeds = [None if asked.seed is None else asked.seed + index for index in range(asked.n)]
    return [replace(asked, n=1, seed=seed) for seed in seeds]


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield json.loads(line[6:])


async def _body_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The JSON of an answer. Raises `ServerRefused` with the server's own words if it is an error."""
    raw = await response.text()
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if response.status != 200 or not isinstance(body, dict) or body.get("error"):
        raise ServerRefused(f"{response.status}: {raw[:300]}")
    return body


def _check_ends(reasons: Any) -> None:
    if early := {reason for reason in reasons if reason != "length"}:
        raise ServerRefused(f"an answer ended early: {', '.join(map(str, early))}")
