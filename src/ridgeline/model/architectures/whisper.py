"""Whisper (Radford et al. 2022): a log-mel spectrogram of 30 seconds becomes text.

The encoder sees the spectrogram whole: two convolutions, of which the second halves the frames,
sinusoidal positions as a table, and layers that attend to all positions. It ends with what every
layer of the decoder attends to: keys and values, made once a request. The decoder is a causal one
with learned positions and a cross attention in each layer. Layer norms stand before; keys have no
bias (in files that join q, k and v it is there, and zero).
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import (
    Heads,
    Stored,
    add,
    embed,
    head,
    linear,
    mlp,
    norm,
)
from ridgeline.model.architectures.decoder import neutral, read_activation
from ridgeline.model.architectures.fields import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import CrossState, Graph, KvState, Value
from ridgeline.model.graph.ops import (
    Activate,
    Attention,
    Conv1d,
    CrossAttention,
    CrossWrite,
    KvWrite,
    Norm,
    PositionEmbed,
    SelectRows,
)

LAYER_NORM = Norm("layer", 1e-5)
TAPS = 3
FRAMES_PER_POSITION = 2
MAX_MELS = 512
NEUTRAL: dict[str, tuple[object, ...]] = {
    "scale_embedding": (False,),
    "is_encoder_decoder": (True,),
}


def build_whisper(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config.require_neutral(neutral() | NEUTRAL)
    width = config.integer("d_model", 1, MAX_WIDTH)
    activation = read_activation(config, "activation_function", "gelu")
    layers = config.integer("decoder_layers", 1, MAX_LAYERS)
    heads = read_heads(config, "decoder_attention_heads", width)
    hidden = config.integer("decoder_ffn_dim", 1, MAX_WIDTH)
    vocab = config.integer("vocab_size", 1, MAX_VOCAB, 51865)
    positions = config.integer("max_target_positions", 1, MAX_POSITIONS, 448)
    heard = config.integer("max_source_positions", 1, MAX_POSITIONS, 1500)
    context = positions if context_length is None else context_length
    if context > positions:
        config.refuse("max_target_positions", f"{context} tokens are asked for")
    if not config.boolean("tie_word_embeddings", True):
        config.refuse("tie_word_embeddings", "Whisper's output matrix is its embedding")

    states = [
        CrossState(f"layers.{i}.cross", heard, heads.kv, heads.dim, heads.dim)
        for i in range(layers)
    ]
    encoder = build_encoder(config, format_of, stored, states)
    b = Builder("whisper", format_of)
    x, table = embed(b, vocab, width)
    x = positioned(b, "", x, positions, width)
    for i in range(layers):
        layer = f"layers.{i}"
        y = norm(b, f"{layer}.attn_norm", x, LAYER_NORM, bias=True)
        y = self_attention(b, f"{layer}.attn", y, heads, stored, f"{layer}.kv", causal=True)
        x = add(b, f"{layer}.attn_add", x, y)
        y = norm(b, f"{layer}.cross_norm", x, LAYER_NORM, bias=True)
        q = linear(b, f"{layer}.cross.q", y, heads.query * heads.dim, bias=True, split="heads")
        op = CrossAttention(heads.query, heads.dim, heads.dim, heads.dim**-0.5)
        y = b.one(f"{layer}.cross.attend", op, q, state=states[i])
        y = linear(b, f"{layer}.cross.o", y, width, bias=True, split_inputs="heads")
        x = add(b, f"{layer}.cross_add", x, y)
        y = norm(b, f"{layer}.mlp_norm", x, LAYER_NORM, bias=True)
        y = mlp(b, layer, y, hidden=hidden, activation=activation, bias=True)
        x = add(b, f"{layer}.mlp_add", x, y)
    logits = head(b, x, vocab, LAYER_NORM, tied=table, norm_bias=True)
    return b.finish(logits, context, encoder=encoder)


def build_encoder(
    config: Fields, format_of: FormatOf, stored: Stored, states: list[CrossState]
) -> Graph:
    """Frames [positions, 2 * mels] -> its last norm's rows, where wanted; writes `states`."""
    width = config.integer("d_model", 1, MAX_WIDTH)
    mels = config.integer("num_mel_bins", 1, MAX_MELS, 80)
    layers = config.integer("encoder_layers", 1, MAX_LAYERS)
    heads = read_heads(config, "encoder_attention_heads", width)
    hidden = config.integer("encoder_ffn_dim", 1, MAX_WIDTH)
    activation = read_activation(config, "activation_function", "gelu")
    heard = states[0].positions

    b = Builder("whisper encoder", format_of)
    x = b.hidden(FRAMES_PER_POSITION * mels)
    x = convolved(b, "encoder.conv1", x, width, mels, Conv1d(TAPS, FRAMES_PER_POSITION))
    op = Conv1d(TAPS, FRAMES_PER_POSITION, FRAMES_PER_POSITION)
    x = convolved(b, "encoder.conv2", x, width, width, op)
    x = positioned(b, "encoder.", x, heard, width)
    for i in range(layers):
        layer = f"layers.{i}.encoder"
        y = norm(b, f"{layer}.attn_norm", x, LAYER_NORM, bias=True)
        # One layer's keys and values at a time: the next layer writes over them.
        y = self_attention(b, f"{layer}.attn", y, heads, stored, "kv", causal=False)
        x = add(b, f"{layer}.attn_add", x, y)
        y = norm(b, f"{layer}.mlp_norm", x, LAYER_NORM, bias=True)
        y = mlp(b, layer, y, hidden=hidden, activation=activation, bias=True)
        x = add(b, f"{layer}.mlp_add", x, y)
    x = norm(b, "encoder.final_norm", x, LAYER_NORM, bias=True)
    for i, state in enumerate(states):
        name, channels = f"layers.{i}.cross", state.kv_heads * state.key_dim
        k = linear(b, f"{name}.k", x, channels, bias=stored.key_bias, split="kv_heads")
        v = linear(b, f"{name}.v", x, channels, bias=True, split="kv_heads")
        b.add(f"{name}.write", CrossWrite(), k, v, state=state)
    return b.finish(b.one("encoder.select", SelectRows(), x), heard)


