"""A speech model of random weights with a vocabulary, and a sound, for commands and servers."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "speech" / "whisper"
# Letters first; then these, and 46 times.
SPECIAL = (
    *("endoftext", "startoftranscript", "en", "de", "translate", "transcribe"),
    *("startoflm", "startofprev", "nocaptions", "notimestamps"),
)
LETTERS = 40
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def write_tiny_speech(folder: Path) -> Path:
    """tests/golden/speech/whisper with a tokenizer.json that fits its 96 ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, folder / name)
    letters = ["\u0120", *map(chr, range(ord("!"), ord("!") + LETTERS - 1))]
    names = [f"<|{name}|>" for name in SPECIAL]
    names += [f"<|{0.02 * i:.2f}|>" for i in range(96 - LETTERS - len(SPECIAL))]
    added = [
        {
            "id": LETTERS + i,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, name in enumerate(names)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": BYTES,
        "post_processor": None,
        "decoder": BYTES,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": {letter: i for i, letter in enumerate(letters)},
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def noise_wav(seconds: float, seed: int = 1) -> bytes:
    """A WAV file of 16,000 numbers a second."""
    noise = np.random.default_rng(seed).standard_normal(round(16_000 * seconds)) * 3000
    body = noise.astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    inner = b"WAVEfmt " + struct.pack("<I", 16) + form
    inner += b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inner)) + inner
