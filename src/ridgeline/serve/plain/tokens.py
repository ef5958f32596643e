"""Tokens in and out: `/tokenize`, `/detokenize`, `/apply-template`, `/generate`; the last in
SGLang's way as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, RootModel

from ridgeline.engine.request import SamplingParams
from ridgeline.errors import RequestError
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.serve.core.ask import Ask, Conversation, Reasoning
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.events import AnswerEnd, AnswerEvent, Done, TextDelta, raise_error
from ridgeline.serve.core.http import (
    EVENTS,
    begun,
    checked_body,
    closing,
    compact,
    documented,
    key_of,
    read_body,
    read_json,
    route_of,
    sent,
    server_sent,
    while_there,
)
from ridgeline.serve.llamacpp.bodies import ContentBody
from ridgeline.serve.openai.answers import Finished, UsageAnswer
from ridgeline.serve.openai.chat import check_stream, messages_of, told_end, told_error
from ridgeline.serve.openai.chat_answer import logprobs_of, scores_of, usage_of
from ridgeline.serve.openai.chat_bodies import Message, SamplingBody
from ridgeline.serve.openai.errors import error_body
from ridgeline.serve.sglang.bodies import MARKS
from ridgeline.serve.sglang.bodies import GenerateBody as SglangBody
from ridgeline.serve.sglang.generate import GeneratedText, generated

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class ConversationBody(Body):
    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    chat_template_kwargs: dict[str, Any] | None = None


class TokenizeBody(Body):
    """A text, or a conversation through the model's template. add_special_tokens: a text gets the
    model's beginning-of-sequence token; with_pieces: the text of each token, too.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool = True
    with_pieces: bool = False


class DetokenizeBody(Body):
    model: str | None = None
    tokens: list[TokenId]
    skip_special_tokens: bool = False


class GenerateBody(SamplingBody):
    """Token ids in and out. No text is read, and no token is added."""

    model: str | None = None
    token_ids: Annotated[list[TokenId], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=256)] | None = None
    stream: bool = False
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    cache_salt: Annotated[str, Field(max_length=256)] = ""
    timeout_seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None


class Tokens(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    pieces: list[str] = []


class TokenPiece(BaseModel):
    """piece: bytes, where they are no whole characters."""

    id: int
    piece: str | list[int]


class Pieces(BaseModel):
    """In llama.cpp's way."""

    tokens: list[int] | list[TokenPiece]


class PromptText(BaseModel):
    prompt: str


class DetokenizedText(PromptText):
    """content: the same, where llama.cpp's clients look for it."""

    content: str


class GeneratedChoice(Finished):
    token_ids: list[int]
    text: str
    logprobs: list[dict[str, Any]] | None
    seed: str


class Generated(BaseModel):
    request_id: str
    model: str
    choices: list[GeneratedChoice]
    usage: UsageAnswer
    prompt_logprobs: list[dict[str, Any] | None] | None = None


class AnyTokenizeBody(RootModel[TokenizeBody | ContentBody]):
    """Two ways of one path: a body with `content` is llama.cpp's."""


class AnyTokens(RootModel[Tokens | Pieces]):
    """In the way that was asked in."""


class AnyGenerateBody(RootModel[GenerateBody | SglangBody]):
    """Two ways of one path: which it is, its fields say (`MARKS`)."""


class AnyGenerated(RootModel[Generated | GeneratedText | list[GeneratedText]]):
    """In the way that was asked in."""


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["tokens"])

    @routes.post("/tokenize", openapi_extra=documented(AnyTokenizeBody, AnyTokens))
    async def tokenize(request: Request) -> Response:
        core.tenant(key_of(request))
        value = await read_json(core, request)
        if isinstance(value, dict) and "content" in value:
            text, ignored = checked_body(value, ContentBody, lenient=core.options.lenient)
            return _answered({"tokens": await asyncio.to_thread(_pieces, core, text)}, ignored)
        body, ignored = checked_body(value, TokenizeBody, lenient=core.options.lenient)
        core.check_model(body.model)
        found = await asyncio.to_thread(_tokens, core, body)
        answer: dict[str, Any] = {
            "count": len(found),
            "max_model_len": core.engine.max_context,
            "tokens": found,
        }
        if body.with_pieces:
            decode = core.prompts.tokenizer.decode
            answer["pieces"] = [decode([one], skip_special=False, continues=True) for one in found]
        return _answered(answer, ignored)

    @routes.post("/detokenize", openapi_extra=documented(DetokenizeBody, DetokenizedText))
    async def detokenize(request: Request) -> Response:
        core.tenant(key_of(request))
        body, ignored = await read_body(core, request, DetokenizeBody)
        core.check_model(body.model)
        tokenizer = core.prompts.tokenizer
        if any(one >= tokenizer.vocab_size for one in body.tokens):
            raise RequestError("tokens", f"must be below {tokenizer.vocab_size}")
        text = await asyncio.to_thread(
            tokenizer.decode, body.tokens, skip_special=body.skip_special_tokens
        )
        return _answered({"prompt": text, "content": text}, ignored)

    if core.llm.task == "generate":
        routes.include_router(generating(core))
    return routes


