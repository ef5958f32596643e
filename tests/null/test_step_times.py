"""The fast price of a step is the price of a step."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from small_graphs import Decoder, decoder

from ridgeline.cost.device import Device
from ridgeline.cost.step_times import StepTimes, least_seconds
from ridgeline.cost.time import step_bound
from ridgeline.model.graph.work import Precision
from ridgeline.model.opened import describe
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.screen import has_screen, with_screen
from ridgeline.step import StepShape

GOLDEN = Path(__file__).parents[1] / "golden"
DEVICE = Device(
    "made up", 3e10, {"bf16": 1e11, "f32": 5e10}, cache_bytes=2**18, cache_bytes_per_second=2e11
)


@pytest.mark.parametrize("windows", [(None,), (64,), (None, 64)])
def test_the_fast_price_is_the_price(windows: tuple[int | None, ...]) -> None:
    rng = random.Random(4)
    for window in windows:
        graph = decoder(Decoder(layers=2, vocab=4096, max_context=8192, window=window))
        times = StepTimes(graph, Precision(), DEVICE)
        for _ in range(50):
            rows = rng.randrange(1, 20)
            shape = StepShape(
                tuple(rng.choice([1, 1, rng.randrange(1, 100)]) for _ in range(rows)),
                tuple(rng.randrange(4000) for _ in range(rows)),
                rng.randrange(rows + 1),
            )
            exact = step_bound(graph, shape, Precision(), DEVICE).seconds
            assert times(shape) == pytest.approx(exact, rel=1e-9)


def test_a_screened_head_costs_what_its_rows_read() -> None:
    """It is no reason to price each step by its whole graph."""
    graph = with_screen(fuse(decoder(Decoder(layers=2, vocab=8192, max_context=4096))))
    assert has_screen(graph)
    price = least_seconds(graph, Precision(), DEVICE)
    assert isinstance(price, StepTimes)
    shapes = [StepShape.decode(rows, 300) for rows in (1, 2, 16, 17, 33, 64)]
    shapes += [StepShape((1, 1, 30), (40, 9, 0), 3), StepShape((3,), (7,), 1)]
    for shape in shapes:
        exact = step_bound(graph, shape, Precision(), DEVICE).seconds
        assert price(shape) == pytest.approx(exact, rel=1e-9), shape
    bare = fuse(decoder(Decoder(layers=2, vocab=8192, max_context=4096)))
    without = StepTimes(bare, Precision(), DEVICE)(shapes[0])
    assert price(shapes[0]) != pytest.approx(without, rel=0.05)


def test_recurrent_states_cost_each_row_their_reading() -> None:
    """Also of a model without any cache."""
    rng = random.Random(5)
    for case in ("mamba2", "nemotron_h", "qwen3_5"):
        config = json.loads((GOLDEN / case / "config.json").read_text())
        graph = describe(config | {"vocab_size": 4096})
        times = StepTimes(graph, Precision(), DEVICE)
        for _ in range(20):
            rows = rng.randrange(1, 9)
            shape = StepShape(
                tuple(rng.choice([1, rng.randrange(1, 10)]) for _ in range(rows)),
                tuple(rng.randrange(400) for _ in range(rows)),
                rng.randrange(rows + 1),
            )
            exact = step_bound(graph, shape, Precision(), DEVICE).seconds
            assert times(shape) == pytest.approx(exact, rel=1e-9)
