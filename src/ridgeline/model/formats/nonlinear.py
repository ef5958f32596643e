"""IQ4_NL and MXFP4: a four-bit code names one of sixteen values of a table; 32 weights share a
scale.

IQ4_NL: float16 scale, then 16 bytes of codes; the table is ggml's `kvalues_iq4nl`. MXFP4 (OCP
Microscaling 1.0): a power of two (E8M0) and E2M1 floats; their values are kept doubled so that they
are integers, and the scale is halved. Codes lie as in Q4_0: low halves are weights 0..15, high
halves 16..31.
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
)
from ridgeline.model.formats.legacy import BLOCK, pack_halves, unpack_halves

IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)
E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
E8M0_BIAS = 127


def nearest(values: Floats, ascending: Codes) -> Codes:
    """Index of the table's entry that is nearest to each value."""
    table = ascending.astype(np.float32)
    return np.searchsorted((table[1:] + table[:-1]) / 2, values).astype(np.int8)


def iq4_nl_integers(blocks: Bytes) -> Decomposed:
    q = IQ4_NL_VALUES[unpack_halves(blocks[..., 2:])]
    return Decomposed(q, half_to_float(blocks[..., :2]), None, BLOCK)


def encode_iq4_nl(values: Floats) -> Bytes:
    """The scale that puts the extreme on -127, then the least-squares scale of the codes which that
    gives.
    """
    first, _ = stored_half(extreme(values) / np.float32(IQ4_NL_VALUES[0]))
    v = IQ4_NL_VALUES[nearest(values * reciprocal(first), IQ4_NL_VALUES)].astype(np.float32)
    fitted = (values * v).sum(axis=-1, keepdims=True) / (v * v).sum(axis=-1, keepdims=True)
    scale, stored = stored_half(fitted)
    codes = nearest(values * reciprocal(scale), IQ4_NL_VALUES)
    return np.concatenate([stored, pack_halves(codes)], axis=-1)


def mxfp4_integers(blocks: Bytes) -> Decomposed:
    q = E2M1_DOUBLED[unpack_halves(blocks[..., 1:])]
    exponent = blocks[..., :1].astype(np.int32) - (E8M0_BIAS + 1)
    return Decomposed(q, np.ldexp(np.float32(1), exponent), None, BLOCK)


def encode_mxfp4(values: Floats) -> Bytes:
    """The scale of the OCP specification: the extreme's exponent less that of E2M1's largest value,
    6.
    """
    _, exponent = np.frexp(np.abs(values).max(axis=-1, keepdims=True))
    stored = np.clip(exponent - 1 - 2 + E8M0_BIAS, 0, 254)
    doubled = np.ldexp(values, E8M0_BIAS + 1 - stored)
    codes = nearest(np.abs(doubled), E2M1_DOUBLED[:8])
    codes |= np.where((doubled < 0) & (codes > 0), np.int8(8), np.int8(0))
    return np.concatenate([stored.astype(np.uint8), pack_halves(codes)], axis=-1)


IQ4_NL = Format(
    name="IQ4_NL",
    block_elements=BLOCK,
    block_bytes=18,
    decode=decode_integers(iq4_nl_integers),
    encode=encode_iq4_nl,
    integers=iq4_nl_integers,
    relative_error=0.085,
    gguf_type=20,
)

MXFP4 = Format(
    name="MXFP4",
    block_elements=BLOCK,
    block_bytes=17,
    decode=decode_integers(mxfp4_integers),
    encode=encode_mxfp4,
    integers=mxfp4_integers,
    relative_error=0.128,
    gguf_type=39,
)
