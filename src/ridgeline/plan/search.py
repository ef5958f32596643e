"""Which precision, parallelism, replicas and batch serve a load at the least cost.

Every candidate is a `Deployment` and as many requests in flight as its caches have room for, solved
in closed form (steady.py), thousands at once. Memory first: what does not fit is not priced; then
the SLO; then cost. Whole groups of accelerators are counted, as they are rented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf, log

from ridgeline.cost.accelerator import PAID_CLASSES, Accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.deployment import Deployment, deploy
from ridgeline.cost.described import describe
from ridgeline.errors import CapacityError, RequestError, RidgelineError
from ridgeline.model.graph.ops import Experts
from ridgeline.plan.deployed import PRECISIONS
from ridgeline.plan.steady import Case, Cases, Load
from ridgeline.step import StepShape
from ridgeline.units import format_bytes

IN_FLIGHT = tuple(sorted({round(2 ** (i / 2)) for i in range(25)}))
SPLITS = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 5), (5, 3), (3, 5))
MTOK = 1e6


@dataclass(frozen=True, slots=True)
class Asked:
    """rate: requests/s; None: as many as the SLO allows. ttft, itl: seconds, of the first token and
    of the mean of later ones; None: any. percentile: of 100 requests, so many must keep `ttft`.
    count: accelerators at most. max_usd_per_hour: of the whole.
    """

    input_tokens: int
    output_tokens: int
    count: int
    rate: float | None = None
    ttft: float | None = None
    itl: float | None = None
    percentile: float = 90.0
    max_usd_per_hour: float | None = None
    precisions: tuple[str, ...] = ("bf16", "fp8", "nvfp4", "int4")
    kv: tuple[str, ...] = ("bf16", "fp8")
    engine: str = "vllm"
    price_class: str | None = None

    def check(self) -> None:
        for option, value in (("--input", self.input_tokens), ("--output", self.output_tokens)):
            if not 1 <= value <= 1 << 22:
                raise RequestError(option, f"{value} is not 1 to {1 << 22} tokens")
        if not 1 <= self.count <= 4096:
            raise RequestError("--count", f"{self.count} is not 1 to 4096 accelerators")
        if self.rate is not None and not 0 < self.rate < 1e9:
            raise RequestError("--rate", f"{self.rate:g} requests a second: give one above 0")


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to serve. gpus: of all replicas. in_flight: requests at a time, of one replica.
    rate: requests/s that it is run at; most_rate: that it could within the SLO. within: share of
    the requests whose first token keeps it. Seconds with 80 % intervals as factors `spread_*`.
    usd_per_hour: least and most; None: no price is known.
    """

    accelerator: Accelerator
    deployment: Deployment
    precision: str
    kv: str
    prefill_workers: int
    workers: int
    replicas: int
    gpus: int
    in_flight: float
    limit: float
    rate: float
    most_rate: float
    ttft_p50: float
    ttft_p99: float
    within: float
    tpot: float
    delta: float
    spread: float
    spread_ttft: float
    usd_per_hour: tuple[float, float, str] | None
    binds: str
    input_tokens: int
    output_tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.rate * self.output_tokens

    @property
    def watts(self) -> float | None:
        figure = self.accelerator.watts
        return None if figure is None else figure.value * self.gpus

    @property
    def joules_per_token(self) -> float | None:
        """Of output, at the power that is provisioned: an upper bound."""
        return None if self.watts is None else self.watts / self.tokens_per_second

    @property
    def prompts_share(self) -> float:
        """Of the time that computing takes, what prompts take; apart, what their workers are."""
        if self.prefill_workers:
            return self.prefill_workers / (self.prefill_workers + self.workers)
        per_request = self.output_tokens * self.tpot / max(1.0, self.in_flight)
        return min(1.0, self.delta / max(self.delta, per_request))

    def usd_per_mtok(self, what: str) -> tuple[float, float] | None:
        """Least and most, of "output" (all cost on it), "input" and "generated" (cost parted by
        the time that each takes), or "total" tokens.
        """
        if self.usd_per_hour is None:
            return None
        low, high, _date = self.usd_per_hour
        tokens = {
            "output": (1.0, self.output_tokens),
            "total": (1.0, self.input_tokens + self.output_tokens),
            "input": (self.prompts_share, self.input_tokens),
            "generated": (1.0 - self.prompts_share, self.output_tokens),
        }
        share, count = tokens[what]
        scale = share * MTOK / (3600.0 * self.rate * count)
        return low * scale, high * scale

    @property
    def name(self) -> str:
        split = f" {self.prefill_workers}P:{self.workers}D" if self.prefill_workers else ""
        copies = f" x {self.replicas}" if self.replicas > 1 else ""
        return f"{self.precision}/{self.kv} {self.deployment.mesh}{split}{copies}"


