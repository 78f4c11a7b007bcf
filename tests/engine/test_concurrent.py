"""fork_concurrent_004: many client threads at one engine; nothing is lost and every invariant holds."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_core.cache.branch import Branch
from dendrite_core.cache.invariants import check
from dendrite_core.engine.messages import Progress
from dendrite_core.engine.stream import Stream
from dendrite_core.errors import EngineClosed, SequenceFailed

MakeEngine = Callable[..., Engine]


def _client(engine: Engine, seed: int, failures: list[BaseException]) -> None:
    rng, branches = random.Random(seed), []
    try:
        for _ in range(12):
            params = SamplingParams(max_tokens=rng.randint(1, 24), seed=seed, ignore_eos=True)
            parent = rng.choice(branches) if branches and rng.random() < 0.6 else None
            prompt = [rng.randrange(3, 320) for _ in range(rng.randint(1, 50))]
            stream = engine.submit(engine._request(prompt, params, rng.randint(1, 4), parent, None))
            branches += stream.wait_started().branch_ids
            if rng.random() < 0.3:
                stream.abort()
            list(stream)
            if rng.random() < 0.4:
                gone = branches.pop(rng.randrange(len(branches)))
                removed = set(engine.release(gone).result())
                branches = [name for name in branches if name not in removed]
            if branches and rng.random() < 0.3:
                branches += engine.fork(rng.choice(branches), 2).result()
        while branches:
            removed = set(engine.release(branches[0]).result())
            branches = [name for name in branches if name not in removed]
    except BaseException as error:
        failures.append(error)


def test_fork_concurrent_004(make_engine: MakeEngine) -> None:
    engine = make_engine(num_pages=160, max_rows=16, canaries=True)
    failures: list[BaseException] = []
    threads = [threading.Thread(target=_client, args=(engine, seed, failures)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not failures, failures
    assert engine.drain(timeout=30)
    engine.close()
    check(engine._loop.book.cache)
    engine._loop.runner.store.check_canaries()
    assert engine._loop.scheduler.running == []
    assert engine._loop.book.cache.stats().pages_used == 0


async def test_async_streams_interleave(make_engine: MakeEngine) -> None:
    engine = make_engine()
    params = SamplingParams(max_tokens=16, seed=3, ignore_eos=True)
    many = await asyncio.gather(*(engine.agenerate([5, 6, 7 + i], params, n=2) for i in range(6)))
    alone = [await engine.agenerate([5, 6, 7 + i], params, n=2) for i in range(6)]
    for one, other in zip(many, alone, strict=True):
        assert [c.token_ids for c in one.choices] == [c.token_ids for c in other.choices]


async def test_a_reader_that_leaves_stops_the_work(make_engine: MakeEngine) -> None:
    engine = make_engine(num_pages=64)
    params = SamplingParams(max_tokens=400, ignore_eos=True)
    stream = engine.submit(engine._request([5] * 20, params, 2, None, None))
    async for _ in stream:
        break
    await asyncio.wrap_future(stream.abort())
    stats = await asyncio.wrap_future(engine.stats())
    assert (stats.running, stats.waiting, engine.in_flight) == (0, 0, 0)
    assert stats.generated_tokens < 400


async def test_a_completion_that_is_cancelled_stops_the_work(make_engine: MakeEngine) -> None:
    engine = make_engine(num_pages=64)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine.agenerate([5] * 20, SamplingParams(max_tokens=450, ignore_eos=True), n=16)
    stats = await asyncio.wrap_future(engine.stats())
    assert (stats.running, stats.waiting, engine.in_flight) == (0, 0, 0)


def test_a_reader_whose_loop_is_just_closing_costs_nobody_else_anything(make_engine: MakeEngine) -> None:
    class Closing(asyncio.SelectorEventLoop):
        looks_open = False

        def is_closed(self) -> bool:
            return not self.looks_open and super().is_closed()

    engine, params = make_engine(), SamplingParams(max_tokens=100, ignore_eos=True, seed=1)

    async def submit() -> None:
        engine.submit(engine._request([5, 6, 7], params, 1, None, None))

    loop = Closing()
    loop.run_until_complete(submit())
    loop.close()
    loop.looks_open = True  # As it did a moment ago, when somebody asked.
    other = engine.submit(engine._request([8, 9], params, 1, None, None))
    assert engine.drain(timeout=20)
    assert sum(len(delta.token_ids) for news in other for delta in news.choices) == 100
    loop.looks_open = False


async def test_a_caller_who_leaves_its_command_does_not_end_the_engine(make_engine: MakeEngine) -> None:
    engine = make_engine()
    made = await engine.agenerate([5, 6, 7], SamplingParams(max_tokens=4, ignore_eos=True))
    left = [engine.release(made.branch_id), engine.describe("branch_none")]
    for future in left:
        future.cancel()
    assert (await asyncio.wrap_future(engine.stats())).branches == 1, "released, though nobody waited for it"


def test_a_fault_in_the_loop_ends_requests_and_not_the_engine(make_engine: MakeEngine) -> None:
    engine = make_engine()
    advance, calls = engine._loop.book.cache.advance, 0

    def fails_once(branch: Branch, count: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("planted")
        advance(branch, count)

    engine._loop.book.cache.advance = fails_once  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=30, seed=3, ignore_eos=True, temperature=0)
    with pytest.raises(SequenceFailed, match="planted"):
        engine.generate([5, 6, 7], params)
    assert len(engine.generate([5, 6, 7], params).choices[0].token_ids) == 30
    assert engine.in_flight == 0


def until_closed(stream: Stream) -> Iterator[Progress]:
    """What a stream tells before `EngineClosed` ends it."""
    with pytest.raises(EngineClosed):
        yield from stream


def test_all_that_runs_or_waits_can_be_ended_and_its_branches_stay(make_engine: MakeEngine) -> None:
    engine = make_engine(num_pages=128, max_rows=3)
    params = SamplingParams(max_tokens=450, ignore_eos=True)
    running = engine.submit(engine._request([5, 6, 7], params, 3, None, None))
    told = [0] * 3
    names = running.wait_started().branch_ids
    waiting = engine.submit(engine._request([8, 9], params, 2, None, None))
    engine.end_all().result()
    for delta in (delta for news in until_closed(running) for delta in news.choices):
        told[delta.index] += len(delta.token_ids)
    with pytest.raises(EngineClosed):
        waiting.wait_started()
    with pytest.raises(EngineClosed):
        engine.generate([5], params)
    assert [engine.describe(name).result().own_tokens for name in names] == told
    assert engine.stats().result().branches == 1 + 3
    assert engine.drain(timeout=0)
    check(engine._loop.book.cache)


def test_what_is_asked_during_the_last_step_is_answered(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    run, is_last, go_on = engine._loop.runner.run, threading.Event(), threading.Event()

    def slow(*arguments: object) -> object:
        if engine._loop._stopping:
            is_last.set()
            go_on.wait(10)
        return run(*arguments)

    monkeypatch.setattr(engine._loop.runner, "run", slow)
    stream = engine.submit(
        engine._request([1, 2], SamplingParams(max_tokens=200, ignore_eos=True), 1, None, None)
    )
    name = stream.wait_started().branch_ids[0]
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert is_last.wait(10)
    late = engine.describe(name)
    with pytest.raises(EngineClosed):
        engine.submit(stream.request)
    go_on.set()
    closing.join()
    with pytest.raises(EngineClosed):
        late.result(timeout=5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_is_gone_says_so(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine._call(sys.exit)
    engine._thread.join(timeout=10)
    with pytest.raises(EngineClosed):
        engine.stats().result(timeout=5)
    with pytest.raises(EngineClosed):
        engine.generate([5, 6], SamplingParams(max_tokens=2))


def test_what_requests_leave_is_freed_without_the_collector(make_engine: MakeEngine) -> None:
    engine = make_engine()
    root = engine.generate(list(range(3, 40)), SamplingParams(max_tokens=1)).branch_id

    async def explore() -> None:
        params = SamplingParams(max_tokens=6, ignore_eos=True)
        grown = await asyncio.gather(*(engine.agenerate([5], params, parent_id=root, n=3) for _ in range(4)))
        stream = engine.submit(engine._request([7], params, 2, root, None))
        await stream.started()
        stream.abort()
        assert [progress async for progress in stream]
        for done in grown:
            engine.release(done.started.prompt_branch_id).result()

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        asyncio.run(explore())
        gc.collect()
        ours = {type(left).__name__ for left in gc.garbage if "dendrite_core" in type(left).__module__}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not ours
