"""DeciLM as NVIDIA's Nemotron Super uses it (Bercovich et al. 2025): Llama in which a search has
given each layer its own KV heads and MLP, or has left its attention or its MLP out.
"""

from __future__ import annotations

from collections.abc import Mapping

from ridgeline.model.architectures.blocks import (
    Heads,
    Stored,
    add,
    attention,
    embed,
    gated_mlp,
    head,
    norm,
)
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import MAX_HEADS, Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

MLP_MULTIPLE = 256
# What the search may have put in the place of a part, and nobody has published.
PART_NEUTRAL: dict[str, tuple[object, ...]] = {
    "replace_with_linear": (False,),
    "sparsify": (),
    "num_sink_tokens": (),
    "window_length": (),
    "unshifted_sink": (False,),
    "use_prefill_window_in_sink_attention": (False,),
}


def build_decilm(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    # Each layer says these for itself.
    values = {**config.values, "intermediate_size": 1, "num_key_value_heads": 1}
    plain = Fields(values, config.where, config.spelled)
    sizes = read_sizes(plain, Defaults())
    config.require_neutral(neutral() | {"sliding_window": (), "mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    turn = rotation(rope, context)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.boolean("attention_bias", False)

    b = Builder("decilm", format_of)
    rms = Norm("rms", sizes.eps)
    x, table = embed(b, sizes.vocab, sizes.width)
    for i, block in enumerate(read_blocks(config, sizes.layers)):
        layer = f"layers.{i}"
        attends, feeds = block.section("attention"), block.section("ffn")
        for part in (attends, feeds):
            part.require_neutral(PART_NEUTRAL)
        if not attends.boolean("no_op", False):
            group = attends.integer("n_heads_in_group", 1, MAX_HEADS)
            if sizes.heads.query % group:
                attends.refuse("n_heads_in_group", f"does not divide {sizes.heads.query} heads")
            y = attention(
                b,
                layer,
                norm(b, f"{layer}.attn_norm", x, rms),
                heads=Heads(sizes.heads.query, sizes.heads.query // group, sizes.heads.dim),
                rotation=turn,
                scale=sizes.heads.dim**-0.5,
                qkv_bias=bias,
                output_bias=bias,
            )
            x = add(b, f"{layer}.attn_add", x, y)
        if not feeds.boolean("no_op", False):
            hidden = int(2 * feeds.number("ffn_mult", 1e-3, 1e3) * sizes.width / 3)
            hidden = -(-hidden // MLP_MULTIPLE) * MLP_MULTIPLE
            y = norm(b, f"{layer}.mlp_norm", x, rms)
            y = gated_mlp(b, layer, y, hidden=hidden, activation=activation)
            x = add(b, f"{layer}.mlp_add", x, y)
    tied = table if config.boolean("tie_word_embeddings", False) else None
    return b.finish(head(b, x, sizes.vocab, rms, tied=tied), context)


def read_blocks(config: Fields, layers: int) -> list[Fields]:
    """`block_configs`, one object a layer."""
    blocks = config.values.get("block_configs")
    if not isinstance(blocks, list | tuple) or len(blocks) != layers:
        config.refuse("block_configs", f"a list of {layers} objects is needed")
    found = []
    for i, block in enumerate(blocks):
        if not isinstance(block, Mapping):
            config.refuse("block_configs", f"an object is needed for layer {i}")
        found.append(Fields(block, f"{config.where}: block_configs[{i}]"))
    return found
