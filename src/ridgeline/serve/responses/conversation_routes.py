"""/v1/conversations: create, get, update, delete, and their items."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ridgeline.errors import RequestError
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import HttpError
from ridgeline.serve.core.http import documented, key_of, read_body
from ridgeline.serve.core.pages import page_of
from ridgeline.serve.responses.conversations import Conversations
from ridgeline.serve.responses.items import listed_item, messages_of, read_items

R = TypeVar("R")
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
Items = Annotated[list[dict[str, Any]], Field(max_length=20)]


class ConversationBody(Body):
    """POST /v1/conversations"""

    items: Items | None = None
    metadata: Metadata | None = None


class UpdateBody(Body):
    metadata: Metadata | None


class ItemsBody(Body):
    items: Items


class ConversationAnswer(BaseModel):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ItemList(BaseModel):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def add_routes(routes: APIRouter, core: Core, kept: Conversations) -> None:
    async def at(name: str, call: Callable[..., R], *given: Any) -> R:
        try:
            return await asyncio.to_thread(call, *given)
        except KeyError as error:
            what = "conversation" if error.args[:1] == (name,) else "item"
            raise HttpError(
                404,
                "not_found",
                f"no {what} {str(error.args[0])[:80]!r} is stored",
                f"{what}_id",
            ) from None

    @routes.post(
        "/v1/conversations", openapi_extra=documented(ConversationBody, ConversationAnswer)
    )
    async def create_conversation(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, ConversationBody)
        items = checked(body.items or [])
        made = await asyncio.to_thread(kept.create, tenant, items, body.metadata or {})
        return JSONResponse(made | ({"ignored_fields": ignored} if ignored else {}))

    @routes.get("/v1/conversations/{conversation_id}")
    async def get_conversation(request: Request, conversation_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        return JSONResponse(await at(conversation_id, kept.get, tenant, conversation_id))

    @routes.post(
        "/v1/conversations/{conversation_id}",
        openapi_extra=documented(UpdateBody, ConversationAnswer),
    )
    async def update_conversation(request: Request, conversation_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        body, _ = await read_body(core, request, UpdateBody)
        new = body.metadata or {}
        return JSONResponse(await at(conversation_id, kept.update, tenant, conversation_id, new))

    @routes.delete("/v1/conversations/{conversation_id}")
    async def delete_conversation(request: Request, conversation_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        await at(conversation_id, kept.remove, tenant, conversation_id)
        answer = {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
        return JSONResponse(answer)

    @routes.post(
        "/v1/conversations/{conversation_id}/items", openapi_extra=documented(ItemsBody, ItemList)
    )
    async def create_items(request: Request, conversation_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        body, _ = await read_body(core, request, ItemsBody)
        items = checked(body.items)
        added = await at(conversation_id, kept.add, tenant, conversation_id, items)
        return JSONResponse(page_of([*map(shown, added)], {}, limit=20))

    @routes.get("/v1/conversations/{conversation_id}/items")
    async def list_items(request: Request, conversation_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        items = await at(conversation_id, kept.items, tenant, conversation_id)
        data = [shown(item) for item in items]
        known = ("include", "include[]")
        page = page_of(data, request.query_params, limit=20, order="desc", known=known)
        return JSONResponse(page)

    @routes.get("/v1/conversations/{conversation_id}/items/{item_id}")
    async def get_item(request: Request, conversation_id: str, item_id: str) -> Response:
        tenant = core.tenant(key_of(request))

        def found() -> dict[str, Any]:
            every = {item["id"]: item for item in kept.items(tenant, conversation_id)}
            return shown(every[item_id])

        return JSONResponse(await at(conversation_id, found))

    @routes.delete("/v1/conversations/{conversation_id}/items/{item_id}")
    async def delete_item(request: Request, conversation_id: str, item_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        left = await at(conversation_id, kept.remove_item, tenant, conversation_id, item_id)
        return JSONResponse(left)


def checked(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items that a response could be made of, as `items` of a body. What they refer to may stand
    in the conversation before them, and is looked at when a response is made of it.
    """
    try:
        found = read_items(items, {})
        for item in found:
            if not item["type"].endswith("_output"):
                messages_of([item], None)
    except RequestError as error:
        place = error.field.replace("input[", "items[", 1)
        raise RequestError(place, str(error).partition(": ")[2]) from None
    return found


def shown(item: dict[str, Any]) -> dict[str, Any]:
    return {"status": "completed", **listed_item(item)}
