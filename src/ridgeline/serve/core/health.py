"""Is it alive, is it ready: `/livez`, `/readyz`, `/health`; and a watchdog that names stuck steps.

Alive: the process answers. Ready: a step ended within its deadline, or the engine is idle, and the
server is not ending.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ridgeline import __version__
from ridgeline.serve.core.core import Core

logger = logging.getLogger("ridgeline.serve")


class Status(BaseModel):
    """status: "ok", or what is the matter."""

    status: str


class Version(BaseModel):
    version: str


class Health(Status):
    version: str
    model: str
    uptime_seconds: float
    running: int
    waiting: int
    answering: int
    num_steps: int
    free_blocks: int
    num_blocks: int
    predicted_ttft_seconds: float
    refused: dict[str, int]
    tasks: int


def trouble(core: Core) -> str | None:
    """What keeps the server from being ready; None if nothing does."""
    if core.engine.fault is not None:
        return str(core.engine.fault)
    if core.door.draining:
        return "draining"
    began = core.step_began
    if began is not None and (seconds := time.monotonic() - began) > core.options.step_seconds:
        return f"a step has been running for {seconds:.0f} s: {core.describe_step()}"
    return None


async def watch(core: Core, period_seconds: float = 1.0) -> None:
    """Says of each stuck step, once, which it is. Runs until it is cancelled."""
    told: float | None = None
    while True:
        await asyncio.sleep(period_seconds)
        began = core.step_began
        if began is not None and began != told:
            wrong = trouble(core)
            if wrong is not None and wrong != "draining":
                told = began
                logger.error("not ready: %s", wrong)


def router(core: Core) -> APIRouter:
    routes = APIRouter(tags=["health"])

    def answered(wrong: str | None, more: dict[str, Any]) -> JSONResponse:
        return JSONResponse({"status": wrong or "ok", **more}, 200 if wrong is None else 503)

    unready: dict[int | str, dict[str, Any]] = {503: {"model": Status}}

    @routes.get("/livez", response_model=Status, summary="The process answers")
    async def livez() -> JSONResponse:
        return answered(None, {})

    @routes.get(
        "/readyz",
        response_model=Status,
        responses=unready,
        summary="A step ended within its deadline, or the engine is idle",
    )
    async def readyz() -> JSONResponse:
        return answered(trouble(core), {})

    # As SageMaker, by vLLM's example, asks the same.
    for method in (routes.get, routes.post):
        method(
            "/ping", response_model=Status, responses=unready, summary="As /readyz", name="ping"
        )(readyz)

    @routes.get("/version", response_model=Version, summary="Of Ridgeline")
    async def version() -> JSONResponse:
        return JSONResponse({"version": __version__})

    @routes.get(
        "/health",
        response_model=Health,
        responses={503: {"model": Health}},
        summary="What the engine holds between two steps, and what a newcomer may expect",
    )
    async def health() -> JSONResponse:
        load = core.engine.load
        return answered(
            trouble(core),
            {
                "version": __version__,
                "model": core.model,
                "uptime_seconds": round(core.uptime_seconds, 3),
                "running": core.running,
                "waiting": core.waiting,
                "answering": core.door.running,
                "num_steps": load.num_steps,
                "free_blocks": load.free_blocks,
                "num_blocks": load.num_blocks,
                "predicted_ttft_seconds": round(core.door.predicted_ttft(), 4),
                "refused": dict(core.door.refused),
                "tasks": len(asyncio.all_tasks()),
            },
        )

    return routes
