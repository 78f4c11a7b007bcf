"""The tokenizer and the chat template: a byte-level BPE with single digits, ChatML turns, Hermes tool calls.

`segments` renders a conversation as the template does, but keeps apart what the model reads from what it is
trained to write. Kept to one Split and one ByteLevel, so that other BPE implementations can load it exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 1024
CONTEXT = 4096
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
CONTROL = (END_OF_TEXT, START, END)

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TOOLS_BEFORE = "# Tools\n\nYou may call these functions:\n<tools>\n"
TOOLS_AFTER = (
    "\n</tools>\n\nTo call one, answer:\n"
    '<tool_call>\n{"name": <name>, "arguments": <arguments as JSON>}\n</tool_call>'
)

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set has_system = messages and messages[0].role in ('system', 'developer') -%}
{%- set system = text(messages[0].content) if has_system else '' -%}
{%- if tools -%}
{{ '<|im_start|>system\\n' + (system + '\\n\\n' if system else '') + TOOLS_BEFORE }}
{%- for tool in tools -%}{{ tool | tojson }}{{ '' if loop.last else '\\n' }}{%- endfor -%}
{{ TOOLS_AFTER + '<|im_end|>\\n' }}
{%- elif system -%}
{{ '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
{%- set role = 'system' if message.role == 'developer' else message.role -%}
{%- set body = text(message.content) -%}
{{ '<|im_start|>' + role + '\\n' + body }}
{%- if role == 'assistant' and message.tool_calls -%}
{%- for call in message.tool_calls -%}
{%- set f = call.function if call.function else call -%}
{{ ('\\n' if body or not loop.first else '') + '<tool_call>\\n{"name": "' + f.name + '", "arguments": ' }}
{{- f.arguments if f.arguments is string else f.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
""".replace("TOOLS_BEFORE", repr(TOOLS_BEFORE)).replace("TOOLS_AFTER", repr(TOOLS_AFTER))

Message = dict[str, Any]


def train_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> Tokenizer:
    """Control tokens come last, so that the ranks of the merges are the ids, from 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(CONTROL) - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in (TOOL_CALL, TOOL_CALL_END)])
    return tokenizer


def control_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Control tokens and their ids, which exist."""
    ids = {token: tokenizer.token_to_id(token) for token in CONTROL}
    return {token: i for token, i in ids.items() if i is not None}


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


# ---- rendering for training


def _calls(message: Message) -> str:
    parts = [message.get("content") or ""] if message.get("content") else []
    for call in message.get("tool_calls", ()):
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        parts.append(
            f'{TOOL_CALL}\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n{TOOL_CALL_END}'
        )
    return "\n".join(parts)


def head(system: str | None, tools: Sequence[dict[str, Any]] = ()) -> str:
    """The system turn, if there is anything to say in it."""
    if not tools:
        return f"{START}system\n{system}{END}\n" if system else ""
    offered = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        f"{START}system\n{system + chr(10) * 2 if system else ''}{TOOLS_BEFORE}{offered}{TOOLS_AFTER}{END}\n"
    )


def segments(messages: Sequence[Message], weight: int = 1) -> list[tuple[str, int]]:
    """(text, loss weight) pieces in order; cut only where the tokenizer cuts too."""
    pieces: list[tuple[str, int]] = []
    for message in messages:
        if message["role"] == "assistant":
            pieces += [(f"{START}assistant\n", 0), (_calls(message) + END, weight), ("\n", 0)]
        else:
            pieces.append((f"{START}{message['role']}\n{message['content']}{END}\n", 0))
    return pieces


def prompt(
    messages: Sequence[Message], system: str | None = None, tools: Sequence[dict[str, Any]] = ()
) -> str:
    """The text a model is given to answer, as the chat template renders it."""
    return head(system, tools) + "".join(text for text, _ in segments(messages)) + f"{START}assistant\n"
