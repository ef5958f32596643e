"""What a search found, told: rows of a table, reasons, a page with plots, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import floor, inf, log10

from ridgeline.cost.deployment import expert_imbalance
from ridgeline.cost.efficiency import PLACED
from ridgeline.plan.choice import Choice
from ridgeline.plan.search import Searched
from ridgeline.plan.svg import Axes, page, stacked, table
from ridgeline.units import format_bytes

HEAD = (
    "on", "GPUs", "how", "$/MTok out", "req/s of most", "TTFT p50", "80 %", "p99", "in time",
    "ITL", "80 %", "gap p99", "tok/s", "J/token", "binds",
)  # fmt: skip
WORDS = ("on", "how", "binds")


def milliseconds(seconds: float) -> str:
    """Of a wait; at a rate that just cannot be kept up with, it has no end."""
    if seconds == inf:
        return "grows"
    return f"{1e3 * seconds:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def between(seconds: float, factor: float) -> str:
    """The 80 % interval, in milliseconds."""
    if seconds == inf:
        return "-"
    low, high = 1e3 * seconds / factor, 1e3 * seconds * factor
    return f"{low:,.0f} - {high:,.0f}"


def dollars(of: tuple[float, float] | None) -> str:
    if of is None:
        return "no price"
    # Of a cent's parts one digit.
    low, high = (f"{usd:.{max(2, -floor(log10(usd))) if usd else 2}f}" for usd in of)
    return low if of[1] <= 1.005 * of[0] else f"{low} - {high}"


def cells(c: Choice) -> tuple[str, ...]:
    """Of `HEAD`: as it was simulated, or where nobody looked, by the formulas."""
    joules, seen = c.joules_per_token, c.seen
    median, late, within, itl, gap = (
        (c.ttft_p50, c.ttft_p99, c.within, c.tpot, c.gap_p99)
        if seen is None
        else (seen.ttft_p50, seen.ttft_p99, seen.within, seen.itl_p50, seen.gap_p99)
    )
    return (
        c.accelerator.name,
        str(c.gpus),
        c.name,
        dollars(c.usd_per_mtok("output")),
        f"{c.rate:.3g} of {c.most_rate:.3g}",
        milliseconds(median),
        between(median, c.spread_ttft),
        milliseconds(late),
        f"{100 * within:.1f} %" if within < 1 else "-",
        f"{1e3 * itl:.1f} ms",
        between(itl, c.spread),
        milliseconds(gap),
        f"{c.tokens_per_second:,.0f}",
        "-" if joules is None else f"{joules:.2f}",
        c.binds,
    )


def distinct(ranked: Sequence[Choice], most: int) -> list[Choice]:
    """The best of each way of being laid out: a list of one idea's variants tells little."""
    found: list[Choice] = []
    seen: set[tuple[str, str, str, int, int, int]] = set()
    for c in ranked:
        key = (
            c.accelerator.name, c.precision, str(c.deployment.mesh), c.prefill_workers, c.workers,
            c.drafts,
        )  # fmt: skip
        if key not in seen:
            seen.add(key)
            found.append(c)
    return found[:most]


def why_lost(best: Choice, other: Choice) -> str:
    """What the runner-up is worse at, in a sentence. Without prices they are ranked by the time
    that accelerators take.
    """
    mine, theirs = best.usd_per_mtok("output"), other.usd_per_mtok("output")
    worse, alike = [], "the same price"
    if mine is not None and theirs is not None:
        if theirs[0] > 1.005 * mine[0]:
            worse.append(f"{theirs[0] / mine[0] - 1:.0%} dearer")
    elif mine is not None:
        worse.append("of no known price")
    else:
        alike = "as much time of accelerators, no price being known"
        more = other.hours_per_mtok / best.hours_per_mtok - 1.0
        if more > 0.005:
            worse.append(f"{more:.0%} more time of accelerators, no price being known")
    if other.gpus > best.gpus:
        worse.append(f"{other.gpus} accelerators where {best.gpus} do")
    if not worse and other.most_rate < best.most_rate:
        worse.append(
            f"{alike}, and at most {other.most_rate:.3g} requests/s where "
            f"{best.most_rate:.3g} are had"
        )
    if not worse:
        worse.append(f"{alike}, ITL {1e3 * other.between:.1f} ms")
    better = []
    if other.between < 0.95 * best.between:
        better.append(f"ITL {1e3 * other.between:.1f} ms instead of {1e3 * best.between:.1f}")
    if other.late < 0.95 * best.late:
        better.append(
            f"TTFT p99 {milliseconds(other.late)} instead of {milliseconds(best.late)}"
            if best.late < inf
            else f"a queue that ends, TTFT p99 {milliseconds(other.late)}"
        )
    return ", ".join(worse) + (f"; it has {' and '.join(better)}" if better else "")


