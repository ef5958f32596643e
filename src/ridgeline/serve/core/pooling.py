"""A thread that embeds and classifies: texts of many requests, side by side on one executor.

The thread alone steps the model. Requests take turns: each gives some texts to a round, so that a
short one does not wait for all of a long one; those of batches come after all others. A caller that
goes away takes its texts with it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ridgeline.engine.book import Book
from ridgeline.engine.pooled import Floats, Pooler
from ridgeline.errors import EngineError, RidgelineError
from ridgeline.step import StepPlan

# Texts of a round have so many times the tokens of a step: its last step is seldom full.
ROUND_STEPS = 4


@dataclass(slots=True, eq=False)
class _Job:
    texts: Sequence[Sequence[int]]
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[Floats]
    late: bool
    arrival: float
    rows: list[Floats] = field(default_factory=list)
    begun: int = 0
    gone: bool = False


class PoolWorker:
    """Made when first needed; `close` ends the thread, and what waits. book: is told of steps and
    texts. running, waiting: texts of the round that runs, and behind it. step_began: when the step
    that runs did, of `time.monotonic()`; None between rounds.
    """

    def __init__(self, pooler: Pooler, book: Book) -> None:
        self._pooler = pooler
        self._book = book
        self.running = self.waiting = 0
        self.step_began: float | None = None
        pooler.watch = self._stepped
        self._commands: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ridgeline-pool", daemon=True)
        self._thread.start()

    @property
    def max_context(self) -> int:
        return self._pooler.max_context

    async def rows(self, texts: Sequence[Sequence[int]], *, late: bool = False) -> Floats:
        """[texts, width]; each has 1 to `max_context` ids. late: when nobody else waits.
        EngineError: a fault of ours.
        """
        loop = asyncio.get_running_loop()
        job = _Job(texts, loop, loop.create_future(), late, time.monotonic())
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
                self._book.texts_dropped(len(left.texts) - left.begun)
            taken = self._round(jobs)
            self.running = len(taken)
            self.waiting = sum(len(job.texts) - job.begun for job in jobs)
            if not taken:
                continue
            self.step_began = began = time.monotonic()
            faults = self._compute(taken)
            ended, self.step_began, self.running = time.monotonic(), None, 0
            for job, number in taken:
                reason = "error" if job in faults else "stop"
                length = len(job.texts[number])
                self._book.text_closed(reason, length, job.arrival, began, ended)
            for job, fault in faults.items():
                jobs.remove(job)
                _tell(job, fault)
            for job in [job for job in jobs if len(job.rows) == len(job.texts)]:
                jobs.remove(job)
                _tell(job, np.stack(job.rows))
        for job in jobs:
            _tell(job, EngineError("the server has ended"))

    def _stepped(self, plan: StepPlan, began: float, ended: float) -> None:
        self._book.read_texts(plan, began, ended)
        self.step_began = ended  # as long as the round runs

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
        """Texts for the next round, one of each request in turn; late ones if no others wait."""
        taken: list[tuple[_Job, int]] = []
        budget = ROUND_STEPS * self._pooler.max_tokens
        waiting = deque(job for job in jobs if job.begun < len(job.texts))
        if not all(job.late for job in waiting):
            waiting = deque(job for job in waiting if not job.late)
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
