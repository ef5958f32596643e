"""Names of weights in the files of families that carry a state from token to token: see `names`."""

from __future__ import annotations

import re

from ridgeline.model.weights.names import GGUF_LLAMA, HF_LLAMA, Root, Row
from ridgeline.model.weights.names_dense import without
from ridgeline.model.weights.names_moe import (
    GGUF_CORRECTED_MOE,
    GGUF_DEEPSEEK,
    GGUF_MOE,
    HF_DEEPSEEK,
    HF_GRANITE_MOE,
    HF_MIXTRAL,
    HF_QWEN_MOE,
)


def hf_mixer(stored: str) -> dict[str, str]:
    """Of a Mamba or Mamba 2 mixer that is called `stored`."""
    leaves = {
        "in": "in_proj",
        "conv": "conv1d",
        "x": "x_proj",
        "dt": "dt_proj",
        "dt_norm": "dt_layernorm",
        "b_norm": "b_layernorm",
        "c_norm": "c_layernorm",
        "a": "A_log",
        "d": "D",
        "dt_bias": "dt_bias",
        "norm": "norm",
        "out": "out_proj",
    }
    return {f"layers.{{i}}.ssm.{ours}": f"{stored}.{theirs}" for ours, theirs in leaves.items()}


HF_MAMBA: dict[str, str] = {
    "embed": "{body}embeddings",
    "layers.{i}.mixer_norm": "{body}layers.{i}.norm",
    **hf_mixer("{body}layers.{i}.mixer"),
    "final_norm": "{body}norm_f",
    "head": "{head}lm_head",
}

HF_NEMOTRON_H: dict[str, Row] = {
    **HF_MAMBA,
    **{f"layers.{{i}}.attn.{w}": f"{{body}}layers.{{i}}.mixer.{w}_proj" for w in "qkvo"},
    "layers.{i}.mlp.up": "{body}layers.{i}.mixer.up_proj",
    "layers.{i}.mlp.down": "{body}layers.{i}.mixer.down_proj",
    "layers.{i}.moe.router": "{body}layers.{i}.mixer.gate",
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.mixer.gate.e_score_correction_bias",
    "layers.{i}.moe.before": "{body}layers.{i}.mixer.fc1_latent_proj",
    "layers.{i}.moe.up": "{body}layers.{i}.mixer.experts.{e}.up_proj",
    "layers.{i}.moe.down": "{body}layers.{i}.mixer.experts.{e}.down_proj",
    "layers.{i}.moe.after": "{body}layers.{i}.mixer.fc2_latent_proj",
    "layers.{i}.shared.mlp.up": "{body}layers.{i}.mixer.shared_experts.up_proj",
    "layers.{i}.shared.mlp.down": "{body}layers.{i}.mixer.shared_experts.down_proj",
}

# Mixers `mamba` and `self_attn`, the MLP `feed_forward`: Jamba and Bamba.
HF_BESIDE: dict[str, str] = {
    **HF_LLAMA,
    **hf_mixer("{body}layers.{i}.mamba"),
    "layers.{i}.mlp_norm": "{body}layers.{i}.pre_ff_layernorm",
    "layers.{i}.mlp.gate": "{body}layers.{i}.feed_forward.gate_proj",
    "layers.{i}.mlp.up": "{body}layers.{i}.feed_forward.up_proj",
    "layers.{i}.mlp.down": "{body}layers.{i}.feed_forward.down_proj",
    "final_norm": "{body}final_layernorm",
}

HF_JAMBA: dict[str, Row] = {
    **HF_BESIDE,
    "layers.{i}.moe.router": "{body}layers.{i}.feed_forward.router",
    **{
        f"layers.{{i}}.moe.{w}": f"{{body}}layers.{{i}}.feed_forward.experts.{{e}}.{w}_proj"
        for w in ("gate", "up", "down")
    },
}

# The filter is in three parts.
HF_FALCON_H1: dict[str, str] = {
    **without(HF_BESIDE, "layers.{i}.ssm.conv"),
    **{f"layers.{{i}}.ssm.conv_{part}": "{body}layers.{i}.mamba.conv1d" for part in "xbc"},
}

HF_GRANITE_HYBRID: dict[str, Row] = {
    **HF_GRANITE_MOE,
    **hf_mixer("{body}layers.{i}.mamba"),
    **{
        f"layers.{{i}}.{place}mlp.{w}": f"{{body}}layers.{{i}}.shared_mlp.{stored}_linear"
        for place in ("", "shared.")
        for w, stored in (("gate", "input"), ("up", "input"), ("down", "output"))
    },
}

