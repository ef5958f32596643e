"""What is told of a simulated fleet: one mapping of plain values, from which all is printed.

The same outcome gives the same mapping, so the same load and seed the same bytes of JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

import numpy as np

from ridgeline.plan.autoscale import Scaled
from ridgeline.plan.deployed import ReplicaKind
from ridgeline.plan.fleet import Fleet, Outcome
from ridgeline.plan.knees import GOOD_SHARE, Knees
from ridgeline.plan.load import Load
from ridgeline.plan.tally import Slo

SHARES = (0.5, 0.9, 0.95, 0.99)


def summary(
    found: Outcome,
    kind: ReplicaKind,
    fleet: Fleet,
    load: Load,
    slo: Slo,
    knees: Knees | None = None,
    slo_rate: float | None = None,
) -> dict[str, object]:
    """Seconds, tokens, bytes, USD, joules; None where there is nothing to say."""
    tally, seconds = found.tally, found.seconds
    gpus = kind.gpus * fleet.replicas
    gpu_hours = gpus * seconds / 3600
    if found.scaled is not None:
        gpu_hours = kind.gpus * found.paid_seconds / 3600
    rate = found.num_requests / found.last_arrival if found.last_arrival > 0 else None
    means = found.levels.means(seconds)
    fields: dict[str, object] = {
        "model": kind.name,
        "replica": kind.machine,
        "engine": kind.engine or None,
        "replicas": fleet.replicas,
        "prefill_replicas": fleet.prefill,
        "gpus": gpus,
        "router": fleet.router,
        "policy": kind.knobs.policy,
        "load": load.words,
        "cache_tokens_per_replica": kind.cache_tokens,
        "kv_bytes_per_token": kind.kv_bytes_per_token,
        "seconds": seconds,
        "requests": {
            "asked": found.num_requests,
            "finished": tally.num_finished,
            "refused": tally.num_refused,
            "refused_for": dict(sorted(tally.refusals.items())),
            "expired": tally.num_expired,
            "moved": tally.num_moved,
            "per_second_asked": rate,
            "per_second": _per(tally.num_finished, seconds),
        },
        "slo": {name: b for name in Slo.__slots__ if (b := getattr(slo, name)) < inf},
        "good_requests": tally.num_good,
        "goodput": _per(tally.num_good, seconds),
        "good_share": _per(tally.num_good, found.num_requests),
        "ttft": _percentiles(tally.ttft),
        "itl": {
            "count": tally.gaps.total,
            **{_name(share): _told(tally.gaps.percentile(share)) for share in SHARES},
        },
        "tpot": _percentiles(tally.tpot),
        "e2e": _percentiles(tally.e2e),
        "tokens": {
            "prompt": tally.prompt_tokens,
            "cached": tally.cached_tokens,
            "output": tally.output_tokens,
            "lost": tally.num_lost_tokens,
            "output_per_second": _per(tally.output_tokens, seconds),
            "output_per_second_per_gpu": _per(tally.output_tokens, seconds * gpus),
        },
        "prefix_hit_rate": _per(tally.cached_tokens, tally.prompt_tokens),
        "preemptions": found.num_preemptions,
        "steps": found.num_steps,
        "busy": _per(found.busy_seconds, sum(found.up_seconds)),
        "busy_by_replica": [
            _per(replica.busy_seconds, up)
            for replica, up in zip(found.replicas, found.up_seconds, strict=True)
        ],
        "transfers": {
            "count": tally.num_transfers,
            "bytes": tally.transferred_bytes,
            "mean_seconds": _per(tally.transfer_seconds, tally.num_transfers),
        },
        "cost": _cost(kind, gpu_hours, tally.output_tokens, tally.prompt_tokens),
        "over_time": {"part_seconds": found.levels.width, **_by_replica(means)},
        "notes": list(kind.notes),
    }
    if found.scaled is not None:
        fields["autoscaling"] = _autoscaling(found, found.scaled, kind, fleet)
    limits = {} if knees is None else _limits(knees, rate, fleet.replicas)
    if slo_rate is not None:
        limits |= {"slo_share": GOOD_SHARE, "slo_kept_to": slo_rate}
        limits["slo_kept_to_per_gpu"] = slo_rate / gpus
    if limits:
        fields["limits"] = limits
    return fields


def _autoscaling(
    found: Outcome, scaled: Scaled, kind: ReplicaKind, fleet: Fleet
) -> dict[str, object]:
    """idle: replicas that are up and have nothing to do; starting: those that do not serve yet."""
    rule = fleet.autoscale
    assert rule is not None
    idle = sum(found.up_seconds) - found.busy_seconds
    fields: dict[str, object] = {
        "rule": rule.rule,
        "target": rule.target,
        "least": rule.least,
        "most": rule.most,
        "delay": rule.delay,
        "starts": scaled.starts,
        "stops": scaled.stops,
        "peak_replicas": scaled.peak,
        "mean_replicas": _per(found.paid_seconds, found.seconds),
        "starting_gpu_hours": kind.gpus * scaled.starting_seconds / 3600,
        "idle_gpu_hours": kind.gpus * idle / 3600,
        "gpu_hours_of_the_most": kind.gpus * rule.most * found.seconds / 3600,
    }
    if kind.usd_per_hour is not None:
        wasted = kind.gpus * (idle + scaled.starting_seconds) / 3600
        fields["idle_and_starting_usd"] = [wasted * usd for usd in kind.usd_per_hour]
    return fields


def _limits(knees: Knees, rate: float | None, replicas: int) -> dict[str, object]:
    return {
        "cache_runs_out_at": knees.cache_requests,
        "rows": knees.max_rows,
        "throughput_per_replica": knees.throughput,
        "queue_blows_up_at": knees.blow_up_rate,
        "busy_below_it": knees.blow_up_busy,
        "fleet_blows_up_at": knees.blow_up_rate * replicas,
        "replicas_that_may_be_lost": knees.lost_replicas(rate, replicas) if rate else None,
        "straggler_factor_in_turn": knees.straggle_factor(rate, replicas) if rate else None,
    }


def _cost(kind: ReplicaKind, gpu_hours: float, output: int, prompt: int) -> dict[str, object]:
    """A GPU is paid for as long as the simulation goes, lost or not, or as an autoscaler has it; it
    draws what it may at most.
    """
    if not output:
        return {}
    fields: dict[str, object] = {"gpu_hours": gpu_hours}
    if kind.usd_per_hour is not None:
        fields["usd_per_gpu_hour"] = list(kind.usd_per_hour)
        fields["usd_per_million_output"] = [
            gpu_hours * usd / output * 1e6 for usd in kind.usd_per_hour
        ]
        fields["usd_per_million_tokens"] = [
            gpu_hours * usd / (output + prompt) * 1e6 for usd in kind.usd_per_hour
        ]
    if kind.watts is not None:
        fields["joules_per_output_token_at_most"] = gpu_hours * 3600 * kind.watts / output
    return fields


def _by_replica(means: dict[str, list[float]]) -> dict[str, list[float]]:
    """Queue and running of the whole fleet; cache and busy of the replicas that are alive."""
    alive = means["alive"]

    def share(values: Sequence[float]) -> list[float]:
        return [v / a if a > 0 else 0.0 for v, a in zip(values, alive, strict=True)]

    return {
        "waiting": means["waiting"],
        "running": means["running"],
        "cache": share(means["cache"]),
        "busy": share(means["busy"]),
        "alive": alive,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float | int | None]:
    if not len(values):
        return {"count": 0}
    ordered = np.sort(np.asarray(values))
    count = len(ordered)
    at = {s: float(ordered[max(0, -int(-s * count // 1) - 1)]) for s in SHARES}
    return {
        "count": count,
        "mean": float(ordered.mean()),
        **{_name(share): value for share, value in at.items()},
        "max": float(ordered[-1]),
    }


def _name(share: float) -> str:
    return f"p{share * 100:g}"


def _told(value: float) -> float | None:
    return value if isfinite(value) else None


def _per(amount: float, of: float) -> float | None:
    return amount / of if of else None
