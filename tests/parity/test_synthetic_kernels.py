"""This machine's kernels, timed on graphs of no model: everything that a profile needs is there."""

from __future__ import annotations

import pytest

from ridgeline.assemble import TIMED_LIKE, machine_isa, packed_ratios, streamed_rows
from ridgeline.backends.cpu import synthetic, synthetic_graphs
from ridgeline.bench.kernels import price_outside
from ridgeline.config import read_settings
from ridgeline.cost.device import ReadRates
from ridgeline.cost.kernel_terms import DIM_MARKS, GROUP_MARKS, ROW_MARKS, Place, needs_of, places
from ridgeline.cost.kernels import fit
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.check import check_graph
from ridgeline.step import StepShape


def test_graphs_are_sound_and_of_every_format() -> None:
    for name in synthetic.LINEAR_FORMATS:
        check_graph(synthetic_graphs.linear_graph(name))
    packed = {*synthetic.LINEAR_FORMATS, *TIMED_LIKE}
    assert packed == {name for name in FORMATS if name != "F8_E4M3_128"}
    assert synthetic.ROWS == ROW_MARKS
    assert (synthetic_graphs.HEAD_DIMS, synthetic_graphs.GROUPS) == (DIM_MARKS, GROUP_MARKS)


def test_kernels_are_timed_and_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "LINEAR_FORMATS", ("Q4_0",))
    monkeypatch.setattr(synthetic, "COMMON_FORMATS", ("Q4_0",))
    monkeypatch.setattr(synthetic_graphs, "COMMON_FORMATS", ("Q4_0",))
    monkeypatch.setattr(synthetic_graphs, "LARGE_FORMATS", ("Q4_0",))
    monkeypatch.setattr(synthetic, "KV_FORMAT_NAMES", ("int8",))
    monkeypatch.setattr(synthetic, "MOST_RETRIES", 0)
    isa = machine_isa(read_settings())
    steps = list(synthetic.time_kernels(isa, 2, 24 << 20))
    graphs = {id(step.graph): step.graph for step in steps}
    assert 4 <= len(graphs) <= 6  # linears once or twice, weights in memory, attention, the rest
    for step in steps:
        ran = {n.name for n in step.graph.nodes} | {"sample"}
        assert set(step.seconds) <= ran
        assert all(0 < seconds < 5 for seconds in step.seconds.values())
        assert 0.1 < step.read.forward <= step.read.fastest < 1e4
        assert 1 < step.pace < 1e6
        assert 1 < step.barrier_nanoseconds < 1e7
    profile = fit(steps, isa=isa, threads=2, like=TIMED_LIKE)
    # Any model of these formats can be priced, at any step.
    for graph in graphs.values():
        placed = places(graph)
        price = profile.prices_at(2.0**27, ReadRates(30.0, 25.0))
        for shape in (StepShape.decode(3, 100), StepShape.prefill(77)):
            for node in graph.nodes:
                needs = needs_of(node, placed.get(node.name, Place()), shape, 2)
                assert needs is None or (profile.seconds(needs, price) or 0) >= 0
                assert needs is None or profile.seconds(needs, price) is not None, node.name
    assert {"linear", "gated", "attention", "add_norm", "sample"} <= set(profile.residuals)


def test_float_weights_of_few_rows_are_read_in_streams_on_avx2_alone() -> None:
    floats = {"BF16", "F16", "F32"}
    assert set(streamed_rows("avx2")) == floats
    assert all(4 <= rows < 16 for rows in streamed_rows("avx2").values())
    assert streamed_rows("portable") == {}


def test_packed_weights_take_what_the_layouts_say() -> None:
    ratios = packed_ratios(machine_isa(read_settings()))
    for name, bits, stored in (("Q4_0", 4.5, 4.5), ("Q4_K", 5, 4.5), ("Q6_K", 7, 6.5625)):
        assert ratios[name] == pytest.approx(bits / stored, rel=0.01)
    assert ratios["BF16"] == pytest.approx(1, rel=0.01)


def test_an_engine_has_a_part_of_its_own() -> None:
    prices = price_outside(machine_isa(read_settings()), 2)
    assert set(prices) == {"outside/1", "outside/row", "outside/token"}
    assert 0 < sum(prices.values()) < 0.05
