"""docs/accuracy.md: how far predictions are from what was measured, group by group.

    python benchmarks/accuracy.py            writes the page
    python benchmarks/accuracy.py --live     runs our own engine beside its predictions first
    python benchmarks/accuracy.py --check    says whether it is what the code gives

Nothing is fitted here (benchmarks/fit_serving.py does), and nothing is random but what --live
measures, which benchmarks/data/own_engine.json keeps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fit_serving import HALVES, over_eight_of_ten
from published import published
from serving_rows import Row, fitted_groups, read_rows
from wide_experts import TABLE as WIDE
from wide_experts import wide_experts

from ridgeline.cost.efficiency import MEANINGS, PUBLISHED, Profile
from ridgeline.cost.profile import load_profile
from ridgeline.errors import RidgelineError
from ridgeline.plan.fit import Errors, errors_of
from ridgeline.plan.steady import Cases

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "accuracy.md"
OWN = ROOT / "benchmarks" / "data" / "own_engine.json"
OWN_SCRIPT = ROOT / "benchmarks" / "predicted.py"
OWN_MODELS = ("smollm2", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
HEAD = (
    "| | rows | mean | median | bias | in the 80 % interval |\n"
    "| --- | --: | --: | --: | --: | --: |"
)

Predicted = tuple[Row, float, float]


def predicted(rows: Sequence[Row], profile: Profile) -> list[Predicted]:
    """Rows that say their load, with the predicted seconds per token and to the first."""
    told = [row for row in rows if row.measurement is not None]
    solved = Cases([row.measurement.case for row in told if row.measurement]).solve(profile)
    return list(zip(told, map(float, solved.tpot), map(float, solved.ttft), strict=True))


def errors(found: Sequence[Predicted], what: str, profile: Profile) -> Errors:
    values = np.array([p[1] if what == "tpot" else p[2] for p in found])
    measured = np.array([getattr(p[0].measurement, what) for p in found])
    spreads = np.array([profile.spreads(apart=is_apart(p[0])) for p in found])
    return errors_of(values, measured, spreads[:, 0 if what == "tpot" else 1])


def is_apart(row: Row) -> bool:
    """Whether its prompts are computed elsewhere."""
    return row.measurement is not None and row.measurement.case.prefill is not None


def line(name: str, e: Errors) -> str:
    return (
        f"| {name} | {e.count} | {e.mean:.1%} | {e.median:.1%} | {e.bias:+.1%} | {e.coverage:.0%} |"
    )


def table(
    found: Sequence[Predicted], key: Callable[[Row], str], what: str, profile: Profile
) -> list[str]:
    groups: dict[str, list[Predicted]] = {}
    for one in found:
        groups.setdefault(key(one[0]), []).append(one)
    return [HEAD, *(line(name, errors(groups[name], what, profile)) for name in sorted(groups))]


def page() -> str:
    profile = load_profile()
    rows = read_rows()
    fitted = fitted_groups(rows)
    found = predicted(rows, profile)
    plain = predicted(rows, PUBLISHED)
    held = [p for p in found if p[0].group not in fitted]
    parts = [INTRODUCTION]

    def of(all_of: Sequence[Predicted], mode: str, is_held: bool) -> list[Predicted]:
        return [p for p in all_of if p[0].mode == mode and (p[0].group not in fitted) == is_held]

    lines = [HEAD]
    for mode, name in (("agg", "aggregated"), ("disagg", "disaggregated")):
        for what, words in (("tpot", "TPOT"), ("ttft", "TTFT")):
            for is_held, half in ((True, "**held out**"), (False, "fitted")):
                e = errors(of(found, mode, is_held), what, profile)
                lines.append(line(f"{name}, {words}, {half}", e))
    for what, words in (("tpot", "TPOT"), ("ttft", "TTFT")):
        lines.append(line(f"all, {words}, **held out**", errors(held, what, profile)))
    sane = [p for p in of(found, "agg", True) if not p[0].is_odd]
    lines.append(
        line(
            "aggregated, TPOT, held out, without rows that cannot be what they say",
            errors(sane, "tpot", profile),
        )
    )
    lines.append(
        line(
            "aggregated, TPOT, held out, by published constants, nothing fitted",
            errors(of(plain, "agg", True), "tpot", profile),
        )
    )
    untold = sum(row.measurement is None for row in rows)
    odd = sum(row.is_odd for row in rows)
    parts += [
        "## Serving measurements\n",
        "\n".join(lines),
        f"\nOf {len(rows)} rows, {untold} disaggregated ones do not say their load: nothing can be "
        f"predicted from them. {odd} are not what they say ({_reasons(rows)}); they are scored, "
        "never fitted. "
        "Refused: 0.\n",
        "Fitted groups: "
        + "; ".join(f"{f} on {s}" for f, s in sorted(fitted))
        + ".\n\nHeld out: "
        + "; ".join(f"{f} on {s}" for f, s in sorted({r.group for r in rows} - fitted))
        + ".",
        "\n### Halves drawn at random\n",
        drawn_halves(),
        "\n### TPOT of held-out rows, by model, machine, engine and mode\n",
        "\n".join(
            table(
                held,
                lambda r: f"{r.family}, {r.system}, {r.engine}, {r.precision}, {r.mode}",
                "tpot",
                profile,
            )
        ),
    ]
    for title, key in SPLITS:
        parts += [f"\n### TPOT of all rows, by {title}\n"]
        parts += ["\n".join(table(found, key, "tpot", profile))]
    worst = sorted(held, key=lambda p: -abs(np.log(p[1] / _tpot(p[0]))))[:15]
    parts += [
        "\n### The worst held-out rows\n",
        "| | measured TPOT, ms | predicted | TTFT measured, s |\n| --- | --: | --: | --: |\n"
        + "\n".join(_worst(p) for p in worst),
        "\n## Published tables\n",
        PUBLISHED_TABLES,
        _published(),
        "\n## The numbers that were fitted\n",
        f"{profile.source}.\n",
        "| | published | fitted | |\n| --- | --: | --: | --- |\n"
        + "\n".join(
            f"| {name} | {PUBLISHED[name]:.3g} | {profile[name]:.3g} | {MEANINGS[name][3]} |"
            for name in MEANINGS
        ),
        "\n## Our own engine\n",
        own_engine(),
    ]
    return "\n".join(parts) + "\n"


def drawn_halves() -> str:
    """What `benchmarks/fit_serving.py --splits` found when it was last run."""
    found = json.loads(HALVES.read_text(encoding="utf-8"))
    lines = [
        f"How much of an error is the split's: {len(found['splits'])} halves of whole groups, "
        "drawn at random, each fitted to one half and scored on the other's aggregated rows, but "
        "for those that are not what they say. Found by `benchmarks/fit_serving.py --splits`, "
        f"{found['measured_at']}.\n",
        "| | median of the halves | eight of ten lie from | to |",
        "| --- | --: | --: | --: |",
    ]
    for name, words in OF_HALVES:
        middle, low, high = over_eight_of_ten(found["splits"], name)
        digits = 0 if name == "coverage" else 1
        lines.append(f"| {words} | {middle:.{digits}%} | {low:.{digits}%} | {high:.{digits}%} |")
    return "\n".join(lines)


def own_engine() -> str:
    """What `benchmarks/predicted.py` found when it was last run."""
    found = json.loads(OWN.read_text(encoding="utf-8"))
    rows = found["rows"]
    lines = [
        f"On {found['machine']}, {found['threads']} threads, {found['isa']}, measured "
        f"{found['measured_at'][:10]} by `benchmarks/predicted.py`, which `make accuracy` runs "
        f"({found['rounds']} round{'' if found['rounds'] == 1 else 's'}; models take turns): "
        "`ridgeline measure`, whose synthetic "
        f"operators are of none of these models, then each case predicted with {found['moment']}, "
        f"and run{_again(rows)}. Tokens a second; errors are medians over the rounds.\n",
        "| | | predicted | measured | error |",
        "| --- | --- | --: | --: | --: |",
    ]
    for row in rows:
        told, was = (float(np.median(row[name])) for name in ("predicted", "measured"))
        name = row["model"].removesuffix(".gguf")
        lines.append(f"| {name} | {row['case']} | {told:,.1f} | {was:,.1f} | {row['error']:+.0%} |")
    lines += ["\n| | cases | median error | largest |", "| --- | --: | --: | --: |"]
    for kind in ("prefill", "decode", "serving", ""):
        sizes = [abs(row["error"]) for row in rows if row["case"].startswith(kind)]
        lines.append(
            f"| {kind or 'all'} | {len(sizes)} | {np.median(sizes):.1%} | {max(sizes):.0%} |"
        )
    return "\n".join(lines)


def _again(rows: Sequence[dict[str, Any]]) -> str:
    """How many runs did not count, where that was written down."""
    if not all("runs" in row for row in rows):
        return ""
    runs = sum(row["runs"] for row in rows)
    counted = sum(len(row["kept"]) for row in rows)
    moved = sum(row["kept"].count(False) for row in rows)
    return (
        f" ({runs} runs: once more where memory's pace was more than a fifth from before to "
        f"after, or others had the cores; {counted} count, of which {moved} moved at the last, too)"
    )


def run_own_engine() -> None:
    """Models that were pulled, beside their predictions, on this machine."""
    cached = [name for name in OWN_MODELS if is_cached(name)]
    if not cached:
        print("no model is here, so docs/accuracy.md keeps its figures; `ridgeline pull smollm2`")
        return
    command = [sys.executable, str(OWN_SCRIPT), *cached, "--measure", "--json", str(OWN)]
    subprocess.run(command, check=True)


def is_cached(name: str) -> bool:
    from ridgeline.config import read_settings
    from ridgeline.model.weights.sources import parse_reference, resolve

    try:
        resolve(parse_reference(name), replace(read_settings(), offline=True))
    except RidgelineError:
        return False
    return True


def _reasons(rows: Sequence[Row]) -> str:
    """Why rows are not what they say, and how many of each."""
    counts = Counter(row.unlike for row in rows if row.is_odd)
    return "; ".join(f"{reason}: {count}" for reason, count in counts.most_common())


def _tpot(row: Row) -> float:
    assert row.measurement is not None
    assert row.measurement.tpot is not None
    return row.measurement.tpot


def _worst(one: Predicted) -> str:
    row, tpot, _ttft = one
    assert row.measurement is not None
    load = row.measurement.case.load
    what = (
        f"{row.family}, {row.system}, {row.engine} {row.version}, {row.mesh}, "
        f"{load.concurrency:.0f} x {load.input_tokens:.0f} + {load.output_tokens:.0f}"
    )
    return f"| {what} | {1e3 * _tpot(row):.1f} | {1e3 * tpot:.1f} | {row.measurement.ttft:.1f} |"


def _published() -> str:
    made = published() + wide_experts()
    lines = [
        "| | figures | refused | median error | bias | within 25 % |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name in dict.fromkeys(p.table for p in made):
        ratios = [
            p.predicted / p.stated - 1 for p in made if p.table == name and p.predicted is not None
        ]
        refused = sum(p.table == name and p.predicted is None for p in made)
        size = np.abs(ratios)
        lines.append(
            f"| {name} | {len(ratios)} | {refused} | {np.median(size):.1%} | "
            f"{np.median(ratios):+.1%} | {np.mean(size <= 0.25):.0%} |"
        )
    lines += ["\n| | stated | predicted | error |\n| --- | --: | --: | --: |"]
    lines += [
        f"| {p.what} | {p.stated:.0f} | {p.predicted:.0f} | {p.predicted / p.stated - 1:+.0%} |"
        for p in made
        if p.predicted is not None and p.table == WIDE
    ]
    return "\n".join(lines)


def _in_flight(row: Row) -> str:
    assert row.measurement is not None
    number = row.measurement.case.load.concurrency
    for most in (8, 32, 128, 512):
        if number <= most:
            return f"to {most:4d} in flight"
    return "more in flight"


OF_HALVES = (
    ("tpot_mean", "TPOT, mean"),
    ("tpot_median", "TPOT, median"),
    ("ttft_median", "TTFT, median"),
    ("coverage", "TPOT in the 80 % interval"),
)
SPLITS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("engine", lambda row: f"{row.engine}, {row.mode}"),
    ("machine", lambda row: row.system),
    ("precision", lambda row: row.precision),
    ("requests in flight", _in_flight),
)

PUBLISHED_TABLES = """None of them was fitted. Of experts over many ranks
(`benchmarks/wide_experts.py`), what copies of popular ones leave uneven is from the ratio of two
figures of SGLang's, prompts of 4096 on 32 H100; the mean of DeepSeek's day is taken as 0.92 of its
busiest hour, by its own charts, and its prompts as varied as those of public traces of
conversations; its answers at a time are its stated rate over its stated speed. How each deployment
ran was read from its source with the figure known.
"""
INTRODUCTION = """# How accurate predictions are

Generated by `make accuracy` from `benchmarks/serving_rows.py`, `benchmarks/published.py` and the
profile `src/ridgeline/cost/profiles/fitted.toml`. Errors are predicted / measured - 1; mean and
median are of their sizes, bias is their median. TPOT: seconds between an answer's tokens. TTFT:
seconds to its first. "Held out" are whole (model, machine) groups that no constant was fitted to;
how the groups were drawn, and what had to be known to read the file, stands at the top of
`benchmarks/serving_rows.py`.
Intervals are as wide as errors are on groups left out of the fitted half in turn, each group
counting as much as any other, and wider the fewer groups tell (Student's t); where prompts are
computed elsewhere they have widths of their own.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--live", action="store_true", help="our own engine on this machine, too")
    asked = parser.parse_args()
    if asked.live:
        run_own_engine()
    made = page()
    if asked.check:
        if PAGE.read_text(encoding="utf-8") != made:
            sys.exit("docs/accuracy.md is stale: run make accuracy")
        return
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
