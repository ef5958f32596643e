"""Plots as SVG text and pages as one HTML file: no script, no font and nothing loaded from outside.

Marks have `<title>` elements, which browsers show under the pointer. Colors follow the reader's
light or dark scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import atan2, ceil, degrees, floor, log10

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d7dce4; --back: #fff;
  --card: #f6f8fb; --roof: #1c2330; --accent: #2a6fdb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #343c49;
  --back: #12161d; --card: #1a202a; --roof: #e6e9ef; --accent: #6aa5ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 1240px; margin: 2.2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.sub, p.note { color: var(--soft); margin: .2rem 0 1rem; }
p.note { font-size: .85rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .9rem 1.1rem; margin: .8rem 0; }
.card code, pre { font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .82rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .45rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.best td { font-weight: 600; }
table.said td { white-space: normal; vertical-align: top; }
table.said td:first-child { white-space: nowrap; }
svg { width: 100%; min-width: 640px; max-width: 1060px; height: auto; display: block; }
@media (max-width: 600px) { body { margin: 1rem auto; padding: 0 .7rem; }
  table.said td:first-child { white-space: normal; } }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg text.soft { fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .roof { stroke: var(--roof); stroke-width: 2; fill: none; }
svg .front { stroke: var(--accent); stroke-width: 2; fill: none; }
"""

# Of a label, as 12 pixels of a system's font come out.
_CHARACTER, _LINE = 7.0, 13.0
MARGIN = (64, 18, 26, 46)  # left, right, top, bottom
Scale = tuple[float, float]


class Axes:
    """A plot in the making. x, y: the least and greatest value; log: which are logarithmic."""

    def __init__(
        self, width: int, height: int, x: Scale, y: Scale, *, log: tuple[bool, bool]
    ) -> None:
        self.width, self.height, self._x, self._y, self._log = width, height, x, y, log
        self._parts: list[str] = []
        self._labels: list[tuple[float, float, float, float]] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """In SVG's units, from the upper left corner."""
        left, right, top, bottom = MARGIN
        across = _share(x, self._x, self._log[0])
        up = _share(y, self._y, self._log[1])
        return (
            left + across * (self.width - left - right),
            self.height - bottom - up * (self.height - top - bottom),
        )

    def grid(
        self, x_title: str, y_title: str, x_text: Callable[[float], str],
        y_text: Callable[[float], str],
    ) -> None:  # fmt: skip
        left, right, top, bottom = MARGIN
        for value in _ticks(self._x, self._log[0]):
            px, _ = self.at(value, self._y[0])
            self._parts.append(
                f'<line class="grid" x1="{px:.1f}" y1="{top}" x2="{px:.1f}" '
                f'y2="{self.height - bottom}"/>'
                f'<text class="soft" x="{px:.1f}" y="{self.height - bottom + 16}" '
                f'text-anchor="middle">{escape(x_text(value))}</text>'
            )
        for value in _ticks(self._y, self._log[1]):
            _, py = self.at(self._x[0], value)
            self._parts.append(
                f'<line class="grid" x1="{left}" y1="{py:.1f}" x2="{self.width - right}" '
                f'y2="{py:.1f}"/>'
                f'<text class="soft" x="{left - 6}" y="{py + 4:.1f}" text-anchor="end">'
                f"{escape(y_text(value))}</text>"
            )
        self._parts.append(
            f'<text class="soft" x="{(self.width + left - right) / 2}" y="{self.height - 8}" '
            f'text-anchor="middle">{escape(x_title)}</text>'
            f'<text class="soft" x="{left}" y="14">{escape(y_title)}</text>'
        )

    def polyline(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        places = " ".join(f"{a:.1f},{b:.1f}" for a, b in (self.at(*point) for point in points))
        self._parts.append(f'<polyline class="{kind}" points="{places}"/>')

    def circle(self, x: float, y: float, radius: float, color: str, tip: str) -> None:
        px, py = self.at(x, y)
        self._parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}" fill="{color}" '
            f'fill-opacity="0.55" stroke="{color}"><title>{escape(tip)}</title></circle>'
        )

    def text(
        self, x: float, y: float, text: str, *, dx: float = 0, dy: float = 0,
        anchor: str = "start", slope: bool = False,
    ) -> None:  # fmt: skip
        """slope: along a line that rises by as much as it goes to the right, on log axes."""
        px, py = self.at(x, y)
        turn = ""
        if slope:
            ax, ay = self.at(x * 2, y * 2)
            turn = f' transform="rotate({degrees(atan2(ay - py, ax - px)):.1f} {px:.1f} {py:.1f})"'
        self._parts.append(
            f'<text x="{px + dx:.1f}" y="{py + dy:.1f}" text-anchor="{anchor}"{turn}>'
            f"{escape(text)}</text>"
        )

    def label(self, x: float, y: float, text: str, *, dy: float = 0, anchor: str = "start") -> None:
        """Text that keeps clear of other labels: as near as there is room, above or below."""
        px, py = self.at(x, y)
        wide = _CHARACTER * max(1, len(text))
        left = px - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]

        def is_free(shift: float) -> bool:
            low, high = py + dy + shift - _LINE, py + dy + shift
            return low >= 0 and not any(
                left < right_ and left_ < left + wide and low < high_ and low_ < high
                for left_, right_, low_, high_ in self._labels
            )

        shifts = sorted((_LINE * step for step in range(-12, 13)), key=lambda s: (abs(s), s))
        shift = next((s for s in shifts if is_free(s)), 0.0)
        end = py + dy + shift
        self._labels.append((left, left + wide, end - _LINE, end))
        self.text(x, y, text, dy=dy + shift, anchor=anchor)

    def element(self, label: str) -> str:
        return (
            f'<div class=wide><svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(label, quote=True)}">{"".join(self._parts)}</svg></div>'
        )


