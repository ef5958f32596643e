"""What makes logits with a screen: the tokens of all logits, whatever the numbers are."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, Floats, Stored
from test_determinism import arrays
from test_determinism import model as tiny_model

from ridgeline.assemble import CPU_PRECISION
from ridgeline.backends.cpu import packed_weights
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.cpu.program import ProgramLimits, predict_memory
from ridgeline.backends.reference.sample import gumbel
from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Request
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.graph.ops import Embed, Linear, SelectRows
from ridgeline.model.passes import screen
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.screen import SCREENED_FORMATS, with_screen
from ridgeline.step import PlanRow, RowSampling, Sampled, StepPlan, StepShape

ISAS = AVAILABLE
CHANNELS, MOST_ROWS = 4100, 24  # not a whole number of strips
# Rows of a step from which a head in integers is screened by its activations' first terms.
TERM_ROWS = 8
GREEDY = RowSampling()
SOURCE: object = ["a file", 1]
LIMITS = {"num_blocks": 32, "max_rows": MOST_ROWS, "max_tokens_per_step": 64}


def head(format_name: str, rows: int, width: int, channels: int = CHANNELS) -> Graph:
    """Row i of the input is token i, and the logits are a weight's."""
    b = Builder("one", lambda name: FORMATS[format_name if name == "w" else "F32"])
    x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", rows, width),))
    x = b.one("select", SelectRows(), x)
    w = b.weight("w", channels, width)
    return with_screen(b.finish(b.one("head", Linear(), x, weights=(w,)), 64))


def executor(
    graph: Graph,
    x: npt.NDArray[np.floating],
    w: npt.NDArray[np.floating],
    isa: str,
    threads: int,
    learned_rows: int = 2,
    **limits: int,
) -> CpuExecutor:
    return CpuExecutor(
        graph,
        Stored({"table": x, "w": w}),
        max_logits_per_step=64,
        threads=threads,
        isa=isa,
        learned_rows=learned_rows,
        **(LIMITS | limits),
    )


def draw(cpu: CpuExecutor, tokens: list[int], how: RowSampling = GREEDY) -> list[Sampled]:
    """What each token alone is followed by, all of them in one step."""
    for row, token in enumerate(tokens):
        cpu.open_row(row, [token], how)
    cpu.submit(StepPlan(tuple(PlanRow(row, 1, 0, 1, (row,)) for row in range(len(tokens)))))
    found = cpu.collect().sampled
    for row in range(len(tokens)):
        cpu.close_row(row)
    return list(found)


def learn(cpu: CpuExecutor, rows: int) -> None:
    """Steps after which it screens."""
    for step in range(40):
        draw(cpu, [step % rows])
    assert cpu.screened[0] > 0


