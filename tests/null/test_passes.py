"""Passes: what each rewrite makes and leaves, arenas without overlap, ranks that add up."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from small_graphs import Decoder, RandomWeights, decoder

from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.dims import SAMPLED, SEQUENCES, TOKENS
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import (
    Add,
    AddNorm,
    AllGather,
    AllReduce,
    Attention,
    Embed,
    GatedActivation,
    GatedLinear,
    KvWrite,
    Linear,
    Norm,
    Rope,
    RopeKvWrite,
    Rotation,
    SelectRows,
    Softcap,
    Split,
)
from ridgeline.model.passes.fuse import (
    REWRITES,
    fuse,
    fuse_add_norm,
    fuse_gated_linear,
    join_gate_and_up,
    merge_linears,
)
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.memory import ALIGNMENT_BYTES, ELEMENT_BYTES, MemoryPlan, plan_memory
from ridgeline.model.passes.select import select_early
from ridgeline.model.passes.shard import shard, share_of
from ridgeline.step import PlanRow, RowSampling, StepPlan

Floats = npt.NDArray[np.float32]

DECODERS = {
    "plain": Decoder(),
    "head_norm": Decoder(head_norm=True),
    "joint_qkv": Decoder(joint_qkv=True),
    "no_rope": Decoder(rope=False),
    "bias": Decoder(bias=True),
    "sandwich": Decoder(sandwich=True, tied=True, head_norm=True, window=9),
    "one_kv_head": Decoder(kv_heads=1, head_norm=True),
    "all_heads": Decoder(kv_heads=4),
    "three_kv_heads": Decoder(heads=6, kv_heads=3, width=48),
    "odd_hidden": Decoder(hidden=50),
}
TOKEN_IDS = np.random.default_rng(0).integers(0, 64, 40).tolist()


def exact(graph: Graph) -> Graph:
    """Keys and values unrounded: a rounding may turn on the last bit of a sum."""
    return with_kv_format(graph, KV_FORMATS["f32"])


def logits(graphs: Graph | tuple[Graph, ...], weights: RandomWeights) -> Floats:
    ranks = [exact(rank) for rank in (graphs if isinstance(graphs, tuple) else (graphs,))]
    executor = ReferenceExecutor(ranks, weights, num_blocks=4, max_rows=1)
    executor.open_row(0, TOKEN_IDS, RowSampling())
    return executor.forward(StepPlan((PlanRow(0, 40, 0, 40, (2, 0, 3)),)))


def distance(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def operators(graph: Graph) -> Counter[str]:
    return Counter(type(node.op).__name__ for node in graph.nodes)


# ---- fuse


@pytest.mark.parametrize("name", DECODERS)
def test_every_rewrite_keeps_logits_weights_and_form(name: str) -> None:
    graph = decoder(DECODERS[name])
    weights = RandomWeights(graph)
    expected = logits(graph, weights)
    for rewrite in REWRITES.values():
        graph = rewrite(graph)
        check_graph(graph)
        assert np.array_equal(logits(graph, weights), expected), rewrite.__name__
    assert graph == fuse(decoder(DECODERS[name]))
    assert {w.name for w in graph.weights} == {w.name for w in weights.graph.weights}
    assert graph.outputs == weights.graph.outputs


@pytest.mark.parametrize("name", [n for n in DECODERS if n != "sandwich"])
def test_a_layer_is_seven_operators(name: str) -> None:
    counts = operators(fuse(decoder(DECODERS[name])))
    assert counts == {
        "Embed": 1,
        "Norm": 1,
        "Linear": 7,
        "RopeKvWrite": 2,
        "Attention": 2,
        "AddNorm": 4,
        "GatedLinear": 2,
        "SelectRows": 2,
    }


def test_what_the_fused_operators_are() -> None:
    graph = fuse(decoder(Decoder(layers=1, head_norm=True, bias=True)))
    by_name = {node.name: node for node in graph.nodes}
    qkv = by_name["layers.0.q_k_v"]
    assert qkv.op == Linear(num_parts=3, bias=True)
    assert [w.name[9:] for w in qkv.weights] == ["q.w", "k.w", "v.w", "q.bias", "k.bias", "v.bias"]
    write = by_name["layers.0.kv_write"].op
    assert isinstance(write, RopeKvWrite)
    assert (write.num_heads, write.kv_heads, write.head_dim) == (4, 2, 8)
    assert write.head_norm == Norm(eps=1e-5)
    assert [w.name for w in by_name["layers.0.kv_write"].weights] == [
        "layers.0.q_norm.weight",
        "layers.0.k_norm.weight",
    ]
    assert by_name["layers.0.norm2"].op == AddNorm(Norm(eps=1e-5))
    gate_up = by_name["layers.0.gate_up"]
    assert gate_up.op == GatedLinear("silu", Linear(num_parts=2, bias=True))
    assert [w.name[9:] for w in gate_up.weights] == ["gate.w", "up.w", "gate.bias", "up.bias"]


@pytest.mark.parametrize("name", DECODERS)
def test_the_last_layer_sees_the_selected_rows_after_its_attention(name: str) -> None:
    graph = select_early(decoder(DECODERS[name]))
    check_graph(graph)
    of_rows = {node.name: node.outputs[0].shape[0] for node in graph.nodes if node.outputs}
    names = list(of_rows)
    last = names.index("layers.1.attend")
    assert all(of_rows[n] is TOKENS for n in names[: last + 1])
    assert all(of_rows[n] is SAMPLED for n in names[last + 1 :])
    selects = [node for node in graph.nodes if isinstance(node.op, SelectRows)]
    assert [node.name for node in selects] == ["layers.1.attend.select", "layers.0.add2.select"]
    assert select_early(graph) == graph
    weights = RandomWeights(graph)
    expected = logits(decoder(DECODERS[name]), weights)[-3:]
    executor = ReferenceExecutor(exact(graph), weights, num_blocks=4, max_rows=1)
    executor.open_row(0, TOKEN_IDS, RowSampling())
    # A step that wants no logits selects no rows, and fills every cache as others do.
    assert executor.forward(StepPlan((PlanRow(0, 30, 0, 0, (2, 0)),))).shape[0] == 0
    found = executor.forward(StepPlan((PlanRow(0, 10, 30, 3, (3,)),)))
    assert distance(found, expected) < 1e-5


def test_rows_that_somebody_else_reads_are_selected_where_they_were() -> None:
    b, x = small()
    y = b.one("y", Softcap(1.0), x)
    state = KvState("kv", 1, 2, 2)
    b.add("write", KvWrite(), *b.add("split", Split((2, 2)), y), state=state)
    graph = b.finish(b.one("select", SelectRows(), y), 8)
    assert select_early(graph) == graph


def small() -> tuple[Builder, Value]:
    b = Builder("small", lambda name: FORMATS["F32"])
    return b, b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", 5, 4),))


def test_linears_with_another_between_or_another_bias_stay_apart() -> None:
    b, x = small()
    a = b.one("a", Linear(), x, weights=(b.weight("wa", 4, 4),))
    c = b.one("c", Linear(bias=True), x, weights=(b.weight("wc", 4, 4), b.weight("bc", 4)))
    d = b.one("d", Linear(), a, weights=(b.weight("wd", 4, 4),))
    e = b.one("e", Linear(), x, weights=(b.weight("we", 4, 4),))
    total = b.one("f", Add(), b.one("g", Add(), c, d), e)
    graph = b.finish(total, 8)
    assert merge_linears(graph) == graph


def test_a_sum_with_other_readers_is_still_fused_and_still_there() -> None:
    b, x = small()
    y = b.one("y", Softcap(2.0), x)
    total = b.one("add", Add(), x, y)
    n = b.one("norm", Norm(), total, weights=(b.weight("w", 4),))
    graph = fuse_add_norm(b.finish(b.one("again", Add(), total, n), 8))
    check_graph(graph)
    assert operators(graph) == {"Embed": 1, "Softcap": 1, "AddNorm": 1, "Add": 1}


@pytest.mark.parametrize("gate_first", [True, False])
def test_gate_and_up_are_joined_only_in_their_order_and_alone(gate_first: bool) -> None:
    b, x = small()
    halves = b.add("split", Split((2, 2)), x)
    gate, up = halves if gate_first else halves[::-1]
    graph = b.finish(b.one("act", GatedActivation("silu"), gate, up), 8)
    joined = join_gate_and_up(graph)
    assert (joined == graph) is not gate_first
    read_elsewhere = replace(graph, outputs=(*graph.outputs, gate))
    assert join_gate_and_up(read_elsewhere) == read_elsewhere


def test_a_gated_unit_takes_in_the_linear_of_both_halves_alone() -> None:
    b, x = small()
    weights = {n: b.weight(n, 8, 4) for n in ("g", "u")}
    joint = b.one("gu", Linear(num_parts=2), x, weights=(weights["g"], weights["u"]))
    act = b.one("act", GatedActivation("gelu", joint=True), joint)
    graph = b.finish(act, 8)
    fused = fuse_gated_linear(graph)
    assert operators(fused) == {"Embed": 1, "GatedLinear": 1}
    assert fused.nodes[1].op == GatedLinear("gelu", Linear(num_parts=2))
    read_elsewhere = replace(graph, outputs=(*graph.outputs, joint))
    assert fuse_gated_linear(read_elsewhere) == read_elsewhere


@pytest.mark.parametrize("sizes", [(6, 2), (2, 4, 2)])
def test_parts_that_are_not_gate_and_up_stay_apart_from_the_unit(sizes: tuple[int, ...]) -> None:
    b, x = small()
    weights = tuple(b.weight(f"w{i}", size, 4) for i, size in enumerate(sizes))
    joint = b.one("gu", Linear(num_parts=len(sizes)), x, weights=weights)
    graph = b.finish(b.one("act", GatedActivation("silu", joint=True), joint), 8)
    assert fuse_gated_linear(graph) == graph


def test_a_key_that_somebody_else_reads_keeps_its_operators() -> None:
    graph = merge_linears(decoder(Decoder(layers=1)))
    (rope,) = (node for node in graph.nodes if node.name == "layers.0.k_rope")
    read_elsewhere = replace(graph, outputs=(*graph.outputs, rope.outputs[0]))
    assert "RopeKvWrite" not in operators(fuse(read_elsewhere))


def test_a_key_that_turns_otherwise_than_its_query_keeps_its_operators() -> None:
    graph = merge_linears(decoder(Decoder(layers=1)))
    other = Rotation((0.5, 0.25, 0.125))
    nodes = tuple(
        replace(node, op=replace(node.op, rotation=other))
        if isinstance(node.op, Rope) and node.name.endswith("k_rope")
        else node
        for node in graph.nodes
    )
    assert "RopeKvWrite" not in operators(fuse(replace(graph, nodes=nodes)))


# ---- memory

STEP = {TOKENS: 20, SAMPLED: 3, SEQUENCES: 2}


def plan_of(graph: Graph) -> MemoryPlan:
    return plan_memory(graph, max_tokens=20, max_sampled=3, max_sequences=2)


def elements(plan: MemoryPlan, value: Value) -> npt.NDArray[np.int64]:
    """Index in the arena, in elements, of each of a value's elements."""
    rows, width = value.shape
    num_rows = rows if isinstance(rows, int) else STEP[rows]
    assert isinstance(width, int)
    start = plan.offsets[value.id] // ELEMENT_BYTES
    stride = plan.row_strides[value.id]
    return start + np.arange(num_rows)[:, None] * stride + np.arange(width)


