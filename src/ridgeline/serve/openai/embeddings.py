"""POST /v1/embeddings as OpenAI's clients speak; /v1/rerank, /v1/score and /classify as Jina's and
vLLM's do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ridgeline.serve.core.core import Core
from ridgeline.serve.core.http import documented, key_of, read_body, route_of
from ridgeline.serve.core.pooled_texts import PoolDesk
from ridgeline.serve.openai.errors import error_body
from ridgeline.serve.openai.pooled_answers import ENDPOINTS, Listed, Pooling, answered

# As clients of Cohere, vLLM and llama.cpp call them.
ALIASES = {"/v1/rerank": ("/rerank", "/v2/rerank"), "/v1/score": ("/score",)}


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["openai"])
    desk = PoolDesk(core)

    def handler(path: str) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            tenant = core.tenant(key_of(request))
            body, ignored = await read_body(core, request, ENDPOINTS[path].body)
            core.check_model(body.model)
            rows = partial(desk.rows, tenant, request=request)
            answer = await answered(Pooling(core, desk, rows), path, body)
            if ignored:
                answer["ignored_fields"] = ignored
            return JSONResponse(answer, headers={"x-request-id": answer["id"]})

        return handle

    for path, endpoint in ENDPOINTS.items():
        if core.llm.task in endpoint.tasks:
            name = path.rpartition("/")[2]
            extra = documented(endpoint.body, Listed)
            routes.post(path, name=name, openapi_extra=extra)(handler(path))
            for alias in ALIASES.get(path, ()):
                routes.post(alias, include_in_schema=False)(handler(path))
    return routes
