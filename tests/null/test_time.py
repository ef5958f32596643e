"""The roofline of a graph against times worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ridgeline.cost.count import count_step
from ridgeline.cost.device import Barrier, Device, Peak, Read, Roofs, mode_name
from ridgeline.cost.time import bound_of, step_bound
from ridgeline.errors import RidgelineError
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.work import Precision, Work
from ridgeline.model.opened import describe
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.step import StepShape

DEVICE = Device(
    "abacus",
    memory_bytes_per_second=100.0,
    operations_per_second={"int8": 1000.0, "f32": 10.0},
    cache_bytes=50.0,
    cache_bytes_per_second=400.0,
)
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
PRECISION = Precision(activation_bytes=4.0, default_compute="f32", compute={"BF16": "f32"})


def test_each_resource_by_hand() -> None:
    work = Work(flops={"int8": 500.0, "f32": 2.0}, weight_bytes=30.0, kv_read_bytes=8.0)
    bound = bound_of(work, DEVICE)
    assert bound.compute_seconds == {"int8": 0.5, "f32": 0.2}
    assert bound.compute == pytest.approx(0.7)
    assert bound.memory_seconds == pytest.approx(0.38)
    assert bound.seconds == pytest.approx(0.7)
    assert bound.binds == "int8"
    assert bound_of(replace(work, flops={"f32": 0.1}), DEVICE).binds == "memory"
    assert bound_of(Work(), DEVICE).binds == ""


def test_values_that_fit_the_cache_are_no_memory_traffic() -> None:
    fits = bound_of(Work(weight_bytes=10.0, activation_bytes=50.0), DEVICE)
    assert (fits.memory_bytes, fits.cache_bytes) == (10.0, 50.0)
    assert fits.cache_seconds == pytest.approx(0.125)
    assert fits.binds == "cache"
    spills = bound_of(Work(weight_bytes=10.0, activation_bytes=51.0), DEVICE)
    assert (spills.memory_bytes, spills.cache_bytes) == (61.0, 0.0)
    # Ten operators of five bytes each: every one fits.
    assert bound_of(Work(activation_bytes=60.0), DEVICE, count=10).memory_bytes == 0.0
    unknown = replace(DEVICE, cache_bytes_per_second=None)
    assert bound_of(Work(activation_bytes=50.0), unknown).seconds == 0.0


def test_bounds_add_up() -> None:
    one = bound_of(Work(flops={"int8": 100.0}, weight_bytes=5.0, activation_bytes=4.0), DEVICE)
    other = bound_of(Work(flops={"f32": 1.0}, kv_read_bytes=5.0), DEVICE)
    both = one + other
    assert both.compute_seconds == {"int8": pytest.approx(0.1), "f32": pytest.approx(0.1)}
    assert both.memory_bytes == 10.0
    assert both.seconds <= one.seconds + other.seconds
    assert one.times(3).memory_seconds == pytest.approx(0.15)
    assert one.times(3).cache_bytes == 12.0


def test_what_a_device_does_not_state_is_named() -> None:
    with pytest.raises(RidgelineError, match="no peak for fp4 arithmetic; there are: int8, f32"):
        bound_of(Work(flops={"fp4": 1.0}), DEVICE)
    with pytest.raises(RidgelineError, match="no link"):
        bound_of(Work(link_bytes=1.0), DEVICE)
    linked = replace(DEVICE, link_bytes_per_second=5.0)
    assert bound_of(Work(link_bytes=10.0), linked).binds == "link"


def test_a_step_is_its_operators_one_after_the_other() -> None:
    graph = fuse(describe(SMALL))
    shape = StepShape.decode(2, 100)
    bound = step_bound(graph, shape, PRECISION, DEVICE)
    counted = count_step(graph, shape, PRECISION)
    assert bound.work == counted.total
    assert bound.seconds == pytest.approx(sum(row.bound.seconds for row in bound.rows))
    assert bound.seconds >= max(bound.compute_seconds, bound.memory_seconds)
    # By hand: FLOPs are the weights (2 each, 2 rows; embeddings excluded) and attention.
    matrices = 100 * 16 + 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24)
    attention = 2 * (2 * 101) * (2 * 4 * (4 + 4))
    linears = sum(
        row.row.work.total_flops
        for row in bound.rows
        if row.row.operator in ("linear", "gated_linear", "attention")
    )
    gated = 6 * 2 * (2 * 24)
    assert linears == 2 * 2 * matrices + gated + attention
    kv = 2 * (2 * 101) * (2 * (4 + 4)) * 2
    assert counted.total.kv_read_bytes == kv
    head = next(row for row in bound.rows if row.row.name == "head")
    assert head.bound.seconds == pytest.approx(2 * 2 * 1600 / 10.0)
    assert head.bound.binds == "f32"


def test_attention_is_held_to_the_peak_of_what_it_uses() -> None:
    graph = fuse(describe(SMALL))
    shape = StepShape.prefill(8)
    plain = count_step(graph, shape, PRECISION).total.flops
    paired = count_step(graph, shape, replace(PRECISION, attention={"bf16": "bf16"})).total.flops
    assert paired["bf16"] == 2 * 36 * (2 * 4 * (4 + 4))  # layers, pairs of 8 tokens, heads
    assert paired["f32"] + paired["bf16"] == plain["f32"]
    coded = with_kv_format(graph, KV_FORMATS["int8"])
    assert count_step(coded, shape, replace(PRECISION, attention={"bf16": "bf16"})).total.flops == (
        plain
    )


def test_a_head_that_nobody_wants_is_not_read() -> None:
    graph = fuse(describe(SMALL))
    inside = StepShape((8,), (0,), 0)
    rows = {row.name: row for row in count_step(graph, inside, PRECISION).rows}
    assert rows["head"].work.weight_bytes == 0
    assert rows["head"].work.total_flops == 0
    assert rows["layers.*.mlp.down"].work.weight_bytes > 0


def test_a_read_roof_lies_between_those_measured() -> None:
    roofs = Roofs(
        machine={"model name": "abacus"},
        isa="portable",
        cache_bytes=7,
        reads=(Read(400, 2, 40.0, 10.0), Read(100, 2, 160.0, 90.0), Read(100, 1, 50.0, 50.0)),
        peaks=(Peak("f32", 2, 3.0), Peak("int8", 1, 4.0)),
        barriers=(Barrier(2, 80.0),),
    )
    rates = [roofs.read(size, 2) for size in (1, 100, 200, 400, 9999)]
    assert [r.gigabytes_per_second for r in rates if r] == pytest.approx([160, 160, 80, 40, 40])
    assert [r.forward for r in rates if r] == pytest.approx([90, 90, 30, 10, 10])
    assert roofs.read(100, 4) is None
    device = roofs.device(200, 2)
    assert device is not None
    assert device.memory_bytes_per_second == pytest.approx(80e9)
    assert device.operations_per_second == {"f32": 3e9}
    assert device.barrier_seconds == pytest.approx(80e-9)
    assert device.name == "abacus, 2 threads, portable"
    assert roofs.device(200, 1) is None, "no barrier was measured with one thread"


@pytest.mark.parametrize(
    ("nanoseconds", "threads", "mode"),
    [
        (45, 2, "near"),
        (204, 2, "far"),
        (204, 8, "near"),
        (400, 8, "far"),
        (2800, 2, "busy"),
        (2800, 8, "far"),
        (1, 1, "alone"),
    ],
)
def test_modes(nanoseconds: float, threads: int, mode: str) -> None:
    assert mode_name(nanoseconds, threads) == mode
