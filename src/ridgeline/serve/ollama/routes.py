"""/api/generate, /api/chat and the small ones, as Ollama's clients speak."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ridgeline import __version__
from ridgeline.engine.prompts import Prompt
from ridgeline.engine.request import SamplingParams
from ridgeline.errors import ModelError, RequestError
from ridgeline.serve.core.ask import Ask, Conversation, Reasoning, Tool
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault, HttpError
from ridgeline.serve.core.events import AnswerEvent, raise_error
from ridgeline.serve.core.http import (
    LINES,
    Streamed,
    begun,
    closing,
    compact,
    documented,
    key_of,
    read_body,
    route_of,
    traced,
    while_there,
)
from ridgeline.serve.core.phrasing import constrained
from ridgeline.serve.ollama.answer import Lines
from ridgeline.serve.ollama.bodies import (
    ChatBody,
    GenerateBody,
    PullBody,
    ShowBody,
    check_keep_alive,
    check_loading,
    messages_of,
    sampling_of,
    with_images,
)

NEVER = "2318-01-01T00:00:00Z"


def error_body(fault: Fault) -> dict[str, Any]:
    return {"error": fault.message}


class Line(BaseModel):
    """One of chat's (message) or of generate's (response). ignored_fields: of a lenient server."""

    model: str
    created_at: str
    done: bool
    done_reason: str = "stop"
    message: dict[str, Any] = {}
    response: str = ""
    thinking: str = ""
    logprobs: list[dict[str, Any]] = []
    context: list[int] = []
    ignored_fields: list[str] = []


class Pulled(BaseModel):
    status: str


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["ollama"])
    routes.include_router(keeping(core))

    if core.llm.task == "generate":
        routes.include_router(answering(core))

    @routes.get("/api/tags")
    async def tags(request: Request) -> Response:
        core.tenant(key_of(request))
        return JSONResponse({"models": [described(core, name) for name in core.options.names]})

    @routes.get("/api/ps")
    async def running(request: Request) -> Response:
        core.tenant(key_of(request))
        more = {"expires_at": NEVER, "size_vram": 0, "context_length": core.engine.max_context}
        models = [described(core, name) | more for name in core.options.names]
        return JSONResponse({"models": models})

    @routes.post("/api/show", openapi_extra=documented(ShowBody))
    async def show(request: Request) -> Response:
        core.tenant(key_of(request))
        body, _ = await read_body(core, request, ShowBody)
        name = body.model or body.name
        if name is None:
            raise RequestError("model", "is missing")
        check_name(core, name)
        return JSONResponse(shown(core, name))

    @routes.get("/api/version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    return routes


def keeping(core: Core) -> APIRouter:
    """The paths that keep Ollama's models: here there is the one that is served, as it is."""
    routes = APIRouter(route_class=route_of(error_body), tags=["ollama"])

    @routes.post("/api/pull", openapi_extra=documented(PullBody, Pulled, LINES))
    async def pull(request: Request) -> Response:
        core.tenant(key_of(request))
        body, _ = await read_body(core, request, PullBody)
        name = body.model or body.name
        if name is None:
            raise RequestError("model", "is missing")
        check_name(core, name)  # what is served is here
        done = {"status": "success"}
        return (
            Response(compact(done) + "\n", media_type=LINES) if body.stream else JSONResponse(done)
        )

    async def cannot(request: Request) -> Response:
        core.tenant(key_of(request))
        what = _KEEPS[request.scope["route"].path]
        one = f"this server has one model, {core.model}, as it was started"
        raise HttpError(400, "invalid_request", f"{what}: {one}")

    for path in _KEEPS:
        method = "DELETE" if path == "/api/delete" else "POST"
        routes.add_api_route(path, cannot, methods=[method], name=path)

    @routes.head("/api/blobs/{digest}")
    async def has_blob(request: Request) -> Response:
        core.tenant(key_of(request))
        return Response(status_code=404)

    return routes


