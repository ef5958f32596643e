"""The roofline with the operators on it: Williams, Waterman and Patterson (2009), drawn.

matplotlib is an extra: it is asked for only when something is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ridgeline.bench.records import profile_of
from ridgeline.bench.sample import Measured
from ridgeline.errors import RequestError
from ridgeline.output_files import write_figure

KINDS = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class Dot:
    """An operator: FLOPs per byte moved, 10^9 FLOPs per second, and its share of the step."""

    name: str
    intensity: float
    gigaflops: float
    share: float


def check_plot(path: Path) -> None:
    """Raises RequestError if nothing could be drawn there; before minutes of measuring."""
    if path.suffix.lower() not in KINDS:
        raise RequestError("plot", f"{path.name}: the ending is one of {', '.join(KINDS)}")
    if not path.resolve().parent.is_dir():
        raise RequestError("plot", f"{path} cannot be written: there is no such folder")
    if find_spec("matplotlib") is None:
        raise RequestError("plot", "matplotlib is not installed; pip install 'ridgeline[plot]'")


def dots(measured: Measured) -> list[Dot]:
    """Operators that both move bytes of weights or KV and compute, by time."""
    profile = profile_of(measured)
    return [
        Dot(
            row.name.removeprefix("layers.*."),
            row.flops / row.memory_bytes,
            row.flops / row.seconds / 1e9,
            row.share,
        )
        for row in (profile.rows if profile else ())
        if row.flops > 0 and row.memory_bytes > 0 and row.seconds > 0
    ]


def draw(found: Sequence[Measured], path: Path) -> None:
    """One panel a case, both axes logarithmic; a dot is as large as its operator's share of time.

    Raises OSError where the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(5.2 * columns, 4.4 * lines), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(found) :]:
        panel.set_visible(False)
    for panel, measured in zip(axes.flat, found, strict=False):
        points = dots(measured)
        device = measured.samples[-1].moment.device
        bandwidth = device.memory_bytes_per_second / 1e9
        peaks = {name: rate / 1e9 for name, rate in device.operations_per_second.items()}
        highest = max(peaks.values())
        xs = [0.1, *(point.intensity for point in points), 10 * highest / bandwidth]
        left, right = min(xs) / 2, max(xs) * 2
        for name, peak in peaks.items():
            ridge = peak / bandwidth
            panel.plot([ridge, right], [peak, peak], color="#444444", linewidth=1.2)
            panel.annotate(f"{name} {peak:,.0f} GOP/s", (right, peak), ha="right", va="bottom")
        ridge = highest / bandwidth
        panel.plot([left, ridge], [left * bandwidth, highest], color="#444444", linewidth=1.2)
        panel.annotate(
            f"{bandwidth:.1f} GB/s", (left, left * bandwidth * 1.3), ha="left", va="bottom"
        )
        for point in points:
            panel.scatter([point.intensity], [point.gigaflops], s=25 + 900 * point.share, alpha=0.6)
            panel.annotate(
                point.name, (point.intensity, point.gigaflops), fontsize=7, xytext=(4, 4),
                textcoords="offset points",
            )  # fmt: skip
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(str(measured.case), fontsize=10)
        panel.set_xlabel("FLOPs per byte of weights and KV")
        panel.set_ylabel("10^9 FLOP/s")
    write_figure(figure, path)
    pyplot.close(figure)
