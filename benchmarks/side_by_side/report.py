"""The table of bars as Markdown and HTML, and all behind it as JSON: functions of samples."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from side_by_side.cases import OURS
from side_by_side.figures import Measured, Spread, Verdict, spread, verdicts

Table = list[list[str]]

NOT_MEASURED = "not measured"
TITLE = "Ridgeline beside its peers"
MACHINE = "The machine before each turn"
BESIDE = "Beside the bars"
EXPLAINED = (
    "Medians of interleaved rounds, lowest and highest in brackets; ratio: of the medians, which"
    " decides, and in brackets the median of each round's ratio. Of the roof: bytes that must move"
    " / time / read bandwidth (read), or ideal time of the arithmetic / time (compute), with the"
    " limits measured beside each sample."
)
STYLE = (
    "body{font:15px system-ui;margin:2em auto;max-width:75em}table{border-collapse:collapse}"
    "th,td{border-bottom:1px solid #ccc;padding:.3em .7em;text-align:left}img{max-width:100%}"
    "strong{color:#b5442e}"
)
ENGINES = {
    OURS: "Ridgeline",
    "llamacpp": "llama.cpp",
    "openvino": "OpenVINO",
    "vllm": "vLLM",
    "transformers": "transformers",
}


def title(contender: str) -> str:
    """`llamacpp:Q4_0` as "llama.cpp Q4_0"; without a format, it read the case's own file."""
    engine, _, kind = contender.partition(":")
    return f"{ENGINES.get(engine, engine)} {kind}".strip()


def rate(found: Spread | None, without: str = NOT_MEASURED) -> str:
    """Median with the spread in brackets."""
    if found is None:
        return without
    digits = 0 if found.median >= 100 else 1
    low, high = f"{found.low:,.{digits}f}", f"{found.high:,.{digits}f}"
    return f"{found.median:,.{digits}f} ({low} to {high})"


def word(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: ""}[met]


def bars_table(results: Sequence[Measured]) -> Table:
    """A row per bar of a case; the roof's bar stands in the case's first row."""
    head = ["case", "Ridgeline, tok/s", "peer, tok/s", "ratio (by round)", "bar", ""]
    rows = [[*head, "of roof", "bar", ""]]
    for measured in results:
        case = measured.case
        for number, verdict in enumerate(verdicts(measured)):
            cells = [case.label, rate(measured.spread(OURS))] if not number else ["", ""]
            cells += [_peer(measured, verdict), _ratio(verdict), f"≥ {verdict.required:g}"]
            cells.append(word(verdict.met))
            rows.append([*cells, *(_roof(measured) if not number else ["", "", ""])])
    return rows


def _peer(measured: Measured, verdict: Verdict) -> str:
    if verdict.contender is None:
        return f"{title(verdict.peer)}: {NOT_MEASURED}"
    best = ", its best format" if verdict.peer != verdict.contender else ""
    return f"{title(verdict.contender)}{best}: {rate(measured.spread(verdict.contender))}"


def _ratio(verdict: Verdict) -> str:
    if verdict.ratio is None or verdict.paired is None:
        return ""
    return f"{verdict.ratio:.2f} ({verdict.paired:.2f})"


def _roof(measured: Measured) -> list[str]:
    required = measured.case.roof_share
    if required is None:
        return ["", "", ""]
    share = measured.share
    kind = "read" if measured.case.share_of == "read" else "compute"
    reached = NOT_MEASURED if share is None else f"{share.median:.0%} of {kind}"
    return [reached, f"≥ {required:.0%}", word(measured.share_met)]


def machine_table(results: Sequence[Measured]) -> Table:
    """The machine beside the samples: what it could read, how its threads met, in which mode."""
    head = ["case", "rounds", "read, GB/s", "int8, GOP/s", "bf16, GFLOP/s", "barrier, ns"]
    head += ["host mode", "others, % of the machine"]
    rows = [head]
    for measured in results:
        machines = [sample.machine for sample in measured.samples]
        reads = spread([m.read_gbps for m in machines if m.read_gbps is not None])
        barriers = spread([m.barrier_ns for m in machines if m.barrier_ns is not None])
        modes = sorted({m.mode for m in machines if m.mode})
        counts = ", ".join(f"{mode} {sum(m.mode == mode for m in machines)}" for mode in modes)
        foreign = spread([100 * sample.foreign for sample in measured.samples])
        rounds = len({sample.round for sample in measured.samples})
        cells = [measured.case.label, str(rounds), rate(reads)]
        cells += [
            rate(spread([m.gops[name] for m in machines if name in m.gops]), "-")
            for name in ("int8", "bf16")
        ]
        cells += [rate(barriers), counts or "-"]
        rows.append([*cells, rate(foreign)])
    return rows


