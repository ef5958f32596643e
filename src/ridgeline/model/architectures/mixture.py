"""Mixtures of experts as a decoder's layers have them: their fields, and the block.

Mixtral (Jiang et al. 2024), Qwen's and DeepSeek's with shared experts (Dai et al. 2024), and all
whose router and experts differ from these by arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ridgeline.model.architectures.blocks import add, gated_mlp, linear, mlp, width
from ridgeline.model.architectures.fields import MAX_LAYERS, MAX_WIDTH, Fields
from ridgeline.model.architectures.stack import Branch
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Value
from ridgeline.model.graph.ops import Experts, Route, Weigh, ZeroExperts
from ridgeline.model.graph.ops.activation import Activation
from ridgeline.model.graph.ops.route import Scores

MAX_EXPERTS = 1 << 16


@dataclass(frozen=True, slots=True)
class Mixture:
    """One layer's mixture. route: how its router chooses. hidden: channels within an expert.
    shared: of the expert that all tokens use besides, 0 for none; shared_gate: it is weighed by
    sigmoid(g x). bias: experts have biases. weigh_input, gated: see `Experts`. latent: channels
    that experts see of a token, by a linear before them and one after; 0: all of them. zeros:
    experts that the router may choose besides and that give back what they get. vocab: rows of the
    table of a route by token ids.
    """

    experts: int
    route: Route
    hidden: int
    bias: bool = False
    weigh_input: bool = False
    shared: int = 0
    shared_gate: bool = False
    gated: bool = True
    latent: int = 0
    vocab: int = 0
    zeros: int = 0


def mixture_mlp(
    b: Builder,
    layer: str,
    x: Value,
    mixture: Mixture,
    activation: Activation,
    routed_by: Value | None = None,
    shared_activation: Activation | None = None,
) -> Value:
    """The experts that each token is routed to, and the shared one; routed_by: what the router
    sees, if it is not what the experts see. shared_activation: of the shared one, if not the same.
    """
    name, wide = f"{layer}.moe", width(x)
    route, count, hidden = mixture.route, mixture.experts, mixture.hidden
    routed = count + mixture.zeros
    router = [b.weight(f"{name}.router.weight", routed, wide)]
    if route.bias:
        router.append(b.weight(f"{name}.router.bias", routed))
    if route.correction:
        router.append(b.weight(f"{name}.correction.bias", routed))
    if route.gain:
        router.append(b.weight(f"{name}.gain.weight", routed))
    sees = [x if routed_by is None else routed_by]
    if route.by_token:
        router.append(b.weight(f"{name}.table.weight", mixture.vocab, route.top_k))
        sees.append(b.token_ids)
    slots = b.one(f"{name}.route", route, *sees, weights=tuple(router))
    seen = linear(b, f"{name}.before", x, mixture.latent) if mixture.latent else x
    inner = width(seen)
    ups = ("gate", "up") if mixture.gated else ("up",)
    up_axes, down_axes = ("experts", "ffn", None), ("experts", None, "ffn")
    weights = [b.weight(f"{name}.{up}.weight", count, hidden, inner, axes=up_axes) for up in ups]
    weights.append(b.weight(f"{name}.down.weight", count, inner, hidden, axes=down_axes))
    if mixture.bias:
        weights += [b.weight(f"{name}.{up}.bias", count, hidden, axes=up_axes[:2]) for up in ups]
        weights.append(b.weight(f"{name}.down.bias", count, inner, axes=("experts", None)))
    op = Experts(
        routed,
        route.top_k,
        activation,
        mixture.bias,
        mixture.weigh_input,
        gated=mixture.gated,
        num_zero=mixture.zeros,
    )
    y = b.one(f"{name}.experts", op, seen, slots, weights=tuple(weights))
    if mixture.latent:
        y = linear(b, f"{name}.after", y, wide)
    if mixture.zeros:
        kept = b.one(f"{name}.zeros", ZeroExperts(count, route.top_k), x, slots)
        y = add(b, f"{name}.zeros_add", y, kept)
    if not mixture.shared:
        return y
    block = gated_mlp if mixture.gated else mlp
    shared_act = shared_activation or activation
    shared = block(b, f"{layer}.shared", x, hidden=mixture.shared, activation=shared_act)
    if mixture.shared_gate:
        gate = linear(b, f"{layer}.shared.weigh", x, 1)
        shared = b.one(f"{layer}.shared.weighed", Weigh(), shared, gate)
    return add(b, f"{name}.add", y, shared)


def mixes(mixtures: Sequence[Mixture | None], hidden: int, activation: Activation) -> Branch:
    """Each layer's mixture, or where there is none an MLP of `hidden` channels."""

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        mixture = mixtures[i]
        if mixture is None:
            return gated_mlp(b, layer, x, hidden=hidden, activation=activation)
        return mixture_mlp(b, layer, x, mixture, activation)

    return branch


