"""/v1/responses/compact: the items that a long conversation is gone on with."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ridgeline.errors import EngineError
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.http import documented, key_of, read_body, traced, while_there
from ridgeline.serve.responses.background import Prepare, folded
from ridgeline.serve.responses.bodies import CompactBody, ResponsesBody
from ridgeline.serve.responses.compaction import TRIGGER, retained
from ridgeline.serve.responses.items import listed_item


class CompactAnswer(BaseModel):
    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[dict[str, Any]]
    usage: dict[str, Any]


def add_compaction(routes: APIRouter, core: Core, made_of: Prepare) -> None:
    @routes.post("/v1/responses/compact", openapi_extra=documented(CompactBody, CompactAnswer))
    async def compact_items(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, CompactBody)
        core.check_model(body.model)
        given = body.input or []
        if isinstance(given, str):
            given = [{"type": "message", "role": "user", "content": given}]
        response_id = core.new_id("resp_")
        whole = ResponsesBody.model_construct(
            input=[*given, {"type": TRIGGER}],
            instructions=body.instructions,
            previous_response_id=body.previous_response_id,
            reasoning=body.reasoning,
            temperature=0.0,
        )
        ask, items, builder = await made_of(whole, tenant, response_id)
        await while_there(request, folded(core.answer(traced(ask, request)), builder))
        made = builder.response
        if made["status"] != "completed":
            raise EngineError(f"no summary was written: {made['error']['message']}")
        kept = [
            {"id": f"msg_{response_id[5:]}_{number}", **listed_item(item)}
            for number, item in enumerate(retained(items))
        ]
        left_out = [*ignored, *made.get("ignored_fields", ())]
        answer = {
            "id": response_id,
            "object": "response.compaction",
            "created_at": made["created_at"],
            "output": [*kept, *made["output"]],
            "usage": made["usage"],
        }
        return JSONResponse(answer | ({"ignored_fields": left_out} if left_out else {}))
