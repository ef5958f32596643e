"""The log-mel spectrogram that Whisper hears (Radford et al. 2022, section 2.2).

16,000 samples a second; every 10 ms the power spectrum of 25 ms in a periodic Hann window, its ends
mirrored; summed in 80 or 128 triangles that are as wide as the ear hears them (Slaney 1998,
"Auditory Toolbox"), each of area 1; the logarithm to base 10, of nothing below 8 under the largest
of the whole sound, moved and scaled to about -1 to 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

RATE = 16_000
HOP = 160
WINDOW = 400
FRAMES_PER_SECOND = RATE // HOP
FLOOR = 1e-10
BATCH = 1 << 13  # frames that are made at once

# Slaney's scale: straight up to 1,000 Hz, by logarithms above.
LINEAR_HZ = 200 / 3
BREAK_HZ, BREAK = 1000.0, 15.0
LOG_STEP = np.log(6.4) / 27


def log_mel(samples: Floats, mels: int, silence: int = 0) -> Floats:
    """`samples` [n], 16,000 a second, and as many zeros as `silence` -> [frames, mels], a frame
    for each 160 of them.
    """
    total = len(samples) + silence
    padded = np.zeros(total + WINDOW, np.float32)
    half = WINDOW // 2
    padded[half : half + len(samples)] = samples
    # Mirrored at either end; of a sound shorter than that, what there is.
    whole = padded[half : half + total]
    if total > half:
        padded[:half] = whole[half:0:-1]
        padded[half + total :] = whole[-2 : -half - 2 : -1]
    count = total // HOP
    filters = mel_filters(mels)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = np.zeros((count, mels), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    for begin in range(0, count, BATCH):
        part = windows[begin : min(begin + BATCH, count)] * hann
        power = np.abs(np.fft.rfft(part, axis=1)) ** 2
        made = np.log10(np.maximum(power @ filters, FLOOR))
        spectrum[begin : begin + len(made)] = made
    if count:
        spectrum = np.maximum(spectrum, spectrum.max() - 8)
    return np.asarray((spectrum + 4) / 4, np.float32)


def mel_filters(mels: int) -> npt.NDArray[np.float64]:
    """[WINDOW // 2 + 1, mels]: how much of each frequency is in each band."""
    hertz = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    edges = _to_hertz(np.linspace(0, _to_mel(RATE / 2), mels + 2))
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (hertz[:, None] - low) / (middle - low)
    falling = (high - hertz[:, None]) / (high - middle)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * 2 / (high - low))


def _to_mel(hertz: float) -> float:
    if hertz < BREAK_HZ:
        return hertz / LINEAR_HZ
    return float(BREAK + np.log(hertz / BREAK_HZ) / LOG_STEP)


def _to_hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = BREAK_HZ * np.exp(LOG_STEP * (mel - BREAK))
    return np.where(mel < BREAK, mel * LINEAR_HZ, above)
