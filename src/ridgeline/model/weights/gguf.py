"""GGUF v2 and v3, little-endian, whole or split into parts: header, metadata, tensors, all checked.

The file is mapped and its tensors are views of the mapping: opening costs the header only. Nothing
in it is trusted: each count, length and offset is compared with the file before it is used, and
what fails is named in a ModelError. Defined by `docs/gguf.md` of ggml. Does not know architectures
or what a key or a tensor is for.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS
from ridgeline.model.weights.contents import (
    Contents,
    Segment,
    TensorInfo,
    map_file,
    quoted,
    segments_of,
)
from ridgeline.model.weights.gguf_metadata import MAX_KEYS, U32, U64, Cursor, read_metadata

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20

# The least that a key-value pair and a tensor's description take: their lengths, types, counts.
MIN_PAIR_BYTES = 8 + 1 + 4 + 1
MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8

FORMAT_OF_TYPE = {each.gguf_type: each for each in FORMATS.values() if each.gguf_type is not None}

# Known to ggml and without a codec here, so that the message can say which it is.
OTHER_TYPES: dict[int, str] = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    40: "NVFP4",
    41: "Q1_0",
}

PART_NAME = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.DOTALL)


def open_gguf(path: Path) -> Contents:
    """The file, or all parts of the split model that it is a part of. ModelError names file and
    field.
    """
    contents = read_gguf(path)
    parts = split_number(path, contents, "split.count", 1)
    return contents if parts <= 1 else join_parts(path, contents, parts)


def read_gguf(path: Path) -> Contents:
    """One GGUF file by itself, whether or not it is a part of more."""
    mapping = map_file(path)
    cursor = Cursor(memoryview(mapping), path)
    read_magic_and_version(cursor)
    num_tensors = cursor.number(U64, "tensor count")
    if num_tensors > MAX_TENSORS:
        cursor.refuse("tensor count", f"{num_tensors} is absurd: at most {MAX_TENSORS} are read")
    num_keys = cursor.count("metadata count", MIN_PAIR_BYTES, MAX_KEYS)
    metadata = read_metadata(cursor, num_keys)
    cursor.need(num_tensors * MIN_TENSOR_BYTES, "tensor count")
    tensors: dict[str, TensorInfo] = {}
    offsets: dict[str, int] = {}
    for i in range(num_tensors):
        info, offset = read_tensor_info(cursor, i)
        if info.name in tensors:
            cursor.refuse(f"tensor {quoted(info.name)}", "stands twice")
        tensors[info.name] = info
        offsets[info.name] = offset
    alignment = read_alignment(cursor, metadata)
    data_start = -(-cursor.position // alignment) * alignment
    spans = locate(cursor, tensors, offsets, data_start, alignment)
    return Contents(metadata, tensors, segments_of(mapping, spans))


def read_magic_and_version(cursor: Cursor) -> None:
    cursor.need(len(MAGIC), "magic")
    if cursor.data[: len(MAGIC)] != MAGIC:
        found = bytes(cursor.data[: len(MAGIC)])
        cursor.refuse("magic", f"{found!r} is not {MAGIC!r}: this is not a GGUF file")
    cursor.position = len(MAGIC)
    version = cursor.number(U32, "version")
    if version in VERSIONS:
        return
    if version and version & 0xFFFF == 0:
        cursor.refuse("version", "the file is big-endian: convert it to little-endian")
    if version == 1:
        cursor.refuse("version", "GGUF v1 is obsolete: convert the file to v3")
    cursor.refuse("version", f"GGUF v{version} is not known; supported: v2, v3")


def read_tensor_info(cursor: Cursor, index: int) -> tuple[TensorInfo, int]:
    """A tensor's description and its offset in the data; GGUF lists dimensions innermost first."""
    name = cursor.string(f"name of tensor {index}", MAX_NAME_BYTES)
    if not name:
        cursor.refuse(f"name of tensor {index}", "is empty")
    field = f"tensor {quoted(name)}"
    num_dimensions = cursor.number(U32, field)
    if num_dimensions > MAX_DIMENSIONS:
        cursor.refuse(field, f"{num_dimensions} dimensions: at most {MAX_DIMENSIONS} are supported")
    inner_first = [cursor.number(U64, field) for _ in range(num_dimensions)]
    shape = tuple(reversed(inner_first))
    if 0 in shape or math.prod(shape) >= 1 << 63:
        cursor.refuse(field, f"the shape {shape} is empty or absurd")
    kind = cursor.number(U32, field)
    if kind not in FORMAT_OF_TYPE:
        named = OTHER_TYPES.get(kind, "unknown")
        cursor.refuse(
            field,
            f"type {kind} ({named}) is not supported; supported: {', '.join(FORMATS)}",
        )
    offset = cursor.number(U64, field)
    return TensorInfo(name, shape, FORMAT_OF_TYPE[kind].name), offset


