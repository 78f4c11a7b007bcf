"""The engine's one thread: `step()` drains the inbox, schedules, runs, samples and emits.

With `overlap` a step is left *in flight* and the next one launched before its tokens are read: the device
never waits for the CPU. Work reaches the device in the order of launches, so pages that a branch gives up
while a step still writes to them may be handed out at once.

Only this thread touches the cache, the scheduler and the model. What callers want done arrives as a
`Request` or as a named command; a fault of one sequence ends that sequence and never unwinds the loop.
"""

from __future__ import annotations

import logging
import queue
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from dendrite_core.batching.scheduler import Scheduler, Step
from dendrite_core.batching.sequence import Sequence
from dendrite_core.cache.branch import Branch
from dendrite_core.engine.branches import BranchBook
from dendrite_core.engine.job import Job, token_logprob
from dendrite_core.engine.measures.engine import Counters, engine_stats
from dendrite_core.engine.measures.requests import RequestMeasures
from dendrite_core.engine.messages import EngineStats, Progress, TokenLogprob
from dendrite_core.engine.output import nothing_left
from dendrite_core.engine.stream import Command, Outbox, Stream
from dendrite_core.errors import (
    BranchNotFound,
    ContextLengthExceeded,
    DendriteError,
    EngineClosed,
    SequenceFailed,
)
from dendrite_core.forward.runner import Runner
from dendrite_core.sampling.logprobs import Logprobed, score
from dendrite_core.sampling.penalties import TokenMasks
from dendrite_core.sampling.sampler import Drawn, Sampled, Sampler
from dendrite_core.text.grammar import GrammarCompiler

