"""Bodies in, answers out: what every dialect does with HTTP in the same way.

A client that goes away ends what it asked for, streamed or not. Errors before the first event have
their status; later ones are the dialect's to tell in its stream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import JsonSchemaMode
from starlette.types import Receive, Scope, Send

from ridgeline.errors import RequestError
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.bodies import Body, without
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault, HttpError, fault_of

if TYPE_CHECKING:
    from _collections_abc import dict_items

B = TypeVar("B", bound=Body)
E = TypeVar("E")
R = TypeVar("R")
MAX_IGNORED = 100
# Older words for forms of answers, and what they are now.
_FORMS = {
    f"guided_{kind}": f'structured_outputs: {{"{kind}": ...}}'
    for kind in ("json", "regex", "choice", "grammar")
} | {"grammar": 'structured_outputs: {"grammar": ...}, in Lark'}
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"


class ClientGone(Exception):  # noqa: N818 (nobody is told)
    """The client has closed its connection: whatever is answered, nobody reads it."""


def route_of(body: Callable[[Fault], dict[str, Any]]) -> type[APIRoute]:
    """Routes whose errors are told as `body` writes them."""

    class DialectRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()
            if list(signature(self.endpoint).parameters) == ["request"]:
                handler = self.endpoint  # there is nothing to be looked up, or converted

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


def traced(ask: Ask, request: Request) -> Ask:
    """An ask that goes on with the client's trace, if it has one."""
    parent = request.headers.get("traceparent")
    return ask if parent is None else replace(ask, traceparent=parent)


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
    if not isinstance(value, dict):
        raise RequestError("body", "is not a JSON object")
    while True:
        try:
            return kind.model_validate(value), ignored
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
        except RecursionError:
            raise HttpError(400, "invalid_request", "the body is nested too deeply") from None
        unknown = [each for each in errors if each["type"] == "extra_forbidden"]
        for each in unknown:  # an answer that is to keep to a form is never left to itself
            if len(each["loc"]) == 1 and (form := _FORMS.get(str(each["loc"][0]))) is not None:
                raise RequestError(str(each["loc"][0]), f"is here {form}")
        if lenient and unknown and len(ignored) < MAX_IGNORED:
            for each in unknown:
                ignored.append(_place(each["loc"], value))
                without(value, each["loc"])
            continue
        first = unknown[0] if unknown else errors[0]
        message = "is not a field that is known here" if unknown else str(first["msg"])
        raise RequestError(_place(first["loc"], value) or "body", message)


def _place(location: tuple[str | int, ...], value: Any) -> str:
    """Where in a body it is; pydantic's names of a union's members are nobody's fields."""
    found = []
    for number, part in enumerate(location):
        if isinstance(value, dict):
            if part not in value and (number + 1 < len(location) or "[" in str(part)):
                continue
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        else:
            continue
        found.append(str(part))
    return ".".join(found)


def documented(
    model: type[BaseModel], answer: type[BaseModel] | None = None, stream: str | None = None
) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its own body. answer: what it gives, if all went well;
    stream: the media type that the same comes in as a stream.
    """
    return _Described(lambda: _described(model, answer, stream))


class _Described(dict[str, Any]):
    """Made when FastAPI puts the document together: the schemas of all bodies take longer than all
    else of an application's start, and few servers are ever asked for them.
    """

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        super().__init__(requestBody={})  # FastAPI leaves out what is empty
        self._make = make

    def items(self) -> dict_items[str, Any]:
        return self._make().items()


def _described(
    model: type[BaseModel], answer: type[BaseModel] | None, stream: str | None
) -> dict[str, Any]:
    content = {"application/json": {"schema": _schema(model, "validation")}}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    given: dict[str, Any] = {}
    if answer is not None:
        given["application/json"] = {"schema": _schema(answer, "serialization")}
    if stream is not None:
        given[stream] = {"schema": {"type": "string"}}
    if given:
        extra["responses"] = {"200": {"content": given}}
    return extra


def _schema(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    """Its definitions apart, for `_describe` of the application, under names that no other dialect
    or body has: each has its own `Message`.
    """
    whose = f"{model.__module__.removeprefix('ridgeline.serve.').split('.')[0]}.{model.__name__}"
    place = f"#/components/schemas/{whose}.{{model}}"
    found = model.model_json_schema(ref_template=place, mode=mode)
    parts = found.pop("$defs", {})
    found["x-definitions"] = {f"{whose}.{name}": part for name, part in parts.items()}
    return found


@asynccontextmanager
async def closing(events: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Who leaves events half read, by an error say, frees what they hold at once: a generator that
    is only dropped may live as long as a traceback.
    """
    try:
        yield
    finally:
        await events.aclose()  # type: ignore[attr-defined]


