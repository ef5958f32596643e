"""An `Ask` becomes events: phrased, given to the engine, and what it writes understood.

Events come in batches, those that are there at once: a step's piece of an answer, its end and what
it was all together pass through the layers above in one go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from ridgeline.async_engine import AsyncEngine, AsyncSearch, AsyncStream
from ridgeline.engine.beams import BeamSearchParams
from ridgeline.engine.ledger import phase_seconds
from ridgeline.engine.outputs import Delta, RequestOutput
from ridgeline.errors import RequestError
from ridgeline.serve.core.admission import FrontDoor
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.errors import ContextExceeded
from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    AnswerFinish,
    Done,
    Logprobs,
    PromptRead,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)
from ridgeline.serve.core.phrasing import Phrased, Phrasing
from ridgeline.serve.parse.parser import Parser
from ridgeline.serve.parse.parts import CallArguments, CallBegin, Part, Reasoning


class Understood:
    """One answer's pieces as events, through its parser."""

    def __init__(self, index: int, parser: Parser | None) -> None:
        self._index = index
        self._parser = parser
        self._calls = -1
        self._ids: tuple[int, ...] = ()
        self._logprobs: Logprobs | None = None
        self.reasoning_tokens = 0

    def take(self, delta: Delta) -> list[AnswerEvent]:
        self._ids += delta.token_ids
        if delta.logprobs is not None:
            self._logprobs = (self._logprobs or ()) + delta.logprobs
        ended = delta.finish_reason is not None
        found: list[AnswerEvent] = []
        if self._parser is None:
            if delta.text:
                found.append(TextDelta(self._index, delta.text, *self._tokens()))
        else:
            parts = self._parser.feed(delta.text, delta.token_ids)
            if ended:
                parts += self._parser.finish()
            for part in parts:
                found += self._event(part)
        if ended and self._ids:
            found.append(TextDelta(self._index, "", *self._tokens()))
        if delta.finish_reason is not None:
            finish: AnswerFinish = delta.finish_reason
            if finish == "stop" and self._calls >= 0:
                finish = "tool_calls"
            found.append(AnswerEnd(self._index, finish, delta.stop_reason, delta.error))
        return found

    def _event(self, part: Part) -> Iterator[AnswerEvent]:
        if isinstance(part, CallBegin):
            self._calls += 1
            yield ToolCallBegin(self._index, self._calls, part.call_id, part.name)
        elif isinstance(part, CallArguments):
            yield ToolCallArguments(self._index, self._calls, part.text)
        elif isinstance(part, Reasoning):
            self.reasoning_tokens += len(self._ids)
            yield ReasoningDelta(self._index, part.text, *self._tokens())
        elif part.text:
            yield TextDelta(self._index, part.text, *self._tokens())

    def _tokens(self) -> tuple[tuple[int, ...], Logprobs | None]:
        found = self._ids, self._logprobs
        self._ids, self._logprobs = (), None
        return found


async def answer(
    engine: AsyncEngine,
    phrasing: Phrasing,
    door: FrontDoor,
    ask: Ask,
    hooks: Sequence[Callable[[Ask, Done], None]] = (),
    max_answers: int = 128,
) -> AsyncIterator[list[AnswerEvent]]:
    """Raises before the first batch what `AsyncEngine.stream` raises, and what the front door does;
    closing it frees all. hooks: told of the end.
    """
    arrival = time.monotonic()
    door.check()
    _check_count(ask, max_answers)
    phrased = await asyncio.to_thread(phrasing.phrase, ask)
    num_prompt = len(phrased.prompt.token_ids)
    check_length(num_prompt, engine.max_context)
    entry = door.enter(ask.service.tenant, num_prompt)
    num_tokens = num_prompt
    try:
        stream = await _submitted(engine, phrased, ask, arrival)
        try:
            understood = [
                Understood(index, phrased.parser(index)) for index in range(ask.sampling.n)
            ]
            merges = _may_merge(ask, phrased)
            told = [PromptRead(tuple(phrased.prompt.token_ids))] if ask.tells_prompt else []
            while pieces := await stream.some():
                batch: list[AnswerEvent] = [*told]
                told = []
                for delta in merged(pieces) if merges and len(pieces) > 1 else pieces:
                    batch += understood[delta.index].take(delta)
                if stream.output is not None:
                    done = Done(usage_of(stream.output, understood), stream.output)
                    num_tokens += done.usage.completion_tokens
                    for hook in hooks:
                        hook(ask, done)
                    batch.append(done)
                if batch:
                    yield batch
        finally:
            stream.close()
    finally:
        door.leave(entry, num_tokens)


async def _submitted(
    engine: AsyncEngine, phrased: Phrased, ask: Ask, arrival: float
) -> AsyncStream | AsyncSearch:
    sampling = phrased.sampling
    if ask.beams is None:
        return await engine.submit(
            phrased.prompt,
            sampling,
            request_id=ask.request_id,
            arrival=arrival,
            service=ask.service,
        )
    most = engine.max_context - len(phrased.prompt.token_ids)
    params = BeamSearchParams(
        ask.beams.width,
        sampling.max_tokens or most,
        ignore_eos=sampling.ignore_eos,
        length_penalty=ask.beams.length_penalty,
        skip_special_tokens=sampling.skip_special_tokens,
    )
    return engine.search(
        phrased.prompt,
        params,
        arrival=arrival,
        request_id=ask.request_id or "search",
        num_given=sampling.n,
        service=ask.service,
    )


def _check_count(ask: Ask, most: int) -> None:
    """Of the answers that are made, of which perhaps fewer are given."""
    count = ask.sampling.num_sequences if ask.beams is None else ask.beams.width
    if count > most:
        field = "best_of" if count > ask.sampling.n else "n"
        raise RequestError(field, f"{count} answers are asked for; {most} are allowed")


def check_length(num_prompt: int, max_context: int) -> None:
    """Raises the error that clients know a prompt by that fills the context alone."""
    if num_prompt >= max_context:
        raise ContextExceeded(
            "prompt",
            f"has {num_prompt} tokens; this model's maximum context length is {max_context}, the "
            "answer included. Shorten it, or set truncate_prompt_tokens",
        )


def _may_merge(ask: Ask, phrased: Phrased) -> bool:
    """Not where somebody looks at single tokens: logprobs, ids in and out, a parser's count of the
    tokens of a reasoning section.
    """
    ids = isinstance(ask.prompt, Mapping)
    return ask.merges and ask.sampling.logprobs is None and not ids and phrased.parser(0) is None


def merged(pieces: Sequence[Delta]) -> Iterator[Delta]:
    """Those of an answer that follow one another as one: a loop that is behind says more at a
    time.
    """
    held = pieces[0]
    for piece in pieces[1:]:
        if held.index == piece.index and held.finish_reason is None and held.output is None:
            text, ids = held.text + piece.text, held.token_ids + piece.token_ids
            held = replace(piece, text=text, token_ids=ids)
        else:
            yield held
            held = piece
    yield held


def usage_of(output: RequestOutput, understood: Sequence[Understood] = ()) -> Usage:
    return Usage(
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=sum(len(one.token_ids) for one in output.outputs),
        cached_tokens=output.num_cached_tokens,
        reasoning_tokens=sum(one.reasoning_tokens for one in understood),
        seconds=phase_seconds(output.ledgers),
        forced_tokens=sum(ledger.forced for ledger in output.ledgers),
    )
