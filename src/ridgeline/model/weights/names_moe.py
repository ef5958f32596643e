"""Names of weights in the files of mixtures of experts: see `names`."""

from __future__ import annotations

import re

from ridgeline.model.weights.names import (
    GGUF_HEAD_NORMS,
    GGUF_LLAMA,
    HF_HEAD_NORMS,
    HF_LLAMA,
    Expansion,
    Root,
    Row,
    Stack,
)

HF_HUNYUAN_NORMS: dict[str, str] = {
    "layers.{i}.attn.q_norm": "{body}layers.{i}.self_attn.query_layernorm",
    "layers.{i}.attn.k_norm": "{body}layers.{i}.self_attn.key_layernorm",
}

HF_MIXTRAL: dict[str, Row] = {
    **HF_LLAMA,
    "layers.{i}.moe.router": "{body}layers.{i}.block_sparse_moe.gate",
    "layers.{i}.moe.gate": "{body}layers.{i}.block_sparse_moe.experts.{e}.w1",
    "layers.{i}.moe.up": "{body}layers.{i}.block_sparse_moe.experts.{e}.w3",
    "layers.{i}.moe.down": "{body}layers.{i}.block_sparse_moe.experts.{e}.w2",
}

HF_QWEN_MOE: dict[str, Row] = {
    **HF_LLAMA,
    **HF_HEAD_NORMS,
    "layers.{i}.moe.router": "{body}layers.{i}.mlp.gate",
    "layers.{i}.moe.gate": "{body}layers.{i}.mlp.experts.{e}.gate_proj",
    "layers.{i}.moe.up": "{body}layers.{i}.mlp.experts.{e}.up_proj",
    "layers.{i}.moe.down": "{body}layers.{i}.mlp.experts.{e}.down_proj",
    "layers.{i}.shared.mlp.gate": "{body}layers.{i}.mlp.shared_expert.gate_proj",
    "layers.{i}.shared.mlp.up": "{body}layers.{i}.mlp.shared_expert.up_proj",
    "layers.{i}.shared.mlp.down": "{body}layers.{i}.mlp.shared_expert.down_proj",
    "layers.{i}.shared.weigh": "{body}layers.{i}.mlp.shared_expert_gate",
}

GGUF_MOE: dict[str, Row] = {
    **GGUF_LLAMA,
    **GGUF_HEAD_NORMS,
    "layers.{i}.moe.router": "blk.{i}.ffn_gate_inp",
    "layers.{i}.moe.gate": "blk.{i}.ffn_gate_exps",
    "layers.{i}.moe.up": "blk.{i}.ffn_up_exps",
    "layers.{i}.moe.down": "blk.{i}.ffn_down_exps",
    "layers.{i}.shared.mlp.gate": "blk.{i}.ffn_gate_shexp",
    "layers.{i}.shared.mlp.up": "blk.{i}.ffn_up_shexp",
    "layers.{i}.shared.mlp.down": "blk.{i}.ffn_down_shexp",
    "layers.{i}.shared.weigh": "blk.{i}.ffn_gate_inp_shexp",
}

# Of each expert gate before up, both inputs first.
HF_LLAMA4: dict[str, Row] = {
    **{
        module: row.replace(".mlp.", ".feed_forward.") if isinstance(row, str) else row
        for module, row in HF_QWEN_MOE.items()
    },
    "layers.{i}.moe.router": "{body}layers.{i}.feed_forward.router",
    "layers.{i}.moe.gate": Stack(
        "{body}layers.{i}.feed_forward.experts.gate_up_proj", part=0, parts=2, transposed=True
    ),
    "layers.{i}.moe.up": Stack(
        "{body}layers.{i}.feed_forward.experts.gate_up_proj", part=1, parts=2, transposed=True
    ),
    "layers.{i}.moe.down": Stack(
        "{body}layers.{i}.feed_forward.experts.down_proj", transposed=True
    ),
}

