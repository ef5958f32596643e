"""A `Roofline` for people: characters, SVG, and one HTML page that holds all it shows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10

from ridgeline.plan.canvas import Canvas
from ridgeline.plan.roofline import Dot, Roofline
from ridgeline.plan.svg import Axes, page, table
from ridgeline.units import format_bytes, format_count

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
COLORS = {
    "linear": "#2a6fdb",
    "experts": "#0f9d83",
    "attention": "#d2691e",
    "elementwise": "#8a8f98",
    "collective": "#a23bc4",
}


def plotted(found: Roofline) -> list[Dot]:
    """Those that have a place under the roof, the longest first."""
    return [d for d in found.dots if d.flops > 0 and d.num_bytes > 0 and d.seconds > 0]


def letters(found: Roofline) -> dict[str, str]:
    """Operator -> its letter in the drawing; the first 26."""
    return {dot.name: letter for dot, letter in zip(plotted(found), LETTERS, strict=False)}


def limits(found: Roofline) -> tuple[float, float, float, float]:
    """left, right, bottom, top."""
    points = plotted(found)
    ridge = max(found.peaks.values()) / found.memory_bytes_per_second
    left = 10 ** floor(log10(min([1.0, *(p.intensity for p in points)]) / 1.5))
    right = 10 * max(ridge, *(p.intensity for p in points))
    bottom = min([left * found.memory_bytes_per_second, *(p.flops_per_second for p in points)]) / 2
    return left, right, bottom, 3 * max(found.peaks.values())


def characters(found: Roofline, columns: int = 78, rows: int = 19) -> list[str]:
    """The roof in braille, operators as letters, a row of FLOP/B below."""
    left, right, bottom, top = limits(found)
    canvas = Canvas(columns, rows, left=left, right=right, bottom=bottom, top=top)
    bandwidth = found.memory_bytes_per_second
    for name, peak in found.peaks.items():
        canvas.line(peak / bandwidth, peak, right, peak)
        text = f"{name} {format_count(peak)}FLOP/s"
        canvas.write(right, peak, text)
    highest = max(found.peaks.values())
    canvas.line(left, left * bandwidth, highest / bandwidth, highest)
    canvas.write(left, left * bandwidth, f"{format_bytes(bandwidth)}/s", up=3)
    for dot in plotted(found)[: len(LETTERS)]:
        canvas.mark(dot.intensity, dot.flops_per_second, letters(found)[dot.name])
    return [*canvas.lines(), *_axis(left, right, columns)]


def _axis(left: float, right: float, columns: int) -> list[str]:
    ticks, labels = ["─"] * columns, [" "] * (columns + 8)
    exponent = round(log10(left))
    while 10.0**exponent <= right:
        share = (exponent - log10(left)) / (log10(right) - log10(left))
        at = min(round(share * (columns - 1)), columns - 1)
        ticks[at] = "┴"
        for i, c in enumerate(f"{10.0**exponent:g}"):
            labels[at + i] = c
        exponent += 1
    unit = "FLOP per byte"
    text = "".join(labels).rstrip()
    if len(text) + len(unit) + 2 <= columns:
        text = text.ljust(columns - len(unit)) + unit
    return ["".join(ticks), text]


def heading(found: Roofline) -> str:
    mesh = f"{found.mesh.gpus} x " if found.mesh.gpus > 1 else ""
    per = f", tp {found.mesh.tp}: a rank's share" if found.mesh.gpus > 1 else ""
    return (
        f"{found.model} in {found.precision} (KV {found.kv}), {found.step}, "
        f"on {mesh}{found.accelerator.title}{per}; host: {found.engine}"
    )


def binds_counts(found: Roofline) -> list[tuple[str, float]]:
    """Predicted seconds of the step by what binds operators, and the host's."""
    by: dict[str, float] = {"host": found.host_seconds}
    for dot in found.dots:
        by[dot.binds] = by.get(dot.binds, 0.0) + dot.seconds
    return sorted(by.items(), key=lambda item: -item[1])