def stacked(
    rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]], total: float, text: str
) -> str:
    """Bars of parts, one a row: (row, ((part, value, color), ...)); total: what a full bar is,
    and `text` what that is called.
    """
    width, bar = 900, 26
    left = 20 + _CHARACTER * max((len(name) for name, _ in rows), default=1)
    parts = []
    for i, (name, pieces) in enumerate(rows):
        y = i * (bar + 14) + 8
        x = float(left)
        parts.append(f'<text x="{left - 10}" y="{y + 17}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{left}" y="{y}" width="{width - left - 10}" height="{bar}" fill="none" '
            'class="grid"/>'
        )
        for part, value, color in pieces:
            wide = max(0.0, value) / total * (width - left - 10)
            shown = f"{part}: {value / 1e9:,.1f} GB"
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{bar}" fill="{color}" '
                f'fill-opacity="0.7"><title>{escape(shown)}</title></rect>'
            )
            if wide > 7 * len(shown):
                parts.append(f'<text x="{x + 6:.1f}" y="{y + 17}">{escape(shown)}</text>')
            x += wide
    height = len(rows) * (bar + 14) + 26
    parts.append(
        f'<text class="soft" x="{width - 10}" y="{height - 6}" text-anchor="end">'
        f"{escape(text)}</text>"
    )
    label = f"parts of {text}, by row: {', '.join(name for name, _ in rows)}"
    return (
        f'<div class=wide><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg></div>'
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: Sequence[str] = (),
    best: int | None = None,
    said: bool = False,
) -> str:
    """words: columns beside the first that read from the left. best: the row that stands out. said:
    cells are sentences, which break where the screen ends.
    """
    kinds = [" class=text" if h in words else "" for h in head]
    cells = "".join(f"<th{k}>{escape(h)}</th>" for h, k in zip(head, kinds, strict=True))
    body = "".join(
        f"<tr{' class=best' if i == best else ''}>"
        + "".join(f"<td{k}>{escape(c)}</td>" for c, k in zip(row, kinds, strict=True))
        + "</tr>"
        for i, row in enumerate(rows)
    )
    kind = " class=said" if said else ""
    return f"<div class=wide><table{kind}><tr>{cells}</tr>{body}</table></div>"


def page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """A whole HTML document."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p class=sub>{escape(subtitle)}</p>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _share(value: float, scale: Scale, log: bool) -> float:
    low, high = scale
    if log:
        return (log10(value) - log10(low)) / (log10(high) - log10(low))
    return (value - low) / (high - low)


def _ticks(scale: Scale, log: bool) -> list[float]:
    low, high = scale
    if log:
        first, last = ceil(log10(low) - 1e-9), floor(log10(high) + 1e-9)
        ticks = [10.0**e for e in range(first, last + 1)]
        if len(ticks) < 3:
            ticks = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [t for t in ticks if low <= t <= high * 1.0001]
    rough = (high - low) / 6
    size = 10.0 ** floor(log10(rough))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= rough)
    count = int(high / step + 1e-9)
    return [i * step for i in range(ceil(low / step - 1e-9), count + 1)]