@dataclass(frozen=True, slots=True)
class Ledger:
    """Bytes of one rank. cache: of the requests in flight; free: for more of them."""

    weights: float
    values: float
    cache: float
    free: float
    usable: float


def ledger(c: Choice) -> Ledger:
    room = c.deployment.memory()
    context = c.input_tokens + c.output_tokens / 2
    each = c.in_flight / max(1, c.workers) / max(1, c.deployment.mesh.dp)
    cache = room.row_bytes(context) * each
    used = room.weight_bytes + room.value_bytes + cache
    return Ledger(
        room.weight_bytes, room.value_bytes, cache, max(0.0, room.usable - used), room.usable
    )


def failure_axis(c: Choice, *, has_slo: bool) -> list[tuple[str, str]]:
    """Where it breaks, and what that looks like. has_slo: one was asked for."""
    kept = "the SLO is lost" if has_slo else "the queue grows without end"
    held = "keep the SLO" if has_slo else "keep up"
    per_replica = c.most_rate / c.replicas
    found = [
        (
            "queue",
            f"above {c.most_rate:.3g} requests/s {kept} ({c.rate / c.most_rate:.0%} of it is "
            "asked)",
        ),
        (
            "cache",
            f"room for {c.limit:,.0f} requests of this length at a time in a replica, "
            f"{c.in_flight:.0f} are in flight; beyond it they wait or are computed again",
        ),
    ]
    if c.replicas > 1:
        left = per_replica * (c.replicas - 1)
        found.append(
            (
                "a replica lost",
                f"the others {held} up to {left:.3g} requests/s: "
                + ("enough" if left >= c.rate else f"not for {c.rate:.3g}"),
            )
        )
    else:
        found.append(("a rank lost", "there is one replica: nothing is served until it is back"))
    skew = expert_imbalance(c.deployment, max(1.0, c.in_flight))
    if skew > 1.0:
        placed = c.deployment.mesh.ep >= PLACED
        copies = "with copies of popular ones" if placed else "copies of popular ones help"
        found.append(("experts", f"the busiest rank computes {skew:.2f} times the mean; {copies}"))
    return found


def break_even(c: Choice, api_usd_per_mtok: float) -> str:
    """When an API at this price of output tokens is the cheaper one."""
    if c.usd_per_hour is None:
        return "no price of this accelerator is known: nothing to compare with"
    low, high, _date = c.usd_per_hour
    even = [usd * 1e6 / (3600.0 * c.output_tokens * api_usd_per_mtok) for usd in (low, high)]
    if even[0] > c.most_rate:
        return (
            f"do not host it: an API at ${api_usd_per_mtok:g}/MTok of output is cheaper even at "
            f"the {c.most_rate:.3g} requests/s that this can serve"
        )
    return (
        f"an API at ${api_usd_per_mtok:g}/MTok of output is cheaper below {even[0]:.3g} requests/s "
        f"at the least price of these accelerators, below {even[1]:.3g} at the greatest"
    )


def fields(c: Choice) -> dict[str, object]:
    """In JSON's types: seconds, bytes, USD."""
    memory = ledger(c)
    return {
        "accelerator": c.accelerator.name,
        "gpus": c.gpus,
        "replicas": c.replicas,
        "precision": c.precision,
        "kv": c.kv,
        "mesh": str(c.deployment.mesh),
        "prefill_workers": c.prefill_workers,
        "decode_workers": c.workers if c.prefill_workers else 0,
        "in_flight": c.in_flight,
        "requests_per_second": c.rate,
        "most_requests_per_second": c.most_rate,
        "most_requests_per_second_factor": c.spread,
        "ttft_p50": c.ttft_p50,
        "ttft_p99": c.ttft_p99,
        "ttft_factor": c.spread_ttft,
        "share_within_ttft": c.within,
        "itl": c.tpot,
        "itl_factor": c.spread,
        "gap_p99": c.gap_p99,
        "chunk": c.chunk,
        "rows_per_engine": c.rows,
        "drafts": c.drafts,
        "drafter": None if c.drafter is None else c.drafter.method,
        "acceptance": None if c.drafter is None else c.drafter.acceptance,
        "simulated": None if c.seen is None else asdict(c.seen),
        "output_tokens_per_second": c.tokens_per_second,
        "joules_per_token": c.joules_per_token,
        "usd_per_hour": None if c.usd_per_hour is None else list(c.usd_per_hour),
        "usd_per_mtok": {
            name: None if (paid := c.usd_per_mtok(name)) is None else list(paid)
            for name in ("output", "input", "cached_input", "generated", "total")
        },
        "binds": c.binds,
        "rank_bytes": {
            "weights": memory.weights,
            "values": memory.values,
            "cache": memory.cache,
            "free": memory.free,
            "usable": memory.usable,
        },
    }


