"""What files call the weights of towers that see images, and of what joins these to a decoder."""

from __future__ import annotations

import re

from ridgeline.model.weights.names import Columns, Root, Row

PROJECTOR = "{head}multi_modal_projector"

HF_SIGLIP: dict[str, Row] = {
    "patch": "{body}embeddings.patch_embedding",
    "position_embed": "{body}embeddings.position_embedding",
    "layers.{i}.attn_norm": "{body}encoder.layers.{i}.layer_norm1",
    **{
        f"layers.{{i}}.attn.{ours}": f"{{body}}encoder.layers.{{i}}.self_attn.{theirs}"
        for ours, theirs in {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}.items()
    },
    "layers.{i}.mlp_norm": "{body}encoder.layers.{i}.layer_norm2",
    "layers.{i}.mlp.up": "{body}encoder.layers.{i}.mlp.fc1",
    "layers.{i}.mlp.down": "{body}encoder.layers.{i}.mlp.fc2",
    "final_norm": "{body}post_layernorm",
}

HF_GEMMA3_IMAGES: dict[str, Row] = {
    **HF_SIGLIP,
    "soft_norm": f"{PROJECTOR}.mm_soft_emb_norm",
    "project": Columns(PROJECTOR),
    "project.weight": f"{PROJECTOR}.mm_input_projection_weight",
}

# Where the tower stands (body) and what joins it to the decoder (head): files differ in what stands
# before, and in a name between.
IMAGE_ROOTS = tuple(
    Root(f"{head}vision_tower.{between}", head)
    for head in ("", "model.")
    for between in ("vision_model.", "")
)

_QWEN2_VL: dict[str, Row] = {
    "patch": "{body}patch_embed.proj",
    "layers.{i}.attn_norm": "{body}blocks.{i}.norm1",
    **{f"layers.{{i}}.attn.{ours}": "{body}blocks.{i}.attn.qkv" for ours in "qkv"},
    "layers.{i}.attn.o": "{body}blocks.{i}.attn.proj",
    "layers.{i}.mlp_norm": "{body}blocks.{i}.norm2",
    "merge_norm": "{body}merger.ln_q",
    "merge.up": "{body}merger.mlp.0",
    "merge.down": "{body}merger.mlp.2",
}
HF_QWEN2_VL_IMAGES: dict[str, Row] = {
    **_QWEN2_VL,
    "layers.{i}.mlp.up": "{body}blocks.{i}.mlp.fc1",
    "layers.{i}.mlp.down": "{body}blocks.{i}.mlp.fc2",
}
HF_QWEN2_5_VL_IMAGES: dict[str, Row] = {
    **_QWEN2_VL,
    **{
        f"layers.{{i}}.mlp.{part}": f"{{body}}blocks.{{i}}.mlp.{part}_proj"
        for part in ("gate", "up", "down")
    },
}
VISUAL_ROOTS = (Root("visual."), Root("model.visual."))
VISUAL_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq|(model\.)?visual\..*")
