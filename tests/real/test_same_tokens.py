"""A small part of benchmarks/same_tokens.py: every condition once, on real weights."""

from __future__ import annotations

from pathlib import Path

from same_tokens import compare, table, workload


def test_no_condition_changes_a_token(smollm2_path: Path) -> None:
    asked = workload(count=13, longest=120, seed=1, answer=6)
    rows = compare(str(smollm2_path), asked, num_orders=2, seed=1, small_tokens=144)
    found = {row.condition: row for row in rows}
    assert all(row.differences == 0 for row in rows), table(rows)
    assert all(row.compared >= len(asked) for row in rows[1:])
    # Each condition was really met.
    assert found["alone, cached"].cached > 0, table(rows)
    assert found["cached to anywhere"].cached > 0, table(rows)
    assert found["preempted"].preemptions > 0
    assert "evicted" in found["evicted and computed again"].note, table(rows)
