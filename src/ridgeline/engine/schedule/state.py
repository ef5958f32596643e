"""What the scheduler knows: requests, rows and blocks. No clock, no tensors, no executor."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ridgeline.engine.kv.blocks import BlockPool
from ridgeline.engine.kv.snapshots import SnapshotPool
from ridgeline.engine.request import Request, Status
from ridgeline.engine.schedule.asleep import Asleep
from ridgeline.engine.schedule.pace import Pace
from ridgeline.engine.schedule.policies.fcfs import FirstComeQueue
from ridgeline.engine.schedule.policies.queue import Queue
from ridgeline.errors import RequestError
from ridgeline.step import NO_BLOCK, ONE_GROUP, BlockGroup, StepShape

# Tokens of an answer and its prompt, where a pace is wanted before there are any.
USUAL_CONTEXT = 512
# Prompt tokens that a default pace leaves room for beside all rows: with fewer, a step of few rows
# would read the weights again for next to nothing.
USEFUL_CHUNK = 64
# Rows that kernels need to come near the arithmetic that a cost model may count on: fewer are no
# faster together than it says. 32 rows of a small model write 1.25 times as many tokens a second as
# 16 (docs/log.md, twenty-second session).
USEFUL_ROWS = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that the plan fixed at start: all that a step may use, and how many may wait.

    max_waiting: requests in the queue; None: any number. itl_seconds: what a step may take, by the
    cost model, while answers are being written; None: prompts go as fast as the budget lets them.
    itl_steps: the same, where itl_seconds is None, as so many times what a step of all rows takes
    by the cost model as it is then; never less than what leaves room for USEFUL_CHUNK.
    rate_share: no more rows run at once than it takes to write this part of the tokens a second
    that max_rows would write, by the cost model, and USEFUL_ROWS: more would only make all of them
    slower. Where there is no model, or with None, max_rows run.
    wave_seconds: many prompts that come beside few answers are read before any of theirs begins, if
    that takes no longer than so by the cost model (`waves`); None: each answer begins at once.
    is_recurrent: rows have a state besides their blocks, so that another row's blocks help only up
    to where there is a snapshot of it.
    """

    max_rows: int
    max_tokens_per_step: int
    max_context: int
    block_tokens: int
    max_waiting: int | None = None
    itl_seconds: float | None = None
    itl_steps: float | None = None
    rate_share: float | None = None
    wave_seconds: float | None = None
    is_recurrent: bool = False

    @property
    def most_unbooked_tokens(self) -> int:
        """Of a row: a step may be planned while another runs."""
        return 2 * self.max_tokens_per_step


class InFlight(NamedTuple):
    """A row of a planned step that has not been booked. epoch: the request's num_preemptions then:
    what a step says of a request that was preempted since is not booked. samples: it gets a token;
    answers: it gets a token, or log-probabilities of its prompt.
    """

    request: Request
    epoch: int
    num_tokens: int
    samples: bool
    answers: bool


