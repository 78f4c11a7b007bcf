"""Tokenizers made on the spot, one for each shape that real models come in."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|begin|>", "<|im_start|>", "<|im_end|>", "<|im_end|>x"]
PLAIN_ADDED = ["<tool_call>", "</tool_call>"]

SENTENCES = """
The quick brown fox jumps over the lazy dog; it's 3.14 o'clock, isn't it?  They'll say: 1,000,000 reasons.
Der schnelle braune Fuchs springt über den faulen Hund. Größe, Straße, Äpfel und Öl — „Anführungszeichen“.
Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au delà des îles. ¿Qué tal, señor?
Съешь же ещё этих мягких французских булок, да выпей чаю. Чем больше, тем лучше — 42 раза!
敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园吧。素早い茶色の狐はのろまな犬を飛び越えた。カタカナとひらがな。
다람쥐 헌 쳇바퀴에 타고파. 키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.
أهلا وسهلا بك في العالم الجديد ١٢٣٤. שלום עולם, מה שלומך היום? नमस्ते दुनिया, आप कैसे हैं? สวัสดีชาวโลก
🙂 👩‍👩‍👧‍👦 🏳️‍🌈 ✅ ✨ 🚀🚀🚀 \u00a0non\u00a0breaking \u200bzero width\ttabs\tand    spaces\n\n\n
"""


CODE = """
def fib(n: int) -> list[int]:
    \"\"\"First n numbers.\"\"\"
    a, b, out = 0, 1, []
    while len(out) < n:
        out.append(a); a, b = b, a + b  # 'tuple' != {"a": [1, 2.5e-3], "b": None}
\treturn out\r\n
"""


def corpus() -> list[str]:
    return [SENTENCES] * 4 + [CODE] * 4 + [(Path(__file__).parents[2] / "LICENSE").read_text()]


def byte_level(*before: Any, use_regex: bool) -> Any:
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([*before, last]) if before else last


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def trained(pre: Any, *, normalizer: Any = None, special_first: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = BpeTrainer(
        vocab_size=1500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL if special_first else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in PLAIN_ADDED])
    return tokenizer


@cache
def gpt2() -> str:
    return str(trained(byte_level(use_regex=True)).to_str())


@cache
def single_digits() -> str:
    """SmolLM's shape."""
    pre = byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True)
    return str(trained(pre, special_first=True).to_str())


@cache
def qwen2() -> str:
    return str(trained(byte_level(split(QWEN2), use_regex=False), normalizer=normalizers.NFC()).to_str())


@cache
def llama3() -> str:
    """Whole words before merges, every way to split a token as a merge, and a token before every text."""
    tokenizer = trained(byte_level(split(LLAMA3), use_regex=False))
    spec = json.loads(tokenizer.to_str())
    model, vocab = spec["model"], spec["model"]["vocab"]
    by_id = sorted(vocab, key=vocab.__getitem__)
    model["merges"] = [
        [text[:i], text[i:]]
        for text in by_id
        for i in range(1, len(text))
        if text[:i] in vocab and text[i:] in vocab
    ]
    model["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    begin = (SPECIAL[0], tokenizer.token_to_id(SPECIAL[0]))
    tokenizer.post_processor = TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[begin])
    return str(tokenizer.to_str())


@cache
def shuffled_ids() -> str:
    """Ids that are not in the order of merges."""
    spec = json.loads(gpt2())
    vocab = spec["model"]["vocab"]
    top = max(vocab.values())
    spec["model"]["vocab"] = {text: top - token_id for text, token_id in vocab.items()}
    return json.dumps(spec)


@cache
def with_unreachable_token() -> str:
    """A word in the vocabulary that no merge makes, as hand-edited vocabularies have."""
    spec = json.loads(gpt2())
    vocab = spec["model"]["vocab"]
    vocab["ĠZyzzyva"] = max(vocab.values()) + 100
    return json.dumps(spec)


@cache
def sentencepiece() -> str:
    """Llama 2's shape: spaces as marks, bytes as a fallback, a space before every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(
        vocab_size=1200,
        special_tokens=["<unk>", "<s>", "</s>", *byte_tokens],
        limit_alphabet=200,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES.splitlines(), trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(spec)


@cache
def unigram() -> str:
    """T5's shape: a unigram model over Metaspace."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=600, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES.splitlines(), trainer)
    return str(tokenizer.to_str())


FAST = {
    "gpt2": gpt2,
    "single digits": single_digits,
    "qwen2": qwen2,
    "llama3": llama3,
    "shuffled ids": shuffled_ids,
    "unreachable token": with_unreachable_token,
}
SLOW = {"sentencepiece": sentencepiece, "unigram": unigram}