_KEEPS = {
    "/api/create": "models are not made here",
    "/api/copy": "models are not copied or renamed (--name when the server starts)",
    "/api/delete": "models are not deleted",
    "/api/push": "models are not published",
    "/api/blobs/{digest}": "files are not taken",
}


def answering(core: Core) -> APIRouter:
    """The paths of models that write."""
    routes = APIRouter(route_class=route_of(error_body), tags=["ollama"])

    @routes.post("/api/chat", openapi_extra=documented(ChatBody, Line, LINES))
    async def chat(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, ChatBody)
        check_name(core, body.model)
        ignored += _checked(core, body)
        if not body.messages:
            empty = {"message": {"role": "assistant", "content": ""}}
            return JSONResponse(loaded(core, empty, ignored))
        tools = tuple(
            Tool(t.function.name, t.function.description, t.function.parameters or {})
            for t in body.tools or ()
        )
        last = body.messages[-1]
        begun = last.role == "assistant" and bool(last.content) and not last.tool_calls
        conversation = Conversation(
            tuple(messages_of(body)),
            ends="continued" if begun and len(body.messages) > 1 else "answering",
            continued_as=f"messages[{len(body.messages) - 1}]",
        )
        ask = replace(ask_of(core, body, tenant, conversation), tools=tools)
        return await answered(core, request, ask, body, "chat", ignored)

    @routes.post("/api/generate", openapi_extra=documented(GenerateBody, Line, LINES))
    async def generate(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, GenerateBody)
        check_name(core, body.model)
        ignored += _checked(core, body)
        for field, why in _CANNOT.items():
            if getattr(body, field):
                raise RequestError(field, why)
        if not body.prompt and not body.system and not body.suffix:
            return JSONResponse(loaded(core, {"response": ""}, ignored))
        if body.raw or body.suffix:
            where = "a raw prompt" if body.raw else "a gap's surroundings (suffix)"
            for field in ("system", "images", "context", *(("suffix",) if body.raw else ())):
                if getattr(body, field):
                    raise RequestError(field, f"has no place in {where}")
            gap = {"prompt": body.prompt, "suffix": body.suffix}
            ask = ask_of(core, body, tenant, gap if body.suffix else body.prompt)
        else:
            system = [{"role": "system", "content": body.system}] if body.system else []
            content = with_images(body.prompt, body.images, "images")
            messages: list[dict[str, Any]] = [*system, {"role": "user", "content": content}]
            for field in ("system", "images") if body.context else ():
                if getattr(body, field):
                    raise RequestError(field, "has no place behind a context; see /api/chat")
            after = tuple(body.context or ())
            ask = ask_of(core, body, tenant, Conversation(tuple(messages), after=after))
        return await answered(core, request, ask, body, "generate", ignored)

    return routes


def _checked(core: Core, body: ChatBody | GenerateBody) -> list[str]:
    """What is said of loading; the names of what a lenient server leaves out."""
    lenient, model = core.options.lenient, core.llm.assembled
    facts = {
        "num_thread": (model.threads, 0),  # 0: as the server has it, as -1 below
        "num_batch": (model.max_tokens_per_step,),
        "num_gpu": (0, -1),
        "main_gpu": (0,),
        "use_mmap": (True,),
        **dict.fromkeys(_OFF, (False,)),
    }
    left_out = check_loading(body, facts, lenient=lenient)
    return left_out + check_keep_alive(body, lenient=lenient)


_OFF = ("low_vram", "numa", "logits_all", "vocab_only", "use_mlock", "embedding_only")
_CANNOT = {
    "template": "templates of requests are not run; the model's own is used",
    "width": "this model writes text, not images",
    "height": "this model writes text, not images",
    "steps": "this model writes text, not images",
}


def check_name(core: Core, name: str) -> None:
    """As Ollama does, a name may end in ":latest"."""
    core.check_model(name.removesuffix(":latest"))


