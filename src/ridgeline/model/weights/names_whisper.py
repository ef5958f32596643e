"""Names of weights in the files of speech models: see `names`.

A CTranslate2 file's names come with dots where it has slashes (`ctranslate2.py`).
"""

from __future__ import annotations

import re

from ridgeline.model.weights.names import Root


def _hf_layers(ours: str, theirs: str) -> dict[str, str]:
    return {
        f"{ours}.attn_norm": f"{theirs}.self_attn_layer_norm",
        f"{ours}.attn.q": f"{theirs}.self_attn.q_proj",
        f"{ours}.attn.k": f"{theirs}.self_attn.k_proj",
        f"{ours}.attn.v": f"{theirs}.self_attn.v_proj",
        f"{ours}.attn.o": f"{theirs}.self_attn.out_proj",
        f"{ours}.mlp_norm": f"{theirs}.final_layer_norm",
        f"{ours}.mlp.up": f"{theirs}.fc1",
        f"{ours}.mlp.down": f"{theirs}.fc2",
    }


HF_WHISPER: dict[str, str] = {
    "embed": "{body}decoder.embed_tokens",
    "position_embed": "{body}decoder.embed_positions",
    "encoder.conv1": "{body}encoder.conv1",
    "encoder.conv2": "{body}encoder.conv2",
    "encoder.position_embed": "{body}encoder.embed_positions",
    "encoder.final_norm": "{body}encoder.layer_norm",
    **_hf_layers("layers.{i}.encoder", "{body}encoder.layers.{i}"),
    **_hf_layers("layers.{i}", "{body}decoder.layers.{i}"),
    "layers.{i}.cross_norm": "{body}decoder.layers.{i}.encoder_attn_layer_norm",
    "layers.{i}.cross.q": "{body}decoder.layers.{i}.encoder_attn.q_proj",
    "layers.{i}.cross.k": "{body}decoder.layers.{i}.encoder_attn.k_proj",
    "layers.{i}.cross.v": "{body}decoder.layers.{i}.encoder_attn.v_proj",
    "layers.{i}.cross.o": "{body}decoder.layers.{i}.encoder_attn.out_proj",
    "final_norm": "{body}decoder.layer_norm",
    "head": "{head}proj_out",
}
WHISPER_ROOTS = (Root("model.", ""), Root("", ""))
# The output matrix is the embedding, whether it is stored twice or not.
WHISPER_HARMLESS = re.compile(r"proj_out\.weight")


def _ct2_norm(ours: str, theirs: str) -> dict[str, str]:
    return {
        f"{ours}.weight": f"{theirs}.layer_norm.gamma",
        f"{ours}.bias": f"{theirs}.layer_norm.beta",
    }


def _ct2_layers(ours: str, theirs: str) -> dict[str, str]:
    return {
        **_ct2_norm(f"{ours}.attn_norm", f"{theirs}.self_attention"),
        f"{ours}.attn.q": f"{theirs}.self_attention.linear_0",
        f"{ours}.attn.k": f"{theirs}.self_attention.linear_0",
        f"{ours}.attn.v": f"{theirs}.self_attention.linear_0",
        f"{ours}.attn.o": f"{theirs}.self_attention.linear_1",
        **_ct2_norm(f"{ours}.mlp_norm", f"{theirs}.ffn"),
        f"{ours}.mlp.up": f"{theirs}.ffn.linear_0",
        f"{ours}.mlp.down": f"{theirs}.ffn.linear_1",
    }


CT2_WHISPER: dict[str, str] = {
    "embed": "decoder.embeddings",
    "position_embed.weight": "decoder.position_encodings.encodings",
    "encoder.conv1": "encoder.conv1",
    "encoder.conv2": "encoder.conv2",
    "encoder.position_embed.weight": "encoder.position_encodings.encodings",
    **_ct2_norm("encoder.final_norm", "encoder"),
    **_ct2_layers("layers.{i}.encoder", "encoder.layer_{i}"),
    **_ct2_layers("layers.{i}", "decoder.layer_{i}"),
    **_ct2_norm("layers.{i}.cross_norm", "decoder.layer_{i}.attention"),
    "layers.{i}.cross.q": "decoder.layer_{i}.attention.linear_0",
    "layers.{i}.cross.k": "decoder.layer_{i}.attention.linear_1",
    "layers.{i}.cross.v": "decoder.layer_{i}.attention.linear_1",
    "layers.{i}.cross.o": "decoder.layer_{i}.attention.linear_2",
    **_ct2_norm("final_norm", "decoder"),
    "head": "decoder.projection",
}
