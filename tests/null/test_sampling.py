"""Sampling: the generator's known answers, each rule by hand, draws against their distribution."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from small_graphs import Decoder, RandomWeights, decoder

from ridgeline.backends.reference import philox as philox_module
from ridgeline.backends.reference.adjust import penalise
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.backends.reference.filters import candidates
from ridgeline.backends.reference.philox import philox4x32, uniform
from ridgeline.backends.reference.sample import choose, gumbel, sample
from ridgeline.model.graph.node import Weight
from ridgeline.step import PlanRow, RowSampling, Sampled, StepPlan

Floats = npt.NDArray[np.float32]

# Random123's known answers for philox4x32-10: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert tuple(int(word) for word in philox4x32(counter, key)) == words


def test_philox_broadcasts_counters() -> None:
    together = philox4x32((7, 0, np.arange(5), 0), (1, 2))
    for token in range(5):
        alone = philox4x32((7, 0, token, 0), (1, 2))
        assert [int(word[token]) for word in together] == [int(word) for word in alone]


def test_a_strips_luckiest_has_the_strips_word_and_the_others_come_later() -> None:
    """Written out again, token by token."""
    ids = np.arange(0, 2100)
    found = gumbel(ids, position=5, seed=3)

    def time(counter: int, word: int, kind: int) -> float:
        words = philox4x32((5, 0, counter, kind), (3, 0))
        return -math.log((int(words[word]) + 0.5) / 2**32)

    for strip in (0, 1, 16, 63, 64):
        own = [
            time(i // 64 * 16 + i % 16, i % 64 // 16, 0) for i in range(32 * strip, 32 * strip + 32)
        ]
        first = time(strip // 64 * 16 + strip % 16, strip % 64 // 16, 2) / 32
        for i, each in enumerate(own):
            assert found[32 * strip + i] == np.float32(-math.log(first + (each - min(own))))
    some = np.array([2099, 40, 41, 7])
    assert gumbel(some, 5, 3).tolist() == found[some].tolist()
    both = gumbel(some, np.array([[4], [5]]), 3)
    assert both[0].tolist() == gumbel(some, 4, 3).tolist()
    assert both[1].tolist() == found[some].tolist()


def test_noise_of_tokens_is_gumbel_each_by_itself() -> None:
    """Of one strip over many positions: each token's noise, and whether two are lucky together."""
    positions = np.arange(1, 40_001)[:, None]
    times = np.exp(-gumbel(np.arange(96), positions, seed=21).astype(np.float64))
    below = np.sort(1 - np.exp(-times[:, [0, 31, 32, 70]]), axis=0)
    even = (np.arange(len(below)) + 0.5) / len(below)
    assert np.abs(below - even[:, None]).max() < 1.95 / math.sqrt(len(below))  # Kolmogorov, 0.1 %
    early = times < 0.1
    expected = (1 - math.exp(-0.1)) ** 2 * len(early)
    for other in (1, 31, 32, 95):
        assert abs((early[:, 0] & early[:, other]).sum() - expected) < 4 * math.sqrt(expected)
    assert np.abs(np.corrcoef(times[:, :40].T) - np.eye(40)).max() < 5 / math.sqrt(len(times))


def test_every_token_has_a_word_of_its_own() -> None:
    """Of three counters' blocks and a part of a fourth, whatever shape they come in."""
    found = uniform(np.arange(200), 3, seed=9)
    assert len(set(found.tolist())) == 200
    words = philox4x32((3, 0, np.arange(64), 0), (9, 0))
    assert {int(u * 2**32) for u in found} == {
        int(words[w][c])
        for w in range(4)
        for c in range(64)
        if c // 16 * 64 + 16 * w + c % 16 < 200
    }
    together = uniform(np.arange(200), np.array([[3], [4]]), seed=9)
    assert together[0].tolist() == found.tolist()
    assert together[1].tolist() == uniform(np.arange(200), 4, seed=9).tolist()


def test_noise_depends_on_every_bit_of_seed_and_position() -> None:
    ids = np.arange(4)
    seen = {gumbel(ids, p, s).tobytes() for p in (0, 1, 2**32) for s in (0, 1, 2**32, -1)}
    assert len(seen) == 12
    assert gumbel(ids, 5, -1).tobytes() == gumbel(ids, 5, 2**64 - 1).tobytes()


