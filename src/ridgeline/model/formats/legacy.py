"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: 32 weights share one float16 scale, and the `_1` formats a float16
minimum too.

Layouts (bytes): scale 2, [minimum 2], [fifth bits 4], codes. Four-bit codes: byte i holds weight i
in its low half and weight i + 16 in its high half. Fifth bits: bit i of the little-endian word
belongs to weight i.
"""

from __future__ import annotations

import numpy as np

from ridgeline.model.formats.format import (
    Bytes,
    Codes,
    Decomposed,
    Floats,
    Format,
    decode_integers,
    extreme,
    half_to_float,
    reciprocal,
    stored_half,
    to_codes,
)

BLOCK = 32


def unpack_halves(packed: Bytes) -> Codes:
    """(..., 16) -> (..., 32): low halves, then high halves, 0..15."""
    q = np.empty((*packed.shape[:-1], BLOCK), np.int8)
    q[..., :16] = packed & np.uint8(15)
    q[..., 16:] = packed >> np.uint8(4)
    return q


def pack_halves(codes: Codes) -> Bytes:
    """(..., 32) in 0..15 -> (..., 16)."""
    unsigned = codes.view(np.uint8)
    return unsigned[..., :16] | (unsigned[..., 16:] << np.uint8(4))


def unpack_fifth_bits(word: Bytes) -> Codes:
    """(..., 4) -> (..., 32): 0 or 16."""
    bits = np.unpackbits(np.ascontiguousarray(word), axis=-1, bitorder="little")
    bits <<= np.uint8(4)
    return bits.view(np.int8)


def pack_fifth_bits(codes: Codes) -> Bytes:
    """(..., 32) in 0..31 -> (..., 4)."""
    return np.packbits(codes.view(np.uint8) >> np.uint8(4), axis=-1, bitorder="little")


def q4_0_integers(blocks: Bytes) -> Decomposed:
    q = unpack_halves(blocks[..., 2:])
    q -= np.int8(8)
    return Decomposed(q, half_to_float(blocks[..., :2]), None, BLOCK)


def q4_1_integers(blocks: Bytes) -> Decomposed:
    q = unpack_halves(blocks[..., 4:])
    return Decomposed(q, half_to_float(blocks[..., :2]), half_to_float(blocks[..., 2:4]), BLOCK)


def q5_0_integers(blocks: Bytes) -> Decomposed:
    q = unpack_halves(blocks[..., 6:])
    q |= unpack_fifth_bits(blocks[..., 2:6])
    q -= np.int8(16)
    return Decomposed(q, half_to_float(blocks[..., :2]), None, BLOCK)


def q5_1_integers(blocks: Bytes) -> Decomposed:
    q = unpack_halves(blocks[..., 8:])
    q |= unpack_fifth_bits(blocks[..., 4:8])
    return Decomposed(q, half_to_float(blocks[..., :2]), half_to_float(blocks[..., 2:4]), BLOCK)


def q8_0_integers(blocks: Bytes) -> Decomposed:
    q = np.ascontiguousarray(blocks[..., 2:]).view(np.int8)
    return Decomposed(q, half_to_float(blocks[..., :2]), None, BLOCK)


def symmetric(values: Floats, levels: int) -> tuple[Bytes, Codes]:
    """The extreme value lands on -levels, where there is one code more; codes come as 0 .. 2 levels
    - 1.
    """
    scale, stored = stored_half(extreme(values) / np.float32(-levels))
    q = to_codes(values * reciprocal(scale), -levels, levels - 1)
    q += np.int8(levels)
    return stored, q


def affine(values: Floats, top: int) -> tuple[Bytes, Codes]:
    """Minimum and scale from the block's range; codes 0 .. top."""
    low = values.min(axis=-1, keepdims=True)
    scale, stored_scale = stored_half((values.max(axis=-1, keepdims=True) - low) / np.float32(top))
    minimum, stored_minimum = stored_half(low)
    q = to_codes((values - minimum) * reciprocal(scale), 0, top)
    return np.concatenate([stored_scale, stored_minimum], axis=-1), q


def encode_q4_0(values: Floats) -> Bytes:
    stored, q = symmetric(values, 8)
    return np.concatenate([stored, pack_halves(q)], axis=-1)


def encode_q4_1(values: Floats) -> Bytes:
    stored, q = affine(values, 15)
    return np.concatenate([stored, pack_halves(q)], axis=-1)


def encode_q5_0(values: Floats) -> Bytes:
    stored, q = symmetric(values, 16)
    return np.concatenate([stored, pack_fifth_bits(q), pack_halves(q & np.int8(15))], axis=-1)


def encode_q5_1(values: Floats) -> Bytes:
    stored, q = affine(values, 31)
    return np.concatenate([stored, pack_fifth_bits(q), pack_halves(q & np.int8(15))], axis=-1)


def encode_q8_0(values: Floats) -> Bytes:
    """Codes in -127 .. 127, so that a code's negative is a code."""
    scale, stored = stored_half(np.abs(values).max(axis=-1, keepdims=True) / np.float32(127))
    q = to_codes(values * reciprocal(scale), -127, 127)
    return np.concatenate([stored, q.view(np.uint8)], axis=-1)


Q4_0 = Format(
    name="Q4_0",
    block_elements=BLOCK,
    block_bytes=18,
    decode=decode_integers(q4_0_integers),
    encode=encode_q4_0,
    integers=q4_0_integers,
    relative_error=0.095,
    gguf_type=2,
)

Q4_1 = Format(
    name="Q4_1",
    block_elements=BLOCK,
    block_bytes=20,
    decode=decode_integers(q4_1_integers),
    encode=encode_q4_1,
    integers=q4_1_integers,
    relative_error=0.086,
    gguf_type=3,
)

Q5_0 = Format(
    name="Q5_0",
    block_elements=BLOCK,
    block_bytes=22,
    decode=decode_integers(q5_0_integers),
    encode=encode_q5_0,
    integers=q5_0_integers,
    relative_error=0.047,
    gguf_type=6,
)

Q5_1 = Format(
    name="Q5_1",
    block_elements=BLOCK,
    block_bytes=24,
    decode=decode_integers(q5_1_integers),
    encode=encode_q5_1,
    integers=q5_1_integers,
    relative_error=0.042,
    gguf_type=7,
)

Q8_0 = Format(
    name="Q8_0",
    block_elements=BLOCK,
    block_bytes=34,
    decode=decode_integers(q8_0_integers),
    encode=encode_q8_0,
    integers=q8_0_integers,
    relative_error=0.0059,
    gguf_type=8,
)
