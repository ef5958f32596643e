"""Which precision, parallelism, replicas, batch and chunk serve a load at the least cost.

Every candidate is a `Deployment` and as many requests in flight as its caches have room for, solved
in closed form (steady.py, queue.py), thousands at once. Memory first: what does not fit is not
priced; then the SLO; then cost. Whole groups of accelerators are counted, as they are rented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf

from ridgeline.cost.accelerator import Accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.deployment import Deployment, Parted, deploy
from ridgeline.cost.described import Described, describe
from ridgeline.cost.steps import uniform_steps
from ridgeline.errors import CapacityError, RequestError, RidgelineError
from ridgeline.model.graph.ops import Experts
from ridgeline.plan.choice import Asked, Choice, price_of
from ridgeline.plan.degrees import divides
from ridgeline.plan.deployed import PRECISIONS
from ridgeline.plan.operating import Point, operated
from ridgeline.plan.steady import Case, Load, solve_many
from ridgeline.step import StepShape
from ridgeline.units import format_bytes

WAYS = tuple(2**i for i in range(7))
IN_FLIGHT = tuple(sorted({round(2 ** (i / 2)) for i in range(25)}))
SPLITS = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 5), (5, 3), (3, 5))
_LAYER = re.compile(r"layers\.(\d+)\.")
_DRAFTED_ROWS = 16  # at which a draft model's step is held against the model's


@dataclass(frozen=True, slots=True)
class Searched:
    """ranked: those that keep the SLO at the rate, the cheapest first. front: of these and of all
    that fit, those that nothing beats in both ITL and cost of output. best_ttft, best_itl,
    best_gap: seconds of the nearest, where nothing keeps it. too_dear: USD an hour of the cheapest
    that keeps it, and costs more than was allowed. num_priced, num_fitting: candidates.
    """

    ranked: tuple[Choice, ...]
    front: tuple[Choice, ...]
    best_ttft: float
    best_itl: float
    num_priced: int
    num_fitting: int
    too_large: str
    too_dear: float = inf
    best_gap: float = inf


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is laid out, before it is known how many it serves."""

    accelerator: Accelerator
    precision: str
    kv: str
    described: Described
    deployment: Deployment


# Of a layout (by index): workers for prompts (0: together), for answers, chunk, drafts.
_Key = tuple[int, int, int, int, int]


def search(
    config: Mapping[str, object], accelerators: Sequence[Accelerator], asked: Asked
) -> Searched:
    """RequestError and CapacityError say in one line what nobody can do, and what could be had."""
    asked.check()
    layouts, too_large = _layouts(config, accelerators, asked)
    if not layouts:
        raise CapacityError(too_large or "there is nothing to search")
    cases, keys = _cases(layouts, asked)
    profile = layouts[0].deployment.profile
    solved = solve_many(cases, profile)
    floor = profile[f"ttft.floor.{layouts[0].deployment.era}"]
    handover = profile["ttft.handover"]
    points: dict[_Key, list[Point]] = {}
    for i, key in enumerate(keys):
        case = cases[i]
        _index, p, w, chunk, _drafts = key
        groups = max(1, min(case.deployment.mesh.dp, int(case.load.concurrency)))
        delta, step = float(solved.delta[i]), float(solved.step[i])
        point = Point(
            in_flight=case.load.concurrency,
            rate=float(solved.requests_per_second[i]),
            # Prompts of other groups are computed at the same time, one's own takes all of its own.
            first=floor + (handover if p else step) + groups * delta,
            tpot=float(solved.tpot[i]),
            delta=delta,
            step=step,
            chunks=case.load.chunks,
            batch=groups
            * (chunk - (0 if p else case.load.concurrency / groups))
            / asked.input_tokens,
            readers=p,
            draft_share=case.load.draft_share,
        )
        points.setdefault(key, []).append(point)
    ranked, fitting = [], []
    best_ttft = best_itl = best_gap = too_dear = inf
    for key, of in points.items():
        index, p, w, _chunk, _drafts = key
        layout = layouts[index]
        most = asked.count // (layout.deployment.mesh.gpus * (p + w))
        for point in of:
            best_ttft, best_itl = min(best_ttft, point.first), min(best_itl, point.tpot)
            best_gap = min(best_gap, point.gap(0.3 * point.rate))
            fitting.append(_choice(asked, layout, key, point, most))
        found = operated(asked, of, most)
        if found is None:
            continue
        point, replicas, rate, capacity = found
        made = _choice(asked, layout, key, point, replicas, rate)
        paid = made.usd_per_hour
        if asked.max_usd_per_hour is not None and paid and paid[0] > asked.max_usd_per_hour:
            too_dear = min(too_dear, paid[0])
            continue
        ranked.append(replace(made, most_rate=capacity * replicas))
    ranked.sort(key=rank)
    return Searched(
        tuple(ranked),
        _front(fitting),
        best_ttft,
        best_itl,
        len(cases),
        len(layouts),
        too_large,
        too_dear,
        best_gap,
    )


