"""Native sampling against the definition, on logits that a test chooses: a row whose last token is
i has row i of the table as its logits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, executor, one_operator

from ridgeline.backends.reference.sample import sample
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


SETTINGS = [
    RowSampling(),
    RowSampling(repetition_penalty=1.5),
    RowSampling(temperature=1.0),
    RowSampling(temperature=0.3, min_p=0.01),
    RowSampling(temperature=1e-30),
    RowSampling(temperature=2.0, top_k=1),
    RowSampling(temperature=1.3, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=0.8),
    RowSampling(temperature=1.3, top_k=100_000, top_p=0.5),
    RowSampling(temperature=0.8, top_p=0.95),
    RowSampling(temperature=1.5, top_p=1e-6),
    RowSampling(temperature=1.0, min_p=1.0),
]


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


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("vocab", [5, 64, 1000, 20_011])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_definitions(isa: str, vocab: int, kind: str) -> None:
    table = logits(kind, vocab)
    for index, how in enumerate(SETTINGS):
        for found, tokens in drawn(isa, table, how, 24):
            seeded = replace(how, seed=3 * found.row - 5)
            wanted = sample(found.row, table[tokens[-1]], tokens, seeded)
            assert found.token_id == wanted.token_id, (index, found.row)


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
