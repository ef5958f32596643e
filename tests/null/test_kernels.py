"""Prices of kernels: found again from operators that were timed by known prices, and kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_meter import FakeMeter
from small_graphs import Decoder, decoder

from ridgeline.cost.cold_weights import Cold
from ridgeline.cost.device import Peak, ReadRates, Roofs
from ridgeline.cost.kernel_samples import TimedStep
from ridgeline.cost.kernel_store import KERNELS, load_profile, store_profile
from ridgeline.cost.kernel_terms import Place, needs_of, places, sample_needs
from ridgeline.cost.kernel_times import UNKNOWN, KernelTimes, outside_terms
from ridgeline.cost.kernels import KernelProfile, fit, interval
from ridgeline.cost.measure import measure
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import Precision
from ridgeline.model.passes.fuse import fuse
from ridgeline.step import StepShape

PRECISION = Precision(activation_bytes=4.0, default_compute="f32")
PACE = 500.0
SHAPES = [
    *(
        StepShape.decode(rows, context)
        for rows in (1, 2, 4, 8, 16, 32, 64)
        for context in (20, 700)
    ),
    *(StepShape.prefill(tokens) for tokens in (64, 300, 512)),
    StepShape((1, 1, 100), (30, 900, 0), 2),
]


def graph_of(width: int = 64) -> Graph:
    how = Decoder(width=width, hidden=3 * width, vocab=4 * width, max_context=4096, joint_qkv=True)
    return fuse(decoder(how))


def price_of(name: str) -> float:
    """A price that follows from the term's name."""
    return (1 + sum(name.encode()) % 13) * (1e-6 if name.endswith(("/1", "/late")) else 1e-11)


def timed(graph: Graph, shape: StepShape, threads: int = 2, cold: bool = False) -> TimedStep:
    placed = places(graph)
    seconds: dict[str, float] = {}
    for node in graph.nodes:
        needs = needs_of(node, placed.get(node.name, Place()), shape, threads)
        if needs is not None:
            seconds[node.name] = sum(price_of(n) * a for n, a in needs.terms.items()) + 1e-7
            if cold:
                seconds[node.name] += sum(needs.read.values()) * 2e-11
    drawing = sample_needs(shape.num_sampled, 256, threads)
    if drawing is not None:
        seconds["sample"] = sum(price_of(n) * a for n, a in drawing.terms.items())
    rate = 25.0 if cold else 50.0
    read = ReadRates(1.2 * rate, rate)
    return TimedStep(graph, shape, threads, 2.0**28 if cold else 0.0, seconds, read, PACE)


def profile_of(cold: bool = True) -> KernelProfile:
    graphs = [graph_of(width) for width in (64, 96, 160)]
    steps = [timed(graph, shape) for graph in graphs for shape in SHAPES]
    steps += [timed(graphs[0], StepShape.decode(rows, 700), cold=True) for rows in (1, 4, 16, 64)]
    return fitted(steps)


def fitted(steps: list[TimedStep], streamed: dict[str, float] | None = None) -> KernelProfile:
    return fit(
        steps,
        isa="avx512",
        threads=2,
        barrier_nanoseconds=100.0,
        like={"Q4_K": "F32"},
        streamed=streamed,
        measured_at="2026-11-28T00:00:00+00:00",
    )


@pytest.fixture(scope="module")
def roofs() -> Roofs:
    return measure(FakeMeter(), (1, 2), 1 << 31)


def test_known_prices_are_found_again(roofs: Roofs) -> None:
    profile = profile_of()
    unseen = graph_of(128)
    times = KernelTimes(unseen, PRECISION, profile, roofs)
    for shape in (StepShape.decode(3, 400), StepShape.prefill(200), StepShape.decode(16, 64)):
        told = times.step(shape)
        truth = sum(timed(unseen, shape).seconds.values())
        assert told.seconds == pytest.approx(truth, rel=0.05)
        assert told.low < told.seconds < told.high
        assert sum(o.seconds for o in told.operators) == pytest.approx(told.seconds)
        assert all(o.group != UNKNOWN for o in told.operators)
        assert times(shape) == pytest.approx(told.seconds)
    # What is kept by numbers of tokens is what an operator table says, wherever they lie.
    for tokens in (1, 2, 5, 16, 33, 64, 90, 256, 300, 512, 700):
        for rows in (0, 1, 3, 40):
            shape = StepShape((*(1,) * rows, tokens), (*(70,) * rows, 9), rows + 1)
            assert times(shape) == pytest.approx(times.step(shape).seconds, rel=1e-9), shape
    assert min(profile.prices.values()) >= 0
    # A format that is packed like another one costs what that does.
    assert profile.prices["linear/Q4_K@16"] == profile.prices["linear/F32@16"]


