"""A scheduler among faults: the real one, the null executor's tokens, a virtual clock.

One seed is one world: sizes, policy and all that goes wrong. After every step all that must hold is
checked; an AssertionError or an EngineError that nobody injected is a find.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from ridgeline.backends.null.executor import NullExecutor, null_token
from ridgeline.backends.simulated.executor import SimulatedExecutor, VirtualClock
from ridgeline.engine.request import Event, Request, Status
from ridgeline.engine.schedule.admit import admit, expire
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.policies.fair import FairQueue
from ridgeline.engine.schedule.policies.priority import PriorityQueue
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.engine.schedule.step import apply, end, fail, prune, retract, schedule
from ridgeline.errors import EngineError, Overloaded
from ridgeline.step import (
    ONE_GROUP,
    BlockGroup,
    RowSampling,
    StepPlan,
    StepResult,
    StepShape,
    most_row_blocks,
)

VOCAB = 50
SIZE = 4
INJECTED = "injected"
POISON = "poison"
PASSING = "passing"
# Layers of one kind that forget; full ones beside windows shorter and longer than a block, and not
# a whole number of them.
GROUPS = [
    (BlockGroup(6),),
    (BlockGroup(None, 1), BlockGroup(8, 2)),
    (BlockGroup(None, 2), BlockGroup(3, 1), BlockGroup(17, 3)),
]
MAX_PROMPT, MAX_ANSWER = 40, 20
# Steps that may pass before some request ends: the first in rank needs at most a step a token, and
# starts again at most as often as a better one came meanwhile.
MOST_STEPS_WITHOUT_END = 40 * (MAX_PROMPT + MAX_ANSWER)


def step_seconds(shape: StepShape) -> float:
    return 0.01 + 0.001 * shape.num_tokens + 1e-6 * shape.cached_tokens_read(None)


@dataclass
class Counts:
    """What happened, so that a run can show that it met what it was to meet."""

    steps: int = 0
    tokens: int = 0
    preemptions: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    overloaded: int = 0
    failed_steps: int = 0
    passing_faults: int = 0
    poisoned: int = 0
    retracted: int = 0
    copies: int = 0
    slot_copies: int = 0
    restored: int = 0
    given_up: int = 0
    cached_tokens: int = 0
    pruned_rows: int = 0
    stale: int = 0

    def add(self, other: Counts) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class World:
    """ahead: each step is planned while the one before runs. late: what a step gave is booked when
    the next one has run, too, and the one after that is planned.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.ahead = rng.random() < 0.5
        self.late = self.ahead and rng.random() < 0.5
        self.policy = rng.choice(sorted(POLICIES))
        self.fault_rate = rng.choice([0.0, 0.01, 0.05])
        self.load = rng.choice([0.05, 0.2, 0.5])
        max_rows = rng.choice([1, 2, 4, 8, 16])
        max_tokens_per_step = rng.choice([3, 8, 24, 64])
        groups = rng.choice([ONE_GROUP, *GROUPS])
        longest = MAX_PROMPT + MAX_ANSWER
        least = most_row_blocks(groups, longest, SIZE, 2 * max_tokens_per_step)
        num_blocks = least + rng.choice([1, 2, 5, 15, 35])
        # A third have recurrent states, with no snapshots, a few, or many.
        num_snapshots = [30, 3, 0, 1][seed // 3 % 4] if seed % 3 == 1 else None
        num_slots = 0 if num_snapshots is None else max_rows + num_snapshots
        self.clock = VirtualClock()
        self.executor = SimulatedExecutor(
            step_seconds,
            self.clock,
            num_blocks=num_blocks,
            max_rows=max_rows,
            block_tokens=SIZE,
            vocab_size=VOCAB,
            groups=groups,
            tokens=NullExecutor(
                vocab_size=VOCAB,
                num_blocks=num_blocks,
                max_rows=max_rows,
                block_tokens=SIZE,
                groups=groups,
                num_slots=num_slots,
            ),
        )
        itl_seconds = rng.choice([None, 0.02, 0.04])
        limits = Limits(
            max_rows=max_rows,
            max_tokens_per_step=max_tokens_per_step,
            max_context=MAX_PROMPT + MAX_ANSWER + 4,
            block_tokens=SIZE,
            is_recurrent=num_snapshots is not None,
            max_waiting=rng.choice([None, 5, 30]),
            itl_seconds=itl_seconds,
            itl_steps=rng.choice([None, 2.0]),
            wave_seconds=None if itl_seconds else rng.choice([None, 0.2, 60.0]),
        )
        queue = PriorityQueue(2.0) if self.policy == "priority" else POLICIES[self.policy]()
        if isinstance(queue, FairQueue):
            queue.weights = {"a": 2.0}
        self.state = SchedulerState.empty(
            limits,
            num_blocks,
            queue,
            step_seconds,
            groups,
            num_snapshots or 0,
            blocks_together=16 if seed % 2 else 1,
        )
        self.counts = Counts()
        self.prefixes = [[rng.randrange(VOCAB) for _ in range(30)] for _ in range(3)]
        self.submitted: dict[str, Request] = {}
        self.ended: set[str] = set()
        self.never_admitted: dict[str, Request] = {}
        self.poison: dict[str, int] = {}  # to the tokens with which a step of it always fails
        self.poison_met: set[str] = set()
        self.steps_without_end = 0
        self.soonest_retry = float("inf")

    def run(self, num_steps: int) -> Counts:
        waiting_plan: StepPlan | None = None
        ran: deque[StepResult | EngineError | None] = deque()
        target = self.counts.steps + num_steps
        while self.counts.steps < target or self.state.has_work or ran:
            if self.counts.steps < target:
                self._arrivals()
            self._aborts()
            self._take(expire(self.state, self.clock.now))
            if waiting_plan is None:
                waiting_plan = self._schedule()
            plan, waiting_plan = self._prune(waiting_plan), None
            if plan.rows:
                ran.append(self._submit(plan))
            if self.ahead and plan.rows:
                waiting_plan = self._schedule()
            self._aborts()
            # Nothing runs on what a step that failed has left.
            failed = bool(ran) and not isinstance(ran[-1], StepResult)
            while ran and (failed or not self.late or not plan.rows or len(ran) > 1):
                self._book(ran.popleft())
            self._check()
            if not plan.rows:
                self.clock.now += 0.05
        assert self.state.pool.num_free == self.state.pool.num_blocks
        assert self.soonest_retry > 0
        assert self.ended == set(self.submitted), "every request ends"
        # Whoever fails is found by halving: 2n - 1 failing steps for n rows, and one to begin with.
        first = self.counts.passing_faults + len(self.poison_met)
        most = 2 * self.state.limits.max_rows * first
        assert self.counts.failed_steps <= most, "looking for the guilty is bounded"
        self.counts.preemptions = self.state.num_preemptions
        return self.counts

    # ---- what comes

    def _arrivals(self) -> None:
        rng = self.rng
        if rng.random() >= self.load * 0.3:
            return
        for _ in range(rng.choice([1, 1, 2, 12])):
            self._arrive(f"r{self.state.num_admitted}.{rng.getrandbits(40)}")

    def _arrive(self, name: str) -> None:
        rng = self.rng
        parent = None
        alive = list(self.state.requests.values())
        if alive and rng.random() < 0.25:
            parent = rng.choice(alive)
            cut = rng.randrange(1, min(len(parent.token_ids), MAX_PROMPT) + 1)
            prompt = parent.token_ids[:cut]
        else:
            prompt = rng.choice(self.prefixes)[: rng.randrange(31)]
            prompt = prompt + [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 10))]
            if rng.random() < 0.3:  # the same but for one token
                prompt[rng.randrange(len(prompt))] = rng.randrange(VOCAB)
        now = self.clock.now
        request = Request(
            id=name,
            token_ids=list(prompt),
            num_prompt=len(prompt),
            max_tokens=rng.randrange(1, MAX_ANSWER),
            sampling=RowSampling(),
            stop_token_ids=frozenset(rng.sample(range(VOCAB), rng.choice([0, 0, 3]))),
            salt=rng.choice([b"", b"", b"one"]),
            tenant=rng.choice("abc"),
            priority=rng.choice([0, 0, 1, 5]),
            arrival=now,
            deadline=now + rng.uniform(0.1, 5) if rng.random() < 0.1 else None,
            fork_of=None if parent is None else parent.id,
        )
        try:
            admit(self.state, request, now)
        except Overloaded as refused:
            self.soonest_retry = min(self.soonest_retry, refused.retry_after_seconds)
            self.counts.overloaded += 1
            return
        self.submitted[name] = self.never_admitted[name] = request
        if rng.random() < self.fault_rate:
            self.poison[name] = rng.randrange(1, len(prompt) + 2 * request.max_tokens)

    def _aborts(self) -> None:
        rng = self.rng
        if self.state.requests and rng.random() < self.fault_rate:
            for request in rng.sample(list(self.state.requests.values()), 1):
                self._take([end(self.state, request, "abort")])

    # ---- a step

    def _schedule(self) -> StepPlan:
        waiting = [r for r in self.state.waiting if r.admitted is None]
        plan = schedule(self.state, self.clock.now)
        self.counts.copies += len(plan.copies)
        self.counts.slot_copies += len(plan.slot_copies)
        rows = self.state.limits.max_rows
        self.counts.restored += sum(copy.target < rows for copy in plan.slot_copies)
        self._check_order(waiting)
        self._check_pace(plan)
        for row in self.state.closed:
            self.executor.close_row(row)
        for request in self.state.opened:
            tokens = request.token_ids
            self.executor.open_row(request.row, tokens, request.sampling)
        self.state.closed.clear()
        self.state.opened.clear()
        return plan

    def _submit(self, plan: StepPlan) -> StepResult | EngineError | None:
        self.counts.steps += 1
        kind = self.rng.random()
        in_flight = self.state.in_flight[-1]
        rows = [flying.request for flying in in_flight]
        for flying in in_flight:
            if flying.num_tokens >= self.poison.get(flying.request.id, 1 << 30):
                self.poison_met.add(flying.request.id)
                return EngineError(POISON)
        # One that passes does not hit a request that is alone under suspicion: that would be again.
        alone = len(rows) == 1 and any(rows[0] in group for group in self.state.suspects)
        if kind < self.fault_rate * 0.2 and not alone:
            self.counts.passing_faults += 1
            return EngineError(PASSING)
        self.executor.submit(plan)  # an EngineError here is a find: it names the row and the block
        result = self.executor.collect()
        if kind < self.fault_rate * 0.3:
            return None  # it ran, and nobody heard how it went
        if kind < self.fault_rate and result.sampled:
            at = self.rng.randrange(len(result.sampled))
            broken = [
                s._replace(token_id=-1, fault=INJECTED) if i == at else s
                for i, s in enumerate(result.sampled)
            ]
            return StepResult(tuple(broken))
        return result

    def _book(self, result: StepResult | EngineError | None) -> None:
        for request, epoch, *_ in self.state.in_flight[0]:
            again = request.status is Status.RUNNING and request.num_preemptions != epoch
            self.counts.stale += again  # it gave its row back and has one again
        if isinstance(result, EngineError):
            self.counts.failed_steps += 1
            self._take(fail(self.state, result))
        elif result is None:
            self.counts.retracted += 1
            retract(self.state)
        else:
            self._take(apply(self.state, result))

    def _prune(self, plan: StepPlan) -> StepPlan:
        """As it is submitted: without those that went since it was made."""
        if not plan.rows:
            return plan
        pruned = prune(self.state, plan)
        self.counts.pruned_rows += len(plan.rows) - len(pruned.rows)
        return pruned

    def _take(self, events: list[Event]) -> None:
        for event in events:
            assert event.request_id not in self.ended, "a request ends once, and says nothing after"
            request = self.submitted[event.request_id]
            if event.token_id is not None:
                self.counts.tokens += 1
                assert request.token_ids[-1] == event.token_id
                assert event.token_id == null_token(request.token_ids[:-1], VOCAB)
            if event.finish_reason is not None:
                if event.error is not None:
                    guilty = event.request_id in self.poison
                    assert str(event.error) == INJECTED or (guilty and str(event.error) == POISON)
                    self.counts.poisoned += str(event.error) == POISON
                elif event.finish_reason in ("stop", "length"):
                    assert len(request.token_ids) <= self.poison.get(request.id, 1 << 30)
                self.ended.add(event.request_id)
                self.never_admitted.pop(event.request_id, None)
                self.counts.ended[event.finish_reason] += 1
                self.counts.cached_tokens += request.num_cached or 0
                self.steps_without_end = 0

    # ---- what must hold

    def _check(self) -> None:
        self.state.check_invariants()
        self.counts.given_up += any(first for r in self.state.running for first in r.firsts)
        self.steps_without_end += bool(self.state.running)
        assert self.steps_without_end <= MOST_STEPS_WITHOUT_END, "some request always finishes"

    def _check_order(self, waited: list[Request]) -> None:
        """The starvation bound: nobody was admitted past someone who had the better claim."""
        admitted = [r for r in waited if r.admitted is not None]
        still = [r for r in self.state.waiting if r.admitted is None]
        for first in admitted:
            for other in still:
                if self.policy == "fcfs":
                    assert first.number < other.number
                elif self.policy == "priority":
                    # Passed only by those who come less than the difference of levels later.
                    lead = (other.priority - first.priority) * 2.0
                    assert first.arrival <= other.arrival + lead
                elif first.tenant == other.tenant:
                    assert first.number < other.number

    def _check_pace(self, plan: StepPlan) -> None:
        """Beside answers a step with prompts takes no longer than its target, or has the least."""
        target = self.state.limits.itl_seconds
        writing = {r.row for r in self.state.running if r.num_generated}
        writing -= {r.row for r in self.state.opened}
        prompts = sum(row.num_new for row in plan.rows if row.num_new > 1)
        decodes = any(
            row.row in writing and row.num_new == 1 and row.num_logits for row in plan.rows[:1]
        )
        if target is not None and decodes and prompts > 16:
            assert step_seconds(plan.shape) <= target + 0.0011, plan.shape


def run_worlds(seeds: range, num_steps: int) -> Counts:
    total = Counts()
    for seed in seeds:
        try:
            total.add(World(seed).run(num_steps))
        except (AssertionError, EngineError) as error:
            raise AssertionError(f"world {seed}: {error!r}") from error
    return total
