"""What the configurations of all these families share: sizes, activations, heads, windows.

Reads fields and builds nothing. Defaults are those of transformers' configuration classes, since a
config.json leaves out what equals them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.errors import ModelError
from ridgeline.model.architectures.blocks import Heads
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.graph.ops.activation import Activation

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
}

WINDOWED, FULL = "sliding_attention", "full_attention"

# Fields that would change the numbers if they were anything else, in any of these families.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "quantization_config": (),
    "compression_config": (),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "embedding_multiplier": (1, 1.0),
    "residual_multiplier": (1, 1.0),
    "attention_multiplier": (),
    "logits_scaling": (1, 1.0),
    "logit_scale": (1, 1.0),
    "attn_logit_softcapping": (),
    "use_bidirectional_attention": (False,),
    "no_rope_layers": (),
    "no_rope_layer_interval": (),
    "use_qk_norm": (False,),
    "use_mrope": (False,),
    "attention_chunk_size": (),
    "rope_interleaved": (False,),
    "clip_qkv": (),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The integers that shape a decoder; positions is max_position_embeddings."""

    vocab: int
    width: int
    layers: int
    mlp: int
    heads: Heads
    positions: int
    eps: float


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a family's configuration class assumes; None: the field must be there.

    kv_heads None: as many as query heads. head_dim None: width / query heads.
    """

    vocab: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    positions: int | None = None
    eps: float = 1e-6
    eps_name: str = "rms_norm_eps"


def neutral(*read: str) -> dict[str, tuple[object, ...]]:
    """`NEUTRAL` less the fields that an architecture reads itself."""
    return {name: values for name, values in NEUTRAL.items() if name not in read}


def read_sizes(config: Fields, defaults: Defaults) -> Sizes:
    """Sizes that agree with each other; ModelError names the field that does not."""
    width = config.integer("hidden_size", 1, MAX_WIDTH)
    query = config.integer("num_attention_heads", 1, MAX_HEADS, defaults.heads)
    kv = config.integer("num_key_value_heads", 1, MAX_HEADS, defaults.kv_heads or query)
    if query % kv:
        config.refuse("num_key_value_heads", f"does not divide num_attention_heads = {query}")
    if not config.has("head_dim") and defaults.head_dim is None and width % query:
        config.refuse("hidden_size", f"does not part into num_attention_heads = {query}")
    head_dim = config.integer("head_dim", 1, MAX_HEAD_DIM, defaults.head_dim or width // query)
    return Sizes(
        vocab=config.integer("vocab_size", 1, MAX_VOCAB, defaults.vocab),
        width=width,
        layers=config.integer("num_hidden_layers", 1, MAX_LAYERS),
        mlp=config.integer("intermediate_size", 1, MAX_WIDTH),
        heads=Heads(query, kv, head_dim),
        positions=config.integer("max_position_embeddings", 1, MAX_POSITIONS, defaults.positions),
        eps=config.number(defaults.eps_name, 0.0, 1.0, defaults.eps),
    )


def read_activation(config: Fields, name: str, default: str) -> Activation:
    text = config.text(name, default)
    if text not in ACTIVATIONS:
        config.refuse(name, f"is not supported; supported: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[text]


def read_window(config: Fields, default: int | None = None) -> int | None:
    """Positions that a windowed layer reaches back, itself included."""
    if "sliding_window" not in config.values and default is not None:
        return default
    return config.optional_integer("sliding_window", 1, MAX_POSITIONS)


def read_layer_types(config: Fields, layers: int) -> tuple[str, ...] | None:
    """`layer_types`, one a layer, if the configuration lists them."""
    if not config.has("layer_types"):
        return None
    return config.texts("layer_types", layers, (WINDOWED, FULL))


def windows(config: Fields, types: tuple[str, ...], window: int | None) -> tuple[int | None, ...]:
    """Each layer's window; ModelError if a layer is windowed and there is no window."""
    if window is None and WINDOWED in types:
        raise ModelError(f"{config.where}: sliding_window is missing: layer_types has windows")
    return tuple(window if kind == WINDOWED else None for kind in types)
