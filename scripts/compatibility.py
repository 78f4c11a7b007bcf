"""Writes docs/compatibility.md: what becomes of every request field of OpenAI and of vLLM, and the test that
shows it. `python -m scripts.compatibility` from the root; a test compares the file with what this makes.

What is honoured, harmless or refused is read from the server's own tables, the names of OpenAI's fields
from its SDK. Only vLLM's names and the remarks are written here.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai.types import completion_create_params as openai_completion
from openai.types.chat import completion_create_params as openai_chat
from openai.types.responses import response_create_params as openai_responses

from dendrite_server.description.openapi import CHAT_BODY, COMPLETION_BODY, RESPONSE_BODY
from dendrite_server.protocol import request as chat
from dendrite_server.responses import request as responses

PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"

_VLLM_BOTH = """
add_special_tokens allowed_token_ids bad_words cache_salt ec_transfer_params frequency_penalty ignore_eos
include_stop_str_in_output kv_transfer_params length_penalty logit_bias logprob_token_ids logprobs max_tokens
min_p min_tokens model n presence_penalty priority prompt_logprobs repetition_detection repetition_penalty
request_id response_format return_token_ids return_tokens_as_token_ids seed session_id skip_special_tokens
spaces_between_special_tokens stop stop_token_ids stream stream_interval stream_options structured_outputs
temperature thinking_token_budget top_k top_p truncate_prompt_tokens truncation_side use_beam_search user
vllm_xargs watermarking
"""
_VLLM_CHAT = """
add_generation_prompt chat_template chat_template_kwargs continue_final_message documents echo
include_reasoning max_completion_tokens media_io_kwargs messages mm_processor_kwargs parallel_tool_calls
reasoning_effort return_prompt_text tool_choice tools top_logprobs
"""
# Of older versions, which scripts still send.
_GUIDED = """
guided_choice guided_decoding_backend guided_grammar guided_json guided_regex guided_whitespace_pattern
"""

_REQUESTS, _ANSWERS = "tests/server/test_request.py", "tests/server/test_responses_request.py"
_DOC = "tests/server/test_compatibility_doc.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """One endpoint: who has which field, what is done with it here, and the tests that show it."""

    path: str
    openai: frozenset[str]
    vllm: frozenset[str]
    taken: Mapping[str, Any]
    harmless: Mapping[str, Any]
    refused: Mapping[str, str]
    neutral: Mapping[str, Any] = field(default_factory=dict)
    tests: Mapping[str, str]


def fields_of(parameters: Any, name: str) -> frozenset[str]:
    """Every field of an SDK's request, streamed or not."""
    classes = [getattr(parameters, f"{name}{kind}") for kind in ("NonStreaming", "Streaming")]
    return frozenset(field for one in classes for field in typing.get_type_hints(one))


SURFACES = (
    Surface(
        path="/v1/chat/completions",
        openai=fields_of(openai_chat, "CompletionCreateParams"),
        vllm=frozenset(f"{_VLLM_BOTH} {_VLLM_CHAT} {_GUIDED}".split()),
        taken=CHAT_BODY,
        harmless=chat.HARMLESS,
        refused=chat.CHAT_UNSUPPORTED,
        neutral=chat.NEUTRAL,
        tests={
            "honoured": f"{_REQUESTS}::test_chat_field_is_honoured",
            "no effect": f"{_REQUESTS}::test_harmless_field_changes_nothing_but_its_type_is_checked",
            "refused": f"{_REQUESTS}::test_unsupported_chat_field_is_refused_by_name",
        },
    ),
    Surface(
        path="/v1/completions",
        openai=fields_of(openai_completion, "CompletionCreateParams"),
        vllm=frozenset(f"{_VLLM_BOTH} {_GUIDED} echo prompt prompt_embeds suffix".split()),
        taken=COMPLETION_BODY,
        harmless=chat.HARMLESS,
        refused=chat.COMPLETION_UNSUPPORTED,
        neutral=chat.NEUTRAL,
        tests={
            "honoured": f"{_DOC}::test_completion_field_is_honoured",
            "no effect": f"{_REQUESTS}::test_harmless_field_changes_nothing_but_its_type_is_checked",
            "refused": f"{_REQUESTS}::test_unsupported_completion_field_is_refused_by_name",
        },
    ),
    Surface(
        path="/v1/responses",
        openai=fields_of(openai_responses, "ResponseCreateParams"),
        vllm=frozenset(),
        taken=RESPONSE_BODY,
        harmless=responses.HARMLESS,
        refused=responses.UNSUPPORTED,
        tests={
            "honoured": f"{_ANSWERS}::test_field_is_honoured",
            "shared": f"{_ANSWERS}::test_what_chat_reads_is_read_alike",
            "no effect": f"{_ANSWERS}::test_harmless_field_changes_nothing_but_is_checked_and_echoed",
            "refused": f"{_ANSWERS}::test_unsupported_field_is_refused_by_name",
        },
    ),
)

