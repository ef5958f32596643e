"""How a weight's numbers are stored: one `Format` a row, and the three things done with a tensor's
bytes.

To add a format: describe it in a file here and add its row; it is then right everywhere.
Does not know where the bytes came from; files are checked in `model/weights`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ridgeline.errors import ModelError
from ridgeline.model.formats.floats import BF16, F16, F32
from ridgeline.model.formats.format import Bytes, Decomposed, Floats, Format
from ridgeline.model.formats.fp8 import F8_E4M3_128
from ridgeline.model.formats.kquants import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from ridgeline.model.formats.legacy import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from ridgeline.model.formats.nonlinear import IQ4_NL, MXFP4

__all__ = ["FORMATS", "Decomposed", "Format", "decompose", "dequantize", "find_format", "quantize"]

FORMATS: dict[str, Format] = {
    "F32": F32,
    "F16": F16,
    "BF16": BF16,
    "Q4_0": Q4_0,
    "Q4_1": Q4_1,
    "Q5_0": Q5_0,
    "Q5_1": Q5_1,
    "Q8_0": Q8_0,
    "Q2_K": Q2_K,
    "Q3_K": Q3_K,
    "Q4_K": Q4_K,
    "Q5_K": Q5_K,
    "Q6_K": Q6_K,
    "IQ4_NL": IQ4_NL,
    "MXFP4": MXFP4,
    "F8_E4M3_128": F8_E4M3_128,
}

# Elements coded at a time: temporaries then stay in cache and small beside the tensor.
CHUNK_ELEMENTS = 1 << 18


def find_format(name: str) -> Format:
    """The format of this name, or a ModelError that lists what there is."""
    if name not in FORMATS:
        raise ModelError(f"no weight format {name!r}; supported: {', '.join(FORMATS)}")
    return FORMATS[name]


def dequantize(raw: Bytes, format_name: str, shape: tuple[int, ...]) -> Floats:
    """Bytes of a tensor of `shape` (outermost first) -> float32 array of that shape, always a fresh
    one.

    Bit-equal to ggml's decoders. ModelError if the format is unknown or the bytes are not as many
    as the shape needs.
    """
    fmt, blocks = blocks_of(raw, format_name, shape)
    out = np.empty((len(blocks), fmt.block_elements), np.float32)
    step = max(1, CHUNK_ELEMENTS // fmt.block_elements)
    for start in range(0, len(blocks), step):
        out[start : start + step] = fmt.decode(blocks[start : start + step])
    return out.reshape(shape)


def quantize(array: npt.NDArray[np.floating], format_name: str) -> Bytes:
    """Array (outermost first, rows of whole blocks) -> its bytes in the format, 1-D, by plain
    rounding.

    ModelError if a value is not finite, a scale is beyond float16, or rows do not fill whole
    blocks.
    """
    fmt = find_format(format_name)
    out = np.empty(fmt.num_bytes(array.shape), np.uint8).reshape(-1, fmt.block_bytes)
    values = np.ascontiguousarray(array, dtype=np.float32).reshape(-1, fmt.block_elements)
    if not np.isfinite(values).all():
        raise ModelError(f"cannot store as {fmt.name}: the array has values that are not finite")
    step = max(1, CHUNK_ELEMENTS // fmt.block_elements)
    for start in range(0, len(values), step):
        out[start : start + step] = fmt.encode(values[start : start + step])
    return out.reshape(-1)


def decompose(raw: Bytes, format_name: str, shape: tuple[int, ...]) -> Decomposed:
    """A quantized matrix of `shape` (rows, K) as integers, scales and offsets, for a kernel's
    packer.

    q: int8 (rows, K); scale, offset: float32 (rows, K / group). ModelError for formats that store
    floats.
    """
    fmt, blocks = blocks_of(raw, format_name, shape)
    if fmt.integers is None:
        names = [name for name, each in FORMATS.items() if each.integers is not None]
        raise ModelError(f"{fmt.name} stores no integers; formats that do: {', '.join(names)}")
    parts = fmt.integers(blocks)
    groups = (*shape[:-1], shape[-1] // parts.group)
    offset = None if parts.offset is None else parts.offset.reshape(groups)
    return Decomposed(parts.q.reshape(shape), parts.scale.reshape(groups), offset, parts.group)


def blocks_of(raw: Bytes, format_name: str, shape: tuple[int, ...]) -> tuple[Format, Bytes]:
    """The format, and the bytes as (blocks, block_bytes) without a copy."""
    fmt = find_format(format_name)
    needed = fmt.num_bytes(shape)
    if raw.size != needed:
        raise ModelError(
            f"{fmt.name} tensor of shape {shape} needs {needed} bytes, {raw.size} given: "
            "the shape or the format is wrong"
        )
    return fmt, raw.reshape(-1, fmt.block_bytes)
