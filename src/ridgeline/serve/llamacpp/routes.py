"""/completion, /completions, /infill and /props: as clients of llama.cpp's server speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, RootModel

from ridgeline import __version__
from ridgeline.engine.outputs import RequestOutput
from ridgeline.engine.prompts import Prompt
from ridgeline.errors import ModelError, RequestError
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault
from ridgeline.serve.core.events import raise_error
from ridgeline.serve.core.http import (
    EVENTS,
    begun,
    closing,
    compact,
    documented,
    key_of,
    read_body,
    route_of,
    sent,
    server_sent,
    traced,
    while_there,
)
from ridgeline.serve.core.many import Numbered, answer_many
from ridgeline.serve.llamacpp.bodies import CompletionBody, InfillBody, PromptObject, SamplingBody
from ridgeline.serve.llamacpp.completion import CompletionBuilder
from ridgeline.serve.llamacpp.sampling import Wishes, sampling_of, settings_of

_KINDS = {
    "invalid_request": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "too_large": "invalid_request_error",
    "rate_limit": "unavailable_error",
    "overloaded": "unavailable_error",
    "timeout": "server_error",
    "server": "server_error",
}


class CompletionFields(BaseModel):
    """What `response_fields` chose; all of it, if nothing was chosen."""

    index: int = 0
    content: str = ""
    tokens: list[int] = []
    stop: bool = True
    stop_type: str = ""
    stopping_word: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    tokens_cached: int = 0
    truncated: bool = False
    generation_settings: dict[str, Any] = {}
    timings: dict[str, float] = {}
    completion_probabilities: list[dict[str, Any]] = []
    ignored_fields: list[str] = []


class CompletionAnswer(RootModel[CompletionFields | list[CompletionFields]]):
    """A list if many were asked for."""


class Props(BaseModel):
    default_generation_settings: dict[str, Any]
    total_slots: int
    model_alias: str
    chat_template: str
    modalities: dict[str, bool]
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool


def error_body(fault: Fault) -> dict[str, Any]:
    kind = _KINDS[fault.kind]
    if fault.code == "context_length_exceeded":
        kind = "exceed_context_size_error"
    error = {"code": fault.status, "message": fault.message, "type": kind, "param": fault.param}
    return {"error": error}


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["llama.cpp"])

    @routes.post("/completion", openapi_extra=documented(CompletionBody, CompletionAnswer, EVENTS))
    async def completion(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, CompletionBody)
        prompts, many = prompts_of(core.prompts.tokenizer, body)
        return await _answered(core, request, tenant, body, prompts, many, ignored)

    routes.post("/completions", openapi_extra=documented(CompletionBody, CompletionAnswer, EVENTS))(
        completion
    )

    @routes.post("/infill", openapi_extra=documented(InfillBody, CompletionAnswer, EVENTS))
    async def infill(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, InfillBody)
        ids = await asyncio.to_thread(gap_of, core, body)
        prompts: list[Prompt] = [{"prompt_token_ids": ids}]
        return await _answered(core, request, tenant, body, prompts, False, ignored)

    @routes.get("/props", response_model=Props, summary="What is served, in llama.cpp's words")
    async def props(request: Request) -> JSONResponse:
        core.tenant(key_of(request))
        return JSONResponse(props_of(core))

    return routes


async def _answered(
    core: Core,
    request: Request,
    tenant: str,
    body: SamplingBody,
    prompts: list[Prompt],
    many: bool,
    ignored: list[str],
) -> Response:
    core.check_model(body.model)
    wishes = Wishes(core.options.lenient)
    tokenizer = core.prompts.tokenizer
    params = sampling_of(body, tokenizer, wishes)
    ignored += wishes.ignored
    if len(prompts) > core.options.max_prompts:
        most = core.options.max_prompts
        raise RequestError("prompt", f"{len(prompts)} prompts; {most} are allowed")
    if len(prompts) * params.n > core.limit:
        total = len(prompts) * params.n
        raise RequestError("n_cmpl", f"{total} answers are asked for; {core.limit} are allowed")
    request_id = core.new_id("cmpl-")
    # A salt of its own: nobody has cached a prompt under it.
    salt = request_id if body.cache_prompt is False else ""
    asks = [
        traced(
            Ask(
                prompt,
                params,
                service=core.service(tenant, cache_salt=salt),
                request_id=request_id if len(prompts) == 1 else f"{request_id}-{number}",
            ),
            request,
        )
        for number, prompt in enumerate(prompts)
    ]

    def settings(seed: int) -> dict[str, Any]:
        more = {"n_ctx": core.engine.max_context, "model": core.model}
        return settings_of(params, body, seed) | more

    builder = CompletionBuilder(
        core.model,
        params.n,
        len(prompts),
        settings=settings,
        bytes_of=_bytes_of(tokenizer),
        text_of=_text_of(tokenizer),
        max_context=core.engine.max_context,
        num_probs=body.n_probs or 0,
        keeps_tokens=bool(body.return_tokens),
        silent=body.n_predict == 0,
        fields=body.response_fields,
        more={"ignored_fields": ignored} if ignored else None,
    )
    headers = {"x-request-id": request_id}
    if ignored:
        headers["ridgeline-ignored-fields"] = ", ".join(ignored)
    events = answer_many(core, asks)
    if body.stream:
        started = await while_there(request, begun(events))
        return server_sent(started, said_by(builder), told_error, headers=headers)
    await while_there(request, folded(builder, events))
    whole = builder.whole()
    return JSONResponse(whole if many or params.n > 1 else whole[0], headers=headers)


async def folded(builder: CompletionBuilder, events: AsyncIterator[list[Numbered]]) -> None:
    async with closing(events):
        async for batch in events:
            for number, event in batch:
                raise_error(event)
                builder.take(number, event)


def said_by(builder: CompletionBuilder) -> Callable[[Numbered], str]:
    def said(numbered: Numbered) -> str:
        number, event = numbered
        raise_error(event)
        return "".join(sent(compact(piece)) for piece in builder.take(number, event))

    return said


def told_error(fault: Fault) -> str:
    return sent(compact(error_body(fault)))


def prompts_of(tokenizer: Tokenizer, body: CompletionBody) -> tuple[list[Prompt], bool]:
    """The prompts, and whether they were given as a list of prompts."""
    given: Any = body.prompt
    if not isinstance(given, list):
        return [_prompt_of(tokenizer, given)], False
    if not given:
        raise RequestError("prompt", "is empty; at least one is needed")
    if any(isinstance(part, int) for part in given):
        return [_prompt_of(tokenizer, given)], False
    return [_prompt_of(tokenizer, one) for one in given], True


def _prompt_of(tokenizer: Tokenizer, given: Any) -> Prompt:
    if isinstance(given, PromptObject):
        if given.multimodal_data:
            raise RequestError("prompt.multimodal_data", "images go to /v1/chat/completions here")
        given = given.prompt_string
    if isinstance(given, str):
        return given
    ids: list[int] = []
    for place, part in enumerate(given):
        if isinstance(part, int):
            ids.append(part)
        elif isinstance(part, str):
            ids += tokenizer.encode(part, add_special=place == 0)
        else:
            raise RequestError("prompt", "token ids go with texts, and not with prompts, in a list")
    if not ids:
        raise RequestError("prompt", "is empty; at least one token is needed")
    return {"prompt_token_ids": ids}


def gap_of(core: Core, body: InfillBody) -> list[int]:
    marks = core.prompts.fill_marks
    if marks is None:
        raise RequestError(
            "input_suffix", "this model's vocabulary has no marks for a gap; it only continues text"
        )
    files = [(extra.filename, extra.text) for extra in body.input_extra]
    tokenizer = core.prompts.tokenizer
    return marks.around(
        tokenizer, body.input_prefix, body.input_suffix, files=files, begun=body.prompt
    )


def props_of(core: Core) -> dict[str, Any]:
    tokenizer = core.prompts.tokenizer
    plain = SamplingBody()
    params = settings_of(sampling_of(plain, tokenizer, Wishes(False)), plain)
    try:
        template = core.prompts.template.source
    except ModelError:
        template = ""
    ends = [one for one in tokenizer.eos_ids if one < tokenizer.vocab_size]
    begin = tokenizer.bos_id
    return {
        "default_generation_settings": {"params": params, "n_ctx": core.engine.max_context},
        "total_slots": core.llm.session.engine.state.limits.max_rows,
        "model_alias": core.model,
        "chat_template": template,
        "modalities": {"vision": core.prompts.sees, "audio": False},
        "bos_token": "" if begin is None else tokenizer.token_text(begin),
        "eos_token": tokenizer.token_text(min(ends)) if ends else "",
        "build_info": f"ridgeline {__version__}",
        "is_sleeping": False,
    }


def _bytes_of(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    return lambda one: tokenizer.token_bytes(one) if one < tokenizer.vocab_size else b""


def _text_of(tokenizer: Tokenizer) -> Callable[[RequestOutput], str]:
    """A prompt's text, with its special tokens; some ids may have none."""

    def text(output: RequestOutput) -> str:
        if output.prompt is not None:
            return output.prompt
        known = [one for one in output.prompt_token_ids if one < tokenizer.vocab_size]
        return tokenizer.decode(known, skip_special=False)

    return text
