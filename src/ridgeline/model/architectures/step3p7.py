"""Step 3.5 and 3.7 Flash, text (StepFun 2026): windows in three layers of four, which have more
heads; each head's output is weighed by a gate; experts whose units are capped in the last layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ridgeline.model.architectures.blocks import Heads, Stored, attention, gated_mlp
from ridgeline.model.architectures.decoder import (
    FULL,
    WINDOWED,
    Defaults,
    neutral,
    read_sizes,
    read_window,
    windows,
)
from ridgeline.model.architectures.fields import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Fields
from ridgeline.model.architectures.mixture import Mixture, mixture_mlp, read_mixture
from ridgeline.model.architectures.rope_scaling import (
    RopeSettings,
    choose_context,
    read_rope,
    rotation,
)
from ridgeline.model.architectures.stack import Branch, Norms, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm, Rotation
from ridgeline.model.graph.ops.activation import Activation

STEP = Defaults(vocab=128815, heads=64, kv_heads=8, head_dim=128, positions=128000, eps=1e-5)
DEFAULT_EXPERTS, DEFAULT_TOP_K, DEFAULT_HIDDEN, DENSE = 288, 8, 1280, 3
CAPPED: dict[float, Activation] = {0: "silu", 7: "capped_silu_7", 16: "capped_silu_16"}
THEIRS = {
    "num_key_value_heads": "num_attention_groups",
    "num_experts_per_tok": "moe_top_k",
    "share_expert_dim": "share_expert_dims",
}
NEUTRAL = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "scoring_func": ("sigmoid",),
    "moe_router_activation": ("sigmoid",),
    "use_moe_router_bias": (True,),
    "norm_expert_weight": (True,),
    "use_head_wise_attn_gate": (True,),
    "use_qk_norm": (True,),
    "zero_centered": (True,),
    "n_shared_experts": (1,),
    "sink": (False,),
    "use_mfa": (False,),
    "yarn_only_types": ([FULL],),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of layer attends."""

    heads: Heads
    turn: Rotation


