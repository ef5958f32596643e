"""safetensors files and Hugging Face directories: read as their package writes them, refused by
name if broken.
"""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_files import safetensors_bytes, sample_safetensors

from ridgeline.errors import ModelError
from ridgeline.model.weights.checkpoint import Checkpoint, open_checkpoint
from ridgeline.model.weights.json_object import parse_json_object, read_json_object

INDEX = "model.safetensors.index.json"


def open_bytes(folder: Path, data: bytes) -> Checkpoint:
    path = folder / "m.safetensors"
    path.write_bytes(data)
    return open_checkpoint(path)


def test_reads_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "b": rng.standard_normal((3, 5)).astype(np.float32),
        "a": rng.standard_normal((2, 2, 2)).astype(np.float16),
        "c": np.arange(7, dtype=np.int8),
        "s": np.array(3.5, np.float32),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"format": "np"})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.kind == "safetensors"
        assert dict(checkpoint.metadata) == {}
        assert {n: (i.shape, i.format) for n, i in checkpoint.tensors.items()} == {
            "b": ((3, 5), "F32"),
            "a": ((2, 2, 2), "F16"),
            "c": ((7,), "I8"),
            "s": ((), "F32"),
        }
        for name in "bas":
            np.testing.assert_array_equal(checkpoint.read(name), tensors[name].astype(np.float32))
        assert checkpoint.raw("c").view(np.int8).tolist() == list(range(7))
        with pytest.raises(ModelError, match="tensor 'c': I8 cannot be read as numbers yet; supp"):
            checkpoint.read("c")


def test_own_sample_is_read_whole(tmp_path: Path) -> None:
    checkpoint = open_bytes(tmp_path, safetensors_bytes(*sample_safetensors()))
    assert list(checkpoint.tensors) == ["vector", "matrix", "scalar", "empty"]
    assert checkpoint.read("vector").tolist() == [1, -1, 2, 0]
    assert checkpoint.read("matrix").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert checkpoint.read("scalar") == 0.25
    assert checkpoint.read("empty").shape == (0, 4)
    raw = checkpoint.raw("matrix")
    assert not raw.flags.owndata
    assert not raw.flags.writeable


def test_cut_short_anywhere(tmp_path: Path) -> None:
    data = safetensors_bytes(*sample_safetensors())
    for size in range(len(data)):
        with pytest.raises(ModelError, match=r"m\.safetensors"):
            open_bytes(tmp_path, data[:size])


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    header, data = sample_safetensors()
    change(header)
    return safetensors_bytes(header, data)


def field(tensor: str, key: str, value: object) -> bytes:
    return edited(lambda header: header[tensor].update({key: value}))


TEXT = json.dumps(sample_safetensors()[0]).encode()
DATA = sample_safetensors()[1]

