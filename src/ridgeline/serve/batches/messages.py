"""/v1/messages/batches, as Anthropic's clients speak: batches like the others, told in their words.

The requests come in the body and are kept as an input file is. Results are read from the journal
when they are asked for: of a request that has no answer when all is over, they say why.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from ridgeline.errors import RequestError
from ridgeline.serve.anthropic.routes import check_version, error_body
from ridgeline.serve.batches.batch import LIVE, MAX_LINES, MESSAGES, Batches, InputGone
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import HttpError
from ridgeline.serve.core.http import LINES, documented, key_of, read_body, route_of

if TYPE_CHECKING:
    from ridgeline.serve.batches.routes import Desk

PATH = "/v1/messages/batches"
PURPOSE = "messages"


class MessageRequest(Body):
    """params: a body of /v1/messages; what is wrong with it is told as the request's result."""

    custom_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    params: dict[str, Any]


class MessageBatchBody(Body):
    """POST /v1/messages/batches"""

    requests: Annotated[list[MessageRequest], Field(min_length=1, max_length=MAX_LINES)]


class Counts(BaseModel):
    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatch(BaseModel):
    id: str
    type: Literal["message_batch"]
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: Counts
    created_at: str
    expires_at: str
    ended_at: str | None
    cancel_initiated_at: str | None
    archived_at: None
    results_url: str | None


def message_batches(core: Core, desk: Desk) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["anthropic"])

    async def known(call: Callable[[str, str], Any], tenant: str, batch_id: str) -> Any:
        def ours() -> Any:
            if desk.batches.get(tenant, batch_id)["endpoint"] != MESSAGES:
                raise KeyError(batch_id)
            return call(tenant, batch_id)

        try:
            return await asyncio.to_thread(ours)
        except (KeyError, FileNotFoundError):
            message = f"message_batch_id: there is no {batch_id[:80]!r}"
            raise HttpError(404, "not_found", message, "message_batch_id") from None

    @routes.post(PATH, openapi_extra=documented(MessageBatchBody, MessageBatch))
    async def create_batch(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        check_version(request)
        body, ignored = await read_body(core, request, MessageBatchBody)
        batch = await asyncio.to_thread(_create, desk, tenant, body)
        desk.start().wake()
        more = {"ignored_fields": ignored} if ignored else {}
        return JSONResponse(told(batch) | more)

    @routes.get(PATH)
    async def list_batches(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        every = await asyncio.to_thread(desk.batches.every, tenant)
        mine = [told(batch) for batch in every if batch["endpoint"] == MESSAGES]
        return JSONResponse(page_of(mine, dict(request.query_params)))

    @routes.get(PATH + "/{message_batch_id}")
    async def get_batch(request: Request, message_batch_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        return JSONResponse(told(await known(desk.batches.get, tenant, message_batch_id)))

    @routes.post(PATH + "/{message_batch_id}/cancel")
    async def cancel_batch(request: Request, message_batch_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        batch = await known(desk.batches.cancel, tenant, message_batch_id)
        desk.start().wake()
        return JSONResponse(told(batch))

    @routes.get(PATH + "/{message_batch_id}/results")
    async def get_results(request: Request, message_batch_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        batch = await known(desk.batches.get, tenant, message_batch_id)
        if batch["status"] in LIVE:
            raise RequestError("message_batch_id", "has no results until it has ended")
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in results(desk.batches, batch))
        return StreamingResponse(lines, media_type=LINES)

    @routes.delete(PATH + "/{message_batch_id}")
    async def delete_batch(request: Request, message_batch_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        await known(desk.batches.remove, tenant, message_batch_id)
        return JSONResponse({"id": message_batch_id, "type": "message_batch_deleted"})

    return routes


def _create(desk: Desk, tenant: str, body: MessageBatchBody) -> dict[str, Any]:
    seen: set[str] = set()
    lines = []
    for place, one in enumerate(body.requests):
        if one.custom_id in seen:
            message = f"{one.custom_id!r} is the id of a request before"
            raise RequestError(f"requests.{place}.custom_id", message)
        if one.params.get("stream"):
            message = "a batch's answers do not stream"
            raise RequestError(f"requests.{place}.params.stream", message)
        seen.add(one.custom_id)
        line = {"custom_id": one.custom_id, "method": "POST", "url": MESSAGES, "body": one.params}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    file = desk.files.add(tenant, "requests.jsonl", PURPOSE, "".join(lines).encode())
    return desk.batches.create(tenant, MESSAGES, file["id"], None, prefix="msgbatch_")


def told(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch in Anthropic's words. Its counts are told when it has ended."""
    status, counts = batch["status"], batch["request_counts"]
    live = status in LIVE
    rest = counts["total"] - counts["completed"] - counts["failed"]
    numbers = dict.fromkeys(Counts.model_fields, 0)
    if live:
        numbers["processing"] = counts["total"]
    else:
        numbers |= {"succeeded": counts["completed"], "errored": counts["failed"]}
        numbers[_LEFT.get(status, "errored")] += rest
    return {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": _STATES.get(status, "in_progress" if live else "ended"),
        "request_counts": numbers,
        "created_at": _moment(batch["created_at"]),
        "expires_at": _moment(batch["expires_at"]),
        "ended_at": None if live else _moment(batch[f"{status}_at"]),
        "cancel_initiated_at": _moment(batch.get("cancelling_at")),
        "archived_at": None,
        "results_url": None if live else f"{PATH}/{batch['id']}/results",
    }


_STATES = {"cancelling": "canceling"}
# What became of requests that have no answer, by how their batch ended.
_LEFT = {"cancelled": "canceled", "expired": "expired"}


def _moment(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def results(batches: Batches, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each request, in their order: first those that were answered."""
    for entry in batches.answered(batch):
        response = entry["response"]
        if response["status_code"] == 200:
            result = {"type": "succeeded", "message": response["body"]}
        else:
            error = response["body"] | {"request_id": response["request_id"]}
            result = {"type": "errored", "error": error}
        yield {"custom_id": entry["custom_id"], "result": result}
    try:
        rest, _ = batches.left(batch)
    except InputGone:
        return
    kind = _LEFT.get(batch["status"], "errored")
    left: dict[str, Any] = {"type": kind}
    if kind == "errored":
        why = (batch["errors"] or {"data": [{"message": "was not answered"}]})["data"][0]["message"]
        error = {"type": "api_error", "message": why}
        left["error"] = {"type": "error", "error": error, "request_id": None}
    for line in rest:
        yield {"custom_id": line.custom_id, "result": left}


def page_of(entries: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """Entries, newest first, by Anthropic's cursors."""
    known = ("limit", "after_id", "before_id", "beta")
    for name in query:
        if name not in known:
            raise RequestError(name[:100], f"is not known here; there are {', '.join(known)}")
    asked = query.get("limit", "20")
    if not (asked.isascii() and asked.isdecimal() and len(asked) < 5 and 1 <= int(asked) <= 1000):
        raise RequestError("limit", "must be a whole number from 1 to 1000")
    limit = int(asked)
    ids = [entry["id"] for entry in entries]
    after, before = query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        raise RequestError("after_id", "and before_id: give one")
    for name, value in (("after_id", after), ("before_id", before)):
        if value is not None and value not in ids:
            raise RequestError(name, "is none of the list")
    if before is not None:
        end = ids.index(before)
        start = max(0, end - limit)
        more = start > 0
    else:
        start = 0 if after is None else ids.index(after) + 1
        end = start + limit
        more = end < len(entries)
    found = entries[start:end]
    return {
        "data": found,
        "has_more": more,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
    }
