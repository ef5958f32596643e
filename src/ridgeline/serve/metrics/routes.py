"""`/metrics`, `/explain/{request_id}`, `/live`, and vLLM's `/load`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import HttpError
from ridgeline.serve.core.health import trouble
from ridgeline.serve.core.http import key_of
from ridgeline.serve.metrics.explain import Explanations
from ridgeline.serve.metrics.exposition import exposition
from ridgeline.serve.metrics.live import Roof, live
from ridgeline.serve.metrics.spans import Spans

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def router(core: Core) -> APIRouter:
    routes = APIRouter(tags=["telemetry"])
    explanations, roof = Explanations(), Roof(core)
    core.done_hooks.append(explanations.add)
    endpoint = core.llm.settings.otel_endpoint
    if endpoint is not None:
        spans = Spans(endpoint, core.model)
        core.done_hooks.append(spans.add)
        core.close_hooks.append(spans.close)

    @routes.get("/metrics", response_class=Response, summary="Metrics for Prometheus")
    async def metrics() -> Response:
        text = await asyncio.to_thread(exposition, core, trouble(core) is None)
        return Response(text, media_type=TEXT)

    @routes.get(
        "/explain/{request_id}",
        response_model=dict[str, Any],
        responses={404: {"description": "no such request of this key among the last ones"}},
        summary="Where a request's time went",
    )
    async def explain(request_id: str, request: Request) -> JSONResponse:
        found = explanations.get(request_id, core.tenant(key_of(request)))
        if found is None:
            raise HttpError(
                404, "not_found", f"{request_id[:100]!r} is not among the last requests that ended"
            )
        return JSONResponse(found)

    @routes.get("/live", response_model=dict[str, Any], summary="What the engine is doing now")
    async def now() -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(lambda: live(core, roof.get())))

    @routes.get("/load", response_model=dict[str, int], summary="Requests that are let in now")
    async def load() -> JSONResponse:
        return JSONResponse({"server_load": core.door.running})

    return routes
