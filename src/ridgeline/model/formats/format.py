"""What a weight's number format is, as data: bits, block, bytes, error bound, and its codec in
NumPy.

A quantized format is described by one function, `integers`, that splits its blocks into small
integers, a scale and an offset per group; decoding is then `scale * q + offset` in float32 for all
of them, and a kernel's packer starts from the same three arrays. The formats are those of ggml
(`ggml-common.h` lays the blocks out).

Does not know: tensors, files, names, and how any backend stores a weight after loading it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgeline.errors import ModelError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Decomposed:
    """Weights as `scale * q + offset`, one scale (and offset) for each `group` neighbours of the
    last axis.

    q: int8 (..., K); scale: float32 (..., K / group); offset: the same, or None where it is zero
    throughout. The product and the sum rounded to float32 in that order are the decoded weight, bit
    for bit.
    """

    q: Codes
    scale: Floats
    offset: Floats | None
    group: int


@dataclass(frozen=True, slots=True)
class Format:
    """One number format.

    decode: uint8 (..., block_bytes) -> float32 (..., block_elements)
    encode: float32 (..., block_elements) -> uint8 (..., block_bytes); plain rounding, finite input
    integers: uint8 (..., block_bytes) -> Decomposed; None for formats that store floats
    relative_error: bound of |decode(encode(x)) - x| / |x|, 2-norm, for standard normal x of
        4,096 values or more
    gguf_type: the number that stands for it in a GGUF file (enum ggml_type); None: nothing does
    """

    name: str
    block_elements: int
    block_bytes: int
    decode: Callable[[Bytes], Floats]
    encode: Callable[[Floats], Bytes]
    integers: Callable[[Bytes], Decomposed] | None
    relative_error: float
    gguf_type: int | None

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_elements

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this shape (outermost first); ModelError if its rows do not fill
        whole blocks.
        """
        row = shape[-1] if shape else 1
        if row % self.block_elements:
            raise ModelError(
                f"a row of {row} elements does not fill whole {self.name} blocks of "
                f"{self.block_elements}: the shape or the format is wrong"
            )
        return math.prod(shape) // self.block_elements * self.block_bytes


def decode_integers(integers: Callable[[Bytes], Decomposed]) -> Callable[[Bytes], Floats]:
    """The decoder of a format that is described by its integers."""

    def decode(blocks: Bytes) -> Floats:
        parts = integers(blocks)
        groups = parts.q.reshape(*parts.scale.shape, parts.group).astype(np.float32)
        # Scales come from files: infinities and NaN are values here, not accidents.
        with np.errstate(over="ignore", invalid="ignore"):
            groups *= parts.scale[..., None]
            if parts.offset is not None:
                groups += parts.offset[..., None]
        return groups.reshape(parts.q.shape)

    return decode


def half_to_float(half: Bytes) -> Floats:
    """Little-endian float16 as bytes (..., 2) -> float32 (..., 1)."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return half.view("<f2").astype(np.float32)


def float_to_half(values: Floats) -> Bytes:
    """float32 (..., n) -> little-endian float16 bytes (..., 2 n); ModelError beyond float16's
    range.
    """
    largest = np.finfo(np.float16).max
    if values.size and not np.abs(values).max() <= largest:
        raise ModelError(
            f"a value or a scale of a block is not within float16's range, ±{largest:.0f}: "
            "store this tensor as BF16 or F32"
        )
    return np.ascontiguousarray(values.astype("<f2")).view(np.uint8)


def stored_half(values: Floats) -> tuple[Floats, Bytes]:
    """Scales as they will be read back, and their bytes."""
    half = float_to_half(values)
    return half_to_float(half), half


def reciprocal(values: Floats) -> Floats:
    """1 / x, and 0 where x is 0: a block of zeros has scale 0 and codes 0."""
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=values != 0)


def extreme(values: Floats) -> Floats:
    """(..., n) -> (..., 1): the value of largest magnitude, with its sign."""
    at = np.abs(values).argmax(axis=-1, keepdims=True)
    return np.take_along_axis(values, at, axis=-1)


def to_codes(values: Floats, low: int, high: int) -> Codes:
    """Rounded to the nearest integer, ties to even, and clipped to [low, high]."""
    return np.clip(np.rint(values), low, high).astype(np.int8)
