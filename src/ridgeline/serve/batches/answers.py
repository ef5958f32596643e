"""What a line of a batch is answered with, endpoint by endpoint: as a request of its own is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ridgeline.serve.anthropic import routes as messages
from ridgeline.serve.anthropic.bodies import MessagesBody
from ridgeline.serve.batches.batch import MESSAGES
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.http import checked_body
from ridgeline.serve.core.many import answer_many
from ridgeline.serve.core.pooled_texts import PoolDesk
from ridgeline.serve.openai import chat, completions
from ridgeline.serve.openai.chat_bodies import ChatBody
from ridgeline.serve.openai.pooled_answers import ENDPOINTS, Pooling, answered
from ridgeline.serve.responses import routes as responses
from ridgeline.serve.responses.background import folded
from ridgeline.serve.responses.bodies import ResponsesBody

# Later than anybody who waits, under the policies that look at priorities.
PRIORITY = 1_000_000

# Of a tenant, a body: the answer's JSON. Raises what the endpoint would tell as an error.
Answerer = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


def answers_of(core: Core) -> Mapping[str, Answerer]:
    """By endpoint: those that the served model has."""
    if core.llm.task == "generate":
        desk = responses.Desk(core)
        return {
            "/v1/chat/completions": partial(_chat, core),
            "/v1/completions": partial(_completion, core),
            "/v1/responses": partial(_response, core, desk),
            MESSAGES: partial(_message, core),
        }
    texts = PoolDesk(core)
    return {
        path: partial(_pooled, core, texts, path)
        for path, endpoint in ENDPOINTS.items()
        if core.llm.task in endpoint.tasks
    }


async def _chat(core: Core, tenant: str, value: dict[str, Any]) -> dict[str, Any]:
    body, _ = checked_body(value, ChatBody, lenient=core.options.lenient)
    core.check_model(body.model)
    name = core.new_id("chatcmpl-")
    ask = _late(chat.ask_of(core, body, tenant, name))
    builder = chat.builder_of(core, body, ask, name)
    await chat.folded(builder, core.answer(ask))
    return builder.whole()


async def _response(
    core: Core, desk: responses.Desk, tenant: str, value: dict[str, Any]
) -> dict[str, Any]:
    body, _ = checked_body(value, ResponsesBody, lenient=core.options.lenient)
    core.check_model(body.model)
    name = core.new_id("resp_")
    ask, items, made = await desk.made(body, tenant, name)
    await folded(core.answer(_late(ask)), made)
    if body.store is not False:
        await asyncio.to_thread(desk.store.keep, tenant, made.response, items)
    return made.response


async def _message(core: Core, tenant: str, value: dict[str, Any]) -> dict[str, Any]:
    body, ignored = checked_body(value, MessagesBody, lenient=core.options.lenient)
    core.check_model(body.model)
    ask, builder, dropped = await messages.made(core, body, tenant, core.new_id("msg_"))
    await messages.folded(builder, core.answer(_late(ask)))
    ignored += dropped
    return builder.whole() | ({"ignored_fields": ignored} if ignored else {})


async def _completion(core: Core, tenant: str, value: dict[str, Any]) -> dict[str, Any]:
    body, _ = checked_body(value, completions.CompletionBody, lenient=core.options.lenient)
    core.check_model(body.model)
    name = core.new_id("cmpl-")
    asks = [_late(ask) for ask in completions.asks_of(core, body, tenant, name)]
    builder = completions.builder_of(core, body, asks, name)
    await completions.folded(builder, answer_many(core, asks))
    return builder.whole()


async def _pooled(
    core: Core, desk: PoolDesk, path: str, tenant: str, value: dict[str, Any]
) -> dict[str, Any]:
    body, _ = checked_body(value, ENDPOINTS[path].body, lenient=core.options.lenient)
    core.check_model(body.model)
    rows = partial(desk.rows, tenant, late=True)
    return await answered(Pooling(core, desk, rows), path, body)


def _late(ask: Ask) -> Ask:
    return replace(ask, service=replace(ask.service, priority=PRIORITY))
