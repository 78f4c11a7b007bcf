"""Chat templates against transformers' own rendering, and the text that follows a branch."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HFTokenizer
from transformers import PreTrainedTokenizerFast

from dendrite_core.errors import ModelLoadError, RequestError, UnsupportedParameter
from dendrite_core.text.chat_template import ChatTemplate
from tests.text import made
from tests.text.templates import FAMILIES

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Says "<hot>" or not & è',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Zürich"}},
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [{"role": "user", "content": "  Hi <there> é "}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "turns": [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\ntwo "},
        {"role": "user", "content": "3"},
    ],
    "tool result": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": '{"t": 21}'},
    ],
    "reasoning": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "look it up", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "21"},
    ],
}


def template(family: str) -> ChatTemplate:
    text, begin, end, ends = FAMILIES[family]
    special = {"eos_token": end} | ({"bos_token": begin} if begin else {})
    return ChatTemplate({"default": text}, special, [end, *ends])


def reference(family: str) -> PreTrainedTokenizerFast:
    text, begin, end, _ = FAMILIES[family]
    hf = HFTokenizer.from_str(made.gpt2())
    return PreTrainedTokenizerFast(tokenizer_object=hf, bos_token=begin, eos_token=end, chat_template=text)


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["", "tools"])
@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", ""])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rendering_is_transformers(family: str, conversation: str, prompt: bool, tools: Any) -> None:
    messages = CONVERSATIONS[conversation]
    theirs = reference(family).apply_chat_template(
        messages, tools=tools, add_generation_prompt=prompt, tokenize=False
    )
    assert template(family).render(messages, tools=tools, add_generation_prompt=prompt) == theirs


@pytest.mark.parametrize("last", ["The answer", "The answer is ", " <b>"])
@pytest.mark.parametrize("family", FAMILIES)
def test_continuing_the_final_message_is_transformers(family: str, last: str) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": last}]
    theirs = reference(family).apply_chat_template(messages, continue_final_message=True, tokenize=False)
    assert template(family).render(messages, continue_final_message=True) == theirs


def test_template_arguments_reach_the_template() -> None:
    text = template("qwen3").render([{"role": "user", "content": "Hi"}], enable_thinking=False)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    dated = template("llama3").render([{"role": "user", "content": "Hi"}], date_string="1 Jan 1970")
    assert "Today Date: 1 Jan 1970\n" in dated


# --- what follows a branch -------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", ""])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_follows_a_turn_is_the_rest_of_the_whole_conversation(family: str, prompt: bool) -> None:
    past = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "two"}]
    new = [{"role": "user", "content": "3"}]
    end, rest = template(family).render_after(new, add_generation_prompt=prompt)
    whole = template(family).render([*past, *new], add_generation_prompt=prompt)
    assert whole.endswith("two" + end + rest)
    assert end in ("<|im_end|>", "<|eot_id|>", "</s>")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tools_result_follows_the_turn_that_called_it(family: str) -> None:
    past = CONVERSATIONS["tool result"][:2]
    new = [{"role": "tool", "tool_call_id": "abcdefghi", "content": "21"}]
    end, rest = template(family).render_after(new)
    assert template(family).render([*past, *new]).endswith(end + rest)


def test_what_follows_a_turn_may_hold_several_messages_and_the_sentinels_own_text() -> None:
    past = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "two"}]
    new = [
        {"role": "user", "content": "QzXjSentinelTurnXjQz"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5"},
    ]
    end, rest = template("chatml").render_after(new)
    assert template("chatml").render([*past, *new]).endswith("two" + end + rest)


def test_a_template_without_end_markers_has_no_end_of_turn() -> None:
    plain = ChatTemplate({"default": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"})
    assert plain.render_after([{"role": "user", "content": "3"}]) == ("", "\nuser: 3\n")


def test_a_template_that_drops_old_turns_cannot_continue_a_branch() -> None:
    last_only = ChatTemplate({"default": "{{ messages[-1].content }}"})
    with pytest.raises(UnsupportedParameter) as raised:
        last_only.render_after([{"role": "user", "content": "3"}])
    assert raised.value.param == "parent_id"


# --- messages as clients send them -----------------------------------------------------------------------


def test_tool_arguments_sent_as_a_string_are_rendered_as_an_object() -> None:
    sent = json.loads(json.dumps(CONVERSATIONS["tool result"]))
    sent[1]["tool_calls"][0]["function"]["arguments"] = '{"city": "Zürich"}'
    sent[1]["content"] = None
    for family in FAMILIES:
        assert template(family).render(sent) == template(family).render(CONVERSATIONS["tool result"])


def test_text_parts_are_joined_and_nulls_are_left_out() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = {"role": "user", "content": parts, "name": None, "tool_calls": None}
    assert template("llama3").render([message]) == template("llama3").render(
        [{"role": "user", "content": "ab"}]
    )


@pytest.mark.parametrize(
    ("family", "messages"),
    [
        ("mistral", [{"role": "assistant", "content": "no"}]),
        ("mistral", [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        ("chatml", []),
        ("qwen3", [{"role": "user", "content": "1"}, {"role": "assistant", "tool_calls": [5]}]),
        ("llama3", [{"role": "user"}, {"role": "assistant", "tool_calls": []}]),
    ],
)
def test_messages_a_template_refuses_or_trips_over_are_the_callers_error(family: str, messages: Any) -> None:
    with pytest.raises(RequestError) as raised:
        template(family).render(messages, tools=None)
    assert raised.value.param == "messages"


def test_nothing_to_continue_is_the_callers_error() -> None:
    for messages in ([], [{"role": "assistant", "content": {"a": 1}}]):
        with pytest.raises(RequestError) as raised:
            template("chatml").render(messages, continue_final_message=True)
        assert raised.value.param == "continue_final_message"


# --- templates are code from strangers -------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{% set ns = namespace(__class__='x') %}",
        "{% set ns = namespace() %}{% set ns.__init__ = 'x' %}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ dict.__class__ }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    hostile = ChatTemplate({"default": attack + "ok"})
    try:
        rendered = hostile.render([{"role": "user", "content": "x"}])
    except RequestError:
        return
    assert rendered == "ok", "what is unsafe reads as undefined"


def test_what_is_no_jinja_is_found_at_load() -> None:
    with pytest.raises(ModelLoadError, match="jinja"):
        ChatTemplate({"default": "{% for %}"})


# --- checkpoints -----------------------------------------------------------------------------------------


def write(folder: Path, config: dict[str, Any], **more: Any) -> ChatTemplate:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in more.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return ChatTemplate.from_pretrained(folder)


HI = [{"role": "user", "content": "Hi"}]


def test_no_template_is_refused_when_it_is_needed(tmp_path: Path) -> None:
    none = write(tmp_path, {})
    assert not none.exists
    with pytest.raises(RequestError, match="no chat template"):
        none.render(HI)


def test_a_template_is_found_in_the_config_or_in_its_own_file(tmp_path: Path) -> None:
    assert (
        write(tmp_path, {"chat_template": "config {{ eos_token }}", "eos_token": "</s>"}).render(HI)
        == "config </s>"
    )
    (tmp_path / "chat_template.jinja").write_text("file")
    assert write(tmp_path, {"chat_template": "config"}).render(HI) == "file"


def test_a_template_for_tools_is_used_when_there_are_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    both = write(tmp_path, {"chat_template": named})
    assert both.render(HI) == "plain"
    assert both.render(HI, tools=TOOLS) == "tools"
    folder = tmp_path / "additional_chat_templates"
    folder.mkdir()
    (folder / "tool_use.jinja").write_text("its own file")
    assert write(tmp_path, {"chat_template": "plain"}).render(HI, tools=TOOLS) == "its own file"


def test_every_token_that_ends_a_text_may_end_a_turn(tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m.content }}<|eot|>{% endfor %}"
    config = {
        "chat_template": text,
        "eos_token": "<|eos|>",
        "added_tokens_decoder": {"7": {"content": "<|eot|>"}},
    }
    found = write(tmp_path, config, generation_config={"eos_token_id": [1, 7]})
    assert found.render_after(HI, add_generation_prompt=False) == ("<|eot|>", "Hi<|eot|>")


@pytest.mark.parametrize("depth", [300, 950, 100_000])
def test_arguments_that_nest_deeply_are_text_or_a_mistake_of_the_caller(depth: int) -> None:
    """Where the depth is too much for JSON's own tools, they are said as they are."""
    arguments = '{"a": ' * depth + "1" + "}" * depth
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    with contextlib.suppress(RequestError):
        text = template("chatml").render(messages)
        assert depth in (text.count('{"a": '), text.count('{\\"a\\": '))
