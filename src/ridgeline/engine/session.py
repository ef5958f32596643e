"""Prompts in, pieces of answers out: the requests of each prompt, their seeds, texts and times.

It stands on the engine, which sees ids only, and serves the Python API and the asyncio engine
alike. Not thread-safe: one caller submits, steps and takes the pieces.
"""

from __future__ import annotations

import itertools
import math
import secrets
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ridgeline.engine.answer import Answer
from ridgeline.engine.constrain.compile import Constraints, Grammar
from ridgeline.engine.engine import Engine
from ridgeline.engine.experts import added
from ridgeline.engine.ledger import Trace
from ridgeline.engine.outputs import CompletionOutput, Delta, RequestMetrics, RequestOutput
from ridgeline.engine.prompt_logprobs import PromptLogprobs
from ridgeline.engine.prompts import Tokenized
from ridgeline.engine.request import (
    ORDINARY_SERVICE,
    Event,
    Request,
    SamplingParams,
    Service,
)
from ridgeline.engine.row_sampling import RowSamplings
from ridgeline.errors import EngineError, RequestError
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.step import RowSampling, Scored


@dataclass(slots=True)
class Group:
    """The requests of one prompt, one an answer, while they run.

    streams: somebody reads the pieces as they come: deltas holds those that nobody has taken yet,
    and whoever owns the group takes them out. Otherwise text is made of the tokens when it is asked
    for: between two steps it would wait for caches that the step has emptied, and the step for it.
    """

    id: str
    prompt: Tokenized
    arrival: float
    submitted: float
    streams: bool
    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    first_token: float | None = None
    finished: float | None = None
    num_running: int = 0
    num_tokens: int = 0
    deltas: list[Delta] = field(default_factory=list)
    _untold: list[tuple[int, Event]] = field(default_factory=list)
    _scored: list[Scored] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.num_running == 0

    def take(self, index: int, event: Event) -> None:
        """Folds in what a step gave answer `index`."""
        token_id = event.token_id
        if event.scored is not None:
            self._scored.append(event.scored)
            if token_id is None:
                return
        if token_id is not None:
            self.num_tokens += 1
            if self.first_token is None:
                self.first_token = time.monotonic()
        answer = self.answers[index]
        if self._waits(answer):
            self._untold.append((index, event))
            self._count(index, event.finish_reason is not None)
            return
        text = answer.take(event)
        self._count(index, answer.finish_reason is not None)
        if answer.params.chooses:
            if self.streams and self.done:
                self.deltas += self._chosen_deltas()
        elif self.streams:
            ids = () if token_id is None else (token_id,)
            last = None if self.num_running else self.output()
            logprobs = None
            if answer.params.logprobs is not None:
                logprobs = tuple(answer.logprobs[len(answer.logprobs) - len(ids) :])
            end = answer.finish_reason
            self.deltas.append(
                Delta(index, text, ids, end, last, logprobs, answer.stop_reason, answer.error)
            )

    @property
    def waits_for_pieces(self) -> bool:
        """Whether somebody reads its answers as they come, or their text may end them."""
        return any(not self._waits(answer) for answer in self.answers)

    def ended(self, index: int, event: Event) -> bool:
        """Whether answer `index`, having taken `event`, is over."""
        return event.finish_reason is not None or self.answers[index].finish_reason is not None

    def _waits(self, answer: Answer) -> bool:
        return not self.streams and not answer.params.stops_by_text

    def _count(self, index: int, ended: bool) -> None:
        if not ended:
            return
        self.num_running -= 1
        self.requests[index].close()
        if self.done:
            self.finished = time.monotonic()

    def _prompt_logprobs(self) -> PromptLogprobs | None:
        first = self.answers[0]
        if first.params.prompt_logprobs is None:
            return None
        return PromptLogprobs(len(self.prompt.token_ids), self._scored, first.tokenizer)

    def _chosen_deltas(self) -> list[Delta]:
        """Which answers are given is known at the end, so each comes in one piece."""
        output = self.output()
        return [
            Delta(
                a.index,
                a.text,
                a.token_ids,
                a.finish_reason,
                output if a is last else None,
                a.logprobs,
                a.stop_reason,
                a.error,
            )
            for last in output.outputs[-1:]
            for a in output.outputs
        ]

    def output(self) -> RequestOutput:
        """The prompt and its answers so far; of best_of, the first n until all are there."""
        for index, event in self._untold:
            self.answers[index].take(event)
        self._untold.clear()
        given = self.answers
        if given and given[0].params.chooses:
            order = sorted(given, key=_likeliness, reverse=True) if self.done else given
            given = order[: given[0].params.n]
        return RequestOutput(
            request_id=self.id,
            prompt=self.prompt.text,
            prompt_token_ids=tuple(self.prompt.token_ids),
            outputs=tuple(_completion(i, a) for i, a in enumerate(given)),
            finished=self.done,
            metrics=RequestMetrics(self.arrival, self.submitted, self.first_token, self.finished),
            num_cached_tokens=self.requests[0].num_cached or 0,
            cache_miss=self.requests[0].cache_miss,
            prompt_logprobs=self._prompt_logprobs(),
            expert_counts=added([request.experts for request in self.requests]) or None,
            ledgers=tuple(r.trace.ledger() for r in self._requests_of(given) if r.trace),
        )

    def _requests_of(self, answers: Sequence[Answer]) -> list[Request]:
        places = {id(answer): index for index, answer in enumerate(self.answers)}
        return [self.requests[places[id(answer)]] for answer in answers]


def _not_scoring(sampling: RowSampling) -> RowSampling:
    return replace(sampling, num_prompt_logprobs=-1)