def test_memory_takes_what_is_not_hidden(roofs: Roofs) -> None:
    profile = profile_of()
    # 2e-11 s a byte more, of which memory's own part is 1/25 - 1/50 ns: all of it.
    (cold_set,) = profile.cold
    assert cold_set.read_rate == 25.0
    assert cold_set.more[:4] == pytest.approx([2e-11] * 4, rel=0.05)
    graph = graph_of(128)
    node = next(n for n in graph.nodes if n.name == "head")
    needs = needs_of(node, places(graph)["head"], StepShape.decode(1, 10), 2)
    assert needs is not None

    def seconds(footprint: float, read_rate: float) -> float:
        found = profile.seconds(needs, profile.more_at(footprint, ReadRates(99.0, read_rate)))
        assert found is not None
        return found

    hot, cold = seconds(2.0**24, 50.0), seconds(2.0**28, 25.0)
    assert cold - hot == pytest.approx(2e-11 * node.weights[0].num_bytes, rel=0.05)
    assert seconds(2.0**24, 90.0) == hot, "nothing is faster than the caches"
    assert hot < seconds(2.0**26.5, 35.0) < cold
    # A machine that reads at half the speed takes all of a byte's time once more.
    assert seconds(2.0**28, 12.5) - cold == pytest.approx(2 * (cold - hot), rel=0.05)


def test_a_step_that_was_timed_in_a_slow_moment_says_what_it_takes_in_a_usual_one() -> None:
    graph = graph_of()
    steps = [timed(graph, shape) for shape in SHAPES]
    cold = [timed(graph, StepShape.decode(rows, 700), cold=True) for rows in (1, 4, 16, 64)]
    (usual,) = fitted([*steps, *cold]).cold
    # At half the rate: twice what memory takes more, and what reading out of the caches takes.
    placed, seconds = places(graph), dict(cold[0].seconds)
    for node in graph.nodes:
        needs = needs_of(node, placed.get(node.name, Place()), cold[0].shape, 2)
        if needs is not None:
            seconds[node.name] += sum(needs.read.values()) * (2e-11 + 1e-9 / 50)
    slow = replace(cold[0], seconds=seconds, read=ReadRates(30.0, 12.5))
    (found,) = fitted([*steps, slow, *cold[1:]]).cold
    assert found.read_rate == usual.read_rate
    assert found.more == pytest.approx(usual.more, rel=0.05, abs=1e-12)


def test_steps_follow_the_way_in_which_kernels_read(roofs: Roofs) -> None:
    graph, shape = graph_of(128), StepShape.decode(1, 4000)
    profile = replace(profile_of(), packed={"F32": 1e6})  # a model that no cache holds
    (usual_cold,) = profile.cold
    slow = replace(usual_cold, more=tuple(4 * each for each in usual_cold.more))
    fast = replace(usual_cold, more=tuple(0.1 * each for each in usual_cold.more))

    def seconds(fastest: float, forward: float, cold: Cold = slow) -> float:
        reads = tuple(
            replace(
                read,
                gigabytes_per_second=fastest * read.gigabytes_per_second,
                forward=forward * read.forward,
            )
            for read in roofs.reads
        )
        times = KernelTimes(
            graph, PRECISION, replace(profile, cold=(cold,)), replace(roofs, reads=reads)
        )
        assert times(shape) == pytest.approx(times.step(shape).seconds, rel=1e-9)
        return times(shape)

    usual = seconds(1.0, 1.0)
    assert seconds(0.5, 1.0) == usual, "a roof that fell is no slower kernel"
    assert seconds(1.0, 0.5) > 1.5 * usual
    # Prices of another moment make no step faster than memory is read in this one.
    least = seconds(1.0, 1.0, fast)
    read = max(replace(roofs).read(1e12, 2).rates)  # type: ignore[union-attr]
    weights = {w.name: w.num_bytes for n in graph.nodes for w in n.weights if n.name != "embed"}
    assert least > 0.9 * 1e6 * sum(weights.values()) / (1e9 * read)
    assert seconds(0.5, 0.5, fast) == pytest.approx(2 * least, rel=0.1)