def test_noise_is_finite_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """u is in the middle of its 2^-32, so the smallest and the largest word do no harm."""
    ends = np.array([0, 2**32 - 1], np.uint64)
    monkeypatch.setattr(
        philox_module, "philox4x32", lambda counter, key: (ends[np.asarray(counter[2]) % 2],) * 4
    )
    assert np.isfinite(gumbel(np.arange(64), 0, 0)).all()
    # One strip's word is the smallest, the other's the largest; so are its tokens'.
    first, last = 33 * math.log(2) / 32, (2.0**-33 + 2.0**-67) / 32
    apart = 33 * math.log(2) - 2.0**-33
    expected = [first + apart, first, last + apart, last]
    assert gumbel(np.array([0, 1, 32, 33]), 0, 0) == pytest.approx(-np.log(expected), rel=1e-6)


def logits(*values: float) -> Floats:
    return np.array(values, np.float32)


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    assert choose(logits(1, 3, 3, 2), [0], RowSampling()) == 1


def test_penalty_divides_what_is_positive_and_multiplies_what_is_not() -> None:
    found = penalise(logits(2, -2, 0, 4), np.array([0, 1, 1, 2]), 2.0)
    assert found.tolist() == [1, -4, 0, 4]
    assert penalise(logits(2, -2), np.array([0]), 1.0).tolist() == [2, -2]


def test_penalty_comes_before_the_argmax_and_counts_the_prompt() -> None:
    assert choose(logits(3, 2.9, 1), [0], RowSampling(repetition_penalty=1.2)) == 1


def kept(values: Floats, **how: float) -> list[int]:
    sampling = RowSampling(temperature=1.0, **how)  # type: ignore[arg-type]
    return [int(i) for i in candidates(values, sampling)]


def test_top_k_keeps_the_likeliest_lower_ids_first() -> None:
    assert kept(logits(1, 5, 3, 3, 3), top_k=3) == [1, 2, 3]
    assert kept(logits(1, 5, 3), top_k=3) == [0, 1, 2]
    assert kept(logits(1, 5, 3), top_k=9) == [0, 1, 2]
    assert kept(logits(1, 5, 5), top_k=1) == [1]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    """Probabilities 1/8, 1/2, 1/4, 1/8, exact in binary."""
    values = np.log(logits(1, 4, 2, 1))
    values[1], values[2] = np.float32(math.log(4)), np.float32(math.log(2))
    assert kept(values, top_p=0.4) == [1]
    assert kept(values, top_p=0.51) == [1, 2]
    assert kept(values, top_p=0.74) == [1, 2]
    assert kept(values, top_p=0.8) == [0, 1, 2]
    assert kept(values, top_p=0.99) == [0, 1, 2, 3]
    assert kept(logits(0, 0, 0, 0), top_p=0.5) == [0, 1], "reached is enough"


def test_top_p_looks_at_what_top_k_left() -> None:
    """Of 4, 3, 2, 1 tenths, the first two are 4/7 and 3/7: half is reached by one."""
    values = np.log(logits(4, 3, 2, 1))
    assert kept(values, top_p=0.5) == [0, 1]
    assert kept(values, top_p=0.5, top_k=2) == [0]


def test_min_p_is_relative_to_the_likeliest() -> None:
    values = np.log(logits(1, 8, 4, 2))
    assert kept(values, min_p=0.2) == [1, 2, 3]
    assert kept(values, min_p=0.3) == [1, 2]
    assert kept(values, min_p=1.0) == [1]


def test_impossible_tokens_never_come() -> None:
    values = logits(-math.inf, 0, -math.inf, 0)
    drawn = {choose(values, [0] * n, RowSampling(temperature=1.0)) for n in range(1, 200)}
    assert drawn == {1, 3}


def test_a_temperature_that_overflows_is_still_an_order() -> None:
    how = RowSampling(temperature=1e-5, top_p=0.9, min_p=0.1)
    assert choose(logits(-1e38, 1e38, 3e38, 0), [0], how) == 1, "both are the largest float32"
    assert choose(logits(-1, -2, -math.inf), [0], replace(how, temperature=1e-44)) == 0
    assert choose(logits(1, 2, 0), [0], replace(how, temperature=1e-50)) == 1, "that is 0"


