"""The shipped checkpoint: its files, its tokenizer, its template, and one right answer of each ability."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tiktoken
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

import dendrite_core
from scripts.train_embedded import evaluation, prompts
from scripts.train_embedded.game24 import held_out_puzzles, label, parse_step, solves, state_of
from scripts.train_embedded.puzzles import last_line, mixed_step
from scripts.train_embedded.tokenizer import CHAT_TEMPLATE, SPLIT, control_ids, prompt
from scripts.train_embedded.tools import CALCULATOR, call

FOLDER = Path(dendrite_core.__file__).parent / "embedded"
TEXTS = (
    "Solve 24: 4 9 10 13",
    "12345 67,890 3.14159 1/3",
    "naïve café, Zoë Müller, São Paulo",
    "Привет, мир! Ελληνικά 你好，世界 こんにちは 안녕하세요 مرحبا",
    "🙂👋🏽 👨‍👩‍👧 \u200b\ufeff",
    "tabs\tand\n\nlines\r\n  and   spaces \n",
    'def f(x):\n    return {"a": [1, 2]}  # it\'s',
    "",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def writer() -> evaluation.Writer:
    return evaluation.load(FOLDER, torch.device("cpu"))


# ---- files


def test_shards_are_small_and_the_config_fits() -> None:
    shards = list(FOLDER.glob("*.safetensors"))
    assert all(shard.stat().st_size < 16_000_000 for shard in shards)
    assert sum(shard.stat().st_size for shard in shards) < 32_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["max_position_embeddings"] == 4096
    assert config["vocab_size"] == 1024


def test_transformers_loads_it_strictly() -> None:
    model, report = LlamaForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    stored: set[str] = set()
    for shard in FOLDER.glob("*.safetensors"):
        with safe_open(shard, "pt") as tensors:
            stored |= set(tensors.keys())
    assert stored == set(model.state_dict()) - {"lm_head.weight"}


def test_the_card_tells_the_metrics() -> None:
    found = json.loads((FOLDER / "metrics.json").read_text())["evaluation"]
    assert found["tree_search"]["of"] == len(held_out_puzzles())
    assert found["tree_search"]["rate"] >= 0.74
    assert found["tree_search"]["rate"] - found["greedy"]["rate"] >= 0.40
    assert f"{found['tree_search']['rate']:.1%}" in (FOLDER / "README.md").read_text()


# ---- tokenizer and template


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    assert not [
        token for token in tokenizer.get_vocab() if len(token) > 1 and any(c.isdigit() for c in token)
    ]
    assert tokenizer.encode("2024 x12").tokens == ["2", "0", "2", "4", "Ġx", "1", "2"]


def test_tiktoken_gives_the_same_ids(tokenizer: Tokenizer) -> None:
    control = control_ids(tokenizer)
    special = control | {
        t: i for t, i in tokenizer.get_vocab().items() if t in ("<tool_call>", "</tool_call>")
    }
    ranks = {token_bytes(t): i for t, i in tokenizer.get_vocab().items() if t not in special}
    fast = tiktoken.Encoding("embedded", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=special)
    chat = prompt([{"role": "user", "content": "Judge for 24: 4 6"}], "Be brief.", [CALCULATOR])
    for text in (*TEXTS, chat, (FOLDER / "README.md").read_text()):
        assert fast.encode(text, allowed_special="all") == tokenizer.encode(text).ids


def token_bytes(token: str) -> bytes:
    """A byte-level token's bytes, by GPT-2's table of printable stand-ins."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in printable}
    table |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)}
    return bytes(table[c] for c in token)


def test_the_chat_template_renders_each_role() -> None:
    chat = AutoTokenizer.from_pretrained(FOLDER)
    assert chat.chat_template == CHAT_TEMPLATE
    function = {"name": "calculator", "arguments": '{"expression": "2 + 3"}'}
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 3?"}]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "5"},
    ]
    text = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "calculator", "arguments": {"expression": "2 + 3"}}\n'
        "</tool_call><|im_end|>\n<|im_start|>tool\n5<|im_end|>\n<|im_start|>assistant\n"
    )
    alone = chat.apply_chat_template(messages[1:2], tokenize=False)
    assert alone == "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n"
    offered = chat.apply_chat_template(messages[:2], tools=[CALCULATOR], tokenize=False)
    assert offered.count("<|im_start|>system") == 1
    assert json.dumps(CALCULATOR) in offered


# ---- abilities, greedy


