"""How well a checkpoint plays, measured on held-out puzzles through transformers' own generate.

Tree search is the breadth-first search of the Tree of Thoughts paper: the model proposes lines, the model
judges what is left, five are kept per level, and only the final expression is checked, in exact
arithmetic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer

from scripts.train_embedded import prompts
from scripts.train_embedded.corpus import filler
from scripts.train_embedded.extract import extract_turn
from scripts.train_embedded.game24 import (
    IMPOSSIBLE,
    LABELS,
    Puzzle,
    State,
    held_out_puzzles,
    is_legal,
    label,
    legal_steps,
    parse_step,
    solves,
    state_of,
)
from scripts.train_embedded.phrases import CANNOT, I_AM, WHO
from scripts.train_embedded.puzzles import Turn, claim, common_steps, turn, verdict
from scripts.train_embedded.talk import echo_turn, sum_turn
from scripts.train_embedded.tokenizer import END, END_OF_TEXT, control_ids, prompt, segments
from scripts.train_embedded.tools import declined_turn, tool_turn

KEEP = 5
SAMPLES = (24, 16, 8)


@dataclass
class Writer:
    """A checkpoint that completes texts, many at once."""

    model: Any
    tokenizer: Tokenizer
    device: torch.device
    rows: int

    def complete(
        self,
        texts: Sequence[str],
        longest: int,
        temperature: float = 0.0,
        samples: int = 1,
        line: bool = False,
    ) -> list[list[str]]:
        """`samples` completions of each text; with `line`, each ends at its first newline."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: dict[int, list[str]] = {}
        size = max(1, self.rows // samples)
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            written = self._generate([texts[i] for i in chosen], longest, temperature, samples, line)
            for place, i in enumerate(chosen):
                found[i] = written[place * samples : (place + 1) * samples]
        return [found[i] for i in range(len(texts))]

    @torch.inference_mode()
    def _generate(
        self, texts: list[str], longest: int, temperature: float, samples: int, line: bool
    ) -> list[str]:
        pad = control_ids(self.tokenizer)[END_OF_TEXT]
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        width = max(map(len, ids))
        rows = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=self.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=self.device)
        how: dict[str, Any] = {"do_sample": False}
        if temperature:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0, "num_return_sequences": samples}
        out = self.model.generate(
            input_ids=rows, attention_mask=mask, max_new_tokens=longest, pad_token_id=pad,
            eos_token_id=self._ends(line), **how,
        )  # fmt: skip
        return [self._text(row) for row in out[:, width:].tolist()]

    def _ends(self, line: bool) -> list[int]:
        ends = [control_ids(self.tokenizer)[END]]
        return ends + [i for t, i in self.tokenizer.get_vocab().items() if "Ċ" in t] if line else ends

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def answer(self, questions: Sequence[str], longest: int = 160, temperature: float = 0.0, samples: int = 1
               ) -> list[list[str]]:  # fmt: skip
        return self.complete([ask(q) for q in questions], longest, temperature, samples)


def load(folder: Path, device: torch.device) -> Writer:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    rows = 8192 if device.type == "cuda" else 256
    return Writer(model, Tokenizer.from_file(str(folder / "tokenizer.json")), device, rows)


def ask(question: str) -> str:
    return prompt([{"role": "user", "content": question}])


def rate(hits: int, total: int) -> dict[str, Any]:
    """A share with its Wilson 95 % interval."""
    z, p = 1.96, hits / max(1, total)
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return {"rate": round(p, 4), "low": round(middle - half, 4), "high": round(middle + half, 4), "of": total}


# ---- one answer, many answers


def solved_by(
    writer: Writer, puzzles: Sequence[Puzzle], words: Callable[[Puzzle], str], samples: int
) -> list[bool]:
    """Whether any of the sampled answers (greedy when one) ends in a right expression."""
    temperature = 1.0 if samples > 1 else 0.0
    answers = writer.answer([words(p) for p in puzzles], 128, temperature, samples)
    return [any(solves(last(a), p) for a in found) for found, p in zip(answers, puzzles, strict=True)]


def last(text: str) -> str:
    return text.strip().split("\n")[-1]


# ---- the tree


@dataclass(frozen=True)
class Thought:
    """A line of play: what was written so far, step by step, and the numbers it says are left."""

    puzzle: Puzzle
    lines: tuple[str, ...]
    left: State

    @property
    def text(self) -> str:
        return ask(prompts.explore(self.puzzle)) + "".join(f"{line}\n" for line in self.lines)


def tree_search(writer: Writer, puzzles: Sequence[Puzzle], counts: Counter[str]) -> list[bool]:
    """Breadth first, `KEEP` a level; solved when one of the answers at the end is right."""
    kept = {p: [Thought(p, (), state_of(p))] for p in puzzles}
    for samples in SAMPLES:
        grown = _grow(writer, [t for beam in kept.values() for t in beam], samples, counts)
        labels = _judge(writer, [t.left for t in grown])
        for p in puzzles:
            mine = [t for t in grown if t.puzzle == p]
            kept[p] = sorted(mine, key=lambda t: LABELS.index(labels[t.left]))[:KEEP]
    leaves = [t for beam in kept.values() for t in beam]
    answers = writer.complete([t.text for t in leaves], 48)
    right = {t.puzzle for t, (a,) in zip(leaves, answers, strict=True) if solves(last(a), t.puzzle)}
    return [p in right for p in puzzles]


