"""Several asks of one request, answered side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.events import AnswerEvent

Numbered = tuple[int, AnswerEvent]


async def answer_many(core: Core, asks: Sequence[Ask]) -> AsyncIterator[list[Numbered]]:
    """Each event with the number of its ask, in batches as they come; the first error of any ends
    all. Raises what `Core.answer` does; closing it frees all.
    """
    if len(asks) == 1:
        events = core.answer(asks[0])
        try:
            async for batch in events:
                yield [(0, event) for event in batch]
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        return
    queue: asyncio.Queue[list[Numbered] | BaseException | None] = asyncio.Queue()

    async def pump(number: int, ask: Ask) -> None:
        try:
            events = core.answer(ask)
            try:
                async for batch in events:
                    queue.put_nowait([(number, event) for event in batch])
            finally:
                await events.aclose()  # type: ignore[attr-defined]
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(pump(number, ask)) for number, ask in enumerate(asks)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
