"""WAV files: whole numbers of 8 to 32 bits and floats of 32 and 64, any rate, any channels.

Read here and not by the standard library, whose reader knows no floats and no extensible headers.
Nothing in a file is believed: a chunk that is longer than the file is refused, unless its length is
one that programs write which cannot know it (streams). Defined by Microsoft's and IBM's "Multimedia
Programming Interface and Data Specifications 1.0" (1991) and `mmreg.h`. Other containers are named
and refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ridgeline.errors import RequestError

Samples = npt.NDArray[np.float32]

MAX_BYTES = 4 << 30
MAX_CHANNELS = 64
RATES = (1_000, 768_000)
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
CODECS = {2: "MS ADPCM", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 49: "GSM 6.10", 85: "MP3"}
# From here on a length means that its writer did not know it.
UNKNOWN_LENGTH = 0x7FFF_F000
# What follows two bytes of format in the last 16 of an extensible header.
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")

OTHERS = (
    (b"ID3", 0, "MP3"),
    (b"\xff\xfb", 0, "MP3"),
    (b"\xff\xf3", 0, "MP3"),
    (b"fLaC", 0, "FLAC"),
    (b"OggS", 0, "Ogg"),
    (b"ftyp", 4, "MP4 or M4A"),
    (b"\x1a\x45\xdf\xa3", 0, "WebM or Matroska"),
    (b"FORM", 0, "AIFF"),
    (b"RF64", 0, "RF64"),
    (b"RIFX", 0, "big-endian WAV"),
    (b".snd", 0, "AU"),
)


@dataclass(frozen=True, slots=True)
class Sound:
    """samples: one channel, -1 to 1. rate: a second."""

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class _Format:
    kind: int
    channels: int
    rate: int
    bits: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8


def sound_of(given: object) -> Sound:
    """A path, a WAV file's bytes, or samples [n] from -1 to 1, 16,000 a second, as a sound."""
    if isinstance(given, Sound):
        return given
    if isinstance(given, str | Path):
        return read_wav_file(Path(given))
    if isinstance(given, bytes | bytearray):
        return read_wav(bytes(given))
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind == "f":
        if not np.isfinite(given).all():
            raise _refused("has samples that are no numbers")
        return Sound(np.clip(given, -1, 1).astype(np.float32), 16_000)
    raise _refused(f"is a {type(given).__name__}: a path, bytes, or an array of floats is needed")


def read_wav_file(path: Path) -> Sound:
    """A file's sound. RequestError if it cannot be read or is no WAV file that is known here."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _refused(f"{path} has {size} bytes; at most {MAX_BYTES} are read")
        if not path.is_file():
            raise _refused(f"{path} is not a regular file")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise _refused(f"{path} cannot be read: {reason}") from None
    try:
        return read_wav(data)
    except RequestError as error:
        raise _refused(f"{path} {str(error).removeprefix('file: ')}") from None


def read_wav(data: bytes) -> Sound:
    """A WAV file's bytes as one channel, the mean of its channels. RequestError says what is wrong
    and what to do.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        for magic, place, kind in OTHERS:
            if data[place : place + len(magic)] == magic:
                raise _refused(f"is {kind}; only WAV is read: convert it first")
        raise _refused("is no WAV file: convert it to one of 16-bit numbers first")
    form: _Format | None = None
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        start, left = at + 8, len(data) - at - 8
        if name == b"data":
            if form is None:
                raise _refused("has its samples before their format")
            if not size and left and not _is_chunk(data, start):
                size = UNKNOWN_LENGTH  # written first, and never put right
            if size > left and size < UNKNOWN_LENGTH:
                raise _refused(f"is cut short: {left} bytes of {size} are there")
            return _sound(form, data[start : start + min(size, left)])
        if size > left:
            raise _refused(f"is broken: a chunk {name!r} of {size} bytes, where {left} are left")
        if name == b"fmt ":
            form = _format(data[start : start + size])
        at = start + size + size % 2
    raise _refused("has no samples")


def _is_chunk(data: bytes, at: int) -> bool:
    """Whether a chunk can begin there: a name of letters, and a length that the file has."""
    name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
    return len(data) >= at + 8 and name.isascii() and name.isalnum() and size <= len(data) - at - 8


def _format(chunk: bytes) -> _Format:
    if len(chunk) < 16:
        raise _refused(f"is broken: its format has {len(chunk)} bytes")
    kind, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == EXTENSIBLE:
        if len(chunk) < 40 or chunk[26:40] != GUID_TAIL:
            raise _refused("has an extensible format that is not known here")
        kind = struct.unpack_from("<H", chunk, 24)[0]
    if (kind, bits) not in [(PCM, b) for b in (8, 16, 24, 32)] + [(FLOAT, 32), (FLOAT, 64)]:
        codec = CODECS.get(kind, f"codec {kind}") if kind not in (PCM, FLOAT) else "samples"
        raise _refused(f"holds {codec} of {bits} bits; numbers of 8 to 32 bits or floats are read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise _refused(f"has {channels} channels; 1 to {MAX_CHANNELS} are read")
    if not RATES[0] <= rate <= RATES[1]:
        raise _refused(f"has {rate} samples a second; {RATES[0]} to {RATES[1]} are read")
    form = _Format(kind, channels, rate, bits)
    if block != form.frame_bytes:
        raise _refused(f"is broken: {block} bytes a sample of {channels} x {bits} bits")
    return form


def _sound(form: _Format, data: bytes) -> Sound:
    data = data[: len(data) // form.frame_bytes * form.frame_bytes]
    values: Samples
    if form.kind == FLOAT:
        values = np.frombuffer(data, f"<f{form.bits // 8}").astype(np.float32)
        if not np.isfinite(values).all():
            raise _refused("has samples that are no numbers")
        values = np.clip(values, -1, 1)
    elif form.bits == 8:
        values = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)
    elif form.bits == 24:
        # The upper three of four bytes.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    else:
        values = np.frombuffer(data, f"<i{form.bits // 8}").astype(np.float32)
        values /= 2 ** (form.bits - 1)
    if form.channels > 1:
        values = values.reshape(-1, form.channels).mean(axis=1, dtype=np.float32)
    return Sound(values, form.rate)


def _refused(what: str) -> RequestError:
    return RequestError("file", what)