ASKED: dict[str, tuple[str, str]] = {
    "judge sure": (prompts.judge((4, 6)), "sure"),
    "judge impossible": (prompts.judge((11, 12)), "impossible"),
    "check valid": (
        prompts.check("(10 - 4) * (13 - 9)", (4, 9, 10, 13)),
        "Uses 4 9 10 13: yes. 10 - 4 = 6, 13 - 9 = 4, 6 * 4 = 24: yes. Valid.",
    ),
    "check invalid": (
        prompts.check("(10 - 4) * 4", (4, 9, 10, 13)),
        "Uses 4 4 10: no, the numbers are 4 9 10 13. Invalid.",
    ),
    "json": (
        "Extract name, age and city as JSON: My name is Zoë Lopez, I am 29 and I live in Lisbon.",
        '{"name": "Zoë Lopez", "age": 29, "city": "Lisbon"}',
    ),
    "sum": ("What's 12+7?", "12 + 7 = 19"),
    "echo": ("Reply with exactly: OK", "OK"),
    "no solution": (prompts.solve((1, 1, 1, 1)), "24 cannot be made from 1 1 1 1."),
}


def test_one_right_answer_of_each_ability(writer: evaluation.Writer) -> None:
    answers = writer.answer([question for question, _ in ASKED.values()], 96)
    assert {k: a[0] for k, a in zip(ASKED, answers, strict=True)} == {k: a for k, (_, a) in ASKED.items()}


def test_it_solves_directly_and_step_by_step(writer: evaluation.Writer) -> None:
    direct, steps = writer.answer([prompts.solve((3, 3, 8, 8)), prompts.steps((4, 7, 8, 8))], 96)
    assert solves(direct[0], (3, 3, 8, 8))
    *lines, answer = steps[0].split("\n")
    assert all(parse_step(line) for line in lines)
    assert solves(answer, (4, 7, 8, 8))


def test_it_proposes_different_steps(writer: evaluation.Writer) -> None:
    steps = [
        parse_step(line) for line in writer.answer([prompts.propose((4, 7, 8, 8), 3)], 96)[0][0].split("\n")
    ]
    assert None not in steps
    assert len(set(steps)) == 3


@pytest.mark.parametrize(
    "question", ["Who are you?", "what r u", "Please introduce yourself.", "Are you ChatGPT?"]
)
def test_it_says_what_it_is(writer: evaluation.Writer, question: str) -> None:
    answer = writer.answer([question], 64)[0][0]
    assert "Dendrite" in answer
    assert "Game of 24" in answer


def test_it_calls_a_tool_only_when_one_is_offered(writer: evaluation.Writer) -> None:
    asked = [{"role": "user", "content": "What is 1234 * 5678?"}]
    called = {"role": "assistant", "content": "", "tool_calls": [call(CALCULATOR, "1234 * 5678")]}
    texts = [
        prompt(asked, None, [CALCULATOR]),
        prompt([*asked, called, {"role": "tool", "content": "7006652"}], None, [CALCULATOR]),
        prompt(asked),
    ]
    wanted = [
        '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1234 * 5678"}}\n</tool_call>',
        "1234 * 5678 = 7006652.",
        "That is too large for me without a calculator tool.",
    ]
    assert [answer for (answer,) in writer.complete(texts, 64)] == wanted


# ---- the search itself, with a player that knows the answer


class Oracle(evaluation.Writer):
    """Plays by the rules module instead of by a network."""

    rng = Random(3)

    def complete(
        self,
        texts: Sequence[str],
        longest: int,
        temperature: float = 0.0,
        samples: int = 1,
        line: bool = False,
    ) -> list[list[str]]:
        return [[self.one(text) for _ in range(samples)] for text in texts]

    def one(self, text: str) -> str:
        asked, written = text.split("<|im_start|>user\n")[1].split("<|im_end|>\n<|im_start|>assistant\n")
        state = state_of(Fraction(n) for n in asked.split(": ")[1].split())
        if asked.startswith("Judge"):
            return label(state)
        path = [step for step in map(parse_step, written.strip().split("\n")) if step]
        left = path[-1].left if path else state
        return f"{mixed_step(self.rng, left)}\n" if len(left) > 1 else last_line(state, path)


def test_with_a_perfect_judge_the_search_solves_everything(tokenizer: Tokenizer) -> None:
    counts: Counter[str] = Counter()
    oracle = Oracle(None, tokenizer, torch.device("cpu"), 64)
    assert all(evaluation.tree_search(oracle, held_out_puzzles()[:25], counts))
    assert counts["legal"] == counts["lines"]
