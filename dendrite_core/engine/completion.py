"""`Completion`: a whole answer, for callers who do not stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dendrite_core.engine.messages import Progress, Started, TokenLogprob, Usage


@dataclass(slots=True)
class CompletionChoice:
    """One generated branch: its text, its tokens, and why it ended."""

    index: int
    branch_id: str
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class Completion:
    r"""All choices of one request, in order, with where they hang in the tree.

    >>> question = [{"role": "user", "content": "Solve 24: 4 9 10 13"}]
    >>> done = engine.chat(question, SamplingParams(temperature=0))
    >>> done.text, done.choices[0].finish_reason, done.usage.completion_tokens
    ('Answer: 4 * (9 - (13 - 10)) = 24', 'stop', 21)
    """

    choices: list[CompletionChoice]
    started: Started
    usage: Usage

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text

    @property
    def branch_id(self) -> str:
        """The first choice's branch, to continue from."""
        return self.choices[0].branch_id


def collect(started: Started, n: int, progress: Iterable[Progress]) -> Completion:
    """The completion that a request's messages add up to."""
    choices = [CompletionChoice(index, started.branch_ids[index]) for index in range(n)]
    usage: Usage | None = None
    for news in progress:
        for delta in news.choices:
            choice = choices[delta.index]
            choice.text += delta.text
            choice.token_ids += delta.token_ids
            choice.logprobs += delta.logprobs or ()
            choice.finish_reason = delta.finish_reason
            choice.stop_reason = delta.stop_reason
        usage = news.usage or usage
    assert usage is not None, "the last message carries usage"
    return Completion(choices, started, usage)
