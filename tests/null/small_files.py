"""Small model files, valid and otherwise, as labelled pieces: tests and the fuzzer break them piece
by piece.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    I64: "q",
    F64: "d",
}


@dataclass(frozen=True)
class Piece:
    """Some bytes of a file and what they are.

    label: magic, version, count, length, text, type, value, dimension, offset, padding or data.
    """

    label: str
    data: bytes


@dataclass(frozen=True)
class Tensor:
    """As GGUF has it: dimensions innermost first."""

    name: str
    dimensions: tuple[int, ...]
    type: int
    data: bytes


def u32(label: str, value: int) -> Piece:
    return Piece(label, struct.pack("<I", value))


def u64(label: str, value: int) -> Piece:
    return Piece(label, struct.pack("<Q", value))


def string(text: str | bytes) -> list[Piece]:
    data = text.encode() if isinstance(text, str) else text
    return [u64("length", len(data)), Piece("text", data)]


def value_pieces(kind: int, value: object) -> list[Piece]:
    if kind == STRING:
        assert isinstance(value, str | bytes)
        return string(value)
    if kind == ARRAY:
        assert isinstance(value, tuple)
        inner, items = value
        pieces = [u32("type", inner), u64("count", len(items))]
        for item in items:
            pieces += value_pieces(inner, item)
        return pieces
    return [Piece("value", struct.pack("<" + CODES[kind], value))]


def gguf_pieces(
    metadata: Sequence[tuple[str, int, object]], tensors: Sequence[Tensor], alignment: int = 32
) -> list[Piece]:
    pieces = [
        Piece("magic", b"GGUF"),
        u32("version", 3),
        u64("count", len(tensors)),
        u64("count", len(metadata)),
    ]
    for key, kind, value in metadata:
        pieces += [*string(key), u32("type", kind), *value_pieces(kind, value)]
    offset = 0
    data: list[Piece] = []
    for tensor in tensors:
        pieces += [*string(tensor.name), u32("count", len(tensor.dimensions))]
        pieces += [u64("dimension", each) for each in tensor.dimensions]
        padding = -offset % alignment
        offset += padding
        data += [Piece("padding", bytes(padding)), Piece("data", tensor.data)]
        pieces += [u32("type", tensor.type), u64("offset", offset)]
        offset += len(tensor.data)
    header_bytes = len(joined(pieces))
    return [*pieces, Piece("padding", bytes(-header_bytes % alignment)), *data]


def joined(pieces: Sequence[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def with_piece(pieces: Sequence[Piece], label: str, index: int, data: bytes) -> list[Piece]:
    """The pieces, with the index-th of this label replaced."""
    at = [i for i, piece in enumerate(pieces) if piece.label == label][index]
    return [replace(piece, data=data) if i == at else piece for i, piece in enumerate(pieces)]


def sample_gguf() -> list[Piece]:
    """A file with every metadata type and a few tensors, under 1 kB of header."""
    metadata: list[tuple[str, int, object]] = [
        ("general.architecture", STRING, "llama"),
        ("general.alignment", U32, 32),
        ("a.u8", U8, 200),
        ("a.i8", I8, -3),
        ("a.u16", U16, 65535),
        ("a.i16", I16, -300),
        ("a.i32", I32, -70000),
        ("a.f32", F32, 0.5),
        ("a.bool", BOOL, True),
        ("a.u64", U64, 1 << 40),
        ("a.i64", I64, -(1 << 40)),
        ("a.f64", F64, 1e-300),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, ("<s>", "", "é", "a b", "x" * 130))),
        ("tokenizer.ggml.scores", ARRAY, (F32, (0.0, -1.5, 2.25))),
        ("tokenizer.ggml.token_type", ARRAY, (I32, (1, 2, 3, 6))),
        ("a.flags", ARRAY, (BOOL, (True, False))),
        ("a.none", ARRAY, (STRING, ())),
    ]
    tensors = [
        Tensor("norm.weight", (3,), 0, struct.pack("<3f", 1.0, -2.0, 0.5)),
        Tensor("half.weight", (2, 3), 1, struct.pack("<6e", *range(6))),
        Tensor("q8.weight", (32, 2), 8, b"".join(b"\x00\x3c" + bytes(range(32)) for _ in "ab")),
        Tensor("q4.weight", (256,), 12, bytes(range(144))),
    ]
    return gguf_pieces(metadata, tensors)


def safetensors_bytes(header: Mapping[str, object] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def sample_safetensors() -> tuple[dict[str, object], bytes]:
    """Header and data of a valid file with four tensors in three dtypes, one of them empty."""
    matrix = struct.pack("<6f", *range(6))
    vector = struct.pack("<4H", 0x3F80, 0xBF80, 0x4000, 0x0000)
    scalar = struct.pack("<e", 0.25)
    header: dict[str, object] = {
        "__metadata__": {"format": "pt"},
        "vector": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "matrix": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "scalar": {"dtype": "F16", "shape": [], "data_offsets": [32, 34]},
        "empty": {"dtype": "F32", "shape": [0, 4], "data_offsets": [34, 34]},
    }
    return header, matrix + vector + scalar
