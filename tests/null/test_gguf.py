"""GGUF files: what the gguf package writes is read back; what is broken is refused by name."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as oracle_dequantize
from small_files import (
    ARRAY,
    BOOL,
    I32,
    STRING,
    U8,
    U16,
    U32,
    Piece,
    Tensor,
    gguf_pieces,
    joined,
    sample_gguf,
    u64,
    with_piece,
)

from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS, quantize
from ridgeline.model.weights.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from ridgeline.model.weights.gguf_metadata import StringArray

HUGE = struct.pack("<Q", (1 << 63) + 5)


def open_bytes(folder: Path, data: bytes | Sequence[Piece], name: str = "m.gguf") -> Checkpoint:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else joined(data))
    return open_checkpoint(path)


def written(path: Path, fill: Callable[[gguf.GGUFWriter], None]) -> Checkpoint:
    writer = gguf.GGUFWriter(path, "llama")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_checkpoint(path)


def test_reads_every_format_that_the_gguf_package_writes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    names = [name for name, each in FORMATS.items() if each.gguf_type is not None]
    stored = {name: quantize(values, name) for name in names}

    def fill(writer: gguf.GGUFWriter) -> None:
        for name, raw in stored.items():
            kind = gguf.GGMLQuantizationType[name]
            writer.add_tensor(f"{name}.weight", raw.reshape(3, -1), raw_dtype=kind)

    with written(tmp_path / "all.gguf", fill) as checkpoint:
        assert checkpoint.kind == "gguf"
        assert list(checkpoint.tensors) == [f"{name}.weight" for name in names]
        for name, raw in stored.items():
            info = checkpoint.tensors[f"{name}.weight"]
            assert info == TensorInfo(f"{name}.weight", (3, 512), name)
            np.testing.assert_array_equal(checkpoint.raw(info.name), raw)
            oracle = oracle_dequantize(raw.reshape(3, -1), gguf.GGMLQuantizationType[name])
            np.testing.assert_array_equal(checkpoint.read(info.name), oracle.reshape(3, 512))


def test_reads_every_metadata_type_that_the_gguf_package_writes(tmp_path: Path) -> None:
    tokens = ["<s>", "é", "", "日本", "x" * 300]

    def fill(writer: gguf.GGUFWriter) -> None:
        writer.add_uint8("u8", 255)
        writer.add_int8("i8", -128)
        writer.add_uint16("u16", 65535)
        writer.add_int16("i16", -32768)
        writer.add_uint32("u32", 2**32 - 1)
        writer.add_int32("i32", -(2**31))
        writer.add_float32("f32", 1.5)
        writer.add_bool("yes", True)
        writer.add_bool("no", False)
        writer.add_string("text", "naïve")
        writer.add_uint64("u64", 2**64 - 1)
        writer.add_int64("i64", -(2**63))
        writer.add_float64("f64", 0.1)
        writer.add_array("tokens", tokens)
        writer.add_array("floats", [0.5, -1.25])
        writer.add_array("ints", [3, -1, 7])
        writer.add_array("flags", [True, False, True])

    metadata = written(tmp_path / "kv.gguf", fill).metadata
    plain = {k: v for k, v in metadata.items() if isinstance(v, int | float | str)}
    assert plain == {
        "general.architecture": "llama",
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -32768,
        "u32": 2**32 - 1,
        "i32": -(2**31),
        "f32": 1.5,
        "yes": True,
        "no": False,
        "text": "naïve",
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f64": 0.1,
    }
    assert type(plain["yes"]) is bool
    strings = metadata["tokens"]
    assert isinstance(strings, StringArray)
    assert list(strings) == strings.tolist() == tokens
    assert (len(strings), strings[1], strings[-1], strings[1:4]) == (5, "é", "x" * 300, tokens[1:4])
    with pytest.raises(IndexError):
        strings[5]
    for key, expected in (("floats", [0.5, -1.25]), ("ints", [3, -1, 7]), ("flags", [1, 0, 1])):
        array = metadata[key]
        assert isinstance(array, np.ndarray)
        assert array.tolist() == expected


def test_own_sample_is_read_whole(tmp_path: Path) -> None:
    checkpoint = open_bytes(tmp_path, sample_gguf())
    shapes = {name: (info.shape, info.format) for name, info in checkpoint.tensors.items()}
    assert shapes == {
        "norm.weight": ((3,), "F32"),
        "half.weight": ((3, 2), "F16"),
        "q8.weight": ((2, 32), "Q8_0"),
        "q4.weight": ((256,), "Q4_K"),
    }
    np.testing.assert_array_equal(checkpoint.read("half.weight"), [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(checkpoint.read("q8.weight"), np.tile(np.arange(32), (2, 1)))
    assert list(checkpoint.metadata["a.none"]) == []  # type: ignore[call-overload]


@pytest.mark.parametrize("version", [2, 3])
def test_versions(tmp_path: Path, version: int) -> None:
    pieces = with_piece(sample_gguf(), "version", 0, struct.pack("<I", version))
    assert len(open_bytes(tmp_path, pieces).tensors) == 4


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_alignment_is_that_of_the_file(tmp_path: Path, alignment: int) -> None:
    tensors = [Tensor(name, (2,), 0, struct.pack("<2f", i, 7)) for i, name in enumerate("abc")]
    pieces = gguf_pieces([("general.alignment", U32, alignment)], tensors, alignment)
    checkpoint = open_bytes(tmp_path, pieces)
    assert [checkpoint.read(name).tolist() for name in "abc"] == [[0, 7], [1, 7], [2, 7]]


def test_raw_is_a_read_only_view_of_the_file_and_outlives_close(tmp_path: Path) -> None:
    checkpoint = open_bytes(tmp_path, sample_gguf())
    raw = checkpoint.raw("q4.weight")
    assert raw.dtype == np.uint8
    assert raw.ndim == 1
    assert not raw.flags.owndata
    assert not raw.flags.writeable
    assert np.shares_memory(raw, checkpoint.raw("q4.weight"))
    assert checkpoint.read("q4.weight").flags.writeable
    checkpoint.close()
    assert raw.tobytes() == bytes(range(144))
    with pytest.raises(ModelError, match="closed"):
        checkpoint.raw("q4.weight")


def resident_file_bytes() -> int:
    """Pages of files that this process holds, whether on disk or in a memory-backed folder."""
    status = Path("/proc/self/status").read_text()
    found = re.findall(r"Rss(?:File|Shmem):\s+(\d+) kB", status)
    return sum(map(int, found)) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_released_tensors_leave_memory_and_come_back(tmp_path: Path) -> None:
    size = 16 << 20
    data = np.arange(size // 4, dtype=np.uint32).tobytes()
    tensors = [Tensor("a", (size // 4,), 0, data), Tensor("b", (2,), 0, bytes(8))]
    checkpoint = open_bytes(tmp_path, gguf_pieces([], tensors))
    before = resident_file_bytes()
    total = int(checkpoint.raw("a").sum(dtype=np.int64))
    assert resident_file_bytes() - before > size // 2
    checkpoint.release("a")
    checkpoint.release("b")
    assert resident_file_bytes() - before < size // 4
    assert int(checkpoint.raw("a").sum(dtype=np.int64)) == total


def test_scalars_and_no_tensors(tmp_path: Path) -> None:
    one = open_bytes(tmp_path, gguf_pieces([], [Tensor("s", (), 0, struct.pack("<f", 2.5))]))
    assert one.tensors["s"].shape == ()
    assert one.read("s") == np.float32(2.5)
    none = open_bytes(tmp_path, gguf_pieces([("k", U8, 1)], []), "none.gguf")
    assert (dict(none.tensors), dict(none.metadata)) == ({}, {"k": 1})


def test_kind_is_found_by_content_not_by_name(tmp_path: Path) -> None:
    assert open_bytes(tmp_path, sample_gguf(), "weights.bin").kind == "gguf"


def test_cut_short_anywhere(tmp_path: Path) -> None:
    data = joined(sample_gguf())
    for size in range(len(data)):
        with pytest.raises(ModelError, match=r"m\.gguf"):
            open_bytes(tmp_path, data[:size])


def broken(label: str, index: int, data: bytes) -> list[Piece]:
    return with_piece(sample_gguf(), label, index, data)


def two_tensors(first: Tensor, second: Tensor) -> list[Piece]:
    return gguf_pieces([], [first, second])


def one_key(kind: int, *pieces: Piece) -> list[Piece]:
    """A file with metadata 'k' of this type, whose value is the pieces."""
    start = gguf_pieces([("k", U8, 0)], [])
    at = next(i for i, piece in enumerate(start) if piece.label == "type")
    head = [*start[:at], Piece("type", struct.pack("<I", kind)), *pieces]
    return [*head, Piece("padding", bytes(64))]


def type_piece(kind: int) -> Piece:
    return Piece("type", struct.pack("<I", kind))


PLAIN = Tensor("a", (2,), 0, bytes(8))

HOSTILE: dict[str, tuple[list[Piece] | bytes, str]] = {
    "magic": (broken("magic", 0, b"GGML"), "magic: b'GGML' is not b'GGUF'"),
    "big-endian": (broken("version", 0, struct.pack(">I", 3)), "version: the file is big-endian"),
    "version 1": (broken("version", 0, struct.pack("<I", 1)), "version: GGUF v1 is obsolete"),
    "version 0": (broken("version", 0, bytes(4)), "GGUF v0 is not known; supported: v2, v3"),
    "version 4": (broken("version", 0, struct.pack("<I", 4)), "GGUF v4 is not known"),
    "tensor count huge": (broken("count", 0, HUGE), "tensor count: .* is absurd"),
    "tensor count beyond": (broken("count", 0, struct.pack("<Q", 1 << 15)), "tensor count: needs"),
    "tensor count off by one": (broken("count", 0, struct.pack("<Q", 5)), "tensor"),
    "key count huge": (broken("count", 1, HUGE), "metadata count: .* is absurd"),
    "key count beyond": (broken("count", 1, struct.pack("<Q", 9999)), "metadata count: needs"),
    "key length": (broken("length", 0, HUGE), "metadata key 0: a string of"),
    "key length beyond": (
        broken("length", 0, struct.pack("<Q", 60000)),
        "key 0: needs 60000 bytes",
    ),
    "key not UTF-8": (broken("text", 0, b"\xff" * 20), "metadata key 0: .* not UTF-8"),
    "key empty": (gguf_pieces([("", U8, 1)], []), "metadata key 0: is empty"),
    "key twice": (gguf_pieces([("k", U8, 1), ("k", U8, 2)], []), "metadata 'k': stands twice"),
    "string length": (
        broken("length", 1, HUGE),
        "metadata 'general.architecture': a string of",
    ),
    "string not UTF-8": (
        gguf_pieces([("k", STRING, b"\xc3")], []),
        "metadata 'k': .* is not UTF-8",
    ),
    "value type": (one_key(13), "metadata 'k': value type 13 is not known"),
    "boolean": (one_key(BOOL, Piece("value", b"\x02")), "metadata 'k': a boolean is 0 or 1"),
    "array type": (
        one_key(ARRAY, type_piece(99), u64("count", 1)),
        "metadata 'k': array element type 99",
    ),
    "array of arrays": (
        one_key(ARRAY, type_piece(ARRAY), u64("count", 1)),
        "metadata 'k': an array of arrays is not supported",
    ),
    "array count": (
        one_key(ARRAY, type_piece(I32), Piece("count", HUGE)),
        "metadata 'k': .* is absurd",
    ),
    "array count beyond": (
        one_key(ARRAY, type_piece(I32), u64("count", 40)),
        "metadata 'k': needs 160 bytes",
    ),
    "array of booleans": (
        one_key(ARRAY, type_piece(BOOL), u64("count", 2), Piece("value", b"\x01\x05")),
        "metadata 'k': a boolean is 0 or 1",
    ),
    "strings count": (
        one_key(ARRAY, type_piece(STRING), u64("count", 1 << 30)),
        "metadata 'k': .* is absurd",
    ),
    "strings count beyond": (
        one_key(ARRAY, type_piece(STRING), u64("count", 100)),
        "metadata 'k': needs 800 bytes",
    ),
    "string beyond": (
        one_key(ARRAY, type_piece(STRING), u64("count", 3), u64("length", 0), u64("length", 500)),
        "metadata 'k': string 1 of 3 reaches beyond",
    ),
    "string of 2**64 - 1": (
        one_key(ARRAY, type_piece(STRING), u64("count", 1), u64("length", (1 << 64) - 1)),
        "metadata 'k': string 0 of 1 reaches beyond",
    ),
    "alignment zero": (
        gguf_pieces([("general.alignment", U32, 0)], [PLAIN]),
        "'general.alignment': an integer in",
    ),
    "alignment odd": (
        gguf_pieces([("general.alignment", U32, 48)], [PLAIN]),
        "'general.alignment': 48 is not a power of two",
    ),
    "alignment text": (
        gguf_pieces([("general.alignment", STRING, "32")], [PLAIN]),
        "'general.alignment': an integer in",
    ),
    "tensor name empty": (two_tensors(Tensor("", (2,), 0, bytes(8)), PLAIN), "tensor 0: is empty"),
    "tensor name long": (
        two_tensors(Tensor("n" * 2000, (2,), 0, bytes(8)), PLAIN),
        "name of tensor 0: a string of 2000 bytes",
    ),
    "tensor twice": (two_tensors(PLAIN, PLAIN), "tensor 'a': stands twice"),
    "dimensions": (
        two_tensors(Tensor("b", (1, 1, 1, 1, 2), 0, bytes(8)), PLAIN),
        "tensor 'b': 5 dimensions",
    ),
    "dimension zero": (
        two_tensors(Tensor("b", (0, 2), 0, b""), PLAIN),
        "tensor 'b': the shape .* is empty",
    ),
    "dimension huge": (broken("dimension", 0, HUGE), "tensor 'norm.weight': .* absurd"),
    "product wraps to nothing": (
        two_tensors(Tensor("b", (1 << 32, 1 << 32), 0, b""), PLAIN),
        "tensor 'b': .* absurd",
    ),
    "dimension beyond": (
        broken("dimension", 0, struct.pack("<Q", 10**9)),
        "tensor 'norm.weight': .* reach beyond",
    ),
    "dimension more": (broken("dimension", 0, struct.pack("<Q", 9)), "overlaps tensor"),
    "row not whole blocks": (
        broken("dimension", 3, struct.pack("<Q", 31)),
        "tensor 'q8.weight': a row of 31 elements does not fill whole Q8_0 blocks",
    ),
    "type not supported": (
        two_tensors(Tensor("b", (256,), 16, bytes(66)), PLAIN),
        r"tensor 'b': type 16 \(IQ2_XXS\) is not supported; supported: F32, .*MXFP4",
    ),
    "type unknown": (
        two_tensors(Tensor("b", (256,), 4, bytes(66)), PLAIN),
        r"tensor 'b': type 4 \(unknown\) is not supported",
    ),
    "offset odd": (broken("offset", 1, struct.pack("<Q", 33)), "offset 33 is not a multiple of 32"),
    "offset beyond": (broken("offset", 1, struct.pack("<Q", 1 << 62)), "reach beyond the file's"),
    "offset huge": (broken("offset", 1, struct.pack("<Q", (1 << 64) - 32)), "reach beyond"),
    "overlap": (broken("offset", 1, bytes(8)), "overlaps tensor"),
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
    assert str(tmp_path / "m.gguf") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 1 << 20


def test_strings_that_are_not_utf8_are_refused_when_asked_for(tmp_path: Path) -> None:
    strings = open_bytes(
        tmp_path, gguf_pieces([("k", ARRAY, (STRING, (b"ok", b"\x80")))], [])
    ).metadata["k"]
    assert isinstance(strings, StringArray)
    assert strings[0] == "ok"
    for ask in (strings.tolist, lambda: strings[1], lambda: list(strings)):
        with pytest.raises(ModelError, match=r"m\.gguf: metadata 'k': string 1 is not UTF-8"):
            ask()


def test_what_is_not_a_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf: cannot be read: No such file"):
        open_checkpoint(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="cannot be read"):
        open_checkpoint(tmp_path / "nul\0.gguf")
    with pytest.raises(ModelError, match="the file is empty"):
        open_bytes(tmp_path, b"")
    with pytest.raises(ModelError, match="magic: needs 4 bytes"):
        open_bytes(tmp_path, b"GG")
    with pytest.raises(ModelError, match="pickle, which is never read"):
        open_bytes(tmp_path, b"PK\x03\x04 and so on", "pytorch_model.bin")
    with pytest.raises(ModelError, match="of no kind known here: give a GGUF file"):
        open_bytes(tmp_path, b"hello, world", "notes.txt")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match="not a regular file"):
        open_checkpoint(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match="no tensor 'b' among 1"):
        open_bytes(tmp_path, gguf_pieces([], [PLAIN])).raw("b")


def write_parts(folder: Path) -> list[Path]:
    """Three parts with two tensors each, by the gguf package."""
    writer = gguf.GGUFWriter(folder / "big.gguf", "llama", split_max_tensors=2)
    writer.add_uint32("llama.block_count", 3)
    for i in range(6):
        writer.add_tensor(f"t{i}", np.full((2, 4), i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("big-*.gguf"))


def test_any_part_opens_all(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    assert [part.name for part in parts] == [f"big-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for part in parts:
        checkpoint = open_checkpoint(part)
        assert list(checkpoint.tensors) == [f"t{i}" for i in range(6)]
        assert checkpoint.metadata["llama.block_count"] == 3
        for i in range(6):
            np.testing.assert_array_equal(checkpoint.read(f"t{i}"), np.full((2, 4), i))


def part_bytes(number: object, count: int, total: int, name: str, kind: int = U16) -> bytes:
    metadata = [("split.no", kind, number), ("split.count", U16, count)]
    metadata.append(("split.tensors.count", I32, total))
    return joined(gguf_pieces(metadata, [Tensor(name, (2,), 0, bytes(8))]))


def test_parts_that_do_not_fit_together(tmp_path: Path) -> None:
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    first.write_bytes(part_bytes(0, 2, 2, "a"))
    with pytest.raises(ModelError, match=r"1 of the model's 2 parts are missing: download m-00002"):
        open_checkpoint(first)

    def second_is(data: bytes, message: str) -> None:
        second.write_bytes(data)
        for each in (first, second):
            with pytest.raises(ModelError, match=message):
                open_checkpoint(each)

    second_is(part_bytes(1, 2, 2, "a"), "tensor 'a' stands in an earlier part too")
    second_is(part_bytes(0, 2, 2, "b"), r"00002-of-00002\.gguf: metadata 'split.no': 1 is needed")
    second_is(part_bytes("1", 2, 2, "b", STRING), "'split.no': an integer")
    second.write_bytes(part_bytes(1, 3, 2, "b"))
    with pytest.raises(ModelError, match=r"00002-of-00002\.gguf: metadata 'split.count'"):
        open_checkpoint(first)
    second.write_bytes(part_bytes(1, 2, 2, "b"))
    assert list(open_checkpoint(second).tensors) == ["a", "b"]
    first.write_bytes(part_bytes(0, 2, 7, "a"))
    with pytest.raises(ModelError, match=r"'split\.tensors\.count': '7', but the parts hold 2"):
        open_checkpoint(second)
    renamed = tmp_path / "renamed.gguf"
    renamed.write_bytes(part_bytes(0, 2, 2, "a"))
    with pytest.raises(ModelError, match=r"must end in -00001-of-00002\.gguf"):
        open_checkpoint(renamed)
