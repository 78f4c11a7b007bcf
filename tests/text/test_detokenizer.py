"""Text grows in whole characters, and in the end is what decoding all ids at once gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dendrite_core.text.detokenizer import Detokenizer
from dendrite_core.text.tokenizer import Tokenizer
from tests.text import made

EVERY = {name: Tokenizer(make()) for name, make in (made.FAST | made.SLOW).items()}
TEXT = "naïve 🙂👩‍👩‍👧 漢字 <|im_end|>x\u0301<tool_call> end"


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Any ids, unknown ones among them, and single bytes often enough to make and break characters."""
    odd = [i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i).isascii()]
    return st.lists(st.one_of(st.integers(0, tokenizer.vocab_size + 3), st.sampled_from(odd)), max_size=30)


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=80, deadline=None)
def test_pushes_and_flush_together_are_decode(name: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = EVERY[name]
    ids = data.draw(ids_of(tokenizer))
    detokenizer = Detokenizer(tokenizer, skip)
    text = "".join(map(detokenizer.push, ids)) + detokenizer.flush()
    assert text == tokenizer.decode(ids, skip)


@pytest.mark.parametrize("name", EVERY)
def test_no_push_gives_half_a_character(name: str) -> None:
    tokenizer = EVERY[name]
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
    for byte in TEXT.encode():
        one = next(
            (i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([byte])), None
        )
        if one is None:
            pytest.skip("no byte tokens")
        assert "\ufffd" not in detokenizer.push(one)
    assert detokenizer.flush() == ""


def test_a_character_that_never_becomes_whole_is_shown_at_the_end() -> None:
    tokenizer = EVERY["gpt2"]
    half = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\xf0")
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(half) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_fork_goes_its_own_way(name: str, data: st.DataObject) -> None:
    tokenizer = EVERY[name]
    past, first, second = (data.draw(ids_of(tokenizer)) for _ in range(3))
    trunk = Detokenizer(tokenizer)
    shown = "".join(map(trunk.push, past))
    branch = trunk.fork()
    for detokenizer, ids in ((trunk, first), (branch, second)):
        text = shown + "".join(map(detokenizer.push, ids)) + detokenizer.flush()
        assert text == tokenizer.decode(past + ids)


def test_special_tokens_are_shown_when_asked_for() -> None:
    tokenizer = EVERY["llama3"]
    end = tokenizer.token_id("<|im_end|>")
    call = tokenizer.token_id("<tool_call>")
    assert end is not None
    assert call is not None
    assert [Detokenizer(tokenizer, skip).push(end) for skip in (True, False)] == ["", "<|im_end|>"]
    assert Detokenizer(tokenizer, True).push(call) == "<tool_call>", "an added token need not be special"


def test_a_text_that_continues_another_keeps_its_first_space() -> None:
    tokenizer = EVERY["sentencepiece"]
    ids = tokenizer.encode("fox")
    assert Detokenizer(tokenizer).push(ids[0]) == tokenizer.token_text(ids[0]).removeprefix(" ")
    assert Detokenizer(tokenizer, continues=True).push(ids[0]) == tokenizer.token_text(ids[0])