class Begun(AsyncIterator[E]):
    """Events of which the first has come. Closing it closes them, even if none was taken, which a
    generator that has not begun would not do.
    """

    def __init__(self, first: E, rest: AsyncIterator[E]) -> None:
        self._first: list[E] = [first]
        self._rest = rest

    async def __anext__(self) -> E:
        return self._first.pop() if self._first else await anext(self._rest)

    async def aclose(self) -> None:
        await self._rest.aclose()  # type: ignore[attr-defined]


async def begun(events: AsyncIterator[E]) -> Begun[E]:
    """The same events, of which the first has come: what is wrong with the request is known."""
    return Begun(await anext(events), events)


async def while_there(request: Request, work: Awaitable[R]) -> R:
    """The result of `work`; if the client goes away first, it is cancelled: ClientGone."""
    return await while_connected(request.receive, work)


async def while_connected(receive: Receive, work: Awaitable[R]) -> R:
    """The same, of an ASGI connection."""
    task = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
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
        # An error has passed this frame, whose names would lead back to it: a cycle of a hundred
        # objects for each refusal, and who looks for such garbage holds up the loop meanwhile.
        del task, watch, each


class Streamed(Response):
    """A stream made of batches of `events`, which are closed when the response is over, however it
    ended; a client that goes away ends it at once.

    said: an event as text. first: what comes before all; last: after all, had once the events are
    over; wrong: an error, of the events or of `said` or `last`, in place of what would follow.
    What is there at once is one piece of the body: one wakeup and one write for the client.
    """

    def __init__(
        self,
        events: Begun[list[Any]],
        said: Callable[[Any], str],
        wrong: Callable[[Fault], str],
        kind: str,
        *,
        first: str = "",
        last: Callable[[], Awaitable[str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code, self.media_type, self.background = 200, kind, None
        self.init_headers(headers)
        self._events, self._said, self._wrong = events, said, wrong
        self._first, self._last = first, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._tell(send))
        except ClientGone:
            pass
        finally:
            await self._events.aclose()

    async def _tell(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        text = self._first
        try:
            async for batch in self._events:
                for event in batch:
                    text += self._said(event)
                if text:
                    body = {"body": text.encode(), "more_body": True}
                    await send({"type": "http.response.body", **body})
                    text = ""
            if self._last is not None:
                text += await self._last()
        except Exception as error:
            text += self._wrong(fault_of(error))
        await send({"type": "http.response.body", "body": text.encode(), "more_body": False})


def server_sent(
    events: Begun[list[Any]],
    said: Callable[[Any], str],
    wrong: Callable[[Fault], str],
    *,
    first: str = "",
    last: Callable[[], Awaitable[str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Streamed:
    """As text/event-stream; see `Streamed`."""
    kept = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
    return Streamed(events, said, wrong, EVENTS, first=first, last=last, headers=kept)


def sent(data: str, name: str | None = None) -> str:
    """One event of a text/event-stream."""
    return f"data: {data}\n\n" if name is None else f"event: {name}\ndata: {data}\n\n"


# Made once: `json.dumps` makes one at each call that asks for other separators than its own.
compact: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
