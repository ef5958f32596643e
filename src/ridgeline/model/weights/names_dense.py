"""Names of weights in the files of dense families other than Llama's own: see `names`."""

from __future__ import annotations

import re

from ridgeline.model.weights.names import (
    GGUF_GEMMA3,
    GGUF_HEAD_NORMS,
    GGUF_LLAMA,
    GGUF_PHI3,
    HF_HEAD_NORMS,
    HF_LLAMA,
    Columns,
    Root,
    Row,
    Stack,
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
HF_GEMMA4: dict[str, Row] = {
    **HF_GEMMA2,
    **HF_HEAD_NORMS,
    "layers.{i}.scale.weight": "{body}layers.{i}.layer_scalar",
    # Of those with experts:
    "layers.{i}.mlp_alone_norm": "{body}layers.{i}.post_feedforward_layernorm_1",
    "layers.{i}.moe_norm": "{body}layers.{i}.pre_feedforward_layernorm_2",
    "layers.{i}.moe_post_norm": "{body}layers.{i}.post_feedforward_layernorm_2",
    "layers.{i}.moe.router_norm.weight": "{body}layers.{i}.router.scale",
    "layers.{i}.moe.router": "{body}layers.{i}.router.proj",
    "layers.{i}.moe.gain.weight": "{body}layers.{i}.router.per_expert_scale",
    "layers.{i}.moe.gate": Stack("{body}layers.{i}.experts.gate_up_proj", part=0, parts=2),
    "layers.{i}.moe.up": Stack("{body}layers.{i}.experts.gate_up_proj", part=1, parts=2),
    "layers.{i}.moe.down": Stack("{body}layers.{i}.experts.down_proj"),
}
GGUF_GEMMA4: dict[str, Row] = {
    **GGUF_GEMMA3,
    "layers.{i}.scale": "blk.{i}.layer_output_scale",
    # Of those with experts:
    "layers.{i}.mlp_alone_norm": "blk.{i}.post_ffw_norm_1",
    "layers.{i}.moe_norm": "blk.{i}.pre_ffw_norm_2",
    "layers.{i}.moe_post_norm": "blk.{i}.post_ffw_norm_2",
    "layers.{i}.moe.router_norm.weight": "blk.{i}.ffn_gate_inp.scale",
    "layers.{i}.moe.router": "blk.{i}.ffn_gate_inp",
    "layers.{i}.moe.gain.weight": "blk.{i}.ffn_down_exps.scale",
    "layers.{i}.moe.gate": Stack("blk.{i}.ffn_gate_up_exps.weight", part=0, parts=2),
    "layers.{i}.moe.up": Stack("blk.{i}.ffn_gate_up_exps.weight", part=1, parts=2),
    "layers.{i}.moe.down": "blk.{i}.ffn_down_exps",
}
HF_OLMO: dict[str, str] = without(
    HF_LLAMA, "layers.{i}.attn_norm", "layers.{i}.mlp_norm", "final_norm"
)
HF_COHERE: dict[str, str] = without(HF_LLAMA, "layers.{i}.mlp_norm") | HF_HEAD_NORMS
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
HF_GPT_NEOX: dict[str, str] = {
    "embed": "{body}embed_in",
    "layers.{i}.attn_norm": "{body}layers.{i}.input_layernorm",
    "layers.{i}.attn.qkv": "{body}layers.{i}.attention.query_key_value",
    "layers.{i}.attn.o": "{body}layers.{i}.attention.dense",
    "layers.{i}.mlp_norm": "{body}layers.{i}.post_attention_layernorm",
    "layers.{i}.mlp.up": "{body}layers.{i}.mlp.dense_h_to_4h",
    "layers.{i}.mlp.down": "{body}layers.{i}.mlp.dense_4h_to_h",
    "final_norm": "{body}final_layer_norm",
    "head": "{head}embed_out",
}
NEOX_ROOTS = (Root("gpt_neox."), Root())
# Masks that old checkpoints carry, and rotary tables: the configuration says the same.
NEOX_HARMLESS = re.compile(r".*\.attention\.(bias|masked_bias)|.*\.rotary_emb\.inv_freq")
# Matrices have inputs before outputs.
HF_GPT2: dict[str, Row] = {
    "embed": "{body}wte",
    "position_embed": "{body}wpe",
    "layers.{i}.attn_norm": "{body}h.{i}.ln_1",
    "layers.{i}.attn.q": Columns("{body}h.{i}.attn.c_attn", part=0, parts=3),
    "layers.{i}.attn.k": Columns("{body}h.{i}.attn.c_attn", part=1, parts=3),
    "layers.{i}.attn.v": Columns("{body}h.{i}.attn.c_attn", part=2, parts=3),
    "layers.{i}.attn.o": Columns("{body}h.{i}.attn.c_proj"),
    "layers.{i}.mlp_norm": "{body}h.{i}.ln_2",
    "layers.{i}.mlp.up": Columns("{body}h.{i}.mlp.c_fc"),
    "layers.{i}.mlp.down": Columns("{body}h.{i}.mlp.c_proj"),
    "final_norm": "{body}ln_f",
    "head": "{head}lm_head",
}
GPT2_ROOTS = (Root("transformer."), Root())
GPT2_HARMLESS = re.compile(r".*\.attn\.(bias|masked_bias)")
HF_UNGATED: dict[str, str] = without(HF_LLAMA, "layers.{i}.mlp.gate")
HF_APERTUS: dict[str, str] = {
    **HF_UNGATED,
    **HF_HEAD_NORMS,
    "layers.{i}.attn_norm": "{body}layers.{i}.attention_layernorm",
    "layers.{i}.mlp_norm": "{body}layers.{i}.feedforward_layernorm",
    "layers.{i}.mlp.act.positive": "{body}layers.{i}.mlp.act_fn.alpha_p",
    "layers.{i}.mlp.act.negative": "{body}layers.{i}.mlp.act_fn.alpha_n",
}
GGUF_UNGATED: dict[str, str] = without(GGUF_LLAMA, "layers.{i}.mlp.gate")
GGUF_APERTUS: dict[str, str] = {
    **GGUF_UNGATED,
    **GGUF_HEAD_NORMS,
    "layers.{i}.mlp.act.positive": "blk.{i}.xielu.alpha_p",
    "layers.{i}.mlp.act.negative": "blk.{i}.xielu.alpha_n",
}
# Numbers of the activation that are not learned: always those of its paper.
APERTUS_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq|.*\.mlp\.act_fn\.(beta|eps)")
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
GGUF_GPT_NEOX: dict[str, str] = {
    **GGUF_LLAMA,
    "layers.{i}.attn.q": "blk.{i}.attn_qkv",
    "layers.{i}.attn.k": "blk.{i}.attn_qkv",
    "layers.{i}.attn.v": "blk.{i}.attn_qkv",
}
GGUF_GPT2: dict[str, str] = {**GGUF_GPT_NEOX, "position_embed": "position_embd"}
GGUF_SEED_OSS: dict[str, str] = {
    **GGUF_LLAMA,
    "layers.{i}.mlp_norm": "blk.{i}.post_attention_norm",
}
GGUF_GLM4: dict[str, str] = {
    **GGUF_GEMMA2,
    "layers.{i}.mlp.gate": GGUF_PHI3["layers.{i}.mlp.gate"],
}

_GEMMA3N_PARTS: dict[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
    "laurel.left": "laurel.linear_left",
    "laurel.right": "laurel.linear_right",
    "laurel.norm": "laurel.post_laurel_norm",
    "altup.router": "altup.modality_router",
    "altup.router_norm": "altup.router_norm",
    "altup.predict": "altup.prediction_coefs",
    "altup.correct": "altup.correction_coefs",
    "altup.scale.weight": "altup.correct_output_scale",
    "by_layer.gate": "per_layer_input_gate",
    "by_layer.project": "per_layer_projection",
    "by_layer.norm": "post_per_layer_input_norm",
}
HF_GEMMA3N: dict[str, str] = {
    **HF_LLAMA,
    **HF_HEAD_NORMS,
    **{f"layers.{{i}}.{a}": f"{{body}}layers.{{i}}.{b}" for a, b in _GEMMA3N_PARTS.items()},
    "by_layer.embed": "{body}embed_tokens_per_layer",
    "by_layer.project": "{body}per_layer_model_projection",
    "by_layer.norm": "{body}per_layer_projection_norm",
    **{
        f"streams.{i}.{ours}": f"{{body}}{theirs}.{i}"
        for i in range(7)
        for ours, theirs in (
            ("make", "altup_projections"),
            ("unmake", "altup_unembed_projections"),
        )
    },
}
_GGUF_GEMMA3N_PARTS: dict[str, str] = {
    "attn_post_norm": "post_attention_norm",
    "mlp_post_norm": "post_ffw_norm",
    "laurel.left": "laurel_l",
    "laurel.right": "laurel_r",
    "laurel.norm": "laurel_post_norm",
    "altup.router": "altup_router",
    "altup.router_norm": "altup_router_norm",
    "altup.predict": "altup_predict_coef",
    "altup.correct": "altup_correct_coef",
    "altup.scale": "altup_correct_scale",
    "by_layer.gate": "inp_gate",
    "by_layer.project": "proj",
    "by_layer.norm": "post_norm",
}
# What all streams are made by lies in one tensor, one matrix after the other.
GGUF_GEMMA3N: dict[str, str] = {
    **GGUF_LLAMA,
    **GGUF_HEAD_NORMS,
    **{f"layers.{{i}}.{a}": f"blk.{{i}}.{b}" for a, b in _GGUF_GEMMA3N_PARTS.items()},
    "by_layer.embed": "per_layer_token_embd",
    "by_layer.project": "per_layer_model_proj",
    "by_layer.norm": "per_layer_proj_norm",
    **{f"streams.{i}.make": "altup_proj" for i in range(7)},
    **{f"streams.{i}.unmake": "altup_unembd_proj" for i in range(7)},
}
GGUF_GEMMA3N_HARMLESS = re.compile(r"blk\.\d+\.attn_(k|v|k_norm)\.weight")
# Towers; and keys and values of layers that attend to those of others.
GEMMA3N_HARMLESS = re.compile(
    r".*\.rotary_emb\..*|(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio)\..*|"
    r".*layers\.\d+\.self_attn\.(k_proj|v_proj|k_norm)\.weight"
)
