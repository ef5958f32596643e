"""Names of weights in the files of dense families other than Llama's own: see `names`."""

from __future__ import annotations

from ridgeline.model.weights.names import (
    GGUF_HEAD_NORMS,
    GGUF_LLAMA,
    GGUF_PHI3,
    HF_HEAD_NORMS,
    HF_LLAMA,
)


def without(modules: dict[str, str], *names: str) -> dict[str, str]:
    return {module: stored for module, stored in modules.items() if module not in names}


# A norm after each branch, none before.
HF_POST_NORMS: dict[str, str] = {
    **without(HF_LLAMA, "layers.{i}.attn_norm", "layers.{i}.mlp_norm"),
    **HF_HEAD_NORMS,
    "layers.{i}.attn_post_norm": "{body}layers.{i}.post_attention_layernorm",
    "layers.{i}.mlp_post_norm": "{body}layers.{i}.post_feedforward_layernorm",
}
HF_GEMMA2: dict[str, str] = {
    **HF_LLAMA,
    "layers.{i}.attn_post_norm": "{body}layers.{i}.post_attention_layernorm",
    "layers.{i}.mlp_norm": "{body}layers.{i}.pre_feedforward_layernorm",
    "layers.{i}.mlp_post_norm": "{body}layers.{i}.post_feedforward_layernorm",
}
HF_GEMMA4: dict[str, str] = {
    **HF_GEMMA2,
    **HF_HEAD_NORMS,
    "layers.{i}.scale.weight": "{body}layers.{i}.layer_scalar",
}
HF_OLMO: dict[str, str] = without(
    HF_LLAMA, "layers.{i}.attn_norm", "layers.{i}.mlp_norm", "final_norm"
)
HF_COHERE: dict[str, str] = without(HF_LLAMA, "layers.{i}.mlp_norm")
HF_PHI: dict[str, str] = {
    **without(HF_LLAMA, "layers.{i}.mlp_norm", "layers.{i}.mlp.gate"),
    "layers.{i}.attn.o": "{body}layers.{i}.self_attn.dense",
    "layers.{i}.mlp.up": "{body}layers.{i}.mlp.fc1",
    "layers.{i}.mlp.down": "{body}layers.{i}.mlp.fc2",
    "final_norm": "{body}final_layernorm",
}
HF_STARCODER2: dict[str, str] = {
    **without(HF_LLAMA, "layers.{i}.mlp.gate"),
    "layers.{i}.mlp.up": "{body}layers.{i}.mlp.c_fc",
    "layers.{i}.mlp.down": "{body}layers.{i}.mlp.c_proj",
}
HF_UNGATED: dict[str, str] = without(HF_LLAMA, "layers.{i}.mlp.gate")
HF_GLM: dict[str, str] = {
    **HF_LLAMA,
    "layers.{i}.mlp.gate": "{body}layers.{i}.mlp.gate_up_proj",
    "layers.{i}.mlp.up": "{body}layers.{i}.mlp.gate_up_proj",
}
HF_GLM4: dict[str, str] = {
    **HF_GLM,
    "layers.{i}.attn_post_norm": "{body}layers.{i}.post_self_attn_layernorm",
    "layers.{i}.mlp_norm": "{body}layers.{i}.post_attention_layernorm",
    "layers.{i}.mlp_post_norm": "{body}layers.{i}.post_mlp_layernorm",
}

GGUF_GEMMA2: dict[str, str] = {
    **GGUF_LLAMA,
    "layers.{i}.attn_post_norm": "blk.{i}.post_attention_norm",
    "layers.{i}.mlp_post_norm": "blk.{i}.post_ffw_norm",
}
GGUF_POST_NORMS: dict[str, str] = {
    **without(GGUF_LLAMA, "layers.{i}.attn_norm", "layers.{i}.mlp_norm"),
    **GGUF_HEAD_NORMS,
    "layers.{i}.attn_post_norm": "blk.{i}.post_attention_norm",
    "layers.{i}.mlp_post_norm": "blk.{i}.post_ffw_norm",
}
GGUF_SEED_OSS: dict[str, str] = {
    **GGUF_LLAMA,
    "layers.{i}.mlp_norm": "blk.{i}.post_attention_norm",
}
GGUF_GLM4: dict[str, str] = {
    **GGUF_GEMMA2,
    "layers.{i}.mlp.gate": GGUF_PHI3["layers.{i}.mlp.gate"],
}
