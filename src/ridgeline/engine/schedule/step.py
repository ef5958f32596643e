"""Who runs next: `schedule(state, now) -> StepPlan`, `apply(state, result) -> events`; both pure.

One budget of tokens a step, no phases: running rows get their token first (it bounds everyone's
inter-token latency), then prompts go on in chunks, as large as the cost model lets them be beside
the answers that are being written, then waiting requests are admitted while rows and blocks last.
Many prompts that come while few answers are being written are read first, all of them (`waves`).

When blocks run out, the running request of the last rank gives its own back and is computed again
later: the tokens it will then produce are the same ones, so nobody can tell. The first of the
running is never preempted by those behind it, and only finitely many can come to be ahead of it, so
some running request always finishes.

Nothing here waits for a token's value: a step can be planned while another runs. A row whose
request turns out to have ended is taken out of a plan that waits (`prune`); one that was submitted
is computed for nothing, and what it gives is not booked.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ridgeline.engine.request import Event, FinishReason, Rank, Request, Status
from ridgeline.engine.schedule.images import up_to_images
from ridgeline.engine.schedule.memory import (
    grow,
    missing_blocks,
    new_blocks,
    publish,
    publish_snapshots,
    snapshot,
    start,
    vacate,
)
from ridgeline.engine.schedule.state import InFlight, SchedulerState
from ridgeline.engine.schedule.suspects import accuse, clear, forget
from ridgeline.engine.schedule.waves import Wave, may_wait, wave_ends, wave_of
from ridgeline.errors import EngineError
from ridgeline.step import BlockCopy, PlanRow, SlotCopy, StepPlan, StepResult

# A step has at least so many tokens of a prompt where one waits, whatever the target: a target that
# the machine cannot meet must not keep prompts out for ever.
LEAST_PROMPT_TOKENS = 16
# Tokens that a grammar forces, appended at once; the row that computes them goes with those that
# write, and must not make them wait.
MAX_SPAN = 32
_WEIGHT_OF_LAST_ANSWER = 0.05
_RUNNING = Status.RUNNING  # looked up for every row of every step


@dataclass(slots=True)
class _Step:
    """A plan in the making. rows: a request, its num_preemptions then, and its new tokens. budget,
    logits: tokens, and rows of logits, that it may still have.
    """

    budget: int
    logits: int
    rows: list[tuple[Request, int, int]] = field(default_factory=list)
    copies: list[BlockCopy | SlotCopy] = field(default_factory=list)
    num_decode: int = 0
    decode_context: int = 0
    num_prompt: int = 0
    prompt_context: int = 0
    wave: Wave = Wave.NONE

    def add_prompt(self, request: Request, num_new: int) -> None:
        self.logits -= num_new if request.scores_prompt else 1
        self.rows.append((request, request.num_preemptions, num_new))
        self.budget -= num_new
        self.num_prompt += num_new
        self.prompt_context += request.num_planned

    def take_back(self, request: Request) -> None:
        """The request is about to be preempted: others may have what it would have had."""
        for index, (planned, epoch, num_new) in enumerate(self.rows):
            if planned is request and epoch == request.num_preemptions:
                del self.rows[index]
                self.budget += num_new
                self.logits += num_new if request.scores_prompt else 1
                break


def schedule(state: SchedulerState, now: float = 0.0, ahead: int = 1) -> StepPlan:
    """The next step's rows, with their blocks; empty when there is nothing to do, or when what is
    in flight decides who may run. ahead: rows that write get blocks for so many steps (`run_on`).
    """
    suspects = state.suspects[0] if state.suspects else None
    if suspects is not None and state.in_flight:
        return StepPlan(())
    size = state.limits.block_tokens
    limit = state.limits.max_tokens_per_step
    step = _Step(budget=state.limits.max_tokens_per_step, logits=state.limits.max_rows)
    step.wave = wave_of(state, step.budget)
    prompts: list[Request] = []
    held: list[Request] = []
    preemptions = state.num_preemptions
    rows = step.rows
    ahead -= 1
    num_asleep = spent = state.asleep.count
    step.decode_context = state.asleep.context
    for request in tuple(state.running):
        if request.status is not _RUNNING:
            continue  # gave its blocks to an older request in this very loop
        if suspects is not None and request not in suspects:
            continue
        position = request.num_planned
        num_new = len(request.token_ids) + request.num_pending - position
        if num_new > 1:
            if not _is_span(request, num_new) or spent + num_new > limit:
                prompts.append(request)
                continue
            num_new = _to_stop(request, num_new)
        elif step.wave is Wave.READS and may_wait(request):
            held.append(request)
            continue
        if (
            spent < limit
            and not (request.num_pending and _is_last(state, request))
            and (
                position + num_new + ahead <= len(request.blocks) * size
                or _make_room(state, request, position + num_new + ahead)
            )
        ):
            rows.append((request, request.num_preemptions, num_new))
            step.decode_context += position
            spent += num_new
    step.num_decode = len(rows) + num_asleep
    step.budget -= spent
    step.logits -= step.num_decode
    for index, request in enumerate(prompts):
        if request.status is Status.RUNNING and step.logits > 0:
            allowed = max(_prompt_tokens(state, step, request.num_planned), LEAST_PROMPT_TOKENS)
            remaining = _readable(step, request)
            num_new = min(remaining, allowed - step.num_prompt, step.budget)
            if request.scores_prompt:
                num_new = min(num_new, _scorable(state, step, len(prompts) - index - 1))
            num_new = _to_stop(request, num_new)
            if request.images and num_new > 0:
                num_new = up_to_images(request, num_new, step.budget)
            if num_new > 0 and _make_room(state, request, request.num_planned + num_new):
                step.add_prompt(request, num_new)
    # Blocks just taken back are for those who run: admitting now would only preempt again.
    if state.waiting and state.num_preemptions == preemptions:
        reserved = sum(missing_blocks(state, r) for r in prompts)
        if suspects is not None:
            _admit_suspects(state, now, step, reserved, suspects)
        else:
            _admit_waiting(state, now, step, reserved)
    if held and not step.num_prompt:  # there is no room for those whom they waited for
        _release(state, step, held)
    return _plan(state, step)


def apply(state: SchedulerState, result: StepResult) -> list[Event]:
    """Books the outcome of the oldest step in flight and says what happened to each request that
    was given a token.
    """
    events: list[Event] = []
    sampled = iter(result.sampled)
    size = state.limits.block_tokens
    is_recurrent = state.limits.is_recurrent
    suspects, forks = state.suspects, state.forks
    for request, epoch, num_tokens, samples, answers in state.in_flight.popleft():
        sample = next(sampled) if answers else None  # one for each row with logits, in plan order
        if request.num_preemptions != epoch or request.status is not _RUNNING:
            continue  # preempted or ended while the step ran
        request.num_computed = num_tokens
        if suspects:
            clear(state, request)
        if num_tokens // size > request.num_published:
            publish(state, request)
        if is_recurrent and request.snapshots:
            publish_snapshots(state, request)
        if forks and num_tokens >= request.num_prompt:
            _release_forks(state, request)
        if sample is None:
            continue
        row, token_id, logprob, top, fault, mu, scored = sample
        assert row == request.row
        request.num_pending -= samples
        if fault is not None:
            events.append(end(state, request, "error", EngineError(fault)))
            continue
        if scored is not None:
            request.num_scored = num_tokens
        if not samples:
            events.append(Event(request.id, scored=scored))
            continue
        request.token_ids.append(token_id)
        if request.sampling.mirostat_tau > 0:  # for the row that it is given after a preemption
            request.sampling = replace(request.sampling, mirostat_mu=mu)
        reason = ended_by(state, request, token_id)
        events.append(Event(request.id, token_id, logprob, tuple(top), reason, None, scored))
        if reason is not None:
            learn_length(state, request)
            end(state, request, reason)
    return events


def ended_by(state: SchedulerState, request: Request, token_id: int) -> FinishReason | None:
    """Whether `token_id`, which its tokens end with, is a request's last, and why."""
    if token_id in request.stop_token_ids:
        return "stop"
    num_tokens = len(request.token_ids)
    if (
        num_tokens - request.num_prompt >= request.max_tokens
        or num_tokens >= state.limits.max_context
    ):
        return "length"
    return None


