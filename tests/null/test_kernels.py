"""Prices of kernels: found again from operators that were timed by known prices, and kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_meter import FakeMeter
from small_graphs import Decoder, decoder

from ridgeline.cost.cold_weights import NO_AMOUNTS, Draw
from ridgeline.cost.device import Barrier, Peak, ReadRates, Roofs
from ridgeline.cost.kernel_samples import TimedStep
from ridgeline.cost.kernel_store import KERNELS, load_profile, store_profile
from ridgeline.cost.kernel_terms import (
    COLD_MARKS,
    FIRST_BYTES_SHARE,
    Place,
    needs_of,
    places,
    sample_needs,
)
from ridgeline.cost.kernel_times import UNKNOWN, KernelTimes, outside_terms
from ridgeline.cost.kernels import KernelProfile, fit, interval
from ridgeline.cost.measure import measure
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import Precision
from ridgeline.model.passes.fuse import fuse
from ridgeline.step import StepShape

PRECISION = Precision(activation_bytes=4.0, default_compute="f32")
PACE = 500.0
# GB/s of memory, and the share of it that kernels draw. It is slow beside these prices.
COLD_RATE, DRAWN = 0.5, 1.1
SHAPES = [
    *(
        StepShape.decode(rows, context)
        for rows in (1, 2, 4, 8, 16, 32, 64)
        for context in (20, 700)
    ),
    *(StepShape.prefill(tokens) for tokens in (64, 300, 512)),
    StepShape((1, 1, 100), (30, 900, 0), 2),
]


SCREEN_TERMS = [f"{kind}/Q5_0@{rows}" for kind in ("head", "linear") for rows in (1, 2, 4, 8)]


def graph_of(width: int = 64) -> Graph:
    how = Decoder(width=width, hidden=3 * width, vocab=4 * width, max_context=4096, joint_qkv=True)
    return fuse(decoder(how))


def price_of(name: str) -> float:
    """A price that follows from the term's name."""
    return (1 + sum(name.encode()) % 13) * (1e-6 if name.endswith(("/1", "/late")) else 1e-11)


def timed(
    graph: Graph, shape: StepShape, threads: int = 2, cold: bool = False, lost: float = 0.0
) -> TimedStep:
    """lost: of what takes shorter, computing or reading, the share that the longer did not hide;
    kernels then draw all that memory gives.
    """
    placed = places(graph)
    seconds: dict[str, float] = {}
    for node in graph.nodes:
        needs = needs_of(node, placed.get(node.name, Place()), shape, threads)
        if needs is not None:
            seconds[node.name] = sum(price_of(n) * a for n, a in needs.terms.items()) + 1e-7
            if cold:
                rate = COLD_RATE * (1.0 if lost else DRAWN)
                reading = 1e-9 * sum(needs.read.values()) / rate
                both = sorted((seconds[node.name], reading))
                seconds[node.name] = both[1] + lost * both[0]
    drawing = sample_needs(shape.num_sampled, 256, threads)
    if drawing is not None:
        seconds["sample"] = sum(price_of(n) * a for n, a in drawing.terms.items())
    rate = COLD_RATE if cold else 50.0
    read = ReadRates(1.2 * rate, rate)
    size = 2.0**28 if cold else 0.0
    return TimedStep(graph, shape, threads, size, seconds, read, PACE, 100.0)


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


def test_an_operator_computes_or_reads_whatever_takes_longer() -> None:
    profile = profile_of()
    for draw in profile.cold:
        assert draw.share == pytest.approx(DRAWN, rel=0.02)
        assert draw.most is None, "kernels drew all that there was"
    graph = graph_of(128)
    node = next(n for n in graph.nodes if n.name == "head")
    needs = needs_of(node, places(graph)["head"], StepShape.decode(1, 10), 2)
    assert needs is not None

    def seconds(footprint: float, rate: float, slower: float = 1.0) -> float:
        price = profile.prices_at(footprint, ReadRates(2 * rate, rate))
        found = profile.seconds(needs, price, slower)
        assert found is not None
        return found

    hot, cold = seconds(2.0**24, 50.0), seconds(2.0**28, COLD_RATE)
    assert cold == pytest.approx(1e-9 * node.weights[0].num_bytes / (DRAWN * COLD_RATE), rel=0.02)
    assert cold > 2 * hot
    assert seconds(2.0**24, COLD_RATE) == hot, "caches hold it"
    # Half the rate takes twice as long; where it computes for longer, memory is no part of it.
    assert seconds(2.0**28, COLD_RATE / 2) == pytest.approx(2 * cold)
    assert seconds(2.0**28, COLD_RATE, 1e3) == pytest.approx(1e3 * hot)
    assert seconds(2.0**28, 1e3) == hot