def read_heads(config: Fields, name: str, width: int) -> Heads:
    count = config.integer(name, 1, MAX_HEADS)
    if width % count:
        config.refuse(name, f"does not divide d_model = {width}")
    return Heads(count, count, width // count)


def convolved(b: Builder, name: str, x: Value, width: int, channels: int, op: Conv1d) -> Value:
    weights = (b.weight(f"{name}.weight", width, channels, TAPS), b.weight(f"{name}.bias", width))
    return b.one(f"{name}.act", Activate("gelu"), b.one(name, op, x, weights=weights))


def positioned(b: Builder, of: str, x: Value, positions: int, width: int) -> Value:
    table = b.weight(f"{of}position_embed.weight", positions, width)
    rows = b.one(f"{of}position_embed", PositionEmbed(), b.token_ids, weights=(table,))
    return add(b, f"{of}position_add", x, rows)


def self_attention(
    b: Builder, name: str, x: Value, heads: Heads, stored: Stored, cache: str, *, causal: bool
) -> Value:
    width = heads.query * heads.dim
    q = linear(b, f"{name}.q", x, width, bias=True, split="heads")
    k = linear(b, f"{name}.k", x, width, bias=stored.key_bias, split="kv_heads")
    v = linear(b, f"{name}.v", x, width, bias=True, split="kv_heads")
    state = KvState(cache, heads.kv, heads.dim, heads.dim)
    b.add(f"{name}.kv_write", KvWrite(), k, v, state=state)
    op = Attention(heads.query, heads.dim, heads.dim, heads.dim**-0.5, causal=causal)
    y = b.one(f"{name}.attend", op, q, state=state)
    return linear(b, f"{name}.o", y, width, bias=True, split_inputs="heads")
