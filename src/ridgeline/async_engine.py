"""The engine for asyncio: many callers, one model, one thread that steps it.

`AsyncEngine(LLM(...))` takes the model over. Callers on event loops submit prompts, read pieces as
they come and abort at any moment; a caller that goes away frees what it held. The thread alone
touches the session: commands reach it between steps, and pieces leave it once a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ridgeline.engine.constrain.compile import Grammar
from ridgeline.engine.outputs import Delta, RequestOutput
from ridgeline.engine.prompts import Message, Prompt, Tokenized
from ridgeline.engine.request import ORDINARY_SERVICE, SamplingParams, Service
from ridgeline.engine.schedule.predict import outlook
from ridgeline.engine.session import Group, Session
from ridgeline.errors import EngineError, RidgelineError
from ridgeline.llm import LLM

# Predictions are made anew after so long at the soonest: they look at all that wait.
_OUTLOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine holds between two steps. running and waiting count requests; blocks are those
    of the KV cache.

    As predicted, if the engine was asked to, else 0: wait_seconds, until a newcomer would be begun;
    prompt_seconds, for a token of a prompt; answer_seconds, what an answer takes of all rows'
    time. moment: when it was so, of `time.monotonic()`. num_steps: that have ended.
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


class AsyncStream(AsyncIterator[Delta]):
    """The pieces of one prompt's answers as they come; read by one task.

    It owns the request until the last piece: closing it, dropping it, or cancelling the task that
    reads it ends the request and frees its memory. output: the prompt and its answers, once the
    last piece is read.
    """

    def __init__(self, engine: AsyncEngine, mailbox: _Mailbox, group: Group) -> None:
        self._engine = engine  # lives as long as somebody reads
        self._mailbox = mailbox
        self._group = group
        self._done = False
        self.output: RequestOutput | None = None

    @property
    def request_id(self) -> str:
        return self._group.id

    async def __anext__(self) -> Delta:
        if self._done:
            raise StopAsyncIteration
        try:
            delta = await self._mailbox.take()
        except BaseException:
            self.close()
            raise
        if delta.output is not None:
            self.output, self._done = delta.output, True
        return delta

    async def some(self) -> list[Delta]:
        """All pieces that are there; waits for one if there is none. Empty: nothing more comes."""
        if self._done:
            return []
        first = await anext(self)
        pieces = [first, *self._mailbox.deltas]
        self._mailbox.deltas.clear()
        if pieces[-1].output is not None:
            self.output, self._done = pieces[-1].output, True
        return pieces

    def abort(self) -> None:
        """Ends the answers as "abort": the last piece says so and has what was said until then."""
        if not self._done:
            self._engine.abort(self.request_id)

    def close(self) -> None:
        """Ends what still runs; nothing more can be read."""
        if not self._done:
            self._done = True
            self._engine._worker.forget(self._group)

    async def aclose(self) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Mailbox:
    """Pieces on their way from the thread to one reader's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ready = asyncio.Event()
        self.deltas: deque[Delta] = deque()
        self.fault: EngineError | None = None

    async def take(self) -> Delta:
        while not self.deltas:
            if self.fault is not None:
                raise self.fault
            self.ready.clear()
            if not self.deltas and self.fault is None:
                await self.ready.wait()
        return self.deltas.popleft()


