"""/v1/responses: create, get, cancel, delete, and the items that led to one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ridgeline.engine.request import SamplingParams
from ridgeline.errors import RequestError
from ridgeline.serve.core.ask import (
    AllowedTools,
    Ask,
    Conversation,
    NamedTool,
    Reasoning,
    ToolChoice,
)
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault, HttpError, StorageFault
from ridgeline.serve.core.events import AnswerEvent
from ridgeline.serve.core.http import (
    EVENTS,
    Begun,
    begun,
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
from ridgeline.serve.core.pages import page_of
from ridgeline.serve.core.phrasing import constrained
from ridgeline.serve.openai.errors import error_body
from ridgeline.serve.responses.background import Background, folded
from ridgeline.serve.responses.bodies import (
    AllowedChoice,
    ConversationParam,
    CountBody,
    NamedChoice,
    ResponsesBody,
)
from ridgeline.serve.responses.compaction import before_next, is_asked, summarizing
from ridgeline.serve.responses.compaction_routes import add_compaction
from ridgeline.serve.responses.conversation_routes import add_routes
from ridgeline.serve.responses.conversations import Conversations, require_room
from ridgeline.serve.responses.items import listed_item, messages_of, read_items
from ridgeline.serve.responses.response import ResponseBuilder
from ridgeline.serve.responses.store import Store, documents_of
from ridgeline.serve.responses.tools import Offered, offered_of

logger = logging.getLogger("ridgeline.serve")

_INCLUDED = ("message.output_text.logprobs", "reasoning.encrypted_content")


class Desk:
    """What one server knows of responses: those that are kept, and those that run on their own."""

    def __init__(self, core: Core) -> None:
        self.core = core
        documents = documents_of(core)
        self.store = Store(documents)
        self.conversations = Conversations(documents, core.new_id)
        self.background = Background(
            core, self.store, documents, self.made, self.conversations.take
        )

    async def items(
        self, body: ResponsesBody | CountBody, tenant: str, ignored: list[str] | None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Items that a response is made of: those before, and those that this body gives."""
        before: list[dict[str, Any]] = []
        name = conversation_of(body)
        if name is not None and body.previous_response_id is not None:
            raise RequestError("previous_response_id", "and conversation: give one")
        if name is not None:
            try:
                before = await asyncio.to_thread(self.conversations.items, tenant, name)
            except KeyError:
                raise HttpError(
                    404, "not_found", f"no conversation {name[:80]!r} is stored", "conversation"
                ) from None
        if body.previous_response_id is not None:
            try:
                response, items = await asyncio.to_thread(
                    self.store.get, tenant, body.previous_response_id
                )
            except KeyError:
                raise RequestError(
                    "previous_response_id", f"no response {body.previous_response_id!r} is stored"
                ) from None
            before = before_next(items, response["output"])
        known = {item["id"]: item for item in before if "id" in item}
        given = read_items(body.input, known, ignored)
        if name is not None:
            require_room([*before, *given], "conversation")
        return before, given

    async def made(
        self, body: ResponsesBody, tenant: str, response_id: str
    ) -> tuple[Ask, list[dict[str, Any]], ResponseBuilder]:
        """The ask, all the items that it is made of, and who writes the response."""
        ignored: list[str] | None = [] if self.core.options.lenient else None
        check(body, ignored)
        before, given = await self.items(body, tenant, ignored)
        offered = offered_of(body.tools, ignored)
        compacts = is_asked(given)
        if compacts and conversation_of(body) is not None:
            raise RequestError("conversation", "is kept whole: compact items without it")
        items = before + (given[:-1] if compacts else given)
        ask = ask_of(self.core, body, tenant, response_id, items, offered)
        if compacts:
            ask = summarizing(ask)
        ask = self.core.phrasing.heard(ask, ignored)
        builder = ResponseBuilder(
            response_id,
            head_of(self.core, body),
            wants_logprobs=wants_logprobs(body),
            offered=offered,
            summarizes=wants_summary(body),
            seals=_INCLUDED[1] in (body.include or ()),
            given=given,
            compacts=compacts,
        )
        if ignored:
            builder.response["ignored_fields"] = ignored
        return ask, items, builder


class ResponseAnswer(BaseModel):
    id: str
    object: Literal["response"]
    status: Literal["completed", "incomplete", "failed", "cancelled", "queued", "in_progress"]
    output: list[dict[str, Any]]


class CountAnswer(BaseModel):
    object: Literal["response.input_tokens"]
    input_tokens: int


