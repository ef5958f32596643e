"""StarCoder2 (Lozhkov et al. 2024): layer norms and an MLP without a gate, biases, a window."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    Defaults,
    neutral,
    read_activation,
    read_sizes,
    read_window,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

STARCODER2 = Defaults(
    vocab=49152, heads=24, kv_heads=2, positions=4096, eps=1e-5, eps_name="norm_epsilon"
)


def build_starcoder2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, STARCODER2)
    config.require_neutral(neutral() | {"norm_type": ("layer_norm",), "mlp_type": ("default",)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("use_bias", True)
    return build_decoder(
        "starcoder2",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("layer", sizes.eps), bias=True),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (read_window(config),) * sizes.layers,
            qkv_bias=bias,
            output_bias=bias,
        ),
        feed=feeds(
            sizes.mlp,
            read_activation(config, "hidden_act", "gelu_pytorch_tanh"),
            gated=False,
            bias=bias,
        ),
        tied=config.boolean("tie_word_embeddings", True),
    )
