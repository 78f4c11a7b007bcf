"""The tiktoken path against Hugging Face's tokenizers, token for token, on whatever text can be."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer
from transformers import PreTrainedTokenizerFast

from dendrite_core.errors import ModelLoadError
from dendrite_core.text.bpe import GPT2
from dendrite_core.text.tokenizer import Tokenizer
from tests.text import made

FAST = {name: Tokenizer(make()) for name, make in made.FAST.items()}
SLOW = {name: Tokenizer(make()) for name, make in made.SLOW.items()}
EVERY = FAST | SLOW
HF = {name: HFTokenizer.from_str(make()) for name, make in (made.FAST | made.SLOW).items()}


def expected(name: str, text: str, *, special: bool) -> list[int]:
    hf = HF[name]
    hf.encode_special_tokens = not special
    return list(hf.encode(text, add_special_tokens=False).ids)


def assert_same(name: str, text: str) -> None:
    for special in (True, False):
        ours = EVERY[name].encode(text, special=special)
        assert ours == expected(name, text, special=special), f"{text[:200]!r} special={special}"


@pytest.mark.parametrize("name", FAST)
def test_byte_level_bpe_takes_the_fast_path(name: str) -> None:
    assert FAST[name].slow_because is None


@pytest.mark.parametrize("name", SLOW)
def test_others_fall_back_and_say_why(name: str) -> None:
    assert SLOW[name].slow_because


# Everything a splitter tells apart, in random order: letters, marks, digits, spaces, ends of lines, specials.
ingredients = st.sampled_from(
    [
        *"abcXYZ019 \n\r\t'\".,!?-_/{}()<>|=#éßÆıİſΩжשא",
        *[
            "'s",
            "'RE",
            "'ll",
            " 've",
            "  ",
            "   ",
            "\r\n",
            "\n\n",
            "\u00a0",
            "\u2003",
            "\u3000",
            "\u0085",
            "\u200b",
        ],
        *[
            "漢字",
            "カナ",
            "한국",
            "नि",
            "\u0301",
            "\u0338",
            "e\u0301",
            "🙂",
            "👩‍👩‍👧",
            "🏳️‍🌈",
            "²",
            "½",
            "٣",
            "Ⅷ",
            "\x00",
            "\x7f",
        ],
        *["the", " the", "hello", " world", "ing", "1234567", "1,000", " Zyzzyva", "ab" * 30],
        *made.SPECIAL,
        *made.PLAIN_ADDED,
        *["<|im_", "|>", "<tool", "call>"],
    ]
)
texts = st.one_of(st.lists(ingredients, max_size=40).map("".join), st.text(max_size=60))


@pytest.mark.parametrize("name", EVERY)
@given(text=texts)
@settings(max_examples=120, deadline=None)
def test_any_text_gives_hugging_faces_tokens(name: str, text: str) -> None:
    assert_same(name, text)


@pytest.mark.parametrize("name", ["gpt2", "single digits", "qwen2", "llama3"])
def test_all_of_unicode_gives_hugging_faces_tokens(name: str) -> None:
    points = [p for p in range(sys.maxunicode + 1) if unicodedata.category(chr(p)) not in ("Cs", "Co", "Cn")]
    # Ideographs and Hangul syllables are 100,000 alike: one of 20 will do.
    many = [range(0x3400, 0xD7B0), range(0x17000, 0x1AFF0), range(0x20000, 0x33000)]
    points = [p for p in points if p % 20 == 0 or not any(p in block for block in many)]
    points += random.Random(1).sample(range(0x20000, 0x110000), 2000)
    for at in range(0, len(points), 5000):
        assert_same(name, "".join(f"a{chr(p)}1 {chr(p)}\n!" for p in points[at : at + 5000]))


def test_both_sort_every_character_into_the_same_class() -> None:
    """With a merge from context to any byte, a character in another class gives other ids."""
    spell = {byte: char for char, byte in _byte_of_char().items()}
    merges = [
        pair
        for context in b"a1! \n'"
        for byte in range(128, 256)
        for pair in ((spell[context], spell[byte]), (spell[byte], spell[context]))
    ]
    words = [*spell.values(), *("".join(pair) for pair in merges)]
    hf = HFTokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    hf.pre_tokenizer = made.byte_level(made.split(made.LLAMA3), use_regex=False)
    ours = Tokenizer(hf.to_str())
    assert ours.slow_because is None
    for start in range(0x80, 0x20000, 8192):
        points = [p for p in range(start, start + 8192) if not 0xD800 <= p < 0xE000]
        text = "".join(f"a{chr(p)}b1{chr(p)}1! {chr(p)}\n" for p in points)
        assert ours.encode(text) == hf.encode(text, add_special_tokens=False).ids


def _byte_of_char() -> dict[str, int]:
    from dendrite_core.text.bpe import byte_level_bytes

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return {char: (byte_level_bytes(char) or b"?")[0] for char in alphabet}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("unit", ["a", " ", "\n", "!", "1", "\t\n", "漢", "ab", "🙂", "\u0301"])
def test_long_runs(name: str, unit: str) -> None:
    for length in (1000, 4000):
        assert_same(name, unit * length + "x")


def test_runs_that_overflow_tiktokens_stack_are_left_to_hugging_face() -> None:
    text = "x" + " " * 900_000 + "y"
    assert FAST["llama3"].encode(text) == expected("llama3", text, special=False)


def test_a_token_that_no_merge_reaches_is_never_made() -> None:
    tokenizer = FAST["unreachable token"]
    ids = tokenizer.encode(" Zyzzyva")
    assert len(ids) > 1
    assert tokenizer.decode([tokenizer.vocab_size - 1]) == " Zyzzyva", "but a model may well say it"


@pytest.mark.parametrize("name", EVERY)
def test_lone_surrogates_become_replacement_characters(name: str) -> None:
    tokenizer = EVERY[name]
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")


def test_long_pieces_seen_before_give_the_same_again() -> None:
    text = "A paragraph that is long enough to be remembered, with some words in it. " * 5
    tokenizer = FAST["llama3"]
    first = tokenizer.encode(text)
    first.append(-1)
    assert tokenizer.encode(text) == first[:-1]


# --- refusals of the fast path ---------------------------------------------------------------------------


def changed(**changes: object) -> Tokenizer:
    spec = json.loads(made.gpt2())
    for key, value in changes.items():
        spec[key] = value
    return Tokenizer(json.dumps(spec))


def test_what_tiktoken_would_do_otherwise_is_refused() -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    assert "ByteLevel" in str(changed(pre_tokenizer=byte_level).slow_because)
    assert "Lowercase" in str(changed(normalizer={"type": "Lowercase"}).slow_because)
    stripping = HFTokenizer.from_str(made.gpt2())
    stripping.add_tokens([AddedToken("<mask>", lstrip=True)])
    assert "lstrip" in str(Tokenizer(stripping.to_str()).slow_because)
    normalized = HFTokenizer.from_str(made.qwen2())
    normalized.add_tokens([AddedToken("<think>", normalized=True)])
    assert "normalized" in str(Tokenizer(normalized.to_str()).slow_because)


def test_merges_out_of_order_that_meet_in_one_token_are_refused() -> None:
    spec = json.loads(made.llama3())
    random.Random(0).shuffle(spec["model"]["merges"])
    tokenizer = Tokenizer(json.dumps(spec))
    assert "several merges" in str(tokenizer.slow_because)
    text = "The fallback is right all the same."
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_pattern_that_leaves_gaps_is_found_out_by_the_self_test() -> None:
    hf = HFTokenizer.from_str(made.gpt2())
    hf.pre_tokenizer = made.byte_level(made.split(r"\p{L}+"), use_regex=False)
    tokenizer = Tokenizer(hf.to_str())
    assert "differently" in str(tokenizer.slow_because)
    assert tokenizer.decode(tokenizer.encode("a1b2 c")) == "a1b2 c"


def test_gpt2s_pattern_is_the_one_tokenizers_uses() -> None:
    split = made.byte_level(made.split(GPT2), use_regex=False).pre_tokenize_str(made.SENTENCES)
    assert split == made.byte_level(use_regex=True).pre_tokenize_str(made.SENTENCES)


# --- decoding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAST)
@given(text=texts)
@settings(max_examples=60, deadline=None)
def test_decoding_gives_the_text_back(name: str, text: str) -> None:
    tokenizer = FAST[name]
    shown = tokenizer.decode(tokenizer.encode(text, special=False), skip_special_tokens=False)
    if name == "qwen2":  # normalizes, but not across an added token
        shown, text = (unicodedata.normalize("NFC", each) for each in (shown, text))
    assert shown == text


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("skip", [True, False])
def test_decoding_random_ids_is_hugging_faces(name: str, skip: bool) -> None:
    tokenizer, chooser = EVERY[name], random.Random(2)
    for _ in range(300):
        ids = [chooser.randrange(tokenizer.vocab_size) for _ in range(12)]
        if name == "sentencepiece":  # which makes of invalid UTF-8 what no other decoder makes
            ids = [i for i in ids if len(tokenizer.token_bytes(i)) != 1 or tokenizer.token_bytes(i).isascii()]
        assert tokenizer.decode(ids, skip) == HF[name].decode(ids, skip_special_tokens=skip)


def test_each_token_has_its_exact_bytes() -> None:
    tokenizer = FAST["gpt2"]
    text = "naïve 🙂 漢字"
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b""
    assert tokenizer.token_bytes(-1) == b""
    assert tokenizer.token_text(tokenizer.encode("\U000e0001")[0]).endswith("\ufffd")
    sentencepiece = SLOW["sentencepiece"]
    assert b"".join(map(sentencepiece.token_bytes, sentencepiece.encode(text))) == b" " + text.encode()


# --- checkpoints -----------------------------------------------------------------------------------------


def checkpoint(folder: Path, tokenizer_json: str, **files: object) -> Path:
    (folder / "tokenizer.json").write_text(tokenizer_json)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_checkpoint_says_what_begins_and_ends_a_text(tmp_path: Path) -> None:
    ids = {text: FAST["llama3"].token_id(text) for text in made.SPECIAL}
    folder = checkpoint(
        tmp_path,
        made.llama3(),
        tokenizer_config={"bos_token": "<|begin|>", "eos_token": {"content": "<|im_end|>"}},
        generation_config={"eos_token_id": [ids["<|im_start|>"], ids["<|im_end|>"]]},
        config={"eos_token_id": 3},
    )
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.bos_id == ids["<|begin|>"]
    assert tokenizer.add_bos
    assert tokenizer.eos_ids == (ids["<|im_end|>"], ids["<|im_start|>"])
    assert tokenizer.is_special(ids["<|im_end|>"] or 0)
    assert not tokenizer.is_special(tokenizer.token_id("<tool_call>") or 0)


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("make", [made.llama3, made.gpt2])
def test_a_raw_prompt_is_framed_as_transformers_frames_it(tmp_path: Path, make, add_bos: bool | None) -> None:
    config: dict[str, object] = {"bos_token": "<|begin|>"}
    if add_bos is not None:
        config["add_bos_token"] = add_bos
    tokenizer = Tokenizer.from_pretrained(checkpoint(tmp_path, make(), tokenizer_config=config))
    theirs = PreTrainedTokenizerFast(tokenizer_object=HFTokenizer.from_str(make()), bos_token="<|begin|>")
    ids = theirs("Hello <|im_start|>")["input_ids"]
    frame = [tokenizer.bos_id] if add_bos or (add_bos is None and make is made.llama3) else []
    assert tokenizer.encode_prompt("Hello <|im_start|>") == frame + [i for i in ids if i != tokenizer.bos_id]
    if add_bos is None:
        assert tokenizer.encode_prompt("Hello <|im_start|>") == ids


def test_a_named_special_token_is_special_whatever_tokenizer_json_says(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, made.gpt2(), tokenizer_config={"eos_token": "</tool_call>"})
    tokenizer = Tokenizer.from_pretrained(folder)
    end = tokenizer.token_id("</tool_call>") or 0
    assert tokenizer.eos_ids == (end,)
    assert tokenizer.decode([end]) == ""


def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="not readable"):
        Tokenizer.from_pretrained(tmp_path)


def test_the_json_is_what_other_libraries_read() -> None:
    again = tokenizers.Tokenizer.from_str(FAST["llama3"].to_json())
    assert again.encode("Hello", add_special_tokens=False).ids == FAST["llama3"].encode("Hello")
