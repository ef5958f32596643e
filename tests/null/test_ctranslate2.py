"""CTranslate2 files: read as they are written, the same model as its Hugging Face twin, and hostile
ones refused by name.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.errors import ModelError
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.opened import OpenedModel, open_model
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.weights.checkpoint import open_checkpoint
from ridgeline.step import PlanRow, RowSampling, StepPlan

TWIN = Path(__file__).parents[1] / "golden" / "speech" / "whisper"
TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

Array = npt.NDArray[np.generic]


def name_bytes(name: str) -> bytes:
    raw = name.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def variable(name: str, value: Array) -> bytes:
    head = name_bytes(name) + struct.pack("<B", value.ndim)
    head += b"".join(struct.pack("<I", size) for size in value.shape)
    return head + struct.pack("<BI", TYPES[str(value.dtype)], value.nbytes) + value.tobytes()


def written(
    variables: dict[str, Array], version: int = 6, spec: str = "WhisperSpec", count: int = 0
) -> bytes:
    out = struct.pack("<I", version) + name_bytes(spec)
    out += struct.pack("<II", 3, count or len(variables))
    out += b"".join(variable(name, value) for name, value in variables.items())
    alias = name_bytes("decoder/projection/weight") + name_bytes("decoder/embeddings/weight")
    return out + struct.pack("<I", 1) + alias


def twin_variables() -> dict[str, Array]:
    """The golden model's weights as CTranslate2 names and joins them."""
    found = open_checkpoint(TWIN)
    read = {name.removeprefix("model."): found.read(name) for name in found.tensors}
    zero = np.zeros(32, np.float32)
    out: dict[str, Array] = {
        "decoder/activation": np.array(3, np.int8),
        "decoder/alignment_layer": np.array(-1, np.int16),
        "decoder/alignment_heads": np.array([[0, 1]], np.int16),
        "decoder/num_heads": np.array(2, np.int16),
        "encoder/num_heads": np.array(4, np.int16),
        "decoder/pre_norm": np.array(1, np.int8),
        "decoder/scale_embeddings": np.array(0, np.int8),
        "decoder/embeddings/weight": read["decoder.embed_tokens.weight"],
        "decoder/position_encodings/encodings": read["decoder.embed_positions.weight"],
        "encoder/position_encodings/encodings": read["encoder.embed_positions.weight"],
    }
    for conv in ("conv1", "conv2"):
        for leaf in ("weight", "bias"):
            out[f"encoder/{conv}/{leaf}"] = read[f"encoder.{conv}.{leaf}"]

    def norm(ours: str, theirs: str) -> None:
        out[f"{ours}/layer_norm/gamma"] = read[f"{theirs}.weight"]
        out[f"{ours}/layer_norm/beta"] = read[f"{theirs}.bias"]

    def joined(ours: str, theirs: str, parts: str) -> None:
        names = [f"{theirs}.{part}_proj" for part in parts]
        out[f"{ours}/weight"] = np.concatenate([read[f"{name}.weight"] for name in names])
        out[f"{ours}/bias"] = np.concatenate([read.get(f"{name}.bias", zero) for name in names])

    def plain(ours: str, theirs: str) -> None:
        for leaf in ("weight", "bias"):
            out[f"{ours}/{leaf}"] = read[f"{theirs}.{leaf}"]

    for of, layers in (("encoder", 3), ("decoder", 2)):
        norm(of, f"{of}.layer_norm")
        for i in range(layers):
            ours, theirs = f"{of}/layer_{i}", f"{of}.layers.{i}"
            norm(f"{ours}/self_attention", f"{theirs}.self_attn_layer_norm")
            joined(f"{ours}/self_attention/linear_0", f"{theirs}.self_attn", "qkv")
            plain(f"{ours}/self_attention/linear_1", f"{theirs}.self_attn.out_proj")
            norm(f"{ours}/ffn", f"{theirs}.final_layer_norm")
            plain(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            plain(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
            if of == "decoder":
                norm(f"{ours}/attention", f"{theirs}.encoder_attn_layer_norm")
                joined(f"{ours}/attention/linear_0", f"{theirs}.encoder_attn", "q")
                joined(f"{ours}/attention/linear_1", f"{theirs}.encoder_attn", "kv")
                plain(f"{ours}/attention/linear_2", f"{theirs}.encoder_attn.out_proj")
    return out


def folder(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"lang_ids": [3], "suppress_ids": [5]}))
    (tmp_path / "model.bin").write_bytes(data)
    return tmp_path


