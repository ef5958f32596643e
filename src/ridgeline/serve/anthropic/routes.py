"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ridgeline.engine.request import SamplingParams
from ridgeline.errors import RequestError
from ridgeline.serve.anthropic.bodies import CountBody, MessagesBody
from ridgeline.serve.anthropic.conversation import messages_of, tools_of
from ridgeline.serve.anthropic.edits import edited
from ridgeline.serve.anthropic.message import MessageBuilder
from ridgeline.serve.core.ask import Ask, Conversation, NamedTool, Reasoning, Tool, ToolChoice
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault
from ridgeline.serve.core.events import AnswerEvent, raise_error
from ridgeline.serve.core.http import (
    EVENTS,
    begun,
    closing,
    compact,
    documented,
    key_of,
    read_body,
    route_of,
    sent,
    server_sent,
    traced,
    while_there,
)
from ridgeline.serve.core.phrasing import constrained

_KINDS = {
    "invalid_request": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "server": "api_error",
}
VERSIONS = ("2023-01-01", "2023-06-01", "2026-10-21")


def error_body(fault: Fault) -> dict[str, Any]:
    error = {"type": _KINDS[fault.kind], "message": fault.message}
    return {"type": "error", "error": error}


class MessageAnswer(BaseModel):
    """ignored_fields: of a lenient server."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: dict[str, int]
    context_management: dict[str, Any] | None = None
    ignored_fields: list[str] = []


class Count(BaseModel):
    input_tokens: int
    context_management: dict[str, int] | None = None


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["anthropic"])

    @routes.post("/v1/messages", openapi_extra=documented(MessagesBody, MessageAnswer, EVENTS))
    async def create_message(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        check_version(request)
        body, ignored = await read_body(core, request, MessagesBody)
        core.check_model(body.model)
        message_id = core.new_id("msg_")
        ask, builder, dropped = await made(core, body, tenant, message_id)
        ask = traced(ask, request)
        ignored += dropped
        headers = {"request-id": message_id}
        if ignored:
            headers["ridgeline-ignored-fields"] = ", ".join(ignored)
        if body.stream:
            events = await while_there(request, begun(core.answer(ask)))
            start = "".join(sent(compact(data), name) for name, data in builder.start())
            return server_sent(events, said_by(builder), told_error, first=start, headers=headers)
        await while_there(request, folded(builder, core.answer(ask)))
        whole = builder.whole() | ({"ignored_fields": ignored} if ignored else {})
        return JSONResponse(whole, headers=headers)

    @routes.post("/v1/messages/count_tokens", openapi_extra=documented(CountBody, Count))
    async def count_tokens(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        check_version(request)
        body, _ = await read_body(core, request, CountBody)
        core.check_model(body.model)
        dropped: list[str] | None = [] if core.options.lenient else None
        kept, _ = await edited(body, counter(core), dropped)
        found: dict[str, Any] = {
            "input_tokens": await num_tokens(core, counted(core, kept, tenant, dropped))
        }
        if body.context_management is not None:
            whole = counted(core, body, tenant, dropped)
            found["context_management"] = {"original_input_tokens": await num_tokens(core, whole)}
        return JSONResponse(found)

    return routes


def check_version(request: Request) -> None:
    version = request.headers.get("anthropic-version")
    if version is not None and version not in VERSIONS:
        raise RequestError("anthropic-version", f"{version!r} is not one of {', '.join(VERSIONS)}")


async def made(
    core: Core, body: MessagesBody, tenant: str, message_id: str
) -> tuple[Ask, MessageBuilder, list[str]]:
    """What is asked, what will tell it, and what a lenient server leaves out of it."""
    dropped: list[str] | None = [] if core.options.lenient else None
    kept, applied = await edited(body, counter(core), dropped)
    assert isinstance(kept, MessagesBody)
    ask = ask_of(core, kept, tenant, message_id, dropped)
    edits = None if body.context_management is None else applied
    omits = body.thinking is not None and body.thinking.display == "omitted"
    return ask, MessageBuilder(message_id, core.model, omits=omits, edits=edits), dropped or []


async def num_tokens(core: Core, ask: Ask) -> int:
    return len((await asyncio.to_thread(core.phrasing.render, ask)).token_ids)


def counter(core: Core) -> Callable[[CountBody], Awaitable[int]]:
    """Counts the tokens of a body's prompt."""

    async def count(body: CountBody) -> int:
        return await num_tokens(core, counted(core, body, "", []))

    return count


