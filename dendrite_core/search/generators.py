"""Where thoughts come from: sampled one by one from the branch itself, or proposed as a list.

`Template` writes the prompts of proposals and judgements from what a branch says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from dendrite_core.params import SamplingParams
from dendrite_core.search.backend import Ask, Message, Prompt, is_messages, start
from dendrite_core.search.budget import BudgetExhausted
from dendrite_core.search.tree import Branch, Tree

_NAME = re.compile(r"\{(\w+)\}")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


class Generator(Protocol):
    """Makes the children of branches, in one batch. Raises `BudgetExhausted` if there can be none."""

    async def grow(
        self, tree: Tree, branches: Sequence[Branch], n: int, *, logprobs: bool
    ) -> list[list[Branch]]: ...


@dataclass(frozen=True, slots=True)
class Sample:
    r"""Thoughts as the model goes on by itself: up to a stop string, `max_tokens`, or its end of turn.

    `prompt` is put before every thought, for instance a message that asks for the next step.

    >>> Sample(SamplingParams(max_tokens=32, stop=("\n",)), prompt="").params.stop
    ('\n',)
    """

    params: SamplingParams = field(default_factory=lambda: SamplingParams(max_tokens=64))
    prompt: Prompt = ""

    async def grow(
        self, tree: Tree, branches: Sequence[Branch], n: int, *, logprobs: bool
    ) -> list[list[Branch]]:
        fields: dict[str, Any] = {"logprobs": 0} if logprobs and self.params.logprobs is None else {}
        return await tree.extend(branches, n, prompt=self.prompt, params=self.params, **fields)


@dataclass(frozen=True, slots=True)
class Template:
    r"""A prompt with names in braces.

    `{prompt}` is what the search was asked, `{path}` all that was thought up to a branch, `{last}` its last
    thought; the named groups of `pattern` are taken from its last match in prompt and path. Other braces
    stay as they are.

    >>> tree = Tree(EngineBackend(engine), "Explore 24: 4 9 10 13\n")
    >>> left = Template("Judge for 24: {left}", pattern=r"(?:left|24): (?P<left>[\d ]+)")
    >>> left.render(tree.root), left.render(tree.root.append("13 - 9 = 4 (left: 4 4 10)\n"))
    ('Judge for 24: 4 9 10 13', 'Judge for 24: 4 4 10')
    """

    text: str
    pattern: str | None = None

    def render(self, branch: Branch, **more: object) -> str:
        prompt, path = prompt_text(branch.tree.prompt), branch.path_text
        names: dict[str, object] = {"prompt": prompt, "path": path, "last": branch.text, **more}
        if self.pattern is not None:
            for match in re.finditer(self.pattern, f"{prompt}\n{path}"):
                names |= match.groupdict("")
        return _NAME.sub(lambda name: str(names.get(name[1], name[0])), self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    r"""Thoughts from a list that the model writes when asked for one; each line becomes a child.

    `prompt` is asked on the side, or as the next turn of the branch with `turn`; `{n}` in it is how many
    thoughts are wanted. Lines that do not match `line` are left out; `suffix` ends every thought.

    >>> ideas = Propose(prompt=Template("Propose {n} next steps for 24: 4 9 10 13"), line=r".* \(left: .*\)")
    >>> method = TreeOfThoughts(generator=ideas, evaluator=Call(lambda branch: 1.0), branching=3)
    >>> puzzle = [{"role": "user", "content": "Explore 24: 4 9 10 13"}]
    >>> search = Search(EngineBackend(engine), puzzle, method, budget=Budget(nodes=3, depth=1), seed=1)
    >>> [view.text for view in asyncio.run(search.run()).tree[1:]]
    ['13 - 10 = 3 (left: 3 4 9)\n', '9 + 10 = 19 (left: 4 13 19)\n', '10 + 13 = 23 (left: 4 9 23)\n']
    """

    prompt: Template
    params: SamplingParams = field(default_factory=lambda: SamplingParams(max_tokens=256))
    line: str = r".*\S.*"
    suffix: str = "\n"
    turn: bool = False

    async def grow(
        self, tree: Tree, branches: Sequence[Branch], n: int, *, logprobs: bool
    ) -> list[list[Branch]]:
        asks = [
            side_ask(branch, self.prompt.render(branch, n=n), self.params, turn=self.turn)
            for branch in branches
        ]
        answers = await tree.ask(asks)
        grown = []
        for branch, answer in zip(branches, answers, strict=True):
            text = answer.continuations[0].text if answer and answer.continuations else ""
            grown.append(_adopt_lines(branch, self._lines(text)[:n], self.suffix))
        made = [child for children in grown for child in children]
        tree.tell("expanded", made)
        return grown

    def _lines(self, text: str) -> list[str]:
        """Distinct proposals in their order, without bullets."""
        lines = (_BULLET.sub("", line).strip() for line in text.splitlines())
        return list(dict.fromkeys(line for line in lines if re.fullmatch(self.line, line)))


def _adopt_lines(branch: Branch, lines: Sequence[str], suffix: str) -> list[Branch]:
    children: list[Branch] = []
    for line in lines:
        try:
            children.append(branch.append(line + suffix))
        except BudgetExhausted:
            break
    return children


def side_ask(branch: Branch, text: str, params: SamplingParams, *, turn: bool, n: int = 1) -> Ask:
    """A question about a branch: a conversation of its own, or the next `turn` of the branch.

    The draw depends on the question only, so that it is answered alike wherever it comes up.
    """
    tree = branch.tree
    seeded = replace(params, seed=tree.seed_for("ask", text))
    chat = is_messages(tree.prompt)
    question: Prompt = ({"role": "user", "content": text},) if chat else text
    if turn:
        return Ask(place=branch.place, params=seeded, n=n, prompt=question)
    return Ask(place=start(question), params=seeded, n=n)


def prompt_text(prompt: Prompt) -> str:
    """A search's prompt for people: its text, or what the messages say; token ids say nothing."""
    if isinstance(prompt, str):
        return prompt
    if is_messages(prompt):
        return "\n".join(str(message.get("content", "")) for message in cast(Sequence[Message], prompt))
    return ""
