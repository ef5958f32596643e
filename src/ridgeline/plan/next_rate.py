"""At which rate a choice is tried next, where the greatest that keeps the SLO is looked for.

A run says more than whether it kept it. Where the queue grew, what left it meanwhile is what can be
sustained; else how far first tokens and gaps were from their bounds says about how far the rate is,
and two such runs say it better. So two or three runs find what halving finds in five.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

from ridgeline.plan.choice import Asked, Seen

# Rates nearer to each other than this part are one.
CLOSE = 0.05
# Of the first rate, the least and the most that is tried; and runs of a choice.
LEAST, MOST = 0.35, 2.0
MOST_RUNS = 6
# Of what left a queue that grew: with the whole of it, the queue would never end.
_BELOW_SERVED = 0.98
# How fast times grow with the rate, where one run is all that is known: as its 1.5th power.
_POWER = 1.5
# Of a bound, what is aimed at.
_AIM = 0.985
# Where the bounds say nothing.
_STEP_UP, _STEP_DOWN = 1.3, 0.8


class Run(NamedTuple):
    """seen: None: the engine could serve nothing."""

    rate: float
    seen: Seen | None
    is_kept: bool


def next_rate(runs: Sequence[Run], asked: Asked) -> float | None:
    """None: the greatest rate that was kept is near enough to the least that was not, or no rate
    will do. runs: of one choice, the first at the rate that formulas found.
    """
    first = runs[0].rate
    kept = max((run for run in runs if run.is_kept), default=None, key=lambda run: run.rate)
    missed = min((run for run in runs if not run.is_kept), default=None, key=lambda run: run.rate)
    if len(runs) >= MOST_RUNS or any(run.seen is None for run in runs):
        return None
    if missed is None:
        assert kept is not None
        if kept.rate >= MOST * first / (1 + CLOSE):
            return None
        step = _by_pressure(kept, asked) or _STEP_UP
        return min(MOST * first, kept.rate * min(max(step, 1 + 2 * CLOSE), _STEP_UP**2))
    most = _sustained(missed)
    if kept is None:
        if missed.rate <= LEAST * first * (1 + CLOSE):
            return None
        low, high = LEAST * first, missed.rate / (1 + CLOSE)
        guess = most or missed.rate * (_by_pressure(missed, asked) or _STEP_DOWN)
        if len(runs) > 1:  # what was thought the last time was too much
            above = min((run for run in runs if run is not missed), key=lambda run: run.rate)
            guess = most or _on_line(missed, above, asked) or missed.rate * _STEP_DOWN
        return max(low, min(guess, high))
    high = missed.rate if most is None else max(most, kept.rate)
    if high <= kept.rate * (1 + CLOSE):
        return None
    guess = (most is None and _on_line(kept, missed, asked)) or (kept.rate * high) ** 0.5
    return min(max(guess, kept.rate * (1 + CLOSE / 2)), missed.rate / (1 + CLOSE / 2))


def _sustained(run: Run) -> float | None:
    """The rate at which requests left a queue that grew; None: it did not, or rows were computed
    again, which they would not be at a lower rate.
    """
    seen = run.seen
    if seen is None or not seen.grows or seen.preemptions or not seen.served:
        return None
    return _BELOW_SERVED * min(seen.served, run.rate)


def pressure(seen: Seen, asked: Asked) -> float | None:
    """What was seen in parts of the bounds, of the one that is nearest; None: there is none."""
    late = {50.0: seen.ttft_p50, 90.0: seen.ttft_p90}.get(asked.percentile, seen.ttft_p99)
    slow = seen.itl_p50 if asked.percentile <= 50.0 else seen.itl_p90
    pairs = ((late, asked.ttft), (slow, asked.itl), (seen.gap_p99, asked.gap))
    return max((value / bound for value, bound in pairs if bound), default=None)


def _by_pressure(run: Run, asked: Asked) -> float | None:
    """By what part the rate is to change for the bound to be met, by this run alone."""
    seen = run.seen
    if seen is None or seen.grows:
        return None
    found = pressure(seen, asked)
    if not found or (found > 1) == run.is_kept:
        return None
    return float((_AIM / found) ** (1.0 / _POWER))


def _on_line(slower: Run, faster: Run, asked: Asked) -> float | None:
    """Where a line through both meets the bound, in logarithms; None: they are on none."""
    if slower.seen is None or faster.seen is None or slower.seen.grows or faster.seen.grows:
        return None
    below, above = pressure(slower.seen, asked), pressure(faster.seen, asked)
    if not below or not above or not below < above or (below > 1) == slower.is_kept:
        return None
    share = log(_AIM / below) / log(above / below)
    return float(slower.rate * (faster.rate / slower.rate) ** share)
