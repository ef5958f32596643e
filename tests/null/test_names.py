"""Names of weights, binding them to a file, and a GGUF's metadata as a configuration."""

from __future__ import annotations

import json
import mmap
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ridgeline.errors import ModelError
from ridgeline.model.architectures import ARCHITECTURES, build
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Embed, Norm, PlaceImages, Rope
from ridgeline.model.opened import OpenedModel, describe, open_model
from ridgeline.model.predictors import open_predictors
from ridgeline.model.weights.checkpoint import Checkpoint
from ridgeline.model.weights.contents import Contents, Segment, TensorInfo
from ridgeline.model.weights.gguf_config import gguf_config, spelled
from ridgeline.model.weights.gguf_listed import with_listed
from ridgeline.model.weights.places import Run

GOLDEN = Path(__file__).parent.parent / "golden"
GGUF_CASES = sorted(path.parent.name for path in GOLDEN.glob("*/model.gguf"))
ENCODERS = sorted(path.parent.name for path in GOLDEN.glob("encoders/*/config.json"))
HF_CASES = sorted(path.parent.name for path in GOLDEN.glob("*/model.safetensors"))


def copied(case: str, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A golden case's configuration and tensors (float32), to be changed and saved in `folder`."""
    config = json.loads((GOLDEN / case / "config.json").read_text())
    with open_model(GOLDEN / case).checkpoint as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    folder.mkdir(exist_ok=True)
    return config, tensors


def saved(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def all_float32(model: OpenedModel) -> dict[str, np.ndarray]:
    return {weight.name: model.weights.float32(weight) for weight in model.graph.weights}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_weights_share_a_stored_name_only_as_parts_of_one_tensor(architecture: str) -> None:
    names = ARCHITECTURES[architecture].names
    stored: dict[str, list[str]] = {}
    for module in names.modules:
        canonical = module.replace("{i}", "7") + ".weight"
        stored.setdefault(names.stored(canonical, names.roots[0]), []).append(module)
    shared = [modules for modules in stored.values() if len(modules) > 1]
    parts = [
        [f"layers.{{i}}.attn.{x}" for x in "qkv"],
        ["layers.{i}.mlp.gate", "layers.{i}.mlp.up"],
    ]
    fused = {"Phi3ForCausalLM": parts, "phi3": parts}
    fused |= dict.fromkeys(("GPT2LMHeadModel", "gpt2", "gptneox"), parts[:1])
    fused |= dict.fromkeys(("GlmForCausalLM", "Glm4ForCausalLM", "glm4"), parts[1:])
    halves = [["layers.{i}.moe.gate", "layers.{i}.moe.up"]]
    stacked = ("GraniteMoeForCausalLM", "GptOssForCausalLM", "gemma4")
    stacked += ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration")
    stacked += ("Llama4ForCausalLM", "Llama4ForConditionalGeneration")
    fused |= dict.fromkeys(stacked, halves)
    if architecture.startswith("ModernBert"):
        fused[architecture] = parts
    shared_mlp = ("layers.{i}.mlp", "layers.{i}.shared.mlp")  # alone, or beside experts
    fused["GraniteMoeHybridForCausalLM"] = [
        [f"{place}.{x}" for place in shared_mlp for x in ("gate", "up")],
        [f"{place}.down" for place in shared_mlp],
        ["layers.{i}.moe.gate", "layers.{i}.moe.up"],
    ]
    fused["Qwen3NextForCausalLM"] = [[f"layers.{{i}}.delta.conv_{x}" for x in "qkv"]]
    fused["KimiLinearForCausalLM"] = [  # a layer has one or the other
        [f"layers.{{i}}.attn.{x}", f"layers.{{i}}.delta.{y}"]
        for x, y in (*zip("qkv", "qkv", strict=True), ("o", "out"))
    ]
    fused["BailingHybridForCausalLM"] = [
        ["layers.{i}.attn.q", "layers.{i}.delta.q"],
        ["layers.{i}.attn.k", "layers.{i}.delta.k"],
        ["layers.{i}.attn.v", "layers.{i}.delta.v"],
        ["layers.{i}.attn.o", "layers.{i}.delta.out"],
        ["layers.{i}.attn.gate", "layers.{i}.delta.gate_b"],
    ]
    fused["kimi-linear"] = fused["KimiLinearForCausalLM"]
    fused["FalconH1ForCausalLM"] = [[f"layers.{{i}}.ssm.conv_{x}" for x in "xbc"]]
    fused["falcon-h1"] = fused["FalconH1ForCausalLM"]
    fused["gemma3n"] = [[f"streams.{i}.{way}" for i in range(7)] for way in ("make", "unmake")]
    fused["WhisperSpec"] = [
        *([f"layers.{{i}}.{of}attn.{x}" for x in "qkv"] for of in ("encoder.", "")),
        ["layers.{i}.cross.k", "layers.{i}.cross.v"],
    ]
    assert shared == fused.get(architecture, [])


def test_stored_names_as_files_have_them() -> None:
    llama, gguf = ARCHITECTURES["LlamaForCausalLM"].names, ARCHITECTURES["llama"].names
    hf_root, gguf_root = llama.roots[0], gguf.roots[0]
    for canonical, hf, ggml in (
        ("embed.weight", "model.embed_tokens.weight", "token_embd.weight"),
        ("head.weight", "lm_head.weight", "output.weight"),
        ("layers.11.attn.q.bias", "model.layers.11.self_attn.q_proj.bias", "blk.11.attn_q.bias"),
        (
            "layers.0.mlp_norm.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "blk.0.ffn_norm.weight",
        ),
    ):
        assert llama.stored(canonical, hf_root) == hf
        assert gguf.stored(canonical, gguf_root) == ggml


DELTA = re.compile(r"\.delta\.(?!a$)")
# What transformers saves of two families and no weight is (`names_dense`, `names_moe`).
LEFT = {
    "apertus": re.compile(r"model\.layers\.\d\.mlp\.act_fn\.(beta|eps)"),
    "longcat_flash": re.compile(r"model\.layers\.\d\.mlp\.experts\.[678]\.(gate|up)_proj\.weight"),
}


@pytest.mark.parametrize("case", HF_CASES)
def test_every_weight_of_a_golden_checkpoint_is_bound_and_none_is_left(case: str) -> None:
    model = open_model(GOLDEN / case)
    used = {
        tensor
        for _, weights in open_predictors(model)
        for place in weights.places.values()
        for tensor in place.tensors
    }
    # Modules of multi-token prediction may have copies of what they share with the model.
    copies = ("embed_tokens.weight", "shared_head.head.weight")
    left = [name for name in model.weights.unused if name not in used]
    if case in LEFT:
        assert left
        left = [name for name in left if not LEFT[case].fullmatch(name)]
    assert all(name.startswith("model.layers.") and name.endswith(copies) for name in left)
    for weight in model.graph.weights:
        raw, values = model.weights.raw(weight), model.weights.float32(weight)
        assert raw.size == weight.num_bytes
        assert not raw.flags.writeable
        if isinstance(model.weights.places[weight.name], Run):
            assert not raw.flags.owndata
        if len(weight.shape) == 3:
            entries = [model.weights.entry(weight, e) for e in range(weight.shape[0])]
            assert np.array_equal(np.concatenate(entries), raw)
        assert values.shape == weight.shape
        model.weights.release(weight)
        assert np.array_equal(model.weights.raw(weight), raw)
        assert np.isfinite(values).all()


@pytest.mark.parametrize("case", GGUF_CASES)
def test_a_gguf_holds_what_its_twin_holds(case: str) -> None:
    hf, gguf = open_model(GOLDEN / case), open_model(GOLDEN / case / "model.gguf")
    # GPT-NeoX and Qwen3-Next
    by_head = any(node.name.endswith((".qkv_split", ".qkvz.split")) for node in hf.graph.nodes)
    # Towers are files of their own, and what is said of them is not in these.
    kinds = [
        [type(node.op) for node in model.graph.nodes if not isinstance(node.op, PlaceImages)]
        for model in (hf, gguf)
    ]
    assert kinds[0] == kinds[1] or by_head
    assert hf.graph.max_context == gguf.graph.max_context
    assert hf.graph.states == gguf.graph.states
    norms = [node for node in hf.graph.nodes if isinstance(node.op, Norm)]
    offset = {n.weights[0].name: n.op.offset for n in norms if n.weights}  # type: ignore
    neighbours, rotated = (
        any(n.op.rotation.interleaved for n in model.graph.nodes if isinstance(n.op, Rope))
        for model in (hf, gguf)
    )
    # The converter turns rows of these two, too, where no channels turn.
    turned = gguf.architecture.startswith(("nemotron_h", "granitehybrid"))
    rotated = (rotated and not neighbours) or turned
    theirs = all_float32(gguf)
    # Delta rules' heads stand in another order: the same numbers all the same.
    deltas = [
        [w.ravel() for name, w in all_float32(model).items() if DELTA.search(name)]
        for model in (hf, gguf)
    ]
    if deltas[0]:
        assert np.array_equal(*(np.sort(np.concatenate(weights)) for weights in deltas))
    for name, ours in all_float32(hf).items():
        if DELTA.search(name):
            continue
        if name.endswith(".delta.a"):
            assert np.allclose(np.sort(-np.exp(ours)), np.sort(theirs[name]), rtol=1e-6)
        elif rotated and name.endswith(("attn.q.weight", "attn.k.weight")):
            assert np.array_equal(np.sort(ours, axis=0), np.sort(theirs[name], axis=0))
            assert not np.array_equal(ours, theirs[name])
        elif name.endswith(".ssm.a"):  # GGUF has the decay rate itself
            assert np.allclose(-np.exp(ours), theirs[name], rtol=1e-6)
        elif ".attn.qkv." in name:
            heads = hf.graph.states[0].kv_heads
            for i, part in enumerate("qkv"):
                each = ours.reshape(heads, 3, -1, *ours.shape[1:])[:, i]
                apart = theirs[name.replace(".qkv.", f".{part}.")]
                assert np.array_equal(each.reshape(apart.shape), apart)
        else:
            assert np.array_equal(ours + np.float32(offset.get(name, 0.0)), theirs[name])


def test_rotary_settings_of_a_gguf_are_its_twins() -> None:
    for case in GGUF_CASES:
        pair = (open_model(GOLDEN / case), open_model(GOLDEN / case / "model.gguf"))
        ropes = [[n.op.rotation for n in m.graph.nodes if isinstance(n.op, Rope)] for m in pair]
        for ours, theirs in zip(*ropes, strict=True):
            assert ours.frequencies == pytest.approx(theirs.frequencies, rel=1e-6), case
            assert ours.magnitude == pytest.approx(theirs.magnitude, rel=1e-6), case


def test_parts_of_a_fused_tensor_are_its_rows(tmp_path: Path) -> None:
    _, tensors = copied("phi3_partial", tmp_path)
    model = open_model(GOLDEN / "phi3_partial")
    values = all_float32(model)
    parts = [values[f"layers.1.attn.{x}.weight"] for x in "qkv"]
    assert [part.shape[0] for part in parts] == [64, 32, 32]
    whole = tensors["model.layers.1.self_attn.qkv_proj.weight"]
    assert np.array_equal(np.concatenate(parts), whole)
    halves = [values[f"layers.1.mlp.{x}.weight"] for x in ("gate", "up")]
    assert np.array_equal(np.concatenate(halves), tensors["model.layers.1.mlp.gate_up_proj.weight"])


def test_a_model_without_an_output_matrix_is_tied(tmp_path: Path) -> None:
    config, tensors = copied("llama2", tmp_path)
    assert any(w.name == "head.weight" for w in open_model(GOLDEN / "llama2").graph.weights)
    del tensors["lm_head.weight"]
    graph = open_model(saved(tmp_path, config, tensors)).graph
    embeds = [node for node in graph.nodes if isinstance(node.op, Embed)]
    assert graph.nodes[-1].weights == embeds[0].weights


def test_an_output_matrix_that_the_configuration_ties_is_left_and_reported(tmp_path: Path) -> None:
    config, tensors = copied("smollm", tmp_path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    assert open_model(saved(tmp_path, config, tensors)).weights.unused == ("lm_head.weight",)


@pytest.mark.parametrize(
    ("rename", "case"),
    [
        (lambda n: n.removeprefix("model."), "smollm"),
        (lambda n: f"language_model.{n}", "gemma3_linear"),
        (lambda n: n.replace("model.", "model.language_model."), "gemma3_linear"),
    ],
    ids=["bare", "older vision", "newer vision"],
)
def test_tensors_are_found_under_each_prefix(
    rename: Callable[[str], str], case: str, tmp_path: Path
) -> None:
    config, tensors = copied(case, tmp_path)
    path = saved(tmp_path, config, {rename(name): value for name, value in tensors.items()})
    expected, found = all_float32(open_model(GOLDEN / case)), all_float32(open_model(path))
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_what_changes_nothing_is_reported_and_what_would_is_refused(tmp_path: Path) -> None:
    config, tensors = copied("llama2", tmp_path)
    harmless = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    path = saved(tmp_path, config, tensors | harmless)
    assert open_model(path).weights.unused == tuple(harmless)
    for name in (
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.2.input_layernorm.weight",
        "model.embed_positions.weight",
    ):
        saved(tmp_path, config, tensors | {name: np.ones(64, np.float32)})
        with pytest.raises(ModelError, match=f"tensor '{name}' is not part of this"):
            open_model(path)


def test_a_tensor_that_is_missing_or_misshapen_is_named(tmp_path: Path) -> None:
    config, tensors = copied("llama2", tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    missing = {key: value for key, value in tensors.items() if key != name}
    with pytest.raises(ModelError, match=f"tensor '{name}' is missing"):
        open_model(saved(tmp_path, config, missing))
    turned = tensors | {name: np.ascontiguousarray(tensors[name].T)}
    with pytest.raises(ModelError, match=r"has shape \(64, 48\); \(48, 64\) is needed"):
        open_model(saved(tmp_path, config, turned))
    integers = tensors | {name: tensors[name].astype(np.int8)}
    with pytest.raises(ModelError, match=f"'{name}' has type I8, which is not supported"):
        open_model(saved(tmp_path, config, integers))  # type: ignore[arg-type]


def test_a_table_of_experts_that_are_not_there_is_refused(tmp_path: Path) -> None:
    config, tensors = copied("deepseek_v4", tmp_path)
    table = tensors["layers.1.ffn.gate.tid2eid"].astype(np.int64)
    weight = next(
        w
        for w in open_model(GOLDEN / "deepseek_v4").graph.weights
        if w.name == "layers.1.moe.table.weight"
    )
    for kind in (np.int32, np.int64):
        tensors["layers.1.ffn.gate.tid2eid"] = table.astype(kind)
        model = open_model(saved(tmp_path, config, tensors))
        assert np.array_equal(model.weights.float32(weight), table)
    for wrong in (-1, 8, 2**40):
        table[3, 1] = wrong
        tensors["layers.1.ffn.gate.tid2eid"] = table
        model = open_model(saved(tmp_path, config, tensors))
        with pytest.raises(ModelError, match=rf"tid2eid.* has numbers from .*{wrong}.*0 to 7"):
            model.weights.float32(weight)
    tensors["layers.1.ffn.gate.tid2eid"] = table[:, :1]
    with pytest.raises(ModelError, match="tid2eid' has shape"):
        open_model(saved(tmp_path, config, tensors))
    tensors["layers.1.ffn.gate.tid2eid"] = table
    tensors["layers.1.attn_norm.weight"] = np.ones(32, np.int64)
    with pytest.raises(ModelError, match=r"attn_norm\.weight' has type I64"):
        open_model(saved(tmp_path, config, tensors))


def test_messages_name_the_file_of_the_field(tmp_path: Path) -> None:
    config, tensors = copied("llama2", tmp_path)
    del config["hidden_size"]
    with pytest.raises(ModelError, match=r"config\.json: hidden_size is missing"):
        open_model(saved(tmp_path, config, tensors))
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(GOLDEN / "llama2" / "model.safetensors", bare)
    with pytest.raises(ModelError, match="architectures = None"):
        open_model(bare / "model.safetensors")


def test_a_bare_configuration_has_the_formats_of_its_dtype() -> None:
    config = json.loads((GOLDEN / "llama2" / "config.json").read_text())
    for dtype, name in (("float16", "F16"), ("torch.float32", "F32"), (None, "BF16")):
        graph = describe(config | {"torch_dtype": dtype})
        assert {weight.format.name for weight in graph.weights} == {name}
    assert describe(GOLDEN / "llama2") == describe(GOLDEN / "llama2" / "config.json")
    with pytest.raises(ModelError, match="torch_dtype = 'float8_e4m3fn' is not supported"):
        describe(config | {"torch_dtype": "float8_e4m3fn"})


def gguf(
    architecture: str,
    metadata: Mapping[str, object],
    tensors: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Checkpoint:
    """A small GGUF as its reader would give it, without a file. A key after "!" is nobody's."""
    base: dict[str, object] = {
        "embedding_length": 64,
        "feed_forward_length": 48,
        "block_count": 2,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "context_length": 512,
    }
    values = {k: v for k, v in (base | dict(metadata)).items() if v is not None}
    keys = {k[1:] if k[0] == "!" else f"{architecture}.{k}": v for k, v in values.items()}
    stored = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    stored["token_embd.weight"] = np.zeros((96, 64), np.float32)
    infos = {name: TensorInfo(name, array.shape, "F32") for name, array in stored.items()}
    nowhere = mmap.mmap(-1, mmap.PAGESIZE)
    raw = {
        name: Segment(array.reshape(-1).view(np.uint8), nowhere, 0)
        for name, array in stored.items()
    }
    contents = Contents({"general.architecture": architecture, **keys}, infos, raw)
    return Checkpoint(Path("small.gguf"), "gguf", with_listed(contents, "small.gguf"))


def built_gguf(architecture: str, metadata: Mapping[str, object]) -> Graph:
    return build(gguf_config(gguf(architecture, metadata)), lambda _: FORMATS["F32"])


def rotations(config: Mapping[str, object]) -> list[Any]:
    graph = build(config, lambda _: FORMATS["F32"])
    return [node.op.rotation for node in graph.nodes if isinstance(node.op, Rope)]


def test_a_gguf_says_its_sizes_in_hugging_face_words() -> None:
    config = gguf_config(gguf("llama", {"rope.freq_base": 5e5, "attention.head_count_kv": 1}))
    assert config["architectures"] == ["llama"]
    assert config["vocab_size"] == 96
    assert config["num_key_value_heads"] == 1
    assert config["rope_theta"] == 5e5
    assert config["tie_word_embeddings"] is True
    same = gguf_config(gguf("llama", {"attention.head_count_kv": np.array([2, 2], np.int32)}))
    assert same["num_key_value_heads"] == 2


def test_rotary_scalings_of_a_gguf() -> None:
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    plain, scaled = (rotations(gguf_config(gguf("llama", more)))[0] for more in ({}, linear))
    assert scaled.frequencies == pytest.approx([f / 4 for f in plain.frequencies])
    factors = [1.0] * 4 + [8.0] * 4
    divided = rotations(gguf_config(gguf("llama", {}, {"rope_freqs.weight": np.array(factors)})))[0]
    expected = [f / factor for f, factor in zip(plain.frequencies, factors, strict=True)]
    assert divided.frequencies == pytest.approx(expected)
    partial = rotations(gguf_config(gguf("phi3", {"rope.dimension_count": 12})))[0]
    assert partial.rotary_dim == 12


def test_layers_and_query_scale_of_a_gemma_gguf() -> None:
    lengths = {"attention.key_length": 16, "attention.value_length": 16}
    usual = gguf_config(gguf("gemma3", lengths | {"attention.sliding_window": 8, "block_count": 6}))
    graph = build(usual, lambda _: FORMATS["F32"])
    assert [state.window for state in graph.states] == [8] * 5 + [None]
    assert usual["query_pre_attn_scalar"] == 16
    more = {"attention.sliding_window": 8, "attention.scale": 0.125}
    listed = {"attention.sliding_window_pattern": np.array([False, True])}
    config = gguf_config(gguf("gemma3", lengths | more | listed))
    graph = build(config, lambda _: FORMATS["F32"])
    assert [state.window for state in graph.states] == [None, 8]
    assert config["query_pre_attn_scalar"] == 64.0
    assert [state.window for state in built_gguf("gemma3", lengths).states] == [None, None]
    large = gguf_config(gguf("gemma3", lengths | {"block_count": 62}))
    assert large["query_pre_attn_scalar"] == 64 / 4


GEMMA3N = {
    "blk.0.laurel_l.weight": np.zeros((8, 64)),
    "per_layer_token_embd.weight": np.zeros((96, 16)),
}
MIMO2 = {"attention.sliding_window_pattern": 1, "attention.head_count_kv": 1}
LATENT = {
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 16,
    "rope.dimension_count": 8,
    "attention.q_lora_rank": 20,
    "attention.kv_lora_rank": 16,
    "attention.indexer.key_length": 12,
    "expert_count": 8,
    "expert_used_count": 2,
}


@pytest.mark.parametrize(
    ("architecture", "metadata", "tensors", "expected"),
    [
        ("llama", {"embedding_length": None}, {}, "'llama.embedding_length' is missing"),
        ("llama", {"embedding_length": "wide"}, {}, "llama.embedding_length = 'wide'"),
        ("llama", {"block_count": 2**31}, {}, "llama.block_count = 2147483648"),
        ("llama", {"attention.head_count": np.zeros(0, np.int32)}, {}, "one value is needed"),
        ("llama", {"attention.head_count": np.array([4, 2])}, {}, "layers that differ in it"),
        ("llama", {"rope.freq_base": np.ones(3)}, {}, "rope.freq_base': one value is needed"),
        ("llama", {"rope.scaling.type": np.ones(3)}, {}, "scaling.type': one value is needed"),
        ("llama", {"rope.scaling.type": "spiral"}, {}, "llama.rope.scaling.type = 'spiral'"),
        ("llama", {"rope.scaling.type": "linear"}, {}, "llama.rope.scaling.factor is missing"),
        ("llama", {"rope.scaling.attn_factor": 2.0}, {}, "attn_factor' = 2.0"),
        ("llama", {"rope.dimension_count": 13}, {}, "llama.rope.dimension_count = 13"),
        ("llama", {"attention.key_length": 16}, {}, "llama.attention.value_length' = None"),
        ("llama", {"expert_count": 8}, {}, "'llama.expert_used_count' is missing"),
        ("llama", {"expert_count": 8, "expert_used_count": 9}, {}, "expert_used_count = 9"),
        ("llama", {"expert_count": 2**31}, {}, "'llama.expert_used_count' is missing"),
        ("qwen2", {"expert_count": 8, "expert_used_count": 2}, {}, "qwen2.expert_count = 8"),
        ("llama", {"logit_scale": np.ones(2)}, {}, "logit_scale': one value is needed"),
        ("llama", {}, {"rope_freqs.weight": np.ones(5)}, "rope_freqs.weight"),
        ("llama", {}, {"rope_freqs.weight": np.zeros(8)}, "rope_freqs.weight"),
        ("llama", {}, {"rope_freqs.weight": np.ones((2, 4))}, "'rope_freqs.weight' has shape"),
        ("phi3", {}, {"rope_factors_long.weight": np.ones(8)}, "rope_factors_short.weight"),
        (
            "gemma3",
            {
                "attention.sliding_window": 8,
                "attention.sliding_window_pattern": np.ones(99, np.bool_),
            },
            {},
            "sliding_window_pattern' lists 99 layers",
        ),
        ("gemma3n", {"activation_sparsity_scale": np.ones(3)}, GEMMA3N, "each of 2 layers"),
        ("gemma3n", {"activation_sparsity_scale": 1.0}, GEMMA3N, "scale': a list of numbers"),
        ("gemma3n", {"feed_forward_length": np.ones(1, np.int32)}, GEMMA3N, "each of 2 layers"),
        ("gemma3n", {}, {}, "'blk.0.laurel_l.weight' is missing"),
        ("olmo", {"attention.layer_norm_epsilon": 1e-3}, {}, "= 0.001: 1e-05 alone is supported"),
        ("olmo", {"attention.clamp_kqv": 8.0}, {}, "clamp_kqv' = 8.0 is not supported"),
        ("apertus", {"!xielu.beta": np.full(2, 0.75)}, {}, "'xielu.beta': 0.5 alone"),
        ("mimo2", MIMO2 | {"attention.sliding_window_pattern": 2}, {}, "0 or 1 for each layer"),
        ("mimo2", MIMO2 | {"attention.head_count_kv": np.ones(1, np.int32)}, {}, "for each of 2"),
        (
            "mimo2",
            MIMO2 | {"attention.head_count_kv": np.array([1, 2], np.int32)},
            {},
            "layers that differ in it",
        ),
        (
            "glm-dsa",
            LATENT | {"attention.indexer.types": np.ones(1, np.bool_)},
            {},
            "indexer.types': whether it selects for itself is needed of each of 2 layers",
        ),
        (
            "glm-dsa",
            LATENT | {"attention.indexer.types": np.zeros(2, np.bool_)},
            {},
            "the first layer has none before it",
        ),
    ],
)
def test_a_bad_gguf_is_one_line_that_names_the_key(
    architecture: str,
    metadata: dict[str, object],
    tensors: dict[str, np.ndarray],
    expected: str,
) -> None:
    with pytest.raises(ModelError) as raised:
        build(
            gguf_config(gguf(architecture, metadata, tensors)),
            lambda _: FORMATS["F32"],
            where="small.gguf",
            spelled=spelled(architecture),
        )
    assert str(raised.value).startswith("small.gguf: ")
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_numbers_that_a_gguf_lists_by_layer_are_tensors() -> None:
    values = np.array([0.25, -3.0], np.float32)
    found = gguf("apertus", {"!xielu.alpha_p": values})
    assert [found.read(f"blk.{i}.xielu.alpha_p").tolist() for i in (0, 1)] == [[0.25], [-3.0]]
    found.release("blk.1.xielu.alpha_p")
    for listed in (np.zeros((2, 2), np.float32), np.zeros(2, np.int32), "two", 0.5):
        with pytest.raises(ModelError, match=r"'xielu\.alpha_n': a list of numbers is needed"):
            gguf("apertus", {"!xielu.alpha_n": listed})
    with pytest.raises(ModelError, match="lists 5000 layers"):
        gguf("apertus", {"!xielu.alpha_n": np.zeros(5000, np.float32)})
    with pytest.raises(ModelError, match=r"tensor 'blk\.1\.xielu\.alpha_n' is there besides"):
        gguf("apertus", {"!xielu.alpha_n": values}, {"blk.1.xielu.alpha_n": np.zeros(1)})


def test_layers_of_a_gemma_3n_gguf_without_their_keys() -> None:
    """As many share keys as its published sizes have beyond 20."""
    config = gguf_config(
        gguf("gemma3n", {"block_count": 30, "attention.sliding_window": 8}, GEMMA3N)
    )
    assert config["num_kv_shared_layers"] == 10
    assert config["layer_types"] == [*["sliding_attention"] * 4, "full_attention"] * 6
    assert config["activation_sparsity_pattern"] == [0.0] * 30


def test_first_files_of_glm_5_2_list_no_layers_that_select() -> None:
    kinds = gguf_config(gguf("glm-dsa", LATENT | {"context_length": 1 << 20, "block_count": 8}))
    full, shared = "full", "shared"
    assert kinds["indexer_types"] == [full, full, full, shared, shared, shared, full, shared]
    assert gguf_config(gguf("glm-dsa", LATENT))["indexer_types"] == [full, full]


def test_a_gguf_of_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    data = (GOLDEN / "llama2" / "model.gguf").read_bytes()
    path = tmp_path / "mambo.gguf"
    path.write_bytes(data.replace(b"llama", b"mambo"))
    with pytest.raises(
        ModelError, match=r"architecture 'mambo' is not supported; supported: llama,"
    ):
        open_model(path)


def test_smollm2_opens_as_it_is_known(smollm2_path: Path) -> None:
    model = open_model(smollm2_path)
    assert model.architecture == "llama"
    assert model.graph.max_context == 8192
    assert len(model.graph.states) == 30
    assert model.weights.unused == ()
    (table,) = (w for w in model.graph.weights if w.name == "embed.weight")
    assert (table.shape, table.format.name) == ((49152, 576), "Q8_0")
    assert np.isfinite(model.weights.float32(table)).all()


@pytest.mark.parametrize("case", [*HF_CASES, *(f"encoders/{name}" for name in ENCODERS)])
def test_a_tensor_that_is_missing_or_of_another_shape_is_named(case: str, tmp_path: Path) -> None:
    """Some of its kinds of tensors, one of each: left out, or with a row more."""
    config, tensors = copied(case, tmp_path)
    kinds = {re.sub(r"\d+", "*", name): name for name in tensors}
    harmless = ARCHITECTURES[config["architectures"][0]].names.harmless
    of_modules = open_model(GOLDEN / case).weights.unused  # `test_predictors`
    for name in list(kinds.values())[::3]:
        if harmless.fullmatch(name) or (name in of_modules and case.startswith("mtp_")):
            continue
        # Without its embedding nobody knows where in the file a model stands.
        shown = re.escape(name.removeprefix("bert."))
        without = {other: values for other, values in tensors.items() if other != name}
        # A head that is not there is the embedding.
        if "lm_head" not in name and "embed_out" not in name:
            with pytest.raises(ModelError, match=shown):
                open_model(saved(tmp_path, config, without))
        wider = np.concatenate([tensors[name], tensors[name][:1]])
        with pytest.raises(ModelError, match=shown):
            open_model(saved(tmp_path, config, {**without, name: wider}))
