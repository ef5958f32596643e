"""safetensors files, and Hugging Face directories of them: header and index checked, tensors
mapped.

A file is an eight-byte length, a JSON header and the tensors' bytes without a gap. The header is
read here and not by the safetensors package, because that one trusts what it may (a key that stands
twice wins silently). Defined by the README of huggingface/safetensors. Does not know what a tensor
or a key of config.json is for.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Never

from ridgeline.errors import ModelError
from ridgeline.model.weights.contents import (
    Contents,
    Segment,
    TensorInfo,
    map_file,
    quoted,
    segments_of,
)
from ridgeline.model.weights.json_object import (
    INDEX_LIMIT_BYTES,
    parse_json_object,
    read_json_object,
)

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 8
MAX_SIZE = 1 << 48

# Those that are in `model.formats` can be read as numbers; the others are listed and mapped.
DTYPE_BYTES: dict[str, int] = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "BOOL": 1,
    "I8": 1,
    "U8": 1,
    "I16": 2,
    "U16": 2,
    "I32": 4,
    "U32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


def open_directory(path: Path) -> Contents:
    """A Hugging Face directory: config.json and model.safetensors, its shards, or its only file.

    `metadata` is config.json. ModelError names the file, and the field in it.
    """
    config = read_json_object(path / CONFIG)
    single = path / SINGLE
    if not single.exists() and (path / INDEX).exists():
        shards = open_shards(path / INDEX)
        return Contents(config, shards.tensors, shards.segments)
    if not single.exists():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            found = f"{len(files)} .safetensors files and no {INDEX}" if files else "no weights"
            raise ModelError(
                f"{path}: {found}: {SINGLE}, shards with {INDEX}, or a GGUF file is needed "
                "(pickled .bin and .pt files are never read)"
            )
        single = files[0]
    contents = read_safetensors(single)
    return Contents(config, contents.tensors, contents.segments)


def open_file(path: Path) -> Contents:
    """A bare .safetensors file; `metadata` is the config.json beside it, or empty."""
    contents = read_safetensors(path)
    config = path.with_name(CONFIG)
    metadata = read_json_object(config) if config.exists() else {}
    return Contents(metadata, contents.tensors, contents.segments)


def open_shards(index: Path) -> Contents:
    """All tensors of the index, each from the shard that it names. Metadata stays empty."""
    weight_map = read_json_object(index, INDEX_LIMIT_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: weight_map: an object of tensor names and files is needed")
    shards: dict[str, Contents] = {}
    tensors: dict[str, TensorInfo] = {}
    segments: dict[str, Segment] = {}
    for name, file_name in weight_map.items():
        field = f"{index}: weight_map: {quoted(name)}"
        if not isinstance(file_name, str) or not is_plain_name(file_name):
            raise ModelError(f"{field}: the name of a .safetensors file in this folder is needed")
        if file_name not in shards:
            shards[file_name] = read_safetensors(index.with_name(file_name))
        if name not in shards[file_name].tensors:
            raise ModelError(f"{field}: {quoted(file_name)} has no such tensor")
        tensors[name] = shards[file_name].tensors[name]
        segments[name] = shards[file_name].segments[name]
    return Contents({}, tensors, segments)


def is_plain_name(file_name: str) -> bool:
    """Whether it names a shard in the index's own folder and nowhere else."""
    return (
        file_name.endswith(".safetensors")
        and Path(file_name).name == file_name
        and not any(character in file_name for character in "\0\\:")
    )


def read_safetensors(path: Path) -> Contents:
    """One file; its `__metadata__` is checked and dropped: no loader needs it."""
    mapping = map_file(path)
    header, data_start = read_header(path, mapping)
    check_metadata(path, header.pop("__metadata__", {}))
    tensors: dict[str, TensorInfo] = {}
    offsets: dict[str, tuple[int, int]] = {}
    for name, entry in header.items():
        tensors[name], offsets[name] = read_tensor_info(path, name, entry)
    spans = locate(path, offsets, data_start, len(mapping))
    return Contents({}, tensors, segments_of(mapping, spans))


def locate(
    path: Path, offsets: dict[str, tuple[int, int]], data_start: int, size: int
) -> dict[str, tuple[int, int]]:
    """Begin and end of each tensor's bytes in the file, which they must fill without a gap."""
    spans: dict[str, tuple[int, int]] = {}
    end = data_start
    for name in sorted(offsets, key=offsets.__getitem__):
        begin, stop = (data_start + offset for offset in offsets[name])
        field = f"tensor {quoted(name)}: data_offsets"
        if begin < end:
            refuse(path, field, "overlaps the one before")
        if begin > end:
            refuse(path, field, f"leaves a hole after byte {end} of the file")
        if stop > size:
            reason = f"ends at byte {stop} of a file of {size}: it was cut short; download it again"
            refuse(path, field, reason)
        spans[name] = (begin, stop)
        end = stop
    if end != size:
        refuse(path, "header", f"{size - end} bytes at the end of the file belong to no tensor")
    return spans


def refuse(path: Path, field: str, reason: str) -> Never:
    raise ModelError(f"{path}: {field}: {reason}")


def read_header(path: Path, data: mmap.mmap) -> tuple[dict[str, object], int]:
    """The header's object, and where the tensors' bytes begin."""
    if len(data) < LENGTH_BYTES:
        refuse(path, "header length", f"the file has only {len(data)} bytes: download it again")
    header_bytes = int.from_bytes(data[:LENGTH_BYTES], "little")
    if header_bytes > MAX_HEADER_BYTES:
        reason = f"{header_bytes} is more than {MAX_HEADER_BYTES}: this is not a safetensors file"
        refuse(path, "header length", reason)
    data_start = LENGTH_BYTES + header_bytes
    if data_start > len(data):
        reason = f"{header_bytes}, but the file has {len(data)} bytes: it was cut short"
        refuse(path, "header length", f"{reason}; download it again")
    return parse_json_object(data[LENGTH_BYTES:data_start], f"{path}: header"), data_start


def check_metadata(path: Path, metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse(path, "__metadata__", "an object of strings is needed")


def read_tensor_info(path: Path, name: str, entry: object) -> tuple[TensorInfo, tuple[int, int]]:
    """A tensor's description, and where its bytes begin and end, counted from the header's end."""
    field = f"tensor {quoted(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse(path, field, "an object of dtype, shape and data_offsets is needed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        given = quoted(dtype) if isinstance(dtype, str) else f"a JSON {type(dtype).__name__}"
        refuse(path, f"{field}: dtype", f"{given} is not one of {', '.join(DTYPE_BYTES)}")
    if not is_list_of_sizes(shape, MAX_DIMENSIONS):
        reason = f"at most {MAX_DIMENSIONS} integers from 0 to 2**48 are needed"
        refuse(path, f"{field}: shape", reason)
    if not is_list_of_sizes(offsets, 2) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse(
            path, f"{field}: data_offsets", "a begin and an end that is not before it are needed"
        )
    needed, there = math.prod(shape) * DTYPE_BYTES[dtype], offsets[1] - offsets[0]
    if needed != there:
        reason = f"{there} bytes, but {dtype} of shape {shape} takes {needed}"
        refuse(path, f"{field}: data_offsets", reason)
    return TensorInfo(name, tuple(shape), dtype), (offsets[0], offsets[1])


def is_list_of_sizes(value: object, limit: int) -> bool:
    """Whether it is a list of at most `limit` plausible sizes; True and 1.0 are none."""
    return (
        isinstance(value, list)
        and len(value) <= limit
        and all(type(each) is int and 0 <= each <= MAX_SIZE for each in value)
    )