# Where a behaviour has a test of its own, that is the better proof.
BEHAVIOUR = {
    "best_of": "tests/server/test_best_of.py::test_best_of_gives_the_likeliest_of_the_same_candidates",
    "cache_salt": "tests/server/test_chat.py::test_a_salt_separates_caches",
    "continue_final_message": "tests/server/test_chat.py::test_an_assistants_turn_can_be_begun_for_it",
    "echo": "tests/server/test_completions.py::test_echo_puts_the_prompt_first",
    "max_completion_tokens": "tests/server/test_chat.py::test_max_completion_tokens_is_max_tokens",
    "messages": "tests/server/test_chat.py::test_every_role_and_content_parts_reach_the_prompt",
    "n": "tests/server/test_chat.py::test_n_choices_come_in_order_and_the_prompt_counts_once",
    "n_branches": "tests/server/test_tree.py::test_sixteen_branches_compute_their_prompt_once",
    "parent_id": "tests/server/test_tree.py::test_a_text_goes_on_mid_turn_as_if_never_interrupted",
    "parent_offset": "tests/server/test_tree.py::test_a_parent_can_be_left_at_an_earlier_token",
    "previous_response_id": "tests/server/test_responses_request.py::test_field_is_honoured",
    "return_token_ids": "tests/server/test_chat.py::test_token_ids_on_request",
    "seed": "tests/server/test_chat.py::test_a_seed_repeats_and_another_differs",
    "stop": "tests/server/test_chat.py::test_stop_strings_end_a_choice_and_stay_out_of_it",
    "stream": "tests/server/test_stream.py::test_a_stream_adds_up_to_the_whole_answer",
    "stream_options": "tests/server/test_stream.py::test_the_order_of_a_chat_stream",
}
REMARKS = {
    "chat_template": "Only where the server was started with `--trust-request-chat-template`.",
    "documents": "Where the model's chat template shows them, else refused.",
    "bad_words": "In the tokens they are encoded to, alone or after a space.",
    "function_call": "As before there were tools; the answer then has `function_call` too.",
    "functions": "As before there were tools; at most one is called.",
    "logprobs": "Of the raw distribution, before temperature and penalties.",
    "max_tokens": "Completions also take 0: the prompt is computed and scored, nothing is generated.",
    "messages": "Text and text parts; `[]` together with `parent_id` goes on mid-turn.",
    "modalities": 'Only `["text"]`.',
    "model": "Any of the served names; it is echoed. Left out: the first one.",
    "n": "The prompt is computed once; children are forks of it.",
    "prompt_logprobs": "Not streamed.",
    "reasoning_effort": "Where the model's chat template knows it, else refused.",
    "request_id": "It comes back as `x-request-id`.",
    "seed": "A choice's draws depend on the seed and its place in the request, never on the batch.",
    "stop": "Up to 16 texts.",
    "top_k": "-1 and 0 are no limit, as at vLLM.",
    "truncate_prompt_tokens": "Not together with `parent_id`.",
    "truncation": "Only `disabled`.",
    "verbosity": "Only `medium`.",
}
_HEAD = """# Compatibility

What becomes of every request field of OpenAI's text endpoints and of vLLM's extensions.

- *Honoured*: it does what it says.
- *No effect*: its type is checked, and no answer could depend on it here.
- *Refused*: a 400 with code `unsupported_parameter`, the field in `param`, and the reason given here.

Any other field is unknown and refused with code `unknown_parameter`; with `--unknown-fields warn` it is
left out instead, logged once, and named in a `warnings` response header. `null` means "not given" everywhere.

`python scripts/ab_vllm.py http://HERE/v1 http://THERE/v1` sends the same requests to this server and to
another one, vLLM's for instance, and shows side by side what they say, where their JSON differs, how long
they take and how many prompt tokens they find cached. It ends with 1 if a status or a structure differs.

This page is made by `python -m scripts.compatibility` from the server's own tables, and a test fails when it
is out of date.
"""


def page() -> str:
    return "\n".join([_HEAD, *(line for surface in SURFACES for line in _section(surface))]) + "\n"


def _section(surface: Surface) -> Iterator[str]:
    yield f"## POST {surface.path}\n"
    yield "| parameter | OpenAI | vLLM | here | remark | test |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name in sorted(surface.openai | surface.vllm | surface.taken.keys()):
        effect = effect_of(surface, name)
        theirs = [("yes" if name in one else "") for one in (surface.openai, surface.vllm)]
        remark = REMARKS.get(name, "") if effect == "honoured" else _reason(surface, name)
        cells = [f"`{name}`", *theirs, effect, remark, f"`{evidence(surface, name)}`"]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _reason(surface: Surface, name: str) -> str:
    """Why it is refused, and which value of it is not."""
    reason = surface.refused.get(name, "")
    if reason and surface.neutral and name in surface.neutral:
        return f"Only `{json.dumps(surface.neutral[name])}`. {reason}"
    return reason


def effect_of(surface: Surface, name: str) -> str:
    if name in surface.refused:
        return "refused"
    if name in surface.harmless:
        return "no effect"
    assert name in surface.taken, f"nothing is said of {name} of {surface.path}"
    return "honoured"


def evidence(surface: Surface, name: str) -> str:
    """The test that shows what becomes of a field, as pytest names it."""
    effect = effect_of(surface, name)
    if effect == "unknown":
        return f"{_DOC}::test_unknown_field_is_refused[{surface.path}-{name}]"
    if effect == "honoured" and surface.vllm and name in BEHAVIOUR:
        return BEHAVIOUR[name]
    shared = effect == "honoured" and name in responses.SHARED and name not in RESPONSE_ONLY
    kind = "shared" if shared and "shared" in surface.tests else effect
    return f"{surface.tests[kind]}[{name}]"


# Read by both layers of `/v1/responses`, and shown where it is read first.
RESPONSE_ONLY = frozenset({"parallel_tool_calls", *fields_of(openai_responses, "ResponseCreateParams")})

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
