"""Fits src/ridgeline/cost/profiles/fitted.toml to the serving rows of the fitted groups.

    python benchmarks/fit_serving.py               writes the profile
    python benchmarks/fit_serving.py --splits 20   writes nothing: errors over other drawn halves

A minute or two: groups are left out one by one for the width of the intervals, of which each third
row tells as much as all. --splits draws whole groups at random, at most half of all rows, fits each
third row of them and scores each third of the others: how much of an error is the draw's.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from serving_rows import SEED, Row, fitted_groups, read_rows

from ridgeline.cost.efficiency import PUBLISHED
from ridgeline.cost.profile import profile_text
from ridgeline.plan.fit import Measurement, cross_validated, fit, with_spreads
from ridgeline.plan.steady import Cases

ROOT = Path(__file__).parent.parent
THINNED = 3
FITTED = ROOT / "src" / "ridgeline" / "cost" / "profiles" / "fitted.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=0)
    asked = parser.parse_args()
    rows = read_rows()
    if asked.splits:
        over_splits(rows, asked.splits)
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
        f"{len(measured)} rows; intervals {profile.spread:.3f}, "
        f"{profile.spread_ttft:.3f}, {profile.spread_apart:.3f}"
    )


def over_splits(rows: Sequence[Row], count: int) -> None:
    """Mean and median of held-out aggregated TPOT, and the median of TTFT, of each split."""
    found = []
    for seed in range(count):
        groups = random_groups(rows, seed)
        profile = fit(_measured(rows, groups)[::THINNED], PUBLISHED)
        others = frozenset(row.group for row in rows) - groups
        held = [m for m in _measured(rows, others) if m.case.prefill is None][::THINNED]
        solved = Cases([m.case for m in held]).solve(profile)
        tpot = np.abs(solved.tpot / np.array([m.tpot for m in held]) - 1.0)
        ttft = np.abs(solved.ttft / np.array([m.ttft for m in held]) - 1.0)
        found.append((tpot.mean(), np.median(tpot), np.median(ttft)))
        print(f"{seed:3d}: " + ", ".join(f"{x:.1%}" for x in found[-1]), flush=True)
    middle, low, high = np.quantile(np.array(found), (0.5, 0.1, 0.9), axis=0)
    for name, *at in zip(
        ("TPOT, mean", "TPOT, median", "TTFT, median"), middle, low, high, strict=True
    ):
        print(f"{name}: {at[0]:.1%}; from {at[1]:.1%} to {at[2]:.1%} in eight of ten splits")


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
