"""The scheduler without a model: tokens are written to a list of slots, as attention would read them."""

from __future__ import annotations

import random

import pytest

from dendrite_core.batching.scheduler import Scheduler, Step
from dendrite_core.batching.sequence import Sequence
from dendrite_core.cache.branch import Branch
from dendrite_core.cache.invariants import check
from dendrite_core.cache.tree import TreeCache
from dendrite_core.config import EngineConfig, Facts, ResolvedConfig, resolve
from dendrite_core.params import SamplingParams


def config(**settings: int) -> ResolvedConfig:
    facts = Facts(
        device="cpu",
        dtype="float32",
        decoder="none",
        vocab_size=1000,
        max_position=10_000,
        bytes_per_page=1,
        free_bytes=None,
    )
    return resolve(EngineConfig(model="none", **{"num_pages": 100, "max_model_len": 400, **settings}), facts)


class Machine:
    """A scheduler, its cache, and memory that remembers which token was written to which slot."""

    def __init__(self, **settings: int) -> None:
        self.config = config(**settings)
        self.cache = TreeCache(self.config.num_pages, self.config.page_size)
        self.scheduler = Scheduler(self.cache, self.config)
        self.slots: list[int | None] = [None] * (self.config.num_pages * self.config.page_size)
        self.arrivals = 0
        self.finished: list[Sequence] = []

    def add(self, tokens: list[int], until: int, priority: int = 0) -> Sequence:
        self.arrivals += 1
        sequence = Sequence(
            self.cache.open(tokens),
            params=SamplingParams(max_tokens=max(1, until - len(tokens))),
            seed=0,
            order=(priority, self.arrivals, 0),
            end_ids=(),
            owner=until,
            prompt_length=len(tokens),
            longest=until,
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Step | None:
        step = self.scheduler.schedule()
        if step is None:
            return None
        self._copy_and_write(step)
        self._check_what_rows_see(step)
        self.scheduler.commit(step)
        for sequence in step.drawers:
            sequence.append(len(sequence.branch) * 7 % 1000)
            if len(sequence.branch) >= sequence.owner:  # type: ignore[operator]
                self.scheduler.remove(sequence)
                self.finished.append(sequence)
        check(self.cache)
        return step

    def _copy_and_write(self, step: Step) -> None:
        size = self.config.page_size
        for source, target in step.batch.copies:
            self.slots[target * size : (target + 1) * size] = self.slots[source * size : (source + 1) * size]
        for slot, token in zip(step.batch.slots, step.batch.token_ids, strict=True):
            self.slots[slot] = token

    def _check_what_rows_see(self, step: Step) -> None:
        """Every row finds its own tokens behind its page table, and the spans add up to that table."""
        size, batch = self.config.page_size, step.batch
        for row, sequence in enumerate(step.rows):
            length, pages = batch.kv_lengths[row], batch.page_tables[row]
            seen = [self.slots[pages[p // size] * size + p % size] for p in range(length)]
            assert seen == sequence.branch.tokens(0, length)
            spans = [span for span in batch.spans if span.first_row <= row < span.end_row]
            assert [page for span in spans for page in span.pages] == list(pages)


@pytest.mark.parametrize("num_pages", [26, 100])
def test_every_sequence_ends_whatever_the_room(num_pages: int) -> None:
    rng, machine = random.Random(3), Machine(num_pages=num_pages, max_rows=8, max_batch_tokens=50)
    past = [rng.randrange(1000) for _ in range(80)]
    for _ in range(30):
        tokens = past[: rng.randrange(80)] + [rng.randrange(1000) for _ in range(rng.randint(1, 60))]
        machine.add(tokens, len(tokens) + rng.randint(1, 60))
    for _ in range(3000):
        if machine.step() is None:
            break
    assert len(machine.finished) == 30
    assert not machine.scheduler.has_work
    assert (machine.scheduler.preemptions > 0) == (num_pages == 26)


def random_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1000) for _ in range(count)]


@pytest.mark.parametrize("max_batch_tokens", [48, 512])
def test_what_prompts_have_in_common_is_computed_once(max_batch_tokens: int) -> None:
    """Eight prompts at once: 200 equal tokens and up to 9 of their own, alone in their last page."""
    rng, machine = random.Random(1), Machine(max_batch_tokens=max_batch_tokens)
    past = random_tokens(rng, 200)
    prompts = [past + random_tokens(rng, rng.randint(1, 9)) for _ in range(8)]
    for prompt in prompts:
        machine.add(prompt, len(prompt) + 2)
    computed = 0
    while step := machine.step():
        computed += len(step.batch.token_ids)
    assert len(machine.finished) == 8
    # Twelve whole pages are shared; what comes after them, and one token more, is every prompt's own.
    assert computed == 12 * 16 + sum(len(prompt) - 12 * 16 + 1 for prompt in prompts)


def test_prompts_of_their_own_do_not_wait_for_others() -> None:
    """Not for other tokens, another namespace, fewer tokens than are worth it, nor to be scored."""
    rng, machine = random.Random(2), Machine()
    past = random_tokens(rng, 100)
    first = machine.add(past, 120)
    others = [
        machine.add(random_tokens(rng, 100), 120),
        machine.add(past[:40] + random_tokens(rng, 60), 120),
        machine.add(past[:33], 120),
    ]
    follower = machine.add(past, 120)
    machine.step()
    assert first.running
    assert [other.running for other in others] == [True] * 3
    assert not follower.running
    machine.step()
    assert follower.running
    assert follower.cached == 96


def test_a_follower_goes_on_alone_when_its_leader_is_gone() -> None:
    machine = Machine(max_batch_tokens=64)
    past = random_tokens(random.Random(3), 300)
    leader, follower = machine.add(past, 310), machine.add(past, 310)
    for _ in range(3):
        machine.step()
    assert (leader.running, follower.running) == (True, False)
    assert leader.branch.kv_length == 32 + 64 + 64, "only at first a share is left for others"
    machine.scheduler.remove(leader)
    machine.step()
    assert follower.running
    assert follower.cached == 160
    while machine.step():
        pass
    assert machine.finished == [follower]


def test_no_step_exceeds_its_tokens_or_rows() -> None:
    machine = Machine(max_rows=3, max_batch_tokens=20)
    for seed in range(6):
        machine.add([seed] * 33, 40)
    while step := machine.step():
        assert len(step.batch.token_ids) <= 20
        assert step.batch.rows <= 3


def test_a_long_prompt_holds_up_neither_a_waiting_nor_a_decoding_one() -> None:
    machine = Machine(max_batch_tokens=20)
    machine.add([1] * 300, 301)
    short = machine.add([2] * 4, 12)
    for _ in range(8):
        assert machine.step()
    assert short in machine.finished


def test_smaller_priority_goes_first() -> None:
    machine = Machine(max_rows=1)
    machine.add([1] * 5, 8, priority=1)
    urgent = machine.add([2] * 5, 8, priority=0)
    while machine.step():
        pass
    assert machine.finished[0] is urgent


def test_equal_prompts_meet_in_the_tree() -> None:
    machine = Machine(max_batch_tokens=512)
    for _ in range(4):
        machine.add(list(range(64)), 70)
    machine.step()
    step = machine.step()
    assert step is not None
    shared = [span for span in step.batch.spans if span.end_row - span.first_row == 4]
    assert [len(span.pages) for span in shared] == [4]


class Overlapped(Machine):
    """One step in flight: memory changes at its launch, and what it drew is known a step later."""

    def __init__(self, seed: int, **settings: int) -> None:
        super().__init__(**settings)
        self.rng = random.Random(seed)
        self.flight: tuple[Step, list[int]] | None = None
        self.ahead = self.unforeseen = 0

    def turn(self) -> None:
        before = self.flight
        step = self.scheduler.schedule_ahead() if before is not None and before[0].leads else None
        if step is None:
            self.land(before)
            before, step = None, self.scheduler.schedule()
        self.ahead += before is not None
        self.flight = self.launch(step, before) if step is not None else None
        self.land(before)
        check(self.cache)

    def launch(self, step: Step, before: tuple[Step, list[int]] | None) -> tuple[Step, list[int]]:
        batch = step.batch
        for at, draw in batch.unread:
            assert before is not None
            batch.token_ids[at] = before[1][draw]
        self._copy_and_write(step)
        size = self.config.page_size
        for row, sequence in enumerate(step.rows):
            length, pages, branch = batch.kv_lengths[row], batch.page_tables[row], sequence.branch
            new = batch.token_ids[batch.row_starts[row] : batch.row_starts[row + 1]]
            seen = [self.slots[pages[p // size] * size + p % size] for p in range(length)]
            assert seen == branch.tokens(0, length - len(new)) + new
            assert len(pages) == -(-length // size), "room for later is not part of this step"
        return step, [self.rng.randrange(1000) for _ in batch.draws]

    def land(self, flight: tuple[Step, list[int]] | None) -> None:
        if flight is None:
            return
        step, drawn = flight
        self.scheduler.commit(step)
        for sequence, token in zip(step.drawers, drawn, strict=True):
            if not sequence.running:
                continue
            sequence.append(token)
            foreseen = len(sequence.branch) >= sequence.longest
            if foreseen or token < 40:
                self.unforeseen += not foreseen
                self.scheduler.remove(sequence)
                self.finished.append(sequence)

    def disturb(self) -> None:
        """What callers do between two turns, that is in the middle of a step."""
        running = list(self.scheduler.running)
        if running and self.rng.random() < 0.1:
            self.scheduler.remove(self.rng.choice(running))
        if running and self.rng.random() < 0.3:
            child = self.cache.fork(self.rng.choice(running).branch)
            child.extend([self.rng.randrange(1000) for _ in range(self.rng.randint(1, 12))])
            self.run(child)
        idle = [branch for branch in self.cache.branches.values() if not branch.running and not branch.holds]
        if idle and self.rng.random() < 0.3:
            self.cache.release(self.rng.choice(idle))

    def run(self, branch: Branch) -> None:
        self.arrivals += 1
        branch.holds += 1
        length = len(branch)
        sequence = Sequence(
            branch, params=SamplingParams(), seed=0, order=(0, self.arrivals, 0), end_ids=(), owner=None,
            prompt_length=length, longest=length + self.rng.randint(1, 60),
        )  # fmt: skip
        self.scheduler.add(sequence)


@pytest.mark.parametrize("num_pages", [26, 200])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_launched_ahead_reads_what_was_written_whatever_happens_meanwhile(
    seed: int, num_pages: int
) -> None:
    machine = Overlapped(seed, num_pages=num_pages, max_rows=8, max_batch_tokens=40)
    for number in range(500):
        if number % 15 == 0:
            machine.run(machine.cache.open([machine.rng.randrange(1000) for _ in range(50)]))
        machine.turn()
        machine.disturb()
    assert machine.ahead > 250
    assert machine.unforeseen > 30
    assert len(machine.finished) > 50
    assert (machine.scheduler.preemptions > 0) == (num_pages == 26)
