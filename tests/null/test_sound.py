"""Sound files, resampling and spectra: read as they are written, hostile ones refused, numbers as
their definitions say.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import wave
from pathlib import Path

import numpy as np
import pytest

from ridgeline.errors import RequestError
from ridgeline.model.audio.mel import FLOOR, HOP, RATE, WINDOW, log_mel, mel_filters
from ridgeline.model.audio.resample import resample
from ridgeline.model.audio.wav import Sound, read_wav, read_wav_file, sound_of

TONE = np.sin(2 * np.pi * 440 * np.arange(800) / 8000) * 0.5


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def wav(
    body: bytes,
    kind: int = 1,
    channels: int = 1,
    rate: int = 8000,
    bits: int = 16,
    more: bytes = b"",
) -> bytes:
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * block, block, bits) + more
    inner = b"WAVE" + chunk(b"fmt ", form) + chunk(b"LIST", b"odd") + chunk(b"data", body)
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def coded(bits: int) -> bytes:
    if bits == 8:
        return np.rint(TONE * 128 + 128).astype(np.uint8).tobytes()
    whole = np.rint(TONE * 2 ** (bits - 1)).astype("<i4")
    if bits == 24:
        return whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return whole.astype(f"<i{bits // 8}").tobytes()


def rf64(body: bytes, length: int) -> bytes:
    data = wav(body)
    at = data.index(b"data")
    sizes = chunk(b"ds64", struct.pack("<QQQI", len(data) + 28, length, 0, 0))
    tail = b"data" + b"\xff" * 4 + data[at + 8 :] + chunk(b"LIST", b"behind")
    return b"RF64" + b"\xff" * 4 + b"WAVE" + sizes + data[12:at] + tail


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_whole_numbers(bits: int) -> None:
    sound = read_wav(wav(coded(bits), bits=bits))
    assert sound.rate == 8000
    assert sound.seconds == 0.1
    assert np.abs(sound.samples - TONE).max() <= 2.0 ** -(bits - 1) + 1e-7


def test_floats_channels_and_extensible_headers() -> None:
    for dtype, bits in (("<f4", 32), ("<f8", 64)):
        sound = read_wav(wav(TONE.astype(dtype).tobytes(), kind=3, bits=bits))
        assert np.allclose(sound.samples, TONE, atol=1e-7)
    stereo = np.stack([TONE, -TONE / 2], axis=1).astype("<f4").tobytes()
    tail = bytes.fromhex("000000001000800000aa00389b71")
    more = struct.pack("<HHIH", 22, 32, 3, 3) + tail
    sound = read_wav(wav(stereo, kind=0xFFFE, channels=2, bits=32, more=more))
    assert np.allclose(sound.samples, TONE / 4, atol=1e-7)


def test_the_standard_library_writes_what_is_read(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with wave.open(raw, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(coded(16))
    (tmp_path / "a.wav").write_bytes(raw.getvalue())
    assert np.array_equal(
        read_wav_file(tmp_path / "a.wav").samples, read_wav(wav(coded(16))).samples
    )


def test_a_stream_of_unknown_length_is_read_to_its_end() -> None:
    data = wav(coded(16))
    at = data.index(b"data") + 4
    for size in (0x7FFFF000, 0xFFFFFFFF):
        assert len(read_wav(data[:at] + struct.pack("<I", size) + data[at + 4 :]).samples) == 800


def test_hostile_files_are_refused_by_name(tmp_path: Path) -> None:
    good = wav(coded(16))
    at = good.index(b"data") + 4
    for data, reason in (
        (b"", "is empty"),
        (b"ID3\x04", "is MP3; only WAV is read"),
        (b"fLaC\0\0", "is FLAC"),
        (b"\0\0\0\x20ftypM4A ", "is MP4 or M4A"),
        (good[:-10], "is cut short: 1590 bytes of 1600"),
        (good[:44], "is broken: a chunk"),
        (good[:12], "has no samples"),
        (good[:12] + chunk(b"data", b"1234"), "before their format"),
        (good[:12] + chunk(b"fmt ", b"12"), "its format has 2 bytes"),
        (wav(b"", kind=17, bits=4), "holds IMA ADPCM of 4 bits"),
        (rf64(coded(16), 1700), "is cut short"),
        (wav(b"", bits=12), "holds samples of 12 bits"),
        (wav(b"", kind=3, bits=16), "holds samples of 16 bits"),
        (wav(b"", channels=65), "has 65 channels"),
        (wav(b"", rate=1), "has 1 samples a second"),
        (wav(b"", kind=0xFFFE), "extensible format"),
        (wav(np.full(4, np.nan, "<f4").tobytes(), kind=3, bits=32), "that are no numbers"),
        (good[: at - 4].replace(struct.pack("<HH", 2, 16), struct.pack("<HH", 3, 16)), "3 bytes a"),
    ):
        with pytest.raises(RequestError, match=r"^file: ") as raised:
            read_wav(data)
        assert reason in str(raised.value)
    for given in (tmp_path, tmp_path / "none.wav", 7, np.zeros((2, 2)), np.array([np.inf])):
        with pytest.raises(RequestError, match=r"^file: "):
            sound_of(given)


def test_no_cut_of_a_file_is_a_fault_of_ours() -> None:
    good = wav(coded(16))
    for end in range(len(good)):
        try:
            read_wav(good[:end])
        except RequestError:
            continue
        pytest.fail(f"{end} bytes were read as a whole file")


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 7919])
def test_resampling_keeps_what_both_rates_can_hold(rate: int) -> None:
    times = np.arange(rate) / rate
    tones = sum(np.sin(2 * np.pi * f * times + f) / 4 for f in (110, 997, 3001))
    found = resample(np.asarray(tones, np.float32), rate, 16000)
    assert len(found) == 16000
    times = np.arange(16000) / 16000
    wanted = sum(np.sin(2 * np.pi * f * times + f) / 4 for f in (110, 997, 3001))
    assert np.abs(found - wanted)[400:-400].max() < 2e-3


def test_resampling_leaves_out_what_it_cannot_hold() -> None:
    times = np.arange(48000) / 48000
    found = resample(np.sin(2 * np.pi * 11000 * times).astype(np.float32), 48000, 16000)
    assert np.abs(found)[400:-400].max() < 1e-3
    assert not len(resample(np.zeros(0, np.float32), 48000, 16000))
    same = np.ones(5, np.float32)
    assert resample(same, 16000, 16000) is same


def test_spectra_by_the_definition() -> None:
    """A few frames, by the transform's own sum."""
    noise = np.random.default_rng(3).standard_normal(4000).astype(np.float32) * 0.1
    found = log_mel(noise, 80)
    assert found.shape == (25, 80)
    padded = np.pad(noise.astype(np.float64), WINDOW // 2, mode="reflect")
    n = np.arange(WINDOW)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / WINDOW)
    wanted = []
    for frame in range(25):
        part = padded[frame * HOP : frame * HOP + WINDOW] * hann
        waves = np.exp(-2j * np.pi * np.outer(np.arange(WINDOW // 2 + 1), n) / WINDOW)
        wanted.append(np.log10(np.maximum(np.abs(waves @ part) ** 2 @ mel_filters(80), FLOOR)))
    spectrum = np.maximum(np.array(wanted), np.max(wanted) - 8)
    assert np.abs(found - (spectrum + 4) / 4).max() < 1e-5


def test_silence_behind_is_silence_appended() -> None:
    noise = np.random.default_rng(4).standard_normal(2000).astype(np.float32)
    padded = np.concatenate([noise, np.zeros(3200, np.float32)])
    assert np.array_equal(log_mel(noise, 80, silence=3200), log_mel(padded, 80))
    assert log_mel(np.zeros(0, np.float32), 80).shape == (0, 80)
    assert log_mel(np.ones(100, np.float32), 80).shape == (0, 80)


@pytest.mark.parametrize("mels", [80, 128])
def test_bands_are_triangles_of_one_area(mels: int) -> None:
    filters = mel_filters(mels)
    assert filters.shape == (WINDOW // 2 + 1, mels)
    assert (filters >= 0).all()
    assert (filters.max(axis=0) > 0).all()
    step = RATE / WINDOW
    wide = filters[:, -10:].sum(axis=0) * step
    assert np.allclose(wide, 1, atol=0.05)


def test_a_sound_is_what_it_was_given_as() -> None:
    sound = Sound(np.zeros(16, np.float32), 16000)
    assert sound_of(sound) is sound
    loud = sound_of(np.array([2.0, -3.0, 0.5]))
    assert loud.samples.tolist() == [1.0, -1.0, 0.5]


def test_rates_with_little_in_common_take_no_weights_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    bessel = np.i0

    def counted(x: object) -> object:
        calls.append(np.size(x))
        return bessel(x)

    monkeypatch.setattr(np, "i0", counted)
    times = np.arange(47_999) / 47_999
    found = resample(np.sin(2 * np.pi * 440 * times).astype(np.float32), 47_999, 16_000)
    assert len(calls) < 1_000  # 16,000 sets of weights
    assert max(calls) < 1 << 16
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(found - expected)[200:-200].max() < 1e-3


def test_a_length_of_nothing_before_samples_was_never_put_right() -> None:
    raw = io.BytesIO()
    with wave.open(raw, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(np.arange(1, 101, dtype="<i2").tobytes())
    data = bytearray(raw.getvalue())
    data[40:44] = bytes(4)
    assert len(read_wav(bytes(data)).samples) == 100
    assert not len(read_wav(bytes(data[:44]) + b"LIST" + bytes(4)).samples)


def test_a_long_file_has_its_length_elsewhere() -> None:
    assert np.array_equal(read_wav(rf64(coded(16), 1600)).samples, read_wav(wav(coded(16))).samples)


@pytest.mark.parametrize("kind", [6, 7])
def test_codes_of_telephony(kind: int) -> None:
    """G.711's own table: the largest level, the smallest, silence; and every code's distance."""
    every = read_wav(wav(bytes(range(256)), kind=kind, bits=8)).samples * 2**15
    if kind == 7:
        assert list(every[[0x00, 0x80, 0xFF, 0x7F, 0xFE]]) == [-32124, 32124, 0, 0, 8]
    else:
        assert list(every[[0xD5, 0x55, 0xAA, 0x2A, 0xD4]]) == [8, -8, 32256, -32256, 24]
    levels = np.unique(np.abs(every))
    assert len(levels) == 128
    assert np.all(np.diff(levels) <= 1024)


def test_pipes_are_read_to_their_end_and_no_further_than_they_are_wav(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write(data: bytes, times: int) -> None:
        with contextlib.suppress(BrokenPipeError), pipe.open("wb") as out:
            for _ in range(times):
                out.write(data)

    for data, times in ((wav(coded(16)), 1), (b"ID3 music" * 100_000, 100)):
        writer = threading.Thread(target=write, args=(data, times))
        writer.start()
        if times == 1:
            assert read_wav_file(pipe).seconds == 0.1
        else:
            with pytest.raises(RequestError, match="pipe is MP3"):
                read_wav_file(pipe)
        writer.join(10)
        assert not writer.is_alive()
    with pytest.raises(RequestError, match="neither a file nor a pipe"):
        read_wav_file(Path("/dev/zero"))
