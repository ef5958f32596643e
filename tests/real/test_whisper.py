"""Whisper base as its packages bring it: the text of spoken clips is transformers'."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ridgeline import LLM
from ridgeline.engine.speech.windows import TranscribeParams

HERE = Path(__file__).parent / "whisper"
sys.path.insert(0, str(HERE))

from clips import SOUNDS, sound_of  # noqa: E402

EXPECTED = json.loads((HERE / "expected.json").read_text())


@pytest.fixture(scope="module")
def llm(whisper_path: Path) -> LLM:
    return LLM(str(whisper_path))


@pytest.mark.parametrize("name", sorted(SOUNDS))
def test_what_is_said_is_what_transformers_hears(llm: LLM, name: str) -> None:
    parts, options = SOUNDS[name]
    (found,) = llm.transcribe(sound_of(parts), TranscribeParams(temperature=0.0, **options))
    assert found.text == EXPECTED[name]["text"]
    times = [[segment.start, segment.end] for segment in found.segments]
    if "segments" in EXPECTED[name]:
        assert times == EXPECTED[name]["segments"]


def test_side_by_side_is_one_by_one(llm: LLM) -> None:
    sounds = [sound_of(("river",)), sound_of(("train",))]
    params = TranscribeParams(language="en", temperature=0.0)
    assert llm.transcribe(sounds, params) == [llm.transcribe(s, params)[0] for s in sounds]