@dataclass(frozen=True, slots=True)
class Searched:
    """ranked: those that keep the SLO at the rate, the cheapest first. front: of these and of all
    that fit, those that nothing beats in both ITL and cost of output. best_ttft, best_itl: seconds
    of the nearest, where nothing keeps it. too_dear: USD an hour of the cheapest that keeps it, and
    costs more than was allowed. num_priced, num_fitting: candidates.
    """

    ranked: tuple[Choice, ...]
    front: tuple[Choice, ...]
    best_ttft: float
    best_itl: float
    num_priced: int
    num_fitting: int
    too_large: str
    too_dear: float = inf


def search(
    config: Mapping[str, object], accelerators: Sequence[Accelerator], asked: Asked
) -> Searched:
    """RequestError and CapacityError say in one line what nobody can do, and what could be had."""
    asked.check()
    deployments, too_large = _deployments(config, accelerators, asked)
    if not deployments:
        raise CapacityError(too_large or "there is nothing to search")
    cases: list[Case] = []
    keys: list[tuple[int, int, int]] = []
    for index, (_a, _p, _kv, d) in enumerate(deployments):
        copies = asked.count // d.mesh.gpus
        limit = d.room.rows(asked.input_tokens + asked.output_tokens) * d.mesh.dp
        for concurrency in IN_FLIGHT:
            if concurrency > limit:
                break
            load = Load(concurrency, asked.input_tokens, asked.output_tokens)
            cases.append(Case(d, load))
            keys.append((index, 0, 1))
            for p, w in SPLITS if concurrency >= 4 else ():
                if p + w <= copies:
                    whole = replace(load, concurrency=float(concurrency * w))
                    cases.append(Case(d, whole, prefill=d, prefill_workers=p, workers=w))
                    keys.append((index, p, w))
    solved = Cases(cases).solve(deployments[0][3].profile)
    # Open arrivals have no burst with which a measurement begins: TTFT without its wave.
    profile = deployments[0][3].profile
    floor, prompts, steps = (
        profile[f"ttft.{n}.{asked.engine}"] for n in ("floor", "prompts", "steps")
    )
    points: dict[tuple[int, int, int], list[_Point]] = {}
    for i, key in enumerate(keys):
        point = _Point(
            cases[i].load.concurrency,
            float(solved.requests_per_second[i]),
            floor + prompts * float(solved.delta[i]) + steps * float(solved.step[i]),
            float(solved.tpot[i]),
            float(solved.delta[i]),
        )
        points.setdefault(key, []).append(point)
    ranked, fitting = [], []
    best_ttft = best_itl = too_dear = inf
    for (index, p, w), of in points.items():
        accelerator, precision, kv, d = deployments[index]
        gpus = d.mesh.gpus * (p + w)
        most = asked.count // gpus
        for point in of:
            best_ttft, best_itl = min(best_ttft, point.ttft), min(best_itl, point.tpot)
            made = _choice(asked, accelerator, precision, kv, d, (p, w), point, most)
            fitting.append(made)
        found = _operated(asked, of, p, most)
        if found is None:
            continue
        point, replicas, rate, capacity = found
        made = _choice(asked, accelerator, precision, kv, d, (p, w), point, replicas, rate)
        paid = made.usd_per_hour
        if asked.max_usd_per_hour is not None and paid and paid[0] > asked.max_usd_per_hour:
            too_dear = min(too_dear, paid[0])
            continue
        ranked.append(replace(made, most_rate=capacity * replicas))
    ranked.sort(key=_rank)
    return Searched(
        tuple(ranked),
        _front(fitting),
        best_ttft,
        best_itl,
        len(cases),
        len(deployments),
        too_large,
        too_dear,
    )


