"""F32, F16 and BF16: a weight is a float of its own; a block is one weight."""

from __future__ import annotations

import numpy as np

from ridgeline.model.formats.format import Bytes, Floats, Format, float_to_half, half_to_float


def decode_f32(blocks: Bytes) -> Floats:
    return np.ascontiguousarray(blocks).view("<f4").astype(np.float32)


def encode_f32(values: Floats) -> Bytes:
    return np.ascontiguousarray(values.astype("<f4")).view(np.uint8)


def decode_f16(blocks: Bytes) -> Floats:
    return half_to_float(np.ascontiguousarray(blocks))


def decode_bf16(blocks: Bytes) -> Floats:
    """bfloat16 is the upper half of a float32."""
    bits = np.ascontiguousarray(blocks).view("<u2").astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


def encode_bf16(values: Floats) -> Bytes:
    """Round to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    bits += np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))
    return (bits >> np.uint64(16)).astype("<u2").view(np.uint8)


F32 = Format(
    name="F32",
    block_elements=1,
    block_bytes=4,
    decode=decode_f32,
    encode=encode_f32,
    integers=None,
    relative_error=0.0,
    gguf_type=0,
)

F16 = Format(
    name="F16",
    block_elements=1,
    block_bytes=2,
    decode=decode_f16,
    encode=float_to_half,
    integers=None,
    relative_error=0.00023,
    gguf_type=1,
)

BF16 = Format(
    name="BF16",
    block_elements=1,
    block_bytes=2,
    decode=decode_bf16,
    encode=encode_bf16,
    integers=None,
    relative_error=0.0018,
    gguf_type=30,
)