def read_mixture(
    config: Fields,
    *,
    experts: str,
    hidden: str,
    top_k: int | None = None,
    num_experts: int | None = None,
    default_hidden: int | None = None,
    scores: Scores = "softmax",
    normalize: bool = True,
) -> Mixture:
    """What all mixtures have: how many experts (field `experts`), how many of them a token gets,
    and their width (field `hidden`).
    """
    count = config.integer(experts, 1, MAX_EXPERTS, num_experts)
    chosen = config.integer("num_experts_per_tok", 1, MAX_EXPERTS, top_k)
    if chosen > count:
        config.refuse("num_experts_per_tok", f"is more than there are: {experts} = {count}")
    return Mixture(
        experts=count,
        route=Route(chosen, scores, normalize),
        hidden=config.integer(hidden, 1, MAX_WIDTH, default_hidden),
    )


# Fields of DeepSeek's mixtures, which others have taken over.
GROUPED = ("n_routed_experts", "n_shared_experts", "n_group", "topk_group")


def read_grouped(
    config: Fields,
    layers: int,
    *,
    scores: Scores = "sigmoid",
    top_k: int | None = None,
    shared: int | None = None,
    experts: int | None = None,
    hidden: int | None = None,
    scale: float = 1.0,
    dense: int = 0,
    normalize: bool = True,
) -> tuple[Mixture | None, ...]:
    """DeepSeek V3's mixture for each layer from `first_k_dense_replace` on, or for those that
    `mlp_layer_types` calls sparse: groups, a correction of what experts are chosen by, and shared
    experts, which are one wider MLP.

    scores: what `scoring_func` must say, if it is there. The others: what is assumed of a field
    that is not there.
    """
    config.require_neutral({"scoring_func": (scores,), "moe_layer_freq": (1,)})
    mixture = read_mixture(
        config,
        experts="n_routed_experts",
        hidden="moe_intermediate_size",
        num_experts=experts,
        default_hidden=hidden,
        top_k=top_k,
        scores=scores,
        normalize=config.boolean("norm_topk_prob", normalize),
    )
    groups = config.integer("n_group", 1, mixture.experts, 1)
    if mixture.experts % groups:
        config.refuse("n_group", f"does not divide n_routed_experts = {mixture.experts}")
    each = mixture.experts // groups
    best = min(2, each)
    top_groups = config.integer("topk_group", 1, groups, 1)
    if mixture.route.top_k > top_groups * each:
        config.refuse("topk_group", f"leaves too few experts: {top_groups * each}")
    route = replace(
        mixture.route,
        scale=config.number("routed_scaling_factor", 1e-9, 1e9, scale),
        num_groups=groups,
        top_groups=top_groups,
        group_best=best,
        correction=True,
    )
    count = config.integer("n_shared_experts", 0, MAX_EXPERTS, shared)
    mixture = replace(mixture, route=route, shared=count * mixture.hidden)
    first = config.integer("first_k_dense_replace", 0, MAX_LAYERS, dense)
    kinds = ("dense",) * min(first, layers) + ("sparse",) * max(layers - first, 0)
    if config.has("mlp_layer_types"):
        listed = config.texts("mlp_layer_types", layers, ("dense", "sparse"))
        if config.has("first_k_dense_replace") and listed != kinds:
            config.refuse("mlp_layer_types", "contradicts first_k_dense_replace")
        kinds = listed
    return tuple(mixture if kind == "sparse" else None for kind in kinds)
