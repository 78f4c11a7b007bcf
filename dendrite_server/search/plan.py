"""A search as JSON into a method, a budget and a seed: every field honoured or refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dendrite_core.params import SamplingParams
from dendrite_core.search import (
    BeamSearch,
    BestOf,
    Budget,
    Call,
    JSONCheck,
    Judge,
    MeanLogprob,
    MonteCarlo,
    Propose,
    RegexCheck,
    Sample,
    SelfConsistency,
    Template,
    TreeOfThoughts,
)
from dendrite_core.search.evaluators import Evaluator, Goal
from dendrite_core.search.generators import Generator
from dendrite_core.search.methods.guided import Method
from dendrite_server.protocol.constraints import read_constraint
from dendrite_server.protocol.fields import (
    Fields,
    as_number,
    as_strings,
    invalid,
    missing,
    unsupported,
    wrong_type,
)
from dendrite_server.protocol.request import Limits
from dendrite_server.protocol.sampling import chat_max_tokens, read_sampling

# What a search may do that was given no budget at all.
DEFAULT_BUDGET = Budget(nodes=256, depth=32)
DEFAULT_THOUGHT = 64
MAX_PATTERN = 1000

_NOT_SHARED = {"max_tokens", "grammar", "logprobs", "prompt_logprobs"}
_SAMPLING = {one.name for one in fields(SamplingParams)} - _NOT_SHARED


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How to search, whatever the prompt. `name` is the method's, `sampled` all that it samples with."""

    name: str
    method: Method
    budget: Budget
    seed: int
    sampled: tuple[SamplingParams, ...] = ()


def read_plan(fields: Fields, limits: Limits, defaults: SamplingParams | None = None) -> SearchPlan:
    """Method, generator, evaluator, goal, budget and seed.

    `defaults` is what thoughts are sampled with where no generator is given, and has the seed if no other.
    """
    method = _method_fields(fields)
    name = method.choice("type", tuple(_METHODS))
    if name is None:
        raise missing(fields.path("method.type"))
    reader = Reader(fields, method, limits, defaults)
    built = _METHODS[name](reader)
    method.finish()
    seed = fields.integer("seed", 0 if defaults is None else defaults.seed or 0)
    sampled = tuple(reader.sampled)
    return SearchPlan(name=name, method=built, budget=_budget(fields), seed=seed, sampled=sampled)


def _method_fields(fields: Fields) -> Fields:
    """`"method": "tot"` is short for `"method": {"type": "tot"}`."""
    fields.require("method")
    value = fields.take("method")
    if not isinstance(value, str | dict):
        raise wrong_type(fields.path("method"), "a string or an object", value)
    return Fields({"type": value} if isinstance(value, str) else value, fields.path("method"))


def _budget(fields: Fields) -> Budget:
    asked = fields.object("budget")
    if asked is None:
        return DEFAULT_BUDGET
    tokens, nodes, depth = (asked.integer(name, low=1) for name in ("tokens", "nodes", "depth"))
    seconds = asked.number("seconds")
    asked.finish()
    if seconds is not None and seconds <= 0:
        raise invalid(asked.path("seconds"), "it must be greater than 0.")
    if tokens is None and nodes is None and seconds is None:
        nodes = DEFAULT_BUDGET.nodes
    return Budget(tokens=tokens, nodes=nodes, seconds=seconds, depth=depth)


@dataclass(frozen=True, slots=True)
class Reader:
    """The fields of one plan: those beside the method, and the method's own."""

    fields: Fields
    method: Fields
    limits: Limits
    defaults: SamplingParams | None
    sampled: list[SamplingParams] = field(default_factory=list)

    def count(self, name: str, default: int) -> int:
        value = self.method.integer(name, default, low=1, high=self.limits.max_branches)
        return value if value is not None else default

    def guided(self) -> dict[str, Any]:
        """What every method over thoughts has."""
        goal = _goal(self.fields.object("goal"))
        return {
            "generator": self.generator(self.fields.object("generator")),
            "evaluator": self.evaluator(self.fields.object("evaluator")),
            "goal": goal,
        }

    def stepwise(self) -> dict[str, Any]:
        """What every method has whose children may repeat each other and may solve the task."""
        names = ("stop_at_solution", "distinct")
        return {**self.guided(), **{name: self.method.boolean(name, True) for name in names}}

    def generator(self, asked: Fields | None) -> Generator:
        if asked is None:
            params = self.defaults or SamplingParams(max_tokens=DEFAULT_THOUGHT)
            self.sampled.append(params)
            return Sample(params)
        kind = asked.choice("type", ("sample", "propose")) or "sample"
        made = self._propose(asked) if kind == "propose" else Sample(self._thought(asked, DEFAULT_THOUGHT))
        asked.finish()
        return made

    def _propose(self, asked: Fields) -> Propose:
        return Propose(
            prompt=_template(asked),
            line=_pattern(asked, "line", r".*\S.*"),
            suffix=asked.string("suffix", "\n"),
            turn=asked.boolean("turn", False),
            params=self._thought(asked, 256),
        )

    def evaluator(self, asked: Fields | None) -> Evaluator:
        if asked is None:
            return MeanLogprob()
        kind = asked.choice("type", ("logprob", "judge", "regex", "json"))
        if kind == "logprob":
            made: Evaluator = MeanLogprob(asked.boolean("last_only", False))
        elif kind == "judge":
            made = self._judge(asked)
        elif kind is not None:
            made = Call(_check(kind, asked))
        else:
            raise missing(asked.path("type"))
        asked.finish()
        return made

    def _judge(self, asked: Fields) -> Judge:
        path, labels = asked.path("labels"), asked.mapping("labels")
        scale = asked.number("scale", 1.0)
        if scale <= 0:
            raise invalid(asked.path("scale"), "it must be greater than 0.")
        return Judge(
            prompt=_template(asked),
            labels={word: as_number(f"{path}.{word}", value) for word, value in labels.items()},
            scale=scale,
            votes=asked.integer("votes", 1, low=1, high=self.limits.max_branches),
            turn=asked.boolean("turn", False),
            params=self._sampling(asked, 8),
        )

    def _thought(self, asked: Fields, max_tokens: int) -> SamplingParams:
        """How thoughts are sampled: as `generator` says, and what it leaves open as the chat around it."""
        given = {name for name in _SAMPLING if asked.has(name)}
        has_length = asked.has("max_tokens") or asked.has("max_completion_tokens")
        found = self._sampling(asked, max_tokens)
        if self.defaults is None:
            return found
        left_open = {name: getattr(self.defaults, name) for name in _SAMPLING - given}
        if not has_length:
            left_open["max_tokens"] = self.defaults.max_tokens or max_tokens
        if found.grammar is None:
            left_open["grammar"] = self.defaults.grammar
        self.sampled[-1] = replace(found, **left_open)
        return self.sampled[-1]

    def _sampling(self, asked: Fields, max_tokens: int) -> SamplingParams:
        length = chat_max_tokens(asked)
        found: SamplingParams = read_sampling(
            asked,
            max_tokens=length or max_tokens,
            logprobs=None,
            prompt_logprobs=None,
            vocab_size=self.limits.vocab_size,
            grammar=read_constraint(asked),
        )
        self.sampled.append(found)
        return found


