"""`Job`: one request in flight, from its prompt's sequence to the last of its children.

The loop moves it along; here is only what belongs together: who reads it, what runs for it, what is
still to be said, and what it has used.
"""

from __future__ import annotations

from collections.abc import Iterator

from dendrite_core.batching.sequence import Sequence
from dendrite_core.engine.measures.requests import Clock
from dendrite_core.engine.messages import ChoiceDelta, Started, TokenLogprob, Usage
from dendrite_core.engine.output import Choice
from dendrite_core.engine.stream import Stream


class Job:
    """A request being served. `live` counts choices that have not ended; `news` is not yet reported.

    `forked` is what there is to say once the children have their first tokens, `started` what was said.
    """

    __slots__ = (
        "children",
        "choices",
        "clock",
        "forked",
        "live",
        "news",
        "prompt",
        "shared_tokens",
        "started",
        "stream",
    )

    def __init__(self, stream: Stream, choices: list[Choice], shared_tokens: int) -> None:
        self.stream = stream
        self.choices = choices
        self.shared_tokens = shared_tokens
        self.live = len(choices)
        self.clock = Clock(stream.submitted, {})
        self.news: list[ChoiceDelta] = []
        self.children: list[Sequence] = []
        self.forked: Started | None = None
        self.started: Started | None = None
        self.prompt: Sequence

    def close(self) -> None:
        """Let go of its sequences, which know it: in a circle it would all wait for Python's collector."""
        self.children = []
        del self.prompt

    def unfinished(self) -> Iterator[Sequence]:
        """The sequences that still run or wait for this request."""
        if self.started is None:
            yield self.prompt
        for child in self.children:
            if self.choices[child.stream].finish_reason is None:
                yield child

    def prompt_logprobs(self) -> tuple[TokenLogprob | None, ...] | None:
        """One entry per prompt token when they were asked for; nothing precedes the first."""
        if not self.prompt.wants_scores:
            return None
        tokens = self.prompt.branch.tokens(1, self.prompt.prompt_length)
        return (None, *map(token_logprob, tokens, self.prompt.scored))

    def finish_reasons(self, of_the_rest: str = "error") -> list[str]:
        """Why its choices have ended; what has not ends now."""
        return [choice.finish_reason or of_the_rest for choice in self.choices]

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt.prompt_length,
            cached_tokens=self.prompt.cached or 0,
            completion_tokens=sum(choice.length for choice in self.choices),
        )


def token_logprob(token_id: int, entry: tuple[float, list[tuple[int, float]]]) -> TokenLogprob:
    return TokenLogprob(token_id, entry[0], tuple(entry[1]))
