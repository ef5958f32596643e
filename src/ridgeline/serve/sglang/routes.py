"""GET /get_model_info and /health_generate: what SGLang's clients and balancers ask."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ridgeline.engine.request import SamplingParams
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.events import raise_error
from ridgeline.serve.core.http import closing, key_of, route_of, while_there
from ridgeline.serve.openai.errors import error_body

PROBE_SECONDS = 20.0


class ModelInfo(BaseModel):
    model_path: str
    tokenizer_path: str
    is_generation: bool
    preferred_sampling_params: dict[str, Any] | None
    has_image_understanding: bool
    has_audio_understanding: bool


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["sglang"])

    async def model_info(request: Request) -> JSONResponse:
        core.tenant(key_of(request))
        task = core.llm.task
        return JSONResponse(
            {
                "model_path": core.model,
                "tokenizer_path": core.model,
                "is_generation": task == "generate",
                "preferred_sampling_params": None,
                "has_image_understanding": task == "generate" and core.prompts.sees,
                "has_audio_understanding": task == "transcribe",
            }
        )

    for path in ("/get_model_info", "/model_info"):
        routes.get(path, response_model=ModelInfo, name=path, summary="What is served")(model_info)
    if core.llm.task != "generate":
        return routes

    @routes.get("/health_generate", summary="A token of an answer comes in time")
    async def health_generate(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        ask = Ask(
            {"prompt_token_ids": [core.prompts.tokenizer.bos_id or 0]},
            SamplingParams(max_tokens=1, temperature=0.0),
            service=core.service(tenant, timeout_seconds=PROBE_SECONDS),
            request_id=core.new_id("probe-"),
        )

        async def answered() -> None:
            async with closing(events := core.answer(ask)):
                async for batch in events:
                    for event in batch:
                        raise_error(event)

        await while_there(request, answered())
        return JSONResponse({"status": "ok"})

    return routes
