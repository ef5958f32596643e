"""Graphs: building, checking, symbols, showing, and the work of a whole model by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_graphs import Decoder, decoder

from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.dims import SAMPLED, SEQUENCES, TOKENS, bind, num_elements
from ridgeline.model.graph.node import Graph, KvState, Value, Weight
from ridgeline.model.graph.ops import Add, Embed, Linear, Norm, SelectRows, Softcap
from ridgeline.model.graph.show import show
from ridgeline.model.graph.work import NO_WORK, Precision, Work
from ridgeline.step import StepShape

STEP = StepShape(new_tokens=(3, 1), context_lens=(0, 7), num_sampled=2)


def test_symbols_are_bound_by_the_step() -> None:
    assert [bind(dim, STEP) for dim in (TOKENS, SEQUENCES, SAMPLED, 5)] == [4, 2, 2, 5]
    assert num_elements((TOKENS, 6), STEP) == 24
    assert num_elements((), STEP) == 1


def test_pairs_and_cached_tokens_by_hand() -> None:
    """3 new tokens see 1, 2 and 3 keys; 1 new token after 7 sees 8."""
    assert STEP.attended_pairs(None) == 6 + 8
    assert STEP.attended_pairs(2) == (1 + 2 + 2) + 2
    assert STEP.attended_pairs(None, causal=False) == 9 + 8
    assert STEP.cached_tokens_read(None) == 3 + 8
    assert STEP.cached_tokens_read(2) == 3 + 2


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8, 11, None])
def test_pairs_are_the_mask(window: int | None) -> None:
    shape = StepShape((1, 5, 4, 9), (0, 0, 6, 3), 4)
    counted = 0
    for new, context in zip(shape.new_tokens, shape.context_lens, strict=True):
        for query in range(context, context + new):
            reach = query + 1 if window is None else min(query + 1, window)
            counted += reach
    assert shape.attended_pairs(window) == counted


def test_a_weight_is_whole_blocks() -> None:
    weight = Weight("w", (3, 64), FORMATS["Q4_0"], (None, None))
    assert (weight.num_elements, weight.num_bytes) == (192, 3 * 2 * 18)
    assert Weight("b", (5,), FORMATS["BF16"], (None,)).num_bytes == 10


def test_a_cache_counts_keys_and_values() -> None:
    assert KvState("s", kv_heads=3, key_dim=5, value_dim=7).elements_per_token == 36


def test_work_adds_up() -> None:
    a = Work({"f32": 1.0}, 2, 3, 4, 5, 6, 1)
    b = Work({"f32": 10.0, "int8": 7.0}, 20, 30, 40, 50, 60, 2)
    assert a + b == Work({"f32": 11.0, "int8": 7.0}, 22, 33, 44, 55, 66, 3)
    assert (a + b).total_flops == 18
    assert (a + b).total_bytes == 22 + 33 + 44 + 55, "the link is counted apart"
    assert a + NO_WORK == a


def test_a_decoders_work_is_its_weights_and_twice_them() -> None:
    """Decoding one token: every weight is read once and multiplied once (but for the embedding)."""
    graph = decoder(Decoder())
    work = sum(
        (
            n.op.cost(n, StepShape.decode(1, 0), Precision(default_compute="f32"))
            for n in graph.nodes
        ),
        NO_WORK,
    )
    embedding, *others = graph.weights
    assert work.weight_bytes == sum(w.num_bytes for w in others) + embedding.num_bytes / 64
    matrices = sum(w.num_elements for w in others if len(w.shape) == 2)
    attention = 2 * 2 * 4 * 16  # layers, multiply-add, heads, key and value channels of one pair
    assert work.total_flops >= 2 * matrices + attention
    assert work.total_flops < 1.1 * (2 * matrices + attention)
    assert work.kv_write_bytes == 2 * 2 * (8 + 8) * 2.0  # layers, heads, channels, bf16


def builder() -> Builder:
    return Builder("small", lambda name: FORMATS["F32"])


def test_the_builder_names_the_node_that_is_wrong() -> None:
    b = builder()
    x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", 5, 4),))
    with pytest.raises(ModelError, match=r"small: layers\.0\.q: Linear: w has shape \(4, 3\)"):
        b.one("layers.0.q", Linear(), x, weights=(b.weight("w", 4, 3),))
    with pytest.raises(ModelError, match=r"weight w has an empty or negative shape"):
        b.weight("w", 4, 0)


def well_formed() -> Graph:
    b = builder()
    x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", 5, 4),))
    x = b.one("norm", Norm(), x, weights=(b.weight("n", 4),))
    x = b.one("select", SelectRows(), x)
    return b.finish(b.one("head", Linear(), x, weights=(b.weight("table", 5, 4),)), 16)


def test_weights_and_states_are_listed_once() -> None:
    graph = well_formed()
    check_graph(graph)
    assert [w.name for w in graph.weights] == ["table", "n"]
    assert [s.name for s in decoder(Decoder()).states] == ["layers.0.kv", "layers.1.kv"]


def test_check_finds_each_broken_invariant() -> None:
    graph = well_formed()
    embed, norm, select, head = graph.nodes
    other = Weight("table", (5, 4), FORMATS["F16"], (None, None))
    broken = {
        "before it is made": (embed, select, norm, head),
        "a second time": (embed, replace(norm, outputs=embed.outputs), select, head),
        "outputs do not have the shapes": (
            embed,
            replace(norm, outputs=(Value(norm.outputs[0].id, (TOKENS, 3)),)),
            select,
            head,
        ),
        "two different weights": (embed, norm, select, replace(head, weights=(other,))),
        "is never made": (embed, norm, select),
        "Norm: n has shape": (embed, replace(norm, op=Norm(num_groups=2)), select, head),
    }
    for message, nodes in broken.items():
        with pytest.raises(ModelError, match=message):
            check_graph(replace(graph, nodes=nodes))


def test_show_folds_layers_that_are_alike() -> None:
    folded = show(decoder(Decoder(layers=5)))
    assert "... 4 more layers like it" in folded
    assert folded.count("kv_write") == 1
    assert show(decoder(Decoder(layers=5)), fold=False).count("kv_write") == 5
    assert "Rope(num_heads=4, head_dim=8, rotation=neox 6)" in folded
    assert "[sampled, 32] -> [sampled, 64]  head.w:F32" in folded


def test_show_says_what_an_operator_has_that_is_not_default() -> None:
    b = builder()
    x = b.one("embed", Embed(scale=2.0), b.token_ids, weights=(b.weight("table", 5, 4),))
    x = b.one("cap", Softcap(30.0), b.one("add", Add(), x, x))
    text = show(b.finish(x, 8))
    assert "Embed(scale=2.0)" in text
    assert "Softcap(cap=30.0)" in text
    assert "Add()" in text
