"""F8_E4M3_128: eight-bit floats with a float32 scale for each 128 along a row, as DeepSeek V3 has.

Files keep one scale for a tile of 128 x 128; here each row of a tile has its own copy of it, so
that a row is whole blocks. E4M3 (Micikevicius et al. 2022, the variant without infinities): a sign,
four bits of exponent with bias 7, three of mantissa; the largest is 448, and all bits set is NaN.
"""

from __future__ import annotations

import numpy as np

from ridgeline.model.formats.format import Bytes, Floats, Format, reciprocal

BLOCK = 128
LARGEST = 448.0


def e4m3_values() -> Floats:
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, (codes & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    values = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    values = np.where((codes & 0x7F) == 0x7F, np.nan, values)
    return np.where(codes >= 128, -values, values).astype(np.float32)


E4M3 = e4m3_values()
POSITIVE = E4M3[:127]


def decode_fp8(blocks: Bytes) -> Floats:
    scales = np.ascontiguousarray(blocks[..., BLOCK:]).view("<f4").astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(E4M3[blocks[..., :BLOCK]] * scales, np.float32)


def encode_fp8(values: Floats) -> Bytes:
    """The scale that puts the largest magnitude on 448, and the nearest codes."""
    scale = (np.abs(values).max(axis=-1, keepdims=True) / np.float32(LARGEST)).astype("<f4")
    scaled = values * reciprocal(scale)
    nearest = np.searchsorted((POSITIVE[1:] + POSITIVE[:-1]) / 2, np.abs(scaled)).astype(np.uint8)
    codes = nearest | np.where((scaled < 0) & (nearest > 0), np.uint8(128), np.uint8(0))
    return np.concatenate([codes, scale.view(np.uint8)], axis=-1)


F8_E4M3_128 = Format(
    name="F8_E4M3_128",
    block_elements=BLOCK,
    block_bytes=BLOCK + 4,
    decode=decode_fp8,
    encode=encode_fp8,
    integers=None,
    relative_error=0.03,
    gguf_type=None,
)