def _likeliness(answer: Answer) -> float:
    """What best_of goes by: the mean log-probability of a token; what failed comes last."""
    if answer.finish_reason not in ("stop", "length") or not answer.token_ids:
        return -math.inf
    return answer.cumulative_logprob / len(answer.token_ids)


def _completion(index: int, answer: Answer) -> CompletionOutput:
    wanted = answer.params.logprobs is not None
    return CompletionOutput(
        index=index,
        text=answer.text,
        token_ids=tuple(answer.token_ids),
        cumulative_logprob=answer.cumulative_logprob if wanted else None,
        logprobs=tuple(answer.logprobs) if wanted else None,
        finish_reason=answer.finish_reason,
        stop_reason=answer.stop_reason,
        seed=answer.seed,
        error=answer.error,
    )


class Session:
    """Owns the groups that run on an engine. vocab_size: that of the logits."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        vocab_size: int,
        constraints: Constraints | None = None,
    ) -> None:
        self.constraints = constraints or Constraints(tokenizer, vocab_size)
        self.engine = engine
        self._tokenizer = tokenizer
        self._samplings = RowSamplings(tokenizer, vocab_size)
        self._numbers = itertools.count()
        self._groups: dict[str, tuple[Group, int]] = {}

    @property
    def max_context(self) -> int:
        return self.engine.state.limits.max_context

    def submit(
        self,
        prompt: Tokenized,
        params: SamplingParams,
        *,
        arrival: float,
        name: str | None = None,
        streams: bool = True,
        service: Service = ORDINARY_SERVICE,
        fork_of: Group | None = None,
        grammar: Grammar | None = None,
        traced: bool = True,
    ) -> Group:
        """Queues a prompt. arrival: `time.monotonic()` of the call that brought it. name: its id,
        if no group that runs has it. streams: as `Group` has it. fork_of: a group of one answer
        with which it begins alike: what that has computed is shared, to the token, if it still
        runs. grammar: the params' own, where it is compiled already. traced: the engine's book
        has it. Raises RequestError if it could never run here, Overloaded if it cannot run soon
        enough.
        """
        name = f"request-{next(self._numbers)}" if name is None else name
        asked = params.structured_outputs
        if asked is not None and grammar is None:
            grammar = self.constraints.compile(asked)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        stops = self._samplings.stop_ids(params)
        num_prompt = len(prompt.token_ids)
        group = Group(name, prompt, arrival, time.monotonic(), streams)
        timeout = service.timeout_seconds
        parent = None if fork_of is None else fork_of.requests[0].id
        try:
            for index in range(params.num_sequences):
                own_seed = (seed + index) % 2**64  # answer i of a prompt uses seed + i
                sampling = self._samplings.row(params, own_seed, num_prompt)
                request = Request(
                    id=f"{name}-{index}",
                    token_ids=array("i", prompt.token_ids),
                    num_prompt=num_prompt,
                    max_tokens=params.max_tokens or max(1, self.max_context - num_prompt),
                    sampling=_not_scoring(sampling) if index else sampling,  # once is enough
                    stop_token_ids=stops,
                    salt=service.cache_key,
                    tenant=service.tenant,
                    priority=service.priority,
                    arrival=arrival,
                    deadline=None if timeout is None else arrival + timeout,
                    fork_of=f"{name}-0" if index else parent,
                    grammar=None if grammar is None else grammar.text,
                    images=prompt.images,
                    follower=None if grammar is None else grammar.follow(),
                    trace=Trace(arrival, group.submitted) if traced else None,
                )
                if request.id in self._groups:
                    raise RequestError("request_id", f"{name!r} is in use")
                self.engine.submit(request)
                group.requests.append(request)
                group.answers.append(Answer(self._tokenizer, params, own_seed))
                group.num_running += 1
                self._groups[request.id] = (group, index)
        except BaseException:
            self.abandon(group)
            raise
        return group

    def step(self, most: int = 1) -> list[Group]:
        """One step of the engine; the groups that it gave something, each once. most: where nobody
        reads or looks at answers as they come, see `Engine.step`.
        """
        if most > 1 and any(group.waits_for_pieces for group, _ in self._groups.values()):
            most = 1
        touched: dict[int, Group] = {}
        for event in self.engine.step(most):
            if event.request_id not in self._groups:
                continue  # forced tokens behind what has ended it, a stop string
            group = self._take(event)
            touched[id(group)] = group
        return list(touched.values())

    def cancel(self, group: Group) -> None:
        """Ends a group's answers as "abort"; the last pieces say so."""
        for request in group.requests:
            event = self.engine.abort(request.id)
            if event is not None:
                self._take(event)

    def abandon(self, group: Group) -> None:
        """Frees what a group holds; nobody will look at its answers again."""
        for request in group.requests:
            self.engine.abort(request.id)
            if self._groups.pop(request.id, None) is not None:
                request.close()
                self._booked(request, "abort")

    def abandon_all(self) -> None:
        for group in {id(group): group for group, _ in self._groups.values()}.values():
            self.abandon(group)

    def fail(self, error: EngineError) -> list[Group]:
        """Ends every group as "error": the engine itself is at fault, and no step can be had."""
        groups = {id(group): group for group, _ in self._groups.values()}
        for request_id in list(self._groups):
            self.engine.abort(request_id)
            self._take(Event(request_id, finish_reason="error", error=error))
        self.engine.forget_steps()
        return list(groups.values())

    def _booked(self, request: Request, reason: str) -> None:
        if request.trace is not None:
            self.engine.book.closed(request.trace, reason, request.num_generated)

    def _take(self, event: Event) -> Group:
        group, index = self._groups[event.request_id]
        group.take(index, event)
        if group.ended(index, event):
            self.engine.abort(event.request_id)
            del self._groups[event.request_id]
            reason = event.finish_reason or group.answers[index].finish_reason or "error"
            self._booked(group.requests[index], reason)
        return group
