"""`BranchBook`: branches under the names callers know them by, and how requests become branches.

A request makes one *prompt branch* (its parent's child, or a root) and, once that is computed, `n`
children of it. Names carry a random part per engine, so a name from an earlier run is not found rather
than found wrong.
"""

from __future__ import annotations

import heapq
import secrets
import threading
import time
from dataclasses import replace
from typing import Any

from dendrite_core.batching.sequence import Sequence
from dendrite_core.cache.branch import Branch
from dendrite_core.cache.tree import TreeCache
from dendrite_core.config import ResolvedConfig
from dendrite_core.engine.job import Job
from dendrite_core.engine.keeping.record import Constraint, Record
from dendrite_core.engine.messages import BranchInfo, Request, Started, with_notes
from dendrite_core.engine.output import Choice
from dendrite_core.engine.stream import Stream
from dendrite_core.engine.watching.pages import count_pages
from dendrite_core.engine.watching.watch import News, Watch
from dendrite_core.engine.watching.watches import Watches
from dendrite_core.errors import BranchNotFound, ContextLengthExceeded, RequestError
from dendrite_core.params import SamplingParams
from dendrite_core.text.grammar import GrammarState
from dendrite_core.text.tokenizer import Tokenizer


class BranchBook:
    """Names, records and the making of branches; lives on the engine's thread."""

    def __init__(self, cache: TreeCache, tokenizer: Tokenizer, config: ResolvedConfig) -> None:
        self.cache = cache
        self.tokenizer = tokenizer
        self.config = config
        self._boot = secrets.token_hex(3)
        self._pins: list[tuple[float, int]] = []
        self.watches = Watches(cache, self.name)
        self.watch, self.unwatch, self.keep = self.watches.open, self.watches.close, self.watches.keep
        # Of branches that an engine before this one has named.
        self._old_names: dict[int, str] = {}
        self._old_ids: dict[str, int] = {}

    # Names.

    def name(self, branch: Branch) -> str:
        return self._old_names.get(branch.id) or f"branch_{self._boot}{branch.id:x}"

    def tree_name(self, branch: Branch) -> str:
        return "tree_" + self.name(_root(branch)).removeprefix("branch_")

    def depth(self, branch: Branch) -> int:
        """How many branches lie between this one and the beginning of its tree."""
        depth = 0
        while branch.parent is not None:
            branch, depth = branch.parent, depth + 1
        return depth

    def find(self, name: str, param: str = "parent_id") -> Branch:
        """The branch of that name. Raises `BranchNotFound`."""
        id = self._id(name, "branch_")
        branch = None if id is None else self.cache.lookup(id)
        if branch is None or self.name(branch) != name:
            raise BranchNotFound(f"no branch '{name}' on this server", param=param)
        return branch

    def _id(self, name: str, prefix: str) -> int | None:
        head = prefix + self._boot
        if (old := self._old_ids.get(name.removeprefix(prefix))) is not None:
            return old if name.startswith(prefix) else None
        try:
            return int(name[len(head) :], 16) if name.startswith(head) else None
        except ValueError:
            return None

    # From a request to branches.

    def open(self, stream: Stream, arrival: int, seed: int) -> Job:
        """The job of a request, its prompt branch ready to be scheduled. Raises `RequestError`."""
        request = stream.request
        branch, shared = self._prompt_branch(request)
        limit = self._limit(request, len(branch), branch)
        choices = [
            Choice(index, request.params, self.tokenizer, limit, continues=not request.prompt)
            for index in range(request.n)
        ]
        job = Job(stream, choices, shared)
        self._constrain(branch, stream)
        job.prompt = self._sequence(job, branch, (request.priority, arrival, 0), seed, request.n)
        return job

    def _prompt_branch(self, request: Request) -> tuple[Branch, int]:
        if request.parent_id is None:
            if not request.prompt:
                raise RequestError("the prompt is empty", param="prompt")
            branch = self.cache.open(request.prompt, request.namespace)
            shared = 0
        else:
            parent = self.find(request.parent_id)
            if request.namespace not in ((), parent.namespace):
                raise RequestError("a branch goes on under the salt it was made with", param="cache_salt")
            shared = self._fork_point(parent, request.parent_offset, continues=not request.prompt)
            branch = self.cache.fork(parent, shared)
            branch.extend(self._after_parent(branch, request))
        self._hold(branch, Record("prompt", len(branch)))
        self.watches.changed(branch)
        return branch, shared

    def _constrain(self, branch: Branch, stream: Stream) -> None:
        """Give a prompt branch its grammar: the request's, or its parent's where that text just goes on."""
        record, grammar = self._record(branch), stream.grammar
        if branch.parent is not None and not stream.request.prompt:
            past = self._record(branch.parent).constraint
            if past is not None and (grammar is None or grammar.spec == past.grammar.spec):
                record.constraint = past
                return
        record.constraint = Constraint(grammar, len(branch)) if grammar is not None else None

    def _grammar_state(self, branch: Branch) -> GrammarState | None:
        """Where a branch is in its grammar; None without one, or once its text has left it."""
        constraint = self._record(branch).constraint
        if constraint is None:
            return None
        state = constraint.grammar.start()
        inside = all(state.accept(token) for token in branch.tokens(constraint.start))
        return state if inside else None

    def _fork_point(self, parent: Branch, offset: int | None, *, continues: bool) -> int:
        """How many of the parent's tokens are kept; a text that goes on does so before the end it drew."""
        end = len(parent)
        if offset is not None:
            completion = self._record(parent).completion
            if not 0 <= offset <= end - completion:
                raise RequestError(
                    f"parent_offset must be in [0, {end - completion}], the parent's own completion tokens",
                    param="parent_offset",
                )
            return completion + offset
        ended = continues and end > 1 and parent.tokens(end - 1)[0] in self.tokenizer.eos_ids
        return end - 1 if ended and not self.is_prompt(parent.holder_of(end - 1)) else end

    def _after_parent(self, branch: Branch, request: Request) -> tuple[int, ...]:
        if not request.prompt or not request.joint:
            return request.prompt
        tail = tuple(branch.tokens(max(0, len(branch) - len(request.joint))))
        eos_ids = self.tokenizer.eos_ids
        ended = tail == request.joint or (request.joint[-1] in eos_ids and tail[-1:] and tail[-1] in eos_ids)
        return request.prompt if ended else request.joint + request.prompt

    def _limit(self, request: Request, length: int, branch: Branch) -> int:
        """How many tokens each child may generate. Raises `ContextLengthExceeded`."""
        context, wanted = self.config.max_model_len, request.params.max_tokens
        if length + (1 if wanted is None else wanted) <= context:
            return context - length if wanted is None else wanted
        branch.holds -= 1
        self.cache.release(branch)
        asked = f" and {wanted} completion tokens" if wanted else ""
        raise ContextLengthExceeded(
            f"this model's context is {context} tokens; the request has {length} prompt tokens{asked}",
            param="max_tokens" if wanted and length < context else "messages",
        )

    def _sequence(
        self, job: Job, branch: Branch, order: tuple[int, int, int], seed: int, children: int
    ) -> Sequence:
        params = job.stream.request.params
        sequence = Sequence(
            branch,
            params=params,
            seed=seed,
            order=order,
            end_ids=self.tokenizer.eos_ids + params.stop_token_ids,
            owner=job,
            prompt_length=len(branch),
            longest=len(branch) + (0 if children else job.choices[order[2]].limit),
            stream=order[2],
            children=children,
            grammar=self._grammar_state(branch) if children else _forked(job.prompt.grammar),
            bad_words=self._bad_words(params) if children else job.prompt.bad_words,
        )
        self._record(branch).sequence = sequence
        return sequence

    def _bad_words(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """How each bad word is written in tokens: as it stands, and after a space."""
        texts = [text for word in params.bad_words for text in (word, " " + word.lstrip())]
        return tuple(dict.fromkeys(tuple(self.tokenizer.encode(text)) for text in texts))

    def fork_children(self, job: Job) -> Started:
        """Give the computed prompt its children: one call into the tree, whatever the prompt's length."""
        prompt, request = job.prompt, job.stream.request
        begin = time.perf_counter_ns()
        branches = self.cache.fork_many(prompt.branch, request.n)
        fork_us = (time.perf_counter_ns() - begin) / 1e3
        priority, arrival, _ = prompt.order
        origin = self._record(prompt.branch)
        origin.cached = prompt.cached or 0
        for index, branch in enumerate(branches):
            record = Record("completion", len(branch), None, None, None, origin.constraint)
            record.cached, record.fork_us = branch.kv_length, fork_us
            self._hold(branch, record)
            self.watches.changed(branch)
            job.children.append(self._sequence(job, branch, (priority, arrival, index), prompt.seed, 0))
        parent = prompt.branch.parent
        job.forked = Started(
            tree_id=self.tree_name(prompt.branch),
            parent_id=self.name(parent) if parent is not None else None,
            prompt_branch_id=self.name(prompt.branch),
            branch_ids=tuple(map(self.name, branches)),
            prompt_tokens=prompt.prompt_length,
            cached_tokens=prompt.cached or 0,
            shared_tokens=job.shared_tokens,
            fork_us=fork_us,
        )
        return job.forked

    def tell(self, job: Job) -> Started:
        """The prompt's children may be named: their first tokens, and the prompt's logprobs, are known."""
        self.end(job.prompt, None)
        started = job.forked
        assert started is not None
        if job.prompt.wants_scores:
            started = replace(started, prompt_logprobs=job.prompt_logprobs())
        job.started = started
        return started

    def end(self, sequence: Sequence, finish_reason: str | None) -> None:
        """A sequence is over; its branch stays, idle."""
        record = self._record(sequence.branch)
        record.sequence = None
        record.finish_reason = finish_reason
        sequence.branch.holds -= 1
        self.watches.changed(sequence.branch)

    # What callers may ask of branches.

    def fork(self, name: str, count: int, offset: int | None) -> list[str]:
        """Idle children of a branch. Raises `BranchNotFound`, `RequestError`."""
        parent = self.find(name, "branch_id")
        at = self._fork_point(parent, offset, continues=False)
        begin = time.perf_counter_ns()
        children = [self.cache.fork(parent, at) for _ in range(count)]
        fork_us = (time.perf_counter_ns() - begin) / 1e3
        held = self._record(parent).constraint
        for child in children:
            child.record = Record("fork", len(child), None, None, None, held, child.kv_length, fork_us)
            self.watches.changed(child)
        self.watches.changed(parent)
        return [self.name(child) for child in children]

    def describe(self, name: str) -> BranchInfo:
        """One branch as callers see it. Raises `BranchNotFound`."""
        return self._info(self.find(name, "branch_id"))

    def describe_tree(self, name: str) -> list[BranchInfo]:
        """All branches of a tree, parents before children. Raises `BranchNotFound`."""
        id = self._id(name, "tree_")
        root = None if id is None else self.cache.records.with_past(id)
        if root is None or root.parent is not None or self.tree_name(root) != name:
            raise BranchNotFound(f"no tree '{name}' on this server", param="tree_id")
        return [self._info(branch) for branch in root.subtree() if self.cache.lookup(branch.id)]

    def update(
        self, name: str, pinned: bool | None, ttl: float | None, metadata: dict[str, Any] | None
    ) -> BranchInfo:
        """Pin a branch (for `ttl` seconds, or until unpinned), unpin it, or merge into its metadata.

        A pinned branch keeps its KV while anything else can give way. Raises `BranchNotFound`, and
        `RequestError` where the metadata would be too large.
        """
        branch = self.find(name, "branch_id")
        record = self._record(branch)
        record.metadata = with_notes(record.metadata, metadata) if metadata else record.metadata
        if pinned is not None:
            branch.pinned = pinned
            record.pinned_until = time.monotonic() + ttl if pinned and ttl is not None else None
            if record.pinned_until is not None:
                heapq.heappush(self._pins, (record.pinned_until, branch.id))
        self.watches.changed(branch)
        return self._info(branch)

    def until_a_pin_ends(self) -> float | None:
        """Seconds until `expire_pins` has something to do; None where no pin has an end."""
        if not self._pins:
            return None
        return min(max(0.0, self._pins[0][0] - time.monotonic()), threading.TIMEOUT_MAX)

    def expire_pins(self) -> None:
        """Unpin what was pinned for a time that is over."""
        while self._pins and self._pins[0][0] <= time.monotonic():
            until, id = heapq.heappop(self._pins)
            branch = self.cache.lookup(id)
            if branch is not None and self._record(branch).pinned_until == until:
                branch.pinned, self._record(branch).pinned_until = False, None
                self.watches.changed(branch)

    def yield_pin(self) -> bool:
        """Unpin the branch that was used longest ago, for want of pages; whether there was one."""
        pinned = [branch for branch in self.cache.branches.values() if branch.pinned]
        if not pinned:
            return False
        branch = min(pinned, key=lambda branch: branch.last_used)
        branch.pinned, self._record(branch).pinned_until = False, None
        self.watches.changed(branch)
        return True

    def subtree(self, name: str, prune: bool) -> list[Branch]:
        """The branches a release of `name` takes, descendants last. Raises `BranchNotFound`."""
        branch = self.find(name, "branch_id")
        members = branch.subtree() if prune else [branch]
        return [member for member in members if self.cache.lookup(member.id)]

    def running(self, branch: Branch) -> Sequence | None:
        """The sequence that computes a branch, if one does."""
        return self._record(branch).sequence

    def release(self, members: list[Branch]) -> list[str]:
        """Forget idle branches, the last ones first, and free their pages at once.

        A prompt branch whose last child goes keeps its tokens, so more siblings can still be asked for,
        but not its pages.
        """
        names, going = [self.name(branch) for branch in members], set(members)
        for branch in reversed(members):
            if self.cache.lookup(branch.id) is None:
                continue
            parent = branch.parent
            self.cache.release(branch)
            if parent not in going and parent is not None and not parent.children and self.is_prompt(parent):
                self.cache.drop(parent, discard=True)
            if parent is not None and self.cache.lookup(parent.id) is not None:
                self.watches.changed(parent)
        return names

    def is_prompt(self, branch: Branch) -> bool:
        """Whether a branch is what a request added to its parent, rather than what was generated."""
        return self._record(branch).kind == "prompt"

    def adopt(self, branch: Branch, record: Record, name: str) -> None:
        """Know a branch by the name that an engine before this one gave it."""
        branch.record = record
        self._old_names[branch.id] = name
        self._old_ids[name.removeprefix("branch_")] = branch.id
        self.watches.changed(branch)

    def news(self, watch: Watch) -> News:
        """What a watcher has not been told yet."""
        return watch.take(lambda branch: self._info(branch, with_text=False))

    def _info(self, branch: Branch, with_text: bool = True) -> BranchInfo:
        record = self._record(branch)
        shared, owned = count_pages(branch, self.cache)
        return BranchInfo(
            branch_id=self.name(branch),
            tree_id=self.tree_name(branch),
            parent_id=self.name(branch.parent) if branch.parent is not None else None,
            children=tuple(self.name(c) for c in branch.children.values() if self.cache.lookup(c.id)),
            kind=record.kind,
            length=len(branch),
            own_tokens=len(branch.own),
            kv_tokens=branch.kv_length,
            pages_shared=shared,
            pages_owned=owned,
            cached_tokens=record.cached,
            fork_us=record.fork_us,
            running=record.sequence is not None,
            pinned=branch.pinned,
            pinned_for=record.pinned_until and max(0.0, record.pinned_until - time.monotonic()),
            finish_reason=record.finish_reason,
            text=self._text(branch, record) if with_text else "",
            metadata=dict(record.metadata),
        )

    def _text(self, branch: Branch, record: Record) -> str:
        return self.tokenizer.decode(branch.own, skip_special_tokens=record.kind != "prompt")

    def _record(self, branch: Branch) -> Record:
        """Also of a released branch that lives on as the past of its children."""
        record = branch.record
        assert isinstance(record, Record)
        return record

    def _hold(self, branch: Branch, record: Record) -> None:
        branch.record = record
        branch.holds += 1


def _root(branch: Branch) -> Branch:
    while branch.parent is not None:
        branch = branch.parent
    return branch


def _forked(state: GrammarState | None) -> GrammarState | None:
    return None if state is None else state.fork()
