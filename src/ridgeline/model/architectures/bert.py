"""BERT (Devlin et al. 2018) and its distillates (MiniLM): an encoder that sees a text whole.

Embeddings of tokens, positions and segments; a layer norm after each addition. What comes out is a
row for each text: the mean of its tokens or its first token (`pooling_mode`), or the logits of its
classes.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import (
    Stored,
    add,
    attention,
    embed,
    linear,
    mlp,
    norm,
    position_embed,
)
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import MAX_VOCAB, Fields
from ridgeline.model.architectures.heads import pooled, read_num_classes
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Activate, Norm, TypeEmbed

BERT = Defaults(vocab=30522, heads=12, positions=512, eps=1e-12, eps_name="layer_norm_eps")
NEUTRAL = {"position_embedding_type": ("absolute",), "is_decoder": (False,)}


def build_bert(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    b, x, context = encode(config, format_of, context_length)
    return b.finish(pooled(b, x, config), context)


def build_bert_classifier(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """The first token, once more through a linear and tanh, then a linear of classes."""
    b, x, context = encode(config, format_of, context_length)
    x = pooled(b, x, config, "first")
    width = x.shape[-1]
    assert isinstance(width, int)
    x = b.one("pooler.act", Activate("tanh"), linear(b, "pooler", x, width, bias=True))
    return b.finish(linear(b, "head", x, read_num_classes(config), bias=True), context)


def encode(
    config: Fields, format_of: FormatOf, context_length: int | None
) -> tuple[Builder, Value, int]:
    """The last layer's output [TOKENS, width], and the longest text."""
    sizes = read_sizes(config, BERT)
    config.require_neutral(neutral() | NEUTRAL)
    activation = read_activation(config, "hidden_act", "gelu")
    types = config.integer("type_vocab_size", 1, 1 << 16, 2)
    separator = config.optional_integer("sep_token_id", 0, MAX_VOCAB)
    if context_length is not None and context_length > sizes.positions:
        config.refuse("max_position_embeddings", f"{context_length} tokens are asked for")
    context = sizes.positions if context_length is None else context_length

    b = Builder("bert", format_of)
    layer_norm = Norm("layer", sizes.eps)
    x, _ = embed(b, sizes.vocab, sizes.width)
    x = add(b, "position_add", x, position_embed(b, sizes.positions, sizes.width))
    table = b.weight("type_embed.weight", types, sizes.width)
    x = add(
        b, "type_add", x, b.one("type_embed", TypeEmbed(separator), b.token_ids, weights=(table,))
    )
    x = norm(b, "embed_norm", x, layer_norm, bias=True)
    for i in range(sizes.layers):
        layer = f"layers.{i}"
        y = attention(
            b,
            layer,
            x,
            heads=sizes.heads,
            rotation=None,
            scale=sizes.heads.dim**-0.5,
            qkv_bias=True,
            output_bias=True,
            causal=False,
        )
        x = norm(b, f"{layer}.attn_norm", add(b, f"{layer}.attn_add", x, y), layer_norm, bias=True)
        y = mlp(b, layer, x, hidden=sizes.mlp, activation=activation, bias=True)
        x = norm(b, f"{layer}.mlp_norm", add(b, f"{layer}.mlp_add", x, y), layer_norm, bias=True)
    return b, x, context
