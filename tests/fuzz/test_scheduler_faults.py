"""A small part of `fuzz_scheduler.py`, the same worlds each time."""

from __future__ import annotations

import pytest
from scheduler_world import run_worlds


@pytest.mark.parametrize("start", range(0, 40, 10))
def test_nothing_leaks_and_nobody_starves_under_faults(start: int) -> None:
    counts = run_worlds(range(start, start + 10), 300)
    assert counts.steps > 3000
    for what in ("tokens", "preemptions", "copies", "cached_tokens", "given_up", "restored"):
        assert getattr(counts, what) > 0, f"these worlds have no {what}"


def test_the_worlds_have_every_fault() -> None:
    counts = run_worlds(range(100, 130), 200)
    assert set(counts.ended) == {"stop", "length", "abort", "error", "deadline"}
    for what in ("overloaded", "passing_faults", "poisoned", "retracted", "pruned_rows", "stale"):
        assert getattr(counts, what) > 0, f"these worlds have no {what}"
