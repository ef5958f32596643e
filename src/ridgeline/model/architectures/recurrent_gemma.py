"""RecurrentGemma (Botev et al. 2024; Griffin, De et al. 2024): real-gated linear recurrences, and
attention to a window in every third layer.
"""

from __future__ import annotations

import struct

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    Defaults,
    neutral,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import MAX_POSITIONS, Fields
from ridgeline.model.architectures.hybrid import ATTENDING, RECURRENT, by_kind, read_width
from ridgeline.model.architectures.recurrent import griffin
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS

DEFAULTS = Defaults(vocab=256000, heads=10, positions=8192)
KINDS = {"recurrent": RECURRENT, "attention": ATTENDING}
PERIOD = ("recurrent", "recurrent", "attention")
MAX_PERIOD = 1024


def build_recurrent_gemma(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(neutral() | {"layer_types": ()})
    if sizes.mlp % 2:
        config.refuse("intermediate_size", "gate and up have half of it each")
    rope = read_rope(config, sizes.heads.dim, sizes.positions, partial=True, default_partial=0.5)
    context = choose_context(rope, context_length, config.where)
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    channels = read_width(config, "lru_width", sizes.width)
    if channels % sizes.heads.query:
        config.refuse("lru_width", f"does not part into {sizes.heads.query} blocks")
    taps = config.integer("conv1d_width", 2, MAX_TAPS, 4)
    window = config.integer("attention_window_size", 1, MAX_POSITIONS, 2048)

    def recur(b: Builder, layer: str, i: int, x: Value) -> Value:
        return griffin(
            b,
            layer,
            x,
            channels=channels,
            blocks=sizes.heads.query,
            taps=taps,
            activation=activation,
        )

    attend = attends(
        sizes.heads,
        (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
        (window,) * sizes.layers,
        qkv_bias=config.boolean("attention_bias", False),
        output_bias=True,
    )
    kinds = read_period(config, sizes.layers)
    return build_decoder(
        "recurrent_gemma",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps, offset=0.0 if stored.norm_has_one else 1.0)),
        attend=by_kind(kinds, {ATTENDING: attend, RECURRENT: recur}),
        feed=feeds(sizes.mlp // 2, activation, bias=True),
        tied=config.boolean("tie_word_embeddings", True),
        embed_scale=as_bfloat16(sizes.width**0.5),
        softcap=config.number("logits_soft_cap", 1e-6, 1e6, 30.0),
    )


def read_period(config: Fields, layers: int) -> tuple[str, ...]:
    """Each layer's kind: `block_types`, over and over."""
    listed = config.values.get("block_types")
    period: tuple[str, ...] = PERIOD
    if listed is not None:
        count = len(listed) if isinstance(listed, list | tuple) else 0
        if not 1 <= count <= MAX_PERIOD:
            config.refuse("block_types", f"a list of 1 to {MAX_PERIOD} kinds is needed")
        period = config.texts("block_types", count, tuple(KINDS))
    return tuple(KINDS[period[i % len(period)]] for i in range(layers))


def as_bfloat16(x: float) -> float:
    """As the model's own number is kept, whatever its weights are: rounded to nearest even."""
    (word,) = struct.unpack("<I", struct.pack("<f", x))
    word = (word + 0x7FFF + (word >> 16 & 1)) & 0xFFFF0000
    (rounded,) = struct.unpack("<f", struct.pack("<I", word))
    return float(rounded)
