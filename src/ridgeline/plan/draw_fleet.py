"""A simulated fleet as a page and as a picture: levels over time, and the figures beside them.

Both are drawn from the mapping of `summary.py`. matplotlib is an extra, asked for a picture only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import fill
from typing import Any

from ridgeline.errors import RidgelineError
from ridgeline.output_files import write_figure
from ridgeline.plan.svg import Axes, page, table

Fields = Mapping[str, Any]

PLOTS = (
    ("waiting", "requests that wait, fleet"),
    ("running", "requests that run, fleet"),
    ("cache", "cache in use, % of a replica's"),
    ("busy", "busy, % of the time"),
    ("alive", "replicas that are alive"),
)
_PERCENT = ("cache", "busy")


def lines(fields: Fields) -> list[tuple[str, str]]:
    """The figures that a person is told, in order: (what, how much)."""
    requests, tokens, cost = fields["requests"], fields["tokens"], fields["cost"]
    shown = [
        (
            "requests",
            f"{requests['asked']:,} asked, {requests['finished']:,} finished"
            + "".join(
                f", {requests[what]:,} {what}"
                for what in ("refused", "expired", "moved")
                if requests[what]
            )
            + f"; {_number(requests['per_second'])}/s",
        ),
        *(
            (name, _times(fields[key]))
            for name, key in (("TTFT", "ttft"), ("ITL", "itl"), ("TPOT", "tpot"), ("e2e", "e2e"))
        ),
        (
            "tokens",
            f"{tokens['prompt']:,} of prompts ({_percent(fields['prefix_hit_rate'])} cached), "
            f"{tokens['output']:,} of answers; {_number(tokens['output_per_second'])}/s, "
            f"{_number(tokens['output_per_second_per_gpu'])}/s a GPU",
        ),
        (
            "engines",
            f"busy {_percent(fields['busy'])}; {fields['preemptions']:,} preemptions; cache of "
            f"{fields['cache_tokens_per_replica']:,} tokens each, at most "
            f"{_percent(max(fields['over_time']['cache'], default=0.0))} in use",
        ),
    ]
    if fields["slo"]:
        bounds = ", ".join(f"{name} {_time(b)}" for name, b in fields["slo"].items())
        shown.insert(
            1,
            (
                "goodput",
                f"{_number(fields['goodput'])} requests/s within {bounds}: "
                f"{_percent(fields['good_share'])}",
            ),
        )
    if "autoscaling" in fields:
        shown.append(("replicas", _scaled_line(fields["autoscaling"])))
    if fields["transfers"]["count"]:
        moved = fields["transfers"]
        shown.append(
            (
                "transfers",
                f"{moved['count']:,} of {moved['bytes'] / moved['count'] / 1e6:,.1f} MB, "
                f"{_time(moved['mean_seconds'])} each",
            )
        )
    if "usd_per_gpu_hour" in cost or "joules_per_output_token_at_most" in cost:
        text = f"{cost['gpu_hours']:,.3g} GPU hours"
        if "usd_per_million_output" in cost:
            output, both = cost["usd_per_million_output"], cost["usd_per_million_tokens"]
            low, high = cost["usd_per_gpu_hour"]
            text += (
                f" at ${low:g} to ${high:g}: ${output[0]:.3g} to ${output[1]:.3g} a million tokens "
                f"of answers, ${both[0]:.3g} to ${both[1]:.3g} of all"
            )
        if "joules_per_output_token_at_most" in cost:
            text += f"; at most {_number(cost['joules_per_output_token_at_most'])} J a token"
        shown.append(("cost", text))
    if "limits" in fields:
        shown += _limit_lines(fields["limits"])
    return shown


def _scaled_line(of: Fields) -> str:
    text = (
        f"{of['least']} to {of['most']} by {of['rule']}: {_number(of['mean_replicas'])} on "
        f"average, {of['peak_replicas']} at the peak; {of['starts']} started "
        f"({_time(of['delay'])} each), {of['stops']} let go; {of['idle_gpu_hours']:,.3g} GPU hours "
        f"idle, {of['starting_gpu_hours']:,.3g} starting"
    )
    if "idle_and_starting_usd" in of:
        low, high = of["idle_and_starting_usd"]
        text += f" (${low:,.3g} to ${high:,.3g})"
    return f"{text}; {of['most']} all the time: {of['gpu_hours_of_the_most']:,.3g} GPU hours"


def _limit_lines(limits: Fields) -> list[tuple[str, str]]:
    shown = []
    if "slo_kept_to" in limits:
        kept = limits["slo_kept_to"]
        shown.append(
            (
                "SLO kept",
                f"by {_percent(limits['slo_share'])} of all up to {_number(kept)} requests/s, "
                f"{_number(limits['slo_kept_to_per_gpu'])}/s a GPU"
                if kept
                else "at no rate: not even by requests that come one by one",
            )
        )
    if "rows" not in limits:
        return shown
    at = limits["cache_runs_out_at"]
    cache = (
        f"never: {limits['rows']} rows of this load fit"
        if at is None
        else f"at {at} requests at once on a replica; rows are preempted from there on"
    )
    shown += [
        ("cache runs out", cache),
        (
            "queue blows up",
            f"at {_number(limits['queue_blows_up_at'])} requests/s on a replica, "
            f"{_number(limits['fleet_blows_up_at'])}/s on the fleet (busy "
            f"{_percent(limits['busy_below_it'])} just below)",
        ),
    ]
    lost = limits["replicas_that_may_be_lost"]
    if lost is not None:
        shown.append(
            (
                "may be lost",
                f"{lost} replicas at this rate; one in turn may be "
                f"{_number(limits['straggler_factor_in_turn'])} times as slow"
                if lost >= 0
                else f"none: {-lost} more are needed for this rate",
            )
        )
    return shown


def heading(fields: Fields) -> str:
    apart, engine = "", f", {fields['engine']}" if fields["engine"] else ""
    if fields["prefill_replicas"]:
        prefill = fields["prefill_replicas"]
        apart = f" ({prefill} for prompts, {fields['replicas'] - prefill} for answers)"
    return (
        f"{fields['model']} on {fields['replicas']} x ({fields['replica']}{engine}){apart}, "
        f"{fields['router']}, {fields['policy']}; {fields['load']}"
    )


def html(fields: Fields) -> str:
    """One self-contained page."""
    parts = [table(("", "value"), lines(fields), words=("value",), said=True)]
    for key, title in PLOTS:
        points = series(fields, key)
        if len(points) < 2:
            continue
        highest = max(1e-9, *(y for _, y in points))
        axes = Axes(900, 220, (0.0, points[-1][0]), (0.0, 1.1 * highest), log=(False, False))
        axes.grid("seconds", title, lambda v: f"{v:g}", lambda v: f"{v:g}")
        axes.polyline(points, "front")
        parts.append(f"<div class=card>{axes.element(title)}</div>")
    parts += [f"<p class=note>{escape(note)}</p>" for note in fields["notes"]]
    return page("A simulated fleet", heading(fields), parts)


def png(fields: Fields, path: Path) -> None:
    """RidgelineError where matplotlib is missing or the file cannot be written."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise RidgelineError("--png needs matplotlib: pip install 'ridgeline[plot]'") from error
    figure, panels = pyplot.subplots(
        len(PLOTS), 1, figsize=(9.6, 10), sharex=True, layout="constrained"
    )
    for panel, (key, title) in zip(panels, PLOTS, strict=True):
        points = series(fields, key)
        panel.plot([x for x, _ in points], [y for _, y in points], linewidth=1.2)
        panel.set_ylabel(title.replace(", ", "\n"), fontsize=8)
        panel.set_ylim(0, 1.1 * max(1e-9, *(y for _, y in points), 0.0))
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("seconds")
    figure.align_ylabels(panels)
    figure.suptitle(fill(heading(fields), 150), fontsize=8)
    try:
        write_figure(figure, path, dpi=120)
    finally:
        pyplot.close(figure)


def series(fields: Fields, key: str) -> list[tuple[float, float]]:
    """(seconds, level) at the middle of each part."""
    over_time = fields["over_time"]
    width, factor = over_time["part_seconds"], 100.0 if key in _PERCENT else 1.0
    values: Sequence[float] = over_time[key]
    return [((i + 0.5) * width, factor * value) for i, value in enumerate(values)]


def _times(found: Fields) -> str:
    if not found.get("count"):
        return "-"
    return ", ".join(
        f"{name} {_time(found[name])}" for name in ("mean", "p50", "p90", "p99") if name in found
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
