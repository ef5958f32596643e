"""Fits src/ridgeline/cost/profiles/fitted.toml to the serving rows of the fitted groups.

    python benchmarks/fit_serving.py               writes the profile
    python benchmarks/fit_serving.py --splits 20   writes benchmarks/data/drawn_halves.json
    python benchmarks/fit_serving.py --splits 20 --first 10   keeps the first ten that are there

A minute or two: groups are left out one by one for the width of the intervals, of which each third
row tells as much as all. --splits draws whole groups at random, at most half of all rows, fits each
third row of them and scores each third of the others: how much of an error is the draw's. Their
intervals are of each ninth row. Some seven minutes; docs/accuracy.md shows the file.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from serving_rows import SEED, Row, fitted_groups, read_rows

from ridgeline.cost.efficiency import PUBLISHED
from ridgeline.cost.profile import profile_text
from ridgeline.plan.fit import Measurement, cross_validated, errors_of, fit, with_spreads
from ridgeline.plan.steady import Cases

ROOT = Path(__file__).parent.parent
THINNED = 3
HALVES = ROOT / "benchmarks" / "data" / "drawn_halves.json"
SCORES = ("tpot_mean", "tpot_median", "ttft_median", "coverage")
FITTED = ROOT / "src" / "ridgeline" / "cost" / "profiles" / "fitted.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="a split below it is not drawn anew")
    asked = parser.parse_args()
    rows = read_rows()
    if asked.splits:
        over_splits(rows, asked.first, asked.splits)
    else:
        write_profile(rows)


def write_profile(rows: Sequence[Row]) -> None:
    groups = fitted_groups(rows)
    measured = _measured(rows, groups)
    # There are few rows whose prompts are computed elsewhere: all of them count.
    some = [m for i, m in enumerate(measured) if i % THINNED == 0 or m.case.prefill is not None]
    profile = with_spreads(
        fit(measured, PUBLISHED),
        some,
        *cross_validated(some, PUBLISHED),
    )
    systems = len({row.group for row in rows} - groups)
    source = (
        f"benchmarks/fit_serving.py on {len(measured)} rows of {len(groups)} (model, machine) "
        f"groups of benchmarks/data/serving_measurements.csv.gz, seed {SEED}; {systems} groups "
        "held out; around medians of kernel timings (aiconfigurator-core 0.12.0, Apache-2.0, "
        "2026-11-21)"
    )
    FITTED.write_text(profile_text(replace(profile, source=source)), encoding="utf-8")
    print(
        f"{len(measured)} rows; intervals {profile.spread:.3f}, {profile.spread_ttft:.3f}; prompts "
        f"elsewhere {profile.spread_tpot_apart:.3f}, {profile.spread_ttft_apart:.3f}"
    )


def over_splits(rows: Sequence[Row], first: int, count: int) -> None:
    """Writes `scored` of each split; prints them and their middle."""
    kept: list[dict[str, float]] = []
    if first:
        kept = json.loads(HALVES.read_text(encoding="utf-8"))["splits"][:first]
    for seed in range(first, count):
        kept.append(scored(rows, seed))
        print(f"{seed:3d}: " + ", ".join(f"{x:.1%}" for x in kept[-1].values()), flush=True)
        found: dict[str, Any] = {"measured_at": datetime.now(UTC).date().isoformat()}
        HALVES.write_text(json.dumps(found | {"splits": kept}, indent=1) + "\n", encoding="utf-8")
    for name in SCORES:
        middle, low, high = over_eight_of_ten(kept, name)
        print(f"{name}: {middle:.1%}; from {low:.1%} to {high:.1%} in eight of ten splits")


def over_eight_of_ten(splits: Sequence[dict[str, float]], name: str) -> tuple[float, float, float]:
    """The median, and what eight of ten lie between."""
    middle, low, high = np.quantile([split[name] for split in splits], (0.5, 0.1, 0.9))
    return float(middle), float(low), float(high)


def scored(rows: Sequence[Row], seed: int) -> dict[str, float]:
    """Of one split's held-out aggregated rows SCORES: the mean and median error of TPOT, the median
    of TTFT, and the share of TPOT in 80 % intervals, from groups left out of the fitted half.
    """
    groups = random_groups(rows, seed)
    measured = _measured(rows, groups)[::THINNED]
    profile = fit(measured, PUBLISHED)
    few = measured[::THINNED]
    profile = with_spreads(profile, few, *cross_validated(few, PUBLISHED))
    others = frozenset(row.group for row in rows) - groups
    held = [m for m in _measured(rows, others) if m.case.prefill is None][::THINNED]
    solved = Cases([m.case for m in held]).solve(profile)
    tpot = errors_of(solved.tpot, np.array([m.tpot for m in held]), profile.spread)
    ttft = errors_of(solved.ttft, np.array([m.ttft for m in held]), profile.spread_ttft)
    values = (tpot.mean, tpot.median, ttft.median, tpot.coverage)
    return {name: round(value, 4) for name, value in zip(SCORES, values, strict=True)}


def random_groups(rows: Sequence[Row], seed: int) -> frozenset[tuple[str, str]]:
    """Groups in a seeded order, as many as stay at or below half of all rows."""
    sizes = Counter(row.group for row in rows)
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    taken: set[tuple[str, str]] = set()
    for group in order:
        if sum(sizes[g] for g in taken) + sizes[group] <= len(rows) // 2:
            taken.add(group)
    return frozenset(taken)


def _measured(rows: Sequence[Row], groups: frozenset[tuple[str, str]]) -> list[Measurement]:
    """Of rows that are what they say."""
    return [
        row.measurement
        for row in rows
        if row.measurement is not None and row.group in groups and not row.is_odd
    ]


if __name__ == "__main__":
    main()
