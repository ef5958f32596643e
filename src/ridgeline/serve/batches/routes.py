"""/v1/files and /v1/batches, as OpenAI's clients speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from ridgeline.errors import RequestError
from ridgeline.serve.anthropic.routes import error_body as anthropic_error
from ridgeline.serve.batches.answers import answers_of
from ridgeline.serve.batches.batch import MAX_FILE_BYTES, MESSAGES, Batches, Files, public
from ridgeline.serve.batches.messages import PURPOSE, message_batches
from ridgeline.serve.batches.runner import BatchRunner
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import HttpError, fault_of
from ridgeline.serve.core.http import documented, key_of, read_body, route_of
from ridgeline.serve.core.pages import page_of
from ridgeline.serve.openai.errors import error_body
from ridgeline.serve.responses.store import documents_of

ROWS = 8


class BatchBody(Body):
    """POST /v1/batches"""

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


class Desk:
    """One server's files and batches, and the task that runs them."""

    def __init__(self, core: Core) -> None:
        self.core = core
        documents = documents_of(core)
        self.files = Files(documents, core.new_id)
        self.batches = Batches(documents, self.files, core.new_id)
        self.answers = answers_of(core)
        self.runner: BatchRunner | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self) -> BatchRunner:
        """Runs what there is to run, on the loop that this is called on."""
        if self.runner is None or self.task is None or self.task.done():
            self.runner = BatchRunner(self.batches, self.ask, self.room)
            self.task = asyncio.create_task(self.runner.run())
        return self.runner

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task

    def room(self) -> int:
        """Lines that may run at once: none more while anybody waits."""
        busy = self.core.engine.load.waiting > 0 or self.core.door.draining
        return 0 if busy else ROWS

    async def ask(self, tenant: str, endpoint: str, value: dict[str, Any]) -> tuple[int, Any]:
        try:
            if endpoint not in self.answers:  # the model has been started for another task since
                raise RequestError(
                    "url", f"{endpoint} is not served; {', '.join(self.answers)} are"
                )
            return 200, await self.answers[endpoint](tenant, value)
        except Exception as error:
            fault = fault_of(error)
            body = anthropic_error if endpoint == MESSAGES else error_body
            return fault.status, body(fault)


def router(core: Core) -> APIRouter:
    desk = Desk(core)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if core.options.state is not None:
            desk.start()  # what the process before left undone
        try:
            yield
        finally:
            await desk.stop()

    routes = APIRouter(route_class=route_of(error_body), tags=["openai"], lifespan=lifespan)
    _add_files(routes, core, desk)
    _add_batches(routes, core, desk)
    if MESSAGES in desk.answers:
        routes.include_router(message_batches(core, desk))
    return routes


def _add_files(routes: APIRouter, core: Core, desk: Desk) -> None:
    @routes.post("/v1/files")
    async def create_file(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        size = request.headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MAX_FILE_BYTES + 65536:
            raise HttpError(413, "too_large", f"a file may have {MAX_FILE_BYTES} bytes")
        async with request.form(max_files=1, max_fields=4) as form:
            unknown = set(form) - {"file", "purpose"}
            if unknown:
                raise RequestError(min(unknown), "is not a field that is known here")
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise RequestError("file", "is missing")
            if purpose != "batch":
                raise RequestError("purpose", "must be batch")
            data = await file.read()
            name = (file.filename or "file.jsonl")[:256]
        added = await asyncio.to_thread(desk.files.add, tenant, name, "batch", data)
        return JSONResponse(public(added))

    @routes.get("/v1/files")
    async def list_files(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        purpose = request.query_params.get("purpose")
        every = [
            public(file)
            for file in await asyncio.to_thread(desk.files.every, tenant)
            if purpose in (None, file["purpose"]) and file["purpose"] != PURPOSE
        ]
        page = page_of(every, request.query_params, order="desc", known=("purpose",))
        return JSONResponse(page)

    @routes.get("/v1/files/{file_id}")
    async def get_file(request: Request, file_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        return JSONResponse(public(await _known(desk.files.get, tenant, file_id, "file_id")))

    @routes.get("/v1/files/{file_id}/content")
    async def get_content(request: Request, file_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        data = await _known(desk.files.content, tenant, file_id, "file_id")
        return Response(data, media_type="application/octet-stream")

    @routes.delete("/v1/files/{file_id}")
    async def delete_file(request: Request, file_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        await _known(desk.files.remove, tenant, file_id, "file_id")
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def _add_batches(routes: APIRouter, core: Core, desk: Desk) -> None:
    def ours(call: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
        """Of batches that were not made in Anthropic's way."""

        def found(tenant: str, batch_id: str) -> Any:
            if desk.batches.get(tenant, batch_id)["endpoint"] == MESSAGES:
                raise KeyError(batch_id)
            return call(tenant, batch_id)

        return found

    @routes.post("/v1/batches", openapi_extra=documented(BatchBody))
    async def create_batch(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, _ = await read_body(core, request, BatchBody)
        known = [path for path in desk.answers if path != MESSAGES]  # that has batches of its own
        if body.endpoint not in known:
            raise RequestError("endpoint", f"must be one of {', '.join(known)}")
        if body.completion_window != "24h":
            raise RequestError("completion_window", "must be 24h")
        try:
            batch = await asyncio.to_thread(
                desk.batches.create, tenant, body.endpoint, body.input_file_id, body.metadata
            )
        except KeyError:
            raise RequestError("input_file_id", "there is no such file") from None
        desk.start().wake()
        return JSONResponse(public(batch))

    @routes.get("/v1/batches")
    async def list_batches(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        every = await asyncio.to_thread(desk.batches.every, tenant)
        ours = [public(batch) for batch in every if batch["endpoint"] != MESSAGES]
        return JSONResponse(page_of(ours, request.query_params))

    @routes.get("/v1/batches/{batch_id}")
    async def get_batch(request: Request, batch_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        return JSONResponse(
            public(await _known(ours(desk.batches.get), tenant, batch_id, "batch_id"))
        )

    @routes.post("/v1/batches/{batch_id}/cancel")
    async def cancel_batch(request: Request, batch_id: str) -> Response:
        tenant = core.tenant(key_of(request))
        batch = await _known(ours(desk.batches.cancel), tenant, batch_id, "batch_id")
        desk.start().wake()
        return JSONResponse(public(batch))


async def _known(call: Any, tenant: str, name: str, param: str) -> Any:
    try:
        return await asyncio.to_thread(call, tenant, name)
    except (KeyError, FileNotFoundError):
        raise HttpError(404, "not_found", f"{param}: there is no {name[:80]!r}", param) from None
