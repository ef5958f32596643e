"""Bodies in, answers out: what every dialect does with HTTP in the same way.

A client that goes away ends what it asked for, streamed or not. Errors before the first event have
their status; later ones are the dialect's to tell in its stream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError

from ridgeline.errors import RequestError
from ridgeline.serve.core.bodies import Body, without
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault, HttpError, fault_of

B = TypeVar("B", bound=Body)
E = TypeVar("E")
R = TypeVar("R")
MAX_IGNORED = 100


class ClientGone(Exception):  # noqa: N818 (nobody is told)
    """The client has closed its connection: whatever is answered, nobody reads it."""


def route_of(body: Callable[[Fault], dict[str, Any]]) -> type[APIRoute]:
    """Routes whose errors are told as `body` writes them."""

    class DialectRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def told(request: Request) -> Response:
                try:
                    return await handler(request)
                except ClientGone:
                    return Response(status_code=499)
                except Exception as error:
                    fault = fault_of(error)
                    return JSONResponse(body(fault), fault.status, fault.headers)

            return told

    return DialectRoute


def key_of(request: Request) -> str | None:
    """The API key, in whichever header the client has put it."""
    given = request.headers.get("authorization", "")
    if given[:7].lower() == "bearer ":
        return given[7:].strip()
    return request.headers.get("x-api-key")


async def read_json(core: Core, request: Request) -> Any:
    """The body as JSON; raises HttpError for one that is too large, or none."""
    size = request.headers.get("content-length", "")
    most = core.options.max_body_bytes
    if size.isdecimal() and int(size) > most:
        raise HttpError(413, "too_large", f"the body has {size} bytes; {most} are allowed")
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > most:
            raise HttpError(413, "too_large", f"the body has more than {most} bytes")
    try:
        value = json.loads(bytes(found), parse_constant=_refuse_constant)
        if b"\\u" in found:
            json.dumps(value, ensure_ascii=False).encode()  # half a character is no text
        return value
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "invalid_request", f"the body is not JSON: {error}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


async def read_body(core: Core, request: Request, kind: type[B]) -> tuple[B, list[str]]:
    """The body, and the fields that were left out of it (`--lenient`)."""
    return checked_body(await read_json(core, request), kind, lenient=core.options.lenient)


def checked_body(value: Any, kind: type[B], *, lenient: bool) -> tuple[B, list[str]]:
    ignored: list[str] = []
    while True:
        try:
            return kind.model_validate(value), ignored
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
        except RecursionError:
            raise HttpError(400, "invalid_request", "the body is nested too deeply") from None
        unknown = [each for each in errors if each["type"] == "extra_forbidden"]
        if lenient and unknown and len(ignored) < MAX_IGNORED:
            for each in unknown:
                ignored.append(_place(each["loc"]))
                without(value, each["loc"])
            continue
        first = unknown[0] if unknown else errors[0]
        message = "is not a field that is known here" if unknown else str(first["msg"])
        raise RequestError(_place(first["loc"]) or "body", message)


def _place(location: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in location)


def documented(model: type[Body]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its own body."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["x-definitions"] = schema.pop("$defs", {})
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


@asynccontextmanager
async def closing(events: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Who leaves events half read, by an error say, frees what they hold at once: a generator that
    is only dropped may live as long as a traceback.
    """
    try:
        yield
    finally:
        await events.aclose()  # type: ignore[attr-defined]


async def begun(events: AsyncIterator[E]) -> AsyncIterator[E]:
    """The same events, of which the first has come: what is wrong with the request is known."""
    first = await anext(events)

    async def all_of_them() -> AsyncIterator[E]:
        try:
            yield first
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    return all_of_them()


async def while_there(request: Request, work: Awaitable[R]) -> R:
    """The result of `work`; if the client goes away first, it is cancelled: ClientGone."""
    task = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.create_task(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def server_sent(
    pieces: AsyncIterator[tuple[str | None, str]], headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """Events by name (None: unnamed) and data, as text/event-stream."""

    async def lines() -> AsyncIterator[str]:
        try:
            async for name, data in pieces:
                yield f"data: {data}\n\n" if name is None else f"event: {name}\ndata: {data}\n\n"
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]

    kept = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=kept)


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