HF_LFM2: dict[str, str] = {
    **without(HF_LLAMA, "final_norm"),
    "layers.{i}.attn_norm": "{body}layers.{i}.operator_norm",
    "layers.{i}.attn.o": "{body}layers.{i}.self_attn.out_proj",
    "layers.{i}.attn.q_norm": "{body}layers.{i}.self_attn.q_layernorm",
    "layers.{i}.attn.k_norm": "{body}layers.{i}.self_attn.k_layernorm",
    "layers.{i}.conv.in": "{body}layers.{i}.conv.in_proj",
    "layers.{i}.conv.filter": "{body}layers.{i}.conv.conv",
    "layers.{i}.conv.out": "{body}layers.{i}.conv.out_proj",
    "layers.{i}.mlp_norm": "{body}layers.{i}.ffn_norm",
    "layers.{i}.mlp.gate": "{body}layers.{i}.feed_forward.w1",
    "layers.{i}.mlp.up": "{body}layers.{i}.feed_forward.w3",
    "layers.{i}.mlp.down": "{body}layers.{i}.feed_forward.w2",
    "final_norm": "{body}embedding_norm",
}

HF_LFM2_MOE: dict[str, Row] = {
    **HF_LFM2,
    "layers.{i}.moe.router": "{body}layers.{i}.feed_forward.gate",
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.feed_forward.expert_bias",
    "layers.{i}.moe.gate": "{body}layers.{i}.feed_forward.experts.{e}.w1",
    "layers.{i}.moe.up": "{body}layers.{i}.feed_forward.experts.{e}.w3",
    "layers.{i}.moe.down": "{body}layers.{i}.feed_forward.experts.{e}.w2",
}

HF_QWEN3_5: dict[str, Row] = {
    **HF_QWEN_MOE,
    "layers.{i}.delta.qkv": "{body}layers.{i}.linear_attn.in_proj_qkv",
    "layers.{i}.delta.z": "{body}layers.{i}.linear_attn.in_proj_z",
    "layers.{i}.delta.beta": "{body}layers.{i}.linear_attn.in_proj_b",
    "layers.{i}.delta.decay": "{body}layers.{i}.linear_attn.in_proj_a",
    "layers.{i}.delta.conv": "{body}layers.{i}.linear_attn.conv1d",
    "layers.{i}.delta.a": "{body}layers.{i}.linear_attn.A_log",
    "layers.{i}.delta.dt_bias": "{body}layers.{i}.linear_attn.dt_bias",
    "layers.{i}.delta.norm": "{body}layers.{i}.linear_attn.norm",
    "layers.{i}.delta.out": "{body}layers.{i}.linear_attn.out_proj",
}

HF_QWEN3_NEXT: dict[str, Row] = {
    **{
        module: stored
        for module, stored in HF_QWEN3_5.items()
        if module.rpartition(".")[2] not in ("qkv", "z", "beta", "decay", "conv")
    },
    "layers.{i}.delta.qkvz": "{body}layers.{i}.linear_attn.in_proj_qkvz",
    "layers.{i}.delta.ba": "{body}layers.{i}.linear_attn.in_proj_ba",
    **{f"layers.{{i}}.delta.conv_{x}": "{body}layers.{i}.linear_attn.conv1d" for x in "qkv"},
}

GGUF_QWEN3_5: dict[str, Row] = {
    **GGUF_MOE,
    "layers.{i}.mlp_norm": "blk.{i}.post_attention_norm",
    "layers.{i}.delta.qkv": "blk.{i}.attn_qkv",
    "layers.{i}.delta.z": "blk.{i}.attn_gate",
    "layers.{i}.delta.beta": "blk.{i}.ssm_beta",
    "layers.{i}.delta.decay": "blk.{i}.ssm_alpha",
    "layers.{i}.delta.ba": "blk.{i}.ssm_ba",
    "layers.{i}.delta.conv": "blk.{i}.ssm_conv1d",
    "layers.{i}.delta.a": "blk.{i}.ssm_a",
    "layers.{i}.delta.dt_bias": "blk.{i}.ssm_dt.bias",
    "layers.{i}.delta.norm": "blk.{i}.ssm_norm",
    "layers.{i}.delta.out": "blk.{i}.ssm_out",
}

