"""The command line: its options, and the settings of engine and server that they become."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dendrite_core.config import ATTENTION_BACKENDS, PAGE_SIZES, EngineConfig
from dendrite_core.engine.engine import EMBEDDED
from dendrite_server.command_line.other_names import refuse_other_names, refuse_unknown
from dendrite_server.command_line.vllm_options import add_vllm_options, print_note
from dendrite_server.config import ServerConfig
from dendrite_server.service import package_version
from dendrite_server.tools.formats import FORMATS

EMBEDDED_NAME = "dendrite"
_UNDERSCORED = re.compile(r"^--[a-z0-9_-]+")
_DTYPES = {"auto": None, "half": "float16", "float": "float32"}
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)([kKmM])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The options as given; a leading `serve` is taken for people who are used to one, _ in names for -."""
    words = argv[1:] if argv and argv[0] == "serve" else argv
    words = [_UNDERSCORED.sub(_with_dashes, word, count=1) for word in words]
    parser = make_parser()
    refuse_other_names(parser, words)
    arguments, unknown = parser.parse_known_args(words)
    refuse_unknown(parser, parser.option_names(), unknown)
    if arguments.model and arguments.positional_model:
        parser.error(f"one model is served: {arguments.positional_model} or --model {arguments.model}?")
    arguments.model = arguments.model or arguments.positional_model
    if arguments.model is None and any(len(keys) > 1 for keys in arguments.api_key or ()):
        # Else the server would be open to all who guess that its key is a model's name.
        parser.error(
            "--api-key: is one of the keys the model? Give it first or as --model, or repeat --api-key"
        )
    return arguments


def _with_dashes(name: re.Match[str]) -> str:
    return name[0].replace("_", "-")


class Parser(argparse.ArgumentParser):
    """Says what is wrong without all options before it, which would push it off the screen."""

    def error(self, message: str) -> NoReturn:
        listed = f"`{self.prog} --help` lists all options, docs/faq.md what became of vLLM's"
        self.exit(2, f"{self.prog}: error: {message}\n{listed}.\n")

    def option_names(self) -> list[str]:
        """Also those that mean nothing here."""
        return list(self._option_string_actions)