def _grow(writer: Writer, thoughts: list[Thought], samples: int, counts: Counter[str]) -> list[Thought]:
    """The different numbers left that sampled lines lead to, most sampled first."""
    grown: Counter[Thought] = Counter()
    first: dict[tuple[Puzzle, State], Thought] = {}
    found = writer.complete([t.text for t in thoughts], 40, 1.0, samples, line=True)
    for thought, lines in zip(thoughts, found, strict=True):
        for line in lines:
            step = parse_step(line)
            counts["lines"] += 1
            counts["legal"] += step is not None and is_legal(step, thought.left)
            if step is not None and len(step.left) == len(thought.left) - 1:
                new = Thought(thought.puzzle, (*thought.lines, line.strip()), step.left)
                grown[first.setdefault((new.puzzle, new.left), new)] += 1
    return [thought for thought, _ in grown.most_common()]


def _judge(writer: Writer, states: list[State]) -> dict[State, str]:
    different = list(dict.fromkeys(states))
    words = writer.answer([prompts.judge(s) for s in different], 4)
    return {s: prompts.parse_label(w) or IMPOSSIBLE for s, (w,) in zip(different, words, strict=True)}


# ---- the other abilities


def exact(writer: Writer, turns: Sequence[Turn], system: str | None = None) -> dict[str, Any]:
    """How often the first reply is, to the letter, the one the data would have."""
    texts = [prompt(t.messages[:1], system, t.tools) for t in turns]
    wanted = [segments(t.messages[:2])[2][0].removesuffix(END) for t in turns]
    got = writer.complete(texts, 160)
    return rate(sum(g[0].strip() == w for g, w in zip(got, wanted, strict=True)), len(turns))


def abilities(writer: Writer, puzzles: Sequence[Puzzle], count: int) -> dict[str, Any]:
    rng = Random("evaluation")
    states = sorted({step.left for p in puzzles for step in common_steps(state_of(p))})
    reachable = [s for s in states if label(s) != IMPOSSIBLE]
    hopeless = rng.sample([s for s in states if label(s) == IMPOSSIBLE], min(count, len(states) // 2))
    judged = {"reachable": reachable[:count], "impossible": hopeless}
    results = {
        f"judge_{k}": exact(writer, [turn(prompts.judge(s), label(s)) for s in v]) for k, v in judged.items()
    }
    claims = [(claim(rng, p)[0], p) for p in (rng.choice(puzzles) for _ in range(count))]
    results["check"] = exact(writer, [turn(prompts.check(e, p), verdict(e, p)) for e, p in claims])
    results["json"] = exact(writer, [extract_turn(rng) for _ in range(count)])
    results["tool_call"] = exact(writer, [tool_turn(rng) for _ in range(count)])
    results["tool_answer"] = tool_answers(writer, [tool_turn(rng) for _ in range(count)])
    results["declined"] = declined(writer, [declined_turn(rng) for _ in range(count)])
    results["echo"] = exact(writer, [echo_turn(rng) for _ in range(count)])
    results["sums"] = exact(writer, [sum_turn(rng) for _ in range(count)])
    named = writer.answer(WHO, 64)
    results["identity"] = rate(sum(a[0].strip() in I_AM for a in named), len(WHO))
    far = [turn(prompts.judge(s), label(s)) for s in rng.sample(states, min(64, count))]
    far += [extract_turn(rng) for _ in range(min(64, count))]
    near = replace(writer, rows=32)
    results["after_3500_tokens"] = exact(near, far, system=far_text(writer, rng))
    return results


def tool_answers(writer: Writer, turns: Sequence[Turn]) -> dict[str, Any]:
    """Answers from a tool's result, the right call and the result given."""
    texts = [prompt(t.messages[:-1], None, t.tools) for t in turns]
    got = writer.complete(texts, 96)
    return rate(
        sum(g[0].strip() == t.messages[-1]["content"] for g, t in zip(got, turns, strict=True)), len(turns)
    )


def declined(writer: Writer, turns: Sequence[Turn]) -> dict[str, Any]:
    """How often a tool that is not on offer is not called."""
    got = writer.complete([prompt(t.messages[:1], None, t.tools) for t in turns], 64)
    return rate(sum(g[0].strip() in CANNOT for g in got), len(turns))


def far_text(writer: Writer, rng: Random) -> str:
    text = filler(rng, 1200)
    ids = writer.tokenizer.encode(text).ids[:3500]
    return str(writer.tokenizer.decode(ids))


def proposals(writer: Writer, puzzles: Sequence[Puzzle]) -> dict[str, Any]:
    """How many of the proposed lines are legal steps of the puzzle; one said twice counts once."""
    legal = lines = 0
    for p, (text,) in zip(puzzles, writer.answer([prompts.propose(p) for p in puzzles], 256), strict=True):
        steps = [parse_step(line) for line in text.strip().split("\n")]
        lines += len(steps)
        legal += len({s for s in steps if s is not None and s in legal_steps(state_of(p))})
    return rate(legal, lines)


def evaluate(writer: Writer, limit: int | None = None) -> dict[str, Any]:
    """Every figure of the model card, on held-out puzzles that can be solved."""
    puzzles = held_out_puzzles()[:limit]
    torch.manual_seed(24)
    ways: dict[str, list[bool]] = {
        "greedy": solved_by(writer, puzzles, prompts.solve, 1),
        "best_of_16": solved_by(writer, puzzles, prompts.solve, 16),
        "steps_greedy": solved_by(writer, puzzles, prompts.steps, 1),
        "steps_best_of_16": solved_by(writer, puzzles, prompts.steps, 16),
    }
    counts: Counter[str] = Counter()
    ways["tree_search"] = tree_search(writer, puzzles, counts)
    found = {name: rate(sum(hits), len(puzzles)) for name, hits in ways.items()}
    for name, values in found.items():
        print(f"{name}: {values}", flush=True)
    found["explore_lines_legal"] = rate(counts["legal"], counts["lines"])
    found["proposals_legal"] = proposals(writer, puzzles)
    return found | abilities(writer, puzzles, limit or 300)
