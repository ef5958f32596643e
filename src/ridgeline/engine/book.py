"""What an engine's steps were and what they gave: counts for metrics, the last steps for a look.

Filled by the engine's thread once a step, read by anyone: a reader may see a step half booked, and
never waits for one. Its size is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ridgeline.engine.ledger import Ledger, Trace
from ridgeline.engine.request import Status
from ridgeline.engine.schedule.state import InFlight
from ridgeline.step import StepPlan, StepShape

# Seconds. Fine where a small model on a CPU is, coarse where a queue is.
BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
MAX_STEPS = 240
_RUNNING = Status.RUNNING  # looked up for every row of every step


class Histogram:
    """Counts by bucket. bounds: upper ones, included; above the last there is one more bucket."""

    def __init__(self, bounds: Sequence[float] = BUCKETS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The upper bound of the bucket that holds it; NaN of nothing."""
        wanted, seen = share * self.count, 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            if seen and seen >= wanted:
                return bound
        return float("nan")


class StepRecord(NamedTuple):
    """A step that ran. ended: its moment; seconds: in the executor."""

    ended: float
    seconds: float
    decode_rows: int
    prompt_rows: int
    prompt_tokens: int


class Book:
    """What the engine has done since it was made. ended: answers by finish reason."""

    def __init__(self) -> None:
        self.ttft, self.itl, self.tpot, self.e2e = (Histogram() for _ in range(4))
        self.queue, self.prefill, self.decode, self.step = (Histogram() for _ in range(4))
        self.step_tokens = Histogram(TOKEN_BUCKETS)
        self.prompt_lengths, self.answer_lengths = (Histogram(TOKEN_BUCKETS) for _ in range(2))
        self.num_steps = self.num_failed_steps = 0
        self.step_seconds = 0.0
        self.prompt_tokens = self.answer_tokens = self.computed_prompt_tokens = 0
        self.forced_tokens = 0
        self.cache_queries = self.cache_hits = 0
        self.ended: dict[str, int] = {}
        self.last_shape: StepShape | None = None
        self.steps: deque[StepRecord] = deque(maxlen=MAX_STEPS)

    def stepped(
        self,
        plan: StepPlan,
        in_flight: Sequence[InFlight],
        began: float,
        ended: float,
        prompt_share: Callable[[StepShape], float] | None,
    ) -> None:
        """A step ran. prompt_share: by the cost model, what part of a step of that shape its
        prompts take; None: by the number of tokens.
        """
        seconds = ended - began
        num_tokens = num_decode = num_prompt = 0
        for row, flying in zip(plan.rows, in_flight, strict=True):
            num_new = row.num_new
            num_tokens += num_new
            if row.num_context >= flying.request.num_prompt:
                num_decode += 1
            else:
                num_prompt += num_new
        num_prompt_rows = len(plan.rows) - num_decode
        share = float(num_prompt_rows > 0)
        if num_prompt and num_decode:
            share = num_prompt / num_tokens if prompt_share is None else prompt_share(plan.shape)
        each_decode = seconds * (1 - share) / num_decode if num_decode else 0.0
        each_prompt = seconds * share / num_prompt if num_prompt else 0.0
        gaps: dict[float, int] = {}  # those who write have nearly all waited alike
        for row, flying in zip(plan.rows, in_flight, strict=True):
            request, epoch, _, samples, _ = flying
            trace = request.trace
            if trace is None or request.status is not _RUNNING or request.num_preemptions != epoch:
                continue
            if trace.steps == 0:
                self._began(trace, began, request.num_prompt, request.num_cached or 0)
            num_new, num_context = row.num_new, row.num_context
            writes = num_context >= request.num_prompt
            own = each_decode if writes else each_prompt * num_new
            trace.book(began, ended, own, num_context, num_new, epoch)
            if samples:
                if trace.first_token is None:
                    trace.first_token = ended
                    self.ttft.observe(ended - trace.arrival)
                else:
                    gap = ended - trace.last_token
                    gaps[gap] = gaps.get(gap, 0) + 1
                trace.last_token = ended
                self.answer_tokens += 1
        for gap, count in gaps.items():
            self.itl.observe(gap, count)
        record = StepRecord(ended, seconds, num_decode, num_prompt_rows, num_prompt)
        self._ran(plan, record, num_tokens)

    def appended(self, trace: Trace | None, count: int) -> None:
        """So many tokens were forced, and came with the one that was just sampled."""
        self.answer_tokens += count
        self.forced_tokens += count
        if trace is not None:
            trace.forced += count
            self.itl.observe(0.0, count)

    def read_texts(self, plan: StepPlan, began: float, ended: float) -> None:
        """A step ran that computed texts and sampled nothing."""
        num_tokens = sum(row.num_new for row in plan.rows)
        record = StepRecord(ended, ended - began, 0, len(plan.rows), num_tokens)
        self._ran(plan, record, num_tokens)

    def _ran(self, plan: StepPlan, record: StepRecord, num_tokens: int) -> None:
        self.computed_prompt_tokens += record.prompt_tokens
        self.last_shape = plan.shape
        self.num_steps += 1
        self.step_seconds += record.seconds
        self.step.observe(record.seconds)
        self.step_tokens.observe(num_tokens)
        self.steps.append(record)

    def text_closed(
        self, reason: str, num_tokens: int, arrival: float, began: float, ended: float
    ) -> None:
        """A text was embedded, scored or classified, or was not: it came, was begun and ended."""
        self.ended[reason] = self.ended.get(reason, 0) + 1
        self.queue.observe(max(0.0, began - arrival))
        self.prefill.observe(ended - began)
        self.e2e.observe(ended - arrival)
        self.prompt_lengths.observe(num_tokens)
        self.prompt_tokens += num_tokens

    def closed(self, trace: Trace, reason: str, num_answer: int) -> Ledger:
        """An answer has ended."""
        self.ended[reason] = self.ended.get(reason, 0) + 1
        ledger = trace.ledger()
        self.e2e.observe(ledger.total_seconds)
        self.answer_lengths.observe(num_answer)
        if trace.first_token is not None:
            self.prefill.observe(trace.first_token - trace.submitted - trace.queue)
            self.decode.observe(ledger.end - trace.first_token)
            if num_answer > 1:
                self.tpot.observe((trace.last_token - trace.first_token) / (num_answer - 1))
        return ledger

    def searched(
        self, ledger: Ledger, num_prompt: int, lengths: Sequence[int], reasons: Sequence[str]
    ) -> None:
        """A beam search has ended, whose requests have no traces. lengths: of its answers; none
        where nobody has waited for them.
        """
        for reason in reasons:
            self.ended[reason] = self.ended.get(reason, 0) + 1
        self.e2e.observe(ledger.total_seconds)
        if ledger.first_step is not None and lengths:
            self.queue.observe(ledger.seconds["queue"])
            self.prompt_lengths.observe(num_prompt)
            self.prompt_tokens += num_prompt
        for length in lengths:
            self.answer_lengths.observe(length)
            self.answer_tokens += length

    def texts_dropped(self, count: int) -> None:
        """Whoever asked for them has gone before they were begun."""
        if count:
            self.ended["abort"] = self.ended.get("abort", 0) + count

    def _began(self, trace: Trace, moment: float, num_prompt: int, num_cached: int) -> None:
        self.queue.observe(max(0.0, moment - trace.submitted))
        self.prompt_lengths.observe(num_prompt)
        self.prompt_tokens += num_prompt
        self.cache_queries += num_prompt
        self.cache_hits += num_cached
