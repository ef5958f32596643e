"""What a step will take: the roofline, and what steps have taken more."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from fake_meter import FakeMeter

from ridgeline.cost.calibrate import FIRST_GUESS, StepSeconds
from ridgeline.cost.measure import device_now
from ridgeline.step import StepShape
from ridgeline.units import GIB, MIB


def least(shape: StepShape) -> float:
    return 0.002 + 1e-4 * shape.num_tokens + 1e-7 * shape.attended_pairs(None)


def some_step(rng: random.Random) -> StepShape:
    answers = rng.choice([0, 1, 4, 8])
    prompts = [rng.randrange(2, 200) for _ in range(rng.choice([0, 0, 1, 2]) or not answers)]
    new = (1,) * answers + tuple(prompts)
    return StepShape(new, tuple(rng.randrange(2000) for _ in new), len(new))


def taken(shape: StepShape, answers: float, prompts: float) -> float:
    """A machine whose answers and prompts are so much above the roofline."""
    writing = [c for n, c in zip(shape.new_tokens, shape.context_lens, strict=True) if n == 1]
    alone = 0.0
    if writing:
        alone = least(StepShape((1,) * len(writing), tuple(writing), len(writing)))
    return answers * alone + prompts * (least(shape) - alone)


@pytest.mark.parametrize("factors", [(1.2, 2.1), (3.0, 1.1), (1.5, 1.5), (0.8, 0.9)])
def test_predictions_come_to_be_what_steps_take(factors: tuple[float, float]) -> None:
    rng = random.Random(1)
    times = StepSeconds(lambda: least)
    for _ in range(100):
        shape = some_step(rng)
        times.observe(shape, taken(shape, *factors) * rng.uniform(0.95, 1.05))
    for _ in range(100):
        shape = some_step(rng)
        assert times(shape) == pytest.approx(taken(shape, *factors), rel=0.15)


def test_a_single_step_that_was_disturbed_moves_little() -> None:
    times = StepSeconds(lambda: least)
    shape = StepShape.decode(4, 100)
    for _ in range(50):
        times.observe(shape, 1.4 * least(shape))
    before = times(shape)
    times.observe(shape, 1000 * least(shape))
    assert times(shape) == pytest.approx(before, rel=0.25)


def test_predictions_change_only_where_they_would_be_off() -> None:
    times = StepSeconds(lambda: least)
    shape = StepShape.decode(4, 100)
    assert times.factors == (FIRST_GUESS, FIRST_GUESS)
    changes = [times.observe(shape, 2 * least(shape)) for _ in range(100)]
    assert changes[0]
    assert not any(changes[1:])
    assert times(shape) == pytest.approx(2 * least(shape))
    times.factors = (1.0, 1.0)
    assert times(shape) == pytest.approx(least(shape))


def test_nothing_is_built_before_somebody_asks() -> None:
    built = 0

    def build() -> Callable[[StepShape], float]:
        nonlocal built
        built += 1
        return least

    times = StepSeconds(build)
    assert not times.in_use
    assert built == 0
    times(StepShape.decode(1, 1))
    times(StepShape.decode(1, 1))
    assert times.in_use
    assert built == 1


def test_the_limits_of_a_machine_that_was_not_measured() -> None:
    meter = FakeMeter()
    device = device_now(meter, 512 * MIB, 2, 16 * GIB)
    assert device.memory_bytes_per_second == pytest.approx(40e9)
    assert set(device.operations_per_second) == {"int8", "bf16", "f32"}
    assert device.barrier_seconds > 0
    assert meter.num_closed == 1
    small = FakeMeter()
    device_now(small, 512 * MIB, 2, 400 * MIB)
    assert small.largest <= 100 * MIB