def _tot(reader: Reader) -> Method:
    method = reader.method
    order = method.choice("order", ("bfs", "dfs")) or "bfs"
    return TreeOfThoughts(
        **reader.stepwise(),
        order="bfs" if order == "bfs" else "dfs",
        width=reader.count("width", 5),
        branching=reader.count("branching", 4),
        threshold=method.number("threshold"),
    )


def _mcts(reader: Reader) -> Method:
    method = reader.method
    policy = method.choice("policy", ("uct", "puct")) or "uct"
    rollout = method.object("rollout")
    return MonteCarlo(
        **reader.stepwise(),
        branching=reader.count("branching", 4),
        wave=reader.count("wave", 4),
        expansions=method.integer("expansions", low=1),
        policy="uct" if policy == "uct" else "puct",
        exploration=method.number("exploration", 1.4),
        widening=method.number("widening"),
        widening_power=method.number("widening_power", 0.5),
        rollout=None if rollout is None else reader.generator(rollout),
    )


def _best_of(reader: Reader) -> Method:
    wave = reader.method.integer("wave", low=1)
    return BestOf(**reader.stepwise(), n=reader.count("n", 8), wave=wave)


def _self_consistency(reader: Reader) -> Method:
    method = reader.method
    weighted = method.boolean("weighted", False)
    answer = RegexCheck(_pattern(method, "answer", r"(?s).*\S.*"))
    return SelfConsistency(**reader.guided(), n=reader.count("n", 8), answer=answer, weighted=weighted)


def _beam(reader: Reader) -> Method:
    method, around = reader.method, reader.defaults or SamplingParams()
    _refuse_sampling(around)
    given = method.take("stop")
    stop = list(around.stop) if given is None else given
    longest = around.max_tokens
    return BeamSearch(
        width=reader.count("width", 4),
        max_tokens=method.integer("max_tokens", longest or DEFAULT_THOUGHT, low=1),
        length_penalty=method.number("length_penalty", 1.0),
        stop=(stop,) if isinstance(stop, str) else as_strings(method.path("stop"), stop),
        goal=_goal(reader.fields.object("goal")),
    )


def _refuse_sampling(around: SamplingParams) -> None:
    reason = "Beam search keeps what is most probable; it samples nothing."
    if around.grammar is not None:
        raise unsupported(around.grammar.param, reason)
    for name in sorted(_SAMPLING - {"stop", "seed"}):
        if getattr(around, name) != getattr(SamplingParams(), name):
            raise unsupported(name, reason)


_METHODS: dict[str, Callable[[Reader], Method]] = {
    "tot": _tot,
    "mcts": _mcts,
    "beam": _beam,
    "best_of_n": _best_of,
    "self_consistency": _self_consistency,
}


def _goal(asked: Fields | None) -> Goal | None:
    if asked is None:
        return None
    kind = asked.choice("type", ("regex", "json"))
    if kind is None:
        raise missing(asked.path("type"))
    goal = _check(kind, asked)
    asked.finish()
    return goal


def _check(kind: str, asked: Fields) -> Goal:
    if kind == "regex":
        return RegexCheck(_pattern(asked, "pattern"), asked.string("equals"))
    required, equals = asked.array("required"), asked.mapping("equals")
    return JSONCheck(as_strings(asked.path("required"), required or []), equals)


def _template(asked: Fields) -> Template:
    asked.require("prompt")
    text = asked.string("prompt", "")
    return Template(text, _pattern(asked, "pattern") if asked.has("pattern") else None)


def _pattern(asked: Fields, name: str, default: str | None = None) -> str:
    """A regular expression, refused by name if it is none or missing without a default."""
    if default is None:
        asked.require(name)
    pattern = asked.string(name, default or "")
    if len(pattern) > MAX_PATTERN:
        raise invalid(asked.path(name), f"it is longer than {MAX_PATTERN} characters.")
    try:
        re.compile(pattern)
    except re.error as error:
        raise invalid(asked.path(name), f"not a regular expression: {error}.") from None
    return pattern