def prune(state: SchedulerState, plan: StepPlan) -> StepPlan:
    """The newest plan, not yet submitted, without the rows of requests that ended or were preempted
    since it was made.
    """
    in_flight = state.in_flight.pop()
    alive = [
        (row, flying)
        for row, flying in zip(plan.rows, in_flight, strict=True)
        if flying.request.status is Status.RUNNING
        and flying.request.num_preemptions == flying.epoch
    ]
    if alive:
        state.in_flight.append([flying for _row, flying in alive])
    # What a row of the plan has to do with: it is the source of a snapshot, or goes on from one.
    rows = {row.state_slot for row, _flying in alive}
    slots = tuple(c for c in plan.slot_copies if c.source in rows or c.target in rows)
    return StepPlan(tuple(row for row, _flying in alive), plan.copies, slots)


def fail(state: SchedulerState, error: EngineError) -> list[Event]:
    """The oldest step in flight failed as a whole: its requests are computed again, apart from the
    others. Ends the one that is guilty of it, once that is known: see `suspects`.
    """
    step = state.in_flight.popleft()
    failed = _still_running(step)
    guilty = accuse(state, failed, len(step))
    for flying in failed:
        _preempt(state, flying.request)
    return [] if guilty is None else [end(state, guilty, "error", error)]


