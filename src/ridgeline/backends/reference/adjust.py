"""What a request says of single tokens, done to the logits before any temperature.

Bias, penalties and bans, in the order of docs/sampling.md. Float32 throughout; a logit of -Inf, a
token that cannot come, stays, and everything else is held within float32's range. History is a
row's tokens, prompt and answer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ridgeline.step import RowSampling

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

LARGEST = np.finfo(np.float32).max


def adjust(
    logits: Floats, history: Ints, how: RowSampling, mask: npt.NDArray[np.uint32] | None = None
) -> Floats:
    """The logits that are drawn from: [vocab], a copy if anything is on.

    mask: a bit for each token that a grammar allows, the lowest first: [ceil(vocab / 32)].
    """
    answer = history[how.num_prompt :]
    x = bias(logits, how)
    first = 0 if how.penalty_last_n < 0 else max(0, len(history) - how.penalty_last_n)
    said = history[max(first, how.num_prompt) :]
    x = penalise(x, history[first:], how.repetition_penalty)
    x = penalise_counts(x, said, how.frequency_penalty, how.presence_penalty)
    x = dry(x, history, how)
    banned = np.concatenate(
        [
            repeated_ngrams(history, how.no_repeat_ngram),
            bad_ends(history, how.bad_words),
            np.array(how.stop_ids if len(answer) < how.min_tokens else (), np.int64),
        ]
    )
    if len(banned):
        x = x.copy()
        x[banned] = -np.inf
    if how.allowed_ids is not None:
        allowed = np.array(how.allowed_ids, np.int64)
        only = np.full_like(x, -np.inf)
        only[allowed] = x[allowed]
        x = only
    if mask is not None:
        bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")
        x = np.where(bits[: len(x)], x, np.float32(-np.inf))
    return x


def bias(logits: Floats, how: RowSampling) -> Floats:
    """Adds what the request says to each token named."""
    if not how.logit_bias:
        return logits
    ids = np.array([token for token, _ in how.logit_bias], np.int64)
    amounts = np.array([amount for _, amount in how.logit_bias], np.float32)
    return _with(logits, ids, logits[ids] + amounts)


def penalise(logits: Floats, history: Ints, penalty: float) -> Floats:
    """Logits of tokens that the row has already, divided by the penalty if positive, else
    multiplied (Keskar et al. 2019).
    """
    if penalty == 1.0:
        return logits
    seen = np.unique(history)
    factor = np.float32(penalty)
    with np.errstate(all="ignore"):
        changed = np.where(logits[seen] > 0, logits[seen] / factor, logits[seen] * factor)
    return _with(logits, seen, changed)


def penalise_counts(logits: Floats, answer: Ints, frequency: float, presence: float) -> Floats:
    """OpenAI's two penalties: subtracts frequency x (times in the answer), then presence."""
    if frequency == 0 and presence == 0:
        return logits
    seen, counts = np.unique(answer, return_counts=True)
    with np.errstate(all="ignore"):
        changed = logits[seen] - np.float32(frequency) * counts.astype(np.float32)
        changed = changed - np.float32(presence)
    return _with(logits, seen, changed)


def dry(logits: Floats, history: Ints, how: RowSampling) -> Floats:
    """DRY ("don't repeat yourself", p-e-w 2024): a token that would lengthen a repetition of n >=
    dry_allowed_length tokens loses multiplier x base^(n - dry_allowed_length). No repetition goes
    across a breaker.
    """
    if how.dry_multiplier == 0 or how.dry_last_n == 0:
        return logits
    backwards = history[::-1] if how.dry_last_n < 0 else history[::-1][: how.dry_last_n]
    breaks = np.flatnonzero(np.isin(backwards, np.array(how.dry_breakers, np.int64)))
    longest = int(breaks[0]) if len(breaks) else len(backwards)
    lengths: dict[int, int] = {}
    for start, length in enumerate(repeats(backwards)):
        length = min(length, longest)
        if start > 0 and length >= how.dry_allowed_length:
            token = int(backwards[start - 1])
            lengths[token] = max(lengths.get(token, 0), length)
    if not lengths:
        return logits
    # By repeated multiplication, not by pow, so that every backend has the same float64.
    amounts = [np.float64(np.float32(how.dry_multiplier))]
    for _ in range(max(lengths.values()) - how.dry_allowed_length):
        amounts.append(min(amounts[-1] * np.float64(np.float32(how.dry_base)), np.float64(LARGEST)))
    ids = np.array(list(lengths), np.int64)
    loss = np.array([amounts[n - how.dry_allowed_length] for n in lengths.values()], np.float32)
    with np.errstate(all="ignore"):
        return _with(logits, ids, logits[ids] - loss)


def repeats(tokens: Ints) -> list[int]:
    """For each start, how many tokens from there on are those of the beginning: the Z array
    (Gusfield 1997), in linear time. The first is the whole length.
    """
    values = tokens.tolist()
    total = len(values)
    lengths = [total] * total
    left = right = 0
    for start in range(1, total):
        length = min(lengths[start - left], right - start) if start < right else 0
        while start + length < total and values[length] == values[start + length]:
            length += 1
        lengths[start] = length
        if start + length > right:
            left, right = start, start + length
    return lengths


def repeated_ngrams(history: Ints, size: int) -> Ints:
    """Tokens that would end an n-gram that the row has already (Paulus et al. 2017)."""
    if size == 0:
        return np.zeros(0, np.int64)
    backwards = history[::-1]
    starts = [i for i, n in enumerate(repeats(backwards)) if i > 0 and n >= size - 1]
    # A repetition of no tokens begins anywhere, before the first token too.
    return backwards[np.array(starts, np.int64) - 1] if size > 1 else np.unique(history)


def bad_ends(history: Ints, words: tuple[tuple[int, ...], ...]) -> Ints:
    """The last tokens of those sequences whose others the row ends with."""
    row = history.tolist()
    ends = [
        w[-1] for w in words if len(w) <= len(row) + 1 and row[len(row) + 1 - len(w) :] == [*w[:-1]]
    ]
    return np.array(ends, np.int64)


def _with(logits: Floats, ids: Ints, changed: npt.NDArray[np.floating]) -> Floats:
    """A copy in which these tokens have these logits, held in range; -Inf stays."""
    result = logits.copy()
    held = np.clip(changed, -LARGEST, LARGEST)
    result[ids] = np.where(np.isneginf(logits[ids]), logits[ids], held)
    return result