@dataclass(slots=True)
class SchedulerState:
    """Owned by the engine, changed only by `admit`, `expire`, `schedule`, `apply`, `fail`,
    `retract` and `end`.

    running is in order of rank. forks: by the request they wait for. opened, closed: requests whose
    rows the executor must open or forget before the next step, closed ones first. in_flight: the
    rows of each step that was planned and not booked, oldest first. suspects: groups of requests
    that were in a step which failed; while there are any, the first group runs and nobody else.
    asleep: in a simulator, requests that run and are not in `running`. tells_blocks: plans say
    which blocks rows have.
    """

    limits: Limits
    pool: BlockPool
    waiting: Queue
    pace: Pace | None = None
    requests: dict[str, Request] = field(default_factory=dict)
    running: list[Request] = field(default_factory=list)
    forks: dict[str, list[Request]] = field(default_factory=dict)
    free_rows: list[int] = field(default_factory=list)
    snapshots: SnapshotPool = field(default_factory=lambda: SnapshotPool(0, 0))
    opened: list[Request] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    in_flight: deque[list[InFlight]] = field(default_factory=deque)
    suspects: deque[list[Request]] = field(default_factory=deque)
    deadlines: list[tuple[float, int, Request]] = field(default_factory=list)
    asleep: Asleep = field(default_factory=Asleep)
    num_admitted: int = 0
    num_preemptions: int = 0
    mean_output: float | None = None
    tells_blocks: bool = True
    is_plain: bool = field(init=False)
    blocks_per_entry: int = field(init=False)

    def __post_init__(self) -> None:
        # Asked for every row: all layers keep all tokens, and an entry is one block.
        self.is_plain = self.pool.groups == ONE_GROUP
        self.blocks_per_entry = sum(group.blocks for group in self.pool.groups)

    @staticmethod
    def empty(
        limits: Limits,
        num_blocks: int,
        queue: Queue | None = None,
        seconds: Callable[[StepShape], float] | None = None,
        groups: Sequence[BlockGroup] = ONE_GROUP,
        num_snapshots: int = 0,
        explains: bool = True,
        blocks_together: int = 1,
    ) -> SchedulerState:
        """explains: plans say which blocks rows have, and it can be said why a prompt was not
        cached; a simulator does without both.
        num_snapshots: slots for recurrent states beside those of the rows. groups,
        blocks_together: as the executor has them. queue: the policy; first come, first served if
        None. seconds: what a step takes by the cost model; needed for itl_seconds and for admission
        by predicted finish time. Raises RequestError for an itl_seconds that no step can meet, or
        an itl_steps below 1.
        """
        if limits.itl_steps is not None and not 1 <= limits.itl_steps < 1e6:
            raise RequestError("itl_steps", f"{limits.itl_steps!r} is not a number of 1 or more")
        if limits.rate_share is not None and not 0 < limits.rate_share <= 1:
            raise RequestError("rate_share", f"{limits.rate_share!r} is not above 0 and at most 1")
        if limits.wave_seconds is not None and not 0 < limits.wave_seconds < 3600:
            raise RequestError("wave_seconds", f"{limits.wave_seconds!r} is not seconds above 0")
        if limits.wave_seconds is not None and limits.itl_seconds is not None:
            raise RequestError(
                "wave_seconds", "steps of a wave keep no itl_target; give one of them"
            )
        if limits.itl_seconds is not None:
            if seconds is None:
                raise RequestError("itl_target", "needs a cost model, and there is none")
            least = seconds(StepShape.decode(1, 1))
            if least > limits.itl_seconds:
                raise RequestError(
                    "itl_target",
                    f"{limits.itl_seconds:g} s is less than a step of one token takes, {least:.2g}",
                )
        return SchedulerState(
            limits,
            BlockPool(num_blocks, groups, explains, blocks_together),
            FirstComeQueue() if queue is None else queue,
            None if seconds is None else Pace(seconds, limits.max_tokens_per_step),
            free_rows=list(range(limits.max_rows))[::-1],
            snapshots=SnapshotPool(limits.max_rows, num_snapshots),
            tells_blocks=explains,
        )

    @property
    def rows_at_once(self) -> int:
        """How many requests may run."""
        share = self.limits.rate_share
        if share is None or not self.pace:
            return self.limits.max_rows
        rows = self.pace.useful_rows(self.limits.max_rows, self._usual_context, share)
        return min(max(rows, USEFUL_ROWS), self.limits.max_rows)

    @property
    def has_row(self) -> bool:
        """Whether one more request may run."""
        running = self.limits.max_rows - len(self.free_rows)
        return running < self.limits.max_rows and running < self.rows_at_once

    @property
    def _usual_context(self) -> int:
        return min(USUAL_CONTEXT, self.limits.max_context)

    @property
    def step_target(self) -> float | None:
        """Seconds that a step may take while answers are being written; None: any. It follows what
        is learned of the machine, so that a first guess too low starves no prompt.
        """
        if self.limits.itl_seconds is not None or self.limits.itl_steps is None or not self.pace:
            return self.limits.itl_seconds
        answers = self.pace.decode_seconds(self.rows_at_once, self._usual_context)
        chunk = min(USEFUL_CHUNK, self.limits.max_tokens_per_step)
        return max(self.limits.itl_steps * answers, answers + self.pace.prefill_seconds(chunk))

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + sum(map(len, self.forks.values()))

    @property
    def has_work(self) -> bool:
        return bool(self.requests)

    def watch_deadline(self, request: Request) -> None:
        if request.deadline is not None:
            heapq.heappush(self.deadlines, (request.deadline, request.number, request))

    def _entries_of(self, request: Request) -> list[int]:
        """The entries that a running request owns, of all groups, checked."""
        size = self.limits.block_tokens
        tables = [request.blocks, *request.other_tables]
        owned: list[int] = []
        for group, table, first in zip(self.pool.groups, tables, request.firsts, strict=True):
            assert len(table) == len(request.blocks)
            assert first <= group.first_entry(request.num_computed, size), "freed within its window"
            assert all(entry == NO_BLOCK for entry in table[:first])
            assert all(entry >= 0 for entry in table[first:])
            most = group.most_entries(1 << 60, size, self.limits.most_unbooked_tokens)
            assert len(table) - first <= most
            # What a row has yet to write to is its own.
            for entry in table[max(first, request.num_computed // size) :]:
                assert self.pool.num_owners(entry) == 1
            owned += table[first:]
        assert len(set(owned)) == len(owned)
        return owned

    def check_invariants(self) -> None:
        """Rows and blocks belong to running requests and to nobody else; who is known waits or
        runs, once.
        """
        self.pool.check_invariants()
        self.snapshots.check_invariants([s for r in self.running for _, s in r.snapshots])
        rows = [r.row for r in self.running]
        assert sorted(rows + self.free_rows) == list(range(self.limits.max_rows))
        assert all(a.rank < b.rank for a, b in zip(self.running, self.running[1:], strict=False))
        owners: dict[int, int] = {}
        for request in self.running:
            assert request.status is Status.RUNNING
            assert request.num_computed <= request.num_planned
            room = len(request.blocks) * self.limits.block_tokens
            assert request.num_planned <= room
            for entry in self._entries_of(request):
                owners[entry] = owners.get(entry, 0) + 1
        for block in range(self.pool.num_blocks):
            assert self.pool.num_owners(block) == owners.get(block, 0)
        forks = [request for group in self.forks.values() for request in group]
        waiting = [*self.waiting, *forks]
        for request in waiting:
            assert request.status is Status.WAITING
            assert request.row == -1
            assert not request.blocks
        suspects = [request for group in self.suspects for request in group]
        assert len(set(suspects)) == len(suspects)
        assert all(self.suspects)
        assert all(request.status is not Status.FINISHED for request in suspects)
        known = [r.id for r in self.running] + [r.id for r in waiting]
        assert sorted(known) == sorted(self.requests)
