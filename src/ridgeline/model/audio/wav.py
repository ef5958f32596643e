"""WAV files: whole numbers of 8 to 32 bits, floats of 32 and 64, mu-law and A-law, any rate, any
channels; RF64, which is longer than 4 GB or was meant to be.

Read here and not by the standard library, whose reader knows no floats and no extensible headers.
Nothing in a file is believed: a chunk that is longer than the file is refused, unless its length is
one that programs write which cannot know it (streams). Defined by Microsoft's and IBM's "Multimedia
Programming Interface and Data Specifications 1.0" (1991) and `mmreg.h`, telephony's codes by ITU-T
G.711, RF64 by EBU Tech 3306. Other containers are named
and refused.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ridgeline.errors import RequestError

Samples = npt.NDArray[np.float32]

MAX_BYTES = 4 << 30
MAX_CHANNELS = 64
RATES = (1_000, 768_000)
PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
WIDTHS = {PCM: (8, 16, 24, 32), FLOAT: (32, 64), A_LAW: (8,), MU_LAW: (8,)}
CODECS = {2: "MS ADPCM", 17: "IMA ADPCM", 49: "GSM 6.10", 85: "MP3"}
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
        status = path.stat()
        if status.st_size > MAX_BYTES:
            raise _refused(f"{path} has {status.st_size} bytes; at most {MAX_BYTES} are read")
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            with path.open("rb") as pipe:
                return read_wav_pipe(pipe, str(path))
        if not path.is_file():
            raise _refused(f"{path} is neither a file nor a pipe")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise _refused(f"{path} cannot be read: {reason}") from None
    return _named(data, str(path))


def read_wav_stdin() -> Sound:
    """What is piped in, as `read_wav_pipe` reads it."""
    if sys.stdin is None or os.isatty(sys.stdin.fileno()):
        raise _refused("- is what is piped in, and nothing is: a terminal was found there")
    return read_wav_pipe(sys.stdin.buffer, "what is piped in")


def read_wav_pipe(pipe: BinaryIO, name: str) -> Sound:
    """A pipe's sound, to its end; of a stream that begins like no WAV file, no more than that."""
    data = bytearray()
    while part := pipe.read(1 << 20):
        data += part
        if len(data) >= 12 and not _begins(data):
            break
        if len(data) > MAX_BYTES:
            raise _refused(f"{name} has more than {MAX_BYTES} bytes, and no end yet")
    return _named(bytes(data), name)


def _named(data: bytes, name: str) -> Sound:
    try:
        return read_wav(data)
    except RequestError as error:
        raise _refused(f"{name} {str(error).removeprefix('file: ')}") from None


def _begins(data: bytes | bytearray) -> bool:
    return data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE"


def read_wav(data: bytes) -> Sound:
    """A WAV file's bytes as one channel, the mean of its channels. RequestError says what is wrong
    and what to do.
    """
    if not _begins(data):
        for magic, place, kind in OTHERS:
            if data[place : place + len(magic)] == magic:
                raise _refused(f"is {kind}; only WAV is read: convert it first")
        what = "is no WAV file: convert it to one of 16-bit numbers first"
        raise _refused(what if data else "is empty, and no WAV file")
    form: _Format | None = None
    at, long = 12, 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        start, left = at + 8, len(data) - at - 8
        if name == b"data":
            if form is None:
                raise _refused("has its samples before their format")
            if size == 0xFFFF_FFFF and long:
                size = long
            if not size and left and not _is_chunk(data, start):
                size = UNKNOWN_LENGTH  # written first, and never put right
            if size > left and (size < UNKNOWN_LENGTH or size == long):
                raise _refused(f"is cut short: {left} bytes of {size} are there")
            return _sound(form, data[start : start + min(size, left)])
        if size > left:
            raise _refused(f"is broken: a chunk {name!r} of {size} bytes, where {left} are left")
        if name == b"ds64" and size >= 16 and data[:4] == b"RF64":
            long = int.from_bytes(data[start + 8 : start + 16], "little")
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
    if bits not in WIDTHS.get(kind, ()):
        codec = CODECS.get(kind, f"codec {kind}") if kind not in WIDTHS else "samples"
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
    elif form.kind in (A_LAW, MU_LAW):
        levels = _mu_law() if form.kind == MU_LAW else _a_law()
        values = levels[np.frombuffer(data, np.uint8)]
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


def _mu_law() -> Samples:
    """The level of each of 256 codes: sign, three bits of exponent, four of mantissa, inverted."""
    code = ~np.arange(256) & 0xFF
    level = (((code & 15) << 3) + 132 << (code >> 4 & 7)) - 132
    return (np.where(code & 128, -level, level) / 2**15).astype(np.float32)


def _a_law() -> Samples:
    """The same with every second bit inverted, and an exponent of 0 without the leading one."""
    code = np.arange(256) ^ 0x55
    exponent = code >> 4 & 7
    level = ((code & 15) << 4) + 8
    level = np.where(exponent > 0, level + 256 << np.maximum(exponent - 1, 0), level)
    return (np.where(code & 128, level, -level) / 2**15).astype(np.float32)


def _refused(what: str) -> RequestError:
    return RequestError("file", what)
