"""Native sampling against the definition, on logits that a test chooses: a row whose last token is
i has row i of the table as its logits.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, Stored, executor, one_operator
from sampler_settings import ALONE, mixture

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.executor import native_sampling
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.backends.reference.sample import NOTHING_LEFT, choose, sample
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Scale
from ridgeline.step import PlanRow, RowSampling, Sampled, StepPlan

Floats = npt.NDArray[np.float32]
KINDS = ("normal", "flat", "peaked", "ties", "equal", "masked", "large")


def logits(kind: str, vocab: int) -> Floats:
    random = np.random.default_rng(len(kind) + vocab)
    x = random.normal(0, 3, (4, vocab))
    if kind == "flat":
        x = random.normal(0, 0.01, (4, vocab))
    elif kind == "peaked":
        x[:, vocab // 3] = 60.0
    elif kind == "ties":
        x = np.round(x)
    elif kind == "equal":
        x[:] = 1.5
    elif kind == "masked":
        x[random.random(x.shape) < 0.9] = -np.inf
        x[:, -1] = 0.5
    elif kind == "large":
        x *= 1e37
    return x.astype(np.float32)


def drawn(isa: str, table: Floats, how: RowSampling, draws: int) -> list[tuple[Sampled, list[int]]]:
    """What many rows with seeds of their own draw, and the tokens before each draw."""
    graph = one_operator(len(table), (table.shape[1],), lambda b, v: b.one("x", Scale(1.0), v[0]))
    cpu = executor(graph, {"table": table}, isa)
    rows = []
    for row in range(draws):
        tokens = [row % len(table)] * (row % 3 + 1)
        cpu.open_row(row, tokens, replace(how, seed=3 * row - 5))
        rows.append(PlanRow(row, len(tokens), 0, 1, (row,)))
    cpu.submit(StepPlan(tuple(rows)))
    return [(s, [s.row % len(table)] * (s.row % 3 + 1)) for s in cpu.collect().sampled]


def histories(rng: random.Random, vocab: int) -> list[list[int]]:
    """Short and long, of few tokens (so that they repeat themselves) and of many."""
    few = [rng.randrange(vocab) for _ in range(min(vocab, 4))]
    return [
        [rng.randrange(vocab)],
        [rng.choice(few) for _ in range(9)],
        [rng.choice(few) for _ in range(60)],
        few * 12,
        [rng.randrange(vocab) for _ in range(200)],
        [few[0]] * 30,
    ]


def disagreements(
    isa: str, values: Floats, how: RowSampling, history: list[int], draws: int, salt: int = 0
) -> list[tuple[int, int]]:
    """(native, wanted) where they differ, over as many seeds."""
    seeds = np.arange(salt, salt + draws, dtype=np.uint64) * 7919
    tokens = np.array(history, np.int32)
    found = _native.draw(isa, native_sampling(how), values, tokens, seeds)
    wanted = [choose(values, history, replace(how, seed=int(seed))) for seed in seeds]
    return [(int(f), w) for f, w in zip(found, wanted, strict=True) if f != w]


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("vocab", [5, 64, 1000])
@pytest.mark.parametrize("name", ALONE)
def test_each_sampler_is_the_definition(isa: str, vocab: int, name: str) -> None:
    rng = random.Random(vocab)
    for kind in KINDS:
        table = logits(kind, vocab)
        for index, history in enumerate(histories(rng, vocab)):
            values = table[index % len(table)]
            assert not disagreements(isa, values, ALONE[name], history, 4, index), (kind, index)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("kind", KINDS)
def test_mixtures_are_the_definition(isa: str, kind: str) -> None:
    rng = random.Random(kind)
    for vocab in (7, 300, 5000):
        table = logits(kind, vocab)
        lines = histories(rng, vocab)
        for n in range(40 if vocab < 5000 else 12):
            how, history = mixture(rng, vocab), rng.choice(lines)
            found = disagreements(isa, table[n % len(table)], how, history, 3, n)
            assert not found, (vocab, n, how, history, found)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("name", ALONE)
def test_a_large_vocabulary(isa: str, name: str) -> None:
    values = logits("normal", 20_011)[0]
    history = [3, 17, 9, 3, 17, 9, 20_000, 3, 17]
    assert not disagreements(isa, values, ALONE[name], history, 6)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_row_of_the_table_is_sampled_so(isa: str) -> None:
    table = logits("normal", 1000)
    for name, how in ALONE.items():
        for found, tokens in drawn(isa, table, how, 6):
            seeded = replace(how, seed=3 * found.row - 5)
            wanted = sample(found.row, table[tokens[-1]], tokens, seeded)
            assert (found.token_id, found.fault) == (wanted.token_id, wanted.fault), name
            assert found.mirostat_mu == pytest.approx(wanted.mirostat_mu, abs=1e-5)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_mirostat_goes_on_from_what_it_left(isa: str) -> None:
    """The executor keeps mu; a row opened again with it goes on as if nothing had happened."""
    table = logits("normal", 1000)
    graph = one_operator(len(table), (1000,), lambda b, v: b.one("x", Scale(1.0), v[0]))
    how = RowSampling(
        temperature=1.0, mirostat_tau=4.0, mirostat_mu=8.0, seed=5, allowed_ids=(0, 1, 2, 3)
    )
    cpu = executor(graph, {"table": table}, isa)

    def steps(tokens: list[int], mu: float, count: int) -> list[Sampled]:
        cpu.open_row(0, tokens, replace(how, mirostat_mu=mu))
        found = []
        for n in range(count):
            done, new = (0, len(tokens)) if n == 0 else (len(tokens) + n - 1, 1)
            cpu.submit(StepPlan((PlanRow(0, new, done, 1, (0, 1) if n == 0 else ()),)))
            found += cpu.collect().sampled
        cpu.close_row(0)
        return found

    whole = steps([1, 2], 8.0, 12)
    assert len({s.mirostat_mu for s in whole}) > 6
    start = [1, 2, *(s.token_id for s in whole[:5])]
    assert steps(start, whole[4].mirostat_mu, 7) == whole[5:]
    wanted, history, mu = [], [1, 2], 8.0
    for _ in range(12):
        one = sample(0, table[history[-1]], history, replace(how, mirostat_mu=mu))
        wanted.append(one.token_id)
        history.append(one.token_id)
        mu = one.mirostat_mu
    assert [s.token_id for s in whole] == wanted


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_request_that_leaves_no_token_ends_alone(isa: str) -> None:
    table = logits("normal", 1000)
    impossible = RowSampling(allowed_ids=(1, 2), bad_words=((1,), (2,)))
    graph = one_operator(len(table), (1000,), lambda b, v: b.one("x", Scale(1.0), v[0]))
    cpu = executor(graph, {"table": table}, isa)

    def tokens_of(neighbour: RowSampling) -> list[Sampled]:
        for row, how in enumerate([RowSampling(temperature=1.0), neighbour, RowSampling()]):
            cpu.open_row(row, [row, 3], how)
        cpu.submit(StepPlan(tuple(PlanRow(row, 2, 0, 1, (row,)) for row in range(3))))
        found = list(cpu.collect().sampled)
        for row in range(3):
            cpu.close_row(row)
        return found

    first, bad, last = tokens_of(impossible)
    assert (bad.token_id, bad.fault) == (-1, NOTHING_LEFT)
    assert sample(1, table[3], [1, 3], impossible).fault == NOTHING_LEFT
    fine = tokens_of(RowSampling(temperature=0.7, seed=1))
    assert [fine[0], fine[2]] == [first, last]


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_token_without_an_embedding_is_its_rows_fault(isa: str) -> None:
    """Logits for more tokens than the table has rows: such a token may be a row's last."""
    table = logits("normal", 1000)
    graph = one_operator(len(table), (1000,), lambda b, v: b.one("x", Scale(1.0), v[0]))
    cpu = executor(graph, {"table": table}, isa)
    cpu.open_row(0, [1], RowSampling(allowed_ids=(4,)))
    cpu.open_row(1, [1], RowSampling(allowed_ids=(3,)))
    found = []
    for n in range(2):
        blocks = ((0,), (1,)) if n == 0 else ((), ())
        cpu.submit(StepPlan(tuple(PlanRow(row, 1, n, 1, blocks[row]) for row in range(2))))
        found += cpu.collect().sampled
    assert [s.token_id for s in found] == [4, 3, -1, 3]
    assert "no embedding" in (found[2].fault or "")
    assert found[3].fault is None


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("wanted", [0, 3])
def test_scores_of_what_a_row_has(isa: str, wanted: int) -> None:
    """In chunks, with logits of some of their tokens; the last chunk draws, too."""
    table = logits("normal", 1000)
    how = RowSampling(temperature=1.0, num_prompt_logprobs=wanted, seed=3)
    graph = one_operator(len(table), (1000,), lambda b, v: b.one("x", Scale(1.0), v[0]))
    tokens = [0, 3, 1, 2, 2, 0, 1]
    plans = [PlanRow(0, 3, 0, 3, (0,)), PlanRow(0, 2, 3, 1), PlanRow(0, 2, 5, 2)]
    both = []
    for run in (executor(graph, {"table": table}, isa), reference(graph, table)):
        run.open_row(0, tokens, how)
        run.open_row(1, [2], RowSampling(allowed_ids=(0, 1, 2, 3)))
        parts = []
        for n, plan in enumerate(plans):
            rows = (plan, PlanRow(1, 1, n, 1, (1,) if n == 0 else ()))
            run.submit(StepPlan(rows))
            scored, beside = run.collect().sampled
            assert beside.scored is None
            parts.append(scored)
        both.append(parts)
    native, defined = both
    for mine, theirs in zip(native, defined, strict=True):
        assert (mine.token_id, mine.fault) == (theirs.token_id, theirs.fault)
        assert mine.scored is not None
        assert theirs.scored is not None
        assert (mine.scored.first, mine.scored.width) == (theirs.scored.first, 1 + wanted)
        assert mine.scored.token_ids == theirs.scored.token_ids
        assert mine.scored.logprobs.tolist() == pytest.approx(theirs.scored.logprobs, abs=2e-5)
    assert [p.token_id for p in native[:2]] == [-1, -1]
    assert native[2].token_id >= 0
    firsts = [p.scored.token_ids[:: 1 + wanted].tolist() for p in native if p.scored is not None]
    assert firsts == [[3, 1, 2], [0], [1]]


