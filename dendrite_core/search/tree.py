"""`Tree` and `Branch`: the tree of a search, on which anyone can write their own.

A `Tree` owns everything it made in the backend and frees it on `close`; growing many branches is one
batch. A `Branch` is one thought: it can be extended, forked, rewound, scored and pruned.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from dendrite_core.params import SamplingParams
from dendrite_core.search.backend import (
    Answer,
    Ask,
    Backend,
    Continuation,
    Place,
    Prompt,
    TokenCount,
    start,
)
from dendrite_core.search.budget import Account, Budget, BudgetExhausted
from dendrite_core.search.events import Event, View

OPEN, SOLVED, PRUNED = "open", "solved", "pruned"


class Branch:
    r"""A thought in the tree of a search, and the way to it.

    `score` is what an evaluator said; `visits` and `total` are for searches that average over what is
    below. `prior` is the model's own probability of this branch among its siblings.

    >>> async def given_and_grown():
    ...     puzzle = [{"role": "user", "content": "Explore 24: 4 9 10 13"}]
    ...     async with Tree(EngineBackend(engine), puzzle, seed=1) as tree:
    ...         given = tree.root.append("13 - 9 = 4 (left: 4 4 10)\n")  # computed when it is gone on with
    ...         [grown] = await given.extend(temperature=0, stop=("\n",))
    ...         return grown.depth, grown.text
    >>> asyncio.run(given_and_grown())
    (2, '10 - 4 = 6 (left: 4 6)\n')
    """

    def __init__(self, tree: Tree, parent: Branch | None, place: Place, text: str = "") -> None:
        self.tree = tree
        self.parent = parent
        self.id = len(tree.branches)
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: list[Branch] = []
        self.place = place
        self.text = text
        self.tokens = 0
        self.token_ids: tuple[int, ...] = ()
        self.logprob: float | None = None
        self.finished = False
        self.owns_place = False
        self.lender: Branch | None = None
        self.status = OPEN
        self.score: float | None = None
        self.prior: float | None = None
        self.visits = 0
        self.total = 0.0
        self.asked = 0
        tree.branches.append(self)
        if parent is not None:
            parent.children.append(self)

    @property
    def branch_id(self) -> str | None:
        """The backend's name of it while it lives there."""
        return self.place.branch_id if self.owns_place and self.status != PRUNED else None

    @property
    def path(self) -> list[Branch]:
        """From the root (left out) to here."""
        way: list[Branch] = []
        here = self
        while here.parent is not None:
            way.append(here)
            here = here.parent
        return way[::-1]

    @property
    def path_text(self) -> str:
        """All that was generated from the root to here."""
        return "".join(branch.text for branch in self.path)

    @property
    def path_logprob(self) -> float:
        """Log-probability of all that was generated from the root to here, as far as it is known."""
        return sum(branch.logprob or 0.0 for branch in self.path)

    @property
    def solved(self) -> bool:
        return self.status == SOLVED

    @property
    def alive(self) -> bool:
        return self.status != PRUNED

    @property
    def open(self) -> bool:
        """Whether it can be gone on with."""
        return self.status == OPEN and not self.finished and self.tree.is_within(self.depth + 1)

    @property
    def value(self) -> float:
        """The mean over visits."""
        return self.total / self.visits if self.visits else 0.0

    def subtree(self) -> list[Branch]:
        """This branch and all below it, parents first."""
        found = [self]
        for branch in found:
            found += branch.children
        return found

    async def extend(
        self, n: int = 1, *, prompt: Prompt = "", params: SamplingParams | None = None, **fields: Any
    ) -> list[Branch]:
        """`n` sampled children, after `prompt` was added; `fields` are those of `SamplingParams`."""
        return (await self.tree.extend([self], n, prompt=prompt, params=params, **fields))[0]

    def append(self, text: str) -> Branch:
        """A child that goes on with a given text. It costs nothing until it is extended itself."""
        place = replace(self.place, pending=(*self.place.pending, text))
        return self.tree.adopt(self, place, text)

    def fork(self, count: int = 1) -> list[Branch]:
        """Children that stand where this branch stands, each to go its own way."""
        return [self.tree.adopt(self, self.place, "") for _ in range(count)]

    def rewind(self, tokens: int = 0) -> Branch:
        """A sibling that keeps only the first `tokens` generated tokens of this branch.

        Its `text` is not known before it is extended, so it counts as empty. Appended text cannot be cut.
        """
        assert self.parent is not None, "the root has nothing to rewind"
        assert self.owns_place, "only what was generated can be rewound"
        sibling = self.tree.adopt(self.parent, replace(self.place, offset=tokens), "")
        sibling.lender = self
        return sibling

    async def prune(self) -> None:
        """Free this branch and all below it at once."""
        await self.tree.prune([self])

    def view(self) -> View:
        return View(
            id=self.id,
            parent=None if self.parent is None else self.parent.id,
            depth=self.depth,
            text=self.text,
            status=self.status,
            score=self.score,
            visits=self.visits,
            tokens=self.tokens,
            branch_id=self.branch_id,
        )