def logits(opened: OpenedModel) -> npt.NDArray[np.float32]:
    graph = with_kv_format(opened.graph, KV_FORMATS["f32"])
    executor = ReferenceExecutor(graph, opened.weights, num_blocks=4, max_rows=1)
    noise = np.random.default_rng(1).standard_normal((37, 20)).astype(np.float32)
    executor.encode(0, noise)
    executor.open_row(0, list(range(10)), RowSampling())
    return executor.forward(StepPlan(rows=(PlanRow(0, 10, 0, 10, (0,)),)))


def test_the_same_model_as_its_twin(tmp_path: Path) -> None:
    opened = open_model(folder(tmp_path, written(twin_variables())))
    assert opened.checkpoint.kind == "ct2"
    assert opened.architecture == "WhisperSpec"
    assert opened.config["suppress_ids"] == [5]
    assert not opened.weights.unused
    assert np.allclose(logits(opened), logits(open_model(TWIN)), rtol=1e-5, atol=1e-5)


def test_half_precision_is_read(tmp_path: Path) -> None:
    halves = {
        name: value.astype(np.float16) if value.dtype == np.float32 else value
        for name, value in twin_variables().items()
    }
    opened = open_model(folder(tmp_path, written(halves)))
    assert {weight.format.name for weight in opened.graph.weights} == {"F16"}
    assert np.isfinite(logits(opened)).all()


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ModelError) as raised:
        open_model(folder(tmp_path, data))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_hostile_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = twin_variables()
    without = {k: v for k, v in whole.items() if k != "encoder/layer_1/ffn/linear_0/bias"}
    misshapen = whole | {"decoder/layer_0/ffn/linear_0/weight": np.zeros((40, 31), np.float32)}
    coded = whole | {"encoder/conv2/weight": np.zeros((32, 32, 3), np.int8)}
    for variables, reason in (
        (without, "'encoder.layer_1.ffn.linear_0.bias' is missing"),
        (misshapen, "decoder.layer_0.ffn.linear_0.weight"),
        (coded, "has type I8, which is not supported"),
        (whole | {"decoder/activation": np.array(9, np.int8)}, "activation_function = 'number 9'"),
        (whole | {"decoder/pre_norm": np.array(0, np.int8)}, "norms that stand behind"),
        (whole | {"encoder/num_heads": np.array(-4, np.int16)}, "encoder_attention_heads = -4"),
        (whole | {"extra/weight": np.zeros((2, 2), np.float32)}, "extra.weight"),
    ):
        assert reason in refusal(tmp_path, written(variables))
    for data, reason in (
        (written(whole, version=99), "binary version 99"),
        (written(whole, spec="TransformerSpec"), "'TransformerSpec' is not supported"),
        (written(whole, count=1 << 20), "1048576 variables; at most 65536"),
        (written(whole) + b"more", "4 bytes follow the last variable"),
        (b"\x80\x04pickled", "binary version"),
        (written(whole, spec="a\nb"), "is no name"),
    ):
        assert reason in refusal(tmp_path, data)
    head = struct.pack("<I", 6) + name_bytes("WhisperSpec") + struct.pack("<II", 3, 1)
    shape = struct.pack("<BIIBI", 2, 1 << 31, 1 << 31, 0, 16)
    assert "are not a shape" in refusal(tmp_path, head + name_bytes("a") + shape)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = written({"decoder/embeddings/weight": np.zeros((4, 4), np.float32)})
    for end in range(1, len(data)):
        assert "model.bin" in refusal(tmp_path, data[:end])