def _cases(layouts: Sequence[_Layout], asked: Asked) -> tuple[list[Case], list[_Key]]:
    cases: list[Case] = []
    keys: list[_Key] = []
    for index, layout in enumerate(layouts):
        d = layout.deployment
        copies = asked.count // d.mesh.gpus
        limit = d.room.rows(asked.input_tokens + asked.output_tokens) * d.mesh.dp
        proposing = _draft_share(layout, asked) if any(asked.drafts) else 0.0
        for drafts in asked.drafts:
            share = proposing if drafts else 0.0
            acceptance = asked.drafter.acceptance if asked.drafter else 0.0
            for concurrency in IN_FLIGHT:
                if concurrency > limit:
                    break
                load = Load(
                    concurrency, asked.input_tokens, asked.output_tokens,
                    drafts=drafts, acceptance=acceptance, draft_share=share,
                )  # fmt: skip
                for chunk in asked.chunks:
                    # Answers go first: what they leave of a step must bring a prompt on.
                    left = chunk - concurrency * (1 + drafts) / d.mesh.dp
                    if left >= min(chunk / 4, asked.input_tokens):
                        cases.append(Case(d, replace(load, chunk=left)))
                        keys.append((index, 0, 1, chunk, drafts))
                chunk = max(asked.chunks)  # of prompts alone, which keep nobody waiting
                for p, w in SPLITS if concurrency >= 4 and d.chip.nic_bytes_per_second else ():
                    if p + w <= copies:
                        whole = replace(load, concurrency=float(concurrency * w), chunk=chunk)
                        cases.append(Case(d, whole, prefill=d, prefill_workers=p, workers=w))
                        keys.append((index, p, w, chunk, drafts))
    return cases, keys


def _draft_share(layout: _Layout, asked: Asked) -> float:
    """Of a step of answers, what proposing one token takes: a predictor is a layer of the model
    (and its own output matrix, which is left out), a draft model steps on the same ranks.
    """
    drafter, d = asked.drafter, layout.deployment
    if drafter is None or drafter.method == "ngram":
        return 0.0
    if drafter.described is None:
        layers = {m[1] for n in layout.described.graph.nodes if (m := _LAYER.match(n.name))}
        return 1.0 / max(1, len(layers))
    small = deploy(
        drafter.described, chip=d.chip, mesh=Mesh(tp=d.mesh.tp), engine=d.engine,
        version=d.version, profile=d.profile,
    )  # fmt: skip
    context = asked.input_tokens + asked.output_tokens / 2

    def step(of: Deployment) -> float:
        steps = uniform_steps(of.windows, decode=float(_DRAFTED_ROWS), context=context)
        return float(of.price(steps)[0])

    return step(small) / step(d)


def _choice(
    asked: Asked, layout: _Layout, key: _Key, point: Point, replicas: int, rate: float | None = None
) -> Choice:
    """rate: of one replica, where it is less than the point's."""
    _index, p, w, chunk, drafts = key
    d, accelerator = layout.deployment, layout.accelerator
    at = point.rate if rate is None else rate
    queue = point.queue(at, replicas)
    gpus = d.mesh.gpus * (p + w) * replicas
    context = asked.input_tokens + asked.output_tokens // 2
    rows = max(1, round(point.in_flight / w))
    of_itl, of_ttft = d.profile.spreads(apart=p > 0)
    return Choice(
        accelerator=accelerator,
        deployment=d,
        precision=layout.precision,
        kv=layout.kv,
        prefill_workers=p,
        workers=w,
        replicas=replicas,
        gpus=gpus,
        in_flight=point.in_flight,
        limit=d.room.rows(asked.input_tokens + asked.output_tokens) * d.mesh.dp * w,
        rate=at * replicas,
        most_rate=point.rate * replicas,
        ttft_p50=point.first + (0.0 if rate is None else queue.wait(0.5)),
        ttft_p99=point.first + (0.0 if rate is None else queue.wait(0.99)),
        within=1.0 if asked.ttft is None else queue.within(asked.ttft - point.first),
        tpot=point.tpot,
        delta=point.delta,
        request_seconds=1.0 / point.rate,
        spread=exp(of_itl),
        spread_ttft=exp(of_ttft),
        usd_per_hour=price_of(accelerator, gpus, asked.price_class),
        binds=d.step_seconds(StepShape.decode(rows, context)).binds if rate is not None else "",
        input_tokens=asked.input_tokens,
        output_tokens=asked.output_tokens,
        chunk=chunk,
        drafts=drafts,
        draft_share=point.draft_share,
        drafter=asked.drafter if drafts else None,
        gap_p99=point.gap(at) if rate is not None else point.step,
        described=layout.described,
    )


