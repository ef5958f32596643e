"""Qwen2-VL (Wang et al. 2024), Qwen2.5-VL (Bai et al. 2025): Qwen2 whose rotation has three axes,
and a tower that sees images of any size.

A tower's patches turn by their line and column. Of Qwen2.5-VL most layers see windows of them only;
norms and MLPs are the language model's. Four neighbours become one row, through an MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ridgeline.model.architectures.blocks import Heads, Stored, add, attention, gated_mlp, linear
from ridgeline.model.architectures.blocks import mlp as plain_mlp
from ridgeline.model.architectures.blocks import norm as plain_norm
from ridgeline.model.architectures.decoder import read_activation
from ridgeline.model.architectures.fields import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.qwen2 import build_qwen2
from ridgeline.model.architectures.siglip import MAX_CHANNELS, MAX_PATCH
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Activate, JoinTokens, Norm, Rotation

# An image as large as transformers' processor makes it; files allow more than a CPU would see.
MOST_TOKENS = 1280
EPS = 1e-6
THETA = 10000.0
MAX_MERGE, MAX_FRAMES = 16, 16


@dataclass(frozen=True, slots=True)
class Cells:
    """How a tower parts an image: see `model.image_frames.Grids`."""

    patch: int
    merge: int
    frames: int
    channels: int
    window: int | None


def build_qwen2_vl(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    text = text_of(config)
    return build_qwen2(
        text, format_of, stored, context_length, name="qwen2_vl", sees=config.has("vision_config")
    )


def text_of(config: Fields) -> Fields:
    """The language part's fields, which older files have among the others."""
    text = config
    if config.has("text_config"):
        text = config.section("text_config")
        text = text.with_default(
            "tie_word_embeddings", config.boolean("tie_word_embeddings", False)
        )
    for name, value in {"vocab_size": 152064, "rope_theta": 1e6, "rms_norm_eps": 1e-5}.items():
        text = text.with_default(name, value)
    return text


def read_cells(config: Fields) -> Cells:
    vision = config.section("vision_config")
    patch = vision.integer("patch_size", 1, MAX_PATCH, 14)
    merge = vision.integer("spatial_merge_size", 1, MAX_MERGE, 2)
    window = None
    if has_windows(vision):
        pixels = vision.integer("window_size", 1, 1 << 14, 112)
        window = pixels // merge // patch
        if window < 1:
            vision.refuse("window_size", f"holds no {merge} x {merge} patches of {patch}")
    frames = vision.integer("temporal_patch_size", 1, MAX_FRAMES, 2)
    channels = vision.renamed({"in_channels": "in_chans"}).integer(
        "in_channels", 3, MAX_CHANNELS, 3
    )
    if channels != 3:
        vision.refuse("in_channels", "images have 3")
    return Cells(patch, merge, frames, channels, window)


def has_windows(vision: Fields) -> bool:
    """Qwen2.5-VL's tower, not Qwen2-VL's."""
    return not vision.has("embed_dim") and not vision.has("mlp_ratio")


def build_qwen2_vl_images(config: Fields, format_of: FormatOf) -> Graph:
    """Patches [TOKENS, channels * frames * patch * patch], a window's after another's -> [SAMPLED,
    the language model's width].
    """
    vision, cells = config.section("vision_config"), read_cells(config)
    vision.require_neutral({"quantization_config": (), "deepstack_visual_indexes": ()})
    out = text_of(config).integer("hidden_size", 1, MAX_WIDTH)
    if has_windows(vision):
        width = vision.integer("hidden_size", 1, MAX_WIDTH, 3584)
        hidden = vision.integer("intermediate_size", 1, MAX_WIDTH, 3420)
        told = "out_hidden_size"
    else:
        width = vision.integer("embed_dim", 1, MAX_WIDTH, 1280)
        hidden = width * vision.integer("mlp_ratio", 1, 64, 4)
        told = "hidden_size"
    if vision.integer(told, 1, MAX_WIDTH, 3584) != out:
        vision.refuse(told, f"the language model's hidden_size is {out}")
    layers = vision.integer("depth", 1, MAX_LAYERS, 32)
    num_heads = vision.integer("num_heads", 1, MAX_HEADS, 16)
    if width % num_heads or width // num_heads % 4:
        vision.refuse("num_heads", f"{width} channels do not part into heads of pairs of two axes")
    heads = Heads(num_heads, num_heads, width // num_heads)
    whole: tuple[int, ...] = tuple(range(layers))
    if cells.window is not None:
        vision = vision.with_default("fullatt_block_indexes", [7, 15, 23, 31])
        whole = vision.integers("fullatt_block_indexes", 0, MAX_LAYERS)

    b = Builder("images", format_of)
    block = Layer("rms" if has_windows(vision) else "layer", hidden, heads, rotation(vision, heads))
    numbers = cells.channels * cells.frames * cells.patch**2
    x = linear(b, "patch", b.hidden(numbers), width)
    for i in range(layers):
        window = cells.window if i not in whole else None
        parts = None if window is None else (window * cells.merge) ** 2
        x = block.add_to(b, vision, f"layers.{i}", x, parts)
    x = block.norm(b, "merge_norm", x)
    x = b.one("merge.join", JoinTokens(cells.merge**2), x)
    x = linear(b, "merge.up", x, width * cells.merge**2, bias=True)
    x = b.one("merge.act", Activate("gelu"), x)
    x = linear(b, "merge.down", x, out, bias=True)
    return b.finish(x, MOST_TOKENS * cells.merge**2)


def rotation(vision: Fields, heads: Heads) -> Rotation:
    """Half of a head's pairs turn by a patch's line, the others by its column, at equal rates."""
    section = vision.section("rope_parameters")
    if section.has("rope_type") and section.text("rope_type") not in ("axial", "default"):
        section.refuse("rope_type", "is not supported; supported: axial")
    theta, pairs = section.number("rope_theta", 1.0 + 1e-6, 1e15, THETA), heads.dim // 4
    each = tuple(theta ** (-i / pairs) for i in range(pairs))
    return Rotation(each + each, axes=(0,) * pairs + (1,) * pairs)


@dataclass(frozen=True, slots=True)
class Layer:
    """kind: of its norms; those of layers have biases, and MLPs beside them no gates."""

    kind: Literal["rms", "layer"]
    hidden: int
    heads: Heads
    turn: Rotation

    def norm(self, b: Builder, name: str, x: Value) -> Value:
        return plain_norm(b, name, x, Norm(self.kind, EPS), bias=self.kind == "layer")

    def add_to(self, b: Builder, vision: Fields, layer: str, x: Value, parts: int | None) -> Value:
        gated = self.kind == "rms"
        activation = read_activation(vision, "hidden_act", "silu" if gated else "quick_gelu")
        y = attention(
            b,
            layer,
            self.norm(b, f"{layer}.attn_norm", x),
            heads=self.heads,
            rotation=self.turn,
            scale=self.heads.dim**-0.5,
            qkv_bias=True,
            output_bias=True,
            causal=False,
            parts=parts,
        )
        x = add(b, f"{layer}.attn_add", x, y)
        y = self.norm(b, f"{layer}.mlp_norm", x)
        feed = gated_mlp if gated else plain_mlp
        y = feed(b, layer, y, hidden=self.hidden, activation=activation, bias=True)
        return add(b, f"{layer}.mlp_add", x, y)
