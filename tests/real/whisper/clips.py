"""What is said in the clips, and the sounds that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent

# Voice of espeak-ng, and text.
CLIPS = {
    "river": ("en-us", "The weather is fine today, and we will walk along the river to the mill."),
    "train": ("en-us", "My train to London leaves at seven thirty tomorrow morning."),
    "bread": ("de", "Heute kaufe ich frisches Brot und einen Liter Milch."),
}

# Clips and seconds of silence, end to end; and how they are transcribed.
Parts = tuple[str | float, ...]
LONG: Parts = ("river", 1.0, "train", 2.0, "river", 0.5, "train", 6.0, "train", 1.0, "river")
SOUNDS: dict[str, tuple[Parts, dict[str, Any]]] = {
    "one": (("river",), {}),
    "plain": (("river", 0.5, "train"), {"language": "en", "timestamps": False}),
    "german": (("bread",), {}),
    "translated": (("bread", 0.5, "bread"), {"language": "de", "task": "translate"}),
    "long": (LONG, {"language": "en"}),
}


def sound_of(parts: Parts) -> npt.NDArray[np.float32]:
    """16,000 samples a second."""
    from ridgeline.model.audio.resample import resample
    from ridgeline.model.audio.wav import read_wav_file

    pieces = []
    for part in parts:
        if isinstance(part, str):
            sound = read_wav_file(HERE / f"{part}.wav")
            pieces.append(resample(sound.samples, sound.rate, 16_000))
        else:
            pieces.append(np.zeros(round(part * 16_000), np.float32))
    return np.concatenate(pieces)
