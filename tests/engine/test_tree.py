"""The tree as an engine's caller sees it: shared pasts are computed once, and freed when nobody is left."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from dendrite_core import Engine, RequestError, SamplingParams
from dendrite_core.cache.invariants import check
from dendrite_core.errors import BranchNotFound, ContextLengthExceeded

MakeEngine = Callable[..., Engine]


def tokens(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, 320) for _ in range(count)]


def params(**changes: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "max_tokens": 8, "ignore_eos": True, "seed": 1, **changes})


def test_sixteen_branches_compute_the_prefill_of_one(make_engine: MakeEngine) -> None:
    prompt = tokens(400)
    one, sixteen = make_engine(), make_engine()
    one.generate(prompt, params())
    many = sixteen.generate(prompt, params(), n=16)
    assert one.stats().result().prefill_tokens == sixteen.stats().result().prefill_tokens == len(prompt)
    assert len({tuple(choice.token_ids) for choice in many.choices}) > 1


def test_a_second_request_finds_the_past_by_itself(make_engine: MakeEngine) -> None:
    engine, prompt = make_engine(), tokens(100)
    assert engine.generate(prompt, params()).usage.cached_tokens == 0
    assert engine.generate(prompt, params()).usage.cached_tokens == 96
    assert engine.generate(prompt[:50] + tokens(50, seed=9), params()).usage.cached_tokens == 50


def test_children_reuse_every_token_of_their_parent(make_engine: MakeEngine) -> None:
    engine = make_engine()
    branch = engine.generate(tokens(70), params())
    length = 78
    for depth in range(10):
        child = engine.generate(tokens(5, seed=depth), params(), parent_id=branch.branch_id)
        assert child.usage.cached_tokens == length - 1
        assert child.usage.prompt_tokens == length + 5
        assert child.started.parent_id == branch.branch_id
        assert child.started.shared_tokens == length
        branch, length = child, length + 13


@pytest.mark.parametrize("overlap", [False, True])
def test_a_chain_of_short_steps_takes_the_pages_of_its_tokens(make_engine: MakeEngine, overlap: bool) -> None:
    """Thirty steps of five tokens, every branch of them kept, and the same tokens as in one go."""
    engine, greedy = make_engine(overlap=overlap), params(temperature=0, max_tokens=5)
    branch = engine.generate(tokens(20), greedy)
    text = list(branch.choices[0].token_ids)
    for _ in range(29):
        branch = engine.generate("", greedy, parent_id=branch.branch_id)
        text += branch.choices[0].token_ids
    stats = engine.stats().result()
    assert stats.pages_used <= (20 + 30 * 5) // 16 + 1
    assert stats.cow_copies == 0
    whole = make_engine().generate(tokens(20), params(temperature=0, max_tokens=150))
    assert text == list(whole.choices[0].token_ids)


def test_an_empty_prompt_continues_the_text(make_engine: MakeEngine) -> None:
    engine, prompt = make_engine(), tokens(33)
    greedy = params(temperature=0, max_tokens=20)
    whole = engine.generate(prompt, greedy)
    half = engine.generate(prompt, params(temperature=0, max_tokens=9))
    rest = engine.generate("", params(temperature=0, max_tokens=11), parent_id=half.branch_id)
    assert half.choices[0].token_ids + rest.choices[0].token_ids == whole.choices[0].token_ids
    assert rest.usage.cached_tokens == rest.usage.prompt_tokens - 1


def test_more_siblings_from_the_prompt_branch(make_engine: MakeEngine) -> None:
    engine = make_engine()
    first = engine.generate(tokens(40), params(), n=3)
    more = engine.generate("", params(), parent_id=first.started.prompt_branch_id, n=3)
    assert [c.token_ids for c in more.choices] == [c.token_ids for c in first.choices]
    assert more.usage.cached_tokens == 39


@pytest.mark.parametrize("page_size", [8, 16, 32])
def test_pages_go_back_to_zero(make_engine: MakeEngine, page_size: int) -> None:
    engine = make_engine(page_size=page_size)
    root = engine.generate(tokens(100), params(), n=8)
    for choice in root.choices[:3]:
        engine.generate(tokens(20), params(), parent_id=choice.branch_id, n=2)
    assert engine.stats().result().pages_used > 0
    assert engine.stats().result().pages_shared > 0
    for choice in root.choices:
        engine.release(choice.branch_id).result()
    assert engine.stats().result().pages_used == 0


def test_a_released_branch_is_not_found_and_its_prompt_still_is(make_engine: MakeEngine) -> None:
    engine = make_engine()
    made = engine.generate(tokens(40), params())
    assert engine.release(made.branch_id).result() == [made.branch_id]
    with pytest.raises(BranchNotFound):
        engine.generate("", params(), parent_id=made.branch_id)
    again = engine.generate("", params(), parent_id=made.started.prompt_branch_id)
    assert again.choices[0].token_ids == made.choices[0].token_ids


def test_describe_shows_the_tree(make_engine: MakeEngine) -> None:
    engine = make_engine()
    made = engine.generate(tokens(40), params(), n=2)
    child = engine.generate(tokens(4), params(), parent_id=made.choices[1].branch_id)
    shown = engine.describe_tree(made.started.tree_id).result()
    assert [info.kind for info in shown] == ["prompt", "completion", "completion", "prompt", "completion"]
    leaf = engine.describe(child.branch_id).result()
    assert (leaf.length, leaf.own_tokens, leaf.finish_reason) == (60, 8, "length")
    assert leaf.text == child.text
    assert leaf.tree_id == made.started.tree_id


def test_kv_eviction_005(make_engine: MakeEngine) -> None:
    engine = make_engine(num_pages=24, max_rows=4)
    prompts = [tokens(60, seed=i) for i in range(12)]
    first = [engine.generate(prompt, params()) for prompt in prompts]
    assert engine.stats().result().evictions > 0
    for made, prompt in zip(first, prompts, strict=True):
        assert engine.generate(prompt, params()).choices[0].token_ids == made.choices[0].token_ids
        again = engine.generate("", params(), parent_id=made.started.prompt_branch_id)
        assert again.choices[0].token_ids == made.choices[0].token_ids


def test_preemption_loses_nothing(make_engine: MakeEngine) -> None:
    roomy, tight = make_engine(), make_engine(num_pages=20)
    prompts = [tokens(40, seed=i) for i in range(8)]
    answers = []
    for engine in (roomy, tight):
        streams = [engine.submit(engine._request(p, params(max_tokens=40), 2, None, None)) for p in prompts]
        found = [[[], []] for _ in streams]
        for stream, texts in zip(streams, found, strict=True):
            for progress in stream:
                for delta in progress.choices:
                    texts[delta.index].extend(delta.token_ids)
        answers.append(found)
    assert answers[0] == answers[1]
    assert tight.stats().result().preemptions > 0


def test_the_same_seed_gives_the_same_tokens_in_any_company(make_engine: MakeEngine) -> None:
    engine = make_engine()
    alone = engine.generate(tokens(30), params(seed=5), n=4)
    crowd = [engine._request(tokens(20, seed=i), params(seed=i), 3, None, None) for i in range(5)]
    noise = [engine.submit(request) for request in crowd]
    company = engine.generate(tokens(30), params(seed=5), n=4)
    assert [c.token_ids for c in alone.choices] == [c.token_ids for c in company.choices]
    for stream in noise:
        list(stream)


def test_bad_requests_name_the_field(make_engine: MakeEngine) -> None:
    engine = make_engine()
    made = engine.generate(tokens(10), params())
    cases: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"prompt": []}, RequestError, "prompt"),
        ({"prompt": [9999]}, RequestError, "prompt"),
        ({"prompt": [5], "parent_id": "branch_0"}, BranchNotFound, "parent_id"),
        ({"prompt": [5], "parent_id": made.branch_id, "parent_offset": 9}, RequestError, "parent_offset"),
        ({"prompt": tokens(600)}, ContextLengthExceeded, "messages"),
        ({"prompt": [5], "n": 1000}, RequestError, "n"),
    ]
    for request, error, param in cases:
        with pytest.raises(error) as caught:
            engine.generate(params=params(), **request)  # type: ignore[arg-type]
        assert caught.value.param == param  # type: ignore[attr-defined]
    assert engine.in_flight == 0


def test_a_pin_keeps_kv_until_its_time_is_over(make_engine: MakeEngine) -> None:
    engine = make_engine(num_pages=24, max_rows=4)
    kept = engine.generate(tokens(60), params())
    engine.update(kept.branch_id, pinned=True, ttl=60, metadata={"score": 0.5}).result()
    for seed in range(1, 12):
        engine.generate(tokens(60, seed=seed), params())
    shown = engine.describe(kept.branch_id).result()
    assert (shown.kv_tokens, shown.pinned, shown.metadata) == (67, True, {"score": 0.5})
    engine.update(kept.branch_id, pinned=True, ttl=0).result()
    for seed in range(1, 12):
        engine.generate(tokens(60, seed=seed), params())
    shown = engine.describe(kept.branch_id).result()
    assert (shown.kv_tokens, shown.pinned) == (0, False)


def test_pins_give_way_rather_than_fail_a_request(make_engine: MakeEngine) -> None:
    engine = make_engine(num_pages=24, max_rows=4)
    for seed in range(5):
        made = engine.generate(tokens(60, seed=seed), params())
        engine.update(made.branch_id, pinned=True).result()
    assert len(engine.generate(tokens(200, seed=9), params()).choices[0].token_ids) == 8


def test_an_end_token_of_the_prompt_itself_is_kept_for_later_siblings(make_engine: MakeEngine) -> None:
    """Only an end that was drawn is dropped by a text that goes on."""
    engine = make_engine()
    (end,) = engine.tokenizer.eos_ids
    first = engine.generate([5, 6, 7, end], params())
    empty = engine.generate([5, 6, 7, end], params(max_tokens=0))
    for parent in (first.started.prompt_branch_id, empty.branch_id, *engine.fork(empty.branch_id).result()):
        more = engine.generate("", params(), parent_id=parent)
        assert more.usage.prompt_tokens == 4
        assert more.choices[0].token_ids == first.choices[0].token_ids


def test_a_pin_ends_in_time_though_nothing_happens(make_engine: MakeEngine) -> None:
    engine = make_engine()
    name = engine.generate([5, 6], params()).branch_id
    watch = engine.watch(threading.Event().set).result()
    engine.update(name, pinned=True, ttl=1e300).result()
    engine.update(name, pinned=True, ttl=0.3).result()
    engine.news(watch).result()
    woken = threading.Event()
    watch._wake = woken.set
    assert woken.wait(5)
    assert [one.info.pinned for one in engine.news(watch).result().branches] == [False]


def test_a_branch_has_one_name_and_no_other_spelling_of_it(make_engine: MakeEngine) -> None:
    engine = make_engine()
    name = engine.generate([5, 6], params()).branch_id
    tree = engine.describe(name).result().tree_id
    boot = len("branch_") + 6
    for other in (f"{name[:boot]}+{name[boot:]}", f"{name[:boot]}0{name[boot:]}", f"{name} ", name.upper()):
        with pytest.raises(BranchNotFound):
            engine.describe(other).result()
    with pytest.raises(BranchNotFound):
        engine.describe_tree(tree[: boot - 2] + "0" + tree[boot - 2 :]).result()
    assert engine.describe_tree(tree).result()[-1].branch_id == name


def test_children_that_can_draw_no_first_token_leave_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine(canaries=True)
    root = engine.generate(tokens(40), params())
    before = engine.stats().result()
    end = engine.tokenizer.eos_ids[0]
    with pytest.raises(RequestError, match="no token is left"):
        engine.generate([5], params(allowed_token_ids=(end,), min_tokens=2), parent_id=root.branch_id, n=3)
    after = engine.stats().result()
    assert (after.branches, after.pages_used) == (before.branches, before.pages_used)
    assert engine.describe(root.branch_id).result().children == ()
    engine.close()
    check(engine._loop.book.cache)
