"""`ridgeline transcribe` on a tiny model: its forms, its refusals, what goes to which stream."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from tiny_speech import noise_wav, write_tiny_speech

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_tiny_speech(tmp_path_factory.mktemp("speech"))
    (made / "a.wav").write_bytes(noise_wav(2.3, 1))
    (made / "b.wav").write_bytes(noise_wav(0.7, 2))
    return made


def said(output: Output, folder: Path, *arguments: str) -> tuple[str, str]:
    paths = [str(folder / word) if word.endswith(".wav") else word for word in arguments]
    assert main(["transcribe", *paths, "--model", str(folder), "--threads", "1"]) == 0
    found = output.readouterr()
    return found.out, found.err


def test_text_and_the_line_of_speed(folder: Path, capsys: Output) -> None:
    out, err = said(capsys, folder, "a.wav", "--language", "english")
    assert out.strip()
    assert re.fullmatch(
        r"2\.3 s of sound in [\d.]+ s: [\d.]+ x real time, [\d.]+ % of this machine's roof "
        r"\(\d+ x\); \d+ windows?, \d+ tokens, english\n",
        err,
    )


def test_forms(folder: Path, capsys: Output) -> None:
    out, _ = said(capsys, folder, "a.wav", "b.wav", "--json", "--temperature", "0")
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["duration"], second["duration"]) == (2.3, 0.7)
    assert first["segments"]
    out, _ = said(capsys, folder, "a.wav", "--temperature", "0", "--srt")
    assert out.startswith("1\n00:00:0")
    assert out.count(" --> ") == len(first["segments"])
    out, _ = said(capsys, folder, "a.wav", "--temperature", "0", "--vtt", "--translate")
    assert out.startswith("WEBVTT\n\n00:00:0")


def test_refusals_are_one_line(folder: Path, capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"ID3 music")
    wav = str(folder / "a.wav")
    for arguments, reason in (
        ((wav, "--json", "--srt"), "--json, --srt, --vtt: give one of them"),
        ((wav, wav, "--vtt"), "subtitles are of one file"),
        ((str(tmp_path / "x.wav"),), "x.wav is MP3; only WAV is read"),
        ((str(tmp_path / "none.wav"),), "cannot be read"),
        ((wav, "--temperature", "9"), "temperature: 9.0 is not a number from 0 to 2"),
        ((wav, "--language", "klingon"), "'klingon' is not known to the model"),
    ):
        assert main(["transcribe", *arguments, "--model", str(folder)]) == 2
        found = capsys.readouterr()
        assert not found.out
        assert reason in found.err
        assert found.err.count("\n") == 1


def test_what_is_piped_in_is_heard_too(folder: Path) -> None:
    """`-`, `/dev/stdin` and a shell's `<(...)` are pipes."""
    wav = (folder / "a.wav").read_bytes()
    command = [sys.executable, "-m", "ridgeline.cli.main", "transcribe"]
    model = ["--model", str(folder), "--threads", "1", "--temperature", "0"]
    texts = []
    for name in ("-", "/dev/stdin", str(folder / "a.wav")):
        done = subprocess.run([*command, name, *model], input=wav, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert re.search(rb"; (1 window|\d\d* windows), ", done.stderr)
        texts.append(done.stdout)
    assert texts[0] == texts[1] == texts[2]
    done = subprocess.run([*command, "-"], stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode != 0
    assert b"what is piped in is empty" in done.stderr
