"""Beam search against every text there is, on a tiny vocabulary, and against the model read in full."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest

from dendrite_core import Engine, SamplingParams
from dendrite_core.errors import RequestError, UnsupportedParameter
from dendrite_core.search import BeamSearch, Budget, EngineBackend, Search
from tests.search.fakes import NextTokens, Says, ScriptedBackend, letter

VOCABULARY = 4
END = 0


def language(seed: int) -> NextTokens:
    """Random next-token log-probabilities for every path of a four-letter language."""

    def table(path: str) -> dict[int, float]:
        rng = random.Random(f"{seed}{path}")
        weights = [rng.random() ** 3 + 0.01 for _ in range(VOCABULARY)]
        return {token: math.log(weight / sum(weights)) for token, weight in enumerate(weights)}

    return table


def exhaustive(table: NextTokens, length: int, penalty: float) -> tuple[float, str]:
    """The best of all texts: ended by END, or of full length without one."""
    best = (-math.inf, "")
    for size in range(1, length + 1):
        for tokens in itertools.product(range(VOCABULARY), repeat=size):
            if END in tokens[:-1] or (size < length and tokens[-1] != END):
                continue
            path, logprob = "", 0.0
            for token in tokens:
                logprob += table(path)[token]
                path += letter(token)
            best = max(best, (logprob / size**penalty, path.removesuffix(letter(END))))
    return best


async def beam(table: NextTokens, **settings: float) -> tuple[float, str]:
    backend = ScriptedBackend(lambda path, seed, index: Says(""), tokens=table, end_ids=(END,))
    result = await Search(backend, "", BeamSearch(**settings)).run()  # type: ignore[arg-type]
    assert backend.held == {}
    return result.score or 0.0, result.text


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
async def test_a_beam_as_wide_as_the_language_finds_the_best_text(seed: int, penalty: float) -> None:
    table = language(seed)
    score, text = exhaustive(table, 3, penalty)
    found = await beam(table, width=9, max_tokens=3, length_penalty=penalty)
    assert found == (pytest.approx(score), text)


@pytest.mark.parametrize("seed", range(5))
async def test_a_narrow_beam_is_the_textbook_one(seed: int) -> None:
    table, width, length = language(seed), 2, 5
    going, ended = [(0.0, "")], []
    for size in range(1, length + 1):
        ways = [(lp + p, path + letter(t)) for lp, path in going for t, p in table(path).items()]
        going = []
        for logprob, path in sorted(ways, reverse=True):
            if len(going) < width:
                (ended if path.endswith(letter(END)) else going).append((logprob, path))
                if path.endswith(letter(END)):
                    ended[-1] = (logprob / size, path[:-1])
    best = max([*ended, *((lp / length, path) for lp, path in going)])
    assert await beam(table, width=width, max_tokens=length) == (pytest.approx(best[0]), best[1])


async def test_a_beam_of_one_is_greedy(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    greedy = await engine.agenerate("the tree", SamplingParams(temperature=0, max_tokens=12))
    result = await Search(EngineBackend(engine), "the tree", BeamSearch(width=1, max_tokens=12)).run()
    whole = engine.tokenizer.decode(greedy.choices[0].token_ids)
    assert len(result.text) > 4
    assert whole.startswith(result.text), "all but what may be half a character"


async def test_beam_scores_are_what_the_model_says(make_engine: Callable[..., Engine]) -> None:
    """Each text of the beam, forced through the model again, has the log-probability it was kept for."""
    engine = make_engine()
    search = Search(EngineBackend(engine), "the tree of thoughts", BeamSearch(width=3, max_tokens=6))
    await search.run()
    assert search.tree is not None
    best = search.method.best(search.tree)
    assert best is not None
    ids = [token for part in best.place.pending for token in part]  # type: ignore[union-attr]
    assert len(ids) == 1, "only the last token was never computed"
    total = 0.0
    prompt = engine.tokenizer.encode_prompt("the tree of thoughts")
    for branch in best.path:
        answer = await engine.agenerate(
            prompt, SamplingParams(temperature=0, max_tokens=1, logprobs=20, ignore_eos=True)
        )
        (entry,) = answer.choices[0].logprobs
        token = next(t for t, p in entry.top if p == pytest.approx(branch.logprob, abs=1e-4))
        total += branch.logprob or 0.0
        prompt = [*prompt, token]
    assert best.score == pytest.approx(total / len(best.path))
    assert prompt[-1:] == ids


async def test_a_beam_holds_few_pages_and_leaves_none(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    most = 0

    def watch(event: object) -> None:
        nonlocal most
        most = max(most, engine.stats().result().pages_used)

    await Search(EngineBackend(engine), "the tree", BeamSearch(width=4, max_tokens=80), on_event=watch).run()
    # 80 tokens are 6 pages of 16: four texts that share nothing, twice while a step is under way.
    assert most <= 2 * 4 * 7
    assert engine.stats().result().pages_used == 0


async def test_limits_and_what_a_backend_must_tell(engine: Engine) -> None:
    with pytest.raises(RequestError, match="width must be at most"):
        await Search(EngineBackend(engine), "x", BeamSearch(width=20)).run()
    nameless = ScriptedBackend(lambda path, seed, index: Says("x"))
    with pytest.raises(UnsupportedParameter):
        await Search(nameless, "x", BeamSearch(width=2)).run()
    result = await Search(EngineBackend(engine), "x", BeamSearch(width=3), budget=Budget(tokens=10)).run()
    assert result.count.generated <= 10
