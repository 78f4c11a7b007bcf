"""Beam search over tokens: the most probable texts, by cumulative log-probability with a length penalty.

Every token of a kept text is a branch: a step forks each text once per token it is kept with, and computes
one row per text. Ends are exact: the search stops when no open text can still beat the best ended one.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace

from dendrite_core.errors import RequestError, UnsupportedParameter
from dendrite_core.params import MAX_TOP_LOGPROBS, SamplingParams
from dendrite_core.search.backend import Answer, Ask, Candidate, Place
from dendrite_core.search.evaluators import Goal
from dendrite_core.search.methods.guided import at_least, rank
from dendrite_core.search.tree import Branch, Tree

_UTF8 = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Text:
    """A text of the beam: its last branch, its bytes, its tokens and their log-probability."""

    branch: Branch
    raw: bytes = b""
    length: int = 0
    logprob: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Keeps the `width` most probable texts of each length, up to `max_tokens`.

    A text is worth its log-probability divided by length ** `length_penalty`; it ends with the model's
    turn or with a string of `stop`. `goal` marks solutions among ended texts.
    """

    width: int = 4
    max_tokens: int = 64
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    goal: Goal | None = None

    def __post_init__(self) -> None:
        at_least("width", self.width, 1)
        at_least("max_tokens", self.max_tokens, 1)
        at_least("length_penalty", self.length_penalty, 0)

    async def run(self, tree: Tree) -> None:
        beam = [Text(tree.root)]
        passed: list[Place] = []
        for _ in range(self.max_tokens):
            answers = await self._look_ahead(tree, beam)
            # Only now do the children have pages of their own; before, freeing these would cost them theirs.
            await tree.backend.release(passed, below=False)
            parents, beam = beam, self._step(tree, beam, answers)
            passed = await self._tidy(tree, parents, answers, beam)
            if self._is_decided(tree, beam):
                return

    async def _look_ahead(self, tree: Tree, beam: list[Text]) -> list[Answer | None]:
        """What could come next after each text: one batch."""
        # Of this many candidates at least `width` do not end their text.
        wanted = self.width + len(tree.backend.end_ids)
        if wanted > MAX_TOP_LOGPROBS:
            reason = f"width must be at most {MAX_TOP_LOGPROBS - len(tree.backend.end_ids)} here"
            raise RequestError(reason, param="width")
        params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=wanted, ignore_eos=True)
        asks = [Ask(place=text.branch.place, params=params) for text in beam]
        return await tree.ask(asks, branches=[text.branch for text in beam])

    def _step(self, tree: Tree, beam: list[Text], answers: list[Answer | None]) -> list[Text]:
        """The best ways to go on. A text that ends does not take a place of those that go on."""
        if not any(answer.continuations[0].first for answer in answers if answer and answer.continuations):
            raise UnsupportedParameter("beam search needs a backend that names tokens by id", param="method")
        ways = [
            (text.logprob + candidate.logprob, -at, -place, text, candidate)
            for at, (text, answer) in enumerate(zip(beam, answers, strict=True))
            if answer is not None and answer.continuations
            for place, candidate in enumerate(answer.continuations[0].first)
        ]
        going: list[Text] = []
        made: list[Branch] = []
        for logprob, _, _, text, candidate in sorted(ways, key=lambda way: way[:3], reverse=True):
            if len(going) == self.width:
                break
            grown = self._grow(tree, text, candidate, logprob)
            made.append(grown.branch)
            if not grown.branch.finished:
                going.append(grown)
        tree.tell("expanded", made)
        self._check(tree, made)
        return going

    def _grow(self, tree: Tree, text: Text, candidate: Candidate, logprob: float) -> Text:
        parent = text.branch
        ended = candidate.token_id in tree.backend.end_ids
        raw = text.raw if ended else text.raw + candidate.raw
        place = replace(parent.place, pending=(*parent.place.pending, (candidate.token_id,)))
        shown = len(_decoded(text.raw))
        branch = tree.adopt(parent, place, _decoded(raw)[shown:])
        branch.tokens, branch.logprob = 1, candidate.logprob
        branch.finished = ended or any(stop in _decoded(raw) for stop in self.stop)
        length = text.length + 1
        branch.score = logprob / self._weight(length)
        return Text(branch, raw, length, logprob)

    def _check(self, tree: Tree, made: list[Branch]) -> None:
        for branch in made:
            if branch.finished and self.goal is not None and self.goal(branch):
                tree.solve(branch)

    async def _tidy(
        self, tree: Tree, parents: list[Text], answers: list[Answer | None], beam: list[Text]
    ) -> list[Place]:
        """Free what the beam has left; what can go once the children of `parents` are computed."""
        ended = sorted((one for one in tree.living if one.finished), key=rank, reverse=True)
        await tree.keep([*(text.branch for text in beam), *ended[: self.width]])
        passed: list[Place] = []
        for text, answer in zip(parents, answers, strict=True):
            branch = text.branch
            if not branch.alive or answer is None or any(one.finished for one in branch.children):
                continue
            passed += [one.place for one in answer.continuations]
            if branch.parent is not None:
                passed.append(branch.place)
                branch.owns_place = False
        return passed

    def _is_decided(self, tree: Tree, beam: list[Text]) -> bool:
        """Whether no open text can still become the best: its log-probability can only fall."""
        ended = [one.score or 0.0 for one in tree.living if one.finished]
        if not ended or not beam:
            return not beam
        return max(ended) >= max(text.logprob for text in beam) / self._weight(self.max_tokens)

    def _weight(self, length: int) -> float:
        return float(length**self.length_penalty)

    def best(self, tree: Tree) -> Branch | None:
        """The best solution, else the best text, whether it ended or is as long as it may be."""
        tips = [one for one in tree.living if not any(child.alive for child in one.children)]
        return max(tips, key=lambda one: (one.solved, one.score or 0.0), default=None)


def _decoded(raw: bytes) -> str:
    """As text, without the beginning of a character that is not complete yet."""
    return _UTF8("replace").decode(raw)