def reference(graph: Graph, table: Floats) -> ReferenceExecutor:
    return ReferenceExecutor(graph, Stored({"table": table}), num_blocks=8, max_rows=2)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
@pytest.mark.parametrize("wanted", [0, 1, 20, 4000])
def test_logprobs(isa: str, kind: str, wanted: int) -> None:
    table = logits(kind, 3001)
    how = RowSampling(temperature=1.0, num_logprobs=wanted, repetition_penalty=1.3)
    for found, tokens in drawn(isa, table, how, 8):
        want = sample(found.row, table[tokens[-1]], tokens, replace(how, seed=3 * found.row - 5))
        assert found.token_id == want.token_id
        assert found.logprob == pytest.approx(want.logprob, abs=2e-5)
        assert [i for i, _ in found.top_logprobs] == [i for i, _ in want.top_logprobs]
        for (_, mine), (_, theirs) in zip(found.top_logprobs, want.top_logprobs, strict=True):
            assert mine == pytest.approx(theirs, abs=2e-5)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("place", [0, 17, 999])
@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (np.nan, "the logits have NaN"),
        (np.inf, "the logits have +Inf"),
        (-np.inf, "every logit is -Inf: no token is possible"),
    ],
)
def test_a_fault_is_its_rows_own(isa: str, place: int, bad: float, fault: str) -> None:
    table = logits("normal", 1000)
    table[1, place] = bad
    if bad == -np.inf:
        table[1] = bad
    for found, tokens in drawn(isa, table, RowSampling(temperature=1.0), 8):
        if tokens[-1] == 1:
            assert (found.token_id, found.fault) == (-1, fault)
        else:
            assert found.fault is None
            assert found.token_id >= 0


def test_draws_follow_the_softmax() -> None:
    table = np.log(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32))
    counts = np.zeros(4)
    for salt in range(30):
        shifted = table + np.float32(salt)
        how = RowSampling(temperature=1.0)
        graph = one_operator(1, (4,), lambda b, v: b.one("x", Scale(1.0), v[0]))
        cpu = executor(graph, {"table": shifted}, AVAILABLE[0])
        for row in range(64):
            cpu.open_row(row, [0], replace(how, seed=1000 * salt + row))
        cpu.submit(StepPlan(tuple(PlanRow(row, 1, 0, 1, (row,)) for row in range(64))))
        for found in cpu.collect().sampled:
            counts[found.token_id] += 1
    share = counts / counts.sum()
    assert np.abs(share - [0.1, 0.2, 0.3, 0.4]).max() < 0.04  # 4 standard deviations
