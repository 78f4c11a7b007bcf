"""The command line: what options become, in our spelling and in others', and what is said of the rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dendrite_core.errors import RequestError
from dendrite_server.command_line.arguments import (
    engine_config,
    make_parser,
    parse_arguments,
    server_config,
)
from dendrite_server.command_line.other_names import OTHER_NAMES
from dendrite_server.command_line.vllm_options import CANNOT_BE_HAD, CHANGES_NOTHING
from dendrite_server.terminal.entry import main as dendrite


def test_options_become_settings() -> None:
    line = "serve m --kv-cache-memory 1.5G --page-size 32 --max-num-seqs 7"
    arguments = parse_arguments(f"{line} --api-key k --host ::1 --max-body-size 64k".split())
    engine, server = engine_config(arguments), server_config(arguments)
    assert (engine.model, engine.kv_cache_bytes) == ("m", 3 << 29)
    assert (engine.page_size, engine.max_rows) == (32, 7)
    assert (server.api_keys, server.host, server.max_body_bytes) == (("k",), "::1", 65536)
    assert server.model_names == ()


def test_keys_may_be_several(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DENDRITE_API_KEY", "own")
    assert server_config(parse_arguments(["m"])).api_keys == ("own",)
    several = parse_arguments(["m", "--api-key", "a", "b", "--api-key=c"])
    assert server_config(several).api_keys == ("a", "b", "c")
    assert server_config(parse_arguments(["--api-key", "a", "--api-key", "b"])).api_keys == ("a", "b")
    with pytest.raises(SystemExit):
        parse_arguments(["--api-key", "a", "m"])
    assert "is one of the keys the model?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_arguments(["m", "--api-key", ""])
    assert "a key is empty" in capsys.readouterr().err


def test_without_a_model_the_embedded_one_is_served() -> None:
    arguments = parse_arguments([])
    assert engine_config(arguments).model.endswith("embedded")
    assert server_config(arguments).model_names == ("dendrite",)


def test_a_command_line_for_vllm_starts_and_says_what_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    theirs = "serve m --enable-prefix-caching --reasoning-parser qwen3 -tp 1 --kv-cache-dtype auto"
    both = f"--block-size 32 --max-num-queued-reqs 5 --chat-template {tmp_path}/t.jinja"
    arguments = parse_arguments([*theirs.split(), *both.split(), "--allowed-origins", '["a"]'])
    told = capsys.readouterr().err.splitlines()
    assert [text.split()[1] for text in told] == ["--enable-prefix-caching", "--reasoning-parser"]
    engine, server = engine_config(arguments), server_config(arguments)
    assert (engine.page_size, engine.max_waiting, server.allowed_origins) == (32, 5, ("a",))
    assert engine.chat_template == "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("8K", 8192), ("8k", 8000), ("1.5M", 3 << 19), ("auto", None), ("-1", None), ("100", 100)],
)
def test_a_length_may_be_written_as_for_vllm(given: str, meant: int | None) -> None:
    assert engine_config(parse_arguments(["m", "--max_model_len", given])).max_model_len == meant
    assert engine_config(parse_arguments(["m", f"--max_model_len={given}"])).max_model_len == meant


def test_so_may_the_tokens_of_a_step() -> None:
    assert engine_config(parse_arguments(["m", "--max-num-batched-tokens", "2k"])).max_batch_tokens == 2000


@pytest.mark.parametrize(
    ("given", "meant"), [("auto", None), ("half", "float16"), ("float", "float32"), ("bfloat16", "bfloat16")]
)
def test_a_dtype_may_be_named_as_for_vllm(given: str, meant: str | None) -> None:
    assert engine_config(parse_arguments(["m", "--dtype", given])).dtype == meant


def test_the_help_has_every_option_of_ours_and_the_defaults_that_there_are() -> None:
    told = make_parser().format_help()
    for option in set(make_parser().option_names()) - CHANGES_NOTHING.keys() - CANNOT_BE_HAD.keys():
        assert option in told
    assert re.search(r"--port PORT .*\(default: 8000\)", told)
    assert "None" not in told
    assert "[]" not in told


def test_the_version_and_the_commands_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        dendrite(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"dendrite [\d.]+\n", capsys.readouterr().out)
    assert dendrite(["--help"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines() if line.startswith("  ")] == [
        "serve",
        "tree",
        "search",
    ]


@pytest.mark.parametrize("option", CHANGES_NOTHING)
def test_what_changes_nothing_says_why(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = [] if CHANGES_NOTHING[option].takes == 0 else ["2"]
    assert parse_arguments(["m", option, *values]).model == "m"
    assert f"{option} changes nothing: {CHANGES_NOTHING[option].says}\n" in capsys.readouterr().err


@pytest.mark.parametrize("option", CANNOT_BE_HAD)
def test_what_cannot_be_had_says_what_to_do(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = [] if CANNOT_BE_HAD[option].takes == 0 else ["2"]
    with pytest.raises(SystemExit) as caught:
        parse_arguments(["m", option, *values])
    assert caught.value.code == 2
    assert f"{option}: {CANNOT_BE_HAD[option].says}" in capsys.readouterr().err
    for value in CANNOT_BE_HAD[option].but:
        parse_arguments(["m", option, value])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--max-model-le 100", "there is no --max-model-le; perhaps --max-model-len was meant"),
        (
            "m --gpu_mem_utilization=0.5",
            "no --gpu-mem-utilization; perhaps --gpu-memory-utilization was meant",
        ),
        ("--compilation-config.mode 3", "perhaps --compilation-config was meant"),
        ("--no-such-option --nor-this=1", "there is no --no-such-option; there is no --nor-this\n"),
        ("--model-path m", "there is no --model-path; here it is --model,"),
        ("-hf org/m -c 4096", "there is no -hf; here it is --model,"),
        ("m -t 4", "there is no -t; here it is --threads"),
        ("a b", "one model is served; what is b?"),
        ("a --model b", "one model is served: a or --model b?"),
    ],
)
def test_an_unknown_option_says_what_may_have_been_meant(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(line.split())
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert "docs/faq.md" in said


def test_what_others_call_an_option_is_no_option_here() -> None:
    known = make_parser().option_names()
    assert not OTHER_NAMES.keys() & set(known)
    for meant in OTHER_NAMES.values():
        assert not meant.startswith("-") or re.match(r"--[a-z-]+", meant)[0] in known, meant


def test_a_chat_template_may_be_written_out() -> None:
    template = "{{ messages[0].content }}"
    assert engine_config(parse_arguments(["m", "--chat-template", template])).chat_template == template


@pytest.mark.parametrize(
    "line",
    [
        "--kv-cache-memory lots",
        "--page-size 12",
        "--port x",
        "--max-model-len 8q",
        "--chat-template nowhere",
        "--allowed-origins *",
    ],
)
def test_bad_options_are_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(line.split())
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert line.split()[0] in told
    assert len(told.splitlines()) == 2


@pytest.mark.parametrize(
    ("option", "value", "param"),
    [
        *[(f"--{name}", value, param) for value in ("0", "-5") for name, param in (
            ("num-pages", "num_pages"), ("max-model-len", "max_model_len"), ("threads", "threads"),
            ("max-num-batched-tokens", "max_batch_tokens"), ("keep-alive", "keep_alive"),
            ("patience", "patience"), ("max-body-size", "max_body_bytes"),
        ) if (name, value) != ("max-body-size", "-5")],
        ("--drain-timeout", "-1", "drain_timeout"),
        ("--keep-alive", "nan", "keep_alive"),
        ("--port", "65536", "port"),
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_named_and_not_taken_for_the_default(
    option: str, value: str, param: str
) -> None:
    arguments = parse_arguments(["serve", "m", f"{option}={value}"])
    with pytest.raises(RequestError) as caught:
        (engine_config(arguments), server_config(arguments))
    assert caught.value.param == param
