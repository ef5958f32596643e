"""What a prefix cache would find, as words, a page and a picture: drawn from one mapping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from ridgeline.errors import RidgelineError
from ridgeline.output_files import write_figure
from ridgeline.plan.svg import Axes, page, table
from ridgeline.units import format_bytes, format_count

Fields = Mapping[str, Any]


def heading(fields: Fields) -> str:
    text = f"{fields['trace']}: {fields['requests']:,} requests"
    if "model" in fields:
        text += f"; {fields['model']} on {fields['replicas']} x ({fields['replica']})"
    return text


def lines(fields: Fields) -> list[tuple[str, str]]:
    """(what, how much), in order."""
    gaps = fields["seconds_since_last_use"]
    shown = [
        (
            "comes again",
            f"{fields['most']:.1%} of {format_count(fields['prompt_tokens'])} prompt tokens; "
            f"{format_count(fields['unique_tokens'])} different ones"
            + (
                f"; used again after {_seconds(gaps['p50'])} (p50), {_seconds(gaps['p99'])} (p99)"
                if gaps["p50"] is not None
                else ""
            ),
        )
    ]
    for point in fields["curve"]:
        size = f"{format_count(point['tokens'])} tokens"
        if "kv_bytes_per_token" in fields:
            size += f" ({format_bytes(point['tokens'] * fields['kv_bytes_per_token'])})"
        shown.append((size, f"{point['hit_rate']:.1%}"))
    shown += [(tier["tier"], _tier(tier)) for tier in fields.get("tiers", ())]
    if "tiers" in fields:
        shown.append(
            (
                "prompts",
                f"{fields['prefill_tokens_per_second']:,.0f} tokens/s computed; "
                f"{_seconds(fields['prefill_seconds_without_cache'])} without a cache",
            )
        )
    return shown


def _tier(tier: Fields) -> str:
    text = (
        f"{format_bytes(tier['bytes'])}: {tier['hit_rate_with_it']:.1%} with those above, "
        f"{format_count(tier['added_tokens'])} tokens more; computing them takes "
        f"{_seconds(tier['computing_seconds'])}"
    )
    if tier["moving_seconds"]:
        computed, moved = tier["block_computed_seconds"], tier["block_moved_seconds"]
        text += (
            f", moving them {_seconds(tier['moving_seconds'])} (a block {1e3 * computed:.3g} ms "
            f"against {1e3 * moved:.3g} ms; even at "
            f"{format_bytes(tier['break_even_bytes_per_second'])}/s): "
            + ("it pays" if tier["pays"] else "it does not pay")
        )
    usd = tier["saved_usd"]
    if usd is not None and tier["saved_seconds"] > 0:
        text += f"; saves ${usd[0]:.3g} to ${usd[1]:.3g}"
    return text


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def html(fields: Fields) -> str:
    """One self-contained page."""
    points = [(p["tokens"] / 1e6, 100 * p["hit_rate"]) for p in fields["curve"] if p["tokens"]]
    parts = []
    if len(points) > 1:
        most = max(1e-9, *(y for _, y in points))
        scales = ((points[0][0], points[-1][0]), (0.0, 1.15 * most))
        axes = Axes(900, 360, *scales, log=(True, False))
        axes.grid(
            "cache, million tokens",
            "prompt tokens from the cache, %",
            lambda v: f"{v:g}",
            lambda v: f"{v:g}",
        )
        axes.polyline(points, "front")
        for x, y in points:
            axes.circle(x, y, 4, "#2a6fdb", f"{x:g} M tokens: {y:.1f} %")
        parts.append(f"<div class=card>{axes.element('hit rate against cache size')}</div>")
    parts.append(table(("", "value"), lines(fields), words=("value",), said=True))
    return page("What a prefix cache would find", heading(fields), parts)


def png(fields: Fields, path: Path) -> None:
    """RidgelineError where matplotlib is missing or the file cannot be written."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise RidgelineError("--png needs matplotlib: pip install 'ridgeline[plot]'") from error
    points = [(p["tokens"] / 1e6, 100 * p["hit_rate"]) for p in fields["curve"]]
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot([x for x, _ in points], [y for _, y in points], "o-")
    axes.axhline(100 * fields["most"], color="0.5", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="cache, million tokens", ylabel="prompt tokens from the cache, %")
    axes.set_title(fill(heading(fields), 110), fontsize=9)
    axes.grid(alpha=0.3)
    try:
        write_figure(figure, path)
    finally:
        pyplot.close(figure)
