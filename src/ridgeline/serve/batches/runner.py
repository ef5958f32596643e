"""Runs batches when nobody waits: their lines take what capacity requests leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ridgeline.serve.batches.batch import Batches, InputGone, Line
from ridgeline.serve.core.errors import StorageFault

logger = logging.getLogger("ridgeline.serve")

# Answers that say "not now": the line is asked again.
AGAIN = (408, 429, 499, 503)
IDLE_SECONDS, AGAIN_SECONDS = 0.02, 0.5
COUNT_SECONDS = 1.0
STUCK_SECONDS = 5.0
MAX_TRIES = 3

Ask = Callable[[str, str, dict[str, Any]], Awaitable[tuple[int, Any]]]


class BatchRunner:
    """ask: answers one body of a tenant at an endpoint, as status and body. room: how many lines
    may run at once now; 0 while others wait.
    """

    def __init__(self, batches: Batches, ask: Ask, room: Callable[[], int]) -> None:
        self._batches = batches
        self._ask = ask
        self._room = room
        self._wake = asyncio.Event()
        self._tries: dict[str, int] = {}
        self.stuck_seconds = STUCK_SECONDS

    def wake(self) -> None:
        """There is a new batch, or one is to be cancelled."""
        self._wake.set()

    async def run(self) -> None:
        """Works until it is cancelled; what was being answered then is asked again another time."""
        while True:
            self._wake.clear()
            stuck = False
            live = await asyncio.to_thread(self._batches.live)
            for batch in live:
                stuck |= not await self._worked(batch)
            if not live:
                await self._wake.wait()
            elif stuck:
                await asyncio.sleep(self.stuck_seconds)

    async def _worked(self, batch: dict[str, Any]) -> bool:
        """Works on a batch. One that cannot go on is ended, and stands in nobody's way; False: it
        is to be tried again, since the disk has no room, or for what nobody has thought of.
        """
        try:
            await self._work(batch)
        except InputGone as error:
            await asyncio.to_thread(self._batches.fail, batch, "missing_file", str(error))
        except (StorageFault, OSError) as error:
            logger.warning("batch %s waits: %s", batch["id"], error)
            return False
        except Exception as error:
            tries = self._tries.get(batch["id"], 0) + 1
            self._tries[batch["id"]] = tries
            logger.exception("batch %s failed, for the %d. time", batch["id"], tries)
            if tries < MAX_TRIES:
                return False
            message = f"an error of ours: {type(error).__name__}"
            await asyncio.to_thread(self._batches.fail, batch, "server_error", message)
        return True

    async def _work(self, batch: dict[str, Any]) -> None:
        lines, counts = await asyncio.to_thread(self._batches.left, batch)
        running: set[asyncio.Task[None]] = set()
        ending = "completed"
        counted = time.monotonic()
        try:
            for line in lines:
                while ending == "completed" and len(running) >= self._room():
                    if running:
                        await asyncio.wait(
                            running,
                            timeout=IDLE_SECONDS,
                            return_when=asyncio.FIRST_COMPLETED,
                        )
                    else:
                        await asyncio.sleep(IDLE_SECONDS)
                    running -= self._ended(running)
                    ending = await self._state(batch)
                if ending != "completed":
                    break
                running.add(asyncio.create_task(self._answer(batch, line, counts)))
                if time.monotonic() - counted > COUNT_SECONDS:
                    counted = time.monotonic()
                    await asyncio.to_thread(self._batches.count, batch, dict(counts))
                    ending = await self._state(batch)
            if ending != "completed":
                for task in running:
                    task.cancel()
            while running:
                await asyncio.wait(running, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                running -= self._ended(running)
                if ending == "completed" and (ending := await self._state(batch)) != "completed":
                    for task in running:
                        task.cancel()
        finally:
            for task in running:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(self._batches.finish, batch, ending)

    def _ended(self, running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        ended = {task for task in running if task.done()}
        for task in ended:
            if not task.cancelled():
                task.result()  # a fault of ours is not to be lost
        return ended

    async def _state(self, batch: dict[str, Any]) -> str:
        """How the batch is to end as things stand."""
        if time.time() > batch["expires_at"]:
            return "expired"
        now = await asyncio.to_thread(self._batches.get, batch["tenant"], batch["id"])
        return "cancelled" if now["status"] == "cancelling" else "completed"

    async def _answer(self, batch: dict[str, Any], line: Line, counts: dict[str, int]) -> None:
        while True:
            status, answer = await self._ask(batch["tenant"], batch["endpoint"], line.body)
            if status not in AGAIN:
                break
            await asyncio.sleep(AGAIN_SECONDS)
        ok = await asyncio.to_thread(self._batches.record, batch, line, status, answer)
        counts["completed" if ok else "failed"] += 1
