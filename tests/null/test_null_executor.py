"""The null executor, and the state table's checks, which the reference executor shares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from small_graphs import Decoder, RandomWeights, decoder

from ridgeline.backends.null.executor import NullExecutor, null_token
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.engine.executor import Executor
from ridgeline.errors import EngineError
from ridgeline.step import PlanRow, RowSampling, StepPlan

VOCAB = 64
NAN = float("nan")
GREEDY = RowSampling()


def null(num_blocks: int = 8, max_rows: int = 3, max_context: int = 48) -> NullExecutor:
    return NullExecutor(
        vocab_size=VOCAB, num_blocks=num_blocks, max_rows=max_rows, max_context=max_context
    )


def reference() -> ReferenceExecutor:
    graph = decoder(Decoder(layers=1, max_context=48))
    return ReferenceExecutor(graph, RandomWeights(graph), num_blocks=8, max_rows=3)


def step(*rows: PlanRow) -> StepPlan:
    return StepPlan(rows)


def tokens(executor: Executor, plan: StepPlan) -> list[tuple[int, int]]:
    executor.submit(plan)
    return [(sampled.row, sampled.token_id) for sampled in executor.collect().sampled]


def test_a_token_is_a_function_of_the_prefix() -> None:
    assert null_token([1, 2, 3], VOCAB) == null_token(np.array([1, 2, 3]), VOCAB)
    drawn = [null_token([1, 2, 3, last], VOCAB) for last in range(VOCAB)]
    assert len(set(drawn)) > VOCAB // 3
    assert null_token([1, 2], VOCAB) != null_token([2, 1], VOCAB)
    assert set(drawn) <= set(range(VOCAB))


def test_decoding_alone_and_beside_others_whole_and_in_chunks() -> None:
    executor = null()
    executor.open_row(0, [5] * 20, GREEDY)
    executor.open_row(2, [6, 7], GREEDY)
    assert tokens(executor, step(PlanRow(0, 17, 0, 0, (4, 1)), PlanRow(2, 2, 0, 1, (0,)))) == [
        (2, null_token([6, 7], VOCAB))
    ]
    first = null_token([5] * 20, VOCAB)
    other = [6, 7, null_token([6, 7], VOCAB)]
    assert tokens(executor, step(PlanRow(2, 1, 2, 1), PlanRow(0, 3, 17, 1))) == [
        (2, null_token(other, VOCAB)),
        (0, first),
    ]
    assert tokens(executor, step(PlanRow(0, 1, 20, 1))) == [
        (0, null_token([5] * 20 + [first], VOCAB))
    ]


def test_forward_marks_the_token_of_each_prefix() -> None:
    executor = null()
    prompt = [9, 8, 7, 6]
    executor.open_row(1, prompt, GREEDY)
    logits = executor.forward(step(PlanRow(1, 4, 0, 3, (3,))))
    assert logits.shape == (3, VOCAB)
    wanted = [null_token(prompt[:n], VOCAB) for n in (2, 3, 4)]
    assert logits.argmax(axis=1).tolist() == wanted
    assert logits.sum() == 3


def test_cached_blocks_serve_another_row() -> None:
    executor = null()
    prompt = list(range(17))
    executor.open_row(0, prompt, GREEDY)
    tokens(executor, step(PlanRow(0, 17, 0, 1, (2, 3))))
    executor.close_row(0)
    executor.open_row(1, [*prompt[:16], 60], GREEDY)
    assert tokens(executor, step(PlanRow(1, 1, 16, 1, (2, 5)))) == [
        (1, null_token([*prompt[:16], 60], VOCAB))
    ]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((3, 5), r"row 1: block 3 holds nothing where the row has token 0 at position 0"),
        ((2, 5), r"row 1: block 2 holds token 15 of position 15 where the row has token 63"),
    ],
)
def test_a_wrong_cached_block_shows(blocks: tuple[int, ...], message: str) -> None:
    executor = null()
    executor.open_row(0, list(range(16)), GREEDY)
    tokens(executor, step(PlanRow(0, 16, 0, 1, (2,))))
    executor.close_row(0)
    executor.open_row(1, [*range(15), 63, 60], GREEDY)
    with pytest.raises(EngineError, match=message):
        executor.submit(step(PlanRow(1, 1, 16, 1, blocks)))


def test_a_block_freed_too_early_shows() -> None:
    executor = null()
    executor.open_row(0, list(range(16)), GREEDY)
    tokens(executor, step(PlanRow(0, 16, 0, 0, (2,))))
    executor.close_row(0)
    executor.open_row(1, [40, 41], GREEDY)
    tokens(executor, step(PlanRow(1, 2, 0, 1, (2,))))
    executor.open_row(0, [*range(16), 1], GREEDY)
    with pytest.raises(EngineError, match="row 0: block 2 holds token 40 of position 0"):
        executor.submit(step(PlanRow(0, 1, 16, 1, (2, 4))))


# ---- what every executor with a state table refuses

Broken = Callable[[Executor], object]

REFUSED: dict[str, Broken] = {
    "row 3: there are rows 0 to 2": lambda e: e.open_row(3, [1], GREEDY),
    "row 0: is open already": lambda e: e.open_row(0, [1], GREEDY),
    "row 1: has no tokens": lambda e: e.open_row(1, [], GREEDY),
    "row 1: token id 64": lambda e: e.open_row(1, [63, 64], GREEDY),
    "row 1: token id -1": lambda e: e.open_row(1, [-1], GREEDY),
    "row 0: token id 99": lambda e: e.append_tokens(0, [99]),
    "row 2: is not open": lambda e: e.append_tokens(2, [1]),
    "row 1: is not open": lambda e: e.close_row(1),
    "row 1: temperature is -1": lambda e: e.open_row(1, [1], RowSampling(temperature=-1.0)),
    "row 1: top_p": lambda e: e.open_row(1, [1], RowSampling(top_p=0.0)),
    "row 1: min_p": lambda e: e.open_row(1, [1], RowSampling(min_p=1.5)),
    "row 1: top_k": lambda e: e.open_row(1, [1], RowSampling(top_k=-1)),
    "row 1: repetition_penalty": lambda e: e.open_row(1, [1], RowSampling(repetition_penalty=0.0)),
    "row 1: num_logprobs": lambda e: e.open_row(1, [1], RowSampling(num_logprobs=-2)),
    "row 1: temperature is nan": lambda e: e.open_row(
        1, [1], RowSampling(temperature=float("nan"))
    ),
    "row 2: is not open; *": lambda e: e.submit(step(PlanRow(2, 1, 0, 1, (0,)))),
    "row 0: is in the plan twice": lambda e: e.submit(
        step(PlanRow(0, 1, 0, 0, (0,)), PlanRow(0, 1, 1, 0))
    ),
    "row 0: 0 new tokens": lambda e: e.submit(step(PlanRow(0, 0, 0, 0))),
    "row 0: a context of -1 tokens": lambda e: e.submit(step(PlanRow(0, 1, -1, 0, (0,)))),
    "row 0: 0 tokens of context and 21 new ones; the row has 20": lambda e: e.submit(
        step(PlanRow(0, 21, 0, 1, (0, 1)))
    ),
    "row 0: 2 logits of 1 new": lambda e: e.submit(step(PlanRow(0, 1, 0, 2, (0,)))),
    "row 0: a token is to be sampled after 19 tokens; the row has 20": lambda e: e.submit(
        step(PlanRow(0, 19, 0, 1, (0, 1)))
    ),
    "row 0: 1 blocks of 16 for 20 tokens": lambda e: e.submit(step(PlanRow(0, 20, 0, 1, (0,)))),
    "row 0: block 8; there are blocks 0 to 7": lambda e: e.submit(
        step(PlanRow(0, 20, 0, 1, (0, 8)))
    ),
    "row 0: block -1": lambda e: e.submit(step(PlanRow(0, 20, 0, 1, (0, -1)))),
    "row 0: has a block twice": lambda e: e.submit(step(PlanRow(0, 20, 0, 1, (1, 1)))),
    "no step is in flight": lambda e: e.collect(),
}


@pytest.mark.parametrize("make", [null, reference])
@pytest.mark.parametrize("message", REFUSED)
def test_what_is_wrong_is_refused_and_changes_nothing(
    make: Callable[[], Executor], message: str
) -> None:
    executor = make()
    executor.open_row(0, [5] * 20, GREEDY)
    with pytest.raises(EngineError, match=message.removesuffix("; *")):
        REFUSED[message](executor)
    [(row, token)] = tokens(executor, step(PlanRow(0, 20, 0, 1, (6, 7))))
    executor.close_row(0)
    untouched = make()
    untouched.open_row(0, [5] * 20, GREEDY)
    assert [(row, token)] == tokens(untouched, step(PlanRow(0, 20, 0, 1, (6, 7))))


@pytest.mark.parametrize("make", [null, reference])
def test_a_row_does_not_write_to_a_block_that_another_holds(make: Callable[[], Executor]) -> None:
    executor = make()
    executor.open_row(0, [5] * 17, GREEDY)
    executor.open_row(1, [5] * 17, GREEDY)
    executor.submit(step(PlanRow(0, 16, 0, 0, (2,))))
    executor.collect()
    message = "row 1: writes to block 2, which row 0 holds too; a shared block is read only"
    with pytest.raises(EngineError, match=message):
        executor.submit(step(PlanRow(1, 17, 0, 1, (2, 3))))
    with pytest.raises(EngineError, match=r"row 0: writes to block 3, which row 1 holds too"):
        executor.submit(step(PlanRow(0, 1, 16, 1, (3,)), PlanRow(1, 1, 16, 1, (2, 3))))
    # Reading what another has computed is what sharing is for.
    executor.submit(step(PlanRow(1, 1, 16, 1, (2, 3))))
    assert len(executor.collect().sampled) == 1


@pytest.mark.parametrize("make", [null, reference])
def test_a_context_that_nobody_computed_is_refused(make: Callable[[], Executor]) -> None:
    executor = make()
    executor.open_row(0, [5] * 20, GREEDY)
    executor.submit(step(PlanRow(0, 4, 0, 0, (0, 1))))
    executor.collect()
    with pytest.raises(EngineError, match="row 0: a context of 5 tokens; 4 are computed"):
        executor.submit(step(PlanRow(0, 15, 5, 1)))


@pytest.mark.parametrize("make", [null, reference])
def test_positions_end_where_the_model_does(make: Callable[[], Executor]) -> None:
    executor = make()
    executor.open_row(0, [5] * 49, GREEDY)
    with pytest.raises(EngineError, match="row 0: 49 tokens; the model's positions reach 48"):
        executor.submit(step(PlanRow(0, 49, 0, 1, (0, 1, 2, 3))))


@pytest.mark.parametrize("make", [null, reference])
def test_one_step_is_in_flight(make: Callable[[], Executor]) -> None:
    executor = make()
    executor.open_row(0, [5, 6], GREEDY)
    executor.submit(step(PlanRow(0, 2, 0, 1, (0,))))
    for again in (executor.submit, executor.forward):
        with pytest.raises(EngineError, match="a step is in flight"):
            again(step(PlanRow(0, 1, 2, 1)))
    executor.collect()


@pytest.mark.parametrize("make", [null, reference])
def test_tokens_that_no_step_sampled_can_be_appended_and_taken_back(
    make: Callable[[], Executor],
) -> None:
    """A forced span is computed at once; computing again from an earlier token overwrites it."""
    executor = make()
    executor.open_row(0, [5, 6], GREEDY)
    executor.append_tokens(0, [7, 8])
    whole = executor.forward(step(PlanRow(0, 4, 0, 2, (0,))))
    again = executor.forward(step(PlanRow(0, 2, 2, 2)))
    assert np.allclose(whole, again, atol=1e-5)


@pytest.mark.parametrize("make", [null, reference])
def test_an_empty_plan_is_a_step(make: Callable[[], Executor]) -> None:
    executor = make()
    executor.submit(step())
    assert executor.collect().sampled == ()
    assert executor.forward(step()).shape == (0, VOCAB)