def retract(state: SchedulerState) -> None:
    """Nobody knows what became of the oldest step in flight: its requests are computed again."""
    recompute(state, [flying.request for flying in _still_running(state.in_flight.popleft())])


def recompute(state: SchedulerState, requests: Sequence[Request]) -> None:
    """Nobody knows what the executor has computed of these: those that run are computed again."""
    for request in requests:
        if request.status is Status.RUNNING:
            _preempt(state, request)


def end(
    state: SchedulerState,
    request: Request,
    reason: FinishReason,
    error: EngineError | None = None,
) -> Event:
    """Ends a request at any moment and gives back what it holds."""
    if request.status is Status.RUNNING:
        vacate(state, request)
    elif request.status is Status.WAITING:
        group = state.forks.get(request.fork_of or "", [])
        if request in group:
            group.remove(request)
            if not group:
                del state.forks[request.fork_of or ""]
        else:
            state.waiting.remove(request)
    request.status = Status.FINISHED
    del state.requests[request.id]
    if state.suspects:
        forget(state, request)
    _release_forks(state, request)
    return Event(request.id, finish_reason=reason, error=error)


def _readable(step: _Step, request: Request) -> int:
    """Tokens of a prompt that are left; while a wave is read, all but the one that gives a token of
    an answer.
    """
    left = len(request.token_ids) - request.num_planned
    return left - 1 if step.wave is Wave.READS and may_wait(request) else left


def _release(state: SchedulerState, step: _Step, held: Sequence[Request]) -> None:
    for request in held:
        if request.status is not _RUNNING or step.budget <= 0 or step.logits <= 0:
            continue
        if _make_room(state, request, request.num_planned + 1):
            step.add_prompt(request, 1)


def _admit_waiting(state: SchedulerState, now: float, step: _Step, reserved: int) -> None:
    if wave_ends(state):
        return
    while step.budget > 0 and (request := state.waiting.first()) is not None:
        if not state.has_row and not _outranks(state, request):
            break
        most = _admissible(state, step, request)
        if most <= 0:
            break  # one row more would make all the others wait too long
        if step.logits <= 0 or not start(state, request, most, reserved, step.copies):
            if not _outranks(state, request):
                break
            last = state.running[-1]
            step.take_back(last)
            _preempt(state, last)
            continue
        state.waiting.pop()
        reserved += _join(state, now, step, request, most)


def _outranks(state: SchedulerState, request: Request) -> bool:
    """Whether somebody who runs would have to make room for it."""
    if not state.waiting.preempts or not state.running:
        return False
    return not state.running[-1].rank < request.rank


def _admit_suspects(
    state: SchedulerState, now: float, step: _Step, reserved: int, suspects: Sequence[Request]
) -> None:
    """Those of a group that have no row, in place of others if need be."""
    for request in suspects:
        while request.status is Status.WAITING and step.budget > 0 and step.logits > 0:
            most = _admissible(state, step, request)
            if most <= 0:
                return
            if start(state, request, most, reserved, step.copies):
                state.waiting.remove(request)
                reserved += _join(state, now, step, request, most)
                continue
            others = [other for other in state.running if other not in suspects]
            if not others:
                break
            _preempt(state, others[-1])


def _admissible(state: SchedulerState, step: _Step, request: Request) -> int:
    """Tokens that the step may have of a request that is not running yet; 0 or less: none."""
    most = min(_prompt_tokens(state, step, 0) - step.num_prompt, step.budget)
    if most > 0 and request.scores_prompt:
        most = min(most, _scorable(state, step, -1))
    return most


def _join(state: SchedulerState, now: float, step: _Step, request: Request, most: int) -> int:
    """A request that was just started has its first tokens in this step; the blocks that the rest
    of its prompt will need.
    """
    insort(state.running, request, key=_rank)
    if request.admitted is None:
        request.admitted = now
    # What the cache gave is context, which only now is known.
    most = min(most, max(1, _prompt_tokens(state, step, request.num_planned) - step.num_prompt))
    # Its copies are made in this step, so it has a row in it, be that its last token's.
    num_new = min(max(_readable(step, request), 1), most)
    num_new = _to_stop(request, num_new)
    if request.images:
        num_new = up_to_images(request, num_new, num_new)
    if num_new > 0:
        step.add_prompt(request, num_new)
    return missing_blocks(state, request)


