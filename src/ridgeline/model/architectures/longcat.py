"""LongCat-Flash (Meituan 2025): each layer has two attentions over latents and two MLPs, and one
mixture that sees what the first half sees and is added at the end; some experts compute nothing.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored, add, embed, gated_mlp, head
from ridgeline.model.architectures.decoder import (
    Defaults,
    Sizes,
    neutral,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.deepseek import Latent, attends_to_latents
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_LAYERS,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.mixture import MAX_EXPERTS, Mixture, mixture_mlp, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm, Route

LONGCAT = Defaults(vocab=131072, heads=64, head_dim=1, positions=131072, eps=1e-5)

# This family's names of fields -> those that the readers here know.
RENAMED = {
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "moe_intermediate_size": "expert_ffn_hidden_size",
    "num_experts_per_tok": "moe_topk",
}
NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention_method": ("MLA",),
    "zero_expert_type": ("identity",),
    "router_bias": (False,),
    "norm_topk_prob": (False,),
    "mlp_bias": (False,),
}
# The two halves of a layer.
HALVES = ("first", "second")


def build_longcat_flash(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config = config.renamed(RENAMED)
    layers = config.integer("num_layers", 1, MAX_LAYERS)
    sizes = read_sizes(config, LONGCAT)
    config.require_neutral(neutral("n_routed_experts") | NEUTRAL)
    rope_dim = config.integer("qk_rope_head_dim", 2, MAX_HEAD_DIM, 64)
    if rope_dim % 2:
        config.refuse("qk_rope_head_dim", "channels turn in pairs")
    rope = read_rope(config, rope_dim, sizes.positions, default_theta=1e7)
    context = choose_context(rope, context_length, config.where)
    attend = attends_to_latents(
        read_latent(config, sizes, rope_dim), rotation(rope, context, interleaved=True)
    )
    mixture = read_longcat_mixture(config)
    activation = read_activation(config, "hidden_act", "silu")
    norms = Norms(Norm("rms", sizes.eps))
    b = Builder("longcat_flash", format_of)
    x, table = embed(b, sizes.vocab, sizes.width)
    for i in range(layers):
        layer, shortcut = f"layers.{i}", x
        for half in HALVES:
            at = f"{layer}.{half}"
            y = attend(b, at, i, norms(b, f"{at}.attn_norm", x))
            x = add(b, f"{at}.attn_add", x, y)
            y = norms(b, f"{at}.mlp_norm", x)
            if half == HALVES[0]:
                shortcut = mixture_mlp(b, layer, y, mixture, activation)
            y = gated_mlp(b, at, y, hidden=sizes.mlp, activation=activation)
            x = add(b, f"{at}.mlp_add", x, y)
        x = add(b, f"{layer}.moe_add", x, shortcut)
    tied: Value | bool = config.boolean("tie_word_embeddings", False)
    logits = head(b, x, sizes.vocab, norms.op, tied=table if tied else None)
    return b.finish(logits, context)


def read_latent(config: Fields, sizes: Sizes, rope_dim: int) -> Latent:
    """Queries and latents are multiplied by the root of how much narrower they are."""
    rank = config.integer("kv_lora_rank", 1, MAX_HEAD_DIM, 512)
    q_rank = config.integer("q_lora_rank", 1, MAX_WIDTH, 1536)
    nope = config.integer("qk_nope_head_dim", 1, MAX_HEAD_DIM, 128)
    if config.integer("qk_head_dim", 1, MAX_HEAD_DIM, nope + rope_dim) != nope + rope_dim:
        config.refuse(
            "qk_head_dim", f"is not qk_nope_head_dim + qk_rope_head_dim = {nope + rope_dim}"
        )
    q_scale, latent_scale = (
        (sizes.width / narrow) ** 0.5 if config.boolean(f"mla_scale_{part}_lora", True) else 1.0
        for part, narrow in (("q", q_rank), ("kv", rank))
    )
    return Latent(
        heads=sizes.heads.query,
        rank=rank,
        q_rank=q_rank,
        nope=nope,
        rope=rope_dim,
        value=config.integer("v_head_dim", 1, MAX_HEAD_DIM, 128),
        scale=q_scale * (nope + rope_dim) ** -0.5,
        bias=config.boolean("attention_bias", False),
        latent_scale=latent_scale,
    )


def read_longcat_mixture(config: Fields) -> Mixture:
    """Chosen by corrected softmax over experts and zeros, weighed by it as it is."""
    mixture = read_mixture(
        config,
        experts="n_routed_experts",
        hidden="moe_intermediate_size",
        num_experts=512,
        default_hidden=2048,
        top_k=12,
    )
    route = Route(
        mixture.route.top_k,
        "softmax",
        normalize=False,
        scale=config.number("routed_scaling_factor", 1e-9, 1e9, 6.0),
        correction=True,
    )
    zeros = config.integer("zero_expert_num", 0, MAX_EXPERTS, 256)
    return Mixture(mixture.experts, route, mixture.hidden, zeros=zeros)
