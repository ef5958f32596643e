"""Steady serving in closed form: what a load makes of a deployment once it has settled.

Closed loop: so many requests are in flight, a new one for each that ends. While a request writes
its answer, the others' prompts are computed between its tokens, each taking `delta`; in one cycle
each of the requests in flight has its prompt computed once. So
    TPOT = step(n) / tokens a step + n delta / output,   n = in flight * answer's share of a cycle,
and TTFT is a few prompts and steps, a part of the burst with which a measurement begins, and what
waits while the cache is full. An engine that does not mix prompts with answers (SGLang) keeps
requests of equal length in step, and computes as many of their prompts at once as a step takes:
half of the others' prompts then come before the first token, the other half after it.
plan/simulate.py has the same as events. Many cases are solved at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, exp, inf

import numpy as np

from ridgeline.cost.deployment import Deployment
from ridgeline.cost.efficiency import OF_THE_HOST, Array, Pieces, Profile, piece_seconds
from ridgeline.cost.engines import ERAS
from ridgeline.cost.host import with_host
from ridgeline.cost.steps import uniform_steps
from ridgeline.errors import RidgelineError

# Steps are priced at these shares of the rows; between them, on a line in logarithms.
SHARES = np.array([0.125, 0.3, 0.6, 1.0])
_MIDDLE = 2
ROUNDS = 8
AT_ONCE = 2048
# New tokens of a step that has prompts alone (SGLang's chunked_prefill_size on most chips).
STEP_TOKENS = 8192
# Engines whose steps have prompts or answers, not both.
UNMIXED = ("sglang",)


@dataclass(frozen=True, slots=True)
class Load:
    """concurrency: requests in flight over the whole deployment. input_tokens, output_tokens: of
    each on average. varied: their lengths differ by some percent, so that requests do not stay in
    step. drafts: tokens that a predictor proposes a step; acceptance: of each, given the last;
    draft_share: of a step's time, what proposing one takes. chunk: new tokens that a step of one
    data-parallel group has at most; longer prompts take several steps. places: rows that the engine
    runs at most, over the whole deployment (--max-num-seqs, --max-running-requests); more wait.
    held: steps that an engine lets pass before it looks at a new request. together: prompts that it
    gathers meanwhile, on average, and computes at once.
    """

    concurrency: float
    input_tokens: float
    output_tokens: float
    varied: bool = True
    drafts: int = 0
    acceptance: float = 0.7
    draft_share: float = 0.0
    chunk: float = inf
    places: float = inf
    held: float = 0.0
    together: float = 1.0

    @property
    def tokens_per_step(self) -> float:
        return sum(self.acceptance**i for i in range(self.drafts + 1))

    @property
    def chunks(self) -> float:
        """Steps that a prompt takes."""
        return float(max(1, ceil(self.input_tokens / max(1.0, self.chunk))))


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
        num = len(cases)
        self.num, self.steps = num, len(SHARES) + 2
        loads = [case.load for case in cases]
        self.in_flight = np.array([load.concurrency for load in loads])
        self.output = np.array([load.output_tokens for load in loads])
        self.accepted = np.array([load.tokens_per_step for load in loads])
        self.proposing = np.array([1.0 + load.drafts * load.draft_share for load in loads])
        self.chunks = np.array([load.chunks for load in loads])
        self.held = np.array([load.held for load in loads])
        self.era = np.array([ERAS.index(c.deployment.era) for c in cases], np.intp)
        self.unmixed = np.array([c.deployment.engine in UNMIXED for c in cases])
        self.workers = np.array([float(case.workers) for case in cases])
        self.apart = np.array([case.prefill is not None for case in cases])
        self.readers = np.array(
            [float(case.prefill_workers) if case.prefill else np.inf for case in cases]
        )
        self.in_step = np.array(
            [c.deployment.engine in UNMIXED and not c.load.varied for c in cases]
        )
        self.limit, self.most = np.zeros(num), np.zeros(num)
        for index, case in enumerate(cases):
            load, d = case.load, case.deployment
            room = d.rows(load.input_tokens, load.output_tokens) * d.mesh.dp
            limit = max(1.0, min(room, load.places / case.workers))
            self.most[index] = max(1.0, min(load.concurrency / case.workers, limit))
            self.limit[index] = limit * case.workers
        # Prompts of a step: data-parallel groups compute theirs side by side.
        self.group = np.array(
            [
                float(max(1, min((c.prefill or c.deployment).mesh.dp, int(c.load.concurrency))))
                for c in cases
            ]
        )
        self.group = np.maximum(self.group, [load.together for load in loads])
        # Those in step wait together, and as many as a step has room for are computed together.
        fits = np.array([max(1.0, STEP_TOKENS // c.load.input_tokens) for c in cases])
        together = np.maximum(self.group, np.minimum(self.in_flight, fits))
        self.group = np.where(self.in_step, together, self.group)
        self.rows = np.zeros((num, self.steps))
        self.eager = np.zeros((num, self.steps))
        self.pieces = self._pieces(cases)
        self._known: tuple[tuple[float, ...], Array] | None = None
        self.sizes = np.log(np.maximum(1.0, self.most[:, None] * SHARES[None, :]))

    def _pieces(self, cases: Sequence[Case]) -> Pieces:
        """Steps of answers at `SHARES`, one with a prompt beside answers and one of it alone."""
        alike: dict[tuple[int, int], list[int]] = {}
        for index, case in enumerate(cases):
            alike.setdefault((id(case.deployment), id(case.prefill)), []).append(index)
        parts: list[Pieces] = []
        sizes: list[int] = []
        places: list[Array] = []  # of each step, in a table of (case, step)
        shares = len(SHARES)
        for indices in alike.values():
            of = np.array(indices)
            deployment = cases[indices[0]].deployment
            at = cases[indices[0]].prefill or deployment
            loads = [cases[index].load for index in indices]
            prompts = np.array([load.input_tokens for load in loads])
            context = prompts + np.array([load.output_tokens for load in loads]) / 2
            drafts = np.array([float(load.drafts) for load in loads])
            tokens = prompts / self.chunks[of]
            decode = np.maximum(1.0, self.most[of][:, None] * SHARES[None, :])
            apart = self.apart[of]
            beside = np.where(apart, 0.0, np.maximum(1.0, self.most[of] * SHARES[_MIDDLE]))
            both = np.stack([beside, np.zeros(len(of))], 1)
            writing = uniform_steps(
                deployment.windows,
                decode=decode.ravel(),
                context=context.repeat(shares),
                drafts=drafts.repeat(shares),
            )
            reading = uniform_steps(
                at.windows,
                decode=both.ravel(),
                context=context.repeat(2),
                drafts=drafts.repeat(2),
                prompts=self.group[of].repeat(2),
                prompt_tokens=tokens.repeat(2),
                prompt_context=((prompts - tokens) / 2).repeat(2),
            )
            parts += [deployment.pieces(writing), at.pieces(reading)]
            sizes += [shares * len(of), 2 * len(of)]
            table = of[:, None] * self.steps + np.arange(self.steps)[None, :]
            places += [table[:, :shares].ravel(), table[:, shares:].ravel()]
            read = (both + self.group[of][:, None]) / at.mesh.dp
            self.rows[of] = (
                np.concatenate([decode / deployment.mesh.dp, read], 1) / deployment.mesh.pp
            )
            self.eager[of] = np.concatenate(
                [
                    deployment.eager(writing).reshape(-1, shares),
                    at.eager(reading).reshape(-1, 2),
                ],
                1,
            )
        joined = Pieces.joined(parts, sizes)
        return replace(joined, steps=np.concatenate(places)[joined.steps])

    def solve(self, profile: Profile) -> Solved:
        device = self._device_seconds(profile)
        seconds = np.empty_like(device)
        for index, era in enumerate(ERAS):
            of = self.era == index
            if of.any():
                seconds[of] = with_host(device[of], self.rows[of], self.eager[of], era, profile)
        writing = np.log(seconds[:, : len(SHARES)] * self.proposing[:, None])
        each = self.chunks / self.group
        alone = seconds[:, -1] * each
        mixed = np.maximum(seconds[:, -2] - seconds[:, _MIDDLE], 1e-6) * each
        delta = np.where(self.unmixed | self.apart, alone, mixed)
        floor, prompts, steps, wave = (
            profile.table(f"ttft.{name}", ERAS)[self.era]
            for name in ("floor", "prompts", "steps", "wave")
        )
        floor = floor + self.apart * profile["ttft.handover"]
        wave = np.where(self.apart, profile["ttft.burst"], wave)
        others = (self.in_flight - 1.0) / self.in_flight
        rows = self.most * self.workers
        tpot, ttft = np.ones(self.num), np.ones(self.num)
        for _ in range(ROUNDS):
            step = self._step(writing, np.log(np.maximum(1.0, rows / self.workers)))
            token = step / self.accepted
            between = np.where(self.in_step, (self.in_flight - self.group) / 2.0, rows * others)
            between = np.where(self.apart, 0.0, between)
            tpot = token + between * delta / self.output
            ttft = floor + prompts * np.maximum(alone, delta) + steps * step
            ttft = ttft + self.held * self.accepted * tpot
            ttft = ttft + wave * self.in_flight * delta / np.where(self.apart, self.readers, 1.0)
            ttft = np.where(self.in_step, (self.in_flight + self.group) / 2.0 * delta, ttft)
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

    def _device_seconds(self, profile: Profile) -> Array:
        """[cases, steps]. The last is kept: a fit asks for the same beside other host's numbers."""
        key = tuple(v for n, v in profile.values.items() if not n.startswith(OF_THE_HOST))
        if self._known is None or self._known[0] != key:
            each = piece_seconds(self.pieces, profile)
            device = np.bincount(self.pieces.steps, each, self.num * self.steps)
            self._known = (key, device.reshape(self.num, self.steps))
        return self._known[1]

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


def solve_many(cases: Sequence[Case], profile: Profile) -> Solved:
    """Any number of cases, some thousands at a time: priced all at once, 23,000 took 3 GB."""
    parts = [
        Cases(cases[first : first + AT_ONCE]).solve(profile)
        for first in range(0, max(1, len(cases)), AT_ONCE)
    ]
    return Solved(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Solved))
    )


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
    of_tpot, of_ttft = profile.spreads(apart=case.prefill is not None)
    return Steady(
        _around(ttft, of_ttft),
        _around(tpot, of_tpot),
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
    d = case.deployment
    room = d.rows(load.input_tokens, load.output_tokens) * d.mesh.dp * case.workers
    load = replace(load, concurrency=max(1.0, min(limit, room, load.places)))
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
    _of_tpot, of_ttft = case.deployment.profile.spreads(apart=case.prefill is not None)
    return replace(found, ttft=_around(found.ttft.value + wait, of_ttft))


def _around(value: float, spread: float) -> Interval:
    return Interval(value, value / exp(spread), value * exp(spread))