def test_kernels_have_a_limit_of_their_own() -> None:
    """What they draw of fast memory is no share of it, and is told where it was seen."""
    graph = graph_of()
    steps = [timed(graph, shape) for shape in SHAPES]
    cold = [timed(graph, StepShape.decode(rows, 700), cold=True) for rows in (1, 4)]
    fast = [replace(step, read=ReadRates(2.4 * COLD_RATE, 2 * COLD_RATE)) for step in cold]
    for mixed in ([*cold, *fast], [*fast, *cold]):
        for draw in fitted([*steps, *mixed]).cold:
            assert draw.share == pytest.approx(DRAWN, rel=0.02)
            assert draw.most == pytest.approx(DRAWN * COLD_RATE, rel=0.02)
    # Seen in fast memory alone: of slow memory they are taken to draw all.
    (only,) = set(fitted([*steps, *fast]).cold)
    assert (only.share, only.most) == (1.0, pytest.approx(DRAWN * COLD_RATE, rel=0.02))
    known = fitted([*steps, *cold, *fast])
    prices = {rate: known.prices_at(2.0**28, ReadRates(rate, rate)).each for rate in (0.3, 5.0)}
    assert prices[0.3][0] == pytest.approx(1e-9 / 0.3), "no faster than the fastest way"
    assert prices[5.0][0] == pytest.approx(1e-9 / (DRAWN * COLD_RATE), rel=0.02)
    # Half in caches, half of it is held back.
    half = known.prices_at(2.0**25 * 3**0.5, ReadRates(5.0, 5.0))
    assert half.each[0] == pytest.approx(prices[5.0][0] / 2, rel=0.02)


@pytest.mark.parametrize("lost", [0.2, 0.4, 0.7])
def test_what_the_longer_of_computing_and_reading_does_not_hide(lost: float, roofs: Roofs) -> None:
    """Of few rows, which wait for memory, and of more, which mostly compute."""
    graphs = [graph_of(width) for width in (64, 96, 160)]
    steps = [timed(graph, shape) for graph in graphs for shape in SHAPES]
    for graph in graphs:
        for rows in COLD_MARKS:
            shape = StepShape.decode(rows, 700)
            steps.append(timed(graph, shape, cold=True, lost=lost))
    profile = fitted(steps)
    slow = ReadRates(1.2 * COLD_RATE, COLD_RATE)
    assert set(profile.cold) == {Draw()}, "kernels draw all that there is"
    for rows in COLD_MARKS:
        assert profile.lost[f"F32/weights@{rows}"] == pytest.approx(lost, abs=0.051)
        shape = StepShape.decode(rows, 700)
        unseen = graph_of(128)
        truth = timed(unseen, shape, cold=True, lost=lost).seconds
        for node in unseen.nodes:
            needs = needs_of(node, places(unseen).get(node.name, Place()), shape, 2)
            if needs is None or not needs.read:
                continue
            told = profile.seconds(needs, profile.prices_at(2.0**28, slow))
            assert told == pytest.approx(truth[node.name], rel=0.05), node.name
    # A whole step, as a sum and by operators.
    times = KernelTimes(graph_of(128), PRECISION, replace(profile, packed={"F32": 1e6}), roofs)
    for shape in (StepShape.decode(16, 64), StepShape((1, 200), (70, 9), 2)):
        told_step = times.step(shape)
        assert times(shape) == pytest.approx(told_step.seconds, rel=1e-9)
        assert sum(o.seconds for o in told_step.operators) == pytest.approx(told_step.seconds)


