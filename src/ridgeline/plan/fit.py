"""Efficiencies from measurements: the few numbers of a profile that make predictions agree with
them, each held to what it was before and to what physics allows.

A maximum a posteriori: robust losses of log errors (Student's t, so that odd rows count little)
against log-normal priors around the profile that one starts from, by Gauss-Newton steps within
bounds. Rows of one group share errors that are nobody's noise, so data count `temper` times less
than if they were independent: much less where many machines are to be foretold, little less where
one machine is to be described. Groups are left out whole to see how far predictions carry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from ridgeline.cost.efficiency import MEANINGS, Array, Profile
from ridgeline.plan.steady import Case, Cases

# Of the log of one row: what a fit does not try to explain.
# These, how odd a row may be (degrees of freedom) and how little a large group counts for its size
# were chosen by groups left out of the fitted half in turn (docs/log.md).
NOISE = {"tpot": 0.08, "ttft": 0.2}
FREEDOM = 2.0
GROUP_POWER = 0.75
TEMPER = 8.0
ONE_MACHINE = 1.0
ITERATIONS = 25
GROUP_ROWS = 30.0
COVERED = 0.8
LEAST_SPREAD = 0.02
# Of first tokens whose prompts are computed elsewhere.
APART = ("ttft.handover", "ttft.burst")

# Standard deviation of the log of what we know of each, longest prefix first: medians of millions
# of kernel timings are known well, what engines do between kernels is not.
PRIORS: dict[str, float] = {
    "experts.stream": 0.15,
    "experts.compute": 0.3,
    "experts.slow": 0.2,
    "stream": 0.12,
    "compute": 0.12,
    "kv.stream": 0.12,
    "attention.prefill": 0.12,
    "attention.decode": 0.4,
    "attention.latent": 0.4,
    "new": 0.1,
    "collective.link": 0.12,
    "floor.attention": 0.4,
    "moved": 0.4,
    "overlap": 0.3,
    "host.overlap": 0.3,
    # Of an era; what eras have in common moves with all of them.
    "host": 0.2,
    "eager": 0.3,
    "ttft": 0.5,
    "": 0.8,
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """A case and what was measured of it, in seconds; None: was not. group: rows that share it
    (a model on a machine) are fitted or held out together. detail: what within a group is alike.
    same: rows of the same measurement, which count once.
    """

    case: Case
    tpot: float | None
    ttft: float | None
    group: Hashable
    detail: Hashable = None
    same: Hashable = None


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of predictions. coverage: share of rows within the profile's interval."""

    count: int
    mean: float
    median: float
    bias: float
    coverage: float


def fit(
    measured: Sequence[Measurement],
    start: Profile,
    *,
    name: str = "fitted",
    temper: float = TEMPER,
    near: Profile | None = None,
) -> Profile:
    """`start` with all efficiencies moved to agree with `measured`: times per token first, then
    those to the first token; both, twice, since one depends a little on the other. near: where to
    begin, if a fit of nearly the same rows is known.
    """
    cases = Cases([m.case for m in measured])
    weights = _weights(measured) / temper
    profile = near or start
    first = [n for n in MEANINGS if n.startswith("ttft.") and n not in APART]
    device = [n for n in MEANINGS if not n.startswith("ttft.")]
    everywhere = np.ones(len(measured), np.bool_)
    for _ in range(2):
        for what, names, of in (
            ("tpot", device, everywhere),
            # Where prompts are computed elsewhere, their queue is not this deployment's.
            ("ttft", first, ~cases.apart),
            ("ttft", list(APART), cases.apart),
        ):
            target = np.array([getattr(m, what) or np.nan for m in measured])
            known = ~np.isnan(target) & of
            if known.any():
                profile = _fitted(cases, what, target, weights * known, names, profile, start)
    return replace(profile, name=name)


def cross_validated(
    measured: Sequence[Measurement], start: Profile, *, temper: float = TEMPER
) -> tuple[Array, Array]:
    """Log errors of TPOT and TTFT of each row, predicted by a fit that has not seen its group."""
    groups = dict.fromkeys(m.group for m in measured)
    whole = fit(measured, start, temper=temper) if len(groups) > 2 else None
    tpot, ttft = np.full(len(measured), np.nan), np.full(len(measured), np.nan)
    for group in groups:
        inside = [i for i, m in enumerate(measured) if m.group == group]
        others = [m for m in measured if m.group != group]
        profile = fit(others, start, temper=temper, near=whole) if others else start
        solved = Cases([measured[i].case for i in inside]).solve(profile)
        for row, i in enumerate(inside):
            wanted = measured[i]
            if wanted.tpot:
                tpot[i] = log(solved.tpot[row] / wanted.tpot)
            if wanted.ttft:
                ttft[i] = log(solved.ttft[row] / wanted.ttft)
    return tpot, ttft


def with_spreads(
    profile: Profile, measured: Sequence[Measurement], tpot: Array, ttft: Array
) -> Profile:
    """The profile with intervals as wide as the errors of what it was not fitted to; where prompts
    are computed elsewhere, and where they are not, each by itself.

    It is groups that are alike, so each counts as much as any other, however many rows it has, and
    what G of them say of the next is less sure the fewer they are: `few_groups`.
    """
    apart = np.array([m.case.prefill is not None for m in measured])
    widths: dict[str, Any] = {}
    for name, errors, of in (
        ("spread", tpot, ~apart),
        ("spread_ttft", ttft, ~apart),
        ("spread_tpot_apart", tpot, apart),
        ("spread_ttft_apart", ttft, apart),
    ):
        known = of & ~np.isnan(errors)
        if known.any():
            rows = Counter(m.group for m, is_known in zip(measured, known, strict=True) if is_known)
            weights = np.array([1.0 / rows[m.group] if m.group in rows else 0.0 for m in measured])
            found = _quantile(np.abs(errors[known]), weights[known], COVERED)
            widths[name] = max(LEAST_SPREAD, found * few_groups(len(rows)))
    return replace(profile, **widths)