GGUF_SSM = {
    f"layers.{{i}}.ssm.{ours}": f"blk.{{i}}.ssm_{theirs}"
    for ours, theirs in {
        **{name: name for name in ("in", "a", "d", "norm", "out")},
        "conv": "conv1d",
        "dt_bias": "dt.bias",
    }.items()
}
GGUF_NEMOTRON_H: dict[str, Row] = {
    **{name: row for name, row in GGUF_CORRECTED_MOE.items() if not name.endswith("}.attn_norm")},
    **GGUF_SSM,
    "layers.{i}.mixer_norm": "blk.{i}.attn_norm",
    "layers.{i}.moe.before": "blk.{i}.ffn_latent_down",
    "layers.{i}.moe.after": "blk.{i}.ffn_latent_up",
}
GGUF_GRANITE_HYBRID: dict[str, Row] = {**GGUF_MOE, **GGUF_SSM}
# The norm before the MLP has no suffix in these files.
GGUF_FALCON_H1: dict[str, str] = {
    **without(GGUF_LLAMA, "layers.{i}.mlp_norm"),
    "layers.{i}.mlp_norm.weight": "blk.{i}.ffn_norm",
    **without(GGUF_SSM, "layers.{i}.ssm.conv"),
    **{f"layers.{{i}}.ssm.conv_{part}": "blk.{i}.ssm_conv1d" for part in "xbc"},
}
GGUF_LFM2: dict[str, Row] = {
    **GGUF_CORRECTED_MOE,
    "layers.{i}.conv.in": "blk.{i}.shortconv.in_proj",
    "layers.{i}.conv.filter": "blk.{i}.shortconv.conv",
    "layers.{i}.conv.out": "blk.{i}.shortconv.out_proj",
    "final_norm": "token_embd_norm",
}

GGUF_KIMI_LINEAR: dict[str, Row] = {
    **GGUF_DEEPSEEK,
    **{
        f"layers.{{i}}.delta.{ours}": f"blk.{{i}}.{theirs}"
        for ours, theirs in {
            **{w: f"attn_{w}" for w in "qkv"},
            **{f"conv_{w}": f"ssm_conv1d_{w}" for w in "qkv"},
            **{f"decay_{w}": f"ssm_f_{w}" for w in "ab"},
            **{f"gate_{w}": f"ssm_g_{w}" for w in "ab"},
            "beta": "ssm_beta",
            "a": "ssm_a",
            "dt_bias": "ssm_dt.bias",
            "norm": "ssm_norm",
            "out": "attn_output",
        }.items()
    },
}

# Of every expert and of its neighbours Mixtral's names, of latent attention DeepSeek's.
HF_KIMI_LINEAR: dict[str, Row] = {
    **HF_DEEPSEEK,
    **HF_MIXTRAL,
    "layers.{i}.moe.correction.bias": (
        "{body}layers.{i}.block_sparse_moe.gate.e_score_correction_bias"
    ),
    **{
        f"layers.{{i}}.shared.mlp.{w}": (
            f"{{body}}layers.{{i}}.block_sparse_moe.shared_experts.{w}_proj"
        )
        for w in ("gate", "up", "down")
    },
    **{
        f"layers.{{i}}.delta.{ours}": f"{{body}}layers.{{i}}.self_attn.{theirs}"
        for ours, theirs in {
            **{w: f"{w}_proj" for w in "qkv"},
            **{f"conv_{w}": f"{w}_conv1d" for w in "qkv"},
            **{f"decay_{w}": f"f_{w}_proj" for w in "ab"},
            **{f"gate_{w}": f"g_{w}_proj" for w in "ab"},
            "beta": "b_proj",
            "a": "A_log",
            "dt_bias": "dt_bias",
            "norm": "o_norm",
            "out": "o_proj",
        }.items()
    },
}

HF_MINIMAX: dict[str, Row] = {
    **HF_MIXTRAL,
    **{
        f"layers.{{i}}.decay.{ours}": f"{{body}}layers.{{i}}.self_attn.{theirs}"
        for ours, theirs in {
            "qkv": "qkv_proj",
            "norm": "norm",
            "gate": "output_gate",
            "out": "out_proj",
        }.items()
    },
}
# Tables of decays, which the number of a layer gives.
MINIMAX_HARMLESS = re.compile(
    r".*\.rotary_emb\.inv_freq"
    r"|.*\.self_attn\.(slope_rate|query_decay|key_decay|diagonal_decay)"
)

_BAILING_DELTA: dict[str, str] = {
    **{w: f"{w}_proj" for w in "qkv"},
    **{f"conv_{w}": f"{w}_conv1d" for w in "qkv"},
    "decay_b": "f_proj",
    "gate_b": "g_proj",
    "beta": "b_proj",
    "a": "A_log",
    "dt_bias": "dt_bias",
    "norm": "o_norm",
    "out": "dense",
}
HF_BAILING: dict[str, Row] = {
    **{
        ours: theirs.replace(".self_attn.", ".attention.") if isinstance(theirs, str) else theirs
        for ours, theirs in HF_DEEPSEEK.items()
    },
    "embed": "{body}word_embeddings",
    "layers.{i}.attn.o": "{body}layers.{i}.attention.dense",
    "layers.{i}.attn.gate": "{body}layers.{i}.attention.g_proj",
    "layers.{i}.moe.correction.bias": "{body}layers.{i}.mlp.gate.expert_bias",
    **{
        f"layers.{{i}}.delta.{ours}": f"{{body}}layers.{{i}}.attention.{theirs}"
        for ours, theirs in _BAILING_DELTA.items()
    },
}