class AsyncEngine:
    """Serves prompts from any number of tasks on any number of event loops.

    The LLM must not be used otherwise from then on. predicts: `load` has predictions. `close`, or
    leaving `async with`, ends all requests as "abort" and stops the thread.
    """

    def __init__(self, llm: LLM, *, predicts: bool = False) -> None:
        self._llm = llm
        self._worker = _Worker(llm.session, predicts)
        self._stop = weakref.finalize(self, self._worker.stop)

    @property
    def max_context(self) -> int:
        return self._llm.max_context

    @property
    def load(self) -> Load:
        """As of the last step. Safe to call anywhere."""
        return self._worker.load

    @property
    def step_began(self) -> float | None:
        """When the step that runs began, of `time.monotonic()`; None between steps."""
        return self._worker.step_began

    @property
    def fault(self) -> EngineError | None:
        """Why the engine has stopped; None while it serves."""
        return self._worker.fault

    def describe_step(self) -> str:
        """What is in the step that runs, for whoever finds it stuck: a look from another thread."""
        return self._worker.describe_step()

    async def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        service: Service = ORDINARY_SERVICE,
    ) -> AsyncStream:
        """Queues a prompt; read the stream for its answers.

        Raises, before anything runs, RequestError for a prompt that could never run, Overloaded if
        it cannot run soon enough, and EngineError if the engine has stopped.
        """
        arrival = time.monotonic()
        tokenized = await asyncio.to_thread(self._llm.prompts.tokenize, prompt)
        return await self.submit(
            tokenized, sampling_params, request_id=request_id, arrival=arrival, service=service
        )

    async def stream_chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        service: Service = ORDINARY_SERVICE,
    ) -> AsyncStream:
        """Queues a conversation; raises as `stream` and `LLM.chat` do."""
        arrival = time.monotonic()
        tokenized = await asyncio.to_thread(
            self._llm.prompts.render, messages, tools=tools, variables=chat_template_kwargs
        )
        return await self.submit(
            tokenized, sampling_params, request_id=request_id, arrival=arrival, service=service
        )

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        service: Service = ORDINARY_SERVICE,
    ) -> RequestOutput:
        """Continues a prompt and waits for all of it; cancelling the task ends the request."""
        stream = await self.stream(prompt, sampling_params, request_id=request_id, service=service)
        return await _whole(stream)

    async def chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        service: Service = ORDINARY_SERVICE,
    ) -> RequestOutput:
        """Answers a conversation and waits for all of it; cancelling the task ends the request."""
        return await _whole(
            await self.stream_chat(
                messages,
                sampling_params,
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
                request_id=request_id,
                service=service,
            )
        )

    def abort(self, request_id: str) -> None:
        """Ends a request as "abort", whoever reads it; nothing if it has ended."""
        self._worker.abort(request_id)

    def close(self) -> None:
        """Ends all requests as "abort" and waits for the thread. May be called twice."""
        self._stop()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    async def submit(
        self,
        prompt: Tokenized,
        params: SamplingParams | None = None,
        *,
        arrival: float,
        request_id: str | None = None,
        service: Service = ORDINARY_SERVICE,
    ) -> AsyncStream:
        """Queues a prompt that is tokenized already; raises as `stream` does. arrival:
        `time.monotonic()` of the call that brought it.
        """
        params = params or SamplingParams()
        grammar = None
        if (asked := params.structured_outputs) is not None:  # never compiled between two steps
            grammar = await asyncio.to_thread(self._llm.session.constraints.compile, asked)
        mailbox = _Mailbox(asyncio.get_running_loop())
        queued = self._worker.submit(mailbox, prompt, params, request_id, arrival, service, grammar)
        try:
            return AsyncStream(self, mailbox, await asyncio.wrap_future(queued))
        except asyncio.CancelledError:
            # It may have been queued in the meantime.
            queued.add_done_callback(self._worker.drop)
            raise


async def _whole(stream: AsyncStream) -> RequestOutput:
    async for _ in stream:
        pass
    assert stream.output is not None
    return stream.output


class _Worker:
    """The thread, what it is told to do, and who reads what it makes."""

    def __init__(self, session: Session, predicts: bool) -> None:
        self._session = session
        self._predicts = predicts
        self._outlook = (0.0, 0.0, 0.0)
        self._looked = 0.0
        self._num_steps = 0
        self.step_began: float | None = None
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self.fault: EngineError | None = None
        self._running: dict[str, tuple[Group, _Mailbox]] = {}
        self.load = self._load()
        self._thread = threading.Thread(target=self._run, name="ridgeline-engine", daemon=True)
        self._thread.start()

    # ---- called from anywhere

    def submit(
        self,
        mailbox: _Mailbox,
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
                self._deliver(self._step())
            for group, _ in list(self._running.values()):
                self._session.cancel(group)
                self._deliver([group])
        except Exception as error:
            self._give_up(error)

    def _load(self) -> Load:
        state = self._session.engine.state
        now = time.monotonic()
        if self._predicts and now - self._looked > _OUTLOOK_SECONDS:
            self._outlook, self._looked = outlook(state), now
        return Load(
            len(state.running),
            state.num_waiting,
            state.pool.num_free,
            state.pool.num_blocks,
            state.limits.max_rows,
            *self._outlook,
            moment=self._looked,
            num_steps=self._num_steps,
        )

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
            return self._session.step()
        except Exception as error:
            # The scheduler is at fault: what it holds of any request cannot be trusted any more.
            fault = EngineError(f"the engine failed and ended all that ran: {error!r}")
            fault.__cause__ = error
            return self._session.fail(fault)
        finally:
            self.step_began = None
            self._num_steps += 1

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
        ready: dict[asyncio.AbstractEventLoop, list[tuple[Group, _Mailbox]]] = {}
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
        for _, mailbox in self._running.values():
            mailbox.fault = self.fault
            _ring(mailbox.loop, [mailbox])


def _ring(loop: asyncio.AbstractEventLoop, mailboxes: Sequence[_Mailbox]) -> bool:
    """Wakes the readers; False if their loop is closed."""

    def ring() -> None:
        for mailbox in mailboxes:
            mailbox.ready.set()

    try:
        loop.call_soon_threadsafe(ring)
    except RuntimeError:
        return False
    return True
