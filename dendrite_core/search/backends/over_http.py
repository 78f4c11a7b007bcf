"""Search over HTTP with an `openai.AsyncOpenAI` client: on a Dendrite server, or on any OpenAI endpoint.

`DendriteBackend` forks by `parent_id` and frees with DELETE. `PlainBackend` knows no branches: it sends all
the text again with every request, so that the two can be compared. Neither imports the SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, cast

from dendrite_core.errors import UnsupportedParameter
from dendrite_core.params import SamplingParams
from dendrite_core.search.backend import (
    Answer,
    Ask,
    Candidate,
    Continuation,
    Generated,
    Message,
    Place,
    Prompt,
    TokenCount,
    is_context_full,
    is_messages,
)

Body = dict[str, Any]
Part = Prompt | Generated


class Client(Protocol):
    """What is used of `openai.AsyncOpenAI`."""

    def post(self, path: str, *, cast_to: type[Any], body: object) -> Awaitable[Any]: ...

    def delete(self, path: str, *, cast_to: type[Any]) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `messages` to the chat endpoint, text or token ids to the other; `continues` mid-turn."""

    prompt: str | list[int] = ""
    messages: list[Message] | None = None
    continues: bool = False

    def body(self) -> tuple[str, Body]:
        if self.messages is None:
            return "/completions", {"prompt": self.prompt}
        body: Body = {"messages": self.messages}
        if self.continues:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return "/chat/completions", body