def _plan(state: SchedulerState, step: _Step) -> StepPlan:
    rows = []
    in_flight: list[InFlight] = []
    charges = state.waiting.charges
    is_recurrent = state.limits.is_recurrent
    for request, epoch, num_new in step.rows:
        if request.num_preemptions != epoch:
            continue
        if is_recurrent and (copy := snapshot(state, request)) is not None:
            step.copies.append(copy)
        context = request.num_planned
        num_tokens = request.num_planned = context + num_new
        samples = num_tokens == len(request.token_ids) + request.num_pending
        if samples:
            request.num_pending += 1
        news: tuple[int, ...] = ()
        if len(request.blocks) > request.num_told:
            if state.tells_blocks:
                news = new_blocks(state, request)
            request.num_told = len(request.blocks)
        num_logits = int(samples)
        if request.sampling.num_prompt_logprobs >= 0 and request.scores_prompt:
            num_logits = max(num_tokens - max(context, request.num_scored), num_logits)
        rows.append(PlanRow(request.row, num_new, context, num_logits, news))
        in_flight.append(InFlight(request, epoch, num_tokens, samples, num_logits > 0))
        if charges and num_tokens > request.num_charged:
            state.waiting.charge(request, min(num_new, num_tokens - request.num_charged))
            request.num_charged = num_tokens
    if rows:
        state.in_flight.append(in_flight)
    if not step.copies:
        return StepPlan(tuple(rows))
    return StepPlan(
        tuple(rows),
        tuple(copy for copy in step.copies if isinstance(copy, BlockCopy)),
        tuple(copy for copy in step.copies if isinstance(copy, SlotCopy)),
    )


def _is_span(request: Request, num_new: int) -> bool:
    """Whether tokens that are to be computed are a sampled one and those that it forced."""
    in_answer = request.num_planned >= request.num_prompt
    return request.num_forced > 0 and in_answer and num_new <= MAX_SPAN + 1


def _to_stop(request: Request, num_new: int) -> int:
    """New tokens up to where a snapshot of the request's recurrent states is wanted next."""
    for stop in request.stops:
        if stop > request.num_planned:
            return min(num_new, stop - request.num_planned)
    return num_new


def _prompt_tokens(state: SchedulerState, step: _Step, prompt_context: int) -> int:
    """Tokens of prompts that the step may have in all, beside the answers that are being written;
    0: it takes too long already.
    """
    target = None if step.wave else state.step_target
    if target is None or state.pace is None or step.num_decode == 0:
        return state.limits.max_tokens_per_step
    # As if one prompt had them all: dearer than what the step will have.
    context = step.prompt_context + prompt_context
    return state.pace.prompt_tokens(step.num_decode, step.decode_context, context, target)


def _scorable(state: SchedulerState, step: _Step, num_more: int) -> int:
    """Tokens of a prompt that can be scored in this step: a row of logits each, one left for every
    row that may still come, `num_more` of those that run among them.
    """
    coming = num_more + min(len(state.free_rows), len(state.waiting))
    return max(step.logits - max(coming, 0), 1)


def _still_running(in_flight: Sequence[InFlight]) -> list[InFlight]:
    """Without those that ended or were preempted since the step was planned."""
    return [
        flying
        for flying in in_flight
        if flying.request.status is Status.RUNNING
        and flying.request.num_preemptions == flying.epoch
    ]


def _rank(request: Request) -> Rank:
    return request.rank


def _make_room(state: SchedulerState, request: Request, num_tokens: int) -> bool:
    """Blocks for `num_tokens`, if need be those of the last in rank; False: it was the last."""
    while not grow(state, request, num_tokens):
        last = state.running[-1]
        _preempt(state, last)
        if last is request:
            return False
    return True


def _preempt(state: SchedulerState, request: Request) -> None:
    """Back to its place in the queue, to be computed again."""
    vacate(state, request)
    request.status = Status.WAITING
    request.num_preemptions += 1
    state.num_preemptions += 1
    state.waiting.push(request)


def _release_forks(state: SchedulerState, parent: Request) -> None:
    """Those who waited for a request may go on: its prompt is computed, or it has ended."""
    for request in state.forks.pop(parent.id, ()):
        state.waiting.push(request)


def _is_last(state: SchedulerState, request: Request) -> bool:
    """Whether the token that is on its way is the request's last whatever it is."""
    num_tokens = len(request.token_ids) + request.num_pending
    return (
        num_tokens - request.num_prompt >= request.max_tokens
        or num_tokens >= state.limits.max_context
    )


def learn_length(state: SchedulerState, request: Request) -> None:
    known = state.mean_output
    new = float(request.num_generated)
    state.mean_output = new if known is None else known + _WEIGHT_OF_LAST_ANSWER * (new - known)
