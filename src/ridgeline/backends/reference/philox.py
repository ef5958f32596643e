"""Philox4x32-10, the counter-based random numbers of Salmon et al. 2011 (Random123)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]  # 32-bit words, held in 64 so that products fit

# Kinds: 0 is a token's own word, COIN a draw that is the row's, LUCK the word of a strip of tokens.
COIN, LUCK = 1, 2

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(
    counter: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    key: tuple[int, int],
    num_rounds: int = 10,
) -> tuple[Words, Words, Words, Words]:
    """Four random 32-bit words per counter; counters broadcast against each other."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(num_rounds):
        low0, high0 = _multiply(_MULTIPLIERS[0], c0)
        low1, high1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(k0), low1, high0 ^ c3 ^ np.uint64(k1), low0
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _multiply(a: int, b: Words) -> tuple[Words, Words]:
    product = np.uint64(a) * b
    return product & _MASK, product >> _32


def uniform(
    index: npt.ArrayLike, position: npt.ArrayLike, seed: int, kind: int = 0
) -> npt.NDArray[np.float64]:
    """In (0, 1), never an end of it: the noise of (seed, position, index, kind).

    The four words of a counter belong to four indices that are 16 apart: of 64 indices, the first
    of which is a multiple of 64, word w of counter c to index 16 w + c.
    """
    place, which = np.asarray(position, np.int64), np.asarray(index, np.int64)
    counter = (place & 0xFFFFFFFF, place >> 32, which // 64 * 16 + which % 16, kind)
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    word = np.choose(which % 64 // 16, philox4x32(counter, key))
    return np.asarray((word.astype(np.float64) + 0.5) * 2.0**-32, np.float64)
