"""The engine for asyncio: many callers, one model, one thread that steps it.

`AsyncEngine(LLM(...))` takes the model over. Callers on event loops submit prompts, read pieces as
they come and abort at any moment; a caller that goes away frees what it held. The thread alone
touches the session: commands reach it between steps, and pieces leave it once a step.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ridgeline.async_worker import Load, Mailbox, Worker
from ridgeline.engine.beams import BeamSearchParams
from ridgeline.engine.book import Book
from ridgeline.engine.outputs import Delta, RequestOutput
from ridgeline.engine.prompts import Message, Prompt, Tokenized
from ridgeline.engine.request import ORDINARY_SERVICE, SamplingParams, Service, checked
from ridgeline.engine.session import Group
from ridgeline.errors import EngineError
from ridgeline.llm import LLM
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.assemble import OperatorTime

__all__ = ["AsyncEngine", "AsyncSearch", "AsyncStream", "Load"]


class AsyncStream(AsyncIterator[Delta]):
    """The pieces of one prompt's answers as they come; read by one task.

    It owns the request until the last piece: closing it, dropping it, or cancelling the task that
    reads it ends the request and frees its memory. output: the prompt and its answers, once the
    last piece is read.
    """

    def __init__(self, engine: AsyncEngine, mailbox: Mailbox, group: Group) -> None:
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
        await self._filled()
        return self._taken()

    async def some(self) -> list[Delta]:
        """All pieces that are there; waits for one if there is none. Empty: nothing more comes."""
        if self._done:
            return []
        await self._filled()
        pieces = [self._taken()]
        while self._mailbox.deltas:
            pieces.append(self._taken())
        return pieces

    async def _filled(self) -> None:
        try:
            await self._mailbox.filled()
        except BaseException:
            self.close()
            raise

    def _taken(self) -> Delta:
        delta = self._mailbox.deltas.popleft()
        if delta.output is not None:
            self.output, self._done = delta.output, True
        return delta

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


class AsyncSearch:
    """A beam search, read like a stream of which all answers come at once. Closing it, or
    cancelling the task that reads it, ends the search and frees its memory.
    """

    def __init__(self, found: Future[RequestOutput]) -> None:
        self._found = found
        self.output: RequestOutput | None = None

    async def some(self) -> list[Delta]:
        """The answers; empty: nothing more comes. Raises what the search has come to."""
        if self.output is not None:
            return []
        output = self.output = await asyncio.wrap_future(self._found)
        last = len(output.outputs) - 1
        return [
            Delta(
                one.index,
                one.text,
                one.token_ids,
                one.finish_reason,
                output if one.index == last else None,
                error=one.error,
            )
            for one in output.outputs
        ]

    def close(self) -> None:
        self._found.cancel()


class AsyncEngine:
    """Serves prompts from any number of tasks on any number of event loops.

    Until it is closed the LLM answers nobody else: EngineError there, and for a second AsyncEngine
    of it. predicts: `load` has predictions. `close`, or leaving `async with`, ends all requests as
    "abort" and stops the thread.
    """

    def __init__(self, llm: LLM, *, predicts: bool = False) -> None:
        self._llm = llm
        self._worker = Worker(llm, predicts)
        self._stop = weakref.finalize(self, self._worker.stop)

    @property
    def max_context(self) -> int:
        return self._llm.max_context

    @property
    def load(self) -> Load:
        """As of the last step. Safe to call anywhere."""
        return self._worker.load

    @property
    def book(self) -> Book:
        """What the engine's steps were and gave; filled by its thread, to be read only."""
        return self._worker.book

    def block_states(self) -> bytearray:
        """See `BlockPool.states`: a look from another thread."""
        return self._worker.block_states()

    @property
    def step_began(self) -> float | None:
        """When the step that runs began, of `time.monotonic()`; None between steps."""
        return self._worker.step_began

    @property
    def fault(self) -> EngineError | None:
        """Why the engine has stopped; None while it serves."""
        return self._worker.fault

    def sampled_step(self) -> tuple[StepShape, tuple[OperatorTime, ...]] | None:
        """A step that was looked at since this was last called, and its operators' times; one more
        will be. None where none was, or the executor keeps no times.
        """
        self._worker.wants_sample = True
        return self._worker.sample

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
        params = checked(params)
        grammar = None
        if (asked := params.structured_outputs) is not None:  # never compiled between two steps
            grammar = await asyncio.to_thread(self._llm.session.constraints.compile, asked)
        mailbox = Mailbox(asyncio.get_running_loop())
        queued = self._worker.submit(mailbox, prompt, params, request_id, arrival, service, grammar)
        try:
            return AsyncStream(self, mailbox, await asyncio.wrap_future(queued))
        except asyncio.CancelledError:
            # It may have been queued in the meantime.
            queued.add_done_callback(self._worker.drop)
            raise

    def search(
        self,
        prompt: Tokenized,
        params: BeamSearchParams,
        *,
        arrival: float,
        request_id: str,
        num_given: int | None = None,
        service: Service = ORDINARY_SERVICE,
    ) -> AsyncSearch:
        """Queues a beam search beside the other requests; what is wrong with it is raised by who
        reads it. num_given: of the answers, the best ones; None: all.
        """
        given = params.beam_width if num_given is None else num_given
        return AsyncSearch(self._worker.search(prompt, params, given, request_id, arrival, service))


async def _whole(stream: AsyncStream) -> RequestOutput:
    async for _ in stream:
        pass
    assert stream.output is not None
    return stream.output