@pytest.mark.parametrize(
    ("rows", "context", "isa", "waits"),
    [
        (6, 60, "avx512", True),
        (7, 60, "avx512", False),
        (64, 60, "avx512", False),
        (64, 4000, "avx512", True),
        (7, 60, "avx2", True),
    ],
)
def test_attention_waits_for_no_memory_behind_linears_that_ask_for_its_cache(
    roofs: Roofs, rows: int, context: int, isa: str, waits: bool
) -> None:
    """More than six rows, of caches that stay where they were brought."""
    graph, shape = graph_of(128), StepShape.decode(rows, context)
    profile = replace(profile_of(), packed={"F32": 1e6}, isa=isa)

    def seconds(forward: float) -> float:
        reads = tuple(replace(read, forward=forward * read.forward) for read in roofs.reads)
        times = KernelTimes(graph, PRECISION, profile, replace(roofs, reads=reads))
        (attention,) = [o for o in times.step(shape).operators if o.group == "attention"]
        return attention.seconds

    if waits:
        assert seconds(0.5) > 1.05 * seconds(1.0)
    else:
        assert seconds(0.5) == seconds(1.0)


def test_float_weights_that_are_read_in_streams_follow_these(roofs: Roofs) -> None:
    """Up to so many rows: more of them go as one stream does, like all other weights."""
    profile = replace(profile_of(), packed={"F32": 1e6}, streamed={"F32": 4.0})
    needs = {
        rows: needs_of(node, Place(head=True), StepShape.decode(rows, 10), 2)
        for rows in (1, 4, 16)
        for node in graph_of(128).nodes
        if node.name == "head"
    }

    def seconds(rows: int, fastest: float, forward: float) -> float:
        needed = needs[rows]
        assert needed is not None
        found = profile.seconds(needed, profile.more_at(2.0**28, ReadRates(fastest, forward)))
        assert found is not None
        return found

    for rows in (1, 4):
        assert seconds(rows, 30.0, 20.0) == seconds(rows, 30.0, 10.0)
        assert seconds(rows, 15.0, 10.0) > 1.5 * seconds(rows, 30.0, 10.0)
    assert seconds(16, 30.0, 20.0) == seconds(16, 60.0, 20.0)
    assert seconds(16, 30.0, 10.0) > 1.5 * seconds(16, 30.0, 20.0)


def test_weights_read_in_streams_are_timed_beside_streams() -> None:
    """Prices of a byte are of one stream's usual rate, whatever way it was read when timed."""
    graph = graph_of()
    steps = [timed(graph, shape) for shape in SHAPES]
    cold = [timed(graph, StepShape.decode(rows, 700), cold=True) for rows in (1, 4, 16, 64)]
    (forward,) = fitted([*steps, *cold]).cold
    as_fast = [replace(step, read=ReadRates(25.0, 25.0)) for step in cold]
    (streams,) = fitted([*steps, *as_fast], {"F32": 64.0}).cold
    assert streams.more == pytest.approx(forward.more, rel=1e-6, abs=1e-15)
    slow_forward = [replace(step, read=ReadRates(25.0, 12.5)) for step in as_fast[:1]]
    (same,) = fitted([*steps, *slow_forward, *as_fast[1:]], {"F32": 64.0}).cold
    assert same.more == pytest.approx(forward.more, rel=1e-6, abs=1e-15)


def test_prices_are_of_a_usual_pace_and_follow_that_of_the_moment(roofs: Roofs) -> None:
    """Half of all steps were timed while everything took 1.5 times as long, weights' reading
    apart.
    """
    graphs = [graph_of(width) for width in (64, 96, 160)]
    steps = [timed(graph, shape) for graph in graphs for shape in SHAPES]
    cold = [timed(graphs[0], StepShape.decode(rows, 700), cold=True) for rows in (1, 4, 16, 64)]
    mixed = [
        replace(
            step, pace=PACE / 1.5, seconds={name: 1.5 * each for name, each in step.seconds.items()}
        )
        if index % 2
        else step
        for index, step in enumerate(steps)
    ]
    slow_cold = [
        replace(
            step,
            pace=PACE / 1.5,
            seconds={
                name: each + 0.5 * timed(graphs[0], step.shape).seconds[name]
                for name, each in step.seconds.items()
            },
        )
        for step in cold
    ]
    usual, found = fitted([*steps, *cold]), fitted([*mixed, *slow_cold])
    graph = graph_of(128)
    for shape in (StepShape.decode(3, 400), StepShape.prefill(200)):
        told = KernelTimes(graph, PRECISION, usual, roofs).step(shape)
        for pace in (PACE, PACE / 1.5, PACE / 2):
            then = replace(roofs, pace=Peak("int8", 2, pace))
            times = KernelTimes(graph, PRECISION, found, then)
            seconds = times.step(shape).seconds
            assert times.slower == pytest.approx(found.pace / pace)
            # The head's and others' reading is little of it: no cache is left here.
            assert seconds == pytest.approx(PACE / pace * told.seconds, rel=0.02)
            assert times(shape) == pytest.approx(seconds)
        for pace in (None, Peak("int8", 1, 7.0)):
            known = KernelTimes(graph, PRECISION, usual, replace(roofs, pace=pace))
            assert known.step(shape) == told, "a pace of nobody, or of other threads"
    (cold_set,), (of_usual,) = found.cold, usual.cold
    assert cold_set.more[:4] == pytest.approx(of_usual.more[:4], rel=0.05)