def router(core: Core) -> APIRouter:
    desk = Desk(core)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await desk.background.resume()
        try:
            yield
        finally:
            await desk.background.stop()

    routes = APIRouter(route_class=route_of(error_body), tags=["openai"], lifespan=lifespan)

    @routes.post("/v1/responses", openapi_extra=documented(ResponsesBody, ResponseAnswer, EVENTS))
    async def create_response(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, ResponsesBody)
        core.check_model(body.model)
        response_id = core.new_id("resp_")
        ask, items, builder = await desk.made(body, tenant, response_id)
        ask = traced(ask, request)
        if ignored:
            builder.response.setdefault("ignored_fields", []).extend(ignored)
        headers = {"x-request-id": response_id}

        def keep() -> None:
            desk.conversations.take(tenant, builder.response, builder.given)
            if body.store is False:
                return
            try:
                desk.store.keep(tenant, builder.response, items)
            except StorageFault as error:
                if body.store:
                    raise
                # Nobody asked for it by name: the answer is told, and that it is not kept.
                logger.warning("response %s is not kept: %s", response_id, error)
                builder.response["store"] = False

        if body.background:
            queued = await desk.background.begin(body, tenant, ask, items, builder)
            if body.stream:
                return await again(request, tenant, response_id, 0, headers)
            return JSONResponse(queued, headers=headers)
        if body.stream:
            events = await while_there(request, begun(core.answer(ask)))
            return streamed(builder, events, keep, headers)
        await while_there(request, folded(core.answer(ask), builder))
        await asyncio.to_thread(keep)
        return JSONResponse(builder.response, headers=headers)

    @routes.post("/v1/responses/input_tokens", openapi_extra=documented(CountBody, CountAnswer))
    async def count(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, _ = await read_body(core, request, CountBody)
        core.check_model(body.model)
        ignored: list[str] | None = [] if core.options.lenient else None
        whole = ResponsesBody.model_construct(**dict(body))
        check(whole, ignored)
        before, given = await desk.items(body, tenant, ignored)
        items = before + given
        offered = offered_of(body.tools, ignored)
        ask = core.phrasing.heard(ask_of(core, whole, tenant, "", items, offered), ignored)
        prompt = await asyncio.to_thread(core.phrasing.render, ask)
        return JSONResponse(
            {"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)}
        )

    async def again(
        request: Request,
        tenant: str,
        response_id: str,
        place: int,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The stream of one in the background, which goes on whoever reads it."""
        await found(desk, tenant, response_id)
        events = desk.background.events(tenant, response_id, place)

        def wrong(fault: Fault) -> str:  # its server ends, say: ask the next one
            error = {"type": "error", "code": fault.kind, "message": fault.message, "param": None}
            return sent(compact(error), "error")

        try:
            first = await while_there(request, begun(events))
        except StopAsyncIteration:
            first = Begun([], events)
        return server_sent(first, str, wrong, headers=headers)

    @routes.get("/v1/responses/{response_id}")
    async def get_response(request: Request, response_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        place = place_of(request.query_params)
        if place is not None:
            return await again(request, tenant, response_id, place)
        return JSONResponse((await found(desk, tenant, response_id))[0])

    @routes.get("/v1/responses/{response_id}/input_items")
    async def list_items(request: Request, response_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        _, items = await found(desk, tenant, response_id)
        data = [
            {"id": f"item_{response_id[5:]}_{number}", **listed_item(item)}
            for number, item in enumerate(items)
        ]
        page = page_of(data, request.query_params, limit=20, order="desc", known=("include[]",))
        return JSONResponse(page)

    @routes.post("/v1/responses/{response_id}/cancel")
    async def cancel_response(request: Request, response_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        await desk.background.cancel(tenant, response_id)
        response, _ = await found(desk, tenant, response_id)
        if response["status"] not in ("cancelled",):
            raise RequestError("response_id", f"the response is {response['status']} already")
        return JSONResponse(response)

    @routes.delete("/v1/responses/{response_id}")
    async def delete_response(request: Request, response_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        await found(desk, tenant, response_id)
        await desk.background.cancel(tenant, response_id)
        await asyncio.to_thread(desk.store.remove, tenant, response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    add_routes(routes, core, desk.conversations)
    add_compaction(routes, core, desk.made)
    return routes


def conversation_of(body: ResponsesBody | CountBody) -> str | None:
    of = body.conversation
    return of.id if isinstance(of, ConversationParam) else of


def place_of(query: Mapping[str, str]) -> int | None:
    """The first event that is wanted; None: the response, whole. Raises RequestError."""
    streams = {"true": True, "false": False, None: False}.get(query.get("stream"))
    if streams is None:
        raise RequestError("stream", "must be true or false")
    after = query.get("starting_after")
    if after is None:
        return 0 if streams else None
    if not streams:
        raise RequestError("starting_after", "needs stream=true")
    if not (after.isascii() and after.isdecimal() and len(after) < 10):
        raise RequestError("starting_after", "must be the sequence_number of an event")
    return int(after) + 1


async def found(
    desk: Desk, tenant: str, response_id: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    running = desk.background.running.get(response_id)
    if running is not None and running.tenant == tenant:
        response = running.builder.response
        has_ended = response["status"] not in ("queued", "in_progress")
        if has_ended and response.get("conversation") is not None:
            await asyncio.wait([running.task])  # who reads of its end finds it in there
        return response, []
    try:
        return await asyncio.to_thread(desk.store.get, tenant, response_id)
    except KeyError:
        raise HttpError(
            404, "not_found", f"no response {response_id[:80]!r} is stored", "response_id"
        ) from None


def check(body: ResponsesBody, ignored: list[str] | None = None) -> None:
    """What can be said in this dialect and not be done here. ignored: is given the hints among it;
    None: those, too, are refused.
    """
    for place, name in enumerate(body.include or ()):
        if name not in _INCLUDED:
            if ignored is None:
                raise RequestError("include", f"{name!r} is not to be had here")
            ignored.append(f"include.{place}")
    if body.max_tool_calls is not None:
        raise RequestError("max_tool_calls", "tools run at the client; leave it out")
    if body.truncation == "auto":
        raise RequestError("truncation", "a conversation is never cut; use 'disabled'")
    if body.background and body.store is False:
        raise RequestError("store", "what runs in the background must be stored to be found")
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        if ignored is None:
            raise RequestError("text.verbosity", "this model knows no verbosity")
        ignored.append("text.verbosity")
    if _summary(body) == "concise":
        if ignored is None:
            raise RequestError(
                "reasoning.summary", "reasoning is not shortened here; use 'auto' or 'detailed'"
            )
        ignored.append("reasoning.summary")


def _summary(body: ResponsesBody) -> str | None:
    switch = body.reasoning
    return None if switch is None else switch.summary or switch.generate_summary


def wants_summary(body: ResponsesBody) -> bool:
    """The summary of reasoning is the reasoning, whole: as detailed as it gets."""
    return _summary(body) is not None


def wants_logprobs(body: ResponsesBody) -> bool:
    return body.top_logprobs is not None or _INCLUDED[0] in (body.include or ())


def ask_of(
    core: Core,
    body: ResponsesBody,
    tenant: str,
    response_id: str,
    items: list[dict[str, Any]],
    offered: Mapping[str, Offered],
) -> Ask:
    given = {
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "seed": body.seed,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "repetition_penalty": body.repetition_penalty,
        "stop": body.stop,
        "logprobs": (body.top_logprobs or 0) if wants_logprobs(body) else None,
    }
    sampling: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    params = SamplingParams(**sampling)
    form = body.text.format if body.text is not None else None
    if form is not None and form.type == "json_object":
        params = constrained(params, "text.format", json_object=True)
    elif form is not None and form.type == "json_schema":
        if form.schema_ is None:
            raise RequestError("text.format.schema", "is missing")
        params = constrained(params, "text.format", json=form.schema_)
    effort = body.reasoning.effort if body.reasoning is not None else None
    return Ask(
        Conversation(tuple(messages_of(items, body.instructions)), body.chat_template_kwargs or {}),
        params,
        tools=tuple(one.tool for one in offered.values()),
        tool_choice=choice_of(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning=Reasoning(
            False if effort == "none" else None,
            effort=None if effort == "none" else effort,
            effort_as="reasoning.effort",
        ),
        service=core.service(tenant, body.priority, body.cache_salt),
        request_id=response_id,
    )


def choice_of(body: ResponsesBody) -> ToolChoice:
    choice = body.tool_choice
    if isinstance(choice, NamedChoice):
        return NamedTool(choice.name)
    if isinstance(choice, AllowedChoice):
        names = tuple(tool.name for tool in choice.tools)
        return AllowedTools(names, required=choice.mode == "required")
    return choice or "auto"


def head_of(core: Core, body: ResponsesBody) -> dict[str, Any]:
    """The fields of a response that repeat its request."""
    plain = body.model_dump(by_alias=True, exclude_none=True)
    plain_tool = {"strict": False, "parameters": {}}
    tools = [
        (plain_tool if tool["type"] == "function" else {}) | tool for tool in plain.get("tools", [])
    ]
    reasoning = {"effort": None, "summary": None} | plain.get("reasoning", {})
    if wants_summary(body):
        reasoning["summary"] = "detailed"
    return {
        "model": core.model,
        "background": bool(body.background),
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "conversation": None if conversation_of(body) is None else {"id": conversation_of(body)},
        "reasoning": reasoning,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"}} | plain.get("text", {}),
        "tool_choice": plain.get("tool_choice", "auto"),
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def streamed(
    builder: ResponseBuilder,
    events: Begun[list[AnswerEvent]],
    keep: Callable[[], None],
    headers: Mapping[str, str],
) -> Response:
    """keep: stores the response; whoever hears its last event finds it stored."""
    held: list[dict[str, Any]] = []

    def said(answered: AnswerEvent) -> str:
        made = builder.take(answered)
        if made and made[-1]["type"] in _LAST:
            held.extend(made)
            return ""
        return _told(made)

    async def last() -> str:
        if held:
            await asyncio.to_thread(keep)
            held[-1]["response"]["store"] = builder.response["store"]
        return _told(held)

    def wrong(fault: Fault) -> str:
        return _told(builder.failed("server_error", fault.message))

    first = _told(builder.start())
    return server_sent(events, said, wrong, first=first, last=last, headers=headers)


def _told(events: Sequence[dict[str, Any]]) -> str:
    return "".join(sent(compact(event), event["type"]) for event in events)


_LAST = ("response.completed", "response.incomplete", "response.failed")
