"""Answers in OpenAI's shapes, piece by piece: server-sent events, each encoded once as bytes.

A chat stream is role chunks, deltas, one finish chunk per choice, the usage chunk if asked, `[DONE]`.
`branch_id` comes with a choice's first chunk; `tree` with the last finish chunk and the usage chunk.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from dendrite_core.engine.messages import ChoiceDelta, Progress, Started, Usage
from dendrite_server.protocol.request import Common
from dendrite_server.protocol.response import (
    Body,
    Echo,
    Entry,
    Header,
    TokenBytes,
    characters,
    chat_logprobs,
    choice_usage,
    echoed,
    encode_json,
    legacy_logprobs,
    own_entries,
    sum_usage,
    trees_body,
    usage_body,
)
from dendrite_server.tools.reading import PLAIN_SPEECH, Speech
from dendrite_server.tools.reasoning import ThoughtTokens
from dendrite_server.tools.speech import Deltas, finish_reason

DONE = b"data: [DONE]\n\n"


class Encoder(Protocol):
    """Turns what the engine says into the bytes of one stream; `prompt` counts a request's prompts."""

    def start(self, prompt: int, started: Started) -> bytes: ...
    def news(self, prompt: int, progress: Progress) -> bytes: ...
    def end(self) -> bytes: ...


class Frames:
    """What chat and legacy streams do alike: frames around choices, counts, and the end.

    Usage is summed here because a request of several prompts gets one usage for all of them.
    """

    def __init__(self, header: Header, asked: Common, prompts: int) -> None:
        body = encode_json(header.body())
        self._head = f'data: {body[:-1]},"choices":['.encode()
        self._plain_tail = b'],"usage":null}\n\n' if asked.include_usage else b"]}\n\n"
        self._asked = asked
        self._open = asked.n * prompts
        self._started: dict[int, Started] = {}
        self._usages: list[Usage] = []
        self._completed: Counter[tuple[int, int]] = Counter()
        self.thoughts: list[ThoughtTokens] = []

    def started(self, prompt: int, started: Started) -> None:
        self._started[prompt] = started

    def count(self, prompt: int, progress: Progress) -> None:
        for delta in progress.choices:
            self._completed[prompt, delta.index] += len(delta.token_ids)
        if progress.usage is not None:
            self._usages.append(progress.usage)

    def chunk(self, choice: Body, extra: Body | None = None) -> bytes:
        if extra is None and not self._asked.continuous_usage:
            return self._head + encode_json(choice).encode() + self._plain_tail
        tail = encode_json({**(extra or {}), **self._running_usage()})
        return self._head + f"{encode_json(choice)}],{tail[1:]}\n\n".encode()

    def finish(self, prompt: int, index: int, choice: Body) -> bytes:
        """The chunk that ends a choice, with what it used; the last one shows the tree.

        `index` is the choice's among those of its prompt.
        """
        self._open -= 1
        usage = choice_usage(self._started[prompt], self._completed[prompt, index])
        return self.chunk({**choice, "usage": usage}, None if self._open else self._trees())

    def end(self) -> bytes:
        if not self._asked.include_usage:
            return DONE
        body = encode_json({"usage": sum_usage(self._usages, self._reasoning()), **self._trees()})
        return self._head + f"],{body[1:]}\n\n".encode() + DONE

    def _reasoning(self) -> int:
        return sum(one.count for one in self.thoughts)

    def _trees(self) -> Body:
        return trees_body([started for _, started in sorted(self._started.items())])

    def _running_usage(self) -> Body:
        if not self._asked.continuous_usage:
            return {"usage": None} if self._asked.include_usage else {}
        started = self._started.values()
        prompt = sum(one.prompt_tokens for one in started)
        cached, completed = sum(one.cached_tokens for one in started), sum(self._completed.values())
        return {"usage": usage_body(prompt, cached, completed, self._reasoning())}


