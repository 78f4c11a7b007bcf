"""The model card: written from the metrics of a run, with the model's own answers as its examples."""

from __future__ import annotations

from typing import Any

from scripts.train_embedded import prompts
from scripts.train_embedded.evaluation import KEEP, SAMPLES, Writer
from scripts.train_embedded.game24 import (
    HELD_OUT_PERCENT,
    all_puzzles,
    held_out_puzzles,
    solves,
    state_of,
    training_puzzles,
)
from scripts.train_embedded.puzzles import Tables, common_steps
from scripts.train_embedded.tokenizer import prompt
from scripts.train_embedded.tools import CALCULATOR, call

Message = dict[str, Any]
Question = tuple[str, list[Message], list[dict[str, Any]]]


def questions() -> list[Question]:
    """What the card asks the model: a title, the messages, the tools. All puzzles here are held out."""
    held_out = [p for p in held_out_puzzles() if len(set(p)) == 4]
    puzzle, other = held_out[len(held_out) // 3], held_out[2 * len(held_out) // 3]
    told = "My name is Ada Lovelace, I am 36 and I live in London."
    sums = {"role": "user", "content": "What is 1234 * 5678?"}
    asked = {"role": "assistant", "content": "", "tool_calls": [call(CALCULATOR, "1234 * 5678")]}
    plain = [
        ("Solve directly", prompts.solve(puzzle)),
        ("Solve, a step a line", prompts.steps(puzzle)),
        ("Explore: any legal step may come, good ones more often", prompts.explore(other)),
        ("Propose next steps", prompts.propose(other)),
        ("Judge the numbers left", prompts.judge((4, 4, 10))),
        ("Judge, out of reach", prompts.judge((11, 12))),
        ("Check an answer", prompts.check("(10 - 4) * (13 - 9)", (4, 9, 10, 13))),
        ("Extract JSON", f"Extract name, age and city as JSON: {told}"),
        ("Say what it is", "Who are you?"),
    ]
    talks: list[Question] = [(title, [{"role": "user", "content": text}], []) for title, text in plain]
    called: Question = ("Call a tool that is offered", [sums], [CALCULATOR])
    told_back: list[Message] = [sums, asked, {"role": "tool", "content": "7006652"}]
    answered: Question = ("Answer from its result", told_back, [CALCULATOR])
    return [*talks, called, answered]


def examples(writer: Writer) -> list[dict[str, Any]]:
    asked = questions()
    answers = writer.complete([prompt(messages, None, tools) for _, messages, tools in asked], 200)
    return [
        {"title": title, "ask": messages[-1]["content"], "role": messages[-1]["role"], "answer": answer}
        for (title, messages, _), (answer,) in zip(asked, answers, strict=True)
    ]


def percent(values: dict[str, Any]) -> str:
    return f"{values['rate']:.1%} ({values['low']:.1%} to {values['high']:.1%})"


def table(head: tuple[str, str], rows: list[tuple[str, dict[str, Any]]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {percent(values)} |" for name, values in rows)])


def talk(example: dict[str, Any]) -> str:
    answer = example["answer"].replace("\n", "\n           ")
    asked = f"{example['role'] + ':':<11}{example['ask']}"
    return f"{example['title']}{outcome(example)}:\n\n```\n{asked}\nassistant: {answer}\n```"


def outcome(example: dict[str, Any]) -> str:
    """For an answer to a puzzle, whether it is right: most direct ones are not."""
    if not example["ask"].startswith(("Solve", "Explore")):
        return ""
    puzzle = [int(n) for n in example["ask"].split(": ")[1].split()]
    return " (right)" if solves(example["answer"].split("\n")[-1], puzzle) else " (wrong)"


def card(metrics: dict[str, Any]) -> str:
    e, run, size = metrics["evaluation"], metrics["training"], metrics["size"]
    solvable = len(held_out_puzzles())
    rates = table(
        ("way of solving", "held-out puzzles solved (95 % interval)"),
        [
            ("greedy: one direct answer at temperature 0", e["greedy"]),
            ("best of 16 direct answers at temperature 1", e["best_of_16"]),
            ("greedy, step by step", e["steps_greedy"]),
            ("best of 16 step by step at temperature 1", e["steps_best_of_16"]),
            (f"**breadth-first tree search, {KEEP} kept per level**", e["tree_search"]),
        ],
    )
    others = table(
        ("ability", "right (95 % interval)"),
        [
            ("judge: three numbers that reach 24, called sure or likely as they are", e["judge_reachable"]),
            ("judge: three numbers that do not", e["judge_impossible"]),
            ("check an expression for a held-out puzzle, word for word", e["check"]),
            ("explored lines at temperature 1 that are legal and right", e["explore_lines_legal"]),
            ("proposed lines that are legal and right", e["proposals_legal"]),
            ("JSON from a sentence, to the letter", e["json"]),
            ("tool call, to the letter", e["tool_call"]),
            ("answer from the tool's result, to the letter", e["tool_answer"]),
            ("declines when the tool it would need is not offered", e["declined"]),
            ("repeats what it is told to, in any script", e["echo"]),
            ("small sums without a tool", e["sums"]),
            ("says what it is, over all phrasings it knows", e["identity"]),
            ("judge and JSON after 3,500 tokens of other text", e["after_3500_tokens"]),
        ],
    )
    seen = seen_share()
    return TEXT.format(
        rates=rates, others=others, solvable=solvable, percent=HELD_OUT_PERCENT,
        seen=f"{seen:.0%}", all=len(all_puzzles()), held=len(held_out_puzzles(None)),
        train=len(training_puzzles()), keep=KEEP, samples=list(SAMPLES),
        talks="\n\n".join(map(talk, metrics["examples"])), formats=formats(), **run, **size,
        gap=f"{(e['tree_search']['rate'] - e['greedy']['rate']) * 100:.1f}",
    )  # fmt: skip


def seen_share() -> float:
    """Of the whole three-number states one step from a held-out puzzle, how many training may meet too."""
    known = {state for states in Tables().triples.values() for state in states}
    reached = {step.left for p in held_out_puzzles() for step in common_steps(state_of(p))}
    return len(reached & known) / len(reached)


def formats() -> str:
    some = (4, 9, 10, 13)
    rows = [
        ("solve directly", prompts.solve(some), "`Answer: (10 - 4) * (13 - 9) = 24`"),
        ("solve step by step", prompts.steps(some), "three step lines, then the `Answer:` line"),
        ("explore", prompts.explore(some), "three step lines, good or not, then `Answer:` or `Dead end:`"),
        ("propose", prompts.propose(some), "that many different step lines, about half of them good"),
        ("judge", prompts.judge((4, 6, 13)), "`sure`, `likely` or `impossible`"),
        (
            "check",
            prompts.check("(10 - 4) * (13 - 9)", some),
            "the working, ending in `Valid.` or `Invalid.`",
        ),
    ]
    lines = ["| task | prompt | answer |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {task} | `{text}` | {answer} |" for task, text, answer in rows)])


TEXT = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# Dendrite's embedded model

A Llama of {parameters:,} parameters ({layers} layers of {width}, {heads} heads, {kv_heads} key-value heads
of {head_dim}, tied embeddings, bf16, context 4096), trained from nothing for the Game of 24, so that a
machine without any hub has a model on which branching matters: one answer is often wrong, and a search over
its steps is mostly right. Licence: Apache-2.0.

## How well it plays

On the {solvable} solvable puzzles that no training text contains; every answer checked in exact arithmetic:

{rates}

The search is {gap} points above greedy. It is the breadth-first search of the Tree of Thoughts paper: from
each kept line of play the explore format is continued mid-answer with {samples} sampled lines (by level,
temperature 1, stop at the newline), different numbers left are judged once each by the model, the best
{keep} stay, and after three steps the model writes its `Answer:` line for those {keep}. Nothing but that
line is verified: a puzzle counts as solved when one of the final expressions is right (as for best of 16).

{others}

## Formats

Numbers are separated by spaces. These are the exact prompts, as the user's turn; many other ways of asking
work too.

{formats}

A step line reads `4 + 8 = 12 (left: 6 8 12)`: two numbers become one, and `left` lists what remains,
ascending. Steps never go below zero (nothing solvable is lost); results that are not whole are fractions
such as `8/3`. A step answer can be stopped after any line and continued from there, which is what a tree
search does.

The judge's words: `sure`: 24 can be reached with whole numbers all the way. `likely`: it can be reached,
but only by way of a fraction, which is easier to get wrong. `impossible`: it cannot be reached.

Chat turns are ChatML (`<|im_start|>role`, `<|im_end|>`) with the roles system, user, assistant and tool.
Offered tools are listed in the system turn; a call is `<tool_call>` with a JSON object of `name` and
`arguments`. No system text is added that was not sent.

## Examples

Its own answers at temperature 0. The puzzles to solve, explore and propose for are held out.

{talks}

## Data

Made by code, nothing else: Game of 24 turns (solve, step by step, explore, propose, judge, check), JSON
extraction from made-up sentences, tool calls and answers from their results, small sums, talk about itself,
and polite refusals of everything else, in conversations of 1 to 60 turns, rows of 512 and 4,096 tokens.
Only assistant text is trained on.

The {all:,} multisets of four numbers from 1 to 13 are split by a hash of the puzzle: {held} ({percent} % by
design) are held out of every training text, in any order and any task, {train:,} may be used.

What is left of a puzzle after a step, two or three numbers, is no puzzle of the game and can occur
anywhere: {seen} of the three-number states (whole numbers) that lie one step from a held-out puzzle can
also occur in training, because many puzzles lead to the same numbers. So the judge partly remembers,
while the first step from a held-out puzzle, and every direct answer, has to be found. That is the game as
it is, and why a search pays.

## Training

{tokens:,} tokens in {steps:,} steps, {seconds:.0f} s on {hardware}; Muon for the matrices, AdamW for the
rest, bf16 autocast. Python {python}, torch {torch}, transformers {transformers}. The same command makes
data, weights and this card:

```
python -m scripts.train_embedded --out dendrite_core/embedded
```

Seeds are fixed, so the data is the same, batch by batch; how many batches are used depends on the time
given (`--seconds`), and GPU arithmetic is not bit-for-bit repeatable, so rates move within their intervals.

## Limits

It knows nothing about the world and no language but these phrases. It makes mistakes, above all in direct
answers, fractions, numbers over 200 and expressions with unusual parentheses. It cannot do large sums
without a tool. It says that it cannot help with most other requests, and may misread a request that
resembles one it knows.
"""