def ask_of(
    core: Core, body: ChatBody | GenerateBody, tenant: str, prompt: Conversation | Prompt
) -> Ask:
    params = SamplingParams(**sampling_of(body, core.engine.max_context))
    if body.format == "json":
        params = constrained(params, "format", json_object=True)
    elif isinstance(body.format, dict):
        params = constrained(params, "format", json=body.format)
    think = body.think
    effort = think if isinstance(think, str) else None
    switch = None if think is None or not isinstance(prompt, Conversation) else bool(think)
    return Ask(
        prompt,
        params,
        reasoning=Reasoning(switch, effort=effort, enabled_as="think", effort_as="think"),
        service=core.service(tenant),
        request_id=core.new_id("ollama-"),
    )


async def answered(
    core: Core,
    request: Request,
    ask: Ask,
    body: ChatBody | GenerateBody,
    form: Literal["chat", "generate"],
    ignored: list[str],
) -> Response:
    headers = {"x-request-id": ask.request_id or ""}
    if ignored:
        headers["ridgeline-ignored-fields"] = ", ".join(ignored)
    ask = traced(ask, request)
    ends = None
    if isinstance(body, GenerateBody) and not (body.raw or body.suffix or body.images):
        ends = core.prompts.tokenizer.eos_ids
    lines = Lines(body.model, form, logprobs=body.logprobs, ends=ends)
    if body.stream:
        events = await while_there(request, begun(core.answer(ask)))
        return Streamed(events, said_by(lines), told_error, LINES, headers=headers)

    async def folded() -> None:
        async with closing(events := core.answer(ask)):
            async for batch in events:
                for event in batch:
                    raise_error(event)
                    lines.take(event)

    await while_there(request, folded())
    whole = lines.whole() | ({"ignored_fields": ignored} if ignored else {})
    return JSONResponse(whole, headers=headers)


def said_by(lines: Lines) -> Callable[[AnswerEvent], str]:
    def said(event: AnswerEvent) -> str:
        raise_error(event)
        return "".join(compact(line) + "\n" for line in lines.take(event))

    return said


def told_error(fault: Fault) -> str:
    return compact(error_body(fault)) + "\n"


def loaded(core: Core, empty: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """An empty prompt asks for the model to be loaded: it is; it is, too, where a lenient server
    was asked to unload it.
    """
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {
        "model": core.model,
        "created_at": created,
        **empty,
        "done": True,
        "done_reason": "load",
        **({"ignored_fields": ignored} if ignored else {}),
    }


def described(core: Core, name: str) -> dict[str, Any]:
    opened = core.llm.assembled.opened
    modified = datetime.fromtimestamp(core.created, UTC).isoformat().replace("+00:00", "Z")
    graph = opened.graph
    weights = graph.weights
    size = sum(weight.num_bytes for weight in weights)
    elements = sum(weight.num_elements for weight in weights)
    stored = Counter[str]()
    for weight in weights:
        stored[weight.format.name] += weight.num_bytes
    return {
        "name": name,
        "model": name,
        "modified_at": modified,
        "size": size,
        "digest": hashlib.sha256(f"{name} {size}".encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": opened.checkpoint.kind,
            "family": opened.architecture,
            "families": [opened.architecture],
            "parameter_size": f"{elements / 1e6:.1f}M",
            "quantization_level": max(stored, key=lambda one: stored[one]),
        },
    }


def shown(core: Core, name: str) -> dict[str, Any]:
    found = described(core, name)
    form = core.phrasing.form
    try:
        template = core.prompts.template.source
    except ModelError:
        template = ""
    capabilities = ["completion"] if core.llm.task == "generate" else ["embedding"]
    capabilities += ["insert"] if core.prompts.fill_marks is not None else []
    capabilities += ["vision"] if core.prompts.sees else []
    capabilities += ["tools"] if form.tools is not None else []
    capabilities += ["thinking"] if form.reasoning is not None else []
    family = found["details"]["family"]
    return {
        "modelfile": "",
        "parameters": "",
        "template": template,
        "details": found["details"],
        "modified_at": found["modified_at"],
        "capabilities": capabilities,
        "model_info": {
            "general.architecture": family,
            f"{family}.context_length": core.engine.max_context,
        },
    }