def counted(core: Core, body: CountBody, tenant: str, ignored: list[str] | None = None) -> Ask:
    choice, many = choice_of(body)
    thinking = body.thinking
    effort = body.output_config.effort if body.output_config else None
    switch = None if thinking is None else thinking.type != "disabled"
    if (
        thinking is not None
        and thinking.type == "adaptive"
        and core.phrasing.form.reasoning is None
    ):
        switch = None
    tools = tuple(
        Tool(
            each["function"]["name"],
            each["function"].get("description"),
            each["function"]["parameters"],
        )
        for each in tools_of(body.tools, ignored)
    )
    variables = getattr(body, "chat_template_kwargs", None) or {}
    last = len(body.messages) - 1
    begun = body.messages[last].role == "assistant"  # the answer is the rest of it
    ask = Ask(
        Conversation(
            tuple(messages_of(body, ignored)),
            variables,
            "continued" if begun else "answering",
            f"messages.{last}",
        ),
        SamplingParams(),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=many,
        reasoning=Reasoning(
            switch, effort=effort, enabled_as="thinking", effort_as="output_config.effort"
        ),
        service=core.service(tenant),
    )
    return core.phrasing.heard(ask, ignored)


def choice_of(body: CountBody) -> tuple[ToolChoice, bool]:
    choice = body.tool_choice
    if choice is None:
        return "auto", True
    many = not choice.disable_parallel_tool_use
    if choice.type == "tool":
        if choice.name is None:
            raise RequestError("tool_choice.name", "is missing")
        return NamedTool(choice.name), many
    if choice.type == "any":
        return "required", many
    return choice.type, many


def ask_of(
    core: Core,
    body: MessagesBody,
    tenant: str,
    message_id: str,
    ignored: list[str] | None = None,
) -> Ask:
    thinking = body.thinking
    if thinking is not None and thinking.type == "enabled":
        if thinking.budget_tokens is None:
            raise RequestError("thinking.budget_tokens", "is missing")
        if thinking.budget_tokens >= body.max_tokens:
            raise RequestError("thinking.budget_tokens", "must be below max_tokens")
    given = {
        "temperature": body.temperature,
        "top_k": body.top_k,
        "top_p": body.top_p,
        "min_p": body.min_p,
        "seed": body.seed,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "stop": body.stop_sequences,
    }
    sampling: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    params = SamplingParams(max_tokens=body.max_tokens, **sampling)
    if body.output_config is not None and body.output_config.format is not None:
        schema = body.output_config.format.schema_
        params = constrained(params, "output_config.format", json=schema)
    return replace(
        counted(core, body, tenant, ignored),
        sampling=params,
        service=core.service(tenant, body.priority, body.cache_salt),
        request_id=message_id,
    )


async def folded(builder: MessageBuilder, events: AsyncIterator[list[AnswerEvent]]) -> None:
    async with closing(events):
        async for batch in events:
            for event in batch:
                raise_error(event)
                builder.take(event)


def said_by(builder: MessageBuilder) -> Callable[[AnswerEvent], str]:
    def said(event: AnswerEvent) -> str:
        raise_error(event)
        return "".join(sent(compact(data), name) for name, data in builder.take(event))

    return said


def told_error(fault: Fault) -> str:
    return sent(compact(error_body(fault)), "error")