HOSTILE: dict[str, tuple[bytes, str]] = {
    "header length huge": (struct.pack("<Q", 1 << 63) + bytes(64), "header length: .* not a safe"),
    "header length beyond": (struct.pack("<Q", 65) + bytes(64), "header length: 65, but the file"),
    "header empty": (safetensors_bytes(b"", b""), "header: not valid JSON"),
    "header not UTF-8": (safetensors_bytes(b'{"\xff": 1}', b""), "header: not UTF-8 at byte 2"),
    "header a list": (safetensors_bytes(b"[]", b""), "header: a JSON object is needed, not list"),
    "header open": (safetensors_bytes(b'{"a": {', b""), "header: not valid JSON"),
    "header deep": (safetensors_bytes(b'{"a":' * 50_000, b""), "header: nested too deeply"),
    "header lists deep": (safetensors_bytes(b"[" * 200_000, b""), "header: nested too deeply"),
    "header many digits": (
        safetensors_bytes(b'{"a": %s}' % (b"9" * 5000), b""),
        "header: not valid JSON: Exceeds",
    ),
    "header of empty lists": (
        safetensors_bytes(b'{"a":[' + b"[]," * (1 << 20) + b"[]]}", b""),
        "header: more than 1048576 values",
    ),
    "header NaN": (safetensors_bytes(b'{"a": NaN}', b""), "header: NaN is not a number"),
    "key twice": (
        safetensors_bytes(TEXT[:-1] + b', "matrix": {}}', DATA),
        "header: key 'matrix' stands twice",
    ),
    "field twice": (
        safetensors_bytes(TEXT.replace(b'"shape": [4]', b'"shape": [4], "shape": [4]'), DATA),
        "header: key 'shape' stands twice",
    ),
    "metadata": (
        edited(lambda h: h.update(__metadata__=[1])),
        "__metadata__: an object of strings",
    ),
    "metadata value": (
        edited(lambda h: h.update(__metadata__={"a": 1})),
        "__metadata__: an object of strings",
    ),
    "tensor a number": (edited(lambda h: h.update(matrix=1)), "tensor 'matrix': an object of"),
    "tensor without shape": (
        edited(lambda h: h["matrix"].pop("shape")),
        "tensor 'matrix': an object of dtype, shape and data_offsets",
    ),
    "dtype": (field("matrix", "dtype", "F33"), "'matrix': dtype: 'F33' is not one of F32,"),
    "dtype not a string": (
        field("matrix", "dtype", 32),
        "'matrix': dtype: a JSON int is not one of",
    ),
    "dtype wider": (field("matrix", "dtype", "F64"), "24 bytes, but F64 of shape .* takes 48"),
    "shape other": (field("matrix", "shape", [2, 4]), "24 bytes, but F32 of shape .* takes 32"),
    "shape negative": (field("matrix", "shape", [-2, -3]), "'matrix': shape: at most 8 integers"),
    "shape fraction": (field("matrix", "shape", [2.0, 3]), "'matrix': shape: at most"),
    "shape boolean": (field("matrix", "shape", [True, 6]), "'matrix': shape: at most"),
    "shape huge": (field("matrix", "shape", [1 << 200]), "'matrix': shape: at most"),
    "shape product huge": (field("matrix", "shape", [1 << 47] * 8), "data_offsets: 24 bytes, but"),
    "shape of too many": (field("matrix", "shape", [1] * 9), "'matrix': shape: at most"),
    "shape a string": (field("matrix", "shape", "23"), "'matrix': shape: at most"),
    "offsets reversed": (field("matrix", "data_offsets", [24, 0]), "data_offsets: a begin and"),
    "offsets of one": (field("matrix", "data_offsets", [24]), "data_offsets: a begin and"),
    "offsets of three": (field("matrix", "data_offsets", [0, 24, 24]), "data_offsets: a begin and"),
    "offsets negative": (field("matrix", "data_offsets", [-24, 0]), "data_offsets: a begin and"),
    "offsets null": (field("matrix", "data_offsets", None), "data_offsets: a begin and"),
    "overlap": (field("vector", "data_offsets", [20, 28]), "'vector': data_offsets: overlaps"),
    "hole": (edited(lambda h: h.pop("vector")), "'scalar': data_offsets: leaves a hole after byte"),
    "beyond": (field("scalar", "data_offsets", [1 << 40, (1 << 40) + 2]), "leaves a hole"),
    "bytes at the end": (
        safetensors_bytes(TEXT, DATA + b"\0"),
        "header: 1 bytes at the end of the file belong to no tensor",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=message) as caught:
            open_bytes(tmp_path, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(tmp_path / "m.safetensors") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < (1 << 20) + 4 * len(data)


def save_directory(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "limit": [0.0, Infinity]}')
    save_file({"a": np.ones((2, 2), np.float32)}, folder / "model-00001-of-00002.safetensors")
    save_file(
        {"b": np.zeros(3, np.float16), "extra": np.zeros(1, np.float32)},
        folder / "model-00002-of-00002.safetensors",
    )
    write_index(
        folder, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    )


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_sharded_directory(tmp_path: Path) -> None:
    save_directory(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.kind == "safetensors"
    assert checkpoint.metadata == {"model_type": "llama", "limit": [0.0, float("inf")]}
    assert list(checkpoint.tensors) == ["a", "b"]
    assert checkpoint.read("a").tolist() == [[1, 1], [1, 1]]
    assert checkpoint.read("b").tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors"])
def test_directory_with_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    (tmp_path / name).write_bytes(safetensors_bytes(*sample_safetensors()))
    for path in (tmp_path, tmp_path / name):
        checkpoint = open_checkpoint(path)
        assert checkpoint.metadata == {"model_type": "qwen2"}
        assert len(checkpoint.tensors) == 4


def test_directories_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot be read: No such file"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no weights: model\.safetensors, shards with"):
        open_checkpoint(tmp_path)
    for name in ("a", "b"):
        save_file({"a": np.ones(1, np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"2 \.safetensors files and no model\.safetensors\.index"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "weight_map: an object of tensor names and files is needed"),
        ({}, "weight_map: an object of tensor names"),
        ([1], "weight_map: an object of tensor names"),
        ({"a": 3}, "weight_map: 'a': the name of a .safetensors file in this folder"),
        ({"a": "../x.safetensors"}, "weight_map: 'a': the name of"),
        ({"a": "/etc/x.safetensors"}, "weight_map: 'a': the name of"),
        ({"a": "..\\x.safetensors"}, "weight_map: 'a': the name of"),
        ({"a": "x\0.safetensors"}, "weight_map: 'a': the name of"),
        ({"a": "model.bin"}, "weight_map: 'a': the name of"),
        ({"a": "gone.safetensors"}, r"gone\.safetensors: cannot be read: No such file"),
        ({"z": "model-00001-of-00002.safetensors"}, "weight_map: 'z': .* has no such tensor"),
    ],
)
def test_hostile_indices(tmp_path: Path, weight_map: object, message: str) -> None:
    save_directory(tmp_path)
    write_index(tmp_path, weight_map)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def test_json_from_outside_is_bounded_and_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"pad": "x" * 1000}))
    assert read_json_object(path, 2000) == {"pad": "x" * 1000}
    with pytest.raises(ModelError, match=r"config\.json: larger than 1000 bytes"):
        read_json_object(path, 1000)
    path.write_text('{"a": 1,}')
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        read_json_object(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelError, match="not a regular file"):
        read_json_object(path)
    pair = f'"{"k" * 200}": 1'
    with pytest.raises(ModelError, match=r"cfg: key 'k{80}'\.\.\. \(200 characters\) stands twice"):
        parse_json_object(f"{{{pair}, {pair}}}".encode(), "cfg")
