"""The thread that steps a session for callers on event loops: commands in, pieces out.

It alone touches the session. Commands reach it between steps, and pieces leave it once a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.engine.beam_requests import BeamRun
from ridgeline.engine.beams import BeamSearchParams
from ridgeline.engine.book import Book
from ridgeline.engine.constrain.compile import Grammar
from ridgeline.engine.outputs import Delta, RequestOutput
from ridgeline.engine.prompts import Tokenized
from ridgeline.engine.request import SamplingParams, Service
from ridgeline.engine.schedule.predict import outlook
from ridgeline.engine.session import Group
from ridgeline.errors import EngineError, RidgelineError
from ridgeline.llm import LLM
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.assemble import OperatorTime

# Predictions look at all that wait. They are made anew after so long at the soonest, and take such
# a part of the thread's time at most.
_OUTLOOK_SECONDS = 0.02
_OUTLOOK_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine holds between two steps. running and waiting count requests; blocks are those
    of the KV cache.

    As predicted, if the engine was asked to, else 0: wait_seconds, until a newcomer would be begun;
    prompt_seconds, for a token of a prompt; answer_seconds, what an answer takes of all rows'
    time. moment: when it was so, of `time.monotonic()`. num_steps: that have ended.
    num_preemptions: times that a running request gave its memory to others.
    """

    running: int
    waiting: int
    free_blocks: int
    num_blocks: int
    max_rows: int = 0
    wait_seconds: float = 0.0
    prompt_seconds: float = 0.0
    answer_seconds: float = 0.0
    moment: float = 0.0
    num_steps: int = 0
    num_preemptions: int = 0


