"""`ScriptedBackend`: a language model made of a function, that counts what it holds and what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dendrite_core.search.backend import Answer, Ask, Candidate, Continuation, Place, TokenCount


@dataclass(frozen=True)
class Says:
    """One continuation: its text, how many tokens that is, whether the model ended its turn."""

    text: str
    tokens: int = 1
    finished: bool = False
    logprob: float = -1.0


Script = Callable[[str, int, int], Says]
NextTokens = Callable[[str], dict[int, float]]


class ScriptedBackend:
    """Continuation `index` of a path with a seed is `script(path, seed, index)`.

    `held` are living branches by name with their parents; `batches` what was asked together. With `tokens`
    the model is a table of next-token log-probabilities: token t reads as the t-th letter.
    """

    def __init__(
        self, script: Script, *, tokens: NextTokens | None = None, end_ids: tuple[int, ...] = ()
    ) -> None:
        self.script = script
        self.tokens = tokens
        self.end_ids = end_ids
        self.held: dict[str, str | None] = {}
        self.batches: list[list[Ask]] = []
        self.delay = 0.0
        self._paths: dict[str, str] = {}
        self._children: dict[str, list[str]] = {}

    async def generate(self, asks: Sequence[Ask]) -> list[Answer]:
        self.batches.append(list(asks))
        await asyncio.sleep(self.delay)
        return [self._answer(ask) for ask in asks]

    async def release(self, places: Iterable[Place], *, below: bool = True) -> None:
        for place in places:
            if place.branch_id is not None:
                self._forget(place.branch_id, below)

    def _forget(self, name: str, below: bool) -> None:
        self.held.pop(name, None)
        for child in self._children.get(name, []) if below else []:
            self._forget(child, True)

    def _answer(self, ask: Ask) -> Answer:
        parent = ask.place.branch_id
        assert parent is None or parent in self.held, "asked to go on from what was freed"
        said = "".join(_text(part) for part in (*ask.place.pending, ask.prompt))
        path = self._paths.get(parent or "", "") + said
        prompt = self._hold(parent, path)
        # What an OpenAI endpoint could not see either: the search says how long, the model how much.
        limit = ask.params.max_tokens or 99
        spoken = [self.script(path, ask.params.seed or 0, index) for index in range(ask.n)]
        made = tuple(self._continuation(prompt, path, one, limit) for one in spoken)
        count = TokenCount(len(path), 0, sum(one.tokens for one in made), 1)
        return Answer(place=Place(branch_id=prompt), continuations=made, count=count)

    def _continuation(self, prompt: str, path: str, said: Says, limit: int) -> Continuation:
        table = self.tokens(path) if self.tokens is not None else {}
        best = sorted(table.items(), key=lambda entry: -entry[1])
        return Continuation(
            place=Place(branch_id=self._hold(prompt, path + said.text)),
            text=said.text,
            tokens=min(said.tokens, limit),
            logprob=said.logprob,
            first=tuple(Candidate(token_id=t, logprob=p, raw=letter(t).encode()) for t, p in best),
            finished=said.finished,
        )

    def _hold(self, parent: str | None, path: str) -> str:
        name = f"b{len(self._paths)}"
        self._paths[name] = path
        self.held[name] = parent
        self._children.setdefault(parent or "", []).append(name)
        return name


def letter(token: int) -> str:
    return chr(ord("a") + token)


def _text(part: object) -> str:
    if isinstance(part, str):
        return part
    assert isinstance(part, tuple)
    return "".join(letter(one) if isinstance(one, int) else str(one["content"]) for one in part)