class DendriteBackend:
    """A Dendrite server. `end_ids` are the model's end tokens, which only beam search needs to know."""

    def __init__(self, client: Client, model: str, *, end_ids: Iterable[int] = ()) -> None:
        self.client = client
        self.model = model
        self.end_ids = tuple(end_ids)

    async def generate(self, asks: Sequence[Ask]) -> list[Answer]:
        tasks = [asyncio.create_task(self._answer(ask)) for ask in asks]
        try:
            # Not `gather`, which would hang up on all of them when it is cancelled itself.
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in ended:
                task.result()
            return [task.result() for task in tasks]
        except BaseException:
            await asyncio.shield(asyncio.create_task(self._settle(asks, tasks)))
            raise

    async def release(self, places: Iterable[Place], *, below: bool = True) -> None:
        """As `Backend.release`. A server frees subtrees only: what is to outlive its past keeps it."""
        names = [place.branch_id for place in places if place.branch_id is not None] if below else []
        await asyncio.gather(*map(self._delete, names))

    async def _delete(self, name: str) -> None:
        try:
            await self.client.delete(f"/branches/{name}", cast_to=object)
        except Exception as error:
            if getattr(error, "status_code", None) != 404:
                raise

    async def _settle(self, asks: Sequence[Ask], tasks: Sequence[asyncio.Task[Answer]]) -> None:
        """The server stops what is hung up on. A new root's name must be heard first to be freed."""
        for ask, task in zip(asks, tasks, strict=True):
            if ask.place.branch_id is not None:
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        made = zip(asks, ended, strict=True)
        roots = [a.place for ask, a in made if isinstance(a, Answer) and ask.place.branch_id is None]
        await self.release(roots)

    async def _answer(self, ask: Ask) -> Answer:
        place = ask.place
        bound = place.branch_id is not None
        path, body = fold((*place.pending, ask.prompt), bound=bound).body()
        body |= sampling_body(ask.params, chat=path.startswith("/chat"))
        body |= {"model": self.model, "n_branches": ask.n, "return_token_ids": True}
        if bound:
            body["parent_id"] = place.branch_id
        if place.offset is not None:
            body["parent_offset"] = place.offset
        try:
            found = await self.client.post(path, cast_to=object, body=body)
        except Exception as error:
            if is_context_full(error):
                return Answer(place=place, continuations=())
            raise
        places = [Place(branch_id=choice["branch_id"]) for choice in found["choices"]]
        prompt = Place(branch_id=found["tree"]["prompt_branch_id"])
        return read_answer(found, prompt, places, [_text(choice) for choice in found["choices"]])


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was sent to a plain endpoint and what came back; None if the context is full."""

    parts: tuple[Part, ...]
    call: Call
    found: Body | None

    @property
    def texts(self) -> list[str]:
        return [_text(choice) for choice in self.found["choices"]] if self.found else []

    @property
    def begun(self) -> str:
        """The unfinished turn that was sent to be gone on with."""
        return str(self.call.messages[-1]["content"]) if self.call.messages and self.call.continues else ""


class PlainBackend:
    """Any OpenAI endpoint: no forks, the whole text resent. Chat is gone on with as vLLM and Dendrite do.

    Some servers repeat the unfinished turn before what they add to it (llama.cpp's does), which shows when
    all answers of a batch begin so, and is taken off. With `token_ids` (an extension of vLLM and Dendrite)
    searches whose prompt is token ids stay in ids, and nothing is tokenized again.
    """

    def __init__(
        self, client: Client, model: str, *, token_ids: bool = False, end_ids: Iterable[int] = ()
    ) -> None:
        self.client = client
        self.model = model
        self.token_ids = token_ids
        self.end_ids = tuple(end_ids)
        self._may_repeat = True

    async def generate(self, asks: Sequence[Ask]) -> list[Answer]:
        tasks = [asyncio.create_task(self._send(ask)) for ask in asks]
        try:
            exchanges = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        # One answer that does not begin so tells for good; one that does may do so by chance.
        self._may_repeat &= all(text.startswith(one.begun) for one in exchanges for text in one.texts)
        return [self._answer(ask, one) for ask, one in zip(asks, exchanges, strict=True)]

    async def release(self, places: Iterable[Place], *, below: bool = True) -> None:
        """There is nothing to free: such a server forgets when it likes."""

    async def _send(self, ask: Ask) -> Exchange:
        parts: tuple[Part, ...] = (*_cut(ask.place), *ask.place.pending, ask.prompt)
        parts = tuple(part for part in parts if isinstance(part, Generated) or len(part))
        call = fold(parts, bound=False)
        path, body = call.body()
        body |= sampling_body(ask.params, chat=path.startswith("/chat"), plain=True)
        body |= {"model": self.model, "n": ask.n}
        if self.token_ids:
            body["return_token_ids"] = True
        try:
            return Exchange(parts, call, await self.client.post(path, cast_to=object, body=body))
        except Exception as error:
            if is_context_full(error):
                return Exchange(parts, call, None)
            raise

    def _answer(self, ask: Ask, exchange: Exchange) -> Answer:
        found, parts = exchange.found, exchange.parts
        if found is None:
            return Answer(place=ask.place, continuations=())
        said = exchange.texts
        if self._may_repeat:
            said = [text.removeprefix(exchange.begun) for text in said]
        stops = [_stop_text(choice, ask.params) for choice in found["choices"]]
        texts = [text + stop for text, stop in zip(said, stops, strict=True)]
        ids = [tuple(choice.get("token_ids") or ()) for choice in found["choices"]]
        written = [Generated(text, own) for text, own in zip(texts, ids, strict=True)]
        places = [Place(history=(*parts, one)) for one in written]
        return read_answer(found, Place(history=parts), places, texts, bool(ask.params.stop))


def fold(parts: Sequence[Part], *, bound: bool) -> Call:
    """Parts of a text as one request. Raises `UnsupportedParameter` for a mix that cannot be sent."""
    parts = [part for part in parts if isinstance(part, Generated) or len(part)]
    if any(_is_chat(part) for part in parts):
        return _fold_chat(parts, bound)
    if parts and all(_ids(part) for part in parts):
        return Call([token for part in parts for token in _ids(part)])
    return Call("".join(map(_as_text, parts)))


def _fold_chat(parts: Sequence[Part], bound: bool) -> Call:
    messages: list[Message] = []
    if not _is_chat(parts[0]) and bound:
        raise UnsupportedParameter("text before a message cannot be sent in one request", param="prompt")
    tail = ""
    for part in parts:
        if _is_chat(part):
            messages += [{"role": "assistant", "content": tail}] if tail else []
            messages += cast(Sequence[Message], part)
            tail = ""
        else:
            tail += _as_text(part)
    if tail and bound:
        raise UnsupportedParameter("text after a message cannot be sent in one request", param="prompt")
    messages += [{"role": "assistant", "content": tail}] if tail else []
    return Call(messages=messages, continues=bool(tail))


def _is_chat(part: Part) -> bool:
    return not isinstance(part, Generated) and is_messages(part)


def _ids(part: Part) -> Sequence[int]:
    """Token ids of a part, empty where it is text."""
    if isinstance(part, Generated):
        return part.token_ids
    return () if isinstance(part, str) else cast(Sequence[int], part)


def _as_text(part: Part) -> str:
    if isinstance(part, Generated):
        return part.text
    if isinstance(part, str):
        return part
    raise UnsupportedParameter("token ids and text cannot be sent in one request", param="prompt")


def _cut(place: Place) -> tuple[Part, ...]:
    """What leads to a place; of a rewound one only the ids that are kept."""
    if place.offset is None:
        return place.history
    last = place.history[-1]
    if not isinstance(last, Generated) or len(last.token_ids) < place.offset:
        raise UnsupportedParameter("only generated token ids that are known can be rewound", param="offset")
    return (*place.history[:-1], last.token_ids[: place.offset])


_DEFAULTS = SamplingParams()
_RENAMED = {"grammar", "logprobs", "stop", "stop_token_ids", "logit_bias"}


def sampling_body(params: SamplingParams, *, chat: bool, plain: bool = False) -> Body:
    """Sampling fields that are not OpenAI's defaults; a plain endpoint is not asked to show stop strings."""
    if params.grammar is not None:
        raise UnsupportedParameter("grammars are not sent over HTTP by a search", param="grammar")
    names = [field.name for field in fields(params) if field.name not in _RENAMED]
    values = {name: getattr(params, name) for name in names}
    body = {name: value for name, value in values.items() if value != getattr(_DEFAULTS, name)}
    if plain:
        body.pop("include_stop_str_in_output", None)
    if params.stop:
        body["stop"] = list(params.stop)
    if params.stop_token_ids:
        body["stop_token_ids"] = list(params.stop_token_ids)
    if params.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()}
    if params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": params.logprobs} if chat else {"logprobs": params.logprobs}
    return body


