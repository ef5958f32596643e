"""Fits src/ridgeline/cost/profiles/fitted.toml to the serving rows of the fitted groups.

    python benchmarks/fit_serving.py

Three minutes: groups are left out one by one for the width of the intervals.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serving_rows import SEED, fitted_groups, read_rows

from ridgeline.cost.efficiency import PUBLISHED
from ridgeline.cost.profile import profile_text
from ridgeline.plan.fit import cross_validated, fit, with_spreads

ROOT = Path(__file__).parent.parent
FITTED = ROOT / "src" / "ridgeline" / "cost" / "profiles" / "fitted.toml"


def main() -> None:
    rows = read_rows()
    groups = fitted_groups(rows)
    measured = [
        row.measurement
        for row in rows
        if row.measurement is not None and row.group in groups and not row.is_odd
    ]
    profile = with_spreads(
        fit(measured, PUBLISHED),
        *cross_validated([m for m in measured if m.case.prefill is None], PUBLISHED),
    )
    systems = len({row.group for row in rows} - groups)
    source = (
        f"benchmarks/fit_serving.py on {len(measured)} rows of {len(groups)} (model, machine) "
        f"groups of benchmarks/data/serving_measurements.csv.gz, seed {SEED}; {systems} groups "
        "held out; around medians of kernel timings (aiconfigurator-core 0.12.0, Apache-2.0, "
        "2026-11-21)"
    )
    FITTED.write_text(profile_text(replace(profile, source=source)), encoding="utf-8")
    print(f"{len(measured)} rows; intervals {profile.spread:.3f}, {profile.spread_ttft:.3f}")


if __name__ == "__main__":
    main()