class Tree:
    r"""All branches of one search over a backend, what they cost, and what may still be spent.

    `memory` is where evaluators keep what they need not ask twice.

    `on_event` is called with every `Event`. Random draws depend on `seed` and on a branch's place in the
    tree only, so the same seed grows the same tree. Use as `async with Tree(...) as tree:`.

    >>> async def two_lines():
    ...     puzzle = [{"role": "user", "content": "Explore 24: 4 9 10 13"}]
    ...     async with Tree(EngineBackend(engine), puzzle, seed=1) as tree:
    ...         [thoughts] = await tree.extend([tree.root], 4, stop=("\n",))  # one batch
    ...         await tree.keep(thoughts[:1])
    ...         [[line]] = await tree.extend(thoughts[:1], stop=("\n",))
    ...         return line.path_text
    >>> print(asyncio.run(two_lines()))
    10 - 4 = 6 (left: 6 9 13)
    9 * 13 = 117 (left: 6 117)
    <BLANKLINE>
    """

    def __init__(
        self,
        backend: Backend,
        prompt: Prompt,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.backend = backend
        self.prompt = prompt
        self.seed = seed
        self.account = Account(budget or Budget())
        self.count = TokenCount()
        self.branches: list[Branch] = []
        self.memory: dict[object, float] = {}
        self._on_event = on_event
        self._tops: list[Place] = []
        self._last_question: list[Place] = []
        self.root = Branch(self, None, start(prompt))

    async def __aenter__(self) -> Tree:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def living(self) -> Iterator[Branch]:
        """Branches that were not pruned, without the root."""
        return (branch for branch in self.branches[1:] if branch.alive)

    @property
    def solutions(self) -> list[Branch]:
        return [branch for branch in self.branches if branch.solved]

    # Growing.

    async def extend(
        self,
        branches: Sequence[Branch],
        n: int = 1,
        *,
        prompt: Prompt = "",
        params: SamplingParams | None = None,
        **fields: Any,
    ) -> list[list[Branch]]:
        """`n` sampled children of each branch, all in one batch; fewer where the budget ends.

        Raises `BudgetExhausted` if there can be none at all.
        """
        params = replace(params or SamplingParams(), **fields)
        asks = [
            Ask(place=branch.place, params=self._with_seed(params, branch), n=n, prompt=prompt)
            for branch in branches
        ]
        return self.take(branches, await self.ask(asks, branches=branches, nodes=True))

    def take(self, branches: Sequence[Branch], answers: Sequence[Answer | None]) -> list[list[Branch]]:
        """Make the children that the answers to asks of `branches` stand for."""
        grown = [
            [self._child(branch, one) for one in (answer.continuations if answer else ())]
            for branch, answer in zip(branches, answers, strict=True)
        ]
        self.tell("expanded", [child for children in grown for child in children])
        return grown

    async def ask(
        self, asks: Sequence[Ask], *, branches: Sequence[Branch] | None = None, nodes: bool = False
    ) -> list[Answer | None]:
        """Send asks as one batch, as far as the budget goes (None beyond); their cost is accounted for.

        With `branches` each goes on from one of them, and `nodes` says that what comes back will be its
        children. Without, they are on the side (a judge's prompt, a proposal) and freed at once, but for one:
        what all such questions begin with is found there by the next of them.
        """
        self._check_depth(branches or ())
        granted = self.account.grant(asks, nodes=nodes)
        wanted = [at for at, ask in enumerate(granted) if ask is not None]
        found: list[Answer | None] = [None] * len(asks)
        for at, answer in zip(wanted, await self._generate(granted), strict=True):
            found[at] = answer
            self.count += answer.count
            self.account.tokens += answer.count.generated
            if branches is not None:
                self._bind(branches[at], asks[at], answer)
        if branches is None:
            await self._discard([answer.place for answer in found if answer is not None])
        return found

    async def _discard(self, places: list[Place]) -> None:
        if places:
            gone, self._last_question = [*self._last_question, *places[1:]], places[:1]
            self._tops += places
            await self._free(gone)

    async def forget_questions(self) -> None:
        """Free what is kept of questions on the side."""
        gone, self._last_question = self._last_question, []
        await self._free(gone)

    async def _free(self, places: list[Place]) -> None:
        """Free roots of this tree. They stay known until they are gone, for `close`."""
        await self.backend.release(places)
        self._tops = [place for place in self._tops if place not in places]

    async def _generate(self, asks: Sequence[Ask | None]) -> list[Answer]:
        whole = [replace(ask, params=_whole_text(ask.params)) for ask in asks if ask is not None]
        if not whole:
            return []
        try:
            async with asyncio.timeout(self.account.seconds_left):
                return await self.backend.generate(whole)
        except TimeoutError:
            raise BudgetExhausted("seconds") from None

    def _bind(self, branch: Branch, ask: Ask, answer: Answer) -> None:
        """Remember what was computed on the way to the children, so that nobody computes it again."""
        if answer.place.branch_id is None:
            return
        if ask.place.branch_id is None:
            self._tops.append(answer.place)
        is_new = ask.place.pending or ask.place.offset is not None
        if not ask.prompt and is_new and branch.place == ask.place:
            branch.place, branch.owns_place = answer.place, True

    def is_within(self, depth: int) -> bool:
        """Whether branches of that depth are allowed."""
        limit = self.account.budget.depth
        return limit is None or depth <= limit

    def _check_depth(self, branches: Sequence[Branch]) -> None:
        if not all(self.is_within(branch.depth + 1) for branch in branches):
            raise BudgetExhausted("depth")

    def _child(self, parent: Branch, continuation: Continuation) -> Branch:
        child = self.adopt(parent, continuation.place, continuation.text)
        child.owns_place = True
        child.tokens, child.token_ids = continuation.tokens, continuation.token_ids
        child.logprob = continuation.logprob
        child.finished = continuation.finished
        return child

    def adopt(self, parent: Branch, place: Place, text: str) -> Branch:
        """A child at a place that is known already. Raises `BudgetExhausted`."""
        self._check_depth([parent])
        if self.account.nodes_left == 0:
            raise BudgetExhausted("nodes")
        self.account.nodes += 1
        return Branch(self, parent, place, text)

    def _with_seed(self, params: SamplingParams, branch: Branch) -> SamplingParams:
        branch.asked += 1
        return replace(params, seed=self.seed_for("grow", branch.id, branch.asked))

    def seed_for(self, *what: object) -> int:
        """A seed for one purpose of this search; small enough for any JSON reader."""
        digest = hashlib.blake2b(repr((self.seed, what)).encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big")

    # Cutting.

    async def prune(self, branches: Iterable[Branch]) -> None:
        """Free branches and all below them at once."""
        gone = dict.fromkeys(b for branch in branches for b in branch.subtree() if b.alive)
        for branch in gone:
            branch.status = PRUNED
        self.tell("pruned", list(gone))
        # What a rewound sibling stands on stays; freeing a branch frees what is below it in the backend.
        lent = {branch.lender for branch in self.living}
        freed = {branch for branch in gone if branch.owns_place and branch not in lent}
        await self.backend.release([b.place for b in gone if b in freed and b.parent not in freed])

    async def keep(self, branches: Iterable[Branch]) -> None:
        """Prune everything but these branches and the way to them."""
        kept = {branch for tip in branches for branch in (tip, *tip.path)} | {self.root}
        await self.prune([b for b in self.living if b not in kept])

    async def close(self) -> None:
        """Free everything this tree made in the backend."""
        tops, self._tops = self._tops, []
        await self.backend.release(tops)
        for branch in self.branches:
            branch.owns_place = False

    # Telling.

    def solve(self, branch: Branch) -> None:
        """Mark a branch as a solution."""
        branch.status = SOLVED
        self.tell("solved", [branch])

    def tell(self, kind: str, branches: Sequence[Branch], reason: str | None = None) -> None:
        """Report an event, unless it is about nothing."""
        if self._on_event is None or not (branches or reason):
            return
        views = tuple(branch.view() for branch in branches)
        event = Event(
            kind=kind, seconds=self.account.seconds, branches=views, count=self.count, reason=reason
        )
        self._on_event(event)


def _whole_text(params: SamplingParams) -> SamplingParams:
    # A thought keeps the stop string that ended it, so that thoughts joined are the text as it stands.
    return replace(params, include_stop_str_in_output=True)
