"""GPT-2 (Radford et al. 2019): learned positions, layer norms, biases everywhere, an MLP without a
gate, and the embedding as output matrix. Its files have inputs before outputs
(`weights/names_dense.py`).
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

GPT2 = Defaults(vocab=50257, heads=12, positions=1024, eps=1e-5, eps_name="layer_norm_epsilon")
SPELLED = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
}
# Scores that a layer's number divides, or that nothing does.
NEUTRAL = {"scale_attn_by_inverse_layer_idx": (False,), "scale_attn_weights": (True,)}


def build_gpt2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config = config.renamed(SPELLED)
    width = config.values.get("hidden_size")
    if isinstance(width, int):
        config = config.with_default("intermediate_size", 4 * width)
    sizes = read_sizes(config, GPT2)
    config.require_neutral(neutral() | NEUTRAL | {"head_dim": (sizes.heads.dim,)})
    if context_length is not None and context_length > sizes.positions:
        config.refuse("max_position_embeddings", f"{context_length} tokens are asked for")
    return build_decoder(
        "gpt2",
        sizes,
        format_of,
        context=context_length or sizes.positions,
        norms=Norms(Norm("layer", sizes.eps), bias=True),
        attend=attends(
            sizes.heads,
            (None,) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=True,
            output_bias=True,
        ),
        feed=feeds(
            sizes.mlp, read_activation(config, "hidden_act", "gelu_new"), gated=False, bias=True
        ),
        tied=config.boolean("tie_word_embeddings", True),
        positions=True,
    )