def logits(cpu: CpuExecutor, rows: int) -> Floats:
    cpu.open_row(0, list(range(rows)), GREEDY)
    blocks = tuple(range(-(-rows // 16)))
    try:
        return cpu.forward(StepPlan((PlanRow(0, rows, 0, rows, blocks),)))
    finally:
        cpu.close_row(0)


def check(cpu: CpuExecutor, rows: int, by: int, turns: int = 1) -> int:
    """Draws every row, `by` in a step, and again; strips that were read for a row on average. Where
    that is nearly all it pauses, hence turns.
    """
    expected = logits(cpu, rows).argmax(axis=1)
    before = cpu.screened
    for first in [*range(0, rows, by)] * turns:
        tokens = list(range(first, min(first + by, rows)))
        found = [one.token_id for one in draw(cpu, tokens)]
        assert found == expected[tokens].tolist()
    screened, read = (after - was for after, was in zip(cpu.screened, before, strict=True))
    assert screened > 0
    return read // screened


def activations(rng: np.random.Generator, rows: int, width: int) -> Floats:
    """Few channels have most of the magnitude, as behind a model's last norm."""
    x = rng.standard_normal((rows, width))
    x[:, rng.integers(0, width, 3)] *= 20
    return x.astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SCREENED_FORMATS)
def test_the_likeliest_token_is_that_of_all_logits(name: str, isa: str) -> None:
    rng = np.random.default_rng(len(name))
    width, rows = 512 if name == "Q6_K" else 544, 24
    x, w = activations(rng, rows, width), rng.standard_normal((CHANNELS, width)) * 0.05
    for i in range(0, rows, 2):  # half of the rows are like a channel's weights: a clear answer
        w[37 * i] = 0.05 * x[i] / np.abs(x[i]).mean()
    cpu = executor(head(name, rows, width), x, w, isa, threads=2)
    learn(cpu, rows)
    for by in (1, 2, TERM_ROWS - 1, TERM_ROWS, MOST_ROWS):
        assert check(cpu, rows, by) < -(-CHANNELS // 32) // 2  # most of the weights were not read


@pytest.mark.parametrize("how", [GREEDY, RowSampling(temperature=0.5, seed=4)], ids=["0", "0.5"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ISAS)
def test_no_logit_is_what_lay_there_before(isa: str, threads: int, how: RowSampling) -> None:
    """A row keeps no logits but those that it may draw: what loud rows left in the others' place is
    not taken for one. So many channels that a thread makes its logits in several blocks.
    """
    rng = np.random.default_rng(8)
    width, rows, channels = 96, 2 * MOST_ROWS, 5 * CHANNELS
    x = activations(rng, rows, width)
    x[:MOST_ROWS] = 1e3 * rng.permuted(x[MOST_ROWS:], axis=1)
    w = rng.standard_normal((channels, width)) * 0.05
    cpu = executor(head("Q8_0", rows, width, channels), x, w, isa, threads)
    learn(cpu, rows)
    loud, quiet = np.split(logits(cpu, rows), 2)
    noise = gumbel(np.arange(channels), 1, how.seed) if how.temperature else np.float32(0)
    expected = (quiet / np.float32(how.temperature or 1) + noise).argmax(axis=1)
    assert loud.max(axis=1).min() > 10 * quiet.max()
    before = cpu.screened[0]
    for by in (1, 2, TERM_ROWS - 1, TERM_ROWS, MOST_ROWS):
        for first in range(0, MOST_ROWS, by):
            logits(cpu, rows)  # the loud ones' lie where the first rows' are to be
            tokens = list(range(first, min(first + by, MOST_ROWS)))
            found = draw(cpu, [MOST_ROWS + token for token in tokens], how)
            assert [one.token_id for one in found] == expected[tokens].tolist()
    assert cpu.screened[0] > before


@pytest.mark.parametrize("isa", ISAS)
def test_channels_closer_than_the_screen_can_tell(isa: str) -> None:
    """Thousands differ from each other by less than what their copies are off by; some are equal:
    then the lowest is the token.
    """
    rng = np.random.default_rng(3)
    width, rows = 96, 20
    x = activations(rng, rows, width)
    base = rng.standard_normal(width)
    w = base + 0.02 * rng.standard_normal((CHANNELS, width))
    w[[700, 1900, 4099]] = w[5] = base + 0.05 * np.sign(x[0])
    for threads in (1, 2):
        cpu = executor(head("Q8_0", rows, width), x, w, isa, threads)
        learn(cpu, rows)
        check(cpu, rows, by=1, turns=8)
        check(cpu, rows, by=5, turns=32)
        check(cpu, rows, by=rows, turns=32)
        assert draw(cpu, [0])[0].token_id == 5


@pytest.mark.parametrize("name", ["Q8_0", "BF16"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_copy_that_is_far_off(name: str, isa: str) -> None:
    """One weight of each of its groups is so large that all others have few steps: by the copy
    alone another channel is the likeliest of nearly every row.
    """
    rng = np.random.default_rng(12)
    width, rows = 512, 24
    x, w = rng.standard_normal((rows, width)), rng.standard_normal((CHANNELS, width))
    w[:, ::32] *= 20
    x[:, ::32] = 0
    cpu = executor(head(name, rows, width), x, w, isa, threads=2)
    learn(cpu, rows)
    for by in (1, 6):
        check(cpu, rows, by, turns=8)


@pytest.mark.parametrize("name", ["Q6_K", "Q8_0", "BF16"])
@pytest.mark.parametrize("isa", ISAS)
def test_rows_that_are_all_of_one_direction(name: str, isa: str) -> None:
    """Then nothing is left for the bound but what kernels round, by which channels differ here."""
    rng = np.random.default_rng(8)
    width, rows = 512, 20
    x = rng.uniform(0.5, 2, (rows, 1)) * activations(rng, 1, width)
    base = rng.standard_normal(width)
    w = base * (1 + 2e-4 * rng.standard_normal((CHANNELS, 1))) * np.sign(base @ x[0])
    cpu = executor(head(name, rows, width), x, w, isa, threads=2)
    learn(cpu, rows)
    check(cpu, rows, by=1, turns=4)
    check(cpu, rows, by=rows, turns=40)


@pytest.mark.parametrize("name", ["Q8_0", "F32"])
@pytest.mark.parametrize("isa", ISAS)
def test_what_it_never_saw_and_what_is_no_number(isa: str, name: str) -> None:
    """It learns from rows that are nothing like those that follow. Rows that are not finite are
    faults, of their own only.
    """
    rng = np.random.default_rng(4)
    width, rows = 128, 12
    x = np.zeros((rows, width), np.float32)
    x[:2, 0] = 1.0  # what is learned from
    x[2:6] = activations(rng, 4, width)
    x[6] = 1e30 * x[2]
    x[7] = 1e-30 * x[2]
    x[8, 3] = np.nan
    x[9, 3] = np.inf
    x[10, 64:] = 5.0
    w = rng.standard_normal((CHANNELS, width))
    if name == "F32":  # beyond what the copy's scales can say
        w[11] *= 1e8
        w[12] *= 1e-12
    cpu = executor(head(name, rows, width), x, w, isa, threads=2)
    learn(cpu, 2)
    whole = [draw(cpu, [i], RowSampling(num_logprobs=0))[0] for i in range(rows)]
    for i in range(rows):
        one = draw(cpu, [i])[0]
        assert (one.token_id, one.fault) == (whole[i].token_id, whole[i].fault), i
    assert whole[8].fault is not None
    assert whole[9].fault is not None
    for tokens in ([3, 8, 9, 4, 5], [6, 7, 3, 8, 9, 4, 11, 10, 2, 5]):
        for _ in range(20):  # where it pauses, the last of them does not
            before, found = cpu.screened[0], draw(cpu, tokens)
            assert [one.token_id for one in found] == [whole[i].token_id for i in tokens]
            assert [one.fault for one in found] == [whole[i].fault for i in tokens]
            if cpu.screened[0] == before + len(tokens):
                break
        assert cpu.screened[0] > before


@pytest.mark.parametrize(
    "how",
    [
        RowSampling(num_logprobs=2),
        RowSampling(temperature=0.7, seed=3, num_logprobs=0),
        RowSampling(temperature=0.7, seed=3, typical_p=0.9, min_p=0.1),
        RowSampling(temperature=0.7, seed=3, min_p=0.1, xtc_probability=0.5),
        RowSampling(temperature=0.7, seed=3, dynatemp_range=0.2),
        RowSampling(temperature=0.7, seed=3, top_n_sigma=1.0),
        RowSampling(temperature=0.7, seed=3, mirostat_tau=5.0, mirostat_mu=10.0),
        RowSampling(temperature=1e-4, seed=3, min_p=0.1),
        RowSampling(temperature=0.7, seed=3, presence_penalty=-0.2),
        RowSampling(logit_bias=((77, 50.0),)),
        RowSampling(repetition_penalty=0.8),
        RowSampling(frequency_penalty=-0.1),
        RowSampling(allowed_ids=(9, 8)),
        RowSampling(bad_words=((5,),)),
        RowSampling(min_tokens=4, stop_ids=tuple(range(17))),
        RowSampling(no_repeat_ngram=2),
        RowSampling(dry_multiplier=0.8),
    ],
)
def test_rows_that_want_more_get_all_logits(how: RowSampling) -> None:
    rng = np.random.default_rng(5)
    width, rows = 64, 4
    x, w = activations(rng, rows, width), rng.standard_normal((CHANNELS, width))
    graph = head("Q8_0", rows, width)
    cpu = executor(graph, x, w, ISAS[0], threads=2)
    learn(cpu, rows)
    before = cpu.screened
    plain = executor(_unscreened(graph), x, w, ISAS[0], threads=2)
    tokens = list(range(rows))
    assert draw(cpu, tokens, how) == draw(plain, tokens, how)
    assert cpu.screened == before
    # One such row in a step is enough.
    for row, each in enumerate((GREEDY, how)):
        cpu.open_row(row, [row], each)
    cpu.submit(StepPlan((PlanRow(0, 1, 0, 1, (0,)), PlanRow(1, 1, 0, 1, (1,)))))
    assert cpu.collect().sampled[1].token_id == draw(plain, [0, 1], how)[1].token_id
    assert cpu.screened == before


DRAWS = [
    RowSampling(temperature=1.0),
    RowSampling(temperature=0.7),
    RowSampling(temperature=1.7),
    RowSampling(temperature=1e-30),  # every score is the largest float, or the lowest
    RowSampling(temperature=0.8, min_p=0.05),
    RowSampling(temperature=1.2, min_p=1.0),
    RowSampling(temperature=1.3, top_k=100, min_p=0.01),
    RowSampling(temperature=0.7, top_k=1),
    RowSampling(temperature=1.5, top_k=3),
    RowSampling(temperature=1.0, top_p=0.9),
    RowSampling(temperature=1.5, top_p=0.5),
    RowSampling(temperature=0.7, top_k=20, top_p=0.8),
    RowSampling(temperature=1.5, top_k=4, top_p=0.7, min_p=0.01),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("how", DRAWS, ids=repr)
def test_draws_are_those_of_all_logits(how: RowSampling, isa: str) -> None:
    """With noise or a filter, of rows with a clear answer and of flat ones, alone and in company.

    Some weights that nothing is multiplied with are large, so that the copy has but a few steps for
    the others: what it says without its bound is of no use.
    """
    rng = np.random.default_rng(11)
    width, rows = 256, 16
    x, w = activations(rng, rows, width), rng.standard_normal((CHANNELS, width)) * 0.05
    x[:, ::32] = 0
    for i in range(0, rows, 2):  # some stand out, within a few of each other
        for channel in rng.integers(0, CHANNELS, 12):
            w[channel] = rng.uniform(16, 20) * x[i] / (x[i] @ x[i])
    w[:, ::32] = 6 * np.abs(w).mean(axis=1, keepdims=True)
    w[[50, 2050]] = w[37]  # equal but for their noise
    graph = head("BF16", rows, width)
    cpu = executor(graph, x, w, isa, threads=2)
    plain = executor(_unscreened(graph), x, w, isa, threads=2)
    learn(cpu, rows)
    before, tokens = cpu.screened, list(range(rows))
    for seed in range(12):
        each = replace(how, seed=seed)
        whole = [draw(plain, [token], each)[0] for token in tokens]
        assert [draw(cpu, [token], each)[0] for token in tokens] == whole
        together = draw(cpu, tokens[:MOST_ROWS], each)
        assert [one.token_id for one in together] == [one.token_id for one in whole[:MOST_ROWS]]
    assert len({one.token_id for one in whole}) > rows // 4
    assert cpu.screened[0] > before[0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["Q8_0", "BF16"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_tokens_that_may_not_come_yet_do_not(temperature: float, name: str, isa: str) -> None:
    """Ends before min_tokens: of all tokens the likeliest, in strips with others and without."""
    rng = np.random.default_rng(14)
    width, rows = 256, 16
    x, w = activations(rng, rows, width), rng.standard_normal((CHANNELS, width)) * 0.05
    ends = (70, 71, 2500, CHANNELS - 1)
    x[:, 5] = 10
    for place, channel in enumerate(ends):
        w[channel, 5] += 3 - 0.01 * place
    for i in range(rows):
        w[72 + i] += 15 * x[i] / (x[i] @ x[i])
    graph = head(name, rows, width)
    cpu = executor(graph, x, w, isa, threads=2)
    plain = executor(_unscreened(graph), x, w, isa, threads=2)
    learn(cpu, rows)
    for least, forbids in ((2, True), (1, False)):  # of an answer that has one
        how = RowSampling(temperature=temperature, seed=5, min_tokens=least, stop_ids=ends)
        before = cpu.screened[0]
        for by in (1, 6, rows):
            tokens = list(range(by))
            found = draw(cpu, tokens, how)
            assert found == draw(plain, tokens, how)
            assert forbids != any(one.token_id in ends for one in found)
        assert cpu.screened[0] == before + 7 + rows


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "how",
    [
        RowSampling(temperature=2.0, top_k=8),
        RowSampling(temperature=1.5, top_k=20, top_p=0.7, min_p=0.02),
        RowSampling(temperature=1.0, min_p=0.5),
        RowSampling(temperature=2.0, top_k=8, repetition_penalty=1.5),
    ],
    ids=repr,
)
def test_filters_that_leave_few_tokens_need_few_logits(how: RowSampling, isa: str) -> None:
    """Rows without an answer, of which what has won with its noise hardly ever passes."""
    rng = np.random.default_rng(21)
    width, rows, channels = 256, 16, 16_388
    x, w = activations(rng, rows, width), rng.standard_normal((channels, width)) * 0.05
    graph = head("Q8_0", rows, width, channels)
    alone, together, plain = (
        executor(of, x, w, isa, 2) for of in (graph, graph, _unscreened(graph))
    )
    for cpu in (alone, together):
        learn(cpu, rows)
    before, differ, strips = alone.screened, 0, channels // 32 + 1
    for seed in range(8):
        each, free = replace(how, seed=seed), RowSampling(temperature=how.temperature, seed=seed)
        for token in range(rows):
            found = draw(alone, [token], each)
            assert found == draw(plain, [token], each)
            differ += found != draw(plain, [token], free)
        for by in (6, rows):
            assert draw(together, list(range(by)), each) == draw(plain, list(range(by)), each)
    after = alone.screened
    assert after[0] - before[0] > 5 * rows  # steps are hardly paused
    assert differ > 6 * rows
    assert after[1] - before[1] < 0.35 * strips * (after[0] - before[0])
    assert together.screened[0] > before[0]


PENALTIES = [
    {"repetition_penalty": 1.2},
    {"frequency_penalty": 0.4},
    {"presence_penalty": 1.5, "penalty_last_n": 12},
    {"repetition_penalty": 1.05, "frequency_penalty": 0.2, "presence_penalty": 0.3},
    {"repetition_penalty": 1.1, "penalty_last_n": 20, "min_tokens": 900, "stop_ids": (64, 3700)},
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["Q8_0", "BF16"])
@pytest.mark.parametrize(
    "how",
    [
        GREEDY,
        RowSampling(temperature=0.8),
        RowSampling(temperature=0.7, top_k=20, top_p=0.8),
        RowSampling(temperature=1.1, min_p=0.05),
    ],
    ids=repr,
)
def test_what_their_tokens_take_from_rows(how: RowSampling, name: str, isa: str) -> None:
    """Penalties of a prompt and an answer that have said what the row is about, some of it often:
    the tokens of all logits, and other ones than without penalties.
    """
    rng = np.random.default_rng(17)
    width, rows = 256, 16
    x, w = activations(rng, rows, width), rng.standard_normal((CHANNELS, width)) * 0.05
    histories = []
    for i in range(rows):
        likely = rng.integers(0, CHANNELS, 10)
        for channel in likely:
            w[channel] = rng.uniform(8, 10) * x[i] / (x[i] @ x[i])
        seen = rng.choice(likely[:7], 20 + 2 * i)
        histories.append([*rng.integers(rows, CHANNELS, 10).tolist(), *seen.tolist(), i])
    graph = head(name, CHANNELS, width)
    table = np.zeros((CHANNELS, width), np.float32)
    table[:rows] = x
    cpu, plain = (
        executor(of, table, w, isa, 2, num_blocks=128, max_tokens_per_step=1024)
        for of in (graph, _unscreened(graph))
    )
    learn(cpu, rows)

    def answers(of: CpuExecutor, each: RowSampling, which: list[int]) -> list[int]:
        """The last token of each history is computed in the step that draws."""
        places = {row: tuple(range(4 * row, 4 * row + 4)) for row in range(len(which))}
        for row, i in enumerate(which):
            of.open_row(row, histories[i], replace(each, num_prompt=14, seed=each.seed + i))
        before = [
            PlanRow(row, len(histories[i]) - 1, 0, 0, places[row]) for row, i in enumerate(which)
        ]
        of.submit(StepPlan(tuple(before)))
        of.collect()
        of.submit(
            StepPlan(
                tuple(PlanRow(row, 1, len(histories[i]) - 1, 1, ()) for row, i in enumerate(which))
            )
        )
        found = [one.token_id for one in of.collect().sampled]
        for row in range(len(which)):
            of.close_row(row)
        return found

    for penalties in PENALTIES:
        each, differ = replace(how, **penalties), 0  # type: ignore[arg-type]
        for seed in range(3):
            each = replace(each, seed=100 * seed)
            whole = answers(plain, each, list(range(rows)))
            before = cpu.screened[0]
            assert answers(cpu, each, list(range(rows))) == whole
            assert [answers(cpu, each, [i])[0] for i in range(rows)] == whole
            assert answers(cpu, each, [3, 9, 4]) == [whole[i] for i in (3, 9, 4)]
            assert cpu.screened[0] > before
            unpunished = answers(plain, replace(how, seed=each.seed), list(range(rows)))
            differ += sum(a != b for a, b in zip(whole, unpunished, strict=True))
        assert differ > 0


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K"])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("how", [GREEDY, RowSampling(temperature=0.9, min_p=0.02)], ids=repr)
def test_first_terms_tell_nearly_all(how: RowSampling, isa: str, name: str) -> None:
    """Rows whose best channels are as far apart as second terms are: few strips, the same tokens;
    more rows than a copy serves.
    """
    rng = np.random.default_rng(15)
    width, rows = 512, 64
    x, w = activations(rng, rows, width), rng.standard_normal((CHANNELS, width)) * 0.02
    for i in range(rows):
        near = rng.standard_normal((3, width)) * 0.02
        for place in range(3):
            channel = (61 * i + 1300 * place) % CHANNELS
            w[channel] = near[place] + 12 * x[i] / (x[i] @ x[i]) * (1 + 1e-4 * place)
    graph = head(name, rows, width)
    made = [
        executor(of, x, w, isa, 2, learned_rows=8, num_blocks=80, max_rows=64)
        for of in (graph, _unscreened(graph))
    ]
    cpu, plain = made
    learn(cpu, rows)
    for by in (TERM_ROWS, 33, 64):
        before = cpu.screened
        tokens = list(range(by))
        assert [one.token_id for one in draw(cpu, tokens, how)] == [
            one.token_id for one in draw(plain, tokens, how)
        ]
        screened, read = (now - was for now, was in zip(cpu.screened, before, strict=True))
        assert screened == by
        assert read / screened < 24


@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 1.0])
def test_mass_that_a_low_temperature_rounds(temperature: float) -> None:
    """Divided by it, logits of 50 are some 10^4, and float32's steps there some 10^-3 of a mass:
    more than a top_p may be beyond what stands before a token. Two tokens share all mass.
    """
    rng = np.random.default_rng(13)
    width, rows = 512, 64
    x, w = activations(rng, rows, width), rng.standard_normal((CHANNELS, width)) * 0.01
    for i in range(rows):
        first = 50 * x[i] / (x[i] @ x[i])
        w[64 * i], w[64 * i + 33] = first, first * (1 - rng.uniform(0.3, 2) * temperature / 50)
    graph = head("F32", rows, width)
    cpu = executor(graph, x, w, ISAS[0], threads=2)
    plain = executor(_unscreened(graph), x, w, ISAS[0], threads=2)
    learn(cpu, rows)
    z = logits(cpu, rows).astype(np.float64) / temperature
    mass = np.exp(z - z.max(axis=1, keepdims=True))
    shares = mass.max(axis=1) / mass.sum(axis=1)
    before = cpu.screened[0]
    for beyond in (-2e-4, 1.5e-4, 3e-4):
        for token in range(rows):
            how = RowSampling(temperature=temperature, top_p=float(shares[token] * (1 + beyond)))
            for seed in range(6):
                each = replace(how, seed=seed)
                assert draw(cpu, [token], each) == draw(plain, [token], each), (token, seed, beyond)
    assert cpu.screened[0] > before


def test_a_draw_reads_few_strips() -> None:
    """As few as a row that takes its largest, where one token has most of the mass."""
    rng = np.random.default_rng(12)
    width, rows = 544, 12
    x, w = activations(rng, rows, width), rng.standard_normal((CHANNELS, width)) * 0.05
    for i in range(rows):
        w[37 * i] = 0.5 * x[i] / np.abs(x[i]).mean()
    cpu = executor(head("Q8_0", rows, width), x, w, ISAS[0], threads=2)
    learn(cpu, rows)
    for how in (GREEDY, RowSampling(temperature=1.0), RowSampling(temperature=0.7, min_p=0.1)):
        before = cpu.screened
        for seed in range(4):
            for token in range(rows):
                draw(cpu, [token], replace(how, seed=seed))
        screened, read = (now - was for now, was in zip(cpu.screened, before, strict=True))
        assert screened == 4 * rows
        assert read / screened < 20


def _unscreened(graph: Graph) -> Graph:
    nodes = [
        replace(node, op=replace(node.op, screen=None)) if isinstance(node.op, Linear) else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize("isa", ISAS)
def test_whole_answers_are_the_same_in_any_company(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "LEAST_CHANNELS", 32)
    graph = fuse(tiny_model("Q8_0"))
    screened = with_screen(graph)
    assert screened != graph
    vocab = graph.outputs[0].shape[-1]
    assert isinstance(vocab, int)

    def answers(of: Graph, rows: int, threads: int) -> tuple[dict[str, list[int]], int]:
        cpu = CpuExecutor(
            of,
            Stored(arrays()),
            num_blocks=256,
            max_rows=rows,
            max_tokens_per_step=64,
            threads=threads,
            isa=isa,
            learned_rows=3,
        )
        engine = Engine(cpu, max_context=256, max_tokens_per_step=64)
        rng = np.random.default_rng(6)
        for i in range(10):
            prompt = rng.integers(0, vocab, 1 + 7 * i).tolist()
            how = RowSampling(seed=i, num_prompt=len(prompt), temperature=0.4 * (i % 3))
            engine.submit(Request(str(i), prompt, len(prompt), 40, how, frozenset()))
        found: dict[str, list[int]] = {}
        while engine.has_work:
            for event in engine.step():
                if event.token_id is not None:
                    found.setdefault(event.request_id, []).append(event.token_id)
        return found, cpu.screened[0]

    expected, none = answers(graph, 4, 2)
    assert none == 0
    for rows, threads in itertools.product((1, 3, 8), (1, 2)):
        found, count = answers(screened, rows, threads)
        assert found == expected, (rows, threads)
        assert count > 0


def test_where_a_screen_pays() -> None:
    def screen_of(name: str, channels: int = 8192, width: int = 512) -> object:
        b = Builder("one", lambda weight: FORMATS[name if weight == "w" else "F32"])
        x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", 9, width),))
        x = b.one("select", SelectRows(), x)
        y = b.one("head", Linear(), x, weights=(b.weight("w", channels, width),))
        (node,) = [n for n in with_screen(b.finish(y, 64)).nodes if n.name == "head"]
        return node.op.screen  # type: ignore[attr-defined]

    assert screen_of("Q8_0") is FORMATS["Q5_0"]
    assert screen_of("Q5_0") is None
    assert screen_of("Q8_0", channels=100) is None
    assert screen_of("BF16", width=520) is None  # no whole groups


def test_bytes_of_a_screened_step() -> None:
    (node,) = [n for n in head("BF16", 4, 512).nodes if n.name == "head"]
    whole = 2 * CHANNELS * 512

    def read(shape: StepShape) -> float:
        return node.op.cost(node, shape, CPU_PRECISION).weight_bytes

    decode = StepShape((1,), (9,), 1)
    assert read(decode) == pytest.approx(whole * (22 / 64 + 0.005))
    assert read(StepShape((1,) * 4, (9,) * 4, 4)) == pytest.approx(whole * (22 / 64 + 1 - 0.995**4))
    assert read(StepShape((1,) * 33, (9,) * 33, 33)) == whole
    assert read(StepShape((8,), (0,), 1)) == whole  # a prompt's step


def test_its_memory_is_known_before() -> None:
    graph = head("Q8_0", 8, 64)
    cpu = CpuExecutor(
        graph,
        Stored({"table": np.ones((8, 64)), "w": np.ones((CHANNELS, 64))}),
        max_logits_per_step=64,
        threads=2,
        isa=ISAS[0],
        **LIMITS,
    )
    limits = ProgramLimits(ISAS[0], 2, 8, MOST_ROWS, 64, 64)
    assert predict_memory(graph, limits) == cpu.memory()
    more = cpu.memory()["weights"] - predict_memory(_unscreened(graph), limits)["weights"]
    assert more >= FORMATS["Q5_0"].num_bytes((CHANNELS, 64))


def test_a_kept_screen_is_the_one_that_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weights, "LEAST_BYTES", 0)
    monkeypatch.setattr(packed_weights._native, "maps_in_huge_pages", lambda file: True)
    rng = np.random.default_rng(7)
    x, w = activations(rng, 8, 64), rng.standard_normal((CHANNELS, 64))
    graph = head("Q8_0", 8, 64)

    class Once(Stored):
        asked = 0

        def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
            Once.asked += weight.name == "w"
            return super().raw(weight)

    for turn in range(2):
        cpu = CpuExecutor(
            graph,
            Once({"table": x, "w": w}),
            max_logits_per_step=64,
            threads=2,
            isa=ISAS[0],
            learned_rows=2,
            packed_folder=tmp_path,
            source=["a file", 1],
            **LIMITS,
        )
        if turn == 0:
            learn(cpu, 8)
        check(cpu, 8, by=1)
        if turn == 0:  # another graph of the same weights is another file
            (kept,) = tmp_path.glob("*.packed")
            monkeypatch.setattr(packed_weights, "write", _no_packing)
    assert list(tmp_path.glob("*.packed")) == [kept]


def kept_screen(folder: Path, source: object = SOURCE, isa: str = ISAS[0]) -> CpuExecutor:
    rng = np.random.default_rng(7)
    x, w = activations(rng, 8, 64), rng.standard_normal((CHANNELS, 64))
    return CpuExecutor(
        head("Q8_0", 8, 64),
        Stored({"table": x, "w": w}),
        max_logits_per_step=64,
        threads=2,
        isa=isa,
        learned_rows=2,
        packed_folder=folder,
        source=source,
        **LIMITS,
    )


def test_what_was_learned_is_kept(tmp_path: Path) -> None:
    """The next program of the same weights screens its first step; one of others does not."""
    first = kept_screen(tmp_path)
    assert first.learns_from(1)
    learn(first, 8)
    (file,) = tmp_path.iterdir()
    second = kept_screen(tmp_path)
    assert not second.learns_from(1)
    read = check(second, 8, by=1)
    assert second.screened[0] == 8
    assert read == check(first, 8, by=1)
    assert kept_screen(tmp_path, ["another file", 1]).learns_from(1)
    assert kept_screen(tmp_path, source=None).learns_from(1)
    assert all(kept_screen(tmp_path, isa=isa).learns_from(1) for isa in ISAS[1:])
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "link", "folder", "of another"])
def test_a_kept_screen_that_cannot_be_believed_is_learned_anew(damage: str, tmp_path: Path) -> None:
    """Whatever stands there does no harm, and what is learned then takes its place."""
    folder = tmp_path / "kept"
    learn(kept_screen(folder), 8)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:-4])
    elif damage == "changed":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        learn(kept_screen(folder, ["another file", 1]), 8)
        (other,) = (path for path in folder.iterdir() if path != file)
        other.replace(file)
    cpu = kept_screen(folder)
    assert cpu.learns_from(1)
    learn(cpu, 8)
    check(cpu, 8, by=1)
    if damage != "folder":
        assert not file.is_symlink()
        assert not kept_screen(folder).learns_from(1)


def test_numbers_that_no_screen_learns_are_refused(tmp_path: Path) -> None:
    cpu = kept_screen(tmp_path)
    with pytest.raises(ValueError, match="no screen has learned"):
        cpu._program.learned()
    learn(cpu, 8)
    learned = np.frombuffer(cpu._program.learned(), np.float32)
    fresh = kept_screen(tmp_path / "empty")._program
    for numbers in (learned[:-1], np.append(learned, 0), -np.abs(learned) - 1):
        assert not fresh.learn(numbers.astype(np.float32).tobytes())
    for place in (0, len(learned) - 1):
        for number in (np.nan, np.inf, -1.0):
            wrong = learned.copy()
            wrong[place] = number
            assert not fresh.learn(wrong.tobytes())
    assert not fresh.learn(learned.tobytes() + b"x")
    assert not fresh.has_learned
    assert fresh.learn(learned.tobytes())
    assert fresh.learned() == learned.tobytes()


def test_it_learns_anew_from_rows_unlike_those_it_learned_from(tmp_path: Path) -> None:
    """And then reads less, and keeps what it learned last."""
    rng = np.random.default_rng(9)
    width, rows = 512, 40
    x = rng.standard_normal((rows, width))
    x[:20, :4] *= 40  # few channels have most of the magnitude, and others in the second half
    x[20:, 200:204] *= 40
    w = rng.standard_normal((CHANNELS, width)) * 0.05
    cpu = CpuExecutor(
        head("Q8_0", rows, width),
        Stored({"table": x, "w": w}),
        max_logits_per_step=64,
        threads=2,
        isa=ISAS[0],
        learned_rows=8,
        packed_folder=tmp_path,
        source=SOURCE,
        **LIMITS,
    )
    learn(cpu, 20)
    (file,) = tmp_path.iterdir()
    first = file.read_bytes()
    reads = []
    for turn in range(800):
        before = cpu.screened
        draw(cpu, [20 + (turn + i) % 20 for i in range(2)])
        screened, read = (now - was for now, was in zip(cpu.screened, before, strict=True))
        if screened:
            reads.append(read / screened)
    assert np.mean(reads[-20:]) < 0.7 * np.mean(reads[:20])
    assert file.read_bytes() != first
    expected = logits(cpu, rows).argmax(axis=1)
    assert [draw(cpu, [token])[0].token_id for token in range(rows)] == expected.tolist()


def _no_packing(*_: object) -> None:
    raise AssertionError("the kept file was not used")
