"""POST /v1/chat/completions and GET /v1/models, as OpenAI's clients speak."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ridgeline.engine.request import SamplingParams
from ridgeline.errors import RequestError
from ridgeline.serve.core.ask import (
    AllowedTools,
    Ask,
    Conversation,
    NamedTool,
    Reasoning,
    TextFormat,
    Tool,
    ToolChoice,
)
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault
from ridgeline.serve.core.events import AnswerEvent, raise_error
from ridgeline.serve.core.freeform import arguments_of as freeform_arguments
from ridgeline.serve.core.freeform import freeform_tool
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
from ridgeline.serve.openai.answers import Completion
from ridgeline.serve.openai.beams import beams_of, check_beams
from ridgeline.serve.openai.chat_answer import ChatBuilder
from ridgeline.serve.openai.chat_bodies import (
    AllowedChoice,
    Call,
    ChatBody,
    ConstrainedBody,
    CustomTool,
    ImagePart,
    Message,
    NamedCustomChoice,
    NamedFunctionChoice,
    OtherPart,
    SamplingBody,
    StreamOptions,
)
from ridgeline.serve.openai.errors import error_body


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["openai"])

    @routes.post("/v1/chat/completions", openapi_extra=documented(ChatBody, Completion, EVENTS))
    async def create_chat_completion(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, ChatBody)
        core.check_model(body.model)
        chat_id = core.new_id("chatcmpl-")
        ask = traced(ask_of(core, body, tenant, chat_id), request)
        builder = builder_of(core, body, ask, chat_id)
        headers = {"x-request-id": chat_id}
        if ignored:
            headers["ridgeline-ignored-fields"] = ", ".join(ignored)
        if body.stream:
            events = await while_there(request, begun(core.answer(ask)))
            start = builder.start(wants_usage(body.stream_options))
            return server_sent(
                events,
                builder.said,
                told_error,
                first="".join(sent(compact(chunk)) for chunk in start),
                last=told_end,
                headers=headers,
            )
        await while_there(request, folded(builder, core.answer(ask)))
        whole = builder.whole() | ({"ignored_fields": ignored} if ignored else {})
        return JSONResponse(whole, headers=headers)

    return routes


def ask_of(core: Core, body: ChatBody, tenant: str, request_id: str) -> Ask:
    if body.store:
        raise RequestError("store", "chat completions are not stored; use /v1/responses")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise RequestError("max_tokens", "and max_completion_tokens are the same; give one")
    check_stream(body.stream, body.stream_options, body)
    sampling = body.given()
    most = body.max_completion_tokens or body.max_tokens
    if body.add_generation_prompt and body.continue_final_message:
        raise RequestError("add_generation_prompt", "and continue_final_message: give one")
    ends: Literal["answering", "closed", "continued"] = "answering"
    if body.continue_final_message:
        ends = "continued"
    elif body.add_generation_prompt is False:
        ends = "closed"
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs", "needs logprobs to be true")
    beams = beams_of(body, sampling)
    params = SamplingParams(
        max_tokens=most, logprobs=(body.top_logprobs or 0) if body.logprobs else None, **sampling
    )
    params = constrained_by(params, body)
    if beams is not None:
        check_beams(params, tools=bool(body.tools) and body.tool_choice != "none")
    effort = body.reasoning_effort
    return Ask(
        Conversation(tuple(messages_of(body.messages)), body.chat_template_kwargs or {}, ends),
        params,
        tools=tools_of(body),
        tool_choice=choice_of(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning=Reasoning(
            False if effort == "none" else None,
            separate=body.include_reasoning,
            effort=None if effort == "none" else effort,
        ),
        service=core.service(tenant, body.priority, body.cache_salt, body.timeout_seconds),
        request_id=request_id,
        truncate=body.truncate_prompt_tokens,
        tells_prompt=bool(body.return_token_ids),
        beams=beams,
    )


def builder_of(core: Core, body: ChatBody, ask: Ask, chat_id: str) -> ChatBuilder:
    return ChatBuilder(
        chat_id,
        core.model,
        ask.sampling.n,
        bool(body.logprobs),
        token_ids=bool(body.return_token_ids),
        freeform=freeform_names(body),
    )


def check_stream(
    stream: bool | None, options: StreamOptions | None, sampling: SamplingBody
) -> None:
    """What streams do not carry is refused, not left out."""
    if options is not None and options.continuous_usage_stats:
        raise RequestError(
            "stream_options.continuous_usage_stats",
            "usage comes once, at the stream's end, with include_usage",
        )
    if options is not None and options.include_obfuscation:
        raise RequestError("stream_options.include_obfuscation", "chunks are not padded here")
    if stream and sampling.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs", "come only without stream")


def wants_usage(options: StreamOptions | None) -> bool:
    return options is not None and options.include_usage


def tools_of(body: ChatBody) -> tuple[Tool, ...]:
    found = []
    for place, tool in enumerate(body.tools or ()):
        if isinstance(tool, CustomTool):
            found.append(_freeform(tool, f"tools.{place}.custom.format"))
            continue
        function = tool.function
        found.append(
            Tool(
                function.name,
                function.description,
                function.parameters or {},
                strict=bool(function.strict),
            )
        )
    return tuple(found)


def _freeform(tool: CustomTool, where: str) -> Tool:
    told, form = tool.custom, tool.custom.format
    text = None
    if form is not None and form.type == "grammar":
        if form.grammar is None:
            raise RequestError(f"{where}.grammar", "is missing")
        place = f"{where}.grammar.definition"
        text = TextFormat(form.grammar.syntax, form.grammar.definition, place)
    return freeform_tool(told.name, [told.description] if told.description else [], text)


def freeform_names(body: ChatBody) -> frozenset[str]:
    return frozenset(tool.custom.name for tool in body.tools or () if tool.type == "custom")


def choice_of(body: ChatBody) -> ToolChoice:
    choice = body.tool_choice
    if isinstance(choice, AllowedChoice):
        names = tuple(map(_chosen, choice.allowed_tools.tools))
        return AllowedTools(names, required=choice.allowed_tools.mode == "required")
    if isinstance(choice, NamedFunctionChoice | NamedCustomChoice):
        return NamedTool(_chosen(choice))
    return choice or "auto"


def _chosen(choice: NamedFunctionChoice | NamedCustomChoice) -> str:
    named = choice.custom if isinstance(choice, NamedCustomChoice) else choice.function
    return named.name


def messages_of(messages: list[Message]) -> list[dict[str, Any]]:
    """As chat templates know them: texts, and the arguments of calls as objects."""
    found = []
    names: dict[str, str] = {}
    for place, message in enumerate(messages):
        where = f"messages.{place}"
        role = "system" if message.role == "developer" else message.role
        entry: dict[str, Any] = {"role": role, "content": content_of(message, f"{where}.content")}
        reasoning = message.reasoning_content or message.reasoning
        if reasoning:
            entry["reasoning_content"] = reasoning
        if message.name is not None:
            entry["name"] = message.name
        if message.tool_calls:
            calls = []
            for number, call in enumerate(message.tool_calls):
                function = _called(call, f"{where}.tool_calls.{number}")
                names[call.id] = function["name"]
                calls.append({"id": call.id, "type": "function", "function": function})
            entry["tool_calls"] = calls
        if message.role == "tool":
            if message.tool_call_id is None:
                raise RequestError(f"{where}.tool_call_id", "is missing")
            entry["tool_call_id"] = message.tool_call_id
            if message.tool_call_id in names:
                entry.setdefault("name", names[message.tool_call_id])
        found.append(entry)
    return found


def _called(call: Call, where: str) -> dict[str, Any]:
    """A call as the model writes it."""
    if call.type == "custom":
        if call.custom is None:
            raise RequestError(f"{where}.custom", "is missing")
        return {"name": call.custom.name, "arguments": freeform_arguments(call.custom.input)}
    if call.function is None:
        raise RequestError(f"{where}.function", "is missing")
    arguments = arguments_of(call.function.arguments, f"{where}.function.arguments")
    return {"name": call.function.name, "arguments": arguments}


def arguments_of(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError(where, "is not JSON") from None
    if not isinstance(found, dict):
        raise RequestError(where, "is not a JSON object")
    return found


def content_of(message: Message, where: str) -> str | list[dict[str, Any]]:
    """The text; of a message with images its parts, in order."""
    if not isinstance(message.content, list):
        return message.content or ""
    parts: list[dict[str, Any]] = []
    for place, part in enumerate(message.content):
        if isinstance(part, OtherPart):
            raise RequestError(f"{where}.{place}.type", f"this model reads text, not {part.type}")
        if isinstance(part, ImagePart):
            parts.append({"type": "image_url", "image_url": part.image_url.url})
        else:
            parts.append({"type": "text", "text": part.text or part.refusal or ""})
    if any(part["type"] == "image_url" for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def constrained_by(params: SamplingParams, body: ConstrainedBody) -> SamplingParams:
    wanted: dict[str, Any] = {}
    field = "response_format"
    form = body.response_format
    if form is not None and form.type == "json_object":
        wanted["json_object"] = True
    elif form is not None and form.type == "json_schema":
        if form.json_schema is None or form.json_schema.schema_ is None:
            raise RequestError("response_format.json_schema.schema", "is missing")
        wanted["json"] = form.json_schema.schema_
    structured = body.structured_outputs
    if structured is not None:
        if wanted:
            raise RequestError("structured_outputs", "and response_format: give one")
        field = "structured_outputs"
        kinds = {
            "json": structured.json_,
            "json_object": structured.json_object or None,
            "regex": structured.regex,
            "choice": None if structured.choice is None else tuple(structured.choice),
            "grammar": structured.grammar,
        }
        wanted = {name: value for name, value in kinds.items() if value is not None}
        if len(wanted) != 1:
            raise RequestError(field, f"one of {', '.join(kinds)} is to be given")
    return constrained(params, field, **wanted) if wanted else params


async def folded(builder: ChatBuilder, events: AsyncIterator[list[AnswerEvent]]) -> None:
    async with closing(events):
        async for batch in events:
            for event in batch:
                raise_error(event)
                builder.take(event)


def told_error(fault: Fault) -> str:
    """An error, as the end of a stream of OpenAI's."""
    return sent(compact(error_body(fault)))


async def told_end() -> str:
    return sent("[DONE]")


def now() -> int:
    return int(time.time())
