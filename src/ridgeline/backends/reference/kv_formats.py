"""What keys and values become in a cache, by its format (`model/graph/kv_format.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline.model.formats.floats import decode_bf16, encode_bf16
from ridgeline.model.graph.kv_format import KeyBalance

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

# Below this a head counts as zero: the reciprocal of its scale would overflow.
LEAST = np.float32(2.0**-100)


def kept(x: Array, format_name: str) -> Array:
    """x [..., head channels], each last axis one head of one token, as it is read back; its dtype
    stays. Rounding starts from float32.
    """
    if format_name == "f32":
        return x
    with np.errstate(all="ignore"):  # overflow, infinity and NaN are values here
        return KEPT[format_name](np.asarray(x, np.float32)).astype(x.dtype)


def kept_keys(x: Array, format_name: str, balance: KeyBalance | None = None) -> Array:
    """The same of keys, x [..., heads, channels].

    int8 keeps codes of the Hadamard transform of (key - centre) / 2^exponent; what is read back is
    what went in but for the codes' rounding.
    """
    if format_name != "int8":
        return kept(x, format_name)
    centres: Array = np.zeros(1, np.float32)
    powers: Array = np.ones(1, np.float32)
    if balance is not None:
        centres = np.array(balance.centres, np.float32).reshape(x.shape[-2:])
        exponents = np.array(balance.exponents, np.int32).reshape(x.shape[-2:])
        powers = np.ldexp(np.float32(1), exponents)
    with np.errstate(all="ignore"):
        mixed = hadamard((np.asarray(x, np.float32) - centres) / powers)
        back = hadamard(kept_int8(mixed).astype(np.float64)) / mixed_channels(x.shape[-1])
        return (back * powers + centres).astype(x.dtype)


def mixed_channels(channels: int) -> int:
    """Neighbours that the transform mixes: the largest power of two that divides the channels."""
    return channels & -channels


def hadamard(x: Array) -> Array:
    """The Walsh-Hadamard transform along the last axis, in blocks of `mixed_channels`: sums and
    differences of neighbours, then of those two apart, and so on.
    """
    mixed, distance = mixed_channels(x.shape[-1]), 1
    y = x
    while distance < mixed:
        pairs = y.reshape(*x.shape[:-1], -1, 2, distance)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack([first + second, first - second], axis=-2).reshape(x.shape)
        distance *= 2
    return y


def kept_bf16(x: Floats) -> Floats:
    bits = encode_bf16(x).reshape(*x.shape, 2)
    rounded = decode_bf16(bits).reshape(x.shape)
    return np.where(np.isnan(x), x, rounded)  # a rounded NaN may look like an infinity


def kept_f16(x: Floats) -> Floats:
    """Beyond float16's range, 65,504, infinity."""
    return x.astype(np.float16).astype(np.float32)


def kept_int8(x: Floats) -> Floats:
    """scale = max |x| / 127; code = x * (127 / max |x|) to the nearest, ties to even. A head that
    is not finite is NaN throughout.
    """
    largest = np.abs(x).max(axis=-1, keepdims=True)
    is_zero = largest < LEAST
    scale = np.where(is_zero, np.float32(0), largest / np.float32(127))
    inverse = np.where(is_zero, np.float32(0), np.float32(127) / largest)
    codes = np.rint(x * inverse)
    return np.where(np.isfinite(largest), codes * scale, np.float32(np.nan))


KEPT: dict[str, Callable[[Floats], Floats]] = {
    "bf16": kept_bf16,
    "f16": kept_f16,
    "int8": kept_int8,
}