GGUF_CORRECTED_MOE: dict[str, Row] = {
    **GGUF_MOE,
    "layers.{i}.moe.correction": "blk.{i}.exp_probs_b",
}
GGUF_GLM4_MOE: dict[str, Row] = {
    **GGUF_CORRECTED_MOE,
    "layers.{i}.mlp_norm": "blk.{i}.post_attention_norm",
}
GGUF_DEEPSEEK: dict[str, Row] = {
    **GGUF_CORRECTED_MOE,
    "layers.{i}.attn.q_a": "blk.{i}.attn_q_a",
    "layers.{i}.attn.q_a_norm": "blk.{i}.attn_q_a_norm",
    "layers.{i}.attn.q_b": "blk.{i}.attn_q_b",
    "layers.{i}.attn.kv_a": "blk.{i}.attn_kv_a_mqa",
    "layers.{i}.attn.kv_a_norm": "blk.{i}.attn_kv_a_norm",
    "layers.{i}.attn.kv_b": Expansion(
        "blk.{i}.attn_kv_b.weight", "blk.{i}.attn_k_b.weight", "blk.{i}.attn_v_b.weight"
    ),
}
GGUF_GPT_OSS: dict[str, Row] = {
    **GGUF_MOE,
    "layers.{i}.mlp_norm": "blk.{i}.post_attention_norm",
    "layers.{i}.attn.sinks": "blk.{i}.attn_sinks",
}

GGUF_MIMO2: dict[str, Row] = {
    **GGUF_CORRECTED_MOE,
    "layers.{i}.attn.sinks": "blk.{i}.attn_sinks",
}
GGUF_STEP35: dict[str, Row] = {
    **GGUF_CORRECTED_MOE,
    "layers.{i}.attn.gate": "blk.{i}.attn_gate",
}
GGUF_GLM_DSA: dict[str, Row] = {
    **GGUF_DEEPSEEK,
    "layers.{i}.attn.index.q": "blk.{i}.indexer.attn_q_b",
    "layers.{i}.attn.index.k": "blk.{i}.indexer.attn_k",
    "layers.{i}.attn.index.k_norm": "blk.{i}.indexer.k_norm",
    "layers.{i}.attn.index.weigh": "blk.{i}.indexer.proj",
}

HF_DEEPSEEK_MOE: dict[str, Row] = {
    **HF_QWEN_MOE,
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.mlp.gate.e_score_correction_bias",
    "layers.{i}.shared.mlp.gate": "{body}layers.{i}.mlp.shared_experts.gate_proj",
    "layers.{i}.shared.mlp.up": "{body}layers.{i}.mlp.shared_experts.up_proj",
    "layers.{i}.shared.mlp.down": "{body}layers.{i}.mlp.shared_experts.down_proj",
}

HF_ERNIE_MOE: dict[str, Row] = {
    **HF_DEEPSEEK_MOE,
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.mlp.moe_statics.e_score_correction_bias",
}

HF_EXAONE_MOE: dict[str, Row] = {
    **HF_DEEPSEEK_MOE,
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.mlp.e_score_correction_bias",
}

HF_MIMO_V2: dict[str, Row] = {
    **HF_DEEPSEEK_MOE,
    "layers.{i}.attn.sinks.weight": "{body}layers.{i}.self_attn.attention_sink_bias",
}

HF_HUNYUAN_MOE: dict[str, Row] = {
    **HF_QWEN_MOE,
    **HF_HUNYUAN_NORMS,
    "layers.{i}.moe.router": "{body}layers.{i}.mlp.gate.wg",
    "layers.{i}.shared.mlp.gate": "{body}layers.{i}.mlp.shared_mlp.gate_proj",
    "layers.{i}.shared.mlp.up": "{body}layers.{i}.mlp.shared_mlp.up_proj",
    "layers.{i}.shared.mlp.down": "{body}layers.{i}.mlp.shared_mlp.down_proj",
}

# Modules of multi-token prediction that nothing here builds yet.
MTP_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq|(model\.)?mtp[._].*")

HF_MINIMAX_M2: dict[str, Row] = {
    **HF_MIXTRAL,
    **HF_HEAD_NORMS,
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.block_sparse_moe.e_score_correction_bias",
}

# A tensor of all experts for each of their matrices.
HF_STEP: dict[str, Row] = {
    **HF_LLAMA,
    **HF_HEAD_NORMS,
    "layers.{i}.attn.gate": "{body}layers.{i}.self_attn.g_proj",
    "layers.{i}.moe.router": "{body}layers.{i}.moe.gate",
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.moe.router_bias",
    "layers.{i}.moe.gate": Stack("{body}layers.{i}.moe.gate_proj.weight"),
    "layers.{i}.moe.up": Stack("{body}layers.{i}.moe.up_proj.weight"),
    "layers.{i}.moe.down": Stack("{body}layers.{i}.moe.down_proj.weight"),
    "layers.{i}.shared.mlp.gate": "{body}layers.{i}.share_expert.gate_proj",
    "layers.{i}.shared.mlp.up": "{body}layers.{i}.share_expert.up_proj",
    "layers.{i}.shared.mlp.down": "{body}layers.{i}.share_expert.down_proj",
}
# What sees, and layers behind the last, which are modules of multi-token prediction.
STEP_HARMLESS = re.compile(
    r".*\.rotary_emb\.inv_freq|(model\.)?(vision_model|vit_large_projector)\..*"
    r"|model\.layers\.\d+\.(enorm|hnorm|eh_proj|shared_head|transformer)\b.*"
)