@dataclass(frozen=True, slots=True)
class _Point:
    in_flight: float
    rate: float
    ttft: float
    tpot: float
    delta: float


def _queue(point: _Point, rate: float, readers: int) -> tuple[float, float]:
    """How busy who computes prompts is, and the mean wait, in seconds, of those who find them so:
    a queue of even jobs (M/D/1, its tail taken for exponential). Infinite where it never ends.
    """
    busy = rate * point.delta / max(1, readers)
    if busy >= 1:
        return 1.0, inf
    return busy, point.delta / max(1, readers) / (2.0 * (1.0 - busy))


def _wait(point: _Point, rate: float, readers: int, percentile: float) -> float:
    """Seconds that others' prompts are waited for: more by nobody but 100 - percentile of 100."""
    busy, mean = _queue(point, rate, readers)
    if mean == inf:
        return inf
    return max(0.0, log(max(busy, 1e-12) / (1.0 - percentile / 100.0))) * mean


def _share_within(asked: Asked, point: _Point, rate: float, readers: int) -> float:
    """Of the requests, those whose first token keeps `asked.ttft`."""
    if asked.ttft is None:
        return 1.0
    spare = asked.ttft - point.ttft
    if spare < 0:
        return 0.0
    busy, mean = _queue(point, rate, readers)
    return 0.0 if mean == inf else 1.0 - busy * exp(-spare / mean)


# Of a point's greatest rate: at less of it, the wait for others' prompts is shorter.
FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def _operated(
    asked: Asked, points: Sequence[_Point], readers: int, most: int
) -> tuple[_Point, int, float, float] | None:
    """How it is run so that it keeps the SLO: at which point, by how many replicas, each one's
    requests/s, and the most that one could; None: no way with `most` replicas.

    At a rate, so many are in flight as that rate keeps: the first point that reaches it.
    """

    def at(rate: float) -> _Point | None:
        reaching = [q for q in points if q.rate >= rate]
        point = min(reaching, key=lambda q: q.rate, default=None)
        return point if point is not None and _keeps(asked, point, rate, readers) else None

    rates = sorted({f * q.rate for q in points for f in FRACTIONS}, reverse=True)
    capacity = next((rate for rate in rates if at(rate) is not None), None)
    if capacity is None or most < 1:
        return None
    if asked.rate is None:
        replicas, rate = most, capacity
    else:
        replicas = ceil(asked.rate / capacity * (1 - 1e-9))
        if replicas > most:
            return None
        rate = asked.rate / replicas
    point = at(rate)
    return None if point is None else (point, replicas, rate, capacity)


def _keeps(asked: Asked, point: _Point, rate: float, readers: int) -> bool:
    late = point.ttft + _wait(point, rate, readers, asked.percentile)
    return not (
        (asked.ttft is not None and late > asked.ttft)
        or (asked.itl is not None and point.tpot > asked.itl)
    )


def _choice(
    asked: Asked, accelerator: Accelerator, precision: str, kv: str, d: Deployment,
    split: tuple[int, int], point: _Point, replicas: int, rate: float | None = None,
) -> Choice:  # fmt: skip
    """rate: of one replica, where it is less than the point's."""
    p, w = split
    at = point.rate if rate is None else rate
    median, late = (_wait(point, at, p, percentile) for percentile in (50.0, 99.0))
    gpus = d.mesh.gpus * (p + w) * replicas
    context = asked.input_tokens + asked.output_tokens // 2
    rows = max(1, round(point.in_flight / w))
    return Choice(
        accelerator=accelerator,
        deployment=d,
        precision=precision,
        kv=kv,
        prefill_workers=p,
        workers=w,
        replicas=replicas,
        gpus=gpus,
        in_flight=point.in_flight,
        limit=d.room.rows(asked.input_tokens + asked.output_tokens) * d.mesh.dp * w,
        rate=at * replicas,
        most_rate=point.rate * replicas,
        ttft_p50=point.ttft + median,
        ttft_p99=point.ttft + late,
        within=_share_within(asked, point, at, p),
        tpot=point.tpot,
        delta=point.delta,
        spread=exp(d.profile.spread),
        spread_ttft=exp(d.profile.spread_ttft),
        usd_per_hour=price_of(accelerator, gpus, asked.price_class),
        binds=d.step_seconds(StepShape.decode(rows, context)).binds if rate is not None else "",
        input_tokens=asked.input_tokens,
        output_tokens=asked.output_tokens,
    )


def price_of(
    accelerator: Accelerator, gpus: int, price_class: str | None
) -> tuple[float, float, str] | None:
    """USD an hour from the least to the most of a class, or of all classes that one pays."""
    classes = (price_class,) if price_class else PAID_CLASSES
    found = [r for r in (accelerator.price_range(name) for name in classes) if r is not None]
    if not found:
        return None
    return (
        gpus * min(r[0] for r in found),
        gpus * max(r[1] for r in found),
        max(r[2] for r in found),
    )


def _rank(choice: Choice) -> tuple[float, float, float]:
    cost = choice.usd_per_mtok("output")
    return (cost[0] if cost else inf, choice.gpus / choice.most_rate, choice.tpot)


def _front(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Of ITL and cost of output tokens (GPU time where no price is known)."""

    def cost(choice: Choice) -> float:
        paid = choice.usd_per_mtok("output")
        return paid[0] if paid else choice.gpus / choice.tokens_per_second

    front: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.tpot, cost(c))):
        if not front or cost(choice) < cost(front[-1]) * 0.995:
            front.append(choice)
    return tuple(front)


def _deployments(
    config: Mapping[str, object], accelerators: Sequence[Accelerator], asked: Asked
) -> tuple[list[tuple[Accelerator, str, str, Deployment]], str]:
    """All that fit with one row of the load, and why the nearest one did not."""
    found: list[tuple[Accelerator, str, str, Deployment]] = []
    nearest, told = inf, ""
    for precision in asked.precisions:
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise RequestError("--precision", f"{precision!r}; there are: {known}")
        for kv in asked.kv:
            described = describe(config, PRECISIONS[precision], kv=kv)
            mixture = any(isinstance(node.op, Experts) for node in described.graph.nodes)
            for accelerator in accelerators:
                chip = accelerator.chip()
                for mesh in meshes(accelerator, asked.count, mixture):
                    try:
                        d = deploy(described, chip=chip, mesh=mesh, engine=asked.engine)
                    except CapacityError:
                        continue
                    except RidgelineError:
                        if mesh.gpus == 1:
                            raise
                        continue
                    context = asked.input_tokens + asked.output_tokens
                    needed = d.room.weight_bytes + d.room.value_bytes + d.room.row_bytes(context)
                    if needed <= d.room.usable:
                        found.append((accelerator, precision, kv, d))
                    elif needed / d.room.usable < nearest:
                        nearest = needed / d.room.usable
                        told = (
                            f"nothing fits on {asked.count} x {accelerator.name}: the nearest is "
                            f"{precision} with {kv} KV on {mesh.gpus}, where one request of "
                            f"{context} tokens needs {format_bytes(needed)} of a rank's "
                            f"{format_bytes(d.room.usable)}; take --count "
                            f"{ceil(mesh.gpus * nearest)} or more"
                        )
    return found, told


def meshes(accelerator: Accelerator, count: int, mixture: bool) -> list[Mesh]:
    """Powers of two within the scale-up domain; of a mixture also rows apart, experts parted."""
    found = []
    ways = [2**i for i in range(7) if 2**i <= count]
    domain = max(1, accelerator.domain)
    for tp in [n for n in ways if n <= min(16, max(domain, 8))]:
        found += [Mesh(tp=tp, pp=pp) for pp in (1, 2, 4) if tp * pp <= count]
        if mixture and tp <= 8:
            if 1 < tp <= domain:
                found.append(Mesh(tp=tp, ep=tp))
            apart = [n for n in (*ways, 72) if n > 1 and tp * n <= min(count, domain)]
            found += [Mesh(tp=tp, dp=dp, ep=tp * dp) for dp in apart]
    return found
