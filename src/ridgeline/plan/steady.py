"""Steady serving in closed form: what a load makes of a deployment once it has settled.

Closed loop: so many requests are in flight, a new one for each that ends. While a request writes
its answer, the others' prompts are computed between its tokens, each taking `delta`; in one cycle
each of the requests in flight has its prompt computed once. So
    TPOT = step(n) / tokens a step + n delta / output,   n = in flight * answer's share of a cycle,
and TTFT is a few prompts and steps, a part of the burst with which a measurement begins, and what
waits while the cache is full. An engine that does not mix prompts with answers (SGLang) keeps
requests of equal length in step: half of the others' prompts then come before the first token, the
other half after it. plan/simulate.py has the same as events. Many cases are solved at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp

import numpy as np

from ridgeline.cost.deployment import Deployment
from ridgeline.cost.efficiency import ENGINES, Array, Pieces, Profile, piece_seconds, with_host
from ridgeline.cost.steps import uniform_steps
from ridgeline.errors import RidgelineError

# Steps are priced at these shares of the rows; between them, on a line in logarithms.
SHARES = np.array([0.125, 0.3, 0.6, 1.0])
_MIDDLE = 2
ROUNDS = 8
# Engines whose steps have prompts or answers, not both.
UNMIXED = ("sglang",)


@dataclass(frozen=True, slots=True)
class Load:
    """concurrency: requests in flight over the whole deployment. input_tokens, output_tokens: of
    each on average. varied: their lengths differ by some percent, so that requests do not stay in
    step. drafts: tokens that a predictor proposes a step; acceptance: of each, given the last.
    """

    concurrency: float
    input_tokens: float
    output_tokens: float
    varied: bool = True
    drafts: int = 0
    acceptance: float = 0.7

    @property
    def tokens_per_step(self) -> float:
        return sum(self.acceptance**i for i in range(self.drafts + 1))


@dataclass(frozen=True, slots=True)
class Case:
    """A load on a deployment. prefill: what computes prompts elsewhere, prefill_workers of it;
    then `deployment` is one of `workers` that write answers, and load.concurrency their requests.
    """

    deployment: Deployment
    load: Load
    prefill: Deployment | None = None
    prefill_workers: int = 1
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Interval:
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Steady:
    """seconds with their 80 % intervals. tokens_per_second: output of all requests in flight.
    decoding: rows that write at a time. limit: rows that the caches have room for.
    """

    ttft: Interval
    tpot: Interval
    tokens_per_second: float
    requests_per_second: float
    decoding: float
    limit: float

    @property
    def is_full(self) -> bool:
        """The KV knee: requests wait for room in the cache."""
        return self.decoding >= 0.999 * self.limit


class Cases:
    """Cases priced together: features once, then `solve` for any profile."""

    def __init__(self, cases: Sequence[Case]) -> None:
        parts: list[Pieces] = []
        sizes: list[int] = []
        num = len(cases)
        self.steps = len(SHARES) + 2
        self.rows = np.zeros((num, self.steps))
        self.eager = np.zeros((num, self.steps))
        self.limit, self.group, self.most = np.zeros(num), np.ones(num), np.zeros(num)
        for index, case in enumerate(cases):
            load, deployment = case.load, case.deployment
            dp, pp = deployment.mesh.dp, deployment.mesh.pp
            here = load.concurrency / case.workers
            context = load.input_tokens + load.output_tokens / 2
            limit = max(1.0, deployment.room.rows(context) * dp)
            most = max(1.0, min(here, limit))
            decode = np.maximum(1.0, most * SHARES)
            writing = uniform_steps(
                deployment.windows, decode=decode, context=context, drafts=float(load.drafts)
            )
            at = case.prefill or deployment
            # Data-parallel groups compute prompts side by side.
            group = float(max(1, min(at.mesh.dp, int(load.concurrency))))
            beside = 0.0 if case.prefill else max(1.0, most * SHARES[_MIDDLE])
            reading = uniform_steps(
                at.windows,
                decode=np.array([beside, 0.0]),
                context=context,
                drafts=float(load.drafts),
                prompts=group,
                prompt_tokens=load.input_tokens,
            )
            parts += [deployment.pieces(writing), at.pieces(reading)]
            sizes += [len(SHARES), 2]
            self.rows[index] = (
                np.concatenate([decode / dp, (np.array([beside, 0.0]) + group) / at.mesh.dp]) / pp
            )
            self.eager[index] = np.concatenate([deployment.eager(writing), at.eager(reading)])
            self.limit[index], self.group[index] = limit * case.workers, group
            self.most[index] = most
        self.pieces = Pieces.joined(parts, sizes)
        self.num = num
        loads = [case.load for case in cases]
        self.engine = np.array([ENGINES.index(c.deployment.engine) for c in cases], np.intp)
        self.in_flight = np.array([load.concurrency for load in loads])
        self.output = np.array([load.output_tokens for load in loads])
        self.accepted = np.array([load.tokens_per_step for load in loads])
        self.workers = np.array([float(case.workers) for case in cases])
        self.apart = np.array([case.prefill is not None for case in cases])
        self.readers = np.array(
            [float(case.prefill_workers) if case.prefill else np.inf for case in cases]
        )
        self.in_step = np.array(
            [c.deployment.engine in UNMIXED and not c.load.varied for c in cases]
        )
        self.sizes = np.log(np.maximum(1.0, self.most[:, None] * SHARES[None, :]))

    def solve(self, profile: Profile) -> Solved:
        device = np.bincount(
            self.pieces.steps, piece_seconds(self.pieces, profile), self.num * self.steps
        ).reshape(self.num, self.steps)
        seconds = np.empty_like(device)
        for index, engine in enumerate(ENGINES):
            of = self.engine == index
            if of.any():
                seconds[of] = with_host(device[of], self.rows[of], self.eager[of], engine, profile)
        writing = np.log(seconds[:, : len(SHARES)])
        alone = seconds[:, -1] / self.group
        mixed = np.maximum(seconds[:, -2] - seconds[:, _MIDDLE], 1e-6) / self.group
        unmixed = np.isin(self.engine, [ENGINES.index(name) for name in UNMIXED])
        delta = np.where(unmixed | self.apart, alone, mixed)
        floor, prompts, steps, wave = (
            profile.table(f"ttft.{name}", ENGINES)[self.engine]
            for name in ("floor", "prompts", "steps", "wave")
        )
        others = (self.in_flight - 1.0) / self.in_flight
        rows = self.most * self.workers
        tpot, ttft = np.ones(self.num), np.ones(self.num)
        for _ in range(ROUNDS):
            step = self._step(writing, np.log(np.maximum(1.0, rows / self.workers)))
            token = step / self.accepted
            between = np.where(self.in_step, (self.in_flight - 1.0) / 2.0, rows * others)
            between = np.where(self.apart, 0.0, between)
            tpot = token + between * delta / self.output
            ttft = floor + prompts * np.maximum(alone, delta) + steps * step
            ttft = ttft + wave * self.in_flight * delta / np.where(self.apart, self.readers, 1.0)
            ttft = np.where(self.in_step, (self.in_flight + 1.0) / 2.0 * delta, ttft)
            answer = self.output * tpot
            rate = np.minimum(self.in_flight / (ttft + answer), self.readers / alone)
            rows = np.where(self.in_step, self.in_flight, rate * answer)
            rows = np.minimum(np.minimum(rows, self.limit), self.in_flight)
        # Who finds no room, or no prompt's turn, waits: the cycle is as long as the rate says.
        rate = np.minimum(rows / answer, self.readers / alone)
        waits = (rows >= 0.999 * self.limit) | (rate >= 0.999 * self.readers / alone)
        cycle = np.where(waits, self.in_flight / rate, ttft + answer)
        ttft = np.where(waits, np.maximum(ttft, cycle - answer), ttft)
        return Solved(tpot, ttft, rows, self.in_flight / (ttft + answer), delta, step)

    def _step(self, writing: Array, size: Array) -> Array:
        """Seconds of a step of exp(size) rows on each worker."""
        index = np.arange(self.num)
        left = np.clip((self.sizes < size[:, None]).sum(1) - 1, 0, len(SHARES) - 2)
        x0, x1 = self.sizes[index, left], self.sizes[index, left + 1]
        y0, y1 = writing[index, left], writing[index, left + 1]
        wide = np.maximum(x1 - x0, 1e-9)
        share = np.where(x1 > x0, np.clip((size - x0) / wide, 0.0, 1.0), 1.0)
        return np.asarray(np.exp(y0 + share * (y1 - y0)))


@dataclass(frozen=True, slots=True)
class Solved:
    """Arrays over the cases, in seconds. delta: what a prompt adds; step: of rows that decode."""

    tpot: Array
    ttft: Array
    rows: Array
    requests_per_second: Array
    delta: Array
    step: Array


def closed_loop(case: Case) -> Steady:
    """RidgelineError if there is nothing to serve."""
    load = case.load
    if load.concurrency < 1 or load.input_tokens < 1 or load.output_tokens < 1:
        raise RidgelineError(
            f"a load of {load.concurrency:g} requests of {load.input_tokens:g} and "
            f"{load.output_tokens:g} tokens: each must be 1 or more"
        )
    cases = Cases((case,))
    profile = case.deployment.profile
    solved = cases.solve(profile)
    tpot, ttft, rate = (float(x[0]) for x in (solved.tpot, solved.ttft, solved.requests_per_second))
    return Steady(
        _around(ttft, profile.spread_ttft),
        _around(tpot, profile.spread),
        rate * load.output_tokens,
        rate,
        float(solved.rows[0]),
        float(cases.limit[0]),
    )


def most_requests_per_second(case: Case, limit: float = 65536.0) -> Steady:
    """The steady state with as many requests in flight as caches have room for: the knee, beyond
    which more of them only wait.
    """
    load = case.load
    context = load.input_tokens + load.output_tokens / 2
    room = case.deployment.room.rows(context) * case.deployment.mesh.dp * case.workers
    load = replace(load, concurrency=max(1.0, min(limit, room)))
    return closed_loop(replace(case, load=load))


def open_loop(case: Case, requests_per_second: float) -> Steady | None:
    """Arrivals at a mean rate (Poisson): the closed loop of as many in flight as that rate keeps,
    and the wait for others' prompts before one's own; None if the deployment cannot keep up.
    """
    if requests_per_second <= 0:
        raise RidgelineError(
            f"a rate of {requests_per_second:g} requests a second: give one above 0"
        )
    low, high = 1.0, 65536.0

    def at(concurrency: float) -> Steady:
        return closed_loop(replace(case, load=replace(case.load, concurrency=concurrency)))

    if at(high).requests_per_second < requests_per_second:
        return None
    for _ in range(40):
        middle = (low * high) ** 0.5
        if at(middle).requests_per_second < requests_per_second:
            low = middle
        else:
            high = middle
    found = at(high)
    solved = Cases((case,)).solve(case.deployment.profile)
    busy = min(0.98, requests_per_second * float(solved.delta[0]))
    wait = busy / (2.0 * (1.0 - busy)) * float(solved.delta[0])
    ttft = _around(found.ttft.value + wait, case.deployment.profile.spread_ttft)
    return replace(found, ttft=ttft)


def _around(value: float, spread: float) -> Interval:
    return Interval(value, value / exp(spread), value * exp(spread))
