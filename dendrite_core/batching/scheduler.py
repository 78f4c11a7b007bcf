"""Continuous batching: which sequences run this step, with how many tokens each.

Running sequences go first, decoding ones before prompts, oldest first; then waiting ones are admitted
while rows, tokens and pages last. When pages run out the youngest running sequence is preempted: its KV
is dropped, its tokens are kept, and it waits to be computed again. A request is never failed for lack of
pages. A prompt whose beginning is being computed for another one waits for it, so that it is computed once.

A step may be scheduled *ahead*: while the one before is computed and its tokens are not known. Where a row
will be is known without them; what it reads there stays on the device.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from dendrite_core.batching.batch import Batch, Draw, Score
from dendrite_core.batching.sequence import Order, Sequence
from dendrite_core.cache.page_table import adjacent_prefixes, spans, tree_order
from dendrite_core.cache.radix import common_prefix
from dendrite_core.cache.tree import TreeCache
from dendrite_core.config import ResolvedConfig

by_order = attrgetter("order")

SCORED_AT_ONCE = 512
"""Prompt tokens of one step that are scored: each takes a row of logits, half a megabyte at 128k ids."""

WORTH_WAITING = 64
"""Fewer tokens that two prompts share are computed twice: a step of waiting takes about as long as they."""

HasRoom = Callable[[Sequence, int, dict[Sequence, int]], bool]


def decoding_first(sequence: Sequence) -> tuple[bool, Order]:
    """Rows that need one token go before prompts, which would take the whole step."""
    return (sequence.pending > 1, sequence.order)


def _is_behind(sequence: Sequence) -> bool:
    """Whether the one it waits for is still computing what they share."""
    if sequence.behind is None:
        return False
    leader, shared = sequence.behind
    return leader.running and leader.branch.kv_length < shared


def _leads(sequence: Sequence) -> bool:
    """Whether it has so much to compute that another may wait for a part of it."""
    return len(sequence.branch) - sequence.branch.kv_length > WORTH_WAITING


@dataclass(slots=True)
class Step:
    """What one step computes: batch row i is `rows[i]` with `new[i]` new tokens.

    `drawers` are the sequences whose logits are sampled, in the order of `batch.draws`; a prompt with n
    children owns n consecutive draws. `scorers` likewise own `batch.scores`, as many as said. What comes
    after a step that `leads` can be scheduled before its tokens are known.
    """

    batch: Batch
    rows: list[Sequence]
    new: list[int]
    drawers: list[Sequence]
    scorers: list[tuple[Sequence, int]]
    leads: bool = True


class Scheduler:
    """Owns the waiting queue and the running sequences, which are kept in tree order."""

    def __init__(self, cache: TreeCache, config: ResolvedConfig) -> None:
        self.cache = cache
        self.max_rows = config.max_rows
        self.max_tokens = config.max_batch_tokens
        self.page_size = config.page_size
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefill_tokens = 0
        self._waiting: list[tuple[Order, Sequence]] = []
        self._scorable = SCORED_AT_ONCE
        self._topology = 0
        self._versions = 0
        self._lcp: list[int] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def head(self) -> Sequence:
        """The sequence that is to be admitted next."""
        return self._waiting[0][1]

    @property
    def has_work(self) -> bool:
        return bool(self.running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it runs as soon as there is room."""
        heapq.heappush(self._waiting, (sequence.order, sequence))

    def remove(self, sequence: Sequence) -> None:
        """Take a finished or aborted sequence out, wherever it is. Its branch keeps its KV."""
        if sequence.running:
            self._stop(sequence)
        elif self._waiting:
            self._waiting = [entry for entry in self._waiting if entry[1] is not sequence]
            heapq.heapify(self._waiting)

    def schedule(self) -> Step | None:
        """The next step, or None when there is nothing to run."""
        granted = self._grant_running(self._make_room)
        assert granted is not None, "without room someone is preempted"
        self._admit(granted)
        return self._build(granted) if granted else None

    def schedule_ahead(self) -> Step | None:
        """The step after one that leads and is not committed; None where it has to be waited for.

        Nobody is preempted: that would drop KV which is being computed. A sequence that is then found to
        have ended was computed for nothing; what was written for it lies beyond its KV and is never read.
        """
        granted = self._grant_running(self._has_room)
        if granted is None:
            return None
        self._admit(granted)
        return self._build(granted) if granted else None

    def commit(self, step: Step) -> None:
        """Take note that the step's KV is written, or will be before any later step reads it."""
        for sequence, new in zip(step.rows, step.new, strict=True):
            sequence.computing -= new
            if sequence.running:
                self.cache.advance(sequence.branch, new)
        for sequence in step.drawers:
            sequence.drawing -= not sequence.is_prompt

    def score(self, step: Step, scores: list[tuple[float, list[tuple[int, float]]]]) -> None:
        """Hand out the scores of prompt tokens."""
        first = 0
        for sequence, count in step.scorers:
            sequence.scored += scores[first : first + count]
            first += count

    def give_up(self, step: Step) -> None:
        """A step failed, and its sequences were removed: whether its page copies were made, nobody knows."""
        for sequence in step.rows:
            self.cache.drop(sequence.branch)

    def _grant_running(self, has_room: HasRoom) -> dict[Sequence, int] | None:
        """Tokens for running sequences, as far as they go; None when one finds no room and still runs."""
        granted: dict[Sequence, int] = {}
        budget, self._scorable = self.max_tokens, SCORED_AT_ONCE
        others = not all(_is_behind(sequence) for _, sequence in self._waiting)
        for sequence in sorted(self.running, key=decoding_first):
            if not sequence.running or budget == 0:
                continue
            new = self._at_most(sequence, self._share(budget, others))
            if not new:
                continue
            if has_room(sequence, new, granted):
                granted[sequence] = new
                budget -= new
                self._scorable -= new * sequence.wants_scores
            elif sequence.running:
                return None
        return granted

    def _has_room(self, sequence: Sequence, new: int, granted: dict[Sequence, int]) -> bool:
        """Reserve pages for `new` tokens after those being computed; False if that takes preempting."""
        return self.cache.reserve(sequence.branch, sequence.computing + new)

    def _at_most(self, sequence: Sequence, share: int) -> int:
        """Tokens a sequence takes of its share of a step."""
        return min(sequence.pending, share, self._scorable if sequence.wants_scores else share)

    def _share(self, budget: int, others: bool) -> int:
        """Tokens one sequence may take: half of what is left while others wait, so that none waits long."""
        return budget if budget == 1 or not others else budget // 2

    def _make_room(self, sequence: Sequence, new: int, granted: dict[Sequence, int]) -> bool:
        """Reserve pages for `new` tokens, preempting the youngest as needed; False if that was this one."""
        while not self.cache.reserve(sequence.branch, new):
            victim = max(self.running, key=by_order)
            granted.pop(victim, None)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: Sequence) -> None:
        self._stop(victim)
        self.cache.drop(victim.branch)
        self.preemptions += 1
        self.add(victim)

    def _stop(self, sequence: Sequence) -> None:
        sequence.table = None
        self.cache.stop(sequence.branch)
        self.running.remove(sequence)
        self._versions = -1

    def _admit(self, granted: dict[Sequence, int]) -> None:
        budget = self.max_tokens - sum(granted.values())
        following: list[tuple[Order, Sequence]] = []
        leaders = [sequence for sequence in self.running if _leads(sequence)] if self._waiting else []
        while self._waiting and budget > 0 and len(self.running) < self.max_rows:
            sequence = self._waiting[0][1]
            if self._follows(sequence, leaders):
                following.append(heapq.heappop(self._waiting))
                continue
            new = self._begin(sequence, budget)
            if not new:
                break
            heapq.heappop(self._waiting)
            granted[sequence] = new
            budget -= new
            if _leads(sequence):
                leaders.append(sequence)
        for entry in following:
            heapq.heappush(self._waiting, entry)

    def _begin(self, sequence: Sequence, budget: int) -> int:
        """Let the first in line run; the tokens it gets, 0 if there is no room."""
        table = self.cache.start(sequence.branch)
        if sequence.wants_scores:
            # Logits exist only where KV is computed, so cached KV of unscored tokens is of no use.
            self.cache.forget(sequence.branch, len(sequence.scored))
            # What was scored before it was preempted is scored again where its KV went.
            del sequence.scored[sequence.branch.kv_length :]
        new = self._at_most(sequence, self._share(budget, len(self._waiting) > 1))
        if not new or not self.cache.reserve(sequence.branch, new):
            self.cache.stop(sequence.branch)
            return 0
        self._scorable -= new * sequence.wants_scores
        sequence.table = table
        if sequence.cached is None:
            sequence.cached = sequence.branch.kv_length
            sequence.admitted = time.monotonic()
        self.running.append(sequence)
        self._versions = -1
        return new

    def _follows(self, sequence: Sequence, leaders: list[Sequence]) -> bool:
        """Whether it waits for another to compute what both begin with, and will then find it cached."""
        if sequence.wants_scores:
            return False
        if not _is_behind(sequence):
            sequence.behind = self._leader_of(sequence, leaders)
        return sequence.behind is not None

    def _leader_of(self, sequence: Sequence, leaders: list[Sequence]) -> tuple[Sequence, int] | None:
        """The one of `leaders` that shares enough of what it has still to compute, and up to where."""
        branch, size = sequence.branch, self.page_size
        for leader in leaders:
            other, known = leader.branch, leader.branch.kv_length
            if other.namespace != branch.namespace:
                continue
            first = max(known, branch.kv_length)
            probe = first + WORTH_WAITING
            if other.tokens(first, probe) != branch.tokens(first, probe):
                continue
            # The last token of a prompt is always computed, and only whole pages are found.
            shared = common_prefix(other.tokens(), branch.tokens(0, len(branch) - 1)) // size * size
            if shared - first >= WORTH_WAITING - size:
                return leader, shared
        return None

    def _build(self, granted: dict[Sequence, int]) -> Step:
        self._sort()
        rows = [sequence for sequence in self.running if sequence in granted]
        batch = Batch(
            token_ids=[],
            positions=[],
            slots=[],
            row_starts=[0],
            kv_lengths=[],
            page_tables=[],
            spans=[],
            copies=self.cache.take_copies(),
            logits_at=[],
        )
        step = Step(batch, rows, [granted[sequence] for sequence in rows], [], [])
        for sequence, new in zip(rows, step.new, strict=True):
            self._add_row(step, sequence, new)
        whole = len(rows) == len(self.running)
        batch.spans = spans(batch.page_tables, self._lcp if whole else None)
        self._topology += not whole
        batch.topology = self._topology
        return step

    def _add_row(self, step: Step, sequence: Sequence, new: int) -> None:
        batch, branch, table, size = step.batch, sequence.branch, sequence.table, self.page_size
        assert table is not None
        begin = branch.kv_length + sequence.computing
        end = begin + new
        sequence.computing += new
        pages = table.pages
        batch.token_ids += branch.tokens(begin, end)
        if end > len(branch):
            batch.unread.append((len(batch.token_ids), sequence.draw_at))
            batch.token_ids.append(0)
        if new == 1:
            batch.positions.append(begin)
            batch.slots.append(pages[begin // size] * size + begin % size)
        else:
            batch.positions += range(begin, end)
            batch.slots += [pages[p // size] * size + p % size for p in range(begin, end)]
        if sequence.wants_scores:
            self._add_scores(step, sequence, begin, new)
        batch.row_starts.append(len(batch.token_ids))
        batch.kv_lengths.append(end)
        used = -(-end // size)
        # Room reserved for a step that was given up, or for a longer chunk, is not part of this one.
        batch.page_tables.append(pages if len(pages) == used else pages[:used])
        if sequence.is_prompt or new > 1:
            self.prefill_tokens += new
        if end == len(branch) + sequence.drawing:
            self._add_draws(step, sequence, end)

    def _add_scores(self, step: Step, sequence: Sequence, begin: int, new: int) -> None:
        """Logits of this chunk's tokens that have a next one in the prompt, to score that one."""
        batch, top = step.batch, sequence.params.prompt_logprobs
        assert top is not None
        following = sequence.branch.tokens(begin + 1, min(begin + new + 1, len(sequence.branch)))
        row, first = len(batch.logits_at), len(batch.token_ids) - new
        batch.logits_at += range(first, first + len(following))
        batch.scores += [Score(row + i, token, top) for i, token in enumerate(following)]
        step.scorers.append((sequence, len(following)))

    def _add_draws(self, step: Step, sequence: Sequence, length: int) -> None:
        batch, params = step.batch, sequence.params
        row = len(batch.logits_at)
        batch.logits_at.append(len(batch.token_ids) - 1)
        step.drawers.append(sequence)
        step.leads = step.leads and not sequence.needs_tokens
        if not sequence.is_prompt:
            sequence.drawing += 1
            sequence.draw_at = len(batch.draws)
        split, banned = sequence.prompt_length, sequence.banned(length)
        prompt, output = sequence.history[:split], sequence.history[split:]
        for stream in range(sequence.stream, sequence.stream + max(1, sequence.children)):
            draw = Draw(row, params, sequence.seed, stream, length, prompt, output, banned)
            batch.draws.append(draw)

    def _sort(self) -> None:
        """Rows in tree order; redone only when the set of rows or the past of a page table has changed."""
        tables = [sequence.table for sequence in self.running if sequence.table is not None]
        versions = sum(table.version for table in tables)
        if versions == self._versions:
            return
        order = tree_order([table.pages for table in tables])
        self.running = [self.running[i] for i in order]
        self._lcp = adjacent_prefixes([tables[i].pages for i in order])
        self._versions = versions
        self._topology += 1
