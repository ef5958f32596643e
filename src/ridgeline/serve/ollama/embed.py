"""POST /api/embed and /api/embeddings, as Ollama's clients speak."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ridgeline.engine.pooled import normalized
from ridgeline.errors import RequestError
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.http import documented, key_of, read_body, route_of
from ridgeline.serve.core.pooled_texts import PoolDesk
from ridgeline.serve.ollama.bodies import check_keep_alive
from ridgeline.serve.ollama.routes import check_name, error_body


class EmbedBody(Body):
    """POST /api/embed. truncate: a text that is too long loses its end, else it is refused."""

    model: str
    input: str | list[str]
    truncate: bool | None = True
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class OldBody(Body):
    """POST /api/embeddings, the older path: one text, its vector as long as it is."""

    model: str
    prompt: str
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class Embedded(BaseModel):
    model: str = ""
    embeddings: list[list[float]] = []
    embedding: list[float] = []


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["ollama"])
    desk = PoolDesk(core)

    def check(body: EmbedBody | OldBody, ignored: list[str]) -> None:
        check_name(core, body.model)
        ignored += check_keep_alive(body, lenient=core.options.lenient)
        for name in body.options or {}:
            raise RequestError(f"options.{name}"[:100], "means nothing for embeddings")

    @routes.post("/api/embed", openapi_extra=documented(EmbedBody, Embedded))
    async def embed(request: Request) -> Response:
        began = time.monotonic_ns()
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, EmbedBody)
        check(body, ignored)
        if body.dimensions not in (None, core.llm.width):
            raise RequestError("dimensions", f"this model's vectors have {core.llm.width}")
        given = [body.input] if isinstance(body.input, str) else body.input
        texts = await desk.token_ids(given, "input", cut=body.truncate is not False)
        rows = normalized(await desk.rows(tenant, texts, request=request))
        core.count_pooled("embeddings")
        answer = {
            "model": body.model,
            "embeddings": rows.tolist(),
            "total_duration": time.monotonic_ns() - began,
            "load_duration": 0,
            "prompt_eval_count": sum(map(len, texts)),
        }
        return JSONResponse(answer | ({"ignored_fields": ignored} if ignored else {}))

    @routes.post("/api/embeddings", openapi_extra=documented(OldBody, Embedded))
    async def embeddings(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, OldBody)
        check(body, ignored)
        texts = await desk.token_ids([body.prompt], "prompt", cut=True)
        (row,) = await desk.rows(tenant, texts, request=request)
        core.count_pooled("embeddings")
        answer = {"embedding": row.tolist()}
        return JSONResponse(answer | ({"ignored_fields": ignored} if ignored else {}))

    return routes
