"""What a thought is worth: the model's own probability, a judge's votes, a Python callable, a check.

An evaluator scores many branches in one batch, higher is better; a goal is any callable that says whether
a branch solves the task. `RegexCheck` and `JSONCheck` are goals that can be written down as data.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dendrite_core.params import SamplingParams
from dendrite_core.search.generators import Template, side_ask
from dendrite_core.search.tree import Branch, Tree

Goal = Callable[[Branch], bool]


class Evaluator(Protocol):
    """Scores branches, higher is better; 0 to 1 where searches average. May raise `BudgetExhausted`."""

    @property
    def reads_logprobs(self) -> bool: ...

    async def score(self, tree: Tree, branches: Sequence[Branch]) -> list[float]: ...


@dataclass(frozen=True, slots=True)
class MeanLogprob:
    """The geometric mean probability of a branch's tokens from the root, or of its last thought only."""

    last_only: bool = False
    reads_logprobs: bool = field(default=True, init=False)

    async def score(self, tree: Tree, branches: Sequence[Branch]) -> list[float]:
        return [self._mean(branch) for branch in branches]

    def _mean(self, branch: Branch) -> float:
        path = branch.path[-1:] if self.last_only else branch.path
        known = [(one.logprob, one.tokens) for one in path if one.logprob is not None]
        tokens = sum(count for _, count in known)
        return math.exp(sum(logprob for logprob, _ in known) / tokens) if tokens else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The model's own opinion: `votes` answers to a question about the branch, averaged.

    An answer counts as the value of the first of `labels` in it, or as its first number divided by
    `scale`; answers with neither do not count, and a branch without any gets 0. `turn` asks within the
    branch, which shares all its tokens; otherwise the question stands alone and is asked once per text.

    >>> judge = Judge(
    ...     prompt=Template("Judge for 24: {last}"),
    ...     labels={"sure": 1.0, "impossible": 0.0},
    ...     params=SamplingParams(max_tokens=4, temperature=0),
    ... )
    >>> tree = Tree(EngineBackend(engine), [{"role": "user", "content": "Which numbers make 24?"}])
    >>> asyncio.run(judge.score(tree, [tree.root.append("4 6"), tree.root.append("11 12")]))
    [1.0, 0.0]
    """

    prompt: Template
    labels: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    votes: int = 1
    params: SamplingParams = field(default_factory=lambda: SamplingParams(max_tokens=8))
    turn: bool = False
    reads_logprobs: bool = field(default=False, init=False)

    async def score(self, tree: Tree, branches: Sequence[Branch]) -> list[float]:
        questions = [self.prompt.render(branch) for branch in branches]
        keys = [
            (self.prompt, text, branch.id if self.turn else None)
            for text, branch in zip(questions, branches, strict=True)
        ]
        new = {key: at for at, key in enumerate(keys) if key not in tree.memory}
        asks = [
            side_ask(branches[at], questions[at], self.params, turn=self.turn, n=self.votes)
            for at in new.values()
        ]
        answers = await tree.ask(asks) if asks else []
        for key, answer in zip(new, answers, strict=True):
            if answer is not None:
                tree.memory[key] = self._mean([one.text for one in answer.continuations])
        return [tree.memory.get(key, 0.0) for key in keys]

    def _mean(self, texts: Sequence[str]) -> float:
        votes = [vote for vote in map(self._vote, texts) if vote is not None]
        return sum(votes) / len(votes) if votes else 0.0

    def _vote(self, text: str) -> float | None:
        if self.labels:
            words = "|".join(re.escape(label) for label in sorted(self.labels, key=len, reverse=True))
            found = re.search(rf"\b(?:{words})\b", text, re.IGNORECASE)
            named = {label.lower(): value for label, value in self.labels.items()}
            return named[found[0].lower()] if found else None
        number = re.search(r"-?\d+(?:\.\d+)?", text)
        return float(number[0]) / self.scale if number else None


@dataclass(frozen=True, slots=True)
class Call:
    """Whatever a Python function says of a branch: a number or a boolean, or an awaitable of one."""

    function: Callable[[Branch], float | Awaitable[float]]
    reads_logprobs: bool = False

    async def score(self, tree: Tree, branches: Sequence[Branch]) -> list[float]:
        scores = []
        for branch in branches:
            value = self.function(branch)
            scores.append(float(await value if inspect.isawaitable(value) else value))
        return scores


@dataclass(frozen=True, slots=True)
class RegexCheck:
    r"""Whether a pattern is found in a branch's text and, with `equals`, whether its group is just that.

    >>> RegexCheck(r"Answer: (.*) = 24").extract("Answer: 4 * 6 = 24")
    '4 * 6'
    """

    pattern: str
    equals: str | None = None

    def __call__(self, branch: Branch) -> bool:
        answer = self.extract(branch.path_text)
        return answer is not None and (self.equals is None or answer == self.equals)

    def extract(self, text: str) -> str | None:
        """The answer in a text: the last match's first group, or all of it."""
        matches = list(re.finditer(self.pattern, text))
        if not matches:
            return None
        last = matches[-1]
        return (last[1] if last.re.groups else last[0] or "").strip()


@dataclass(frozen=True, slots=True)
class JSONCheck:
    """Whether a branch's text is a JSON object that holds these keys and values."""

    required: tuple[str, ...] = ()
    equals: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, branch: Branch) -> bool:
        try:
            value = json.loads(branch.path_text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(value, dict):
            return False
        known = all(name in value for name in self.required)
        return known and all(value.get(name) == wanted for name, wanted in self.equals.items())
