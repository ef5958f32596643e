"""Responses in the background: what was promised outlives the server's end, as batches do.

What a response was asked with is on the disk before its id is told. A server that ends, or is
killed, leaves it there, and the next one over the same model answers it from its beginning.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ridgeline.errors import EngineError, Overloaded, RequestError
from ridgeline.serve.batches.journal import Documents
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import StorageFault, fault_of
from ridgeline.serve.core.events import AnswerEvent
from ridgeline.serve.core.http import closing
from ridgeline.serve.responses.bodies import ResponsesBody
from ridgeline.serve.responses.event_log import EventLog, wire
from ridgeline.serve.responses.response import ResponseBuilder
from ridgeline.serve.responses.store import Store

logger = logging.getLogger("ridgeline.serve")

BEGUN = "responses-begun"
# Servers that may end while they answer one response; it may be what ends them.
MAX_TRIES = 3
AGAIN_SECONDS = 0.5

Items = list[dict[str, Any]]
# What a body asks for, under an id: the ask, the items it is made of, and who writes the response.
Prepare = Callable[[ResponsesBody, str, str], Awaitable[tuple[Ask, Items, ResponseBuilder]]]


@dataclass(slots=True)
class Running:
    tenant: str
    items: Items
    builder: ResponseBuilder
    log: EventLog | None
    task: asyncio.Task[None]

    def interrupt(self) -> None:
        """Unless it has ended, and is being kept."""
        if self.builder.response["status"] in ("queued", "in_progress"):
            self.task.cancel()


class Background:
    """Owned by the event loop."""

    def __init__(
        self,
        core: Core,
        store: Store,
        documents: Documents,
        prepare: Prepare,
        finished: Callable[[str, dict[str, Any], Sequence[dict[str, Any]]], None],
    ) -> None:
        """finished: is told, in a thread, of a tenant's response that has ended, and of the items
        that it was asked with; perhaps more than once.
        """
        self._core = core
        self._store = store
        self._documents = documents
        self._prepare = prepare
        self._finished = finished
        self._stopping = False
        self.running: dict[str, Running] = {}

    async def begin(
        self, body: ResponsesBody, tenant: str, ask: Ask, items: Items, builder: ResponseBuilder
    ) -> dict[str, Any]:
        """The response as it is now, queued; on the disk, and under way."""
        if body.seed is None:
            # Whoever answers it again comes to the same answer.
            body = body.model_copy(update={"seed": secrets.randbits(63)})
            ask = replace(ask, sampling=replace(ask.sampling, seed=body.seed))
        queued = {**builder.response, "status": "queued", "output": []}
        entry = {
            "id": queued["id"],
            "created_at": queued["created_at"],
            "tenant": tenant,
            "tries": 1,
            "body": body.model_dump(mode="json", by_alias=True, exclude_unset=True),
        }
        await asyncio.to_thread(self._store.keep, tenant, queued, items)
        await asyncio.to_thread(self._documents.write, BEGUN, entry["id"], entry)
        self._start(body, tenant, ask, items, builder)
        return queued

    async def events(self, tenant: str, response_id: str, place: int) -> AsyncIterator[list[str]]:
        """Those of one that was made to be streamed, from a place on, as they come or came. Raises
        KeyError where the tenant has none such, RequestError where it was not.
        """
        one = self.running.get(response_id)
        if one is not None and one.tenant == tenant:
            if one.log is None:
                raise _unstreamed()
            async for batch in one.log.follow(place):
                yield batch
            return
        kept = await asyncio.to_thread(self._store.events, tenant, response_id)
        if kept is None:
            raise _unstreamed()
        yield kept[place:]

    async def resume(self) -> None:
        """Begins what the server before has not ended."""
        for entry in await asyncio.to_thread(self._documents.every, BEGUN):
            name, tenant = entry["id"], entry["tenant"]
            entry["tries"] += 1
            try:
                response, items = await asyncio.to_thread(self._store.get, tenant, name)
            except KeyError:  # deleted since
                await asyncio.to_thread(self._documents.remove, BEGUN, name)
                continue
            try:
                if entry["tries"] > MAX_TRIES:
                    raise EngineError(f"the server ended {MAX_TRIES} times while this was written")
                await asyncio.to_thread(self._documents.write, BEGUN, name, entry)
                body = ResponsesBody.model_validate(entry["body"])
                ask, items, builder = await self._prepare(body, tenant, name)
            except Exception as error:
                builder = ResponseBuilder(name, response, wants_logprobs=False)
                builder.failed("server_error", fault_of(error).message)
                await self._end(tenant, builder, items, None, [])
                continue
            builder.response["created_at"] = entry["created_at"]
            self._start(body, tenant, ask, items, builder)

    async def cancel(self, tenant: str, response_id: str) -> None:
        """Ends it, if it runs and is the tenant's."""
        one = self.running.get(response_id)
        if one is None or one.tenant != tenant:
            return
        one.interrupt()
        await asyncio.wait([one.task])
        if response_id in self.running:  # it had not begun
            await self._end(tenant, one.builder, one.items, one.log, one.builder.cancelled())

    async def stop(self) -> None:
        """The server ends: what runs is left for the next one, what has ended is kept."""
        self._stopping = True
        left = list(self.running.values())
        for one in left:
            one.interrupt()
        await asyncio.gather(*(one.task for one in left), return_exceptions=True)

    def _start(
        self, body: ResponsesBody, tenant: str, ask: Ask, items: Items, builder: ResponseBuilder
    ) -> None:
        log = None
        if body.stream:
            log = EventLog()
            log.add(builder.queued())
            # Pieces that come as one when somebody is slow would come otherwise another time.
            ask = replace(ask, merges=False)
        task = asyncio.create_task(self._run(tenant, ask, items, builder, log))
        self.running[builder.response["id"]] = Running(tenant, items, builder, log, task)

    async def _run(
        self, tenant: str, ask: Ask, items: Items, builder: ResponseBuilder, log: EventLog | None
    ) -> None:
        try:
            last = await self._answer(ask, builder, log)
        except asyncio.CancelledError:
            if self._stopping:
                if log is not None:
                    log.close()
                return
            last = builder.cancelled()
        except Exception as error:
            last = builder.failed("server_error", fault_of(error).message)
        await self._end(tenant, builder, items, log, last)

    async def _answer(
        self, ask: Ask, builder: ResponseBuilder, log: EventLog | None
    ) -> list[dict[str, Any]]:
        """What is promised waits for room; nobody is told to come back. The last event or two."""
        while True:
            events = self._core.answer(ask)
            last: list[dict[str, Any]] = []
            try:
                async with closing(events):
                    async for batch in events:
                        for event in batch:
                            if log is not None:
                                log.add(last)
                            last = builder.take(event)
                return last
            except Overloaded:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _end(
        self,
        tenant: str,
        builder: ResponseBuilder,
        items: Items,
        log: EventLog | None,
        last: list[dict[str, Any]],
    ) -> None:
        """last: the events that tell of the end; whoever hears them finds the response stored."""
        name = builder.response["id"]
        try:
            if log is not None:
                events = [*log.events, *map(wire, last)]
                await asyncio.to_thread(self._store.keep_events, name, events)
            await asyncio.to_thread(self._finished, tenant, builder.response, builder.given)
            await asyncio.to_thread(self._store.keep, tenant, builder.response, items)
        except StorageFault as error:
            logger.warning("response %s can be had until this server ends: %s", name, error)
            return
        finally:
            if log is not None:
                log.add(last)
                log.close()
        await asyncio.to_thread(self._documents.remove, BEGUN, name)
        self.running.pop(name, None)


def _unstreamed() -> RequestError:
    return RequestError(
        "stream", "this response was not created with background and stream: get it whole"
    )


async def folded(events: Any, builder: ResponseBuilder) -> None:
    """Takes all events of an answer."""
    async with closing(events):
        async for batch in events:
            event: AnswerEvent
            for event in batch:
                builder.take(event)