def svg(found: Roofline, width: int = 900, height: int = 520) -> str:
    """The drawing alone, as an SVG element."""
    left, right, bottom, top = limits(found)
    axes = Axes(width, height, (left, right), (bottom, top), log=(True, True))
    axes.grid("FLOP per byte through memory", "FLOP/s of a rank", format_count, format_count)
    bandwidth = found.memory_bytes_per_second
    highest = max(found.peaks.values())
    axes.polyline([(left, left * bandwidth), (highest / bandwidth, highest)], "roof")
    axes.text(
        left * 1.6, left * 1.6 * bandwidth, f"{format_bytes(bandwidth)}/s", dy=-12, slope=True
    )
    for name, peak in found.peaks.items():
        axes.polyline([(peak / bandwidth, peak), (right, peak)], "roof")
        axes.label(right, peak, f"{name} {format_count(peak)}FLOP/s", dy=-6, anchor="end")
    total = sum(dot.seconds for dot in found.dots)
    marks = letters(found)
    for dot in reversed(plotted(found)):
        tip = (
            f"{dot.name} x {dot.count}: {dot.seconds * 1e6:,.0f} us predicted, "
            f"{dot.least_seconds * 1e6:,.0f} us at the roof ({dot.binds}); "
            f"{dot.intensity:.3g} FLOP/B"
        )
        radius = 5 + 26 * (dot.seconds / total) ** 0.5
        axes.circle(dot.intensity, dot.flops_per_second, radius, COLORS[dot.kind], tip)
    # The largest first: the nearest place to its dot is its own.
    for dot in plotted(found):
        mark = marks.get(dot.name)
        if mark:
            axes.label(dot.intensity, dot.flops_per_second, mark, dy=4, anchor="middle")
    return axes.element(f"Roofline: {heading(found)}")


def operators(found: Roofline) -> str:
    """A table of the step's operators, with the letters of their dots."""
    marks = letters(found)
    total = sum(dot.seconds for dot in found.dots) + found.host_seconds
    return table(
        ("", "operator", "kind", "count", "FLOP/B", "FLOP", "bytes", "predicted", "at the roof",
         "share", "binds"),
        [
            (
                marks.get(d.name, ""), d.name, d.kind, str(d.count),
                f"{d.intensity:.3g}" if d.flops else "-", format_count(d.flops),
                format_bytes(d.num_bytes or d.link_bytes), f"{d.seconds * 1e6:,.1f} us",
                f"{d.least_seconds * 1e6:,.1f} us", f"{d.seconds / total:.1%}", d.binds,
            )
            for d in found.dots
            if d.seconds > 0
        ],
        words=("operator", "kind"),
    )  # fmt: skip


def html(found: Roofline) -> str:
    """One page, nothing outside it is loaded."""
    floors = table(
        ("weights in", "bytes, all ranks", "fits", "floor", "predicted", "80 % interval", "tok/s",
         "binds"),
        [floor_cells(found, i) for i in range(len(found.floors))],
    )  # fmt: skip
    peak = found.accelerator
    note = (
        f"The roof is the data sheet's ({escape(peak.memory_bytes_per_second.source)}, retrieved "
        f"{peak.retrieved}); dots are at the times that the cost model predicts, as large as their "
        "share of the step. A floor is the time that nothing beats: each operator at the speed of "
        "what binds it."
    )
    return page(
        f"Roofline: {found.model}",
        heading(found),
        [svg(found), "<h2>Precision floors</h2>", floors, "<h2>Operators</h2>", operators(found),
         f"<p class=note>{note}</p>"],
    )  # fmt: skip


def floor_cells(found: Roofline, index: int) -> Sequence[str]:
    f = found.floors[index]
    fits = "yes" if f.fits else f"needs {format_bytes(f.needed)} of {format_bytes(f.usable)}"
    via = f.arithmetic if f.native or f.precision == f.arithmetic else f"{f.arithmetic} units"
    return (
        f.precision + (" *" if f.precision == found.precision else ""),
        format_bytes(f.weight_bytes),
        fits,
        f"{f.least_seconds * 1e3:.2f} ms",
        f"{f.seconds * 1e3:.2f} ms",
        f"{f.low * 1e3:.2f} - {f.high * 1e3:.2f} ms",
        f"{found.tokens / f.seconds:,.0f}",
        f"{f.binds} ({via})",
    )