def rank(choice: Choice) -> tuple[float, float, float, float]:
    """By cost, by the time of accelerators where no price is known, and by room for more; by ITL of
    those that are told alike. What differs in a last bit, as sums do from one CPU to the next, is
    no reason.
    """
    cost = choice.usd_per_mtok("output")
    room = choice.gpus / choice.most_rate
    return (_told(cost[0] if cost else inf), _told(choice.hours_per_mtok), _told(room), choice.tpot)


def _told(figure: float) -> float:
    """As tables have it."""
    return float(f"{figure:.3g}")


def _front(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Of ITL and cost of output tokens; of their accelerators' time, if none has a price."""
    priced = [choice for choice in choices if choice.usd_per_hour is not None]

    def cost(choice: Choice) -> float:
        paid = choice.usd_per_mtok("output")
        return paid[0] if paid else choice.hours_per_mtok

    front: list[Choice] = []
    for choice in sorted(priced or choices, key=lambda c: (c.tpot, cost(c))):
        if not front or cost(choice) < cost(front[-1]) * 0.995:
            front.append(choice)
    return tuple(front)


def _layouts(
    config: Mapping[str, object], accelerators: Sequence[Accelerator], asked: Asked
) -> tuple[list[_Layout], str]:
    """All that fit with one row of the load, and why the nearest one did not."""
    found: list[_Layout] = []
    nearest, told = inf, ""
    for precision in asked.precisions:
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise RequestError("--precision", f"{precision!r}; there are: {known}")
        for kv in asked.kv:
            described = describe(config, PRECISIONS[precision], kv=kv)
            longest = asked.input_tokens + asked.output_tokens
            if longest > described.graph.max_context:
                raise RequestError(
                    "--input",
                    f"{longest} tokens with the answer; {described.graph.name} is made for "
                    f"{described.graph.max_context}",
                )
            whole_heads = {ways: divides(described.graph, ways) for ways in WAYS}
            mixture = any(isinstance(node.op, Experts) for node in described.graph.nodes)
            parted: dict[tuple[int, int], Parted] = {}
            for accelerator in accelerators:
                chip = accelerator.chip()
                for mesh in meshes(accelerator, asked.count, mixture):
                    if not whole_heads[mesh.tp] or (mesh.gpus > 1 and not chip.is_joined):
                        continue
                    try:
                        d = deploy(
                            described, chip=chip, mesh=mesh, engine=asked.engine,
                            version=asked.version, profile=asked.profile, parted=parted,
                        )  # fmt: skip
                    except CapacityError:
                        continue
                    except RidgelineError:
                        if mesh.gpus == 1:
                            raise
                        continue
                    context = asked.input_tokens + asked.output_tokens
                    needed = d.room.weight_bytes + d.room.value_bytes + d.room.row_bytes(context)
                    if needed <= d.room.usable:
                        found.append(_Layout(accelerator, precision, kv, described, d))
                    elif needed / d.room.usable < nearest:
                        nearest = needed / d.room.usable
                        more = (
                            f"take --count {ceil(mesh.gpus * nearest)} or more"
                            if chip.is_joined
                            else "no link that would join several is known"
                        )
                        told = (
                            f"nothing fits on {asked.count} x {accelerator.name}: the nearest is "
                            f"{precision} with {kv} KV on {mesh.gpus}, where one request of "
                            f"{context} tokens needs {format_bytes(needed)} of a rank's "
                            f"{format_bytes(d.room.usable)}; {more}"
                        )
    return found, told


def meshes(accelerator: Accelerator, count: int, mixture: bool) -> list[Mesh]:
    """Powers of two within the scale-up domain; of a mixture also rows apart, experts parted."""
    found = []
    ways = [n for n in WAYS if n <= count]
    domain = max(1, accelerator.domain)
    for tp in [n for n in ways if n <= min(16, max(domain, 8))]:
        found += [Mesh(tp=tp, pp=pp) for pp in (1, 2, 4) if tp * pp <= count]
        if mixture and tp <= 8:
            if 1 < tp <= domain:
                found.append(Mesh(tp=tp, ep=tp))
            apart = [n for n in (*ways, 72) if n > 1 and tp * n <= min(count, domain)]
            found += [Mesh(tp=tp, dp=dp, ep=tp * dp) for dp in apart]
    return found