def test_a_penalty_of_almost_nothing_is_still_an_order() -> None:
    how = RowSampling(repetition_penalty=1e-50, temperature=1.0, top_k=2)
    assert choose(logits(0, 1, 2), [0, 1], how) == 1


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (logits(0, math.nan), "the logits have NaN"),
        (logits(0, math.inf), "the logits have +Inf"),
        (logits(-math.inf, -math.inf), "every logit is -Inf: no token is possible"),
    ],
)
def test_a_fault_says_what_is_wrong(values: Floats, fault: str) -> None:
    result = sample(3, values, [0], RowSampling(temperature=1.0, num_logprobs=2))
    assert result == Sampled(3, -1, fault=fault)


def test_logprobs_are_the_models_own() -> None:
    """Neither penalty nor temperature nor top_k is in them."""
    values = np.log(logits(1, 4, 2, 1))
    how = RowSampling(repetition_penalty=5.0, temperature=0.3, top_k=1, num_logprobs=3)
    result = sample(0, values, [0, 1], how)
    assert result.token_id in range(4)
    exact = np.log([1 / 8, 4 / 8, 2 / 8, 1 / 8])
    assert result.logprob == pytest.approx(exact[result.token_id], abs=1e-6)
    assert [token for token, _ in result.top_logprobs] == [1, 2, 0]
    assert [p for _, p in result.top_logprobs] == pytest.approx(exact[[1, 2, 0]], abs=1e-6)
    only = sample(0, values, [0], replace(how, num_logprobs=0))
    assert only.top_logprobs == ()
    assert only.logprob < 0
    assert sample(0, values, [0], replace(how, num_logprobs=-1)).logprob == 0.0


# ---- draws against the exact distribution

VOCAB = 12
DRAWS = 100_000


def exact(values: Floats, how: RowSampling) -> npt.NDArray[np.float64]:
    """The distribution by the book, one token at a time, in float64; ties do not arise."""
    scaled = values.astype(np.float64) / how.temperature
    p = np.exp(scaled - scaled.max())
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if how.top_k:
        order = order[: how.top_k]
    left = sum(p[i] for i in order)
    reached, nucleus = 0.0, []
    for i in order:
        nucleus.append(i)
        reached += p[i] / left
        if reached >= how.top_p:
            break
    final = [i for i in nucleus if p[i] >= how.min_p * p[order[0]]]
    result = np.zeros(len(p))
    result[final] = p[final] / p[final].sum()
    return result


def chi_square_tail(statistic: float, freedom: int) -> float:
    """P(chi-square > statistic), by the Wilson-Hilferty cube root, to a few percent of itself."""
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(z / math.sqrt(2))


SETTINGS = [
    RowSampling(temperature=1.0),
    RowSampling(temperature=0.5, seed=1),
    RowSampling(temperature=2.0, seed=2**40 + 7),
    RowSampling(temperature=1.0, top_k=4, seed=3),
    RowSampling(temperature=1.0, top_p=0.8, seed=4),
    RowSampling(temperature=1.0, min_p=0.2, seed=5),
    RowSampling(temperature=1.3, top_k=6, top_p=0.9, seed=6),
    RowSampling(temperature=0.8, top_k=8, top_p=0.95, min_p=0.1, seed=-7),
]


VALUES = np.random.default_rng(11).normal(0, 1.5, VOCAB).astype(np.float32)


def check_draws(draws: npt.NDArray[np.int64], how: RowSampling) -> None:
    p = exact(VALUES, how)
    possible = p > 0
    counts = np.bincount(draws, minlength=VOCAB)
    assert possible.sum() > 1
    assert counts[~possible].sum() == 0
    expected = len(draws) * p[possible]
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    assert chi_square_tail(statistic, int(possible.sum()) - 1) > 1e-4


@pytest.mark.parametrize("how", SETTINGS, ids=lambda how: f"seed{how.seed}")
def test_draws_over_positions_follow_the_distribution(how: RowSampling) -> None:
    """One seed, as in a long answer: `choose` for many positions at once, and some one by one."""
    scaled = VALUES / np.float32(how.temperature)
    ids = candidates(scaled, how)
    positions = np.arange(1, DRAWS + 1)
    draws = ids[(scaled[ids] + gumbel(ids, positions[:, None], how.seed)).argmax(axis=1)]
    for position in range(1, 2000, 97):
        assert choose(VALUES, [0] * position, how) == draws[position - 1]
    check_draws(draws, how)