def generating(core: Core) -> APIRouter:
    """The paths of models that write."""
    routes = APIRouter(route_class=route_of(error_body), tags=["tokens"])

    @routes.post("/apply-template", openapi_extra=documented(ConversationBody, PromptText))
    async def apply_template(request: Request) -> Response:
        core.tenant(key_of(request))
        body, ignored = await read_body(core, request, ConversationBody)
        core.check_model(body.model)
        rendered = await asyncio.to_thread(core.phrasing.render, _conversation(body))
        return _answered({"prompt": rendered.text}, ignored)

    @routes.post("/generate", openapi_extra=documented(AnyGenerateBody, AnyGenerated, EVENTS))
    async def generate(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        value = await read_json(core, request)
        if isinstance(value, dict) and not MARKS.isdisjoint(value):
            return await generated(core, request, tenant, value)
        body, ignored = checked_body(value, GenerateBody, lenient=core.options.lenient)
        core.check_model(body.model)
        check_stream(body.stream, None, body)
        request_id = core.new_id("gen-")
        ask = Ask(
            {"prompt_token_ids": body.token_ids},
            SamplingParams(max_tokens=body.max_tokens, logprobs=body.logprobs, **body.given()),
            service=core.service(tenant, body.priority, body.cache_salt, body.timeout_seconds),
            request_id=request_id,
            traceparent=request.headers.get("traceparent"),
        )
        if body.stream:
            events = await while_there(request, begun(core.answer(ask)))
            said = partial(_said, request_id)
            return server_sent(events, said, told_error, last=told_end)
        done, ends = await while_there(request, _folded(core.answer(ask)))
        choices = [
            {
                "index": one.index,
                "token_ids": one.token_ids,
                "text": one.text,
                "logprobs": None if one.logprobs is None else logprobs_of(one.logprobs),
                "finish_reason": one.finish_reason,
                "stop_reason": ends[one.index].stop_reason,
                "seed": str(one.seed),
            }
            for one in done.output.outputs
        ]
        whole: dict[str, Any] = {"request_id": request_id, "model": core.model}
        whole["choices"] = choices
        if done.output.prompt_logprobs is not None:
            whole["prompt_logprobs"] = scores_of(done.output.prompt_logprobs)
        return _answered(whole | {"usage": usage_of(done.usage)}, ignored)

    return routes


def _answered(answer: dict[str, Any], ignored: list[str]) -> JSONResponse:
    return JSONResponse(answer | ({"ignored_fields": ignored} if ignored else {}))


def _conversation(body: ConversationBody | TokenizeBody) -> Ask:
    return Ask(
        Conversation(tuple(messages_of(body.messages or [])), body.chat_template_kwargs or {}),
        SamplingParams(),
        reasoning=Reasoning(),
    )


def _pieces(core: Core, body: ContentBody) -> list[Any]:
    tokenizer = core.prompts.tokenizer
    ids = tokenizer.encode(
        body.content, add_special=body.add_special, parse_special=body.parse_special
    )
    return (
        [{"id": one, "piece": _piece(tokenizer, one)} for one in ids] if body.with_pieces else ids
    )


def _piece(tokenizer: Tokenizer, token_id: int) -> str | list[int]:
    data = tokenizer.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def _tokens(core: Core, body: TokenizeBody) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("prompt", "or messages: one of the two is needed")
    if body.prompt is None:
        return list(core.phrasing.render(_conversation(body)).token_ids)
    return core.prompts.tokenizer.encode(body.prompt, add_special=body.add_special_tokens)


async def _folded(events: AsyncIterator[list[AnswerEvent]]) -> tuple[Done, dict[int, AnswerEnd]]:
    ends: dict[int, AnswerEnd] = {}
    async with closing(events):
        async for batch in events:
            for event in batch:
                raise_error(event)
                if isinstance(event, AnswerEnd):
                    ends[event.index] = event
                elif isinstance(event, Done):
                    return event, ends
    raise AssertionError("the last event is Done")


def _said(request_id: str, event: AnswerEvent) -> str:
    raise_error(event)
    if isinstance(event, TextDelta):
        piece: dict[str, Any] = {"index": event.index, "token_ids": event.token_ids}
        piece["text"] = event.text
        if event.logprobs is not None:
            piece["logprobs"] = logprobs_of(event.logprobs)
    elif isinstance(event, AnswerEnd):
        piece = {"index": event.index, "finish_reason": event.finish_reason}
        piece["stop_reason"] = event.stop_reason
    else:
        assert isinstance(event, Done)
        piece = {"usage": usage_of(event.usage)}
    return sent(compact({"request_id": request_id, **piece}))