def build_step3p7(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    if config.has("text_config"):
        config = config.section("text_config")
    config = config.renamed(THEIRS)
    sizes = read_sizes(config, STEP)
    read = ("n_routed_experts", "num_experts", "use_qk_norm")
    config.require_neutral(neutral(*read) | NEUTRAL)
    modules = config.integer("num_nextn_predict_layers", 0, MAX_LAYERS, 0)
    types = read_types(config, sizes.layers, modules)
    ropes = {
        kind: read_rope_of(config, kind, types, modules, sizes.heads.dim, sizes.positions)
        for kind in sorted(set(types))
    }
    context = choose_context(
        ropes[FULL if FULL in ropes else WINDOWED], context_length, config.where
    )
    heads = {FULL: sizes.heads, WINDOWED: read_windowed_heads(config, sizes.heads)}
    kinds = {kind: Kind(heads[kind], rotation(rope, context)) for kind, rope in ropes.items()}
    scale = config.number("query_pre_attn_scalar", 1e-6, 1e6, float(sizes.heads.dim)) ** -0.5
    reach = windows(config, types, read_window(config))
    rms = Norm("rms", sizes.eps, 0.0 if stored.norm_has_one else 1.0)
    return build_decoder(
        "step3p7",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=attends_gated([kinds[kind] for kind in types], reach, scale, rms),
        feed=mixes_capped(
            read_mixtures(config, sizes.layers, modules),
            sizes.mlp,
            read_caps(config, "swiglu_limits", sizes.layers, modules),
            read_caps(config, "swiglu_limits_shared", sizes.layers, modules),
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )


def of_layers(config: Fields, name: str, layers: int, modules: int) -> Fields:
    """The same with a list of the model's layers only, which may have been one of its modules of
    multi-token prediction, too.
    """
    value = config.values.get(name)
    if not isinstance(value, list | tuple) or len(value) != layers + modules:
        return config
    return replace(config, values={**config.values, name: value[:layers]})


def read_types(config: Fields, layers: int, modules: int) -> tuple[str, ...]:
    if not config.has("layer_types"):
        return (FULL,) * layers
    config = of_layers(config, "layer_types", layers, modules)
    return config.texts("layer_types", layers, (WINDOWED, FULL))


def read_rope_of(
    config: Fields,
    kind: str,
    types: Sequence[str],
    modules: int,
    head_dim: int,
    positions: int,
) -> RopeSettings:
    """The rotation of the layers of a kind; published as lists by layer, which must agree, and a
    scaling that is of layers without a window only.
    """
    values = dict(config.values)
    lists = (("rope_theta", "rope_theta"), ("partial_rotary_factors", "partial_rotary_factor"))
    for theirs, ours in lists:
        if not isinstance(values.get(theirs), list | tuple):
            continue
        trimmed = of_layers(config, theirs, len(types), modules)
        listed = trimmed.numbers(theirs, len(types), 1e-6, 1e15)
        found = {x for x, other in zip(listed, types, strict=True) if other == kind}
        if len(found) != 1:
            config.refuse(theirs, f"the layers of {kind} differ: {sorted(found)}")
        values[ours] = found.pop()
    if kind != FULL:
        values.pop("rope_scaling", None)
    return read_rope(
        replace(config, values=values), head_dim, positions, layer_type=kind, partial=True
    )


def read_windowed_heads(config: Fields, heads: Heads) -> Heads:
    """Of layers with a window: as many heads as they have of their own."""
    other = config.section("attention_other_setting")
    other.require_neutral(
        {
            "attention_type": (WINDOWED,),
            "num_attention_groups": (heads.kv,),
            "num_key_value_heads": (heads.kv,),
            "head_dim": (heads.dim,),
        }
    )
    count = other.integer("num_attention_heads", 1, MAX_HEADS, heads.query)
    count = config.integer("num_sliding_attention_heads", 1, MAX_HEADS, count)
    if count % heads.kv:
        config.refuse("num_sliding_attention_heads", f"{count} heads do not share {heads.kv}")
    return Heads(count, heads.kv, heads.dim)


def read_mixtures(config: Fields, layers: int, modules: int) -> tuple[Mixture | None, ...]:
    experts = next(
        (
            name
            for name in ("moe_num_experts", "n_routed_experts", "num_experts")
            if config.has(name)
        ),
        "n_routed_experts",
    )
    mixture = read_mixture(
        config,
        experts=experts,
        hidden="moe_intermediate_size",
        num_experts=DEFAULT_EXPERTS,
        default_hidden=DEFAULT_HIDDEN,
        top_k=DEFAULT_TOP_K,
        scores="sigmoid",
    )
    scale = config.number("moe_router_scaling_factor", 1e-9, 1e9, 1.0)
    mixture = replace(
        mixture,
        route=replace(mixture.route, scale=scale, correction=True),
        shared=config.integer("share_expert_dim", 1, MAX_WIDTH, DEFAULT_HIDDEN),
    )
    sparse = read_sparse(config, layers, modules)
    return tuple(mixture if i in sparse else None for i in range(layers))


def read_sparse(config: Fields, layers: int, modules: int) -> frozenset[int]:
    """The numbers of the layers that have experts, as one of three spellings says them."""
    if config.has("mlp_layer_types"):
        config = of_layers(config, "mlp_layer_types", layers, modules)
        listed = config.texts("mlp_layer_types", layers, ("dense", "sparse"))
        return frozenset(i for i, kind in enumerate(listed) if kind == "sparse")
    if isinstance(config.values.get("moe_layers_enum"), str):
        parts = [part.strip() for part in config.text("moe_layers_enum").split(",") if part.strip()]
        if len(parts) > MAX_LAYERS or any(not (p.isdecimal() and len(p) < 5) for p in parts):
            config.refuse("moe_layers_enum", "numbers of layers between commas are needed")
        return frozenset(map(int, parts))
    if config.has("moe_layers_enum"):
        return frozenset(config.integers("moe_layers_enum", 0, MAX_LAYERS))
    first = config.integer("first_k_dense_replace", 0, MAX_LAYERS, DENSE)
    return frozenset(range(first, layers))


def read_caps(config: Fields, name: str, layers: int, modules: int) -> tuple[Activation, ...]:
    """Each layer's gated unit: how far it is capped, if it is (0, null: it is not)."""
    if not config.has(name):
        return (CAPPED[0],) * layers
    listed = of_layers(config, name, layers, modules).values[name]
    if not isinstance(listed, list | tuple):
        config.refuse(name, f"a list of {layers} numbers is needed")
    filled = replace(config, values={name: [x or 0 for x in listed]})
    caps = filled.numbers(name, layers, 0, 1e6)
    for cap in caps:
        if cap not in CAPPED:
            config.refuse(name, f"{cap:g}: only {', '.join(f'{c:g}' for c in CAPPED)} are built")
    units: list[Activation] = [CAPPED[cap] for cap in caps]
    return tuple(units)


def attends_gated(
    kinds: Sequence[Kind], reach: Sequence[int | None], scale: float, head_norm: Norm
) -> Branch:
    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        return attention(
            b,
            layer,
            x,
            heads=kinds[i].heads,
            rotation=kinds[i].turn,
            window=reach[i],
            scale=scale,
            head_norm=head_norm,
            head_gate=True,
        )

    return branch


def mixes_capped(
    mixtures: Sequence[Mixture | None],
    hidden: int,
    routed: Sequence[Activation],
    shared: Sequence[Activation],
) -> Branch:
    """Each layer's mixture, or where there is none an MLP, capped as shared experts are."""

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        mixture = mixtures[i]
        if mixture is None:
            return gated_mlp(b, layer, x, hidden=hidden, activation=shared[i])
        return mixture_mlp(b, layer, x, mixture, routed[i], shared_activation=shared[i])

    return branch