@pytest.mark.parametrize("how", [SETTINGS[0], SETTINGS[-1]], ids=lambda how: f"seed{how.seed}")
def test_draws_over_seeds_follow_the_distribution(how: RowSampling) -> None:
    """Many requests with the same prompt."""
    prompt = [0] * 10
    draws = [choose(VALUES, prompt, replace(how, seed=how.seed + n)) for n in range(5000)]
    check_draws(np.array(draws), how)


def test_the_test_would_see_a_biased_draw() -> None:
    """A twentieth of one token's probability moved to another is far outside."""
    p = np.full(VOCAB, 1 / VOCAB)
    biased = p.copy()
    biased[0], biased[1] = 0.95 * p[0], 1.05 * p[1]
    statistic = float((DRAWS * (biased - p) ** 2 / p).sum())
    assert chi_square_tail(statistic, VOCAB - 1) < 1e-4
    assert chi_square_tail(19.675, 11) == pytest.approx(0.05, rel=0.02)
    assert chi_square_tail(31.264, 11) == pytest.approx(0.001, rel=0.1)


# ---- in the executor

PROMPT = [3, 1, 4, 1, 5]


def run(*rows: tuple[list[int], RowSampling], steps: int = 6) -> list[list[int]]:
    graph = decoder(Decoder(layers=1))
    executor = ReferenceExecutor(graph, RandomWeights(graph), num_blocks=8, max_rows=len(rows))
    answers: list[list[int]] = [[] for _ in rows]
    for index, (prompt, how) in enumerate(rows):
        executor.open_row(index, prompt, how)
    for n in range(steps):
        plan = [
            PlanRow(i, len(prompt), 0, 1, (2 * i, 2 * i + 1))
            if n == 0
            else PlanRow(i, 1, len(prompt) + n - 1, 1)
            for i, (prompt, _) in enumerate(rows)
        ]
        executor.submit(StepPlan(tuple(plan)))
        for sampled in executor.collect().sampled:
            answers[sampled.row].append(sampled.token_id)
    return answers


def test_an_answer_follows_from_prompt_parameters_and_seed() -> None:
    how = RowSampling(temperature=1.0, top_p=0.95, seed=5)
    (alone,) = run((PROMPT, how))
    beside = run(([7, 7], RowSampling(temperature=2.0)), (PROMPT, how), (PROMPT, RowSampling()))
    assert beside[1] == alone
    (other,) = run((PROMPT, replace(how, seed=6)))
    assert other != alone
    (greedy,) = run((PROMPT, RowSampling()))
    assert beside[2] == greedy


def test_a_prompt_continued_draws_what_the_answer_would_have() -> None:
    """The noise goes by position, not by how many tokens were drawn."""
    how = RowSampling(temperature=1.0, seed=9)
    (whole,) = run((PROMPT, how))
    (rest,) = run((PROMPT + whole[:3], how), steps=3)
    assert rest == whole[3:]


def test_a_fault_touches_one_row() -> None:
    """One token's embedding is NaN: the row that has it ends, its neighbour goes on."""

    class Poisoned(RandomWeights):
        def float32(self, weight: Weight) -> Floats:
            numbers = super().float32(weight)
            if weight.name == "embed.weight":
                numbers[9] = np.nan
            return numbers

    graph = decoder(Decoder(layers=1))
    executor = ReferenceExecutor(graph, Poisoned(graph), num_blocks=4, max_rows=2)
    executor.open_row(0, [1, 9, 2], RowSampling())
    executor.open_row(1, PROMPT, RowSampling())
    executor.submit(StepPlan((PlanRow(0, 3, 0, 1, (0,)), PlanRow(1, 5, 0, 1, (1,)))))
    bad, good = executor.collect().sampled
    assert (bad.row, bad.token_id, bad.fault) == (0, -1, "the logits have NaN")
    assert good.fault is None
    assert [good.token_id] == run((PROMPT, RowSampling()), steps=1)[0]
