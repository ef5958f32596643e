"""Hunyuan, dense (0.5B to 7B) and A13B (Tencent 2025): Llama whose heads are normed once they have
turned, and a mixture with an expert that all tokens use.

Contexts are extended by a rotary base that a factor `alpha` stretches once and for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    Defaults,
    Sizes,
    neutral,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

HUNYUAN = Defaults(vocab=290943, heads=32, positions=2048, eps=1e-5)
NEUTRAL = {"use_cla": (False,), "use_qk_norm": (True,), "mlp_bias": (False,)}
# One number, or a list of the same for each layer.
BY_LAYER = ("num_experts", "moe_topk", "moe_intermediate_size", "num_shared_expert")


def build_hunyuan(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, HUNYUAN)
    config.require_neutral(neutral("use_qk_norm") | NEUTRAL)
    attend, context = read_attention(config, sizes, stored, context_length)
    return build_decoder(
        "hunyuan_v1_dense",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attend,
        feed=feeds(sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def build_hunyuan_moe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, HUNYUAN)
    config = replace(config, values={**config.values, **{n: one(config, n) for n in BY_LAYER}})
    config.require_neutral(
        neutral("use_qk_norm", "num_experts")
        | NEUTRAL
        | {
            "num_shared_expert": (1,),
            "moe_intermediate_size": (sizes.mlp,),
            "norm_topk_prob": (True,),
            "routed_scaling_factor": (1, 1.0),
            "moe_layer_num_skipped": (0,),
            "first_k_dense_replace": (0,),
        }
    )
    attend, context = read_attention(config, sizes, stored, context_length)
    mixture = read_mixture(
        config.renamed({"num_experts_per_tok": "moe_topk"}),
        experts="num_experts",
        hidden="intermediate_size",
        num_experts=1,
        top_k=1,
    )
    mixture = replace(mixture, shared=mixture.hidden)
    return build_decoder(
        "hunyuan_v1_moe",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attend,
        feed=mixes(
            (mixture,) * sizes.layers, sizes.mlp, read_activation(config, "hidden_act", "silu")
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )


def one(config: Fields, name: str) -> object:
    """The number that a field says of all layers."""
    value = config.values.get(name)
    if not isinstance(value, list | tuple):
        return value
    if not value or any(entry != value[0] for entry in value):
        config.refuse(name, "layers that differ in it are not supported")
    return value[0]


def read_attention(
    config: Fields, sizes: Sizes, stored: Stored, context_length: int | None
) -> tuple[Branch, int]:
    """Attention whose heads are normed after they turn, and the context."""
    rope = read_rope(stretched(config, sizes.heads.dim), sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("attention_bias", False)
    attend = attends(
        sizes.heads,
        (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
        (None,) * sizes.layers,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=Norm("rms", sizes.eps),
        norm_turned=True,
    )
    return attend, context


def stretched(config: Fields, head_dim: int) -> Fields:
    """The same with the rotary base that `alpha` makes, NTK-aware (Peng et al. 2023), and no
    scaling besides.
    """
    for name in ("rope_scaling", "rope_parameters"):
        section = config.section(name)
        if not section.has("alpha"):
            continue
        section.require_neutral({"type": ("dynamic",), "rope_type": ("dynamic",)})
        if head_dim <= 2:
            config.refuse(name, "a base is stretched for heads of more than 2 channels")
        base = section if section.has("rope_theta") else config
        theta = base.number("rope_theta", 1.0 + 1e-6, 1e15, 10000.0)
        alpha = section.number("alpha", 1.0, 1e6)
        theta *= alpha ** (head_dim / (head_dim - 2))
        rest: Mapping[str, object] = {
            key: value
            for key, value in config.values.items()
            if key not in ("rope_scaling", "rope_parameters")
        }
        return replace(config, values={**rest, "rope_theta": theta})
    return config
