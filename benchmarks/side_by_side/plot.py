"""The table of bars as a picture: ratio to each peer and share of the roof, each beside its bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from side_by_side.figures import Measured, verdicts
from side_by_side.report import title

MET, MISSED, BAR = "#2f7d4f", "#b5442e", "#222222"


def draw(results: Sequence[Measured], path: Path) -> bool:
    """Writes a PNG if there is something to show. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ratios = [
        (f"{m.case.label}\nto {title(v.contender)}", v.ratio, v.required)
        for m in results
        for v in verdicts(m)
        if v.ratio is not None and v.contender is not None
    ]
    shares = [
        (f"{m.case.label}\n({m.case.share_of})", 100 * m.share.median, 100 * m.case.roof_share)
        for m in results
        if m.share is not None and m.case.roof_share is not None
    ]
    panels = [
        ("times the peer's tokens per second", "{:.2f}", ratios),
        ("% of the roof", "{:.0f} %", shares),
    ]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        return False
    height = 1.2 + 0.45 * max(len(rows) for _, _, rows in panels)
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(7.5 * len(panels), height), squeeze=False, layout="constrained"
    )
    for axis, (name, form, rows) in zip(axes[0], panels, strict=True):
        places = list(range(len(rows)))
        values = [value for _, value, _ in rows]
        bars = [bar for _, _, bar in rows]
        colours = [MET if value >= bar else MISSED for value, bar in zip(values, bars, strict=True)]
        axis.barh(places, values, color=colours, height=0.6)
        axis.scatter(bars, places, marker="|", s=220, color=BAR, zorder=3, label="bar")
        for place, value, bar in zip(places, values, bars, strict=True):
            axis.text(max(value, bar), place, "  " + form.format(value), va="center", fontsize=8)
        axis.set_yticks(places, [label for label, _, _ in rows], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlabel(name)
        axis.legend(loc="lower right", frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return True
