"""The golden encoders: one tiny model for each thing that an encoder can do differently.

A case is a config.json as published, the class of transformers that is its oracle, how its rows are
made of the last hidden states ("mean", "cls", "last"), or "logits" of a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCAB = 128
LENGTHS = (1, 7, 36, 21)
SEPARATOR = VOCAB - 1


@dataclass(frozen=True)
class Encoder:
    """paired: texts are two segments, parted by the separator's id."""

    name: str
    oracle: str
    config: dict[str, Any]
    rows: tuple[str, ...]
    paired: bool = False


def _bert(architecture: str, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": "bert",
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
    } | changes


def _modernbert(architecture: str, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": "modernbert",
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_activation": "gelu",
        "max_position_embeddings": 64,
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "global_attn_every_n_layers": 3,
        "local_attention": 12,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": SEPARATOR,
        "cls_token_id": 1,
        "sep_token_id": SEPARATOR,
        "classifier_pooling": "cls",
        "torch_dtype": "float32",
    } | changes


def _qwen3(architecture: str, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": "qwen3",
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "attention_bias": False,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    } | changes


CLASSES = {"0": "calm", "1": "glad", "2": "sad"}

ENCODERS = (
    Encoder("bert", "AutoModel", _bert("BertModel"), ("mean", "cls")),
    # A cross-encoder: two texts at once, one score.
    Encoder(
        "bert_pairs",
        "AutoModelForSequenceClassification",
        _bert(
            "BertForSequenceClassification",
            id2label={"0": "LABEL_0"},
            sep_token_id=SEPARATOR,
            hidden_act="gelu_new",
        ),
        ("logits",),
        paired=True,
    ),
    Encoder("modernbert", "AutoModel", _modernbert("ModernBertModel"), ("mean", "cls")),
    Encoder(
        "modernbert_classes",
        "AutoModelForSequenceClassification",
        _modernbert(
            "ModernBertForSequenceClassification",
            id2label=CLASSES,
            classifier_pooling="mean",
            norm_bias=True,
            attention_bias=True,
            mlp_bias=True,
            classifier_bias=True,
        ),
        ("logits",),
    ),
    # Qwen3-Embedding: a decoder; the last token's row.
    Encoder("qwen3_embedding", "AutoModel", _qwen3("Qwen3ForCausalLM"), ("last",)),
    # A reranker: one score of a decoder's last token.
    Encoder(
        "qwen3_classes",
        "AutoModelForSequenceClassification",
        _qwen3("Qwen3ForSequenceClassification", id2label=CLASSES),
        ("logits",),
    ),
)
