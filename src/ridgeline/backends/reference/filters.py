"""Temperature, and which tokens may be drawn: the truncating samplers, in the order of
docs/sampling.md.

Each filter looks at what those before it left, as ids by falling z (among equals by rising id).
Sums, logarithms and thresholds are float64.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.philox import COIN, uniform
from ridgeline.step import RowSampling

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LARGEST = np.finfo(np.float32).max


def temperature(logits: Floats, how: RowSampling) -> np.float32:
    """The row's temperature: the request's, or, with dynatemp_range, one between that less and that
    plus the range, by how far the entropy is up to its maximum (Zhu et al. 2023, EDT; the formula
    is llama.cpp's).
    """
    base, spread = np.float32(how.temperature), np.float32(how.dynatemp_range)
    if spread == 0 or base == 0:
        return base
    possible = logits[logits > -np.inf].astype(np.float64)
    p = softmax(possible)
    entropy = -float((p * np.log(np.maximum(p, 1e-300))).sum())
    share = max(entropy, 0.0) / math.log(len(possible)) if len(possible) > 1 else 0.0
    low = max(np.float64(base) - np.float64(spread), np.float64(0))
    high = np.float64(base) + np.float64(spread)
    exponent = np.float64(np.float32(how.dynatemp_exponent))
    return np.float32(low + (high - low) * np.float64(min(share, 1.0)) ** exponent)


def scale(logits: Floats, temperature: np.float32) -> Floats:
    """logits / temperature, held within float32's range; -Inf, a token that cannot come, stays."""
    with np.errstate(over="ignore"):
        scaled = np.clip(logits / temperature, -LARGEST, LARGEST)
    return np.where(np.isneginf(logits), logits, scaled)


def candidates(z: Floats, how: RowSampling, position: int = 0) -> Ints:
    """Ids, ascending, of the tokens that may be drawn at `position`."""
    order = likeliest_first(z)
    order = order[z[order] > -np.inf]
    if how.top_n_sigma > 0:
        order = top_n_sigma(order, z, how.top_n_sigma)
    if how.top_k > 0:
        order = order[: how.top_k]
    if how.typical_p < 1:
        order = typical(order, z, how.typical_p)
    if how.top_p < 1:
        order = order[: _reaching(weights(order, z), how.top_p)]
    if how.min_p > 0:
        order = order[weights(order, z) >= np.float64(np.float32(how.min_p))]
    if how.xtc_probability > 0:
        order = xtc(order, z, how, position)
    if how.mirostat_tau > 0:
        order = surprising_up_to(order, z, how.mirostat_mu)
    return np.sort(order)


def top_n_sigma(order: Ints, z: Floats, n: float) -> Ints:
    """Within n standard deviations of the largest (Tang et al. 2024, "Top-n-sigma")."""
    values = z[order].astype(np.float64)
    kept: Ints = order[values >= values[0] - np.float64(np.float32(n)) * values.std()]
    return kept


def typical(order: Ints, z: Floats, mass: float) -> Ints:
    """The fewest tokens of at least this mass whose surprise is nearest the entropy (Meister et
    al. 2022, "Locally typical sampling"); ties by the lower id.
    """
    w = weights(order, z)
    below = z[order].astype(np.float64) - np.float64(z[order[0]])
    # The z of a token whose surprise is the entropy: the mean of z.
    centre = np.float32(np.float64(z[order[0]]) + (w * below).sum() / w.sum())
    with np.errstate(over="ignore"):
        nearest = np.lexsort((order, np.abs(z[order] - centre)))
    kept = order[nearest[: _reaching(w[nearest], mass)]]
    return kept[np.lexsort((kept, -z[kept]))]


def xtc(order: Ints, z: Floats, how: RowSampling, position: int) -> Ints:
    """Exclude top choices (p-e-w 2024): with xtc_probability, of the tokens that have at least
    xtc_threshold all but the least likely go.
    """
    coin = float(uniform(0, position, how.seed, COIN))
    if coin >= float(np.float32(how.xtc_probability)):
        return order
    w = weights(order, z)
    enough = int((w >= np.float64(np.float32(how.xtc_threshold)) * w.sum()).sum())
    return order[max(enough - 1, 0) :]


def surprising_up_to(order: Ints, z: Floats, mu: float) -> Ints:
    """Tokens with a surprise of at most mu bits, the likeliest always (Basu et al. 2021,
    "Mirostat", version 2).
    """
    log_total = np.log(weights(order, z).sum())
    values = z[order].astype(np.float64)
    kept = order[values >= values[0] + log_total - np.float64(np.float32(mu)) * math.log(2)]
    return kept if len(kept) else order[:1]


def next_mu(kept: Ints, z: Floats, token: int, how: RowSampling) -> float:
    """mirostat_mu after this token: its surprise among those kept moves mu against the error."""
    values = z[kept].astype(np.float64)
    log_p = np.float64(z[token]) - values.max() - np.log(np.exp(values - values.max()).sum())
    tau, eta, mu = (np.float32(x) for x in (how.mirostat_tau, how.mirostat_eta, how.mirostat_mu))
    error = -log_p / math.log(2) - np.float64(tau)
    return float(np.float32(np.float64(mu) - np.float64(eta) * error))


def likeliest_first(logits: Floats) -> Ints:
    """Ids by falling logit, ties by the lower id."""
    return np.argsort(-logits, kind="stable").astype(np.int64)


def weights(order: Ints, z: Floats) -> Doubles:
    """e^(z - the largest of them): probabilities relative to the likeliest."""
    return np.exp(z[order].astype(np.float64) - np.float64(z[order[0]]))


def softmax(values: Doubles) -> Doubles:
    p = np.exp(values - values.max())
    return np.asarray(p / p.sum(), np.float64)


def _reaching(w: Doubles, mass: float) -> int:
    """How many of the first have at least this share of all."""
    reached = np.cumsum(w)
    wanted = np.float64(np.float32(mass)) * reached[-1]
    return int(np.searchsorted(reached, wanted, side="left")) + 1
