"""`ridgeline cache-roi`: what a prefix cache of each size would find of a recorded load."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgeline.cli.roofline import check_drawings
from ridgeline.cli.simulate import show
from ridgeline.config import Settings
from ridgeline.errors import RequestError
from ridgeline.output_files import write_output

if TYPE_CHECKING:
    from ridgeline.plan.deployed import ReplicaKind
    from ridgeline.plan.reuse import Reuse, Tier

EXAMPLES = """
Examples:

  ridgeline cache-roi --trace mooncake.jsonl

  ridgeline cache-roi --trace mooncake.jsonl --model llama-3.3-70b --on h200 --precision fp8
  --cpu-gb 1000 --ssd-gb 8000 --html cache.html

One pass over the trace is every size of cache at once (stack distances, the end of a prefix goes
first). It says what a cache could find; ridgeline simulate says what an engine does find of it.
"""

# Tokens of the caches that are shown, beside those of the tiers.
SIZES = tuple(int(m * 10**e) for e in range(3, 9) for m in (1, 2, 5))
# Of one NVMe SSD, reading in order: PCIe 4.0 x4 drives of servers state 6.5 to 7 GB/s (Samsung
# PM9A3: 6.8 GB/s, its data sheet, 2021).
SSD_GBS = 6.8


def cache_roi(
    context: typer.Context,
    trace: Annotated[Path, typer.Option(help="A load that says which prompts begin alike.")],
    model: Annotated[
        str | None, typer.Option(help="Whose cache: what bytes, seconds and dollars go by.")
    ] = None,
    on: Annotated[str, typer.Option(help="Accelerator: ridgeline roofline --list.")] = "h200",
    tp: Annotated[
        int | None, typer.Option(help="Ranks of a replica. [default: the fewest that fit]")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the weights: bf16, fp8, int4, ...")] = "bf16",
    kv: Annotated[str, typer.Option(help="Of the cache: bf16, fp8, int8, ...")] = "bf16",
    replicas: Annotated[int, typer.Option(help="That share all tiers, each its part.")] = 1,
    cpu_gb: Annotated[float, typer.Option(help="CPU memory of a replica for blocks.")] = 500.0,
    cpu_gbs: Annotated[
        float | None, typer.Option(help="GB/s from there. [default: PCIe of its GPUs]")
    ] = None,
    ssd_gb: Annotated[float, typer.Option(help="SSDs of a replica for blocks.")] = 4000.0,
    ssd_gbs: Annotated[float, typer.Option(help="GB/s from there.")] = SSD_GBS,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    html: Annotated[Path | None, typer.Option(help="One self-contained page.")] = None,
    png: Annotated[Path | None, typer.Option(help="The curve as a picture.")] = None,
) -> None:
    """Hit rate against cache size; what is saved; whether a CPU or SSD tier pays."""
    from ridgeline.plan.draw_reuse import heading, lines
    from ridgeline.plan.draw_reuse import html as page
    from ridgeline.plan.draw_reuse import png as picture
    from ridgeline.plan.reuse import measure_reuse
    from ridgeline.plan.trace_files import read_trace

    settings: Settings = context.obj
    check_drawings(html, png)
    for option, value in (
        ("--cpu-gb", cpu_gb),
        ("--ssd-gb", ssd_gb),
        ("--cpu-gbs", 1.0 if cpu_gbs is None else cpu_gbs),
        ("--ssd-gbs", ssd_gbs),
    ):
        if not 0 < value < 1e9:
            raise RequestError(option, f"{value:g} is no size or speed above 0")
    if replicas < 1:
        raise RequestError("--replicas", f"{replicas}; there is one at least")
    recorded = read_trace(trace)
    reuse = measure_reuse(recorded)
    fields = curve(trace.name, reuse)
    if model is not None:
        kind, pcie = _kind(model, on, settings, tp, precision, kv)
        speed = pcie if cpu_gbs is None else 1e9 * cpu_gbs
        if speed is None:
            raise RequestError("--cpu-gbs", f"{on} states no PCIe: say how many GB/s it has")
        fields |= priced(reuse, kind, replicas, (cpu_gb, speed), (ssd_gb, 1e9 * ssd_gbs))
    if html is not None:
        write_output(html, page(fields))
    if png is not None:
        picture(fields, png)
    if as_json:
        sys.stdout.write(json.dumps(fields, indent=1, allow_nan=False) + "\n")
        return
    show(heading(fields), lines(fields), [])


def curve(name: str, reuse: Reuse) -> dict[str, Any]:
    """The hit rate at `SIZES`, and at the size that has all that comes again."""
    all_tokens = int(reuse.distances[-1] if len(reuse.distances) else 0) * reuse.block_tokens
    sizes = [size for size in SIZES if size < all_tokens] + [all_tokens]
    return {
        "trace": name,
        "requests": reuse.num_requests,
        "prompt_tokens": reuse.prompt_tokens,
        "unique_tokens": reuse.unique_blocks * reuse.block_tokens,
        "block_tokens": reuse.block_tokens,
        "most": reuse.most,
        "curve": [
            {"tokens": size, "hit_rate": reuse.hit_rate(size // reuse.block_tokens)}
            for size in sizes
        ],
        "seconds_since_last_use": {
            f"p{share}": _percentile(reuse, share) for share in (50, 90, 99)
        },
    }


def priced(
    reuse: Reuse,
    kind: ReplicaKind,
    replicas: int,
    cpu: tuple[float, float],
    ssd: tuple[float, float],
) -> dict[str, Any]:
    """What each tier adds, in seconds of computing and in dollars of it."""
    from math import inf

    from ridgeline.plan.reuse import Tier, tier_gains
    from ridgeline.step import StepShape

    per_token = kind.kv_bytes_per_token
    tiers: list[Tier] = [Tier("cache", kind.cache_tokens * replicas, inf)]
    for name, (gigabytes, speed) in (("CPU memory", cpu), ("SSD", ssd)):
        tiers.append(Tier(name, int(1e9 * gigabytes / per_token) * replicas, speed))
    chunk = kind.knobs.step_tokens
    speed = chunk / kind.times(StepShape.prefill(chunk))
    usd = kind.usd_per_hour
    gains = []
    for gain in tier_gains(reuse, tiers, speed, per_token):
        saved = gain.saved_seconds
        gains.append(
            {
                "tier": gain.tier.name,
                "tokens": gain.tier.tokens,
                "bytes": gain.tier.tokens * per_token,
                "hit_rate_with_it": gain.hit_rate,
                "added_tokens": gain.added_tokens,
                "computing_seconds": gain.computed_seconds,
                "moving_seconds": gain.moving_seconds,
                "saved_seconds": saved,
                "saved_usd": None
                if usd is None
                else [saved * kind.gpus / 3600 * each for each in usd],
                "block_computed_seconds": reuse.block_tokens / speed,
                "block_moved_seconds": reuse.block_tokens * per_token / gain.tier.bytes_per_second,
                "break_even_bytes_per_second": gain.break_even_bytes_per_second,
                "pays": gain.pays,
            }
        )
    return {
        "model": kind.name,
        "replica": kind.machine,
        "replicas": replicas,
        "kv_bytes_per_token": per_token,
        "prefill_tokens_per_second": speed,
        "prefill_seconds_without_cache": reuse.prompt_tokens / speed,
        "tiers": gains,
    }


def _percentile(reuse: Reuse, share: int) -> float | None:
    import numpy as np

    return float(np.percentile(reuse.gaps, share)) if len(reuse.gaps) else None


def _kind(
    model: str, on: str, settings: Settings, tp: int | None, precision: str, kv: str
) -> tuple[ReplicaKind, float | None]:
    """The replica, and bytes/s between its accelerators and their hosts' memory."""
    from ridgeline.cli.planned import planned_model
    from ridgeline.cost.accelerator import load_accelerator
    from ridgeline.cost.chip import Mesh
    from ridgeline.plan.deployed import Knobs, replica_on

    accelerator = load_accelerator(on)
    name, config = planned_model(model, settings)
    kind = replica_on(
        name,
        config,
        accelerator,
        Knobs(),
        mesh=None if tp is None else Mesh(tp=tp),
        precision=precision,
        kv=kv,
    )
    pcie: Mapping[str, Any] = accelerator.links
    return kind, pcie["pcie"].bytes_per_second * kind.gpus if "pcie" in pcie else None
