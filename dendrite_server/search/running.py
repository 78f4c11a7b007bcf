"""`Running`: one search as others see it, while it grows and afterwards; `Searches`: those of this server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from dendrite_core.engine.engine import Engine
from dendrite_core.errors import DendriteError
from dendrite_core.search import Event, Result, Search
from dendrite_server.errors import NotFound, error_body, report
from dendrite_server.protocol.identity import CHAT, completion_id
from dendrite_server.protocol.response import Body, Header, usage_body
from dendrite_server.search.plan import SearchPlan

MAX_KEPT = 256


class Running:
    """A search with a name. `status` is in_progress, completed, cancelled or failed.

    What it keeps in the tree, the way to the best branch, is the caller's until `free`.
    """

    def __init__(self, search: Search, plan: SearchPlan, model: str, fingerprint: str) -> None:
        self.id = "search_" + secrets.token_hex(12)
        self.search = search
        self.plan = plan
        self.model = model
        self.fingerprint = fingerprint
        self.created = int(time.time())
        self.status = "in_progress"
        self.error: Body | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_driven = False

    @property
    def is_running(self) -> bool:
        """Whether somebody drives it on, waiting for it or not."""
        return self._is_driven or (self._task is not None and not self._task.done())

    @property
    def result(self) -> Result | None:
        return self.search.result

    async def run(self) -> None:
        """To the end. Raises what ended it early; being cancelled frees everything."""
        self._is_driven = True
        try:
            result = await self.search.run()
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._is_driven = False
        self.status = "cancelled" if result.reason == "cancelled" else "completed"

    async def events(self) -> AsyncIterator[Event]:
        """As `run`, telling what happens. To be closed by whoever leaves early."""
        events = aiter(self.search)
        self._is_driven = True
        try:
            async for event in events:
                yield event
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._is_driven = False
            await events.aclose()  # type: ignore[attr-defined]
        assert self.result is not None
        self.status = "cancelled" if self.result.reason == "cancelled" else "completed"

    def begin(self) -> None:
        """Run without anybody waiting; an error is reported and kept."""
        self._task = asyncio.create_task(self._unattended())

    async def _unattended(self) -> None:
        try:
            await self.run()
        except Exception as error:
            report(error, self.id)

    def _fail(self, error: BaseException) -> None:
        self.status = "failed" if isinstance(error, Exception) else "cancelled"
        if isinstance(error, Exception):
            self.error = error_body(error)["error"]

    async def cancel(self) -> None:
        """End it and free every branch of it; what it has found so far stays told."""
        if self.status == "in_progress":
            self.search.cancel()
            self.status = "cancelled"
            if self._task is not None:
                await asyncio.wait([self._task])
        await self.free()

    async def free(self) -> None:
        """Give back what is kept of it."""
        if self.search.tree is not None and self.search.result is not None:
            await self.search.tree.close()

    def body(self) -> Body:
        result = self.result
        tree = self.search.tree
        views = result.tree if result is not None else tuple(b.view() for b in tree.branches) if tree else ()
        return {
            "id": self.id,
            "object": "search",
            "created_at": self.created,
            "status": self.status,
            "model": self.model,
            "method": self.plan.name,
            "seed": self.plan.seed,
            "error": self.error,
            "result": None if result is None else _without_tree(result),
            "completion": None if result is None else self.completion(),
            "tree": [view.as_dict() for view in views],
        }

    def completion(self) -> Body:
        """The answer as an ordinary chat completion."""
        result = self.result
        assert result is not None
        count = result.count
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": result.text, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": self.finish_reason(),
            "branch_id": result.branch_id,
        }
        return {
            **self.header("chat.completion").body(),
            "choices": [choice],
            "usage": usage_body(count.prompt, count.cached, count.generated),
        }

    def header(self, kind: str) -> Header:
        name = self.result.branch_id if self.result is not None else None
        id = completion_id(CHAT, name, 1) if name else CHAT + self.id.removeprefix("search_")
        return Header(id, kind, self.created, self.model, self.fingerprint)

    def finish_reason(self) -> str:
        """`stop` if the answer ended by itself or solves the task, else `length`."""
        result, tree = self.result, self.search.tree
        if result is None or tree is None or result.best is None:
            return "length"
        return "stop" if result.solved or tree.branches[result.best].finished else "length"


def note_scores(engine: Engine) -> Callable[[Event], None]:
    """Puts what a search thinks of a branch into the branch's metadata, for everybody who looks at it."""

    def hear(event: Event) -> None:
        if event.kind not in ("scored", "solved"):
            return
        for view in event.branches:
            if view.branch_id is not None and view.score is not None:
                notes = {"score": view.score, "visits": view.visits, "solved": view.status == "solved"}
                # Of a branch that is pruned meanwhile nothing is to be noted.
                engine.update(view.branch_id, metadata=notes)

    return hear


def _without_tree(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.as_dict().items() if name != "tree"}


class Searches:
    """The searches of this server by name; of those that have ended only the latest are known."""

    def __init__(self) -> None:
        self._by_id: dict[str, Running] = {}

    def add(self, running: Running) -> None:
        self._by_id[running.id] = running
        ended = [one for one in self._by_id.values() if one.status != "in_progress"]
        for old in ended[: max(0, len(self._by_id) - MAX_KEPT)]:
            del self._by_id[old.id]

    async def ended(self, timeout: float) -> bool:
        """Wait until none is running; whether that was so in time (seconds)."""
        try:
            async with asyncio.timeout(timeout):
                while any(running.is_running for running in self._by_id.values()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True

    def find(self, id: str) -> Running:
        """Raises `NotFound`."""
        if id not in self._by_id:
            raise NotFound(f"No search '{id}' on this server.", param="search_id")
        return self._by_id[id]

    async def remove(self, id: str) -> None:
        """Cancel it, free what it keeps, forget it. Raises `NotFound`."""
        running = self.find(id)
        try:
            await running.cancel()
        except DendriteError as error:
            report(error, id)
        del self._by_id[id]
