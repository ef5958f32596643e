"""Masks of constrained rows: native against the definition, and what happens without one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, executor, one_operator
from sampler_settings import ALONE
from test_cpu_sampling import logits

from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.sample import NO_MASK, NOTHING_LEFT, sample
from ridgeline.errors import EngineError
from ridgeline.model.graph.ops import Scale
from ridgeline.step import PlanRow, RowSampling, Sampled, StepPlan

Mask = npt.NDArray[np.uint32]


def one(isa: str, table: npt.NDArray[np.float32]) -> CpuExecutor:
    graph = one_operator(len(table), (table.shape[1],), lambda b, v: b.one("x", Scale(1.0), v[0]))
    return executor(graph, {"table": table}, isa)


def packed(allowed: npt.NDArray[np.bool_]) -> Mask:
    words = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    words[: len(allowed)] = allowed
    return np.packbits(words, bitorder="little").view("<u4").astype(np.uint32)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("vocab", [7, 64, 1000])
def test_a_masked_row_is_the_definition(isa: str, vocab: int) -> None:
    """With every sampler besides: the mask comes after bans and before the temperature."""
    table = logits("normal", vocab)
    rng = np.random.default_rng(vocab)
    cpu = one(isa, table)
    for name, how in ALONE.items():
        if how.allowed_ids is not None or how.bad_words:
            how = replace(how, allowed_ids=None, bad_words=())
        how = replace(how, is_constrained=True)
        masks = {row: packed(rng.random(vocab) < (0.0, 0.2, 0.9)[row]) for row in range(3)}
        for row in range(3):
            cpu.open_row(row, [row, 3], replace(how, seed=row))
        plan = StepPlan(tuple(PlanRow(row, 2, 0, 1, (row,)) for row in range(3)))
        cpu.submit(plan, lambda masks=masks: masks)  # type: ignore[misc]
        for found in cpu.collect().sampled:
            row = found.row
            wanted = sample(row, table[3], [row, 3], replace(how, seed=row), masks[row])
            assert (found.token_id, found.fault) == (wanted.token_id, wanted.fault), (name, row)
            assert (
                found.token_id < 0 or masks[row][found.token_id // 32] >> (found.token_id % 32) & 1
            )
            cpu.close_row(row)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_neighbour_under_a_mask_changes_no_bit(isa: str) -> None:
    table = logits("normal", 1000)
    cpu = one(isa, table)
    free = RowSampling(temperature=1.0, seed=4, num_logprobs=3)

    def beside(other: RowSampling, masks: dict[int, Mask] | None) -> list[Sampled]:
        for row, how in enumerate([free, other]):
            cpu.open_row(row, [row], how)
        plan = StepPlan((PlanRow(0, 1, 0, 1, (0,)), PlanRow(1, 1, 0, 1, (1,))))
        if masks is None:
            cpu.submit(plan)
        else:
            cpu.submit(plan, lambda: masks)
        found = list(cpu.collect().sampled)
        for row in range(2):
            cpu.close_row(row)
        return found

    alone = beside(RowSampling(), None)[0]
    only = np.zeros(1000, np.bool_)
    only[17] = True
    held = replace(free, is_constrained=True)
    found = beside(held, {1: packed(only)})
    assert found[0] == alone
    assert found[1].token_id == 17
    # Log-probabilities are the model's own: the mask is not in them.
    assert found[1].top_logprobs == beside(free, None)[1].top_logprobs
    assert beside(held, None) == [alone, Sampled(1, -1, fault=NO_MASK)]
    assert beside(held, {}) == [alone, Sampled(1, -1, fault=NO_MASK)]
    nothing = beside(held, {1: packed(np.zeros(1000, np.bool_))})
    assert (nothing[0], nothing[1].fault) == (alone, NOTHING_LEFT)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_mask_is_for_one_draw_and_of_the_vocabulary(isa: str) -> None:
    table = logits("normal", 100)
    cpu = one(isa, table)
    held = RowSampling(temperature=1.0, is_constrained=True)
    allowed = np.zeros(100, np.bool_)
    allowed[2] = True
    cpu.open_row(0, [1], held)
    cpu.submit(StepPlan((PlanRow(0, 1, 0, 1, (0,)),)), lambda: {0: packed(allowed)})
    assert cpu.collect().sampled[0].token_id == 2
    cpu.submit(StepPlan((PlanRow(0, 1, 1, 1),)), dict)
    assert cpu.collect().sampled[0].fault == NO_MASK
    cpu.close_row(0)
    for wrong in ({0: np.zeros(3, np.uint32)}, {0: np.zeros(5, np.uint32)}, {7: packed(allowed)}):
        cpu.open_row(0, [1], held)
        with pytest.raises(EngineError):
            cpu.submit(StepPlan((PlanRow(0, 1, 0, 1, (0,)),)), lambda w=wrong: w)  # type: ignore[misc]
        cpu.close_row(0)
    cpu.open_row(0, [1], RowSampling())
    with pytest.raises(EngineError, match="not constrained"):
        cpu.submit(StepPlan((PlanRow(0, 1, 0, 1, (0,)),)), lambda: {0: packed(allowed)})
    cpu.close_row(0)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_who_makes_the_masks_may_fail(isa: str) -> None:
    cpu = one(isa, logits("normal", 100))

    def fails() -> dict[int, Mask]:
        raise ValueError("no masks today")

    cpu.open_row(0, [1], RowSampling(is_constrained=True))
    with pytest.raises(Exception, match="no masks today"):
        cpu.submit(StepPlan((PlanRow(0, 1, 0, 1, (0,)),)), fails)
    cpu.close_row(0)
    cpu.open_row(0, [1], RowSampling())
    cpu.submit(StepPlan((PlanRow(0, 1, 0, 1, (0,)),)))
    assert cpu.collect().sampled[0].token_id >= 0
