"""Names of weights in the files of encoders: see `names`."""

from __future__ import annotations

import re

from ridgeline.model.weights.names import Root

HF_BERT: dict[str, str] = {
    "embed": "{body}embeddings.word_embeddings",
    "position_embed": "{body}embeddings.position_embeddings",
    "type_embed": "{body}embeddings.token_type_embeddings",
    "embed_norm": "{body}embeddings.LayerNorm",
    "layers.{i}.attn.q": "{body}encoder.layer.{i}.attention.self.query",
    "layers.{i}.attn.k": "{body}encoder.layer.{i}.attention.self.key",
    "layers.{i}.attn.v": "{body}encoder.layer.{i}.attention.self.value",
    "layers.{i}.attn.o": "{body}encoder.layer.{i}.attention.output.dense",
    "layers.{i}.attn_norm": "{body}encoder.layer.{i}.attention.output.LayerNorm",
    "layers.{i}.mlp.up": "{body}encoder.layer.{i}.intermediate.dense",
    "layers.{i}.mlp.down": "{body}encoder.layer.{i}.output.dense",
    "layers.{i}.mlp_norm": "{body}encoder.layer.{i}.output.LayerNorm",
    "pooler": "{body}pooler.dense",
    "head": "{head}classifier",
}
BERT_ROOTS = (Root("", ""), Root("bert.", ""))
# Positions 0, 1, 2, ... as a tensor; the pooler and the head of another task.
BERT_HARMLESS = re.compile(r"(bert\.)?(embeddings\.position_ids|pooler\..*)|cls\..*")

HF_MODERNBERT: dict[str, str] = {
    "embed": "{body}embeddings.tok_embeddings",
    "embed_norm": "{body}embeddings.norm",
    "layers.{i}.attn_norm": "{body}layers.{i}.attn_norm",
    "layers.{i}.attn.q": "{body}layers.{i}.attn.Wqkv",
    "layers.{i}.attn.k": "{body}layers.{i}.attn.Wqkv",
    "layers.{i}.attn.v": "{body}layers.{i}.attn.Wqkv",
    "layers.{i}.attn.o": "{body}layers.{i}.attn.Wo",
    "layers.{i}.mlp_norm": "{body}layers.{i}.mlp_norm",
    "layers.{i}.mlp.gate": "{body}layers.{i}.mlp.Wi",
    "layers.{i}.mlp.up": "{body}layers.{i}.mlp.Wi",
    "layers.{i}.mlp.down": "{body}layers.{i}.mlp.Wo",
    "final_norm": "{body}final_norm",
    "pooler": "{head}head.dense",
    "pooler_norm": "{head}head.norm",
    "head": "{head}classifier",
}
MODERNBERT_ROOTS = (Root("model.", ""), Root("", ""))
# The head that fills in masked words.
MODERNBERT_HARMLESS = re.compile(r"(head|decoder)\..*")