def test_what_never_waited_says_nothing_of_memory() -> None:
    graph = graph_of()
    steps = [timed(graph, shape) for shape in SHAPES]
    hot = [
        replace(timed(graph, StepShape.decode(rows, 700)), cold_bytes=2.0**28) for rows in (1, 4)
    ]
    assert fitted([*steps, *hot]).cold == (Draw(),) * len(NO_AMOUNTS)


def test_steps_follow_the_way_in_which_kernels_read(roofs: Roofs) -> None:
    graph, shape = graph_of(128), StepShape.decode(1, 4000)
    profile = replace(profile_of(), packed={"F32": 1e6})  # a model that no cache holds

    def seconds(fastest: float, forward: float, draw: Draw | None = None) -> float:
        reads = tuple(
            replace(
                read,
                gigabytes_per_second=fastest * read.gigabytes_per_second,
                forward=forward * read.forward,
            )
            for read in roofs.reads
        )
        drawn = profile.cold if draw is None else (draw,) * len(NO_AMOUNTS)
        times = KernelTimes(
            graph, PRECISION, replace(profile, cold=drawn), replace(roofs, reads=reads)
        )
        told = times.step(shape)
        assert times(shape) == pytest.approx(told.seconds, rel=1e-9)
        assert sum(o.seconds for o in told.operators) == pytest.approx(told.seconds)
        return times(shape)

    slow = Draw(0.5)
    usual = seconds(1.0, 1.0, slow)
    assert seconds(0.5, 1.0, slow) == usual, "a roof that fell is no slower kernel"
    assert seconds(1.0, 0.5, slow) > 1.9 * usual
    # No step is faster than memory is read, whatever kernels seemed to draw.
    least = seconds(1.0, 1.0, Draw(1e3))
    read = max(roofs.read(1e12, 2).rates)  # type: ignore[union-attr]
    weights = {w.name: w.num_bytes for n in graph.nodes for w in n.weights if n.name != "embed"}
    assert least > 0.9 * 1e6 * sum(weights.values()) / (1e9 * read)
    assert seconds(0.5, 0.5, Draw(1e3)) == pytest.approx(2 * least, rel=0.1)


def test_threads_that_are_far_from_each_other_wait_for_what_they_hand_on(roofs: Roofs) -> None:
    """By as much as their barrier takes longer than when they were near, and by what a row has to
    pass; one thread hands on nothing.
    """
    profile = profile_of()
    assert profile.barrier_nanoseconds == 100.0
    graph = graph_of(128)

    def seconds(barrier: float, rows: int) -> float:
        then = replace(roofs, barriers=(Barrier(2, barrier),))
        times = KernelTimes(graph, PRECISION, profile, then)
        shape = StepShape.decode(rows, 20)
        assert times(shape) == pytest.approx(times.step(shape).seconds, rel=1e-9)
        return times(shape)

    for rows in (1, 8, 16, 32):
        assert seconds(50.0, rows) == seconds(100.0, rows)
        more = seconds(300.0, rows) - seconds(100.0, rows)
        assert more > 0
        assert seconds(500.0, rows) - seconds(100.0, rows) == pytest.approx(2 * more, rel=1e-6)
    assert seconds(9e3, 8) == seconds(1e6, 8), "others have the cores: no line is further for it"
    few, many = (seconds(300.0, rows) - seconds(100.0, rows) for rows in (8, 16))
    assert many == pytest.approx(2 * few, rel=1e-6)
    beyond = [seconds(300.0, rows) - seconds(100.0, rows) for rows in (32, 64)]
    assert beyond[0] == pytest.approx(beyond[1], rel=1e-6), "a thread has its own rows by then"
    for node in graph.nodes:
        alone = needs_of(node, places(graph).get(node.name, Place()), StepShape.decode(8, 20), 1)
        assert alone is None or alone.handed == 0


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
        assert seconds(0.001) > 1.05 * seconds(0.002)
    else:
        assert seconds(0.001) == seconds(0.002)


