"""Another number of samples a second: band-limited interpolation.

Each new sample is a sum of old ones around its time, weighted by a sinc in a Kaiser window (Smith
and Gossett 1984, "A flexible sampling-rate conversion method"), cut off below the lower of the two
Nyquist frequencies. Rates are in whole ratio, so that as many sets of weights are enough.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

ZERO_CROSSINGS = 24  # of the sinc on either side
CUTOFF = 0.945  # of the Nyquist frequency
KAISER_BETA = 9.0
BATCH = 1 << 16  # new samples that are made at once
WEIGHTS = 1 << 14  # that are made at once


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """`samples` [n] of `rate` a second as ceil(n wanted / rate) of `wanted`; the same if they are.

    What lies beyond the ends is zero.
    """
    if rate == wanted or not len(samples):
        return samples
    common = gcd(rate, wanted)
    up, down = wanted // common, rate // common
    cutoff = CUTOFF * min(1.0, up / down)
    half = int(np.ceil(ZERO_CROSSINGS / cutoff))
    count = -(-len(samples) * up // down)
    padded = np.pad(samples, (half, half + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    out = np.zeros(count, np.float32)
    offsets = np.arange(-half, half + 1)
    # New samples phase, phase + up, ...: all lie as far behind an old one. Of rates that have
    # little in common there are many phases: their weights are made side by side.
    together = max(1, WEIGHTS // len(offsets))
    for lowest in range(0, min(up, count), together):
        phases = np.arange(lowest, min(lowest + together, up, count))
        many = _weights(offsets - (phases * down % up / up)[:, None], cutoff, half)
        for phase, weights in zip(phases.tolist(), many, strict=True):
            firsts = np.arange(phase, count, up) * down // up
            for begin in range(0, len(firsts), BATCH):
                part = firsts[begin : begin + BATCH]
                at = phase + begin * up
                out[at : at + len(part) * up : up] = windows[part] @ weights
    return out


def _weights(times: npt.NDArray[Any], cutoff: float, half: int) -> Samples:
    """[phases, times] -> as many; each phase's sum is 1."""
    inside = np.clip(1 - (times / (half + 1)) ** 2, 0, None)
    window = np.i0(KAISER_BETA * np.sqrt(inside)) / np.i0(KAISER_BETA)
    weights = cutoff * np.sinc(cutoff * times) * window
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
