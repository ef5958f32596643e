"""Choices of the search, tried: what their users would see, by the scheduler that serves.

The search's formulas know means; a trial has every request, each step and all queues
(`simulate.py`), under arrivals at random or those of a trace. Where too many requests miss the SLO,
a replica more is tried, or a lower rate. Nothing depends on how long a trial takes: the same
question has the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isnan

import numpy as np
from numpy.typing import NDArray

from ridgeline.cost.lines import MOST_DECODED
from ridgeline.errors import RidgelineError
from ridgeline.plan.choice import Asked, Choice, Seen, price_of
from ridgeline.plan.deployed import Knobs, ReplicaKind, replica_of
from ridgeline.plan.fleet import Fleet, Outcome, Transfer
from ridgeline.plan.knees import queue_grows
from ridgeline.plan.load import Load, counted
from ridgeline.plan.next_rate import Run, next_rate
from ridgeline.plan.replica import SumTimes
from ridgeline.plan.simulate import simulate_fleet
from ridgeline.plan.tally import Slo
from ridgeline.step import Answers, StepShape

LEAST_REQUESTS, MOST_REQUESTS = 1000, 12000
# Tokens of prompts in a trial, for which long ones are fewer; but so many requests at least.
MOST_TOKENS, FEWEST_REQUESTS = 24_000_000, 120
# Requests of all trials together, and trials at least: what half a minute is for.
ALL_REQUESTS = 30000
LEAST_TRIALS = 2
# What is left out of a trial: while it fills, and while it empties.
_FILLS, _EMPTIES = 0.2, 0.95
_FULL = 0.5

# (requests a second, how many) -> who comes when.
Loads = Callable[[float, int], Load]


class Drafted:
    """Step times of an engine that checks drafted tokens, for a simulator in which each row has a
    token a step: a step takes what it takes for each token that it yields.
    """

    def __init__(self, times: SumTimes, drafts: int, per_step: float, proposing: float) -> None:
        self._times = times
        self._drafts = drafts
        self._factor = proposing / per_step

    def __call__(self, shape: StepShape) -> float:
        contexts = tuple(
            context
            for new, context in zip(shape.new_tokens, shape.context_lens, strict=True)
            if new <= MOST_DECODED
        )
        if not contexts:
            return self._times(shape)
        checked, plain = self._answers(contexts, 1 + self._drafts), self._answers(contexts, 1)
        if len(contexts) == shape.num_sequences:
            return checked * self._factor
        return self._times(shape) - plain + checked * self._factor

    @property
    def windows(self) -> Sequence[int | None]:
        return self._times.windows

    def beside(self, shape: StepShape, answers: Answers) -> float:
        """Of a step that has answers besides: to the bit as if they were in its shape."""
        if answers.rows == 0:
            return self(shape)
        rows = [
            (new, context)
            for new, context in zip(shape.new_tokens, shape.context_lens, strict=True)
            if new <= MOST_DECODED
        ]
        few = len(rows)
        contexts = tuple([context for _new, context in rows])

        def written(new: int) -> float:
            shape = StepShape((new,) * few, contexts, new * few)
            return self._times.beside(shape, answers._replace(new=new))

        checked, plain = written(1 + self._drafts), written(1)
        if few == shape.num_sequences:
            return checked * self._factor
        return self._times.beside(shape, answers) - plain + checked * self._factor

    def _answers(self, contexts: tuple[int, ...], new: int) -> float:
        return self._times(StepShape((new,) * len(contexts), contexts, new * len(contexts)))

    def decode_run(self, contexts: Sequence[int], count: int) -> NDArray[np.float64]:
        plain = self._times.decode_run(contexts, count)
        known = tuple(contexts)
        ratio = self._answers(known, 1 + self._drafts) / self._answers(known, 1)
        return np.asarray(plain * (ratio * self._factor))


@dataclass(frozen=True, slots=True)
class Tried:
    """ranked: those that were tried and kept, the cheapest first; lost: those that keep the SLO by
    the formulas but not here, as they were last tried.
    """

    ranked: tuple[Choice, ...]
    lost: tuple[Choice, ...]


def try_choices(
    choices: Sequence[Choice],
    asked: Asked,
    loads: Loads,
    rank: Callable[[Choice], tuple[float, ...]],
    *,
    wanted: int,
    block_tokens: int = 64,
    shares_prefixes: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Tried:
    """Of the choices, the best first, until so many are found that keep the SLO, or there is no
    time for more. shares_prefixes: of what the formulas know nothing, so that more may be had.
    report: is told how many requests have come, and how many may.
    """
    kept: list[Choice] = []
    lost: list[Choice] = []
    spent = 0
    for number, choice in enumerate(choices):
        count = num_requests(choice)
        if len(kept) >= wanted:
            break
        if number >= LEAST_TRIALS and spent + count > ALL_REQUESTS:
            break
        engine = engine_of(choice, asked, block_tokens)
        before = spent

        def come(number: int, before: int = before) -> None:
            report(min(before + number, ALL_REQUESTS), ALL_REQUESTS)

        trial = _Trial(engine, asked, loads, count, shares_prefixes, come)
        found = trial.adjusted(choice)
        spent += trial.runs * count
        (kept if keeps(found, asked) else lost).append(found)
    return Tried(tuple(sorted(kept, key=rank)), tuple(lost))


def num_requests(choice: Choice) -> int:
    """Enough for the fleet to fill and to be full for a while, as far as there is time."""
    wanted = max(LEAST_REQUESTS, min(MOST_REQUESTS, ceil(4 * choice.in_flight * choice.replicas)))
    return max(FEWEST_REQUESTS, min(wanted, MOST_TOKENS // choice.input_tokens))


def keeps(choice: Choice, asked: Asked) -> bool:
    seen = choice.seen
    return seen is not None and not seen.grows and seen.within >= asked.percentile / 100.0


@dataclass(slots=True)
class _Trial:
    """Runs of one engine. goes_up: formulas may have found too low a rate, or too many replicas.
    runs: how many there were. come: is told how many requests have come in all of them.
    """

    kind: ReplicaKind
    asked: Asked
    loads: Loads
    count: int
    goes_up: bool
    come: Callable[[int], None]
    runs: int = 0

    def run(self, choice: Choice) -> Choice:
        before = self.runs * self.count
        self.runs += 1
        load = counted(
            self.loads(choice.rate, self.count), lambda number: self.come(before + number)
        )
        return replace(choice, seen=see(choice, self.kind, self.asked, load))

    def adjusted(self, choice: Choice) -> Choice:
        """With as few replicas, or at such a rate, as keeps the SLO; else as it was tried last."""
        if self.asked.rate is None:
            return self._at_its_rate(choice)
        most = self.asked.count * choice.replicas // choice.gpus
        found = self.run(choice)
        if keeps(found, self.asked):
            while found.replicas > 1:
                fewer = self.run(with_replicas(choice, found.replicas - 1, self.asked))
                if not keeps(fewer, self.asked):
                    break
                found = fewer
            return found
        for replicas in range(choice.replicas + 1, min(most, 2 * choice.replicas + 1) + 1):
            found = self.run(with_replicas(choice, replicas, self.asked))
            if keeps(found, self.asked):
                break
        return found

    def _at_its_rate(self, choice: Choice) -> Choice:
        """The greatest rate that is found to keep the SLO."""
        found = self.run(choice)
        is_kept = keeps(found, self.asked)
        if is_kept and not self.goes_up:
            return found
        runs = [Run(found.rate, found.seen, is_kept)]
        while (rate := next_rate(runs, self.asked)) is not None:
            other = self.run(replace(choice, rate=rate))
            runs.append(Run(rate, other.seen, keeps(other, self.asked)))
            if runs[-1].is_kept or not is_kept:
                found, is_kept = other, runs[-1].is_kept
        return replace(found, most_rate=found.rate)


def with_replicas(choice: Choice, replicas: int, asked: Asked) -> Choice:
    """The same engines, more or fewer of them, for the same rate."""
    gpus = choice.gpus // choice.replicas * replicas
    return replace(
        choice,
        replicas=replicas,
        gpus=gpus,
        in_flight=choice.in_flight * choice.replicas / replicas,
        most_rate=choice.most_rate * replicas / choice.replicas,
        usd_per_hour=price_of(choice.accelerator, gpus, asked.price_class),
    )


def engine_of(choice: Choice, asked: Asked, block_tokens: int) -> ReplicaKind:
    """As `launch.py` starts it."""
    d = choice.deployment
    times: SumTimes = d.step_times()
    if choice.drafts and choice.drafter is not None:
        per_step = sum(choice.drafter.acceptance**i for i in range(choice.drafts + 1))
        times = Drafted(times, choice.drafts, per_step, 1.0 + choice.drafts * choice.draft_share)
    knobs = Knobs(
        max_rows=choice.rows, step_tokens=choice.chunk * d.mesh.dp, block_tokens=block_tokens
    )
    return replica_of(
        d.name, choice.described, d, choice.accelerator, knobs, price=asked.price_class, times=times
    )


def see(choice: Choice, kind: ReplicaKind, asked: Asked, load: Load) -> Seen | None:
    """None where the engine can serve none of these requests, or has no link to send them over."""
    prefill = choice.prefill_workers * choice.replicas
    if prefill and not kind.link_bytes_per_second:
        return None
    fleet = Fleet(
        kind.make,
        kind.times,
        replicas=(choice.prefill_workers + choice.workers) * choice.replicas,
        prefill=prefill,
        transfer=Transfer(kind.kv_bytes, kind.link_bytes_per_second or inf) if prefill else None,
    )
    d = choice.deployment
    floor = d.profile[f"ttft.floor.{d.era}"]
    if prefill:
        floor += d.profile["ttft.handover"]
    slo = Slo(
        ttft=inf if asked.ttft is None else asked.ttft - floor,
        itl=inf if asked.itl is None else asked.itl,
        itl99=inf if asked.gap is None else asked.gap,
    )
    try:
        found = simulate_fleet(fleet, load, slo)
    except RidgelineError:
        return None
    return seen_of(found, floor)


def seen_of(found: Outcome, floor: float = 0.0) -> Seen | None:
    """floor: seconds that a server and its client add to a first token. None of nothing."""
    tally = found.tally
    if not tally.num_finished:
        return None
    arrivals = np.asarray(tally.arrivals)
    ordered = np.sort(arrivals)
    low, high = (ordered[int(share * (len(ordered) - 1))] for share in (_FILLS, _EMPTIES))
    within = (arrivals >= low) & (arrivals <= high)
    first = np.sort(np.asarray(tally.ttft)[within]) + floor
    tpot = np.asarray(tally.tpot)
    if len(tpot) == len(arrivals):
        tpot = tpot[within]
    tpot = np.sort(tpot) if len(tpot) else np.zeros(1)
    gap = tally.gaps.percentile(0.99)
    good = np.frombuffer(tally.good, np.int8)[within]
    missed = found.num_requests - tally.num_finished
    return Seen(
        requests=found.num_requests,
        rate=found.num_requests / found.last_arrival if found.last_arrival > 0 else 0.0,
        ttft_p50=_at(first, 0.5),
        ttft_p90=_at(first, 0.9),
        ttft_p99=_at(first, 0.99),
        itl_p50=_at(tpot, 0.5),
        itl_p90=_at(tpot, 0.9),
        gap_p99=0.0 if isnan(gap) else gap,
        within=float(good.mean()) * (1.0 - missed / found.num_requests),
        preemptions=found.num_preemptions,
        grows=queue_grows(found),
        hit_rate=tally.cached_tokens / max(1, tally.prompt_tokens),
        served=_served(arrivals + np.asarray(tally.e2e), float(ordered[-1])),
    )


def _served(ends: NDArray[np.float64], last: float) -> float:
    """Requests/s that ended while others came until `last`, in the part by which it was full."""
    full = _FULL * last
    return float(((ends > full) & (ends <= last)).sum()) / (last - full) if last > 0 else 0.0


def _at(ordered: NDArray[np.float64], share: float) -> float:
    return float(ordered[max(0, ceil(share * len(ordered)) - 1)])