HF_MINIMAX_M3: dict[str, Row] = {
    **HF_MINIMAX_M2,
    "layers.{i}.shared.mlp.gate": "{body}layers.{i}.block_sparse_moe.shared_experts.gate_proj",
    "layers.{i}.shared.mlp.up": "{body}layers.{i}.block_sparse_moe.shared_experts.up_proj",
    "layers.{i}.shared.mlp.down": "{body}layers.{i}.block_sparse_moe.shared_experts.down_proj",
    "layers.{i}.attn.index.q": "{body}layers.{i}.self_attn.index_q_proj",
    "layers.{i}.attn.index.k": "{body}layers.{i}.self_attn.index_k_proj",
    "layers.{i}.attn.index.q_norm": "{body}layers.{i}.self_attn.index_q_norm",
    "layers.{i}.attn.index.k_norm": "{body}layers.{i}.self_attn.index_k_norm",
}
MINIMAX_M3_HARMLESS = re.compile(
    r".*\.rotary_emb\.inv_freq|(model\.)?mtp[._].*"
    r"|(model\.)?(vision_tower|multi_modal_projector|patch_merge_mlp)\..*"
)

HF_GRANITE_MOE: dict[str, Row] = {
    **HF_LLAMA,
    "layers.{i}.moe.router": "{body}layers.{i}.block_sparse_moe.router.layer",
    "layers.{i}.moe.gate": Stack(
        "{body}layers.{i}.block_sparse_moe.input_linear.weight", part=0, parts=2
    ),
    "layers.{i}.moe.up": Stack(
        "{body}layers.{i}.block_sparse_moe.input_linear.weight", part=1, parts=2
    ),
    "layers.{i}.moe.down": Stack("{body}layers.{i}.block_sparse_moe.output_linear.weight"),
}

HF_DEEPSEEK: dict[str, Row] = {
    **HF_DEEPSEEK_MOE,
    "layers.{i}.attn.q_a": "{body}layers.{i}.self_attn.q_a_proj",
    "layers.{i}.attn.q_a_norm": "{body}layers.{i}.self_attn.q_a_layernorm",
    "layers.{i}.attn.q_b": "{body}layers.{i}.self_attn.q_b_proj",
    "layers.{i}.attn.kv_a": "{body}layers.{i}.self_attn.kv_a_proj_with_mqa",
    "layers.{i}.attn.kv_a_norm": "{body}layers.{i}.self_attn.kv_a_layernorm",
    "layers.{i}.attn.kv_b": "{body}layers.{i}.self_attn.kv_b_proj",
}

# Two attentions and two MLPs a layer.
_HALVES = {
    "attn_norm": "input_layernorm.{half}",
    "mlp_norm": "post_attention_layernorm.{half}",
    **{f"attn.{w}": f"self_attn.{{half}}.{w}_proj" for w in ("q_a", "q_b", "kv_b", "o")},
    "attn.kv_a": "self_attn.{half}.kv_a_proj_with_mqa",
    "attn.q_a_norm": "self_attn.{half}.q_a_layernorm",
    "attn.kv_a_norm": "self_attn.{half}.kv_a_layernorm",
    **{f"mlp.{w}": f"mlps.{{half}}.{w}_proj" for w in ("gate", "up", "down")},
}
HF_LONGCAT: dict[str, Row] = {
    **HF_QWEN_MOE,
    "layers.{i}.moe.router": "{body}layers.{i}.mlp.router.classifier",
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.mlp.router.e_score_correction_bias",
    **{
        f"layers.{{i}}.{half}.{ours}": "{body}layers.{i}." + theirs.replace("{half}", str(number))
        for number, half in enumerate(("first", "second"))
        for ours, theirs in _HALVES.items()
    },
}
# A module of multi-token prediction; and what transformers gives experts that compute nothing (of
# the others all are needed).
LONGCAT_HARMLESS = re.compile(
    r".*\.rotary_emb\.inv_freq|(model\.)?mtp[._].*"
    r"|(model\.)?layers\.\d+\.mlp\.experts\.\d+\.(gate|up)_proj\.weight"
)

