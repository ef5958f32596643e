"""GLM-4 dense (Team GLM 2024): half of each head turns, neighbouring channels together; biases on
q, k and v; gate and up are stored as one. The newer ones (`Glm4ForCausalLM`) norm each branch's
output, too.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, Order, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

GLM = Defaults(vocab=151552, heads=32, kv_heads=2, head_dim=128, positions=131072, eps=1.5625e-7)


def build_glm(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    return build("glm", config, format_of, context_length, "pre")


def build_glm4(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    return build("glm4", config, format_of, context_length, "sandwich")


def build(
    name: str, config: Fields, format_of: FormatOf, context_length: int | None, order: Order
) -> Graph:
    sizes = read_sizes(config, GLM)
    config.require_neutral(neutral() | {"mlp_bias": (False,), "sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, partial=True, default_partial=0.5)
    context = choose_context(rope, context_length, config.where)
    return build_decoder(
        name,
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps), order),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=True),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=config.boolean("attention_bias", True),
        ),
        feed=feeds(sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )
