"""Architectures: a configuration -> a graph. One file a family, one row a name.

To add a model of known blocks: its file here, its rows below and in `weights/names.py`, a golden
case. Knows what files call things only through the tables that a row points to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ridgeline.errors import ModelError
from ridgeline.model.architectures.apertus import build_apertus
from ridgeline.model.architectures.arcee import build_arcee
from ridgeline.model.architectures.bailing import build_bailing_hybrid
from ridgeline.model.architectures.bamba import build_bamba
from ridgeline.model.architectures.bert import build_bert, build_bert_classifier
from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.cohere import build_cohere, build_cohere2
from ridgeline.model.architectures.decilm import build_decilm
from ridgeline.model.architectures.deepseek import (
    build_deepseek_v2,
    build_deepseek_v3,
    build_deepseek_v32,
    build_gguf_deepseek2,
    build_kimi_k25,
)
from ridgeline.model.architectures.deepseek_v4 import build_deepseek_v4
from ridgeline.model.architectures.deepseek_v4_predictor import assemble_module
from ridgeline.model.architectures.ernie import build_ernie, build_ernie_moe
from ridgeline.model.architectures.exaone4 import build_exaone4, build_exaone_moe
from ridgeline.model.architectures.falcon_h1 import build_falcon_h1
from ridgeline.model.architectures.fields import Fields, quote
from ridgeline.model.architectures.gemma import build_gemma, build_gemma2
from ridgeline.model.architectures.gemma3 import build_gemma3
from ridgeline.model.architectures.gemma3n import build_gemma3n
from ridgeline.model.architectures.gemma4 import build_gemma4
from ridgeline.model.architectures.glm import build_glm, build_glm4
from ridgeline.model.architectures.glm_moe import (
    build_dots1,
    build_glm4_moe,
    build_glm4_moe_lite,
    build_glm_moe_dsa,
)
from ridgeline.model.architectures.gpt2 import build_gpt2
from ridgeline.model.architectures.gpt_neox import build_gpt_neox
from ridgeline.model.architectures.gpt_oss import build_gpt_oss
from ridgeline.model.architectures.granite import build_granite, build_granite_moe
from ridgeline.model.architectures.granite_hybrid import build_granite_hybrid
from ridgeline.model.architectures.heads import classifier
from ridgeline.model.architectures.hunyuan import build_hunyuan, build_hunyuan_moe
from ridgeline.model.architectures.jamba import build_jamba
from ridgeline.model.architectures.kimi_linear import build_kimi_linear
from ridgeline.model.architectures.lfm2 import build_lfm2, build_lfm2_moe
from ridgeline.model.architectures.llama import build_llama, build_mistral
from ridgeline.model.architectures.llama4 import build_llama4
from ridgeline.model.architectures.longcat import build_longcat_flash
from ridgeline.model.architectures.mamba import (
    build_falcon_mamba,
    build_gguf_mamba,
    build_mamba,
    build_mamba2,
)
from ridgeline.model.architectures.mimo_v2 import build_mimo_v2
from ridgeline.model.architectures.minimax_m2 import build_minimax_m2
from ridgeline.model.architectures.ministral3 import build_ministral3
from ridgeline.model.architectures.mixtral import build_llama_or_mixtral, build_mixtral
from ridgeline.model.architectures.modernbert import (
    build_modernbert,
    build_modernbert_classifier,
)
from ridgeline.model.architectures.nemotron_h import build_nemotron_h
from ridgeline.model.architectures.olmo import (
    build_gguf_olmo2,
    build_olmo,
    build_olmo2,
    build_olmo3,
)
from ridgeline.model.architectures.olmoe import build_olmoe
from ridgeline.model.architectures.phi import build_phi
from ridgeline.model.architectures.phi3 import build_phi3
from ridgeline.model.architectures.phimoe import build_phimoe
from ridgeline.model.architectures.qwen2 import build_qwen2
from ridgeline.model.architectures.qwen3 import build_qwen3, build_qwen3_vl
from ridgeline.model.architectures.qwen3_next import (
    build_gguf_qwen3_next,
    build_qwen3_5,
    build_qwen3_5_moe,
    build_qwen3_next,
)
from ridgeline.model.architectures.qwen_moe import build_qwen2_moe, build_qwen3_moe
from ridgeline.model.architectures.recurrent_gemma import build_recurrent_gemma
from ridgeline.model.architectures.rows import (
    GEMMA3_IMAGES,
    GGUF_QWEN3,
    HF_GEMMA3,
    HF_GEMMA3N,
    HF_GEMMA4,
    HF_GPT2,
    HF_GPT_NEOX,
    HF_LLAMA4,
    HF_MAMBA,
    HF_MINIMAX,
    HF_MINIMAX_M3,
    HF_MISTRAL3,
    HF_QWEN2_5_VL,
    HF_QWEN2_VL,
    HF_QWEN3,
    HF_QWEN3_5,
    HF_QWEN3_5_MOE,
    HF_STEP,
    HF_WHISPER,
    MAMBA_ROOTS,
    QWEN_PREDICTORS,
    SCORED,
    Architecture,
    Predictors,
    Source,
    bert,
    gguf,
    hf,
    modernbert,
)
from ridgeline.model.architectures.rwkv7 import build_rwkv7
from ridgeline.model.architectures.seed_oss import build_seed_oss
from ridgeline.model.architectures.smollm3 import build_smollm3
from ridgeline.model.architectures.stablelm import build_nemotron, build_stablelm
from ridgeline.model.architectures.starcoder2 import build_starcoder2
from ridgeline.model.architectures.step3p7 import build_step3p7
from ridgeline.model.architectures.whisper import build_whisper
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph
from ridgeline.model.weights import (
    names,
    names_dense,
    names_moe,
    names_predictors,
    names_recurrent,
    names_vision,
    names_whisper,
)
from ridgeline.model.weights.names import Names

__all__ = ["ARCHITECTURES", "Architecture", "Source", "build", "find_architecture"]

GGUF_QWEN3_5_STORED = Stored(norm_has_one=True, plain_decay=True, tiled_values=True)

# By `architectures[0]` of config.json and by `general.architecture` of GGUF.
ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": hf(build_llama, names.HF_LLAMA, "llama"),
    "MistralForCausalLM": hf(build_mistral, names.HF_LLAMA, "mistral"),
    "Qwen2ForCausalLM": hf(build_qwen2, names.HF_LLAMA, "qwen2"),
    "Qwen3ForCausalLM": hf(build_qwen3, HF_QWEN3, "qwen3"),
    "Gemma3ForCausalLM": HF_GEMMA3,
    "Gemma3ForConditionalGeneration": replace(HF_GEMMA3, images=GEMMA3_IMAGES),
    "Qwen2VLForConditionalGeneration": HF_QWEN2_VL,
    "Qwen2_5_VLForConditionalGeneration": HF_QWEN2_5_VL,
    "Qwen3VLForConditionalGeneration": hf(
        build_qwen3_vl,
        HF_QWEN3,
        "qwen3_vl",
        names.HF_GEMMA3_ROOTS,
        harmless=names_vision.VISUAL_HARMLESS,
    ),
    "Phi3ForCausalLM": hf(build_phi3, names.HF_PHI3, "phi3"),
    "MinistralForCausalLM": hf(build_mistral, names.HF_LLAMA, "ministral"),
    "Ministral3ForCausalLM": hf(build_ministral3, names.HF_LLAMA, "ministral3"),
    "Mistral3ForConditionalGeneration": HF_MISTRAL3,
    "Llama4ForCausalLM": HF_LLAMA4,
    "Llama4ForConditionalGeneration": HF_LLAMA4,
    "GemmaForCausalLM": hf(build_gemma, names.HF_LLAMA, "gemma"),
    "Gemma2ForCausalLM": hf(build_gemma2, names_dense.HF_GEMMA2, "gemma2"),
    "OlmoForCausalLM": hf(build_olmo, names_dense.HF_OLMO, "olmo"),
    "Olmo2ForCausalLM": hf(build_olmo2, names_dense.HF_POST_NORMS, "olmo2"),
    "Olmo3ForCausalLM": hf(build_olmo3, names_dense.HF_POST_NORMS, "olmo3"),
    "GraniteForCausalLM": hf(build_granite, names.HF_LLAMA, "granite"),
    "CohereForCausalLM": hf(build_cohere, names_dense.HF_COHERE, "cohere"),
    "Cohere2ForCausalLM": hf(build_cohere2, names_dense.HF_COHERE, "cohere2"),
    "PhiForCausalLM": hf(build_phi, names_dense.HF_PHI, "phi"),
    "Starcoder2ForCausalLM": hf(build_starcoder2, names_dense.HF_STARCODER2, "starcoder2"),
    "GlmForCausalLM": hf(build_glm, names_dense.HF_GLM, "glm"),
    "Glm4ForCausalLM": hf(build_glm4, names_dense.HF_GLM4, "glm4"),
    "Exaone4ForCausalLM": hf(build_exaone4, names_dense.HF_POST_NORMS, "exaone4"),
    "SmolLM3ForCausalLM": hf(build_smollm3, names.HF_LLAMA, "smollm3"),
    "Ernie4_5ForCausalLM": hf(build_ernie, names.HF_LLAMA, "ernie4_5"),
    "SeedOssForCausalLM": hf(build_seed_oss, names.HF_LLAMA, "seed_oss"),
    "StableLmForCausalLM": hf(build_stablelm, names.HF_LLAMA, "stablelm"),
    "NemotronForCausalLM": hf(build_nemotron, names_dense.HF_UNGATED, "nemotron"),
    "ArceeForCausalLM": hf(build_arcee, names_dense.HF_UNGATED, "arcee"),
    "ApertusForCausalLM": hf(
        build_apertus, names_dense.HF_APERTUS, "apertus", harmless=names_dense.APERTUS_HARMLESS
    ),
    "GPT2LMHeadModel": HF_GPT2,
    "GPTNeoXForCausalLM": HF_GPT_NEOX,
    "MixtralForCausalLM": hf(build_mixtral, names_moe.HF_MIXTRAL, "mixtral"),
    "PhimoeForCausalLM": hf(build_phimoe, names_moe.HF_MIXTRAL, "phimoe"),
    "PhiMoEForCausalLM": hf(build_phimoe, names_moe.HF_MIXTRAL, "phimoe"),
    "Qwen2MoeForCausalLM": hf(build_qwen2_moe, names_moe.HF_QWEN_MOE, "qwen2_moe"),
    "Qwen3MoeForCausalLM": hf(build_qwen3_moe, names_moe.HF_QWEN_MOE, "qwen3_moe"),
    "OlmoeForCausalLM": hf(build_olmoe, names_moe.HF_QWEN_MOE, "olmoe"),
    "GraniteMoeForCausalLM": hf(build_granite_moe, names_moe.HF_GRANITE_MOE, "granitemoe"),
    "MiniMaxForCausalLM": HF_MINIMAX,
    "MiniMaxText01ForCausalLM": HF_MINIMAX,
    "LongcatFlashForCausalLM": hf(
        build_longcat_flash,
        names_moe.HF_LONGCAT,
        "longcat_flash",
        harmless=names_moe.LONGCAT_HARMLESS,
    ),
    "MiniMaxM2ForCausalLM": hf(build_minimax_m2, names_moe.HF_MINIMAX_M2, "minimax_m2"),
    "Glm4MoeForCausalLM": hf(
        build_glm4_moe,
        names_moe.HF_DEEPSEEK_MOE,
        "glm4_moe",
        predictors=Predictors(build_glm4_moe, Names(names_predictors.HF_GLM4_MOE, names.HF_ROOTS)),
    ),
    "Dots1ForCausalLM": hf(build_dots1, names_moe.HF_DEEPSEEK_MOE, "dots1"),
    "MiniMaxM3ForCausalLM": HF_MINIMAX_M3,
    "MiniMaxM3VLForCausalLM": HF_MINIMAX_M3,
    "MiniMaxM3SparseForConditionalGeneration": HF_MINIMAX_M3,
    "Step3p5ForCausalLM": HF_STEP,
    "Step3p7FlashForCausalLM": HF_STEP,
    "Step3p7ForConditionalGeneration": HF_STEP,
    "DeciLMForCausalLM": hf(build_decilm, names.HF_LLAMA, "nemotron-nas"),
    "Gemma3nForCausalLM": HF_GEMMA3N,
    "Gemma3nForConditionalGeneration": HF_GEMMA3N,
    "Gemma4ForCausalLM": HF_GEMMA4,
    "Gemma4ForConditionalGeneration": HF_GEMMA4,
    "LlamaForSequenceClassification": hf(classifier(build_llama), names.HF_LLAMA | SCORED, "llama"),
    "Qwen2ForSequenceClassification": hf(classifier(build_qwen2), names.HF_LLAMA | SCORED, "qwen2"),
    "Qwen3ForSequenceClassification": hf(classifier(build_qwen3), HF_QWEN3 | SCORED, "qwen3"),
    "BertModel": bert(build_bert),
    "BertForMaskedLM": bert(build_bert),
    "BertForSequenceClassification": bert(build_bert_classifier),
    "ModernBertModel": modernbert(build_modernbert),
    "ModernBertForMaskedLM": modernbert(build_modernbert),
    "ModernBertForSequenceClassification": modernbert(build_modernbert_classifier),
    "MambaForCausalLM": hf(build_mamba, HF_MAMBA, "mamba", MAMBA_ROOTS),
    "Mamba2ForCausalLM": hf(build_mamba2, HF_MAMBA, "mamba2", MAMBA_ROOTS),
    "FalconMambaForCausalLM": hf(build_falcon_mamba, HF_MAMBA, "falcon_mamba", MAMBA_ROOTS),
    "NemotronHForCausalLM": hf(
        build_nemotron_h, names_recurrent.HF_NEMOTRON_H, "nemotron_h", MAMBA_ROOTS
    ),
    "JambaForCausalLM": hf(build_jamba, names_recurrent.HF_JAMBA, "jamba"),
    "BambaForCausalLM": hf(build_bamba, names_recurrent.HF_BESIDE, "bamba"),
    "FalconH1ForCausalLM": hf(build_falcon_h1, names_recurrent.HF_FALCON_H1, "falcon_h1"),
    "GraniteMoeHybridForCausalLM": hf(
        build_granite_hybrid, names_recurrent.HF_GRANITE_HYBRID, "granitemoehybrid"
    ),
    "RWKV7ForCausalLM": replace(
        hf(build_rwkv7, names_recurrent.HF_RWKV7, "rwkv7"), model_types=("rwkv7", "rwkv7_fla")
    ),
    "RecurrentGemmaForCausalLM": hf(
        build_recurrent_gemma, names_recurrent.HF_RECURRENT_GEMMA, "recurrent_gemma"
    ),
    "KimiLinearForCausalLM": hf(build_kimi_linear, names_recurrent.HF_KIMI_LINEAR, "kimi_linear"),
    "BailingHybridForCausalLM": hf(
        build_bailing_hybrid, names_recurrent.HF_BAILING, "bailing_hybrid"
    ),
    "Lfm2ForCausalLM": hf(build_lfm2, names_recurrent.HF_LFM2, "lfm2"),
    "Lfm2MoeForCausalLM": hf(build_lfm2_moe, names_recurrent.HF_LFM2_MOE, "lfm2_moe"),
    "Qwen3NextForCausalLM": hf(
        build_qwen3_next,
        names_recurrent.HF_QWEN3_NEXT,
        "qwen3_next",
        predictors=QWEN_PREDICTORS,
    ),
    "Qwen3_5MoeForCausalLM": HF_QWEN3_5_MOE,
    "Qwen3_5MoeForConditionalGeneration": HF_QWEN3_5_MOE,
    "Qwen3_5ForCausalLM": HF_QWEN3_5,
    "Qwen3_5ForConditionalGeneration": HF_QWEN3_5,
    "GptOssForCausalLM": hf(build_gpt_oss, names_moe.HF_GPT_OSS, "gpt_oss"),
    "DeepseekV2ForCausalLM": hf(build_deepseek_v2, names_moe.HF_DEEPSEEK, "deepseek_v2"),
    "WhisperForConditionalGeneration": HF_WHISPER,
    "WhisperSpec": Architecture(
        "ct2", build_whisper, Names(names_whisper.CT2_WHISPER), Stored(key_bias=True)
    ),
    "Glm4MoeLiteForCausalLM": hf(
        build_glm4_moe_lite,
        names_moe.HF_DEEPSEEK,
        "glm4_moe_lite",
        predictors=Predictors(
            build_glm4_moe_lite, Names(names_predictors.HF_DEEPSEEK, names.HF_ROOTS)
        ),
    ),
    "Ernie4_5_MoeForCausalLM": hf(
        build_ernie_moe,
        names_moe.HF_ERNIE_MOE,
        "ernie4_5_moe",
        harmless=names_moe.MTP_HARMLESS,
    ),
    "ExaoneMoeForCausalLM": hf(
        build_exaone_moe, names_moe.HF_EXAONE_MOE, "exaone_moe", harmless=names_moe.MTP_HARMLESS
    ),
    "HunYuanDenseV1ForCausalLM": hf(
        build_hunyuan, names.HF_LLAMA | names_moe.HF_HUNYUAN_NORMS, "hunyuan_v1_dense"
    ),
    "HunYuanMoEV1ForCausalLM": hf(build_hunyuan_moe, names_moe.HF_HUNYUAN_MOE, "hunyuan_v1_moe"),
    "MiMoV2FlashForCausalLM": hf(
        build_mimo_v2, names_moe.HF_MIMO_V2, "mimo_v2_flash", harmless=names_moe.MTP_HARMLESS
    ),
    "GlmMoeDsaForCausalLM": hf(
        build_glm_moe_dsa,
        names_moe.HF_DEEPSEEK_V32,
        "glm_moe_dsa",
        predictors=Predictors(
            build_glm_moe_dsa, Names(names_predictors.HF_DEEPSEEK_V32, names.HF_ROOTS)
        ),
    ),
    "DeepseekV32ForCausalLM": hf(
        build_deepseek_v32,
        names_moe.HF_DEEPSEEK_V32,
        "deepseek_v32",
        predictors=Predictors(
            build_deepseek_v32, Names(names_predictors.HF_DEEPSEEK_V32, names.HF_ROOTS)
        ),
    ),
    "DeepseekV4ForCausalLM": hf(
        build_deepseek_v4,
        names_moe.HF_DEEPSEEK_V4,
        "deepseek_v4",
        roots=names_moe.V4_ROOTS,
        predictors=Predictors(
            build_deepseek_v4,
            Names(names_predictors.HF_DEEPSEEK_V4, names_moe.V4_ROOTS),
            from_zero=True,
            assemble=assemble_module,
        ),
    ),
    "DeepseekV3ForCausalLM": Architecture(
        "hf",
        build_deepseek_v3,
        Names(names_moe.HF_DEEPSEEK, names.HF_ROOTS, names.HF_HARMLESS),
        model_types=("deepseek_v3", "kimi_k2"),
        predictors=Predictors(
            build_deepseek_v3, Names(names_predictors.HF_DEEPSEEK, names.HF_ROOTS)
        ),
    ),
    "KimiK25ForConditionalGeneration": Architecture(
        "hf",
        build_kimi_k25,
        Names(names_moe.HF_DEEPSEEK, names.HF_GEMMA3_ROOTS, names.SEEING_HARMLESS),
        model_types=("kimi_k25",),
    ),
    "llama": gguf(build_llama_or_mixtral, names_moe.GGUF_MOE, Stored(interleaved_rope=True)),
    "qwen2": gguf(build_qwen2, names.GGUF_LLAMA),
    "qwen3": gguf(build_qwen3, GGUF_QWEN3),
    "qwen2vl": gguf(build_qwen2, names.GGUF_LLAMA),
    "qwen3vl": gguf(build_qwen3, GGUF_QWEN3),
    "mamba": gguf(build_gguf_mamba, names_recurrent.GGUF_MAMBA, Stored(plain_decay=True)),
    "mamba2": gguf(build_mamba2, names_recurrent.GGUF_MAMBA, Stored(plain_decay=True)),
    "qwen2moe": gguf(build_qwen2_moe, names_moe.GGUF_MOE),
    "qwen3moe": gguf(build_qwen3_moe, names_moe.GGUF_MOE),
    "olmoe": gguf(build_olmoe, names_moe.GGUF_MOE),
    "granitemoe": gguf(build_granite_moe, names_moe.GGUF_MOE, Stored(interleaved_rope=True)),
    "glm4moe": gguf(build_glm4_moe, names_moe.GGUF_GLM4_MOE),
    "dots1": gguf(build_dots1, names_moe.GGUF_CORRECTED_MOE),
    "minimax-m2": gguf(build_minimax_m2, names_moe.GGUF_CORRECTED_MOE),
    "phimoe": gguf(build_phimoe, names_moe.GGUF_MOE),
    "step35": gguf(build_step3p7, names_moe.GGUF_STEP35, Stored(norm_has_one=True)),
    "mimo2": gguf(build_mimo_v2, names_moe.GGUF_MIMO2),
    "glm-dsa": gguf(build_glm_moe_dsa, names_moe.GGUF_GLM_DSA),
    "gpt-oss": gguf(build_gpt_oss, names_moe.GGUF_GPT_OSS),
    "qwen3next": gguf(
        build_gguf_qwen3_next,
        names_recurrent.GGUF_QWEN3_5,
        Stored(norm_has_one=True, plain_decay=True),
    ),
    "qwen35": gguf(build_qwen3_5, names_recurrent.GGUF_QWEN3_5, GGUF_QWEN3_5_STORED),
    "qwen35moe": gguf(build_qwen3_5_moe, names_recurrent.GGUF_QWEN3_5, GGUF_QWEN3_5_STORED),
    "deepseek2": gguf(build_gguf_deepseek2, names_moe.GGUF_DEEPSEEK),
    "llama4": gguf(build_llama4, names_moe.GGUF_MOE),
    "nemotron_h": gguf(build_nemotron_h, names_recurrent.GGUF_NEMOTRON_H, Stored(plain_decay=True)),
    "nemotron_h_moe": gguf(
        build_nemotron_h, names_recurrent.GGUF_NEMOTRON_H, Stored(plain_decay=True)
    ),
    "granitehybrid": gguf(
        build_granite_hybrid,
        names_recurrent.GGUF_GRANITE_HYBRID,
        Stored(interleaved_rope=True, plain_decay=True),
    ),
    "falcon-h1": gguf(build_falcon_h1, names_recurrent.GGUF_FALCON_H1, Stored(plain_decay=True)),
    "jamba": gguf(build_jamba, names_recurrent.GGUF_JAMBA, Stored(plain_decay=True)),
    "exaone-moe": gguf(build_exaone_moe, names_moe.GGUF_CORRECTED_MOE),
    "lfm2": gguf(build_lfm2, names_recurrent.GGUF_LFM2),
    "lfm2moe": gguf(build_lfm2_moe, names_recurrent.GGUF_LFM2),
    "hunyuan-dense": gguf(build_hunyuan, GGUF_QWEN3),
    "hunyuan-moe": gguf(build_hunyuan_moe, names_moe.GGUF_MOE),
    "ernie4_5-moe": gguf(build_ernie_moe, names_moe.GGUF_CORRECTED_MOE),
    "kimi-linear": gguf(
        build_kimi_linear, names_recurrent.GGUF_KIMI_LINEAR, Stored(plain_decay=True)
    ),
    "gemma3n": Architecture(
        "gguf",
        build_gemma3n,
        Names(names_dense.GGUF_GEMMA3N, harmless=names_dense.GGUF_GEMMA3N_HARMLESS),
    ),
    "gemma4": gguf(build_gemma4, names_dense.GGUF_GEMMA4),
    "mistral3": gguf(build_ministral3, names.GGUF_LLAMA, Stored(interleaved_rope=True)),
    "gemma3": gguf(build_gemma3, names.GGUF_GEMMA3, Stored(norm_has_one=True)),
    "phi3": gguf(build_phi3, names.GGUF_PHI3),
    "gemma": gguf(build_gemma, names.GGUF_LLAMA, Stored(norm_has_one=True)),
    "gemma2": gguf(build_gemma2, names_dense.GGUF_GEMMA2, Stored(norm_has_one=True)),
    "olmo2": gguf(build_gguf_olmo2, names_dense.GGUF_POST_NORMS),
    "granite": gguf(build_granite, names.GGUF_LLAMA, Stored(interleaved_rope=True)),
    "command-r": gguf(build_cohere, names.GGUF_LLAMA),
    "cohere2": gguf(build_cohere2, names.GGUF_LLAMA),
    "phi2": gguf(build_phi, names.GGUF_LLAMA),
    "gpt2": gguf(build_gpt2, names_dense.GGUF_GPT2),
    "gptneox": gguf(build_gpt_neox, names_dense.GGUF_GPT_NEOX),
    "starcoder2": gguf(build_starcoder2, names.GGUF_LLAMA),
    "glm4": gguf(build_glm4, names_dense.GGUF_GLM4),
    "exaone4": gguf(build_exaone4, names_dense.GGUF_POST_NORMS),
    "smollm3": gguf(build_smollm3, names.GGUF_LLAMA, Stored(interleaved_rope=True)),
    "ernie4_5": gguf(build_ernie, names.GGUF_LLAMA),
    "seed_oss": gguf(build_seed_oss, names_dense.GGUF_SEED_OSS),
    "apertus": gguf(build_apertus, names_dense.GGUF_APERTUS),
    "olmo": gguf(build_olmo, names.GGUF_LLAMA, Stored(interleaved_rope=True)),
    "stablelm": gguf(build_stablelm, names.GGUF_LLAMA),
    "nemotron": gguf(build_nemotron, names_dense.GGUF_UNGATED, Stored(norm_has_one=True)),
    "arcee": gguf(build_arcee, names.GGUF_LLAMA, Stored(interleaved_rope=True)),
}


def find_architecture(
    config: Mapping[str, object], where: str, source: Source | None = None
) -> tuple[str, Architecture]:
    """The row of `architectures[0]`, or without it of `model_type`, among those of `source`;
    ModelError lists what there is.
    """
    supported = {
        name: row for name, row in ARCHITECTURES.items() if source is None or row.source == source
    }
    listed, model_type = config.get("architectures"), config.get("model_type")
    name = listed[0] if isinstance(listed, list | tuple) and listed else None
    if listed is None and model_type is not None:
        # A configuration may name its family only, as the one of a base model often does.
        of_type = (key for key, row in supported.items() if model_type in row.model_types)
        name = next(of_type, None)
    if not isinstance(name, str):
        raise ModelError(
            f"{where}: architectures = {quote(listed)}, model_type = {quote(model_type)}: a list "
            f"with the model's architecture is needed; supported: {', '.join(supported)}"
        )
    if name not in supported:
        raise ModelError(
            f"{where}: architecture {quote(name)} is not supported; supported: "
            f"{', '.join(supported)}"
        )
    row = supported[name]
    if row.model_types and model_type is not None and model_type not in row.model_types:
        raise ModelError(
            f"{where}: model_type = {quote(model_type)} contradicts architectures = "
            f"{quote(name)}, which is {' or '.join(row.model_types)}"
        )
    return name, row


def build(
    config: Mapping[str, object],
    format_of: FormatOf,
    *,
    context_length: int | None = None,
    where: str = "config",
    spelled: Mapping[str, str] | None = None,
) -> Graph:
    """The graph of `config` (a parsed config.json, or `gguf_config` of a GGUF file), checked.

    format_of: a weight's canonical name -> how it is stored. context_length: tokens to build for,
    by default what the model was made for: rotary scalings that depend on the length of a sequence
    (dynamic NTK, LongRoPE) are fixed for it. where, spelled: the file and its names for fields, for
    messages. ModelError names the field that is missing, contradictory, absurd or not supported.
    """
    _, row = find_architecture(config, where)
    fields = Fields(config, where, spelled or {})
    graph = row.build(fields, format_of, row.stored, context_length)
    check_graph(graph)
    return graph