def beside(results: Sequence[Measured]) -> list[str]:
    """Ratios by mode of the host where it changed, what else was measured, and what was not: a line
    each.
    """
    lines = []
    for measured in results:
        lines += [
            f"{measured.case.label}: to {title(verdict.contender or verdict.peer)} "
            + ", ".join(f"{ratio:.2f} {mode}" for mode, ratio in verdict.by_mode.items())
            for verdict in verdicts(measured)
            if len(verdict.by_mode) > 1
        ]
        judged = {OURS, *(v.contender for v in verdicts(measured))}
        lines += [
            f"{measured.case.label}: {title(name)} {rate(measured.spread(name))} tok/s"
            for name in measured.contenders
            if name not in judged
        ]
        for name, why in measured.left_out.items():
            lines.append(f"{measured.case.label}: {title(name)} left out: {why.splitlines()[0]}")
    return lines


def counted(results: Sequence[Measured]) -> str:
    """One line: how many bars are met."""
    ratios = [verdict.met for measured in results for verdict in verdicts(measured)]
    shares = [m.share_met for m in results if m.case.roof_share is not None]
    parts = []
    for name, found in (("of the ratios", ratios), ("of the roof's", shares)):
        known = [met for met in found if met is not None]
        text = f"{sum(known)} of {len(known)} {name} met"
        if len(known) < len(found):
            text += f", {len(found) - len(known)} not measured"
        parts.append(text)
    return "Bars: " + "; ".join(parts) + "."


def markdown_table(table: Table) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return [lines[0], "|" + " --- |" * len(table[0]), *lines[1:]]


def markdown(results: Sequence[Measured], about: Mapping[str, Any]) -> str:
    lines = [f"# {TITLE}", "", *(f"* {fact}" for fact in _facts(about)), ""]
    lines += [counted(results), "", EXPLAINED, "", *markdown_table(bars_table(results)), ""]
    lines += [f"## {MACHINE}", "", *markdown_table(machine_table(results)), ""]
    others = beside(results)
    if others:
        lines += [f"## {BESIDE}", "", *(f"* {line}" for line in others), ""]
    return "\n".join(lines)


def html(results: Sequence[Measured], about: Mapping[str, Any], picture: bytes | None) -> str:
    """The same as one page that needs no other file. picture: a PNG."""
    parts = [f"<h1>{TITLE}</h1>", _html_list(_facts(about)), f"<p>{counted(results)}</p>"]
    if picture is not None:
        data = base64.b64encode(picture).decode()
        parts.append(f'<img alt="ratios and bars" src="data:image/png;base64,{data}">')
    parts += [f"<p>{EXPLAINED}</p>", _html_table(bars_table(results))]
    parts += [f"<h2>{MACHINE}</h2>", _html_table(machine_table(results))]
    others = beside(results)
    if others:
        parts += [f"<h2>{BESIDE}</h2>", _html_list(others)]
    head = f'<!doctype html><meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style>'
    return "\n".join([head, *parts, ""])


def _facts(about: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {value}" for name, value in about.items() if not isinstance(value, dict)]


def _html_list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _html_table(table: Table) -> str:
    rows = []
    for number, row in enumerate(table):
        kind = "td" if number else "th"
        cells = (re.sub(r"[*][*](.*?)[*][*]", r"<strong>\1</strong>", escape(c)) for c in row)
        rows.append("<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>")
    return "<table>" + "".join(rows) + "</table>"


def record(results: Sequence[Measured], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything: per case its definition, samples, spreads and verdicts."""
    return {
        "about": dict(about),
        "cases": [
            {
                "key": measured.case.key,
                "case": asdict(measured.case),
                "samples": [asdict(sample) for sample in measured.samples],
                "tokens_per_second": {
                    name: asdict(found)
                    for name in measured.contenders
                    if (found := measured.spread(name)) is not None
                },
                "share": None if measured.share is None else asdict(measured.share),
                "share_met": measured.share_met,
                "bars": [
                    {
                        "peer": verdict.peer,
                        "contender": verdict.contender,
                        "required": verdict.required,
                        "ratio": verdict.ratio,
                        "ratio_by_round": verdict.paired,
                        "ratio_by_mode": dict(verdict.by_mode),
                        "met": verdict.met,
                    }
                    for verdict in verdicts(measured)
                ],
                "left_out": dict(measured.left_out),
            }
            for measured in results
        ],
    }
