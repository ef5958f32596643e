"""OLMoE (Muennighoff et al. 2024): OLMo 2's norms of all of q and of k, an MLP of experts."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm


def build_olmoe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults(vocab=50304, heads=16, positions=4096, eps=1e-5))
    config.require_neutral(neutral("num_experts") | {"mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    mixture = read_mixture(
        config,
        experts="num_experts",
        hidden="intermediate_size",
        num_experts=64,
        top_k=8,
        normalize=config.boolean("norm_topk_prob", False),
    )
    bias = config.boolean("attention_bias", False)
    rms = Norm("rms", sizes.eps)
    return build_decoder(
        "olmoe",
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
            whole_norm=rms,
        ),
        feed=mixes(
            (mixture,) * sizes.layers, sizes.mlp, read_activation(config, "hidden_act", "silu")
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )
