"""GET /v1/models: what is served, by each of its names, as OpenAI's or Anthropic's clients read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ridgeline.serve.core.core import Core
from ridgeline.serve.core.http import key_of, route_of
from ridgeline.serve.openai.errors import error_body


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["openai"])

    @routes.get("/v1/models")
    async def list_models(request: Request) -> Response:
        core.tenant(key_of(request))
        if "anthropic-version" in request.headers:
            listed = [of_anthropic(core, name) for name in core.options.names]
            ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]}
            return JSONResponse({"data": listed, "has_more": False, **ends})
        data = [model_of(core, name) for name in core.options.names]
        return JSONResponse({"object": "list", "data": data})

    @routes.get("/v1/models/{model:path}")
    async def get_model(request: Request, model: str) -> Response:
        core.tenant(key_of(request))
        core.check_model(model)
        if "anthropic-version" in request.headers:
            return JSONResponse(of_anthropic(core, model))
        return JSONResponse(model_of(core, model))

    return routes


def of_anthropic(core: Core, name: str) -> dict[str, Any]:
    """As Anthropic's clients read it, who say so in a header."""
    created = datetime.fromtimestamp(core.created, UTC).isoformat().replace("+00:00", "Z")
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created,
        "max_input_tokens": core.engine.max_context,
        "max_tokens": core.engine.max_context,
    }


def model_of(core: Core, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": core.created,
        "owned_by": "ridgeline",
        "max_model_len": core.engine.max_context,
    }
