"""Weights that lie in a file otherwise than a graph has them: an expert a tensor, rows by turns,
codes and scales apart; and layers that nothing asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from block_entries import blocks_for, spread
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.errors import ModelError
from ridgeline.model.architectures import ARCHITECTURES
from ridgeline.model.formats.fp8 import E4M3
from ridgeline.model.opened import OpenedModel, describe, open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.step import PlanRow, RowSampling, StepPlan

GOLDEN = Path(__file__).parent.parent / "golden"
Arrays = dict[str, npt.NDArray[Any]]


def copied(case: str) -> tuple[dict[str, Any], Arrays]:
    config = json.loads((GOLDEN / case / "config.json").read_text())
    with open_model(GOLDEN / case).checkpoint as checkpoint:
        return config, {name: checkpoint.read(name) for name in checkpoint.tensors}


def write(folder: Path, config: dict[str, Any], tensors: Arrays) -> Path:
    """A model directory; arrays named `*!fp8` and `*!e8m0` are bytes of E4M3 numbers, of powers."""
    (folder / "config.json").write_text(json.dumps(config))
    codes = {name for name in tensors if "!" in name}
    save_file(tensors, folder / "model.safetensors")
    if codes:
        raw = (folder / "model.safetensors").read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        for name in codes:
            stem, _, kind = name.partition("!")
            dtype = {"fp8": "F8_E4M3", "e8m0": "F8_E8M0"}[kind]
            header[stem] = header.pop(name) | {"dtype": dtype}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        data = len(text).to_bytes(8, "little") + text + raw[8 + length :]
        (folder / "model.safetensors").write_bytes(data)
    return folder


def numbers(model: OpenedModel, name: str) -> npt.NDArray[np.float32]:
    (weight,) = (w for w in model.graph.weights if w.name == name)
    values = model.weights.float32(weight)
    each = [model.weights.entry(weight, i) for i in range(weight.shape[0])]
    assert np.array_equal(np.concatenate(each), model.weights.raw(weight))
    return values


def test_one_tensor_an_expert() -> None:
    model = open_model(GOLDEN / "mixtral")
    stored = [
        model.checkpoint.read(f"model.layers.1.block_sparse_moe.experts.{e}.w3.weight")
        for e in range(8)
    ]
    assert np.array_equal(numbers(model, "layers.1.moe.up.weight"), np.stack(stored))


def test_gate_above_up_in_one_tensor() -> None:
    model = open_model(GOLDEN / "granitemoe")
    joint = model.checkpoint.read("model.layers.0.block_sparse_moe.input_linear.weight")
    assert np.array_equal(numbers(model, "layers.0.moe.gate.weight"), joint[:, :16])
    assert np.array_equal(numbers(model, "layers.0.moe.up.weight"), joint[:, 16:])


def test_gate_and_up_by_turns_and_inputs_first() -> None:
    model = open_model(GOLDEN / "gpt_oss")
    joint = model.checkpoint.read("model.layers.0.mlp.experts.gate_up_proj")
    bias = model.checkpoint.read("model.layers.0.mlp.experts.gate_up_proj_bias")
    down = model.checkpoint.read("model.layers.0.mlp.experts.down_proj")
    for part, name in enumerate(("gate", "up")):
        found = numbers(model, f"layers.0.moe.{name}.weight")
        assert np.array_equal(found, joint[:, :, part::2].transpose(0, 2, 1))
        assert np.array_equal(numbers(model, f"layers.0.moe.{name}.bias"), bias[:, part::2])
    assert np.array_equal(numbers(model, "layers.0.moe.down.weight"), down.transpose(0, 2, 1))


def mxfp4_gpt_oss(folder: Path, change: Callable[[Arrays], None] = lambda _: None) -> Path:
    """A model of 64 channels whose experts are random MXFP4, as gpt-oss is published."""
    config = json.loads((GOLDEN / "gpt_oss" / "config.json").read_text())
    config |= {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "layer_types": ["full_attention"],
        "num_local_experts": 4,
        "quantization_config": {"quant_method": "mxfp4"},
    }
    random = np.random.default_rng(1)
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (128, 64),
        "lm_head.weight": (128, 64),
        "model.norm.weight": (64,),
        f"{layer}input_layernorm.weight": (64,),
        f"{layer}post_attention_layernorm.weight": (64,),
        f"{layer}self_attn.sinks": (4,),
        f"{layer}mlp.router.weight": (4, 64),
        f"{layer}mlp.router.bias": (4,),
        f"{layer}mlp.experts.gate_up_proj_bias": (4, 192),
        f"{layer}mlp.experts.down_proj_bias": (4, 64),
    }
    for name, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
        shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, 64)
        shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
    tensors: Arrays = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    for name, rows, groups in (("gate_up_proj", 192, 2), ("down_proj", 64, 3)):
        codes = random.integers(0, 256, (4, rows, groups, 16), np.uint8)
        scales = random.integers(120, 130, (4, rows, groups)).astype(np.uint8)
        tensors[f"{layer}mlp.experts.{name}_blocks"] = codes
        tensors[f"{layer}mlp.experts.{name}_scales"] = scales
    change(tensors)
    return write(folder, config, tensors)


def test_mxfp4_codes_and_scales_apart(tmp_path: Path) -> None:
    model = open_model(mxfp4_gpt_oss(tmp_path))
    assert model.weights.unused == ()
    e2m1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    shapes = {"gate_up_proj": (4, 192, 2), "down_proj": (4, 64, 3)}
    stored = {}
    for name, shape in shapes.items():
        whole = f"model.layers.0.mlp.experts.{name}"
        codes = model.checkpoint.raw(f"{whole}_blocks").reshape(*shape, 16)
        scales = model.checkpoint.raw(f"{whole}_scales").reshape(shape)
        stored[name] = (codes, scales)

    def number(name: str, expert: int, row: int, column: int) -> float:
        codes, scales = stored[name]
        byte = int(codes[expert, row, column // 32, column % 32 // 2])
        code = byte >> 4 if column % 2 else byte & 15
        sign = -1.0 if code & 8 else 1.0
        return float(sign * e2m1[code & 7] * 2.0 ** (int(scales[expert, row, column // 32]) - 127))

    gate = numbers(model, "layers.0.moe.gate.weight")
    up = numbers(model, "layers.0.moe.up.weight")
    down = numbers(model, "layers.0.moe.down.weight")
    for expert, row, column in ((0, 0, 0), (3, 63, 63), (2, 17, 33), (1, 40, 31), (1, 5, 16)):
        assert gate[expert, row, column] == number("gate_up_proj", expert, 2 * row, column)
        assert up[expert, row, column] == number("gate_up_proj", expert, 2 * row + 1, column)
        assert down[expert, row, column] == number("down_proj", expert, row, column)


@pytest.mark.parametrize("what", ["gate_up_proj_scales", "down_proj_blocks"])
def test_mxfp4_of_another_shape(what: str, tmp_path: Path) -> None:
    name = f"model.layers.0.mlp.experts.{what}"

    def change(tensors: Arrays) -> None:
        tensors[name] = np.ascontiguousarray(tensors[name][:3])

    with pytest.raises(ModelError, match=r"is U8 of shape .* is needed") as raised:
        open_model(mxfp4_gpt_oss(tmp_path, change))
    assert name in str(raised.value)


def fp8_llama(folder: Path, change: Callable[[Arrays], None] = lambda _: None) -> Path:
    """A model of 256 channels whose matrices are FP8 in tiles of 128 x 128."""
    config = json.loads((GOLDEN / "llama2" / "config.json").read_text())
    config |= {
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "weight_block_size": [128, 128],
            "activation_scheme": "dynamic",
        },
    }
    random = np.random.default_rng(2)
    tensors: Arrays = {
        "model.embed_tokens.weight": random.standard_normal((128, 256)).astype(np.float32),
        "lm_head.weight": random.standard_normal((128, 256)).astype(np.float32),
        "model.norm.weight": np.ones(256, np.float32),
    }
    layer = "model.layers.0."
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{layer}{name}.weight"] = np.ones(256, np.float32)
    for name, rows, columns in (
        ("self_attn.q_proj", 256, 256),
        ("self_attn.k_proj", 128, 256),
        ("self_attn.v_proj", 128, 256),
        ("self_attn.o_proj", 256, 256),
        ("mlp.gate_proj", 384, 256),
        ("mlp.up_proj", 384, 256),
        ("mlp.down_proj", 256, 384),
    ):
        codes = random.integers(0, 0x7E, (rows, columns), np.uint8)
        scales = random.random((-(-rows // 128), columns // 128)).astype(np.float32)
        tensors[f"{layer}{name}.weight!fp8"] = codes
        tensors[f"{layer}{name}.weight_scale_inv"] = scales
    change(tensors)
    return write(folder, config, tensors)


def test_fp8_in_tiles(tmp_path: Path) -> None:
    model = open_model(fp8_llama(tmp_path))
    found = numbers(model, "layers.0.mlp.down.weight")
    raw = model.checkpoint.raw("model.layers.0.mlp.down_proj.weight").reshape(256, 384)
    scales = model.checkpoint.read("model.layers.0.mlp.down_proj.weight_scale_inv")
    for row, column in ((0, 0), (127, 128), (128, 127), (255, 383), (200, 300)):
        code = int(raw[row, column])
        exponent, mantissa = code >> 3 & 15, code & 7
        number = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa / 8 * 2.0**-6
        scale = scales[row // 128, column // 128]
        assert found[row, column] == np.float32(number) * scale


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight_scale_inv"), "has type F8_E4M3"),
        (
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight_scale_inv": np.ones((2, 2), np.float32)}
            ),
            "F32 of shape (3, 2) is needed",
        ),
    ],
)
def test_fp8_without_its_scales(
    change: Callable[[Arrays], None], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as raised:
        open_model(fp8_llama(tmp_path, change))
    assert expected in str(raised.value)


def fp8_deepseek_v4(folder: Path, change: Callable[[Arrays], None] = lambda _: None) -> Path:
    """As it is published: FP8 with powers of two in attention, FP4 with such in experts, the rest
    BF16 (here float32).
    """
    config = json.loads((GOLDEN / "deepseek_v4" / "config.json").read_text()) | {
        "hidden_size": 256,
        "head_dim": 64,
        "q_lora_rank": 128,
        "o_lora_rank": 64,
        "moe_intermediate_size": 128,
        "n_routed_experts": 3,
        "index_n_heads": 8,
        "index_head_dim": 16,
        "num_hidden_layers": 2,
        "num_hash_layers": 1,
        "expert_dtype": "fp4",
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "weight_block_size": [128, 128],
            "activation_scheme": "dynamic",
        },
    }
    graph = describe(config)
    row = ARCHITECTURES["DeepseekV4ForCausalLM"].names
    random = np.random.default_rng(3)
    tensors: Arrays = {}
    for weight in graph.weights:
        if weight.format.name == "MXFP4":
            count, rows, columns = weight.shape
            for expert in range(count):
                name = row.stored(weight.name, row.roots[0], expert)
                tensors[name] = random.integers(-128, 128, (rows, columns // 2), np.int8)
                scales = random.integers(118, 124, (rows, columns // 32), np.uint8)
                tensors[f"{name.removesuffix('.weight')}.scale!e8m0"] = scales
            continue
        name = row.stored(weight.name, row.roots[0])
        if weight.format.name == "F8_E4M3_128":
            rows, columns = weight.shape
            tensors[f"{name}!fp8"] = random.integers(0, 0x7E, (rows, columns), np.uint8)
            scales = random.integers(118, 122, (-(-rows // 128), columns // 128), np.uint8)
            tensors[f"{name.removesuffix('.weight')}.scale!e8m0"] = scales
        elif name.endswith("tid2eid"):
            tensors[name] = random.integers(0, 3, weight.shape, np.int32)
        else:
            tensors[name] = 0.1 * random.standard_normal(weight.shape).astype(np.float32)
    tensors["mtp.0.attn.wkv.weight"] = np.zeros(1, np.float32)
    change(tensors)
    return write(folder, config, tensors)


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def test_deepseek_v4_as_it_is_published(tmp_path: Path) -> None:
    """Two numbers in a byte, the first in its low half; a power of two for 32, or for a tile."""
    model = open_model(fp8_deepseek_v4(tmp_path))
    assert model.notes == ("1 tensors of the multi-token prediction module are not used",)
    read, raw = model.checkpoint.tensors, model.checkpoint.raw
    down = numbers(model, "layers.1.moe.down.weight")
    assert down.shape == (3, 256, 128)
    at = "layers.1.ffn.experts.2.w2"
    assert read[f"{at}.weight"].format == "I8"
    codes = raw(f"{at}.weight").reshape(256, 64)
    powers = raw(f"{at}.scale").reshape(256, 4).astype(np.float64)
    values = np.stack([FP4[codes & 15], FP4[codes >> 4]], axis=-1).reshape(256, 128)
    assert np.array_equal(down[2], values * 2.0 ** (np.repeat(powers, 32, axis=1) - 127))
    grouped = numbers(model, "layers.0.attn.o_a.weight")
    assert grouped.shape == (128, 128)
    codes = raw("layers.0.attn.wo_a.weight").reshape(128, 128)
    power = float(raw("layers.0.attn.wo_a.scale")[0])
    assert np.array_equal(grouped, E4M3[codes] * np.float32(2.0 ** (power - 127)))
    formats = {w.name.partition(".attn.")[2]: w.format.name for w in model.graph.weights}
    assert formats["q_b.weight"] == formats["kv.weight"] == "F8_E4M3_128"
    assert formats["compress.kv.weight"] == formats["index.weigh.weight"] == "F32"
    # It runs as what it is as plain numbers.
    tokens = list(range(20))
    logits = []
    for kind in (CpuExecutor, ReferenceExecutor):
        graph = fuse(model.graph)
        blocks = blocks_for(graph, 4)
        more = {"max_tokens_per_step": 32, "threads": 1, "max_logits_per_step": 32}
        executor = kind(
            graph,
            model.weights,
            num_blocks=blocks,
            max_rows=1,
            **(more if kind is CpuExecutor else {}),
        )
        executor.open_row(0, tokens, RowSampling())
        step = StepPlan((PlanRow(0, 20, 0, 20, spread(executor, (2, 0))),))
        logits.append(executor.forward(step))
    assert np.isfinite(logits[1]).all()
    each = np.linalg.norm(logits[0] - logits[1], axis=1) / np.linalg.norm(logits[1], axis=1)
    assert np.median(each) < 3e-2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop("layers.1.ffn.experts.1.w1.scale!e8m0"), "w1.weight' has type I8"),
        (
            lambda t: t.update(
                {"layers.1.ffn.experts.1.w1.scale!e8m0": np.full((128, 4), 120, np.uint8)}
            ),
            "F8_E8M0 of shape (128, 8) is needed",
        ),
        (
            lambda t: t.update({"layers.0.attn.wkv.scale!e8m0": np.full((2, 2), 120, np.uint8)}),
            "F8_E8M0 of shape (1, 2) is needed",
        ),
        (lambda t: t.pop("layers.0.attn.wkv.scale!e8m0"), "wkv.weight' has type F8_E4M3"),
    ],
)
def test_deepseek_v4_without_its_scales(
    change: Callable[[Arrays], None], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as raised:
        open_model(fp8_deepseek_v4(tmp_path, change))
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    "method",
    [
        {"quant_method": "awq"},
        {"quant_method": "fp8"},
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
        "fp8",
    ],
)
def test_another_quantization_is_refused(method: object, tmp_path: Path) -> None:
    config, tensors = copied("llama2")
    write(tmp_path, config | {"quantization_config": method}, tensors)
    with pytest.raises(ModelError, match=r"quantization_config = .* is not supported"):
        open_model(tmp_path)


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    config, tensors = copied("mixtral")
    del tensors["model.layers.1.block_sparse_moe.experts.5.w2.weight"]
    write(tmp_path, config, tensors)
    with pytest.raises(ModelError, match=r"layers\.1\.block_sparse_moe\.experts\.5\.w2\.weight"):
        open_model(tmp_path)


def test_layers_that_predict_further_are_told_of(tmp_path: Path) -> None:
    """And refused where the configuration does not know of them."""
    config, tensors = copied("deepseek_v3")
    tensors["model.layers.2.eh_proj.weight"] = np.ones((32, 64), np.float32)
    tensors["model.layers.2.mlp.gate.weight"] = np.ones((8, 32), np.float32)
    write(tmp_path, config | {"num_nextn_predict_layers": 1}, tensors)
    model = open_model(tmp_path)
    assert model.notes == ("2 tensors of the multi-token prediction module are not used",)
    assert open_model(GOLDEN / "deepseek_v3").notes == ()
    write(tmp_path, config, tensors)
    with pytest.raises(ModelError, match=r"layers\.2\..* is not part of this architecture"):
        open_model(tmp_path)


@pytest.mark.parametrize("case", ["ernie4_5_moe", "longcat_flash", "mimo_v2_flash", "minimax_m3"])
def test_modules_that_are_not_built_are_told_of(case: str, tmp_path: Path) -> None:
    config, tensors = copied(case)
    write(tmp_path, config, {**tensors, "model.mtp.0.norm.weight": np.ones(32, np.float32)})
    told = "1 tensors of the multi-token prediction module are not used"
    assert told in open_model(tmp_path).notes


def rewritten(path: Path, out: Path, changed: Callable[[Arrays], Arrays], **numbers: int) -> Path:
    """A copy of a GGUF file, with other tensors; those named `*!q8` become Q8_0. numbers: keys of
    the architecture that are there besides, or in the place of its own.
    """
    reader = gguf.GGUFReader(path)
    text = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, text)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if name.removeprefix(f"{text}.") in numbers:
            continue
        kinds = [*field.types, None]
        writer.add_key_value(name, field.contents(), kinds[0], kinds[1])
    for key, number in numbers.items():
        writer.add_uint32(f"{text}.{key}", number)
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    for name, array in changed(tensors).items():
        if name.endswith("!q8"):
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(array.astype(np.float32), kind)
            writer.add_tensor(name.removesuffix("!q8"), packed, raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_what_expands_latents_in_one_tensor_and_in_two(tmp_path: Path) -> None:
    source = GOLDEN / "deepseek_v3" / "model.gguf"
    name, block = "layers.1.attn.kv_b.weight", "blk.1.attn"
    whole = numbers(open_model(GOLDEN / "deepseek_v3"), name)
    assert np.array_equal(numbers(open_model(source), name), whole)

    def older(tensors: Arrays) -> Arrays:
        for i in range(2):
            keys, values = (tensors.pop(f"blk.{i}.attn_{x}_b.weight") for x in "kv")
            joined = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
            tensors[f"blk.{i}.attn_kv_b.weight"] = joined.reshape(-1, joined.shape[-1])
        return tensors

    assert np.array_equal(
        numbers(open_model(rewritten(source, tmp_path / "older.gguf", older)), name), whole
    )

    def quantized(tensors: Arrays) -> Arrays:
        tensors[f"{block}_v_b.weight!q8"] = tensors.pop(f"{block}_v_b.weight")
        return tensors

    model = open_model(rewritten(source, tmp_path / "quantized.gguf", quantized))
    found, rows = numbers(model, name).reshape(4, 22, 32), whole.reshape(4, 22, 32)
    assert np.array_equal(found[:, :12], rows[:, :12])
    assert 0 < np.abs(found[:, 12:] - rows[:, 12:]).max() < 0.01

    def otherwise(tensors: Arrays) -> Arrays:
        keys, values = (tensors[f"{block}_{x}_b.weight"] for x in "kv")
        tensors[f"{block}_k_b.weight"] = keys[..., :10].copy()
        tensors[f"{block}_v_b.weight"] = np.concatenate([values, values[:, :2]], axis=1)
        return tensors

    with pytest.raises(ModelError, match=r"blk\.1\.attn_k_b\.weight.*\(4, 32, 12\) is needed"):
        open_model(rewritten(source, tmp_path / "otherwise.gguf", otherwise))


def test_layers_of_a_gguf_that_predict_tokens_further_ahead_are_not_the_models(
    tmp_path: Path,
) -> None:
    source = GOLDEN / "glm4_moe" / "model.gguf"

    def longer(tensors: Arrays) -> Arrays:
        more = {n.replace("blk.1.", "blk.2."): t for n, t in tensors.items() if "blk.1." in n}
        more["blk.2.nextn.eh_proj.weight"] = np.zeros((32, 64), np.float16)
        return tensors | more

    path = rewritten(
        source, tmp_path / "longer.gguf", longer, block_count=3, nextn_predict_layers=1
    )
    model, plain = open_model(path), open_model(source)
    assert model.graph == plain.graph
    assert "are not used" in model.notes[0]
    with pytest.raises(ModelError, match=r"blk\.2\.nextn\.eh_proj\.weight"):
        open_model(rewritten(source, tmp_path / "unsaid.gguf", longer, block_count=3))


@pytest.mark.parametrize(
    ("case", "key", "number", "named"),
    [
        ("nemotron_h", "block_count", 9, r"'nemotron_h\.attention\.head_count_kv'.* each of 9"),
        ("nemotron_h", "ssm.inner_size", 81, r"'nemotron_h\.ssm\.inner_size' = 81"),
        ("granite_hybrid", "ssm.inner_size", 84, r"'granitehybrid\.ssm\.inner_size' = 84"),
        ("lfm2", "attention.head_count_kv", 3, r"lfm2\.attention\.head_count_kv"),
        ("gemma4", "block_count", 2, r"'gemma4\.attention\.sliding_window_pattern' lists"),
        ("qwen3_5", "ssm.inner_size", 82, r"'qwen35\.ssm\.inner_size' = 82"),
        ("deepseek_v3", "expert_gating_func", 3, r"'deepseek2\.expert_gating_func' = 3"),
        ("deepseek_v3", "rope.dimension_count", 0, r"'deepseek2\.rope\.dimension_count'"),
    ],
)
def test_lists_by_layer_and_sizes_of_a_gguf_are_refused_by_name(
    case: str, key: str, number: int, named: str, tmp_path: Path
) -> None:
    path = rewritten(
        GOLDEN / case / "model.gguf", tmp_path / "m.gguf", lambda tensors: tensors, **{key: number}
    )
    with pytest.raises(ModelError, match=named):
        open_model(path)
