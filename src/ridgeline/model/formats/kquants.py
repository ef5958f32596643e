"""Q2_K .. Q6_K: 256 weights in groups of 16 or 32; the groups' scales are small integers under one
float16.

Q2_K, Q4_K, Q5_K are affine: weight = (d * s) * q - (dmin * m), with q >= 0. Q3_K and Q6_K are
symmetric: weight = (d * s) * q, with s and q signed. Codes are spread over planes: the bytes of a
plane hold the low bits of the first 32 (or 64) weights, the next bits those of the following ones,
and so on; further bits lie in planes of their own.
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

BLOCK = 256


def unpack_planes(packed: Bytes, bits: int, plane: int) -> Codes:
    """(..., n) -> (..., n * 8 / bits): each run of `plane` bytes gives its lowest bits first, then
    the next ones.
    """
    planes = 8 // bits
    runs = packed.reshape(*packed.shape[:-1], -1, plane)
    codes = np.empty((*runs.shape[:-1], planes, plane), np.uint8)
    mask = np.uint8((1 << bits) - 1)
    for i in range(planes):
        np.right_shift(runs, np.uint8(i * bits), out=codes[..., i, :])
    codes &= mask
    return codes.reshape(*packed.shape[:-1], -1).view(np.int8)


def pack_planes(codes: Codes, bits: int, plane: int) -> Bytes:
    """The inverse of `unpack_planes`; bits of a code beyond `bits` are dropped."""
    planes = 8 // bits
    mask = np.uint8((1 << bits) - 1)
    runs = codes.view(np.uint8).reshape(*codes.shape[:-1], -1, planes, plane) & mask
    packed = np.zeros((*runs.shape[:-2], plane), np.uint8)
    for i in range(planes):
        packed |= runs[..., i, :] << np.uint8(i * bits)
    return packed.reshape(*codes.shape[:-1], -1)


def q45_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Twelve bytes -> eight six-bit scales and eight six-bit minima (Q4_K, Q5_K).

    Bytes 0..3 hold scales 0..3, bytes 4..7 minima 0..3, in their low six bits. Bytes 8..11 hold the
    low four bits of scales 4..7 (low halves) and minima 4..7 (high halves); their upper two bits
    are the upper two of bytes 0..7.
    """
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    six, four, two = np.uint8(0x3F), np.uint8(0x0F), np.uint8(0x30)
    scales = np.concatenate([first & six, (third & four) | ((first >> 2) & two)], axis=-1)
    minima = np.concatenate([second & six, (third >> 4) | ((second >> 2) & two)], axis=-1)
    return scales, minima


def pack_q45_scales(scales: Bytes, minima: Bytes) -> Bytes:
    """The inverse of `q45_scales`."""
    first = scales[..., :4] | ((scales[..., 4:] >> 4) << 6)
    second = minima[..., :4] | ((minima[..., 4:] >> 4) << 6)
    third = (scales[..., 4:] & np.uint8(0x0F)) | (minima[..., 4:] << 4)
    return np.concatenate([first, second, third], axis=-1)


def q3_scales(packed: Bytes) -> Codes:
    """Twelve bytes -> sixteen six-bit scales, -32..31: bytes 0..7 hold low halves, bytes 8..11 the
    upper two bits.
    """
    low = unpack_planes(packed[..., :8], 4, 8)
    low |= unpack_planes(packed[..., 8:], 2, 4) << np.int8(4)
    low -= np.int8(32)
    return low


def pack_q3_scales(scales: Codes) -> Bytes:
    """The inverse of `q3_scales`."""
    unsigned = scales + np.int8(32)
    low = pack_planes(unsigned, 4, 8)
    return np.concatenate([low, pack_planes(unsigned >> np.int8(4), 2, 4)], axis=-1)


