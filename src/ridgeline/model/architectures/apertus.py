"""Apertus (Swiss AI Initiative 2025): Llama with norms of heads, whose MLP has no gate and an
activation with two parameters a layer (xIELU).
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored, linear, width
from ridgeline.model.architectures.decoder import Defaults, neutral, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm, Xielu

APERTUS = Defaults(vocab=131072, heads=32, positions=65536, eps=1e-5)
# What its configuration class assumes where neither old nor new fields say anything.
ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def build_apertus(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, APERTUS)
    config.require_neutral(
        neutral("use_qk_norm")
        | {
            "hidden_act": ("xielu",),
            "mlp_bias": (False,),
            "qk_norm": (True,),
            "use_qk_norm": (True,),
            "post_norm": (False,),
            "sliding_window": (),
        }
    )
    if not config.has("rope_parameters") and "rope_scaling" not in config.values:
        config = config.with_default("rope_scaling", ROPE)
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=12e6)
    context = choose_context(rope, context_length, config.where)
    bias, rms = config.boolean("attention_bias", False), Norm("rms", sizes.eps)

    def feed(b: Builder, layer: str, i: int, x: Value) -> Value:
        name = f"{layer}.mlp"
        y = linear(b, f"{name}.up", x, sizes.mlp, split="ffn")
        weights = tuple(b.weight(f"{name}.act.{sign}", 1) for sign in ("positive", "negative"))
        y = b.one(f"{name}.act", Xielu(), y, weights=weights)
        return linear(b, f"{name}.down", y, width(x), split_inputs="ffn")

    return build_decoder(
        "apertus",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=bias,
            output_bias=bias,
            head_norm=rms,
        ),
        feed=feed,
        tied=config.boolean("tie_word_embeddings", False),
    )