HF_DEEPSEEK_V32: dict[str, Row] = {
    **HF_DEEPSEEK,
    "layers.{i}.attn.index.q": "{body}layers.{i}.self_attn.indexer.wq_b",
    "layers.{i}.attn.index.k": "{body}layers.{i}.self_attn.indexer.wk",
    "layers.{i}.attn.index.k_norm": "{body}layers.{i}.self_attn.indexer.k_norm",
    "layers.{i}.attn.index.weigh": "{body}layers.{i}.self_attn.indexer.weights_proj",
}

# Of each expert gate and up take turns, row by row; inputs first where they are not quantized.
HF_GPT_OSS: dict[str, Row] = {
    **HF_LLAMA,
    "layers.{i}.attn.sinks.weight": "{body}layers.{i}.self_attn.sinks",
    "layers.{i}.moe.router": "{body}layers.{i}.mlp.router",
    "layers.{i}.moe.gate": Stack(
        "{body}layers.{i}.mlp.experts.gate_up_proj",
        "{body}layers.{i}.mlp.experts.gate_up_proj_bias",
        part=0,
        parts=2,
        interleaved=True,
        transposed=True,
    ),
    "layers.{i}.moe.up": Stack(
        "{body}layers.{i}.mlp.experts.gate_up_proj",
        "{body}layers.{i}.mlp.experts.gate_up_proj_bias",
        part=1,
        parts=2,
        interleaved=True,
        transposed=True,
    ),
    "layers.{i}.moe.down": Stack(
        "{body}layers.{i}.mlp.experts.down_proj",
        "{body}layers.{i}.mlp.experts.down_proj_bias",
        transposed=True,
    ),
}

_V4 = "{body}layers.{i}."
# As DeepSeek published it; transformers says `model.` before most of it.
HF_DEEPSEEK_V4: dict[str, Row] = {
    "embed": "{body}embed",
    "final_norm": "{body}norm",
    "head": "head",
    **{f"head_hc.{part}.weight": f"{{body}}hc_head_{part}" for part in ("fn", "base", "scale")},
    **{
        f"layers.{{i}}.{ours}_hc.{part}.weight": f"{_V4}hc_{theirs}_{part}"
        for ours, theirs in (("attn", "attn"), ("mlp", "ffn"))
        for part in ("fn", "base", "scale")
    },
    "layers.{i}.attn_norm": f"{_V4}attn_norm",
    "layers.{i}.attn.q_a": f"{_V4}attn.wq_a",
    "layers.{i}.attn.q_a_norm": f"{_V4}attn.q_norm",
    "layers.{i}.attn.q_b": f"{_V4}attn.wq_b",
    "layers.{i}.attn.kv": f"{_V4}attn.wkv",
    "layers.{i}.attn.kv_norm": f"{_V4}attn.kv_norm",
    "layers.{i}.attn.sinks.weight": f"{_V4}attn.attn_sink",
    "layers.{i}.attn.o_a": f"{_V4}attn.wo_a",
    "layers.{i}.attn.o_b": f"{_V4}attn.wo_b",
    **{
        f"layers.{{i}}.attn.{ours}.{part}": f"{_V4}attn.{theirs}.{name}"
        for ours, theirs in (("compress", "compressor"), ("index", "indexer.compressor"))
        for part, name in (
            ("kv", "wkv"),
            ("gate", "wgate"),
            ("norm", "norm"),
            ("position.weight", "ape"),
        )
    },
    "layers.{i}.attn.index.q": f"{_V4}attn.indexer.wq_b",
    "layers.{i}.attn.index.weigh": f"{_V4}attn.indexer.weights_proj",
    "layers.{i}.mlp_norm": f"{_V4}ffn_norm",
    "layers.{i}.moe.router": f"{_V4}ffn.gate",
    "layers.{i}.moe.correction.bias": f"{_V4}ffn.gate.bias",
    "layers.{i}.moe.table.weight": f"{_V4}ffn.gate.tid2eid",
    **{
        f"layers.{{i}}.{ours}{part}": f"{_V4}ffn.{theirs}.{name}"
        for ours, theirs in (("moe.", "experts.{e}"), ("shared.mlp.", "shared_experts"))
        for part, name in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    },
}
V4_ROOTS = (Root(""), Root("model."))