def few_groups(count: int) -> float:
    """How much wider an interval is whose width so many groups tell: of the next one of a normal
    kind, by Student's t of count - 1 degrees, beside a normal's own quantile (its expansion by
    Cornish and Fisher, within 0.3 %). Fewer than three tell nothing of the spread of groups: they
    have two degrees, too.
    """
    z = NormalDist().inv_cdf((1.0 + COVERED) / 2.0)
    degrees = max(2, count - 1)
    t = (
        z
        + (z**3 + z) / (4.0 * degrees)
        + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * degrees**2)
        + (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / (384.0 * degrees**3)
    )
    return float(t / z * sqrt(1.0 + 1.0 / max(2, count)))


def _quantile(values: Array, weights: Array, share: float) -> float:
    """The least of the values that, with those below it, has that share of the weight."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1] * (1 - 1e-12))])


def errors_of(predicted: Array, measured: Array, spread: float | Array) -> Errors:
    """spread: half the width of the interval as a log, of all rows or of each."""
    known = ~np.isnan(measured)
    relative = predicted[known] / measured[known] - 1.0
    if not len(relative):
        return Errors(0, np.nan, np.nan, np.nan, np.nan)
    inside = np.abs(np.log1p(relative)) <= np.broadcast_to(spread, known.shape)[known]
    return Errors(
        len(relative),
        float(np.abs(relative).mean()),
        float(np.median(np.abs(relative))),
        float(np.median(relative)),
        float(inside.mean()),
    )


def _fitted(
    cases: Cases,
    what: str,
    target: Array,
    weights: Array,
    names: list[str],
    profile: Profile,
    prior: Profile,
) -> Profile:
    wanted = np.log(np.where(np.isnan(target), 1.0, target))
    least = np.log([MEANINGS[n][1] for n in names])
    most = np.log([MEANINGS[n][2] for n in names])
    centre = np.log([prior[n] for n in names])
    width = np.array([_prior(n) for n in names])

    def with_values(x: Array) -> Profile:
        return replace(
            profile, values={**profile.values, **dict(zip(names, map(exp, x), strict=True))}
        )

    def residuals(x: Array) -> Array:
        found = getattr(cases.solve(with_values(x)), what)
        return np.asarray((np.log(found) - wanted) / NOISE[what])

    def loss(r: Array, x: Array) -> float:
        robust = FREEDOM * np.log1p(r * r / FREEDOM)
        return float((weights * robust).sum() + (((x - centre) / width) ** 2).sum())

    x = np.clip(np.log([profile[n] for n in names]), least, most)
    r = residuals(x)
    now, damping = loss(r, x), 1e-3
    for _ in range(ITERATIONS):
        slopes = np.stack([(residuals(x + step) - r) / 2e-3 for step in 2e-3 * np.eye(len(x))], 1)
        counted = weights / (1.0 + r * r / FREEDOM)
        curvature = slopes.T @ (slopes * counted[:, None]) + np.diag(1.0 / width**2)
        slope = slopes.T @ (counted * r) + (x - centre) / width**2
        taken = None
        for _attempt in range(10):
            trial = _bounded_step(x, curvature, slope, damping, least, most)
            trial_r = residuals(trial)
            after = loss(trial_r, trial)
            if after < now:
                taken = (trial, trial_r, after)
                break
            damping = max(5.0 * damping, 1e-3)
        if taken is None:
            break
        settled = now - taken[2] < 2e-4 * now
        (x, r, now), damping = taken, max(damping / 5.0, 1e-7)
        if settled:
            break
    return with_values(x)


def _bounded_step(
    x: Array, curvature: Array, slope: Array, damping: float, least: Array, most: Array
) -> Array:
    """A damped Newton step over what does not leave its bounds."""
    free = np.ones(len(x), bool)
    trial = x
    for _ in range(5):
        inner = curvature[np.ix_(free, free)]
        step = np.zeros(len(x))
        step[free] = -np.linalg.solve(inner + damping * np.diag(np.diag(inner)), slope[free])
        trial = x + step
        leaves = ((trial < least) & (x <= least + 1e-9)) | ((trial > most) & (x >= most - 1e-9))
        if not (leaves & free).any():
            break
        free &= ~leaves
    return np.clip(trial, least, most)


def _weights(measured: Sequence[Measurement]) -> Array:
    """A measurement that is there twice counts once; a group as a small power of its rows."""
    copies = Counter(m.same for m in measured if m.same is not None)
    once = [1.0 if m.same is None else 1.0 / copies[m.same] for m in measured]
    sizes: Counter[Hashable] = Counter()
    keys = [(m.group, m.detail) for m in measured]
    for key, weight in zip(keys, once, strict=True):
        sizes[key] += weight  # type: ignore[assignment]
    return np.array(
        [w * (GROUP_ROWS / sizes[k]) ** GROUP_POWER for k, w in zip(keys, once, strict=True)]
    )


def _prior(name: str) -> float:
    return next(width for prefix, width in PRIORS.items() if name.startswith(prefix))
