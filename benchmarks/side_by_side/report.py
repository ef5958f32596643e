"""The table of bars as Markdown, and all that is behind it as JSON: functions of the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from side_by_side.cases import OURS
from side_by_side.figures import Measured, Spread, Verdict, spread, verdicts

NOT_MEASURED = "not measured"
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


def rate(found: Spread | None) -> str:
    """Median with the spread in brackets."""
    if found is None:
        return NOT_MEASURED
    digits = 0 if found.median >= 100 else 1
    low, high = f"{found.low:,.{digits}f}", f"{found.high:,.{digits}f}"
    return f"{found.median:,.{digits}f} ({low} to {high})"


def word(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: ""}[met]


def bars_table(results: Sequence[Measured]) -> list[str]:
    """A row per bar of a case; the roof's bar stands in the case's first row."""
    lines = [
        "| case | Ridgeline, tok/s | peer, tok/s | ratio (by round) | bar | | of roof | bar | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for measured in results:
        case = measured.case
        for number, verdict in enumerate(verdicts(measured)):
            cells = [case.label, rate(measured.spread(OURS))] if not number else ["", ""]
            cells += [_peer(measured, verdict), _ratio(verdict), f"≥ {verdict.required:g}"]
            cells.append(word(verdict.met))
            cells += _roof(measured) if not number else ["", "", ""]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


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


def machine_table(results: Sequence[Measured]) -> list[str]:
    """The machine beside the samples: what it could read, how its threads met, in which mode."""
    lines = [
        "| case | rounds | read, GB/s | barrier, ns | host mode | others, % of the machine |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for measured in results:
        machines = [sample.machine for sample in measured.samples]
        reads = spread([m.read_gbps for m in machines if m.read_gbps is not None])
        barriers = spread([m.barrier_ns for m in machines if m.barrier_ns is not None])
        modes = sorted({m.mode for m in machines if m.mode})
        counts = ", ".join(f"{mode} {sum(m.mode == mode for m in machines)}" for mode in modes)
        foreign = spread([100 * sample.foreign for sample in measured.samples])
        rounds = len({sample.round for sample in measured.samples})
        cells = [measured.case.label, str(rounds), rate(reads), rate(barriers), counts or "-"]
        cells.append(rate(foreign))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def others_table(results: Sequence[Measured]) -> list[str]:
    """What was measured beside the bars, and what was not."""
    lines = []
    for measured in results:
        judged = {OURS, *(v.contender for v in verdicts(measured))}
        lines += [
            f"* {measured.case.label}: {title(name)} {rate(measured.spread(name))} tok/s"
            for name in measured.contenders
            if name not in judged
        ]
        for name, why in measured.left_out.items():
            lines.append(f"* {measured.case.label}: {title(name)} left out: {why.splitlines()[0]}")
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


def markdown(results: Sequence[Measured], about: Mapping[str, Any]) -> str:
    facts = [f"* {name}: {value}" for name, value in about.items() if not isinstance(value, dict)]
    sections = [
        ["# Ridgeline beside its peers", "", *facts, "", counted(results), ""],
        [
            "Medians of interleaved rounds, lowest and highest in brackets; ratio: of the medians,"
            " which decides, and in brackets the median of each round's ratio. Of the roof: bytes"
            " that must move / time / read bandwidth (read), or ideal time of the arithmetic / time"
            " (compute), with the limits measured beside each sample.",
            "",
        ],
        [*bars_table(results), ""],
        ["## The machine before each turn", "", *machine_table(results), ""],
    ]
    others = others_table(results)
    if others:
        sections.append(["## Beside the bars", "", *others, ""])
    return "\n".join(line for section in sections for line in section)


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
                        "met": verdict.met,
                    }
                    for verdict in verdicts(measured)
                ],
                "left_out": dict(measured.left_out),
            }
            for measured in results
        ],
    }
