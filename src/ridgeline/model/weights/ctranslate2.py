"""CTranslate2 models: a folder with model.bin, config.json and a tokenizer; all checked.

model.bin is a binary version, the name and revision of a "spec" (the architecture), a count, and
for each variable its name (a length of 16 bits and bytes that end with zero), rank, sizes, type,
length in bytes and bytes; then pairs of names for variables that are another one. Defined by
`src/models/model.cc` of OpenNMT/CTranslate2. Names come with dots for its slashes. What an
architecture must know and config.json does not say is read off scalars and shapes and given in
the words of a Hugging Face configuration. Does not know how a graph is built.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from ridgeline.errors import ModelError
from ridgeline.model.weights.contents import (
    Contents,
    MappedFile,
    TensorInfo,
    map_file,
    quoted,
    segments_of,
)
from ridgeline.model.weights.json_object import read_json_object

MODEL = "model.bin"
CONFIG = "config.json"
VERSIONS = (5, 6)
MAX_VARIABLES = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_DIMENSIONS = 4

# Safetensors' names of types, and bytes.
TYPES: dict[int, tuple[str, int]] = {
    0: ("F32", 4),
    1: ("I8", 1),
    2: ("I16", 2),
    3: ("I32", 4),
    4: ("F16", 2),
    5: ("BF16", 2),
}
SCALARS = {"I8": "<b", "I16": "<h", "I32": "<i"}
ACTIVATIONS = {0: "relu", 1: "gelu_new", 2: "silu", 3: "gelu"}

Scalars = Mapping[str, int]


def is_ctranslate2(path: Path) -> bool:
    """Whether a folder has weights of this kind, and none of safetensors."""
    return (path / MODEL).is_file() and not any(path.glob("*.safetensors"))


def open_ctranslate2(path: Path) -> Contents:
    """`metadata` is config.json and what the file says besides. ModelError names file and field."""
    file = path / MODEL
    config = read_json_object(path / CONFIG)
    cursor = Cursor(file, map_file(file))
    version = cursor.number("I", "binary version")
    if version not in VERSIONS:
        raise ModelError(
            f"{file}: binary version {version}: a CTranslate2 model of version "
            f"{' or '.join(map(str, VERSIONS))} is needed (pickled .bin files are never read)"
        )
    spec, _ = cursor.text("spec"), cursor.number("I", "revision")
    tensors: dict[str, TensorInfo] = {}
    spans: dict[str, tuple[int, int]] = {}
    scalars: dict[str, int] = {}
    for _ in range(cursor.count("variables", MAX_VARIABLES)):
        read_variable(cursor, tensors, spans, scalars)
    for _ in range(cursor.count("aliases", MAX_VARIABLES)):
        alias, name = cursor.text("alias"), cursor.text("variable")
        if name.replace("/", ".") not in spans:
            raise ModelError(f"{file}: {quoted(alias)} is {quoted(name)}, which is not there")
    if cursor.at != len(cursor.data):
        raise ModelError(f"{file}: {len(cursor.data) - cursor.at} bytes follow the last variable")
    said = {"architectures": [spec], **config_of(file, tensors, scalars)}
    return Contents({**config, **said}, tensors, segments_of(cursor.data, spans))


def read_variable(
    cursor: Cursor,
    tensors: dict[str, TensorInfo],
    spans: dict[str, tuple[int, int]],
    scalars: dict[str, int],
) -> None:
    name = cursor.text("name of a variable").replace("/", ".")
    where = f"{cursor.file}: {quoted(name)}"
    if name in tensors or name in scalars:
        raise ModelError(f"{where} stands twice")
    rank = cursor.number("B", f"rank of {quoted(name)}")
    if rank > MAX_DIMENSIONS:
        raise ModelError(f"{where} has {rank} dimensions; at most {MAX_DIMENSIONS} are known")
    shape = tuple(cursor.number("I", f"size of {quoted(name)}") for _ in range(rank))
    kind = cursor.number("B", f"type of {quoted(name)}")
    if kind not in TYPES:
        raise ModelError(f"{where} has type {kind}; known are 0 to {max(TYPES)}")
    format_name, each = TYPES[kind]
    size = cursor.number("I", f"length of {quoted(name)}")
    elements = 1
    for extent in shape:
        elements *= extent
    if not elements or size != elements * each:
        raise ModelError(f"{where}: {size} bytes of {format_name} are not a shape {shape}")
    start = cursor.skip(size, f"data of {quoted(name)}")
    if rank == 0:
        if format_name in SCALARS:
            scalars[name] = struct.unpack_from(SCALARS[format_name], cursor.data, start)[0]
        return
    if name.rpartition(".")[2].startswith("alignment_"):
        return  # which heads tell when a word is spoken: no weights
    tensors[name] = TensorInfo(name, shape, format_name)
    spans[name] = (start, start + size)


def config_of(file: Path, tensors: Mapping[str, TensorInfo], scalars: Scalars) -> dict[str, object]:
    """Sizes of an encoder and a decoder, as far as they are told; what lacks is found missing."""

    def size(name: str, dim: int) -> int | None:
        info = tensors.get(name)
        return info.shape[dim] if info is not None and dim < len(info.shape) else None

    def layers(of: str) -> int:
        norm = "self_attention.layer_norm.gamma"
        return sum(name.startswith(f"{of}.layer_") and name.endswith(norm) for name in tensors)

    activation = scalars.get("decoder.activation", 3)
    found: dict[str, object] = {
        "model_type": "whisper",
        "d_model": size("decoder.embeddings.weight", 1),
        "vocab_size": size("decoder.embeddings.weight", 0),
        "num_mel_bins": size("encoder.conv1.weight", 1),
        "max_source_positions": size("encoder.position_encodings.encodings", 0),
        "max_target_positions": size("decoder.position_encodings.encodings", 0),
        "activation_function": ACTIVATIONS.get(activation, f"number {activation}"),
        "scale_embedding": bool(scalars.get("decoder.scale_embeddings", 0)),
    }
    for of in ("encoder", "decoder"):
        heads = scalars.get(f"{of}.num_heads")
        found[f"{of}_layers"] = layers(of)
        found[f"{of}_ffn_dim"] = size(f"{of}.layer_0.ffn.linear_0.weight", 0)
        found[f"{of}_attention_heads"] = heads
        if not scalars.get(f"{of}.pre_norm", 1):
            raise ModelError(f"{file}: {of}/pre_norm = 0: norms that stand behind are not built")
    return {name: value for name, value in found.items() if value is not None}


class Cursor:
    """Reads on from a place in a mapped file; no length is believed before it is compared."""

    def __init__(self, file: Path, data: MappedFile) -> None:
        self.file = file
        self.data = data
        self.at = 0

    def skip(self, size: int, what: str) -> int:
        """Where `size` bytes begin that are there."""
        if size > len(self.data) - self.at:
            raise ModelError(
                f"{self.file}: {what}: {size} bytes at {self.at} of {len(self.data)}: the file is "
                "cut short or broken"
            )
        self.at += size
        return self.at - size

    def number(self, kind: str, what: str) -> int:
        start = self.skip(struct.calcsize(f"<{kind}"), what)
        return int(struct.unpack_from(f"<{kind}", self.data, start)[0])

    def count(self, what: str, most: int) -> int:
        count = self.number("I", what)
        if count > most:
            raise ModelError(f"{self.file}: {count} {what}; at most {most} are believed")
        return count

    def text(self, what: str) -> str:
        size = self.number("H", what)
        if not 1 <= size <= MAX_NAME_BYTES:
            raise ModelError(f"{self.file}: {what}: a name of {size} bytes")
        start = self.skip(size, what)
        raw = self.data[start : start + size]
        try:
            text = raw[:-1].decode("ascii")
        except UnicodeDecodeError:
            text = ""
        if raw[-1] != 0 or not text.isprintable() or not text:
            raise ModelError(f"{self.file}: {what}: {quoted(repr(raw))} is no name")
        return text