class _Help(argparse.HelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.help or ""
        return (
            shown if action.default in (None, False, argparse.SUPPRESS) else f"{shown} (default: %(default)s)"
        )


def make_parser() -> Parser:
    parser = Parser(
        "dendrite serve",
        allow_abbrev=False,
        formatter_class=lambda prog: _Help(prog, max_help_position=34, width=110),
        description="Serve a model over the OpenAI API, with a KV cache that is a tree.",
        epilog="Stop with SIGTERM or Ctrl-C: running requests finish first, a second signal ends them. "
        "`dendrite tree` and `dendrite search` draw trees and searches in the terminal.",
    )
    parser.add_argument("--version", action="version", version=f"dendrite {package_version()}")
    parser.add_argument("positional_model", nargs="?", metavar="MODEL", help="the same as --model")
    _add_model_options(parser.add_argument_group("model"))
    _add_memory_options(parser.add_argument_group("memory and batching"))
    _add_http_options(parser.add_argument_group("HTTP"))
    add_vllm_options(parser)
    return parser


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", help="folder or Hugging Face hub id (default: the embedded model)")
    add("--served-model-name", nargs="+", metavar="NAME", help="names it answers to (default: its own)")
    add("--dtype", type=_dtype, help="float32, bfloat16 or float16 (default: what suits the device)")
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add(
        "--max-model-len",
        type=_tokens_or_auto,
        metavar="N",
        help="tokens of the longest context, as 8192 or 8K (default: the model's)",
    )
    add("--chat-template", type=_template, metavar="FILE", help="in jinja (default: the model's own)")
    add(
        "--attention-backend",
        choices=ATTENTION_BACKENDS,
        default="auto",
        help="a GPU's attention: ours, FlashInfer's, or the one measured to be faster",
    )
    add("--threads", type=int, metavar="N", help="CPU threads of the arithmetic (default: torch's choice)")
    add(
        "--deterministic",
        action="store_true",
        help="answers to the bit independent of other requests, the cache and the batch; slower",
    )


def _add_memory_options(group: argparse._ArgumentGroup) -> None:
    add, own = group.add_argument, EngineConfig(model="")
    add(
        "--kv-cache-memory",
        "--kv-cache-memory-bytes",
        type=_bytes,
        metavar="SIZE",
        help="memory for KV, as 512M or 2G",
    )
    add(
        "--num-pages",
        "--num-gpu-blocks-override",
        type=int,
        metavar="N",
        help="pages of KV, instead of --kv-cache-memory",
    )
    add(
        "--page-size",
        "--block-size",
        type=int,
        choices=PAGE_SIZES,
        default=own.page_size,
        help="tokens of a page",
    )
    add(
        "--gpu-memory-utilization",
        type=float,
        metavar="PART",
        help=f"of a GPU's memory that may be used (default: {own.gpu_memory_utilization:g})",
    )
    add("--max-num-seqs", type=int, default=own.max_rows, metavar="N", help="branches decoded together")
    add("--max-num-batched-tokens", type=_tokens, metavar="N", help="new tokens of one step")
    add(
        "--max-waiting",
        "--max-num-queued-reqs",
        type=int,
        default=own.max_waiting,
        metavar="N",
        help="requests queued before a 429",
    )
    add("--max-n-branches", type=int, default=own.max_children, metavar="N", help="branches of one request")
    add("--max-branches", type=int, default=own.max_branches, metavar="N", help="branches that can be named")


def _add_http_options(group: argparse._ArgumentGroup) -> None:
    add, own = group.add_argument, ServerConfig()
    add("--host", default=own.host, help="address to listen on, 0.0.0.0 for all")
    add("--port", type=int, default=own.port, help="port to listen on, 0 for any free one")
    add(
        "--api-key",
        action="append",
        nargs="+",
        type=_key,
        metavar="KEY",
        help="keys of which callers must send one (environment: DENDRITE_API_KEY)",
    )
    add("--max-body-size", type=_bytes, default="32M", metavar="SIZE", help="largest request")
    add(
        "--keep-alive",
        type=float,
        default=own.keep_alive,
        metavar="S",
        help="silence before a stream sends a comment",
    )
    add(
        "--patience",
        type=float,
        default=own.patience,
        metavar="S",
        help="seconds before a stuck reader is dropped",
    )
    add(
        "--drain-timeout",
        type=float,
        default=own.drain_timeout,
        metavar="S",
        help="seconds that running requests get",
    )
    add("--store-size", type=_bytes, default="256M", metavar="SIZE", help="of kept responses")
    add("--store-path", metavar="FILE", help="SQLite file that keeps branches and responses (default: none)")
    add(
        "--unknown-fields",
        choices=["refuse", "warn"],
        default=own.unknown_fields,
        help="of requests: a 400, or a log line and a header",
    )
    add(
        "--allowed-origins",
        type=_strings,
        metavar="JSON",
        help="whose pages may call, as '[\"*\"]' (default: this machine's)",
    )
    add("--tool-call-parser", choices=list(FORMATS), help="how it calls tools (default: by its template)")
    add(
        "--trust-request-chat-template",
        action="store_true",
        help="let requests bring chat templates, which can take any time",
    )
    add("--log-level", default="warning", choices=["debug", "info", "warning", "error"], help="what to log")
    add("--access-log", action="store_true", help="log every request, with its id, status and time")


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size like 512M or 2G")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))


def _tokens(text: str) -> int:
    """As vLLM reads it: 1k is 1000, 1K is 1024."""
    if found := _TOKENS.fullmatch(text):
        base = 1000 if found[2].islower() else 1024
        return int(float(found[1]) * base ** (1 if found[2] in "kK" else 2))
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of tokens like 8192 or 8K") from None


def _tokens_or_auto(text: str) -> int | None:
    """vLLM's two words for what the model has and there is room for."""
    return None if text in ("auto", "-1") else _tokens(text)


def _dtype(text: str) -> str | None:
    """vLLM's other names for them, too."""
    return _DTYPES.get(text, text)


def _key(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a key is empty")
    return text


def _strings(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise argparse.ArgumentTypeError(f"'{text}' is not a JSON list of strings")
    return tuple(found)


def _template(path: str) -> str:
    """A file, or as at vLLM the template itself."""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        if "{" in path:
            return path
        raise argparse.ArgumentTypeError(f"'{path}' cannot be read: {error}") from error


def note_unused(arguments: argparse.Namespace, device: str) -> None:
    """Say which options change nothing on the device that there turned out to be."""
    if device == "cpu" and arguments.gpu_memory_utilization is not None:
        print_note("--gpu-memory-utilization", "the model is on a CPU; --kv-cache-memory is what bounds KV")


def engine_config(arguments: argparse.Namespace) -> EngineConfig:
    part = arguments.gpu_memory_utilization
    return EngineConfig(
        model=arguments.model or EMBEDDED,
        dtype=arguments.dtype,
        chat_template=arguments.chat_template,
        device=arguments.device,
        page_size=arguments.page_size,
        num_pages=arguments.num_pages,
        kv_cache_bytes=arguments.kv_cache_memory,
        gpu_memory_utilization=EngineConfig(model="").gpu_memory_utilization if part is None else part,
        max_model_len=arguments.max_model_len,
        max_rows=arguments.max_num_seqs,
        max_batch_tokens=arguments.max_num_batched_tokens,
        max_waiting=arguments.max_waiting,
        max_children=arguments.max_n_branches,
        max_branches=arguments.max_branches,
        threads=arguments.threads,
        deterministic=arguments.deterministic,
        attention_backend=arguments.attention_backend,
    )


def _keys(given: list[list[str]]) -> tuple[str, ...]:
    """Those of all `--api-key`, else the environment's."""
    keys = tuple(key for keys in given for key in keys)
    own = os.environ.get("DENDRITE_API_KEY")
    return keys or ((own,) if own else ())


def server_config(arguments: argparse.Namespace) -> ServerConfig:
    names = arguments.served_model_name or ([] if arguments.model else [EMBEDDED_NAME])
    return ServerConfig(
        host=arguments.host,
        port=arguments.port,
        api_keys=_keys(arguments.api_key or []),
        model_names=tuple(names),
        max_body_bytes=arguments.max_body_size,
        keep_alive=arguments.keep_alive,
        patience=arguments.patience,
        drain_timeout=arguments.drain_timeout,
        store_bytes=arguments.store_size,
        store_path=arguments.store_path,
        allowed_origins=arguments.allowed_origins or (),
        tool_call_parser=arguments.tool_call_parser,
        trust_request_chat_template=arguments.trust_request_chat_template,
        unknown_fields=arguments.unknown_fields,
    )
