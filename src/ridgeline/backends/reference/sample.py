"""Sampling: from a row of logits to a token. docs/sampling.md states the same in words."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.adjust import adjust
from ridgeline.backends.reference.filters import (
    candidates,
    likeliest_first,
    next_mu,
    scale,
    temperature,
)
from ridgeline.backends.reference.philox import LUCK, uniform
from ridgeline.step import RowSampling, Sampled, Scored

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

STRIP = 32  # successive tokens whose luckiest has a word of its own

NOTHING_LEFT = "the request's bans and allowed tokens leave no token that the model could give"

NO_MASK = "the row is constrained and was given no mask"


def sample(
    row: int,
    logits: npt.NDArray[np.floating],
    token_ids: Sequence[int] | Ints,
    how: RowSampling,
    mask: npt.NDArray[np.uint32] | None = None,
) -> Sampled:
    """The token that follows `token_ids` (the row's prompt and what it generated).

    logits: [vocab], of the last of `token_ids`. NaN, +Inf, or -Inf throughout is a fault of this
    row, and so is a request that rules every token out: the result says so and has token id -1.
    mask: of a constrained row, the tokens that may come (`Executor.submit`).
    """
    raw = np.asarray(logits, np.float32)
    fault = fault_of(raw)
    if fault is not None:
        return Sampled(row, -1, fault=fault)
    if how.is_constrained and mask is None:
        return Sampled(row, -1, fault=NO_MASK)
    token, mu = draw(raw, token_ids, how, mask if how.is_constrained else None)
    if token < 0:
        return Sampled(row, -1, fault=NOTHING_LEFT)
    if how.num_logprobs < 0:
        return Sampled(row, token, mirostat_mu=mu)
    logprobs = log_softmax(raw)
    likeliest = likeliest_first(raw)[: how.num_logprobs]
    return Sampled(
        row,
        token,
        logprob=float(logprobs[token]),
        top_logprobs=tuple((int(i), float(logprobs[i])) for i in likeliest),
        mirostat_mu=mu,
    )


def choose(logits: Floats, token_ids: Sequence[int] | Ints, how: RowSampling) -> int:
    """The token, -1 if there is none."""
    return draw(logits, token_ids, how)[0]


def draw(
    logits: Floats,
    token_ids: Sequence[int] | Ints,
    how: RowSampling,
    mask: npt.NDArray[np.uint32] | None = None,
) -> tuple[int, float]:
    """The token and mirostat's mu after it; (-1, mu) if no token is left to choose."""
    history = np.asarray(token_ids, np.int64)
    adjusted = adjust(logits, history, how, mask)
    likeliest = int(adjusted.argmax())
    if adjusted[likeliest] == -np.inf:
        return -1, how.mirostat_mu
    hot = temperature(adjusted, how)
    if hot == 0:
        return likeliest, how.mirostat_mu
    z = scale(adjusted, hot)
    ids = candidates(z, how, len(history))
    scores = z[ids] + gumbel(ids, len(history), how.seed)
    token = int(ids[scores.argmax()])
    return token, next_mu(ids, z, token, how) if how.mirostat_tau > 0 else how.mirostat_mu


def gumbel(ids: Ints, position: int | Ints, seed: int) -> Floats:
    """Gumbel noise, a function of (seed, position, token id) alone: -log of a token's time.

    ids: [n]; positions broadcast against them. Times are exponentially distributed, each by itself.
    The first of a strip's tokens comes after the strip's own time, which is that of 32 at once; how
    much later each of the others comes knows nothing of it (docs/sampling.md).
    """
    strips, which = np.unique(ids // STRIP, return_inverse=True)
    members = strips[:, None] * STRIP + np.arange(STRIP)
    own = -np.log(uniform(members, np.asarray(position)[..., None], seed))
    firsts = -np.log(uniform(strips, position, seed, LUCK)) / STRIP
    times = firsts[..., None] + (own - own.min(axis=-1, keepdims=True))
    return np.asarray(-np.log(times[..., which, ids % STRIP]), np.float32)


def score(
    logits: npt.NDArray[np.floating], token_ids: Ints, first: int, how: RowSampling
) -> Scored:
    """How likely the model found `token_ids`, of positions from `first` on.

    logits: [tokens, vocab], each of the token before, none of them at fault.
    """
    width = 1 + min(max(how.num_prompt_logprobs, 0), logits.shape[1])
    ids, values = array("i"), array("f")
    for token, raw in zip(token_ids, np.asarray(logits, np.float32), strict=True):
        logprobs = log_softmax(raw)
        row = [int(token), *likeliest_first(raw)[: width - 1].tolist()]
        ids.extend(row)
        values.extend(logprobs[row])
    return Scored(first, width, ids, values)


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - np.float64(logits.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float64)


def fault_of(logits: npt.NDArray[np.floating]) -> str | None:
    """Why no token can be had of these logits; None if one can."""
    if np.isnan(logits).any():
        return "the logits have NaN"
    if np.isposinf(logits).any():
        return "the logits have +Inf"
    if np.isneginf(logits).all():
        return "every logit is -Inf: no token is possible"
    return None