def test_what_was_never_timed_is_held_to_the_roofline(roofs: Roofs) -> None:
    profile = profile_of()
    prices = {n: p for n, p in profile.prices.items() if not n.startswith("attention")}
    graph = graph_of(64)
    whole = KernelTimes(graph, PRECISION, profile, roofs).step(StepShape.decode(4, 300))
    blind = KernelTimes(graph, PRECISION, replace(profile, prices=prices), roofs)
    told = blind.step(StepShape.decode(4, 300))
    assert {o.group for o in told.operators if o.name.endswith("attend")} == {UNKNOWN}
    assert told.high / told.seconds > whole.high / whole.seconds, "and its error bar says so"


def test_the_outside_is_a_part_of_a_step(roofs: Roofs) -> None:
    outside = {"outside/1": 1e-4, "outside/row": 1e-5, "outside/token": 1e-7}
    profile = replace(profile_of(), outside=outside)
    told = KernelTimes(graph_of(), PRECISION, profile, roofs).step(StepShape.decode(8, 20))
    assert told.outside_seconds == pytest.approx(1.8e-4)
    assert outside_terms(StepShape((100, 1), (0, 5), 2))["outside/token"] == 99


def test_a_run_of_decodes_is_its_steps(roofs: Roofs) -> None:
    times = KernelTimes(graph_of(), PRECISION, profile_of(), roofs)
    run = times.decode_run([100, 30], 40)
    for step, seconds in enumerate(run):
        assert seconds == times(StepShape((1, 1), (100 + step, 30 + step), 2))


def test_an_interval_widens_with_what_is_unsure() -> None:
    low, high = interval(1.0, {"linear": 0.9, "norm": 0.1}, {"linear": 0.05, "norm": 0.5})
    assert 0.8 < low < 1 < high < 1.2
    wider = interval(1.0, {"linear": 0.2, "norm": 0.8}, {"linear": 0.05, "norm": 0.5})
    assert wider[1] > high


def test_profiles_are_kept_by_machine_isa_and_threads(tmp_path: Path) -> None:
    profile, machine = profile_of(), {"model name": "An abacus"}
    assert store_profile(tmp_path, machine, profile)
    assert store_profile(tmp_path, machine, replace(profile, threads=1, read_rate=7.0))
    assert load_profile(tmp_path, machine, "avx512", 2) == profile
    one = load_profile(tmp_path, machine, "avx512", 1)
    assert one is not None
    assert one.read_rate == 7.0
    assert load_profile(tmp_path, machine, "amx", 2) is None
    assert load_profile(tmp_path, {"model name": "Another"}, "avx512", 2) is None


def test_kernels_of_another_build_have_prices_of_their_own(tmp_path: Path) -> None:
    machine = {"model name": "An abacus"}
    old, new = ({**machine, KERNELS: build} for build in ("a1", "b2"))
    store_profile(tmp_path, old, profile_of())
    store_profile(tmp_path, {**old, "model name": "Another"}, profile_of())
    assert load_profile(tmp_path, old, "avx512", 2) is not None
    assert load_profile(tmp_path, new, "avx512", 2) is None
    store_profile(tmp_path, new, replace(profile_of(), read_rate=7.0))
    found = load_profile(tmp_path, new, "avx512", 2)
    assert found is not None
    assert found.read_rate == 7.0
    assert load_profile(tmp_path, old, "avx512", 2) is None, "they are gone"
    assert load_profile(tmp_path, {**old, "model name": "Another"}, "avx512", 2) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prices", {"linear/F32@1": "fast"}),
        ("prices", {"linear/F32@1": -1.0}),
        ("prices", [1.0]),
        ("read_rate", 1e300),
        ("residuals", None),
        ("measured_at", "x" * 100),
        ("outside", {"outside/1": True}),
        ("pace", 0.0),
        ("streamed", {"BF16": -4.0}),
    ],
)
def test_a_profile_that_cannot_be_is_none(tmp_path: Path, field: str, value: object) -> None:
    machine = {"model name": "An abacus"}
    store_profile(tmp_path, machine, profile_of())
    path = tmp_path / "kernels.json"
    known = json.loads(path.read_text())
    for fields in known.values():
        fields[field] = value
    path.write_text(json.dumps(known))
    assert load_profile(tmp_path, machine, "avx512", 2) is None
    path.write_text("[]")
    assert load_profile(tmp_path, machine, "avx512", 2) is None
