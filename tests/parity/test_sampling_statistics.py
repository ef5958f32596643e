"""10^5 native draws of each sampler, and of mixtures, against the exact distribution.

The distribution is by the book: one token at a time, in float64, written without a look at the
definition. Seeds are fixed, so a test passes always or never.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE
from sampler_settings import ALONE

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.executor import native_sampling
from ridgeline.step import RowSampling

Doubles = npt.NDArray[np.float64]

VOCAB = 12
DRAWS = 100_000
VALUES = np.random.default_rng(11).normal(0, 1.5, VOCAB).astype(np.float32)
HISTORY = [3, 1, 4, 1, 5, 7, 3, 1, 4, 2, 5, 3, 1]


def book(how: RowSampling, history: list[int] = HISTORY) -> Doubles:
    """The probability of each token."""
    x = adjusted(how, history)
    p = softmax(x)
    heat = how.temperature
    if how.dynatemp_range:
        possible = [q for q in p.values() if q > 0]
        entropy = -sum(q * math.log(q) for q in possible)
        low, high = max(heat - how.dynatemp_range, 0), heat + how.dynatemp_range
        share = entropy / math.log(len(possible))
        heat = low + (high - low) * share**how.dynatemp_exponent
    z = {i: v / heat for i, v in x.items()}
    kept = filtered(z, how)
    final = spread(z, kept)
    if how.xtc_probability:
        left = softmax({i: z[i] for i in kept})
        top = [i for i in kept if left[i] >= how.xtc_threshold]
        without = spread(z, [i for i in kept if i not in top[:-1]])
        final = (1 - how.xtc_probability) * final + how.xtc_probability * without
    if how.mirostat_tau:
        left = softmax({i: z[i] for i in kept})
        few = [i for i in kept if -math.log2(left[i]) <= how.mirostat_mu]
        final = spread(z, few or kept[:1])
    return final


def adjusted(how: RowSampling, history: list[int]) -> dict[int, float]:
    """Logits after bias, penalties and bans; banned tokens are left out."""
    x = {i: float(v) for i, v in enumerate(VALUES)}
    for token, amount in how.logit_bias:
        x[token] += amount
    first = 0 if how.penalty_last_n < 0 else max(0, len(history) - how.penalty_last_n)
    for token in set(history[first:]):
        x[token] *= how.repetition_penalty ** (-1 if x[token] > 0 else 1)
    for token, times in Counter(history[max(first, how.num_prompt) :]).items():
        x[token] -= times * how.frequency_penalty + how.presence_penalty
    if how.dry_multiplier:
        for token, length in repetitions(how, history).items():
            x[token] -= how.dry_multiplier * how.dry_base ** (length - how.dry_allowed_length)
    banned = {word[-1] for word in how.bad_words if [*history, word[-1]][-len(word) :] == [*word]}
    if len(history) - how.num_prompt < how.min_tokens:
        banned |= set(how.stop_ids)
    size = how.no_repeat_ngram
    if size:
        grams = {tuple(history[i : i + size]) for i in range(len(history) - size + 1)}
        banned |= {i for i in x if tuple([*history, i][-size:]) in grams}
    allowed = set(x) if how.allowed_ids is None else set(how.allowed_ids)
    return {i: v for i, v in x.items() if i in allowed - banned}


def repetitions(how: RowSampling, history: list[int]) -> dict[int, int]:
    """Of each token that would lengthen a repetition, how long the longest is."""
    seen = history if how.dry_last_n < 0 else history[len(history) - how.dry_last_n :]
    found: dict[int, int] = {}
    for end in range(1, len(seen)):
        length = 0
        while length < end and seen[end - 1 - length] == seen[-1 - length]:
            if seen[-1 - length] in how.dry_breakers:
                break
            length += 1
        if length >= how.dry_allowed_length:
            found[seen[end]] = max(found.get(seen[end], 0), length)
    return found


def filtered(z: dict[int, float], how: RowSampling) -> list[int]:
    """Tokens that the filters before XTC leave, the likeliest first."""
    kept = sorted(z, key=lambda i: (-z[i], i))
    if how.top_n_sigma:
        sigma = float(np.std(list(z.values())))
        kept = [i for i in kept if z[i] >= z[kept[0]] - how.top_n_sigma * sigma]
    if how.top_k:
        kept = kept[: how.top_k]
    if how.typical_p < 1:
        p = softmax({i: z[i] for i in kept})
        entropy = -sum(q * math.log(q) for q in p.values())
        nearest = sorted(kept, key=lambda i: abs(-math.log(p[i]) - entropy))
        few = nearest[: needed([p[i] for i in nearest], how.typical_p)]
        kept = [i for i in kept if i in few]
    if how.top_p < 1:
        p = softmax({i: z[i] for i in kept})
        kept = kept[: needed([p[i] for i in kept], how.top_p)]
    if how.min_p:
        kept = [i for i in kept if math.exp(z[i] - z[kept[0]]) >= how.min_p]
    return kept


def needed(shares: list[float], mass: float) -> int:
    """How many of the first reach this mass."""
    total = 0.0
    for count, share in enumerate(shares, 1):
        total += share
        if total >= mass:
            return count
    return len(shares)


def softmax(x: dict[int, float]) -> dict[int, float]:
    largest = max(x.values())
    total = sum(math.exp(v - largest) for v in x.values())
    return {i: math.exp(v - largest) / total for i, v in x.items()}


def spread(z: dict[int, float], kept: list[int]) -> Doubles:
    out = np.zeros(VOCAB)
    for token, share in softmax({i: z[i] for i in kept}).items():
        out[token] = share
    return out


def chi_square_tail(statistic: float, freedom: int) -> float:
    """P(chi-square > statistic), by the Wilson-Hilferty cube root, to a few percent of itself."""
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(z / math.sqrt(2))


def chance(counts: npt.NDArray[np.int64], p: Doubles) -> float:
    """How often an exact sampler would be so far off; tokens expected less than 10 times are
    counted together.
    """
    expected = p * counts.sum()
    rare = expected < 10
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    if wanted[-1] == 0:
        seen, wanted = seen[:-1], wanted[:-1]
    if len(wanted) == 1:
        return float(seen[0] == counts.sum())
    return chi_square_tail(float(((seen - wanted) ** 2 / wanted).sum()), len(wanted) - 1)


def counted(how: RowSampling, isa: str, salt: int, history: list[int]) -> npt.NDArray[np.int64]:
    seeds = np.arange(DRAWS, dtype=np.uint64) + np.uint64(salt * DRAWS)
    tokens = np.array(history, np.int32)
    draws = _native.draw(isa, native_sampling(how), VALUES, tokens, seeds)
    assert draws.min() >= 0
    return np.bincount(draws, minlength=VOCAB)


TOGETHER = {
    "penalties": RowSampling(
        temperature=0.9,
        logit_bias=((2, 1.5), (9, -2.0)),
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        num_prompt=5,
    ),
    "bans": RowSampling(
        temperature=1.0,
        no_repeat_ngram=2,
        bad_words=((6,), (1, 8)),
        stop_ids=(0,),
        min_tokens=20,
        allowed_ids=(0, 2, 4, 5, 6, 8, 9, 10, 11),
    ),
    "dry and top-p": RowSampling(
        temperature=1.2, dry_multiplier=0.9, dry_base=1.5, dry_last_n=9, top_p=0.9
    ),
    "all cuts": RowSampling(
        temperature=1.5, top_n_sigma=1.6, top_k=9, typical_p=0.95, top_p=0.95, min_p=0.02
    ),
    "dynamic and min-p": RowSampling(temperature=1.1, dynatemp_range=0.6, min_p=0.05),
    "dynamic, xtc": RowSampling(
        temperature=1.1, dynatemp_range=0.6, top_p=0.97, xtc_probability=0.6, xtc_threshold=0.08
    ),
    "everything": RowSampling(
        logit_bias=((7, 0.7),),
        repetition_penalty=1.1,
        frequency_penalty=0.2,
        dry_multiplier=0.5,
        bad_words=((10,),),
        temperature=1.3,
        dynatemp_range=0.4,
        top_n_sigma=2.5,
        top_k=10,
        typical_p=0.98,
        top_p=0.98,
        min_p=0.01,
        xtc_probability=0.3,
        xtc_threshold=0.1,
        num_prompt=4,
    ),
    "penalised mirostat": RowSampling(
        temperature=0.9, presence_penalty=0.5, mirostat_tau=2.0, mirostat_mu=2.6
    ),
}
DRAWN = {name: how for name, how in (ALONE | TOGETHER).items() if how.temperature > 0}


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("name", DRAWN)
def test_draws_follow_the_distribution(isa: str, name: str) -> None:
    how = DRAWN[name]
    p = book(how)
    counts = counted(how, isa, list(DRAWN).index(name), HISTORY)
    assert counts[p == 0].sum() == 0
    assert chance(counts, p) > 1e-4, (counts, p * DRAWS)


def test_every_sampler_changes_the_distribution() -> None:
    """What is tested above is more than the plain softmax, many times over."""
    distributions = {name: book(how).round(9).tobytes() for name, how in DRAWN.items()}
    assert len(set(distributions.values())) > 0.75 * len(distributions)


def test_a_biased_sampler_would_be_seen() -> None:
    """Each parameter a little off is told from itself."""
    for name, field, off in [
        ("repetition", "repetition_penalty", 1.44),
        ("frequency", "frequency_penalty", 0.75),
        ("dynamic", "dynatemp_range", 0.8),
        ("xtc", "xtc_probability", 0.53),
        ("dry", "dry_multiplier", 1.0),
    ]:
        counts = counted(DRAWN[name], AVAILABLE[0], 99, HISTORY)
        assert chance(counts, book(replace(DRAWN[name], **{field: off}))) < 1e-4, name
        assert chance(counts, book(DRAWN[name])) > 1e-4, name


def test_the_tail_is_that_of_the_table() -> None:
    assert chi_square_tail(19.675, 11) == pytest.approx(0.05, rel=0.02)
    assert chi_square_tail(31.264, 11) == pytest.approx(0.001, rel=0.1)