def read_answer(
    found: Mapping[str, Any],
    prompt: Place,
    places: Sequence[Place],
    texts: Sequence[str],
    guess: bool = False,
) -> Answer:
    """An answer from a response; `guess` that a silent server stopped at a stop string, not at the end."""
    usage = found.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    shares = _shares(usage.get("completion_tokens", 0), found["choices"])
    continuations = [
        Continuation(
            place=place,
            text=text,
            tokens=tokens,
            token_ids=tuple(choice.get("token_ids") or ()),
            logprob=_logprob(choice),
            first=_candidates(choice),
            finished=_is_finished(choice, guess),
        )
        for choice, place, text, tokens in zip(found["choices"], places, texts, shares, strict=True)
    ]
    count = TokenCount(
        usage.get("prompt_tokens", 0),
        details.get("cached_tokens") or 0,
        usage.get("completion_tokens", 0),
        1,
    )
    return Answer(place=prompt, continuations=tuple(continuations), count=count)


def _shares(total: int, choices: Sequence[Mapping[str, Any]]) -> list[int]:
    """Tokens of each choice: by their ids where given, else what an even split comes to."""
    ids = [choice.get("token_ids") for choice in choices]
    if all(one is not None for one in ids):
        return [len(one) for one in ids if one is not None]
    n = len(choices)
    return [total * (at + 1) // n - total * at // n for at in range(n)]


def _text(choice: Mapping[str, Any]) -> str:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return text or ""


def _is_finished(choice: Mapping[str, Any], guess: bool) -> bool:
    if choice["finish_reason"] != "stop":
        return False
    return choice["stop_reason"] is None if "stop_reason" in choice else not guess


def _stop_text(choice: Mapping[str, Any], params: SamplingParams) -> str:
    """The stop string that ended a text and that the endpoint does not show."""
    reason = choice.get("stop_reason")
    if isinstance(reason, str):
        return reason
    silent = choice["finish_reason"] == "stop" and "stop_reason" not in choice
    return params.stop[0] if silent and params.stop else ""


def _logprob(choice: Mapping[str, Any]) -> float | None:
    shown = choice.get("logprobs") or {}
    if shown.get("content") is not None:
        return float(sum(entry["logprob"] for entry in shown["content"]))
    known = shown.get("token_logprobs")
    return float(sum(one for one in known if one is not None)) if known else None


def _candidates(choice: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """The first token's candidates, where the server names them by id (Dendrite does)."""
    tops = (choice.get("logprobs") or {}).get("top_tokens") or [[]]
    named = [(one["token_id"], one["logprob"], bytes(one["bytes"])) for one in tops[0]]
    return tuple(Candidate(token_id=token, logprob=logprob, raw=raw) for token, logprob, raw in named)