log = logging.getLogger("dendrite.engine")


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was launched and is not committed; what it draws and scores comes from the device."""

    step: Step
    drawn: Drawn | None
    scored: Logprobed | None


class EngineLoop:
    """Owns what a step needs, and the jobs in flight."""

    def __init__(
        self,
        book: BranchBook,
        scheduler: Scheduler,
        runner: Runner,
        sampler: Sampler,
        grammars: GrammarCompiler,
        *,
        overlap: bool = False,
    ) -> None:
        self.book = book
        self.scheduler = scheduler
        self.runner = runner
        self.sampler = sampler
        self.grammars = grammars
        self._masker = ThreadPoolExecutor(1, thread_name_prefix="dendrite-grammar")
        self.inbox: queue.SimpleQueue[Stream | Command | None] = queue.SimpleQueue()
        self.jobs: dict[Stream, Job] = {}
        self.overlap = overlap
        self.counters = Counters()
        self.measures = RequestMeasures()
        self._flight: Flight | None = None
        self._arrivals = 0
        self.outbox = Outbox()
        self._stopping = False

    def run(self) -> None:
        """Step until told to stop; the body of the engine's thread."""
        while not self._stopping:
            try:
                self.step()
            except Exception as error:
                log.exception("a fault outside any sequence; all that is in flight ends")
                self.give_up(SequenceFailed(f"internal error: {error}"))
        self.give_up(EngineClosed("the engine was closed before this had ended"), "abort")
        self.book.watches.wake()

    def give_up(self, error: Exception, reason: str = "error") -> None:
        """End every request, also one whose own state is what is broken: no reader may wait forever."""
        self._flight = None
        for stream, job in list(self.jobs.items()):
            try:
                self._fail([job], error, reason)
            except Exception:
                log.exception("request %s could not be taken apart", stream.request.request_id)
                self.jobs.pop(stream, None)
                self.outbox.post(stream, error)
        self.outbox.deliver()

    def step(self) -> None:
        """One turn: take what callers sent, launch a batch, tell callers what came of the one before it."""
        self._drain()
        if not self._launch_ahead():
            self._land()
            self._launch()
        if not self.overlap:
            self._land()
        self.outbox.deliver()

    def _launch_ahead(self) -> bool:
        """Launch the step after the one in flight, then land that one; False where it has to land first."""
        before = self._flight
        if before is None or not before.step.leads:
            return False
        step = self.scheduler.schedule_ahead()
        if step is None:
            return False
        self.counters.steps_ahead += 1
        self._flight = self._run(step, before.drawn)
        self._settle(before)
        return True

    def _launch(self) -> None:
        step = self.scheduler.schedule()
        if step is not None:
            self._flight = self._run(step)
        elif self.scheduler.waiting:
            self._unblock()

    def _land(self) -> None:
        """Wait for the step in flight, if there is one, and take its tokens."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._settle(flight)

    def _unblock(self) -> None:
        """Nothing runs and nothing fits: pins give way; without any the first in line cannot be served."""
        if not self.book.yield_pin():
            job = self.scheduler.head.owner
            assert isinstance(job, Job)
            length = len(job.prompt.branch)
            self._fail([job], ContextLengthExceeded(f"no room in the KV cache for {length} tokens"))

    def _drain(self) -> None:
        """Everything in the inbox; waits for news, or a pin's end, when there is nothing to run."""
        self.book.expire_pins()
        block = not self.scheduler.has_work and self._flight is None
        while True:
            try:
                item = self.inbox.get(block=block, timeout=self.book.until_a_pin_ends() if block else None)
            except queue.Empty:
                return
            block = False
            if item is None:
                self._stopping = True
            elif isinstance(item, Stream):
                self._guarded(item, self._start)
            else:
                item.run(self, self.book)

    def _start(self, stream: Stream) -> None:
        self._arrivals += 1
        seed = stream.request.params.seed
        job = self.book.open(stream, self._arrivals, secrets.randbits(63) if seed is None else seed)
        self.jobs[stream] = job
        self.scheduler.add(job.prompt)

    def _run(self, step: Step, before: Drawn | None = None) -> Flight | None:
        """Have a step computed and its tokens drawn; those of the step before may still be on the device."""
        batch = step.batch
        try:
            masks = self._start_masks(step)
            fed = (before.tokens,) if before is not None and batch.unread else ()
            logits = self.runner.run(batch, *fed)
            drawn = self.sampler.launch(logits, batch.draws, masks and masks()) if batch.draws else None
            return Flight(step, drawn, score(logits, batch.scores) if batch.scores else None)
        except Exception as error:
            self._fail_step(step, error)
            return None

    def _settle(self, flight: Flight) -> None:
        """Commit a step, and hand out what it drew once that is known; until then the device computes."""
        step = flight.step
        self.scheduler.commit(step)
        self._fork_prompts(step)
        try:
            sampled = flight.drawn.read() if flight.drawn is not None else Sampled([], [])
            scores = flight.scored.read() if flight.scored is not None else []
        except Exception as error:
            self._fail_step(step, error)
            return
        self.counters.steps += 1
        self.scheduler.score(step, scores)
        self._emit(step, sampled)
        self.book.watches.grown(step.rows)

    def _fail_step(self, step: Step, error: Exception) -> None:
        log.exception("a step failed; its %d sequences end, the engine goes on", len(step.rows))
        self._fail(self._jobs_of(step.rows), SequenceFailed(f"the forward pass failed: {error}"))
        self.scheduler.give_up(step)

    def _start_masks(self, step: Step) -> Callable[[], TokenMasks] | None:
        """Let grammars say what may come next while the model runs; the masks, to be asked for after it."""
        if all(sequence.grammar is None for sequence in step.drawers):
            return None
        states = [s.grammar for s in step.drawers for _ in range(max(1, s.children))]
        found = self._masker.submit(self.grammars.masks, states)

        def masks() -> TokenMasks:
            bits, row_of = found.result()
            return TokenMasks(torch.from_numpy(bits), row_of)

        return masks

    def _emit(self, step: Step, sampled: Sampled) -> None:
        """Give every drawn token to its branch and its reader; end what ended."""
        first, faults = 0, sampled.faults
        for sequence in step.drawers:
            job, drawn = sequence.owner, range(first, first + max(1, sequence.children))
            first = drawn.stop
            assert isinstance(job, Job)
            if not (job.children if sequence.is_prompt else sequence.running):
                continue  # It ended while this step was in flight.
            fault = next((faults[i] for i in drawn if i in faults), None) if faults else None
            if fault is not None:
                self._fail([job], nothing_left(job.stream.request.params, fault))
            else:
                self._take(job, sequence, sampled, drawn)
        for job in self._jobs_of(step.drawers):
            if job.news:
                self._report(job)

    def _take(self, job: Job, sequence: Sequence, sampled: Sampled, drawn: range) -> None:
        """One token for this sequence, or a first one for each child of a prompt."""
        children = [sequence]
        if sequence.is_prompt:
            self.outbox.post(job.stream, self.book.tell(job))
            children = job.children
        for child, i in zip(children, drawn, strict=True):
            token, logprob = sampled.token_ids[i], sampled.logprobs[i]
            self._advance(job, child, token, logprob and token_logprob(token, logprob))

    def _fork_prompts(self, step: Step) -> None:
        """Give prompts that are computed their children, whose first tokens are still to come."""
        for sequence in step.drawers:
            if sequence.is_prompt and sequence.running:
                job = sequence.owner
                assert isinstance(job, Job)
                self.scheduler.remove(sequence)
                started = self.book.fork_children(job)
                self.counters.cached_tokens += started.cached_tokens
                self.counters.queried_tokens += started.prompt_tokens
                self.measures.start(
                    queued=sequence.admitted - job.stream.submitted,
                    prompt_tokens=started.prompt_tokens,
                    branches=len(started.branch_ids),
                    depth=self.book.depth(sequence.branch),
                )

    def _advance(self, job: Job, child: Sequence, token: int, logprob: TokenLogprob | None) -> None:
        fresh = not child.running
        choice = job.choices[child.stream]
        if choice.limit == 0:
            job.news.append(choice.end_empty())
            self._end(job, child)
            return
        child.append(token)
        job.news.append(choice.push(token, logprob))
        if child.grammar is not None and choice.finish_reason is None:
            self._constrain(job, child, token)
        if choice.finish_reason is not None:
            self._end(job, child)
        elif fresh:
            self.scheduler.add(child)

    def _constrain(self, job: Job, child: Sequence, token: int) -> None:
        """Move on in the grammar, and take at once what can only follow one way: one forward pass for all.

        Forced tokens have no logprobs and nobody asks whether they are allowed, so where that matters every
        token is drawn.
        """
        grammar, choice = child.grammar, job.choices[child.stream]
        assert grammar is not None
        grammar.accept(token)
        params = child.params
        for forced in () if params.forbids or params.logprobs is not None else grammar.forced_tokens():
            if not grammar.accept(forced):
                break
            child.append(forced)
            job.news.append(choice.push(forced, None))
            if choice.finish_reason is not None:
                return
        if grammar.is_finished:
            job.news.append(choice.end("stop"))

    def _end(self, job: Job, child: Sequence) -> None:
        self.scheduler.remove(child)
        self.book.end(child, job.choices[child.stream].finish_reason)
        job.live -= 1

    def _report(self, job: Job) -> None:
        drawn = (news.index for news in job.news if news.token_ids)
        self.counters.generated_tokens += self.measures.tokens(job.clock, drawn)
        usage = job.usage() if job.live == 0 else None
        self.outbox.post(job.stream, Progress(tuple(job.news), usage))
        job.news.clear()
        if usage is not None:
            self.measures.end(job.clock, job.finish_reasons(), (choice.length for choice in job.choices))
            self._close(job)

    def _close(self, job: Job) -> None:
        del self.jobs[job.stream]
        job.close()

    # Verbs of callers.

    def abort(self, stream: Stream) -> None:
        """Stop a request where it is; its branches stay, its reader gets what there was."""
        job = self.jobs.get(stream)
        if job is None:
            return
        if job.started is None:
            self._fail([job], SequenceFailed("the request was aborted before its first token"), "abort")
            return
        for child in list(job.unfinished()):
            self._abort_child(job, child)
        self._report(job)

    def release(self, name: str, prune: bool = True) -> list[str]:
        """Free a branch (and, with `prune`, all below it), running or not; the names that are gone."""
        members = self.book.subtree(name, prune)
        for branch in members:
            self._interrupt(branch)
        return self.book.release(members)

    def _interrupt(self, branch: Branch) -> None:
        sequence = self.book.running(branch)
        if sequence is None:
            return
        job = sequence.owner
        assert isinstance(job, Job)
        if job.started is None:
            parent = job.stream.request.parent_id
            gone = f"branch '{parent}' was deleted before anything followed it"
            self._fail([job], BranchNotFound(gone, param="parent_id"))
        else:
            self._abort_child(job, sequence)
            self._report(job)

    def _abort_child(self, job: Job, child: Sequence) -> None:
        job.news.append(job.choices[child.stream].end("abort"))
        self._end(job, child)

    def _fail(self, jobs: Iterable[Job], error: Exception, reason: str = "error") -> None:
        for job in jobs:
            for sequence in list(job.unfinished()):
                self.scheduler.remove(sequence)
                self.book.end(sequence, reason)
            if job.started is None:
                # Nobody was told these branches' names, so nobody could ever free them.
                self.book.release([job.prompt.branch, *(child.branch for child in job.children)])
            self._close(job)
            self.measures.break_off(job.finish_reasons(reason), error)
            self.outbox.post(job.stream, error)

    def stats(self) -> EngineStats:
        """Counters and gauges now."""
        return engine_stats(self.book.cache.stats(), self.scheduler, self.counters, self.measures.stats())

    def _guarded(self, stream: Stream, action: Callable[[Stream], None]) -> None:
        try:
            action(stream)
        except DendriteError as error:
            self.outbox.post(stream, error)
        except Exception as error:
            log.exception("request %s could not be started", stream.request.request_id)
            self.outbox.post(stream, SequenceFailed(f"internal error: {error}"))

    def _jobs_of(self, rows: Iterable[Sequence]) -> list[Job]:
        """The jobs of rows that have not ended."""
        jobs = {sequence.owner: None for sequence in rows}
        return [job for job in jobs if isinstance(job, Job) and job.stream in self.jobs]