def html(
    title: str, subtitle: str, found: Searched, shown: Sequence[Choice], roof: str = ""
) -> str:
    """One page that needs nothing beside it. roof: an SVG of the best one's step."""
    parts = [table(HEAD, [cells(c) for c in shown], words=WORDS, best=0)]
    front = [(c, c.usd_per_mtok("output")) for c in found.front]
    has_price = all(paid is not None for _, paid in front)
    if len(front) > 1:
        xs = [1e3 * c.tpot for c, _ in front]
        ys = [c.hours_per_mtok if paid is None else paid[0] for c, paid in front]
        axes = Axes(
            900, 420, (min(xs) / 1.3, max(xs) * 1.3), (min(ys) / 1.3, max(ys) * 1.3),
            log=(True, True),
        )  # fmt: skip
        axes.grid(
            "ms between an answer's tokens",
            "$ a million output tokens, at the least price"
            if has_price
            else "hours of accelerators a million output tokens; no price is known",
            lambda x: f"{x:g}",
            lambda y: f"{y:g}",
        )
        axes.polyline(list(zip(xs, ys, strict=True)), "front")
        for (c, _), x, y in zip(front, xs, ys, strict=True):
            paid = f"${y:.2f}" if has_price else f"{y:.3g} hours"
            axes.circle(x, y, 6, "#3b7dd8", f"{c.accelerator.name} {c.name}: {x:.1f} ms, {paid}")
        what = "cost" if has_price else "accelerators' time"
        parts.append(f"<h2>What nothing beats in both speed and {what}, at full load</h2>")
        parts.append(axes.element(f"Pareto front of inter-token latency and {what}"))
    bars = []
    mixed = len({c.accelerator.name for c in shown[:6]}) > 1
    for c in shown[:6]:
        m = ledger(c)
        bars.append(
            (
                f"{c.accelerator.name} {c.name}" if mixed else c.name,
                (
                    ("weights", m.weights, "#3b7dd8"),
                    ("values", m.values, "#9a6fb0"),
                    ("cache", m.cache, "#d98b2b"),
                    ("free", m.free, "#8fbf8f"),
                ),
            )
        )
    most = max((ledger(c).usable for c in shown[:6]), default=1.0)
    parts.append("<h2>A rank's memory</h2>")
    parts.append(stacked(bars, most, format_bytes(most)))
    if roof:
        parts.append("<h2>Operators of a step of answers, of the first choice</h2>")
        parts.append(roof)
    return page(title, subtitle, parts)


def nearest(found: Searched) -> str:
    """Of a search that found nothing: the best that can be had."""
    if found.too_dear < inf:
        return (
            f"what keeps it costs ${found.too_dear:,.2f} an hour at least; raise --max-cost, or "
            "loosen --slo"
        )
    return (
        f"the best first token comes after {milliseconds(found.best_ttft)}, the best ITL is "
        f"{1e3 * found.best_itl:.1f} ms, 99 of 100 gaps within "
        f"{1e3 * found.best_gap:.1f} ms (not necessarily of one configuration, nor at this rate); "
        "loosen --slo, lower --rate, or give more --count"
    )


def nearest_tried(lost: Sequence[Choice]) -> str:
    """Of choices that keep the SLO by the formulas but not in the simulator."""
    seen = [(c.seen.within, c) for c in lost if c.seen is not None]
    if not seen:
        return "none of those that formulas find can be simulated"
    within, best = max(seen, key=lambda pair: pair[0])
    return (
        f"in the simulator {best.gpus} x {best.accelerator.name} {best.name} come nearest, with "
        f"{within:.1%} of requests; loosen --slo or --slo-at, lower --rate, or give more --count"
    )
