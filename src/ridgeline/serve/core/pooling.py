"""A thread that embeds and classifies: texts of many requests, side by side on one executor.

The thread alone steps the model. Requests take turns: each gives some texts to a round, so that a
short one does not wait for all of a long one. A caller that goes away takes its texts with it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ridgeline.engine.pooled import Floats, Pooler
from ridgeline.errors import EngineError, RidgelineError

# Texts of a round have so many times the tokens of a step: its last step is seldom full.
ROUND_STEPS = 4


@dataclass(slots=True, eq=False)
class _Job:
    texts: Sequence[Sequence[int]]
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[Floats]
    rows: list[Floats] = field(default_factory=list)
    begun: int = 0
    gone: bool = False


class PoolWorker:
    """Made when first needed; `close` ends the thread, and what waits."""

    def __init__(self, pooler: Pooler) -> None:
        self._pooler = pooler
        self._commands: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ridgeline-pool", daemon=True)
        self._thread.start()

    @property
    def max_context(self) -> int:
        return self._pooler.max_context

    async def rows(self, texts: Sequence[Sequence[int]]) -> Floats:
        """[texts, width]; each has 1 to `max_context` ids. EngineError: a fault of ours."""
        loop = asyncio.get_running_loop()
        job = _Job(texts, loop, loop.create_future())
        self._commands.put(job)
        try:
            return await job.result
        except asyncio.CancelledError:
            job.gone = True
            raise

    def close(self) -> None:
        self._commands.put(None)
        self._thread.join()

    def _run(self) -> None:
        jobs: deque[_Job] = deque()
        while True:
            try:
                job = self._commands.get(block=not jobs)  # with work to do, only what is there
                if job is None:
                    break
                jobs.append(job)
                continue
            except queue.Empty:
                pass
            for left in [job for job in jobs if job.gone]:
                jobs.remove(left)
            taken = self._round(jobs)
            if not taken:
                continue
            for job, fault in self._compute(taken).items():
                jobs.remove(job)
                _tell(job, fault)
            for job in [job for job in jobs if len(job.rows) == len(job.texts)]:
                jobs.remove(job)
                _tell(job, np.stack(job.rows))
        for job in jobs:
            _tell(job, EngineError("the server has ended"))

    def _compute(self, taken: list[tuple[_Job, int]]) -> dict[_Job, RidgelineError]:
        """Appends the rows to their jobs; the faults of those that have none, each found alone."""
        try:
            rows = self._pooler.rows([job.texts[number] for job, number in taken])
        except Exception as error:
            if len({job for job, _ in taken}) == 1:
                fault = error if isinstance(error, RidgelineError) else EngineError(repr(error))
                return {taken[0][0]: fault}
            found: dict[_Job, RidgelineError] = {}
            for one in dict.fromkeys(job for job, _ in taken):
                found |= self._compute([each for each in taken if each[0] is one])
            return found
        for (job, _), row in zip(taken, rows, strict=True):
            job.rows.append(row)
        return {}

    def _round(self, jobs: deque[_Job]) -> list[tuple[_Job, int]]:
        """Texts for the next round, one of each request in turn."""
        taken: list[tuple[_Job, int]] = []
        budget = ROUND_STEPS * self._pooler.max_tokens
        waiting = deque(job for job in jobs if job.begun < len(job.texts))
        while waiting and budget > 0:
            job = waiting.popleft()
            taken.append((job, job.begun))
            budget -= len(job.texts[job.begun])
            job.begun += 1
            if job.begun < len(job.texts):
                waiting.append(job)
        return taken


def _tell(job: _Job, found: Floats | RidgelineError) -> None:
    def settle() -> None:
        if job.result.done():
            return
        if isinstance(found, RidgelineError):
            job.result.set_exception(found)
        else:
            job.result.set_result(found)

    try:
        job.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # its loop is closed: nobody waits