def replay(graph: Graph) -> MemoryPlan:
    """Runs the graph on value ids: a node writes its outputs' ids over their elements, and whoever
    reads must find the id of the value, or of the one that it is a view of.
    """
    plan = plan_of(graph)
    arena = np.full(plan.arena_bytes // ELEMENT_BYTES, -1)
    ids = {v.id: plan.views[v.id].base if v.id in plan.views else v.id for v in values(graph)}
    for node in graph.nodes:
        for value in node.inputs:
            if value not in graph.inputs:
                assert (arena[elements(plan, value)] == ids[value.id]).all(), (node.name, value)
        for value in node.outputs:
            if value.id not in plan.views:
                assert plan.offsets[value.id] % ALIGNMENT_BYTES == 0
                arena[elements(plan, value)] = value.id
        for value in node.outputs:
            assert (arena[elements(plan, value)] == ids[value.id]).all(), (node.name, value)
    for value in graph.outputs:
        assert (arena[elements(plan, value)] == ids[value.id]).all(), value
    return plan


def values(graph: Graph) -> list[Value]:
    return [value for node in graph.nodes for value in node.outputs]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_nothing_is_overwritten_while_it_is_needed(name: str, fused: bool) -> None:
    graph = decoder(DECODERS[name])
    replay(fuse(graph) if fused else graph)


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_overwritten_in_any_graph(seed: int) -> None:
    """Values of many widths, read once, often, late or never, as views and views of views."""
    rng = random.Random(seed)
    b, x = small()
    made = [x]
    for index in range(60):
        name, a = f"n{index}", rng.choice(made[-12:])
        width = a.shape[-1]
        assert isinstance(width, int)
        twins = [value for value in made if value.shape == a.shape]
        kind = rng.choice(["linear", "add", "split", "softcap", "norm", "gated"])
        if kind == "linear":
            weight = b.weight(f"w{index}", rng.choice([1, 3, 8, 17, 40, 64]), width)
            made.append(b.one(name, Linear(), a, weights=(weight,)))
        elif kind == "add":
            made.append(b.one(name, Add(), a, rng.choice(twins)))
        elif kind == "split" and width > 1:
            left = rng.randrange(1, width)
            made += b.add(name, Split((left, width - left)), a)
        elif kind == "norm":
            weight = b.weight(f"w{index}", width)
            made += b.add(name, AddNorm(), a, rng.choice(twins), weights=(weight,))
        elif kind == "gated":
            made.append(b.one(name, GatedActivation("silu"), a, rng.choice(twins)))
        else:
            made.append(b.one(name, Softcap(1.0), a))
    plan = replay(b.finish(made[-1], 8))
    assert plan.in_place
    assert plan.arena_bytes < sum(plan.value_bytes.values())


def test_what_is_read_later_is_not_overwritten() -> None:
    b, x = small()
    y = b.one("y", Add(), x, x)
    z = b.one("z", Add(), y, y)
    plan = replay(b.finish(b.one("out", Add(), z, y), 8))
    assert plan.in_place[y.id] == x.id
    assert z.id not in plan.in_place


@pytest.mark.parametrize("name", DECODERS)
def test_an_output_only_lies_over_an_input_where_the_plan_says_so(name: str) -> None:
    graph = fuse(decoder(DECODERS[name]))
    plan = plan_of(graph)
    for node in graph.nodes:
        for output in node.outputs:
            for value in node.inputs:
                if value.id == graph.inputs[0].id or output.id in plan.views:
                    continue
                overlap = np.intersect1d(elements(plan, output), elements(plan, value)).size > 0
                assert overlap == (plan.in_place.get(output.id) == value.id)


def test_splits_are_views_and_sums_are_in_place() -> None:
    graph = merge_linears(decoder(Decoder(layers=1)))
    plan = plan_of(graph)
    (split,) = (n for n in graph.nodes if n.name == "layers.0.q_k_v.split")
    joint = split.inputs[0]
    columns = [plan.views[v.id].column for v in split.outputs]
    assert columns == [0, 32, 48]
    assert {plan.views[v.id].base for v in split.outputs} == {joint.id}
    assert {plan.row_strides[v.id] for v in split.outputs} == {64}
    assert [plan.offsets[v.id] - plan.offsets[joint.id] for v in split.outputs] == [0, 128, 192]
    assert not {v.id for v in split.outputs} & set(plan.value_bytes)
    (add,) = (n for n in graph.nodes if n.name == "layers.0.add1")
    assert plan.in_place[add.outputs[0].id] == add.inputs[0].id


def test_a_split_of_a_split_strides_over_the_first_base() -> None:
    b, x = small()
    left, right = b.add("outer", Split((1, 3)), x)
    middle, last = b.add("inner", Split((2, 1)), right)
    graph = b.finish(b.one("out", GatedActivation("silu"), left, last), 8)
    plan = plan_of(graph)
    assert [plan.views[v.id].base for v in (middle, last)] == [x.id, x.id]
    assert [plan.views[v.id].column for v in (middle, last)] == [1, 3]
    assert plan.row_strides[last.id] == 4
    assert plan.in_place == {}, "a view is nobody's to overwrite"


def test_the_arena_is_small_and_does_not_grow_with_layers() -> None:
    few, many = (plan_of(fuse(decoder(Decoder(layers=n)))) for n in (3, 12))
    assert few.arena_bytes == many.arena_bytes
    # At the peak: the residual, q, k and v, q turned, and a gap beside them; then alignment.
    assert many.arena_bytes <= 20 * (32 + 64 + 32 + 32) * ELEMENT_BYTES + 3 * ALIGNMENT_BYTES


def test_values_of_other_row_bytes_have_memory_of_that_size_and_of_their_own() -> None:
    b, x = small()
    y = b.one("y", Softcap(1.0), x)
    z = b.one("z", Softcap(1.0), y)
    graph = b.finish(b.one("out", Softcap(1.0), z), 8)
    plain = plan_of(graph)
    plan = plan_memory(graph, max_tokens=20, max_sampled=3, max_sequences=2, row_bytes={y.id: 5})
    assert plain.in_place.keys() == {y.id, z.id, graph.outputs[0].id}
    assert plan.in_place.keys() == {graph.outputs[0].id}
    assert plan.value_bytes[y.id] == 20 * 5
    ends = {each: plan.offsets[each] + size for each, size in plan.value_bytes.items()}
    assert ends[y.id] <= plan.offsets[z.id] or ends[z.id] <= plan.offsets[y.id]
    assert ends[x.id] <= plan.offsets[y.id] or ends[y.id] <= plan.offsets[x.id]


# ---- shard


@pytest.mark.parametrize("fuse_first", [False, True])
@pytest.mark.parametrize("ways", [2, 4])
@pytest.mark.parametrize("name", DECODERS)
def test_ranks_in_lock_step_are_the_whole(name: str, ways: int, fuse_first: bool) -> None:
    graph = decoder(DECODERS[name])
    weights = RandomWeights(graph)
    expected = logits(graph, weights)
    ranks = shard(fuse(graph) if fuse_first else graph, ways)
    assert len(ranks) == ways
    assert distance(logits(ranks, weights), expected) < 1e-5
    assert distance(logits(tuple(map(fuse, ranks)), weights), expected) < 1e-5


def test_shares_cover_each_weight_once_or_are_whole() -> None:
    graph = decoder(Decoder())
    whole = {weight.name: weight for weight in graph.weights}
    seen: dict[tuple[str, int], list[int]] = {}
    for rank in shard(graph, 4):
        for weight in rank.weights:
            share = share_of(weight)
            expected = list(whole[share.name].shape)
            expected[share.dim] //= share.parts
            assert list(weight.shape) == expected
            seen.setdefault((share.name, share.parts), []).append(share.part)
    for (name, parts), found in seen.items():
        assert sorted(found) == [part for part in range(parts) for _ in range(4 // parts)], name
    assert ("layers.0.q.w", 4) in seen
    assert ("layers.0.k.w", 2) in seen, "two ranks share a KV head"
    assert ("norm.weight", 1) in seen


def test_a_rank_holds_its_share_of_weights_heads_and_cache() -> None:
    graph = decoder(Decoder(kv_heads=4))
    whole = sum(weight.num_bytes for weight in graph.weights)
    for rank in shard(graph, 4):
        assert sum(weight.num_bytes for weight in rank.weights) < 0.26 * whole
        assert {state.kv_heads for state in rank.states} == {1}
        assert {n.op.num_heads for n in rank.nodes if isinstance(n.op, Attention)} == {1}
        # Two a layer, one for the embedding, one to gather the logits.
        assert operators(rank)["AllReduce"] == 2 * 2 + 1
        assert operators(rank)["AllGather"] == 1


def test_embedding_rows_know_where_they_start() -> None:
    ranks = shard(decoder(Decoder()), 4)
    assert [next(iter(r.nodes)).op for r in ranks] == [Embed(first_row=16 * i) for i in range(4)]


def test_quantized_columns_are_cut_in_whole_blocks() -> None:
    """48 columns in Q8_0 blocks of 32 do not exist; 64 are cut in two, not in four."""
    graph = decoder(Decoder(hidden=64, heads=4, head_dim=16, format="Q8_0"))
    two, four = (shard(graph, ways)[0] for ways in (2, 4))
    assert "layers.0.down.w@1:0/2" in {w.name for w in two.weights}
    assert "layers.0.down.w" in {w.name for w in four.weights}
    for rank in (two, four):
        for weight in rank.weights:
            assert weight.shape[-1] % weight.format.block_elements == 0


def test_heads_that_do_not_divide_stay_whole() -> None:
    rank = shard(decoder(DECODERS["three_kv_heads"]), 2)[0]
    assert {state.kv_heads for state in rank.states} == {3}
    assert "layers.0.q.w" in {w.name for w in rank.weights}
    assert "layers.0.gate.w@0:0/2" in {w.name for w in rank.weights}


def test_one_way_is_the_graph_and_none_is_an_error() -> None:
    graph = decoder(Decoder())
    assert shard(graph, 1) == (graph,)
    with pytest.raises(ModelError, match="0 parts"):
        shard(graph, 0)


def test_collectives_stand_only_in_ranks() -> None:
    graph = decoder(Decoder())
    assert not any(isinstance(n.op, AllReduce | AllGather) for n in graph.nodes)


def test_channels_cut_as_one_are_gathered_before_they_are_parted() -> None:
    """Half of gate|up is not half of gate beside half of up."""
    b = Builder("small", lambda name: FORMATS["F32"])
    x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", 64, 8),))
    y = b.one("gate_up", Linear(), x, weights=(b.weight("w", 16, 8, axes=("ffn", None)),))
    gate, up = b.add("split", Split((8, 8)), b.one("cap", Softcap(2.0), y))
    y = b.one("act", GatedActivation("silu"), gate, up)
    head = b.weight("head", 64, 8, axes=("vocab", None))
    graph = b.finish(b.one("out", Linear(), b.one("rows", SelectRows(), y), weights=(head,)), 64)
    ranks = shard(graph, 2)
    assert "w@0:1/2" in {weight.name for weight in ranks[1].weights}
    weights = RandomWeights(graph)
    assert distance(logits(ranks, weights), logits(graph, weights)) < 1e-5
