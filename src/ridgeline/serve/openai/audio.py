"""POST /v1/audio/transcriptions and /v1/audio/translations, as OpenAI's clients speak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ridgeline.engine.speech import write
from ridgeline.engine.speech.windows import TEMPERATURES, TranscribeParams, Transcript
from ridgeline.errors import RequestError
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import HttpError
from ridgeline.serve.core.http import key_of, route_of, while_there
from ridgeline.serve.openai.errors import error_body
from ridgeline.serve.openai.speech_worker import SpeechWorker

FORMS = ("json", "text", "srt", "verbose_json", "vtt")
TRANSLATED = ("model", "prompt", "response_format", "temperature")
TRANSCRIBED = (*TRANSLATED, "language", "timestamp_granularities[]", "timestamp_granularities")
# Known to OpenAI's clients; these values of theirs mean what is done anyhow.
NEUTRAL: Mapping[str, tuple[str, ...]] = {"stream": ("false", "False")}
MAX_FIELDS = 16
MAX_FIELD_BYTES = 1 << 16


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["openai"])
    worker: list[SpeechWorker] = []

    async def answered(request: Request, task: str) -> Response:
        tenant = core.tenant(key_of(request))
        entry = core.door.enter(tenant, 0)
        try:
            names = TRANSCRIBED if task == "transcribe" else TRANSLATED
            data, fields, ignored = await read_form(core, request, names)
            core.check_model(fields.get("model"))
            params, form = asked(fields, task)
            if not worker:
                worker.append(SpeechWorker(core.llm.transcriber()))
                core.close_hooks.append(worker[0].close)
            found = await while_there(request, worker[0].transcribe(data, params))
        finally:
            core.door.leave(entry)
        headers = {"x-request-id": core.new_id("audio-")}
        if ignored:
            headers["ridgeline-ignored-fields"] = ", ".join(ignored)
        return told(found, form, headers)

    @routes.post("/v1/audio/transcriptions", openapi_extra=_documented(TRANSCRIBED))
    async def create_transcription(request: Request) -> Response:
        return await answered(request, "transcribe")

    @routes.post("/v1/audio/translations", openapi_extra=_documented(TRANSLATED))
    async def create_translation(request: Request) -> Response:
        return await answered(request, "translate")

    return routes


async def read_form(
    core: Core, request: Request, names: tuple[str, ...]
) -> tuple[bytes, dict[str, str], list[str]]:
    """The file's bytes, the other fields, and those that were left out (`--lenient`). RequestError
    for a field that is not known, missing, or no text.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HttpError(400, "invalid_request", "the body must be multipart/form-data")
    try:
        async with request.form(
            max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        ) as form:
            ignored = []
            fields: dict[str, str] = {}
            for name, value in form.multi_items():
                if name == "file":
                    continue
                if name not in names and name not in NEUTRAL:
                    if not core.options.lenient:
                        raise RequestError(name[:100], "is not a field that is known here")
                    ignored.append(name[:100])
                    continue
                if not isinstance(value, str):
                    raise RequestError(name, "must be a text, not a file")
                if name in NEUTRAL and value not in NEUTRAL[name]:
                    raise RequestError(name, f"can only be {NEUTRAL[name][0]} here")
                fields[name.removesuffix("[]")] = value
                if name.startswith("timestamp_granularities") and value != "segment":
                    raise RequestError(
                        "timestamp_granularities", f"{value[:40]!r}; there is: segment"
                    )
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise RequestError("file", "is missing: a WAV file is needed")
            return await file.read(), fields, ignored
    except HTTPException as error:
        raise HttpError(400, "invalid_request", f"the form is broken: {error.detail}") from None


def asked(fields: Mapping[str, str], task: str) -> tuple[TranscribeParams, str]:
    """What a form asks for, and in which form the answer comes."""
    form = fields.get("response_format", "json")
    if form not in FORMS:
        raise RequestError("response_format", f"{form[:40]!r}; there are: {', '.join(FORMS)}")
    if "timestamp_granularities" in fields and form != "verbose_json":
        raise RequestError("timestamp_granularities", "comes with response_format verbose_json")
    text = fields.get("temperature", "0")
    try:
        temperature = float(text)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 1:
        raise RequestError("temperature", f"{text[:40]!r} is not a number from 0 to 1")
    return (
        TranscribeParams(
            language=fields.get("language") or None,
            task=task,
            # As OpenAI has it: 0 is raised while an attempt is not good.
            temperature=temperature or TEMPERATURES,
            prompt=fields.get("prompt", ""),
        ),
        form,
    )


def told(found: Transcript, form: str, headers: dict[str, str]) -> Response:
    if form == "verbose_json":
        return JSONResponse(write.to_json(found) | {"usage": _usage(found)}, headers=headers)
    if form == "json":
        return JSONResponse({"text": found.text, "usage": _usage(found)}, headers=headers)
    text = {"text": write.to_text, "srt": write.to_srt, "vtt": write.to_vtt}[form](found)
    kind = "text/vtt" if form == "vtt" else "text/plain"
    return Response(text, media_type=f"{kind}; charset=utf-8", headers=headers)


def _usage(found: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(found.duration)}


def _documented(names: tuple[str, ...]) -> dict[str, Any]:
    """`openapi_extra` of a form."""
    properties: dict[str, Any] = {name: {"type": "string"} for name in names if "[" not in name}
    properties["file"] = {"type": "string", "format": "binary"}
    properties["response_format"] = {"type": "string", "enum": list(FORMS)}
    properties["temperature"] = {"type": "number", "minimum": 0, "maximum": 1}
    schema = {
        "type": "object",
        "required": ["file"],
        "properties": properties,
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}