def read_alignment(cursor: Cursor, metadata: dict[str, object]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT:
        cursor.refuse("metadata 'general.alignment'", f"an integer in 1..{MAX_ALIGNMENT} is needed")
    if alignment & (alignment - 1):
        cursor.refuse("metadata 'general.alignment'", f"{alignment} is not a power of two")
    return alignment


def locate(
    cursor: Cursor,
    tensors: dict[str, TensorInfo],
    offsets: dict[str, int],
    data_start: int,
    alignment: int,
) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes begin and end: inside the file, aligned, apart from one another."""
    size = len(cursor.data)
    spans: dict[str, tuple[int, int]] = {}
    last_end, last_name = 0, ""
    for name in sorted(tensors, key=offsets.__getitem__):
        info, offset = tensors[name], offsets[name]
        field = f"tensor {quoted(name)}"
        try:
            num_bytes = FORMATS[info.format].num_bytes(info.shape)
        except ModelError as error:
            cursor.refuse(field, str(error))
        if offset % alignment:
            cursor.refuse(field, f"its offset {offset} is not a multiple of {alignment}")
        if data_start + offset + num_bytes > size:
            cursor.refuse(
                field,
                f"its {num_bytes} bytes at byte {data_start + offset} reach beyond the file's "
                f"{size}: it is damaged or was cut short; download it again",
            )
        if offset < last_end:
            cursor.refuse(field, f"overlaps tensor {quoted(last_name)}")
        last_end, last_name = offset + num_bytes, name
        spans[name] = (data_start + offset, data_start + last_end)
    return spans


def split_number(path: Path, contents: Contents, key: str, default: int) -> int:
    """An integer of the metadata that says how a model is split."""
    value = contents.metadata.get(key, default)
    if type(value) is not int or value < 0:
        raise ModelError(f"{path}: metadata {key!r}: an integer that is not negative is needed")
    return value


def join_parts(path: Path, given: Contents, parts: int) -> Contents:
    """All parts of a split model as one: the first part's metadata, everyone's tensors."""
    match = PART_NAME.fullmatch(path.name)
    if match is None or int(match["parts"]) != parts:
        raise ModelError(
            f"{path}: metadata 'split.count': the file is one of {parts} parts, so its name must "
            f"end in -00001-of-{parts:05}.gguf or the like: restore the names"
        )
    paths = [
        path.with_name(f"{match['stem']}-{part:05}-of-{parts:05}.gguf")
        for part in range(1, parts + 1)
    ]
    missing = [each.name for each in paths if not each.exists()]
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} of the model's {parts} parts are missing: "
            f"download {missing[0]}"
        )
    metadata = given.metadata
    tensors: dict[str, TensorInfo] = {}
    segments: dict[str, Segment] = {}
    for i, each in enumerate(paths):
        contents = given if each == path else read_gguf(each)
        if split_number(each, contents, "split.count", 0) != parts:
            raise ModelError(f"{each}: metadata 'split.count': other parts say {parts}")
        if split_number(each, contents, "split.no", 0) != i:
            raise ModelError(f"{each}: metadata 'split.no': {i} is needed, as in the file's name")
        if i == 0:
            metadata = contents.metadata
        for name in contents.tensors:
            if name in tensors:
                raise ModelError(f"{each}: tensor {quoted(name)} stands in an earlier part too")
        tensors.update(contents.tensors)
        segments.update(contents.segments)
    total = metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise ModelError(
            f"{paths[0]}: metadata 'split.tensors.count': {quoted(str(total))}, "
            f"but the parts hold {len(tensors)}"
        )
    return Contents(metadata, tensors, segments)