def scaled(d: Bytes, scales: Bytes | Codes) -> Floats:
    """float16 (..., 2) times integers (..., groups), in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return half_to_float(d) * scales.astype(np.float32)


def q2_k_integers(blocks: Bytes) -> Decomposed:
    """Bytes: 16 of scale (low half) and minimum (high half), 64 of codes, d, dmin."""
    both = blocks[..., :16]
    scale = scaled(blocks[..., 80:82], both & np.uint8(15))
    offset = -scaled(blocks[..., 82:84], both >> np.uint8(4))
    return Decomposed(unpack_planes(blocks[..., 16:80], 2, 32), scale, offset, 16)


def q3_k_integers(blocks: Bytes) -> Decomposed:
    """Bytes: 32 of third bits (a set bit means no -4), 64 of two-bit codes, 12 of scales, d."""
    q = unpack_planes(blocks[..., 32:96], 2, 32)
    q += unpack_planes(blocks[..., :32], 1, 32) << np.int8(2)
    q -= np.int8(4)
    return Decomposed(q, scaled(blocks[..., 108:110], q3_scales(blocks[..., 96:108])), None, 16)


def q4_k_integers(blocks: Bytes) -> Decomposed:
    """Bytes: d, dmin, 12 of scales and minima, 128 of codes."""
    scales, minima = q45_scales(blocks[..., 4:16])
    q = unpack_planes(blocks[..., 16:], 4, 32)
    return Decomposed(q, scaled(blocks[..., :2], scales), -scaled(blocks[..., 2:4], minima), 32)


def q5_k_integers(blocks: Bytes) -> Decomposed:
    """Bytes: d, dmin, 12 of scales and minima, 32 of fifth bits, 128 of four-bit codes."""
    scales, minima = q45_scales(blocks[..., 4:16])
    q = unpack_planes(blocks[..., 48:], 4, 32)
    q |= unpack_planes(blocks[..., 16:48], 1, 32) << np.int8(4)
    return Decomposed(q, scaled(blocks[..., :2], scales), -scaled(blocks[..., 2:4], minima), 32)


def q6_k_integers(blocks: Bytes) -> Decomposed:
    """Bytes: 128 of four-bit codes, 64 of upper two bits, 16 signed scales, d."""
    q = unpack_planes(blocks[..., :128], 4, 64)
    q |= unpack_planes(blocks[..., 128:192], 2, 32) << np.int8(4)
    q -= np.int8(32)
    return Decomposed(q, scaled(blocks[..., 208:210], blocks[..., 192:208].view(np.int8)), None, 16)


def affine(
    values: Floats, group: int, top: int, scale_top: int
) -> tuple[Bytes, Bytes, Bytes, Bytes, Codes]:
    """d, dmin (..., 2), scales, minima (..., groups) and codes (..., 256), from each group's range,
    which includes 0.
    """
    groups = values.reshape(*values.shape[:-1], -1, group)
    low = np.minimum(groups.min(axis=-1), 0)
    span = (np.maximum(groups.max(axis=-1), 0) - low) / np.float32(top)
    d, d_stored = stored_half(span.max(axis=-1, keepdims=True) / np.float32(scale_top))
    dmin, dmin_stored = stored_half(-low.min(axis=-1, keepdims=True) / np.float32(scale_top))
    scales = to_codes(span * reciprocal(d), 0, scale_top)
    minima = to_codes(-low * reciprocal(dmin), 0, scale_top)
    above = groups + (dmin * minima.astype(np.float32))[..., None]
    q = to_codes(above * reciprocal(d * scales.astype(np.float32))[..., None], 0, top)
    return (
        d_stored,
        dmin_stored,
        scales.view(np.uint8),
        minima.view(np.uint8),
        q.reshape(values.shape),
    )


def symmetric(values: Floats, levels: int, scale_levels: int) -> tuple[Bytes, Codes, Codes]:
    """d (..., 2), scales (..., 16) and codes (..., 256); each group's extreme lands on -levels."""
    groups = values.reshape(*values.shape[:-1], -1, 16)
    wanted = extreme(groups)[..., 0] / np.float32(-levels)
    d, d_stored = stored_half(extreme(wanted) / np.float32(-scale_levels))
    scales = to_codes(wanted * reciprocal(d), -scale_levels, scale_levels - 1)
    step = reciprocal(d * scales.astype(np.float32))
    q = to_codes(groups * step[..., None], -levels, levels - 1)
    return d_stored, scales, q.reshape(values.shape)


def encode_q2_k(values: Floats) -> Bytes:
    d, dmin, scales, minima, q = affine(values, 16, 3, 15)
    return np.concatenate(
        [scales | (minima << np.uint8(4)), pack_planes(q, 2, 32), d, dmin], axis=-1
    )


def encode_q3_k(values: Floats) -> Bytes:
    d, scales, q = symmetric(values, 4, 32)
    q += np.int8(4)
    third = pack_planes(q >> np.int8(2), 1, 32)
    return np.concatenate([third, pack_planes(q, 2, 32), pack_q3_scales(scales), d], axis=-1)


def encode_q4_k(values: Floats) -> Bytes:
    d, dmin, scales, minima, q = affine(values, 32, 15, 63)
    return np.concatenate(
        [d, dmin, pack_q45_scales(scales, minima), pack_planes(q, 4, 32)], axis=-1
    )


def encode_q5_k(values: Floats) -> Bytes:
    d, dmin, scales, minima, q = affine(values, 32, 31, 63)
    fifth = pack_planes(q >> np.int8(4), 1, 32)
    return np.concatenate(
        [d, dmin, pack_q45_scales(scales, minima), fifth, pack_planes(q, 4, 32)], axis=-1
    )


def encode_q6_k(values: Floats) -> Bytes:
    d, scales, q = symmetric(values, 32, 128)
    q += np.int8(32)
    upper = pack_planes(q >> np.int8(4), 2, 32)
    return np.concatenate([pack_planes(q, 4, 64), upper, scales.view(np.uint8), d], axis=-1)


Q2_K = Format(
    name="Q2_K",
    block_elements=BLOCK,
    block_bytes=84,
    decode=decode_integers(q2_k_integers),
    encode=encode_q2_k,
    integers=q2_k_integers,
    relative_error=0.36,
    gguf_type=10,
)

Q3_K = Format(
    name="Q3_K",
    block_elements=BLOCK,
    block_bytes=110,
    decode=decode_integers(q3_k_integers),
    encode=encode_q3_k,
    integers=q3_k_integers,
    relative_error=0.17,
    gguf_type=11,
)

Q4_K = Format(
    name="Q4_K",
    block_elements=BLOCK,
    block_bytes=144,
    decode=decode_integers(q4_k_integers),
    encode=encode_q4_k,
    integers=q4_k_integers,
    relative_error=0.086,
    gguf_type=12,
)

Q5_K = Format(
    name="Q5_K",
    block_elements=BLOCK,
    block_bytes=176,
    decode=decode_integers(q5_k_integers),
    encode=encode_q5_k,
    integers=q5_k_integers,
    relative_error=0.042,
    gguf_type=13,
)

Q6_K = Format(
    name="Q6_K",
    block_elements=BLOCK,
    block_bytes=210,
    decode=decode_integers(q6_k_integers),
    encode=encode_q6_k,
    integers=q6_k_integers,
    relative_error=0.021,
    gguf_type=14,
)