class ChatEncoder:
    """A chat completion as `chat.completion.chunk` events."""

    def __init__(
        self, header: Header, asked: Common, token_bytes: TokenBytes, speech: Speech = PLAIN_SPEECH
    ) -> None:
        self._frames = Frames(header, asked, 1)
        self._asked = asked
        self._token_bytes = token_bytes
        self._speech = speech
        self._deltas: list[Deltas] = []

    def start(self, prompt: int, started: Started) -> bytes:
        self._frames.started(prompt, started)
        self._deltas = [Deltas(self._speech, branch_id) for branch_id in started.branch_ids]
        counters = [self._speech.thought_tokens() for _ in started.branch_ids]
        self._frames.thoughts = [counter for counter in counters if counter is not None]
        delta = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(
            self._frames.chunk({**_chunk(index, delta), "branch_id": branch_id})
            for index, branch_id in enumerate(started.branch_ids)
        )

    def news(self, prompt: int, progress: Progress) -> bytes:
        self._frames.count(prompt, progress)
        for delta in progress.choices if self._frames.thoughts else ():
            self._frames.thoughts[delta.index].push(map(self._token_bytes, delta.token_ids))
        return b"".join(self._choice(delta) for delta in progress.choices)

    def _choice(self, delta: ChoiceDelta) -> bytes:
        shown = delta.token_ids if self._asked.return_token_ids else ()
        deltas = self._deltas[delta.index]
        said = deltas.push(delta.text, delta.finish_reason is not None)
        if not said and (delta.logprobs or shown):
            said = [{"content": ""}]
        text = b""
        for at, body in enumerate(said):
            choice = _chunk(delta.index, body)
            if at:
                text += self._frames.chunk(choice)
                continue
            if delta.logprobs is not None:
                choice["logprobs"] = chat_logprobs(delta.logprobs, self._token_bytes)
            if shown:
                choice["token_ids"] = list(shown)
            text += self._frames.chunk(choice)
        if delta.finish_reason is None:
            return text
        reason = finish_reason(self._speech, delta.finish_reason, deltas.calls)
        ended = {**_chunk(delta.index, {}), "finish_reason": reason}
        return text + self._frames.finish(0, delta.index, {**ended, "stop_reason": delta.stop_reason})

    def end(self) -> bytes:
        return self._frames.end()


def _chunk(index: int, delta: Body) -> Body:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


class TextEncoder:
    """A legacy completion as `text_completion` events; choices are numbered through all prompts."""

    def __init__(self, header: Header, asked: Common, token_bytes: TokenBytes, echoes: list[Echo]) -> None:
        self._frames = Frames(header, asked, len(echoes))
        self._asked = asked
        self._token_bytes = token_bytes
        self._echoes = echoes
        self._fresh: dict[int, tuple[str, list[Entry]]] = {}
        self._offsets: dict[int, int] = {}

    def start(self, prompt: int, started: Started) -> bytes:
        self._frames.started(prompt, started)
        entries = echoed(self._echoes[prompt], started)
        for at, branch_id in enumerate(started.branch_ids):
            self._fresh[prompt * self._asked.n + at] = (branch_id, entries)
        return b""

    def news(self, prompt: int, progress: Progress) -> bytes:
        self._frames.count(prompt, progress)
        return b"".join(self._choice(prompt, delta) for delta in progress.choices)

    def _choice(self, prompt: int, delta: ChoiceDelta) -> bytes:
        shown = delta.token_ids if self._asked.return_token_ids else ()
        if not (delta.text or delta.logprobs or shown or delta.finish_reason):
            return b""
        index = prompt * self._asked.n + delta.index
        branch_id, entries = self._fresh.pop(index, (None, []))
        text = delta.text if branch_id is None else self._echoes[prompt].text + delta.text
        choice: Body = {"index": index, "text": text, "logprobs": self._logprobs(index, entries, delta)}
        choice["finish_reason"] = delta.finish_reason
        if branch_id is not None:
            choice["branch_id"] = branch_id
        if shown:
            choice["token_ids"] = list(shown)
        if delta.finish_reason is None:
            return self._frames.chunk(choice)
        return self._frames.finish(prompt, delta.index, {**choice, "stop_reason": delta.stop_reason})

    def _logprobs(self, index: int, before: list[Entry], delta: ChoiceDelta) -> Body | None:
        entries = [*before, *own_entries(delta.logprobs or ())]
        if not entries:
            return None
        offset = self._offsets.get(index, 0)
        grown = sum(characters(token_id, self._token_bytes) for token_id, _ in entries)
        self._offsets[index] = offset + grown
        return legacy_logprobs(entries, self._token_bytes, offset)

    def end(self) -> bytes:
        return self._frames.end()