HF_RECURRENT_GEMMA: dict[str, str] = {
    **without(HF_LLAMA, "final_norm"),
    "layers.{i}.attn_norm": "{body}layers.{i}.temporal_pre_norm",
    **{f"layers.{{i}}.attn.{w}": f"{{body}}layers.{{i}}.temporal_block.{w}_proj" for w in "qkvo"},
    "layers.{i}.lru.x": "{body}layers.{i}.temporal_block.linear_x",
    "layers.{i}.lru.y": "{body}layers.{i}.temporal_block.linear_y",
    "layers.{i}.lru.conv": "{body}layers.{i}.temporal_block.conv_1d",
    "layers.{i}.lru.out": "{body}layers.{i}.temporal_block.linear_out",
    "layers.{i}.lru.a": "{body}layers.{i}.temporal_block.rg_lru.recurrent_param",
    **{
        f"layers.{{i}}.lru.{gate}_gate.{leaf}": (
            f"{{body}}layers.{{i}}.temporal_block.rg_lru.{gate}_gate_{leaf}"
        )
        for gate in ("recurrent", "input")
        for leaf in ("weight", "bias")
    },
    "layers.{i}.mlp_norm": "{body}layers.{i}.channel_pre_norm",
    **{
        f"layers.{{i}}.mlp.{w}": f"{{body}}layers.{{i}}.mlp_block.{w}_proj"
        for w in ("gate", "up", "down")
    },
    "final_norm": "{body}final_norm",
}

# RWKV-7 as flash-linear-attention's converter writes it.
HF_RWKV7: dict[str, str] = {
    "embed": "{body}embeddings",
    "layers.{i}.first_norm": "{body}layers.{i}.pre_norm",
    "layers.{i}.attn_norm": "{body}layers.{i}.attn_norm",
    **{f"layers.{{i}}.time.x_{x}": f"{{body}}layers.{{i}}.attn.x_{x}" for x in "rwkvag"},
    **{f"layers.{{i}}.time.{x}": f"{{body}}layers.{{i}}.attn.{x}_proj" for x in "rkv"},
    **{
        f"layers.{{i}}.time.{ours}.{part}": f"{{body}}layers.{{i}}.attn.{theirs}_lora.lora.{n}"
        for ours, theirs in (("decay", "w"), ("rate", "a"), ("value", "v"), ("gate", "g"))
        for part, n in (("down", 0), ("up", 2))
    },
    **{f"layers.{{i}}.time.{x}": f"{{body}}layers.{{i}}.attn.{x}" for x in ("k_k", "k_a", "r_k")},
    "layers.{i}.time.norm": "{body}layers.{i}.attn.g_norm",
    "layers.{i}.time.out": "{body}layers.{i}.attn.o_proj",
    "layers.{i}.mlp_norm": "{body}layers.{i}.ffn_norm",
    "layers.{i}.mlp.x_k": "{body}layers.{i}.ffn.x_k",
    "layers.{i}.mlp.up": "{body}layers.{i}.ffn.key",
    "layers.{i}.mlp.down": "{body}layers.{i}.ffn.value",
    "final_norm": "{body}norm",
    "head": "{head}lm_head",
}

GGUF_MAMBA: dict[str, str] = {
    "embed": "token_embd",
    "layers.{i}.mixer_norm": "blk.{i}.attn_norm",
    "layers.{i}.ssm.in": "blk.{i}.ssm_in",
    "layers.{i}.ssm.conv": "blk.{i}.ssm_conv1d",
    "layers.{i}.ssm.x": "blk.{i}.ssm_x",
    "layers.{i}.ssm.dt": "blk.{i}.ssm_dt",
    "layers.{i}.ssm.a": "blk.{i}.ssm_a",
    "layers.{i}.ssm.d": "blk.{i}.ssm_d",
    "layers.{i}.ssm.dt_bias": "blk.{i}.ssm_dt.bias",
    "layers.{i}.ssm.norm": "blk.{i}.ssm_norm",
    "layers.{i}.ssm.out": "blk.{i}.ssm_out",
    "final_norm": "output_norm",
    "head": "output",
}

GGUF_JAMBA: dict[str, Row] = {
    **GGUF_MOE,
    **without(GGUF_MAMBA, "layers.{i}.mixer_norm"),
    **{f"layers.{{i}}.ssm.{x}_norm": f"blk.{{i}}.ssm_{x}_norm" for x in ("dt", "b", "c")},
}

MAMBA_ROOTS = (Root("backbone."), Root("model."), Root("", ""))

# The vision tower, and the layer that predicts one token more.
QWEN3_5_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq|(model\.)?visual\..*|mtp\..*")
