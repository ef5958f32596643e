"""The requests of a beam search: each call's are forks of the last call's, which stay till then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from ridgeline.engine.beams import BeamSearchOutput, BeamSearchParams, searching
from ridgeline.engine.ledger import PHASES, Ledger
from ridgeline.engine.outputs import CompletionOutput, RequestMetrics, RequestOutput
from ridgeline.engine.prompts import Tokenized
from ridgeline.engine.request import (
    ORDINARY_SERVICE,
    FinishReason,
    SamplingParams,
    Service,
)
from ridgeline.engine.session import Group, Session
from ridgeline.errors import Overloaded
from ridgeline.model.text.tokenizer import Tokenizer


class BeamRequests(AbstractContextManager["BeamRequests"]):
    """`beams.Ask` on a session. Leaving it ends what still runs. arrival: of the search; None: each
    request's own. traced: the engine's book knows each request.
    """

    def __init__(
        self,
        session: Session,
        service: Service = ORDINARY_SERVICE,
        arrival: float | None = None,
        traced: bool = True,
    ) -> None:
        self._session = session
        self._service = service
        self._arrival = arrival
        self._traced = traced
        self.groups: list[Group] = []
        self._parents: list[Group] = []

    def __call__(
        self,
        prompts: Sequence[Tokenized],
        params: Sequence[SamplingParams],
        parents: Sequence[int | None],
    ) -> list[RequestOutput]:
        self.submit(prompts, params, parents)
        while not self.ready:
            self._session.step()
        return self.outputs()

    def submit(
        self,
        prompts: Sequence[Tokenized],
        params: Sequence[SamplingParams],
        parents: Sequence[int | None],
    ) -> None:
        """Queues them; those that they are forks of stay until `outputs`."""
        before = self._parents = self.groups
        self.groups = []
        for prompt, own, parent in zip(prompts, params, parents, strict=True):
            group = self._session.submit(
                prompt,
                own,
                arrival=time.monotonic() if self._arrival is None else self._arrival,
                streams=False,
                service=self._service,
                fork_of=None if parent is None else before[parent],
                traced=self._traced,
            )
            self.groups.append(group)

    @property
    def ready(self) -> bool:
        """Whether each has a token, or has ended."""
        return all(group.num_tokens > 0 or group.done for group in self.groups)

    def outputs(self) -> list[RequestOutput]:
        """Once they are ready."""
        self._end(self._parents)
        return [group.output() for group in self.groups]

    def __exit__(self, *_exception: object) -> None:
        self._end(self._parents)
        self._end(self.groups)

    def _end(self, groups: Sequence[Group]) -> None:
        for group in groups:
            if not group.done:
                self._session.abandon(group)


class BeamRun:
    """One prompt's search on a session that others use, too, and that somebody else steps. In the
    book it is one request with its answers. num_given: of the answers found, the best ones. Raises
    as `Session.submit` does, now and later.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        prompt: Tokenized,
        params: BeamSearchParams,
        num_given: int,
        *,
        name: str,
        arrival: float,
        service: Service = ORDINARY_SERVICE,
    ) -> None:
        self._book = session.engine.book
        self._prompt = prompt
        self._num_given = num_given
        self._name = name
        self._arrival, self._submitted = arrival, time.monotonic()
        self._has_deadline = service.timeout_seconds is not None
        self._began: float | None = None
        self._first_token: float | None = None
        self._num_cached = 0
        self._num_steps = 0
        self._requests = BeamRequests(session, service, arrival, traced=False)
        self._steps = searching([prompt], params, tokenizer, session.max_context)
        try:
            self._requests.submit(*next(self._steps))
        except BaseException:
            self._requests.__exit__()
            raise

    def advance(self) -> RequestOutput | None:
        """Between two steps of the session: goes on, if it can. The answers, once they are there;
        none but one of finish_reason "deadline" where time was over before.
        """
        if not self._requests.ready:
            return None
        outputs = self._requests.outputs()
        self._num_steps += 1
        if self._first_token is None:
            first = self._requests.groups[0].requests[0]
            self._began, self._first_token = first.admitted, time.monotonic()
            self._num_cached = first.num_cached or 0
        ended = [one.outputs[0] for one in outputs if not one.outputs[0].token_ids]
        if any(answer.finish_reason == "deadline" for answer in ended):
            return self._late()
        try:
            self._requests.submit(*self._steps.send(outputs))
        except Overloaded:
            if not self._has_deadline:
                raise
            return self._late()  # the next token would be
        except StopIteration as last:
            (found,) = last.value
            return self._output(_answers(found, self._num_given))
        return None

    def close(self) -> None:
        """Ends it, whoever waits for it."""
        self._requests.__exit__()
        self._book.searched(self._ledger(), 0, (), ("abort",))

    def _late(self) -> RequestOutput:
        return self._output((_answer(0, "", (), None, "deadline"),))

    def _output(self, answers: tuple[CompletionOutput, ...]) -> RequestOutput:
        self._requests.__exit__()
        ledger = self._ledger()
        lengths = tuple(len(answer.token_ids) for answer in answers)
        reasons = tuple(answer.finish_reason or "error" for answer in answers)
        self._book.searched(ledger, len(self._prompt.token_ids), lengths, reasons)
        return RequestOutput(
            request_id=self._name,
            prompt=self._prompt.text,
            prompt_token_ids=tuple(self._prompt.token_ids),
            outputs=answers,
            finished=True,
            metrics=RequestMetrics(self._arrival, self._submitted, self._first_token, ledger.end),
            num_cached_tokens=self._num_cached,
            ledgers=(ledger,) * len(answers),
        )

    def _ledger(self) -> Ledger:
        """What its beams and others take of the steps is not told apart: all are its own."""
        now = time.monotonic()
        began = now if self._began is None else self._began
        first = now if self._first_token is None else self._first_token
        seconds = dict.fromkeys(PHASES, 0.0) | {
            "tokenizing": self._submitted - self._arrival,
            "queue": began - self._submitted,
            "prefill_own": first - began,
            "decode_own": now - first,
        }
        return Ledger(
            arrival=self._arrival,
            end=now,
            seconds=seconds,
            chunks=(),
            steps=self._num_steps,
            preemptions=0,
            first_step=self._began,
            first_token=self._first_token,
        )


def _answers(found: BeamSearchOutput, num_given: int) -> tuple[CompletionOutput, ...]:
    if not found.sequences:
        return (CompletionOutput(0, "", (), None, None, "error", None, 0, found.error),)
    return tuple(
        _answer(index, one.text, one.token_ids, one.cumulative_logprob, one.finish_reason)
        for index, one in enumerate(found.sequences[:num_given])
    )


def _answer(
    index: int,
    text: str,
    token_ids: tuple[int, ...],
    logprob: float | None,
    reason: FinishReason,
) -> CompletionOutput:
    """Nothing is drawn, so that any seed gives the same."""
    return CompletionOutput(index, text, token_ids, logprob, None, reason, None, 0)
