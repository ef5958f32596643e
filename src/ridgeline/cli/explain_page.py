"""`ridgeline explain --html`: one page that needs nothing beside it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ridgeline.cli.explain import knob_text, summary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ridgeline.bench.explain import Explained

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; color: #1b1f24;
  background: #fff; padding: 0 1em }
table { border-collapse: collapse; margin: .5em 0 2em }
th, td { padding: .15em .8em .15em 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
th { border-bottom: 1px solid #8886; font-weight: 600 }
.bar { display: inline-block; height: .7em; background: #3b6fb6 }
.rest { background: #b6713b }
@media (prefers-color-scheme: dark) { body { background: #14171a; color: #d8dee4 } }
"""


def page(title: str, found: Explained) -> str:
    """Names come from a stranger's file: nothing is put in that is not escaped."""
    operators = [
        (
            each.name.removeprefix("layers.*."),
            each.operator,
            f"{1e3 * each.seconds:.3f}",
            "" if each.predicted is None else f"{1e3 * each.predicted:.3f}",
            f"{100 * each.seconds / found.seconds:.1f} %",
            "" if each.of_roof is None else f"{100 * each.of_roof:.0f} %",
            each.binds,
            each.reason,
        )
        for each in found.operators
    ]
    knobs = [(t.knob, t.now, t.setting, knob_text(t), t.note) for t in found.knobs]
    lines = "".join(f"<p>{escape(line)}</p>" for line in summary(found))
    heads = (
        "node",
        "operator",
        "measured ms",
        "predicted ms",
        "share",
        "of roof",
        "roof",
        "why not faster",
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>"
        f"<style>{STYLE}</style><body><h1>{escape(title)}</h1>{lines}"
        f"<h2>Where the time goes</h2>{_ledger(found)}"
        f"<h2>Operators</h2>{_table(heads, operators, {2, 3, 4, 5})}"
        "<h2>Knobs, priced again</h2>"
        f"{_table(('knob', 'now', 'turned to', 'would it move?', ''), knobs, set())}"
        "</body></html>\n"
    )


def _ledger(found: Explained) -> str:
    rows = "".join(
        f'<tr><td>{escape(line.name)}</td><td class="n">{1e3 * line.seconds:.3f} ms</td>'
        f'<td class="n">{100 * line.share:.1f} %</td>'
        f'<td><span class="bar" style="width:{30 * line.share:.2f}em"></span></td></tr>'
        for line in found.ledger
    )
    return f"<table>{rows}</table>"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], numbers: set[int]) -> str:
    def cells(tag: str, texts: tuple[str, ...]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numbers else ''}>{escape(text)}</{tag}>"
            for i, text in enumerate(texts)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', heads)}</tr>{body}</table>"
