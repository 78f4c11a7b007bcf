"""Thoughts are told apart from what is said however the text is cut, whole and streamed alike."""

from __future__ import annotations

import pytest

from dendrite_server.tools.formats import HERMES, MISTRAL
from dendrite_server.tools.reading import Speech
from dendrite_server.tools.speech import Deltas, message_of

CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
CASES: list[tuple[str, bool, str, str]] = [
    ("<think>\nhm\n</think>\n\nyes", False, "hm", "yes"),
    ("hm</think>yes", True, "hm", "yes"),
    ("hm < 3 </ but", True, "hm < 3 </ but", ""),
    ("no <think>thought</think>", False, "", "no <think>thought</think>"),
    ("<thin air", False, "", "<thin air"),
    ("<think></think>\n\na\n\nb", False, "", "a\n\nb"),
]


def streamed(speech: Speech, text: str, size: int) -> tuple[str, str, int]:
    deltas = Deltas(speech, "branch_1")
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    bodies = [body for piece in pieces for body in deltas.push(piece, False)] + deltas.push("", True)
    thought = "".join(body.get("reasoning_content", "") for body in bodies)
    return thought, "".join(body.get("content", "") for body in bodies), int(deltas.calls)


@pytest.mark.parametrize(("text", "inside", "thought", "said"), CASES)
def test_a_thought_is_told_apart(text: str, inside: bool, thought: str, said: str) -> None:
    speech = Speech(thinks=True, inside=inside)
    whole = message_of(speech, "branch_1", text)
    assert (whole.get("reasoning_content", ""), whole["content"]) == (thought, said)
    assert whole.get("reasoning") == whole.get("reasoning_content")
    for size in (1, 2, 3, 100):
        assert streamed(speech, text, size)[:2] == (thought, said)


def test_a_call_may_follow_a_thought() -> None:
    speech = Speech(thinks=True, calls=HERMES)
    whole = message_of(speech, "branch_1", f"<think>hm</think>\n{CALL}")
    assert whole["content"] is None
    assert whole["reasoning_content"] == "hm"
    assert whole["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert streamed(speech, f"<think>hm</think>\n{CALL}", 1) == ("hm", "", 1)


def test_one_call_where_only_one_is_wanted() -> None:
    speech = Speech(calls=HERMES, parallel=False)
    assert len(message_of(speech, "branch_1", f"{CALL}\n{CALL}")["tool_calls"]) == 1


def test_ids_are_those_that_templates_take() -> None:
    assert HERMES.call_id("branch_1", 0).startswith("call_")
    assert HERMES.call_id("branch_1", 0) != HERMES.call_id("branch_1", 1)
    assert len(MISTRAL.call_id("branch_1", 0)) == 9
    assert MISTRAL.call_id("branch_1", 0).isalnum()
