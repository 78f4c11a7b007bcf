"""Options of `vllm serve` that mean nothing here, or cannot be had: each says so, and none passes in silence.

A command line that was written for vLLM then starts, or ends with a sentence that says what to do instead.
What has the same meaning under the same name, or another one, is an option of our own (`arguments.py`).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

from dendrite_core.params import MAX_TOP_LOGPROBS


class Foreign(NamedTuple):
    """What to say of it, how many arguments it `takes` (as `nargs`), and which values ask for nothing."""

    says: str
    takes: str | int | None = 0
    but: tuple[str, ...] = ()


_ONE_DEVICE = "a model runs on one device here"
_LORA = "there are no LoRA adapters here; merge the adapter into the checkpoint"
_SPECULATION = "there is no speculative decoding here"
_TLS = "put a proxy that speaks TLS in front (docs/deployment.md)"
_GENERATES = "this server generates text and nothing else"
_KERNELS = "kernels and graphs are what the device has"
_SETTINGS = "requests bring their own sampling, defaults are OpenAI's"
_FOLDER = "download what is wanted and give its folder as the model"
_QUIET = "requests are logged with --access-log only"
_STEP = "--max-num-batched-tokens bounds the new tokens of a step"
_STAYS = "KV stays where it was computed"
_OWN_CODE = "known families run on our own decoder, others through transformers' code"

CHANGES_NOTHING = {
    "--enable-prefix-caching": Foreign("prefixes are always cached"),
    "--enable-chunked-prefill": Foreign("long prompts are always computed in chunks"),
    "--no-enable-chunked-prefill": Foreign("long prompts are always computed in chunks"),
    "--max-num-partial-prefills": Foreign(_STEP, takes=None),
    "--max-long-partial-prefills": Foreign(_STEP, takes=None),
    "--long-prefill-token-threshold": Foreign(_STEP, takes=None),
    "--async-scheduling": Foreign("on a GPU steps overlap anyway"),
    "--scheduling-policy": Foreign("who has the smaller 'priority' always runs earlier", takes=None),
    "--prefix-caching-hash-algo": Foreign("the past is found by its tokens, not by hashes", takes=None),
    "--enable-prompt-tokens-details": Foreign("cached tokens are always told"),
    "--enable-auto-tool-choice": Foreign("a model whose template has tools may always call them"),
    "--enable-reasoning": Foreign("thoughts are always split off where the template has them"),
    "--reasoning-parser": Foreign("how a model thinks is read off its chat template", takes=None),
    "--enable-server-load-tracking": Foreign("the load is always told at /load"),
    "--enable-tokenizer-info-endpoint": Foreign("/tokenizer_info is always there"),
    "--enable-request-id-headers": Foreign("every answer has its x-request-id"),
    "--disable-frontend-multiprocessing": Foreign("the server is one process"),
    "--disable-custom-all-reduce": Foreign(_ONE_DEVICE),
    "--guided-decoding-backend": Foreign("grammars are held by llguidance", takes=None),
    "--structured-outputs-config": Foreign("grammars are held by llguidance", takes=None),
    "--cudagraph-capture-sizes": Foreign(_KERNELS, takes="+"),
    "--max-cudagraph-capture-size": Foreign(_KERNELS, takes=None),
    "--max-log-len": Foreign("prompts are not logged", takes=None),
    "--enforce-eager": Foreign("CUDA graphs are captured anyway"),
    "--trust-remote-code": Foreign("code in a checkpoint is never run"),
    "--disable-log-requests": Foreign(_QUIET),
    "--no-enable-log-requests": Foreign(_QUIET),
    "--disable-log-stats": Foreign("figures are told at /metrics only"),
    "--disable-uvicorn-access-log": Foreign(_QUIET),
    "--allow-credentials": Foreign("keys travel in a header, which every allowed origin may send"),
    "--allowed-methods": Foreign("all methods are allowed", takes=None),
    "--allowed-headers": Foreign("all headers are allowed", takes=None),
    "--limit-mm-per-prompt": Foreign("there is text only", takes=None),
    "--compilation-config": Foreign(_KERNELS, takes=None),
    "-O": Foreign(_KERNELS, takes=None),
    "--swap-space": Foreign("KV is not swapped; it is given up and computed again", takes=None),
}
CANNOT_BE_HAD = {
    "--no-enable-prefix-caching": Foreign("the cache is the tree; 'cache_salt' keeps callers apart"),
    "--tensor-parallel-size": Foreign(_ONE_DEVICE, takes=None, but=("1",)),
    "-tp": Foreign(_ONE_DEVICE, takes=None, but=("1",)),
    "--tp": Foreign(_ONE_DEVICE, takes=None, but=("1",)),
    "--tp-size": Foreign(_ONE_DEVICE, takes=None, but=("1",)),
    "-pp": Foreign(_ONE_DEVICE, takes=None, but=("1",)),
    "-dp": Foreign(_ONE_DEVICE, takes=None, but=("1",)),
    "--enable-expert-parallel": Foreign(_ONE_DEVICE),
    "--api-server-count": Foreign("the server is one process", takes=None, but=("1",)),
    "--pipeline-parallel-size": Foreign(_ONE_DEVICE, takes=None, but=("1",)),
    "--data-parallel-size": Foreign(_ONE_DEVICE, takes=None, but=("1",)),
    "--kv-cache-dtype": Foreign("KV has the model's dtype here", takes=None, but=("auto",)),
    "--quantization": Foreign("it is read off the checkpoint, and FP8 is what can be read", takes=None),
    "-q": Foreign("it is read off the checkpoint, and FP8 is what can be read", takes=None),
    "--kv-transfer-config": Foreign(_STAYS, takes=None),
    "--kv-events-config": Foreign(_STAYS, takes=None),
    "--kv-offloading-size": Foreign("KV is given up under pressure and computed again", takes=None),
    "--model-impl": Foreign(_OWN_CODE, takes=None, but=("auto",)),
    "--hf-overrides": Foreign("change the folder's config.json", takes=None),
    "--hf-token": Foreign("set HF_TOKEN instead", takes=None),
    "--tokenizer-revision": Foreign(_FOLDER, takes=None),
    "--tokenizer-mode": Foreign("it is read off the checkpoint", takes=None, but=("auto",)),
    "--enable-prompt-embeds": Foreign("prompts are text or token ids"),
    "--enable-sleep-mode": Foreign("end the server; --store-path keeps its branches"),
    "--max-logprobs": Foreign(f"it is {MAX_TOP_LOGPROBS} here", takes=None, but=(str(MAX_TOP_LOGPROBS),)),
    "--logprobs-mode": Foreign("they are raw ones", takes=None, but=("raw_logprobs",)),
    "--stream-interval": Foreign("every step is sent as it is made", takes=None, but=("1",)),
    "--default-chat-template-kwargs": Foreign("a request brings its 'chat_template_kwargs'", takes=None),
    "--response-role": Foreign("it is assistant", takes=None, but=("assistant",)),
    "--return-tokens-as-token-ids": Foreign("a request asks with 'return_token_ids'"),
    "--tool-parser-plugin": Foreign("--tool-call-parser has the formats that there are", takes=None),
    "--enable-log-outputs": Foreign("answers are not logged"),
    "--otlp-traces-endpoint": Foreign("there are figures at /metrics, and no traces", takes=None),
    "--middleware": Foreign("put a proxy in front (docs/deployment.md)", takes=None),
    "--uds": Foreign("listen on a port: --host and --port", takes=None),
    "--config": Foreign("write its options on the command line", takes=None),
    "--enable-lora": Foreign(_LORA),
    "--lora-modules": Foreign(_LORA, takes="+"),
    "--speculative-config": Foreign(_SPECULATION, takes=None),
    "--speculative-model": Foreign(_SPECULATION, takes=None),
    "--generation-config": Foreign(_SETTINGS, takes=None, but=("vllm",)),
    "--override-generation-config": Foreign(_SETTINGS, takes=None),
    "--revision": Foreign(_FOLDER, takes=None),
    "--tokenizer": Foreign(_FOLDER, takes=None),
    "--download-dir": Foreign("set HF_HOME instead", takes=None),
    "--load-format": Foreign("weights are safetensors", takes=None, but=("auto", "safetensors")),
    "--cpu-offload-gb": Foreign(_ONE_DEVICE, takes=None, but=("0",)),
    "--distributed-executor-backend": Foreign(_ONE_DEVICE, takes=None),
    "--enable-log-requests": Foreign("it is --access-log here"),
    "--uvicorn-log-level": Foreign("it is --log-level here", takes=None),
    "--enable-force-include-usage": Foreign("a request asks with 'stream_options'"),
    "--seed": Foreign("a request brings its own 'seed'", takes=None),
    "--task": Foreign(_GENERATES, takes=None, but=("auto", "generate")),
    "--runner": Foreign(_GENERATES, takes=None, but=("auto", "generate")),
    "--root-path": Foreign("let the proxy take the prefix off", takes=None),
    "--ssl-ca-certs": Foreign(_TLS, takes=None),
    "--ssl-keyfile": Foreign(_TLS, takes=None),
    "--ssl-ciphers": Foreign(_TLS, takes=None),
    "--ssl-certfile": Foreign(_TLS, takes=None),
}


def print_note(option: str, says: str) -> None:
    print(f"dendrite: {option} changes nothing: {says}", file=sys.stderr)


class _Noted(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        assert option is not None
        print_note(option, CHANGES_NOTHING[option].says)


class _Refused(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        assert option is not None
        if values not in CANNOT_BE_HAD[option].but:
            parser.error(f"{option}: {CANNOT_BE_HAD[option].says}")


def add_vllm_options(parser: argparse.ArgumentParser) -> None:
    """Let a parser know them, without a word in its help."""
    for action, options in ((_Noted, CHANGES_NOTHING), (_Refused, CANNOT_BE_HAD)):
        for name, foreign in options.items():
            dest = f"vllm{name}".replace("-", "_")
            parser.add_argument(name, action=action, nargs=foreign.takes, dest=dest, help=argparse.SUPPRESS)