class Mailbox:
    """Pieces on their way from the thread to the one reader on its loop. The thread puts pieces in
    and then has `ring` called on the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.deltas: deque[Delta] = deque()
        self.fault: EngineError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def filled(self) -> None:
        """Waits until there are pieces; raises what has stopped the engine."""
        while not self.deltas:
            if self.fault is not None:
                raise self.fault
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None


class Worker:
    """The thread, what it is told to do, and who reads what it makes."""

    def __init__(self, llm: LLM, predicts: bool) -> None:
        # What embeds or hears is not stepped here, but by who takes turns.
        self._turns = llm.turns if llm.task == "generate" else None
        self._session = llm.session if self._turns is None else self._turns.lend()
        self._assembled = llm.assembled
        self._predicts = predicts
        self._outlook = (0.0, 0.0, 0.0)
        self._looked = self._look_again = 0.0
        self._num_steps = 0
        self.step_began: float | None = None
        self.wants_sample = False
        self.sample: tuple[StepShape, tuple[OperatorTime, ...]] | None = None
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self.fault: EngineError | None = None
        self._running: dict[str, tuple[Group, Mailbox]] = {}
        self._searches: list[tuple[BeamRun, Future[RequestOutput]]] = []
        self._tokenizer = llm.prompts.tokenizer
        self.load = self._load()
        self._thread = threading.Thread(target=self._run, name="ridgeline-engine", daemon=True)
        self._thread.start()

    # ---- called from anywhere

    def submit(
        self,
        mailbox: Mailbox,
        prompt: Tokenized,
        params: SamplingParams,
        name: str | None,
        arrival: float,
        service: Service,
        grammar: Grammar | None = None,
    ) -> Future[Group]:
        queued: Future[Group] = Future()

        def command() -> None:
            if not queued.set_running_or_notify_cancel():
                return
            try:
                if self.fault is not None:
                    raise self.fault
                group = self._session.submit(
                    prompt,
                    params,
                    arrival=arrival,
                    name=name,
                    service=service,
                    grammar=grammar,
                )
            except RidgelineError as error:
                queued.set_exception(error)
                return
            self._running[group.id] = group, mailbox
            queued.set_result(group)

        if not self._call(command):
            queued.set_exception(EngineError("the engine has stopped; make another"))
        return queued

    def search(
        self,
        prompt: Tokenized,
        params: BeamSearchParams,
        num_given: int,
        name: str,
        arrival: float,
        service: Service,
    ) -> Future[RequestOutput]:
        """Whoever cancels it ends the search."""
        found: Future[RequestOutput] = Future()

        def command() -> None:
            try:
                if self.fault is not None:
                    raise self.fault
                run = BeamRun(
                    self._session,
                    self._tokenizer,
                    prompt,
                    params,
                    num_given,
                    name=name,
                    arrival=arrival,
                    service=service,
                )
            except RidgelineError as error:
                _settle(found, error)
            else:
                self._searches.append((run, found))

        if not self._call(command):
            found.set_exception(EngineError("the engine has stopped; make another"))
        return found

    def abort(self, request_id: str) -> None:
        def command() -> None:
            if request_id in self._running:
                group, _ = self._running[request_id]
                self._session.cancel(group)
                self._deliver([group])

        self._call(command)

    def forget(self, group: Group) -> None:
        def command() -> None:
            # A name may serve again once its group has ended.
            if self._running.get(group.id, (None,))[0] is group:
                del self._running[group.id]
                self._session.abandon(group)

        self._call(command)

    def drop(self, queued: Future[Group]) -> None:
        """Forgets what was queued for a caller that has gone."""
        if not queued.cancelled() and queued.exception() is None:
            self.forget(queued.result())

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _call(self, command: Callable[[], None]) -> bool:
        """Runs it on the thread before the next step; False once the engine has stopped."""
        with self._wake:
            if self._stopping:
                return False
            self._commands.append(command)
            self._wake.notify()
            return True

    # ---- the thread

    def _run(self) -> None:
        try:
            while self._obey():
                groups = self._step()
                if self._searches:
                    self._advance()
                self._deliver(groups)
            for run, found in self._searches:
                run.close()
                _settle(found, EngineError("the engine has stopped"))
            for group, _ in list(self._running.values()):
                self._session.cancel(group)
                self._deliver([group])
        except Exception as error:
            self._give_up(error)
        finally:
            if self._turns is not None:
                self._turns.give_back()

    def _load(self) -> Load:
        state = self._session.engine.state
        now = time.monotonic()
        if self._predicts and (now > self._look_again or not self._session.engine.has_work):
            self._outlook, self._looked = outlook(state), now
            took = time.monotonic() - now
            self._look_again = now + max(_OUTLOOK_SECONDS, took / _OUTLOOK_SHARE)
        return Load(
            len(state.running),
            state.num_waiting,
            state.pool.num_free,
            state.pool.num_blocks,
            state.rows_at_once,
            *self._outlook,
            moment=self._looked,
            num_steps=self._num_steps,
            num_preemptions=state.num_preemptions,
        )

    @property
    def book(self) -> Book:
        return self._session.engine.book

    def block_states(self) -> bytearray:
        return self._session.engine.state.pool.states()

    def describe_step(self) -> str:
        state = self._session.engine.state
        try:
            rows = [(one.request.id, one.num_tokens) for one in list(state.in_flight)[-1]]
        except (IndexError, RuntimeError):  # it has just ended
            return "no rows"
        shown = ", ".join(f"{name} up to token {count}" for name, count in rows[:8])
        return f"{len(rows)} rows: {shown}" + (", ..." if len(rows) > 8 else "")

    def _step(self) -> Sequence[Group]:
        self.step_began = time.monotonic()
        try:
            return self._sampled() if self.wants_sample else self._session.step()
        except Exception as error:
            # The scheduler is at fault: what it holds of any request cannot be trusted any more.
            fault = EngineError(f"the engine failed and ended all that ran: {error!r}")
            fault.__cause__ = error
            return self._session.fail(fault)
        finally:
            self.step_began = None
            self._num_steps += 1

    def _advance(self) -> None:
        """Searches that have a token of each beam go on."""
        left = []
        for run, found in self._searches:
            outcome: RequestOutput | Exception | None = None
            if not found.cancelled():
                try:
                    outcome = run.advance()
                except RidgelineError as error:
                    outcome = error
                except Exception as error:
                    outcome = EngineError(f"the search failed: {error!r}")
                if outcome is None:
                    left.append((run, found))
                    continue
            if not isinstance(outcome, RequestOutput):
                run.close()
            if outcome is not None:
                _settle(found, outcome)
        self._searches = left

    def _sampled(self) -> Sequence[Group]:
        self._assembled.reset_timers()
        groups = self._session.step()
        timers, shape = self._assembled.timers(), self.book.last_shape
        if timers and shape is not None:
            self.sample, self.wants_sample = (shape, timers), False
        return groups

    def _obey(self) -> bool:
        """Runs the commands; waits for one while there is nothing else to do. False: the end."""
        while True:
            with self._wake:
                while not (self._commands or self._stopping or self._session.engine.has_work):
                    self._wake.wait()
                commands, self._commands = self._commands, deque()
                stopping = self._stopping
            for command in commands:
                command()
            self.load = self._load()
            if stopping:
                return False
            if self._session.engine.has_work:
                return True

    def _deliver(self, groups: Sequence[Group]) -> None:
        self.load = self._load()  # before: who hears of an end may ask again at once
        ready: dict[asyncio.AbstractEventLoop, list[tuple[Group, Mailbox]]] = {}
        for group in groups:
            if group.id not in self._running:
                continue
            _, mailbox = self._running[group.id]
            mailbox.deltas.extend(group.deltas)
            group.deltas.clear()
            ready.setdefault(mailbox.loop, []).append((group, mailbox))
            if group.done:
                del self._running[group.id]
        for loop, given in ready.items():
            if not _ring(loop, [mailbox for _, mailbox in given]):
                for group, _ in given:  # the loop is closed: nobody will read these
                    self._running.pop(group.id, None)
                    self._session.abandon(group)
                self.load = self._load()

    def _give_up(self, error: Exception) -> None:
        """Not even an error could be handled: everyone who waits is told, and nobody may come."""
        self.fault = EngineError(f"the engine has stopped: {error!r}")
        with self._wake:
            self._stopping = True
            commands, self._commands = self._commands, deque()
        for command in commands:
            with contextlib.suppress(Exception):
                command()
        for _, found in self._searches:
            _settle(found, self.fault)
        for _, mailbox in self._running.values():
            mailbox.fault = self.fault
            _ring(mailbox.loop, [mailbox])


def _settle(found: Future[RequestOutput], outcome: RequestOutput | Exception) -> None:
    """Unless nobody waits for it any more."""
    if not found.set_running_or_notify_cancel():
        return
    if isinstance(outcome, RequestOutput):
        found.set_result(outcome)
    else:
        found.set_exception(outcome)


def _ring(loop: asyncio.AbstractEventLoop, mailboxes: Sequence[Mailbox]) -> bool:
    """Wakes the readers; False if their loop is closed."""

    def ring() -> None:
        for mailbox in mailboxes:
            mailbox.ring()

    try:
        loop.call_soon_threadsafe(ring)
    except RuntimeError:
        return False
    return True
