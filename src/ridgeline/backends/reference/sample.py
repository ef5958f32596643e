"""Sampling: from a row of logits to a token. docs/sampling.md states the same in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.philox import philox4x32
from ridgeline.step import RowSampling, Sampled

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def sample(
    row: int, logits: npt.NDArray[np.floating], token_ids: Sequence[int] | Ints, how: RowSampling
) -> Sampled:
    """The token that follows `token_ids` (the row's prompt and what it generated).

    logits: [vocab], of the last of `token_ids`. NaN, +Inf, or -Inf throughout is a fault of this
    row: the result says so and has token id -1.
    """
    raw = np.asarray(logits, np.float32)
    fault = _fault(raw)
    if fault is not None:
        return Sampled(row, -1, fault=fault)
    token = choose(raw, token_ids, how)
    if how.num_logprobs < 0:
        return Sampled(row, token)
    logprobs = log_softmax(raw)
    likeliest = likeliest_first(raw)[: how.num_logprobs]
    return Sampled(
        row,
        token,
        logprob=float(logprobs[token]),
        top_logprobs=tuple((int(i), float(logprobs[i])) for i in likeliest),
    )


def choose(logits: Floats, token_ids: Sequence[int] | Ints, how: RowSampling) -> int:
    """The token; all float32 but for probabilities and noise."""
    penalised = penalise(logits, token_ids, how.repetition_penalty)
    temperature = np.float32(how.temperature)
    if temperature == 0:
        return int(penalised.argmax())
    scaled = scale(penalised, temperature)
    ids = candidates(scaled, how)
    scores = scaled[ids] + gumbel(ids, len(token_ids), how.seed)
    return int(ids[scores.argmax()])


def scale(logits: Floats, temperature: np.float32) -> Floats:
    """logits / temperature, held within float32's range; -Inf, a token that cannot come, stays."""
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        scaled = np.clip(logits / temperature, -largest, largest)
    return np.where(np.isneginf(logits), logits, scaled)


def penalise(logits: Floats, token_ids: Sequence[int] | Ints, penalty: float) -> Floats:
    """Logits of tokens that the row has already, divided by the penalty if positive, else
    multiplied (Keskar et al. 2019).
    """
    if penalty == 1.0:
        return logits
    result = logits.copy()
    seen = np.unique(np.asarray(token_ids, np.int64))
    factor = np.float32(penalty)
    with np.errstate(all="ignore"):
        result[seen] = np.where(logits[seen] > 0, logits[seen] / factor, logits[seen] * factor)
    return result


def candidates(scaled: Floats, how: RowSampling) -> Ints:
    """Ids, ascending, that top_k, then top_p, then min_p leave (each over what is left)."""
    vocab_size = len(scaled)
    if not (0 < how.top_k < vocab_size or how.top_p < 1 or how.min_p > 0):
        return np.arange(vocab_size)
    order = likeliest_first(scaled)
    if how.top_k > 0:
        order = order[: how.top_k]
    # Relative to the likeliest: p / max p.
    share = np.exp(scaled[order].astype(np.float64) - np.float64(scaled[order[0]]))
    if how.top_p < 1:
        reached = np.cumsum(share)
        wanted = np.float64(np.float32(how.top_p)) * reached[-1]
        count = int(np.searchsorted(reached, wanted, side="left")) + 1
        order, share = order[:count], share[:count]
    order = order[share >= np.float64(np.float32(how.min_p))]
    return np.sort(order)


def gumbel(ids: Ints, position: int | Ints, seed: int) -> Floats:
    """-log(-log(u)), u uniform in (0, 1), a function of (seed, position, token id) alone.

    Positions broadcast against ids.
    """
    counter = (position & 0xFFFFFFFF, position >> 32, ids, 0)
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    word = philox4x32(counter, key)[0]
    u = (word.astype(np.float64) + 0.5) * 2.0**-32
    return (-np.log(-np.log(u))).astype(np.float32)


def likeliest_first(logits: Floats) -> Ints:
    """Ids by falling logit, ties by the lower id."""
    return np.argsort(-logits, kind="stable").astype(np.int64)


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - np.float64(logits.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float64)


def _fault(logits: Floats) -> str | None:
    if np.isnan(logits).any():
        return "the logits have NaN"
    if np.isposinf(logits).any():
        return "the logits have +Inf"
    if np.isneginf(logits).all():
        return "every logit is -Inf: no token is possible"
    return None
