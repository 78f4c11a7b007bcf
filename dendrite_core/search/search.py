"""`Search`: one search from its prompt to its result, with events on the way and a way to stop it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from dendrite_core.search.backend import Backend, Prompt
from dendrite_core.search.budget import Budget, BudgetExhausted
from dendrite_core.search.events import Event, Result
from dendrite_core.search.methods.guided import Method
from dendrite_core.search.tree import Branch, Tree


class Search:
    r"""A method at work on a prompt.

    >>> method = TreeOfThoughts(
    ...     generator=Sample(SamplingParams(max_tokens=32, stop=("\n",))),
    ...     evaluator=MeanLogprob(),
    ...     goal=RegexCheck(r"left: 24\)"),
    ...     width=8,
    ... )
    >>> puzzle = [{"role": "user", "content": "Explore 24: 4 9 10 13"}]
    >>> search = Search(EngineBackend(engine), puzzle, method, budget=Budget(tokens=3000), seed=1)
    >>> result = asyncio.run(search.run())
    >>> result.reason, result.text.splitlines()[-1]
    ('solved', '4 * 6 = 24 (left: 24)')

    `async for event in search` runs it, too, and leaves the result in `result`. When it is over every
    branch is freed; with `keep` the way to the best one stays, until `tree.close()`. Runs once.
    `on_event` hears every event either way.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: Prompt,
        method: Method,
        *,
        budget: Budget | None = None,
        seed: int = 0,
        keep: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.backend = backend
        self.prompt = prompt
        self.method = method
        self.budget = budget or Budget()
        self.seed = seed
        self.keep = keep
        self.result: Result | None = None
        self.tree: Tree | None = None
        self._on_event = on_event
        self._working: asyncio.Task[None] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Stop as soon as may be and free every branch; the result holds what was found."""
        self._cancelled = True
        if self._working is not None:
            self._working.cancel()

    async def run(self) -> Result:
        """The result, once there is nothing left to try or to spend. Raises what a request raised."""
        assert self._working is None, "a search runs once"
        tree = self.tree = Tree(
            self.backend, self.prompt, seed=self.seed, budget=self.budget, on_event=self._on_event
        )
        try:
            reason = await self._work(tree)
            best = self.method.best(tree)
            if self.keep and best is not None and best.alive and not self._cancelled:
                await tree.keep([best])
                await tree.forget_questions()
            else:
                await tree.close()
        except BaseException:
            await asyncio.shield(tree.close())
            raise
        self.result = self._report(tree, best, reason)
        tree.tell("finished", [] if best is None else [best], reason)
        return self.result

    async def __aiter__(self) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        told, self._on_event = self._on_event, queue.put_nowait
        running = asyncio.create_task(self.run())
        running.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                if told is not None:
                    told(event)
                yield event
            await running
        finally:
            # Whoever leaves the loop early wants no more of it.
            if not running.done():
                self.cancel()
                await asyncio.wait([running])

    async def _work(self, tree: Tree) -> str:
        """Let the method run within its budget; why it ended."""
        self._working = asyncio.create_task(self.method.run(tree))
        if self._cancelled:
            self._working.cancel()
        try:
            async with asyncio.timeout(tree.account.seconds_left):
                await self._working
        except BudgetExhausted as error:
            return "solved" if tree.solutions else error.limit
        except TimeoutError:
            return "solved" if tree.solutions else "seconds"
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            return "cancelled"
        return _natural_end(tree)

    def _report(self, tree: Tree, best: Branch | None, reason: str) -> Result:
        return Result(
            text="" if best is None else best.path_text,
            solved=best is not None and best.solved,
            score=None if best is None else best.score,
            reason=reason,
            count=tree.count,
            seconds=tree.account.seconds,
            tree=tuple(branch.view() for branch in tree.branches),
            best=None if best is None else best.id,
            branch_id=None if best is None else best.branch_id,
        )


def _natural_end(tree: Tree) -> str:
    """Why a method stopped by itself."""
    if tree.solutions:
        return "solved"
    deep = any(not one.finished and not tree.is_within(one.depth + 1) for one in tree.branches)
    return "depth" if deep else "exhausted"
