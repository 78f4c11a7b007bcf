"""What a search needs of a language model: the `Backend` protocol and the values that cross it.

A backend turns `Ask`s into `Answer`s and frees what it is told to; a `Place` is a point text can go on
from. Three implementations are in `backends/`: an engine in this process, a Dendrite server, and any OpenAI
endpoint, which has no forks and gets the whole text again with every request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dendrite_core.params import SamplingParams

Message = Mapping[str, Any]
# Text, token ids, or chat messages; empty adds nothing.
Prompt = str | Sequence[int] | Sequence[Message]


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote, as a backend without a tree remembers it. `token_ids` is empty where unknown."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A point from which text can be generated.

    `branch_id` names a branch of the backend (None: nothing is computed yet), of which `offset` own tokens
    count if given. `pending` comes after it and was not sent yet. `history` is all that leads here, kept
    only by backends that have no branches.
    """

    branch_id: str | None = None
    offset: int | None = None
    pending: tuple[Prompt, ...] = ()
    history: tuple[Prompt | Generated, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """`n` continuations of a place, after `prompt` was added to it."""

    place: Place
    params: SamplingParams
    n: int = 1
    prompt: Prompt = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A token that could come next: natural-log probability, and its bytes, maybe of half a character."""

    token_id: int
    logprob: float
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """One generated text, with the stop string that ended it; `finished` if the model ended its turn.

    `tokens` counts what was generated. `logprob` is their sum, None unless asked for. `first` are the
    candidates for the first token, best first, as many as `params.logprobs`.
    """

    place: Place
    text: str
    tokens: int
    token_ids: tuple[int, ...] = ()
    logprob: float | None = None
    first: tuple[Candidate, ...] = ()
    finished: bool = False


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens sent, of those found cached, and generated. A prompt counts once however many continuations."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    requests: int = 0

    @property
    def computed(self) -> int:
        """What the model had to process: prompt tokens that were not cached, and generated ones."""
        return self.prompt - self.cached + self.generated

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.generated + other.generated,
            self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Continuations in order (none if the context is full), and the place where the prompt ended."""

    place: Place
    continuations: tuple[Continuation, ...]
    count: TokenCount = TokenCount()


class Backend(Protocol):
    """A language model to search with.

    `end_ids` are the tokens that end a turn, where known. `generate` that raises or is cancelled leaves
    nothing behind except below branches that were there before.
    """

    @property
    def end_ids(self) -> tuple[int, ...]: ...

    async def generate(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers in order; everything is submitted before anything is waited for."""
        ...

    async def release(self, places: Iterable[Place], *, below: bool = True) -> None:
        """Free the branches of places at once, with all below them unless told otherwise; gone is fine."""
        ...


def start(prompt: Prompt) -> Place:
    """The place at the end of a prompt of which nothing is computed."""
    return Place(pending=(prompt,))


def is_messages(prompt: Prompt) -> bool:
    """Whether a prompt is chat messages rather than text or token ids."""
    return not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def is_context_full(error: BaseException) -> bool:
    """Whether a request failed only because its text is as long as the model can read."""
    return getattr(error, "code", None) == "context_length_exceeded"
