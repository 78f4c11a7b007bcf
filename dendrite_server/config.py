"""Settings of the HTTP side: what is asked on the command line, apart from the engine's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dendrite_core.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How the server listens, whom it lets in, and what it puts up with.

    Callers must send one of `api_keys` (none: anybody may call). `model_names` are those the model answers
    to, the first one is the default (none: its folder's name). Times are seconds: `keep_alive` of silence
    before a stream sends a comment, `patience` before a reader that takes nothing is dropped, `drain_timeout`
    for running requests after SIGTERM.
    `store_count` and `store_bytes` bound what is kept of responses, of conversations and of stored chat
    completions each; with `store_path`, a file, it is there again after a restart, and so are branches.
    Pages of this machine and of `allowed_origins` ("*": of any) may call from a browser. `unknown_fields`
    of requests are refused ("refuse"), or left out and named in a `warnings` header ("warn").
    `tool_call_parser` names how the model writes tool calls; None reads it off its chat template.
    `trust_request_chat_template` lets requests bring their own: whoever may send one can make the server
    compute for as long as they like. Raises `RequestError`, naming the setting.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    model_names: tuple[str, ...] = ()
    max_body_bytes: int = 32 << 20
    keep_alive: float = 15.0
    patience: float = 60.0
    drain_timeout: float = 120.0
    store_count: int = 10_000
    store_bytes: int = 256 << 20
    store_path: str | None = None
    allowed_origins: tuple[str, ...] = ()
    unknown_fields: Literal["refuse", "warn"] = "refuse"
    tool_call_parser: str | None = None
    trust_request_chat_template: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise RequestError(f"port must be in [0, {(1 << 16) - 1}]", param="port")
        for name in ("max_body_bytes", "keep_alive", "patience", "store_count", "store_bytes"):
            if not getattr(self, name) > 0:
                raise RequestError(f"{name} must be greater than 0", param=name)
        if not self.drain_timeout >= 0:
            raise RequestError("drain_timeout must be at least 0", param="drain_timeout")
