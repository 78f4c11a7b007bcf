"""What is served and how it does: models, health, metrics, version, and the tokenizer over HTTP."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_core.engine.engine import Engine
from dendrite_core.errors import EngineClosed
from dendrite_core.text.files import chat_templates, read_json, special_token_names, tokenizer_folder
from dendrite_server.description.metrics import metrics_text
from dendrite_server.description.openapi import document
from dendrite_server.endpoints.generation import json_response, read_request
from dendrite_server.protocol.fields import Fields, as_token_ids, missing
from dendrite_server.protocol.messages import parse_messages
from dendrite_server.protocol.request import chat_template, template_kwargs
from dendrite_server.protocol.response import Body, encode_json
from dendrite_server.protocol.tools import read_tools
from dendrite_server.service import Service, service_of


async def list_models(request: Request) -> Response:
    service = service_of(request)
    return json_response({"object": "list", "data": [_model(service, name) for name in service.names]})


async def get_model(request: Request) -> Response:
    service = service_of(request)
    return json_response(_model(service, service.model_name(request.path_params["model"])))


def _model(service: Service, name: str) -> Body:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "dendrite",
        "root": service.root,
        "parent": None,
        "max_model_len": service.engine.config.max_model_len,
    }


async def health(request: Request) -> Response:
    """200 while requests are taken; 503 while draining or when the engine is gone."""
    service = service_of(request)
    try:
        stats = await asyncio.wrap_future(service.engine.stats())
    except EngineClosed:
        return _health("closed", {})
    body = {
        "model": service.names[0],
        "pages": {
            "total": stats.pages_total,
            "free": stats.pages_free,
            "used": stats.pages_used,
            "shared": stats.pages_shared,
            "cached": stats.pages_cached,
            "size": stats.page_size,
        },
        "running": stats.running,
        "waiting": stats.waiting,
        "branches": stats.branches,
    }
    return _health("draining" if service.draining else "ok", body)


def _health(status: str, body: Body) -> Response:
    content = encode_json({"status": status, **body})
    return Response(content, 200 if status == "ok" else 503, media_type="application/json")


async def load(request: Request) -> Response:
    """How much there is to do, in vLLM's shape: prompts that wait or are answered."""
    return json_response({"server_load": service_of(request).engine.in_flight})


async def show_version(request: Request) -> Response:
    return json_response({"version": service_of(request).version})


async def metrics(request: Request) -> Response:
    service = service_of(request)
    stats = await asyncio.wrap_future(service.engine.stats())
    text = metrics_text(stats, service.answers, service.names[0])
    return Response(text, media_type="text/plain; version=0.0.4")


async def show_openapi(request: Request) -> Response:
    return json_response(document(request.app.routes, service_of(request).version))


async def tokenize(request: Request) -> Response:
    """Ids of a prompt or of messages, in vLLM's shape."""
    service = service_of(request)
    fields = Fields(await read_request(request))
    service.model_name(fields.string("model"))
    with_texts = fields.boolean("return_token_strs", False)
    chat = fields.has("messages")
    ids = _tokens_of_messages(service, fields) if chat else _tokens_of_prompt(service, fields)
    fields.finish()
    tokenizer = service.engine.tokenizer
    return json_response(
        {
            "count": len(ids),
            "max_model_len": service.engine.config.max_model_len,
            "tokens": ids,
            "token_strs": [tokenizer.token_text(token) for token in ids] if with_texts else None,
        }
    )


def _tokens_of_prompt(service: Service, fields: Fields) -> list[int]:
    fields.require("prompt")
    text = fields.string("prompt", "")
    tokenizer = service.engine.tokenizer
    framed = fields.boolean("add_special_tokens", True)
    return tokenizer.encode_prompt(text) if framed else tokenizer.encode(text, special=True)


def _tokens_of_messages(service: Service, fields: Fields) -> list[int]:
    messages = parse_messages(fields.array("messages") or [])
    continues = fields.boolean("continue_final_message", False)
    tools = read_tools(fields, None, service.dialect)
    ids, _ = service.engine.encode_chat(
        list(messages),
        continues=False,
        add_generation_prompt=fields.boolean("add_generation_prompt", not continues),
        continue_final_message=continues,
        tools=list(tools.offered) or None,
        chat_template=chat_template(fields, service.limits),
        **template_kwargs(fields),
    )
    framed = fields.boolean("add_special_tokens", False)
    return list(service.engine.tokenizer.framed(ids) if framed else ids)


async def detokenize(request: Request) -> Response:
    service = service_of(request)
    fields = Fields(await read_request(request))
    service.model_name(fields.string("model"))
    if not fields.has("tokens"):
        raise missing("tokens")
    ids = as_token_ids("tokens", fields.take("tokens"), service.limits.vocab_size)
    fields.finish()
    return json_response({"prompt": service.engine.tokenizer.decode(ids, skip_special_tokens=False)})


async def tokenizer_info(request: Request) -> Response:
    """The tokenizer's settings as its files have them, with the tokens and the template they amount to."""
    engine = service_of(request).engine
    return json_response(await asyncio.to_thread(_tokenizer_info, engine))


def _tokenizer_info(engine: Engine) -> Body:
    folder = tokenizer_folder(engine.config.model)
    settings = read_json(folder / "tokenizer_config.json")
    named = {"bos_token": None, "pad_token": None, "unk_token": None, **special_token_names(folder)}
    return {
        **{name: value for name, value in settings.items() if name != "name_or_path"},
        **named,
        "eos_token": named.get("eos_token"),
        "eos_token_ids": list(engine.tokenizer.eos_ids),
        "chat_template": chat_templates(folder).get("default"),
        "vocab_size": engine.tokenizer.vocab_size,
        "max_model_len": engine.config.max_model_len,
    }


routes = [
    Route("/v1/models", list_models, methods=["GET"]),
    # Names of models may hold slashes, as hub ids do.
    Route("/v1/models/{model:path}", get_model, methods=["GET"]),
    Route("/health", health, methods=["GET"]),
    # Amazon SageMaker's name for it.
    Route("/ping", health, methods=["GET", "POST"]),
    Route("/load", load, methods=["GET"]),
    Route("/version", show_version, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
    Route("/openapi.json", show_openapi, methods=["GET"]),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/tokenizer_info", tokenizer_info, methods=["GET"]),
]
