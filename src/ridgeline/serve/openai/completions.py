"""POST /v1/completions, as OpenAI's clients speak, with the parameters that vLLM adds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from ridgeline.engine.answer import piece as logprob_piece
from ridgeline.engine.prompts import Prompt
from ridgeline.engine.request import SamplingParams
from ridgeline.errors import RequestError
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.core import Core
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
from ridgeline.serve.openai.answers import TextCompletion
from ridgeline.serve.openai.beams import beams_of, check_beams
from ridgeline.serve.openai.chat import (
    check_stream,
    constrained_by,
    told_end,
    told_error,
    wants_usage,
)
from ridgeline.serve.openai.chat_bodies import ConstrainedBody, StreamOptions
from ridgeline.serve.openai.completion_answer import CompletionBuilder
from ridgeline.serve.openai.errors import error_body

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class CompletionBody(ConstrainedBody):
    """POST /v1/completions. max_tokens: 16 if not said, as OpenAI has it; 0, with echo: the prompt
    and its logprobs alone. suffix: the answer is what lies between the prompt and it.
    """

    model: str | None = None
    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=256)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["openai"])

    @routes.post(
        "/v1/completions", openapi_extra=documented(CompletionBody, TextCompletion, EVENTS)
    )
    async def create_completion(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, CompletionBody)
        core.check_model(body.model)
        completion_id = core.new_id("cmpl-")
        asks = [traced(a, request) for a in asks_of(core, body, tenant, completion_id)]
        builder = builder_of(core, body, asks, completion_id)
        headers = {"x-request-id": completion_id}
        if ignored:
            headers["ridgeline-ignored-fields"] = ", ".join(ignored)
        events = answer_many(core, asks)
        if body.stream:
            started = await while_there(request, begun(events))

            async def end() -> str:
                wanted = wants_usage(body.stream_options)
                usage = sent(compact(builder.usage_chunk())) if wanted else ""
                return usage + await told_end()

            return server_sent(
                started,
                builder.said,
                told_error,
                first="".join(sent(compact(chunk)) for chunk in builder.start()),
                last=end,
                headers=headers,
            )
        await while_there(request, folded(builder, events))
        whole = builder.whole() | ({"ignored_fields": ignored} if ignored else {})
        return JSONResponse(whole, headers=headers)

    return routes


def asks_of(core: Core, body: CompletionBody, tenant: str, request_id: str) -> list[Ask]:
    for field in ("echo", "truncate_prompt_tokens"):
        if body.suffix and getattr(body, field):
            raise RequestError(field, "and suffix: give one")
    if body.echo and body.truncate_prompt_tokens is not None:
        raise RequestError("echo", "and truncate_prompt_tokens: give one")
    if body.echo and body.stream and body.logprobs is not None:
        raise RequestError("logprobs", "with echo, of prompts come only without stream")
    if body.max_tokens == 0 and not body.echo:
        raise RequestError("max_tokens", "0 needs echo: else there is nothing to answer")
    check_stream(body.stream, body.stream_options, body)
    given = body.given()
    if body.echo and body.logprobs is not None:
        given.setdefault("prompt_logprobs", body.logprobs)
    most = 1 if body.max_tokens == 0 else body.max_tokens  # the one is not told
    beams = beams_of(body, given)
    params = SamplingParams(max_tokens=most, logprobs=body.logprobs, **given)
    params = constrained_by(params, body)
    if beams is not None:
        check_beams(params)
        if body.max_tokens == 0:
            raise RequestError("max_tokens", "0 leaves use_beam_search nothing to search for")
    prompts = _prompts(body)
    if len(prompts) > core.options.max_prompts:
        most = core.options.max_prompts
        raise RequestError("prompt", f"{len(prompts)} prompts; {most} are allowed")
    each = params.num_sequences if beams is None else beams.width
    if len(prompts) * each > core.limit:
        total = len(prompts) * each
        field = "n" if body.best_of is None else "best_of"
        raise RequestError(field, f"{total} answers are asked for; {core.limit} are allowed")
    service = core.service(tenant, body.priority, body.cache_salt, body.timeout_seconds)
    return [
        Ask(
            prompt,
            params,
            service=service,
            request_id=request_id if len(prompts) == 1 else f"{request_id}-{number}",
            truncate=body.truncate_prompt_tokens,
            tells_prompt=bool(body.return_token_ids),
            beams=beams,
        )
        for number, prompt in enumerate(prompts)
    ]


def builder_of(
    core: Core, body: CompletionBody, asks: list[Ask], completion_id: str
) -> CompletionBuilder:
    return CompletionBuilder(
        completion_id,
        core.model,
        asks[0].sampling.n,
        [_echo(core, body, ask) for ask in asks],
        body.logprobs,
        partial(logprob_piece, core.prompts.tokenizer),
        scores=body.prompt_logprobs is not None,
        echo_only=body.max_tokens == 0,
        token_ids=bool(body.return_token_ids),
    )


def _prompts(body: CompletionBody) -> list[Prompt]:
    prompt: Any = body.prompt
    one = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
    if not one and not prompt:
        raise RequestError("prompt", "is empty; at least one is needed")
    prompts = [prompt] if one else list(prompt)
    if body.suffix:
        return [{"prompt": each, "suffix": body.suffix} for each in prompts]
    return prompts


def _echo(core: Core, body: CompletionBody, ask: Ask) -> str:
    if not body.echo:
        return ""
    if isinstance(ask.prompt, str):
        return ask.prompt
    assert isinstance(ask.prompt, list)
    core.prompts.tokenize(ask.prompt)  # refuses ids that are not there
    return core.prompts.tokenizer.decode(ask.prompt, skip_special=False)


async def folded(builder: CompletionBuilder, events: AsyncIterator[list[Numbered]]) -> None:
    async with closing(events):
        async for batch in events:
            for number, event in batch:
                raise_error(event)
                builder.take(number, event)
