"""A decoder as a stack of layers, of which each has attention and an MLP: where its norms stand and
how its branches join is an argument, what the branches do are functions.

Does not know any architecture, configuration or file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ridgeline.model.architectures.blocks import (
    Heads,
    add,
    attention,
    embed,
    gated_mlp,
    head,
    linear,
    logits_of,
    mlp,
    norm,
    position_embed,
    scaled,
)
from ridgeline.model.architectures.decoder import Sizes
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Join, Norm, PlaceImages, Rotation, ScaleByPosition
from ridgeline.model.graph.ops.activation import Activation

# (builder, layer's name, layer's number, x [TOKENS, width]) -> y [TOKENS, width]
Branch = Callable[[Builder, str, int, Value], Value]
# `build_decoder`, or what takes its arguments and builds something else of them.
Assemble = Callable[..., Graph]
Order = Literal["pre", "post", "sandwich", "parallel", "beside"]


@dataclass(frozen=True, slots=True)
class Norms:
    """The norm of the residual stream, and where a layer has it.

    order: "pre" before each branch (x + f(norm(x))), "post" after it (x + norm(f(x)), OLMo 2),
    "sandwich" both, "parallel" one norm that both branches read (x + f(norm(x)) + g(norm(x))),
    "beside" the same with a norm for each (GPT-NeoX).
    weight, bias: what the norm has.
    """

    op: Norm
    order: Order = "pre"
    weight: bool = True
    bias: bool = False

    def __call__(self, b: Builder, name: str, x: Value) -> Value:
        return norm(b, name, x, self.op, weight=self.weight, bias=self.bias)


def attends(
    heads: Heads,
    rotations: Sequence[Rotation | None],
    windows: Sequence[int | None],
    *,
    scale: float | None = None,
    softcap: float | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    head_norm: Norm | None = None,
    norm_turned: bool = False,
    whole_norm: Norm | None = None,
    sinks: bool = False,
    by_head: bool = False,
    temperature: ScaleByPosition | None = None,
    whole_images: bool = False,
) -> Branch:
    """Self-attention as `blocks.attention` has it, each layer with a rotation and a window of its
    own; scale None: 1 / sqrt(head_dim).
    """

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        return attention(
            b,
            layer,
            x,
            heads=heads,
            rotation=rotations[i],
            window=windows[i],
            scale=heads.dim**-0.5 if scale is None else scale,
            softcap=softcap,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            head_norm=head_norm,
            norm_turned=norm_turned,
            whole_norm=whole_norm,
            sinks=sinks,
            by_head=by_head,
            temperature=temperature,
            whole_images=whole_images,
        )

    return branch


def feeds(hidden: int, activation: Activation, *, gated: bool = True, bias: bool = False) -> Branch:
    """An MLP of `hidden` channels, gated or not."""

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        block = gated_mlp if gated else mlp
        return block(b, layer, x, hidden=hidden, activation=activation, bias=bias)

    return branch


def build_decoder(
    name: str,
    sizes: Sizes,
    format_of: FormatOf,
    *,
    context: int,
    norms: Norms,
    attend: Branch,
    feed: Branch,
    tied: bool,
    embed_scale: float = 1.0,
    branch_scale: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    head_bias: bool = False,
    positions: bool = False,
    sees_images: bool = False,
) -> Graph:
    """embed, `sizes.layers` layers of the branches `attend` and `feed`, norm, head.

    positions: each of them has a row of a table, which is added to the token's (GPT-2).
    branch_scale: of what a branch adds to the residual stream (Granite). softcap: of the logits.
    sees_images: rows of images stand in for the embeddings of their tokens.
    """
    b = Builder(name, format_of)
    x, table = embed(b, sizes.vocab, sizes.width, scale=embed_scale)
    if positions:
        x = add(b, "position_add", x, position_embed(b, sizes.positions, sizes.width))
    if sees_images:
        x = b.one("images", PlaceImages(), x)
    for i in range(sizes.layers):
        layer = f"layers.{i}"
        if norms.order in ("parallel", "beside"):
            y = norms(b, f"{layer}.attn_norm", x)
            attended = attend(b, layer, i, y)
            if norms.order == "beside":
                y = norms(b, f"{layer}.mlp_norm", x)
            fed = feed(b, layer, i, y)
            x = add(b, f"{layer}.attn_add", x, attended)
            x = add(b, f"{layer}.mlp_add", x, fed)
            continue
        for part, branch in (("attn", attend), ("mlp", feed)):
            y = x
            if norms.order in ("pre", "sandwich"):
                y = norms(b, f"{layer}.{part}_norm", y)
            y = branch(b, layer, i, y)
            if norms.order in ("post", "sandwich"):
                y = norms(b, f"{layer}.{part}_post_norm", y)
            y = scaled(b, f"{layer}.{part}_scale", y, branch_scale)
            x = add(b, f"{layer}.{part}_add", x, y)
    logits = head(
        b,
        x,
        sizes.vocab,
        norms.op,
        tied=table if tied else None,
        softcap=softcap,
        norm_weight=norms.weight,
        norm_bias=norms.bias,
        bias=head_bias,
        scale=logit_scale,
    )
    return b.finish(logits, context)


def build_predictor(
    name: str,
    sizes: Sizes,
    format_of: FormatOf,
    *,
    context: int,
    norms: Norms,
    attend: Branch,
    feed: Branch,
    tied: bool,
    number: int,
    from_zero: bool,
) -> Graph:
    """A module of multi-token prediction (`predictors`): the hidden state of a token and the
    embedding of the next, a norm each, joined and taken through one layer of the model's last kind.

    Takes what `build_decoder` takes. number: of the module. from_zero: its layer is called so,
    rather than by a number behind those of the model's layers. Outputs: logits, and the hidden
    states that the next module goes on from.
    """
    b = Builder(f"{name}_predictor", format_of)
    x, table = embed(b, sizes.vocab, sizes.width)
    hidden = b.hidden(sizes.width)
    layer = f"layers.{number if from_zero else sizes.layers + number}"
    x = norms(b, f"{layer}.embed_norm", x)
    hidden = norms(b, f"{layer}.hidden_norm", hidden)
    x = b.one(f"{layer}.joined", Join(), x, hidden)
    x = linear(b, f"{layer}.join", x, sizes.width)
    for part, branch in (("attn", attend), ("mlp", feed)):
        y = branch(b, layer, sizes.layers - 1, norms(b, f"{layer}.{part}_norm", x))
        x = add(b, f"{layer}.{part}_add", x, y)
    x = norms(b, f"{layer}.last_norm", x)
    logits = logits_of(b, x, sizes.vocab, tied=table if tied else None)
    return b.finish(logits, context, x)