def test_float_weights_that_are_read_in_streams_follow_these() -> None:
    """Up to so many rows: more of them go as one stream does, like all other weights."""
    profile = replace(profile_of(), packed={"F32": 1e6}, streamed={"F32": 1.0})
    needs = {
        rows: needs_of(node, Place(head=True), StepShape.decode(rows, 10), 2)
        for rows in (1, 4, 16)
        for node in graph_of(128).nodes
        if node.name == "head"
    }

    def seconds(rows: int, fastest: float, forward: float) -> float:
        needed = needs[rows]
        assert needed is not None
        found = profile.seconds(needed, profile.prices_at(2.0**28, ReadRates(fastest, forward)))
        assert found is not None
        return found

    assert seconds(1, 30.0, 20.0) == seconds(1, 30.0, 10.0)
    assert seconds(1, 15.0, 10.0) == pytest.approx(2 * seconds(1, 30.0, 10.0))
    for rows in (4, 16):
        assert seconds(rows, 30.0, 20.0) == seconds(rows, 60.0, 20.0)
        assert seconds(rows, 30.0, 10.0) == pytest.approx(2 * seconds(rows, 30.0, 20.0))


@pytest.mark.parametrize(("isa", "share"), [("amx", FIRST_BYTES_SHARE), ("avx512", 1.0)])
def test_a_head_that_screens_itself_is_priced_by_what_it_multiplies(isa: str, share: float) -> None:
    """By weights' first bytes, most of the whole; by activations' first terms, a linear's."""
    (node,) = [node for node in graph_of(128).nodes if node.name == "head"]
    weight = replace(node.weights[0], format=FORMATS["Q8_0"])
    node = replace(node, weights=(weight,), op=replace(node.op, screen=FORMATS["Q5_0"]))
    needs = needs_of(node, Place(head=True), StepShape.decode(32, 10), 2, isa)
    assert needs is not None
    name = "head" if share < 1 else "linear"
    assert needs.terms[f"{name}/Q8_0@32"] == pytest.approx(share * weight.num_elements)


def test_what_a_screen_lets_through_is_all_that_is_drawn_from(roofs: Roofs) -> None:
    graph = graph_of(128)
    head = next(node for node in graph.nodes if node.name == "head")
    screened = replace(head, op=replace(head.op, screen=FORMATS["Q5_0"]))  # type: ignore[call-arg]
    nodes = tuple(screened if node is head else node for node in graph.nodes)
    profile = profile_of()
    profile = replace(
        profile,
        prices={**profile.prices, **dict.fromkeys(SCREEN_TERMS, 1e-11), "sample/logit": 1e-9},
    )

    def sampling(graph: Graph, shape: StepShape) -> float:
        times = KernelTimes(graph, PRECISION, profile, roofs)
        told = times.step(shape)
        assert times(shape) == pytest.approx(told.seconds, rel=1e-9)
        return next(one.seconds for one in told.operators if one.name == "sample")

    decode, prompt = StepShape.decode(4, 10), StepShape.prefill(64)
    by_screen = replace(graph, nodes=nodes)
    assert sampling(by_screen, decode) < sampling(graph, decode)
    assert sampling(by_screen, prompt) == sampling(graph, prompt)


def test_weights_read_in_streams_are_timed_beside_streams() -> None:
    graph = graph_of()
    steps = [timed(graph, shape) for shape in SHAPES]
    cold = [timed(graph, StepShape.decode(rows, 700), cold=True) for rows in (1, 4)]
    beside = [replace(step, read=ReadRates(COLD_RATE, 0.1 * COLD_RATE)) for step in cold]
    drawn = fitted([*steps, *beside], {"F32": 64.0}).cold
    for draw in drawn[len(drawn) // 2 :]:
        assert draw.share == pytest.approx(DRAWN, rel=0.02)


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
    slow_cold = [replace(step, pace=PACE / 1.5) for step in cold]
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
    assert [d.share for d in found.cold] == pytest.approx([d.share for d in usual.cold], rel=0.05)


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
