"""Transcripts of a tiny model: the same alone and in company, however they are computed, and what
is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ridgeline import LLM
from ridgeline.engine.speech.transcribe import transcriber_of
from ridgeline.engine.speech.windows import TranscribeParams
from ridgeline.errors import CapacityError, ModelError, RequestError
from ridgeline.model.audio.wav import sound_of
from tiny_speech import noise_wav, write_tiny_speech

ONCE = TranscribeParams(language="en", temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(str(folder), threads=2)


def test_a_transcript_is_its_own_in_any_company(llm: LLM, folder: Path) -> None:
    sounds = [noise_wav(seconds, seed) for seed, seconds in enumerate((2.3, 0.7, 4.1, 1.9, 2.3))]
    for params in (
        ONCE,
        TranscribeParams(temperature=(0.0, 0.5, 1.0), seed=3),
        TranscribeParams(timestamps=False, prompt="!#%", condition_on_previous_text=True),
    ):
        alone = [llm.transcribe(sound, params)[0] for sound in sounds]
        assert llm.transcribe(sounds, params) == alone
        assert any(found.segments for found in alone)
        assert all(found.seek_seconds == pytest.approx(found.duration, abs=0.01) for found in alone)
    # Rows for two at a time, one thread, short steps: the others wait, nothing else changes.
    narrow = LLM(str(folder), threads=1, max_rows=2, max_tokens_per_step=16)
    assert narrow.transcribe(sounds, ONCE) == llm.transcribe(sounds, ONCE)
    assert llm.transcribe(sounds[0], TranscribeParams(temperature=1.0, seed=1)) != llm.transcribe(
        sounds[0], TranscribeParams(temperature=1.0, seed=2)
    )


def test_backends_hear_the_same(llm: LLM, folder: Path) -> None:
    reference = LLM(str(folder), backend="reference", max_rows=2)
    exact = LLM(str(folder), kv_format="f16", threads=2)
    found = reference.transcribe(noise_wav(1.5), ONCE)
    assert exact.transcribe(noise_wav(1.5), ONCE)[0].text == found[0].text


def test_whoever_waits_is_told(llm: LLM) -> None:
    seen: list[tuple[int, float]] = []
    (found,) = llm.transcribe(
        noise_wav(3.0), ONCE, told=lambda i, part: seen.append((i, part.seek_seconds))
    )
    assert len(seen) == found.num_windows >= 3
    assert seen == sorted(seen)
    assert seen[-1] == (0, found.duration)
    assert 0 < (llm.least_transcribe_seconds([found]) or 0) < 10


def test_a_sound_of_nothing_is_empty(llm: LLM) -> None:
    (found,) = llm.transcribe(np.zeros(0), TranscribeParams())
    assert (found.text, found.segments, found.duration) == ("", [], 0.0)


def test_what_is_refused(llm: LLM, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="task: this model was loaded to transcribe"):
        llm.generate("hello")
    with pytest.raises(RequestError, match="task: 'embed' is nothing for"):
        LLM(str(folder), task="embed")
    with pytest.raises(RequestError, match="'xx' is not known to the model; it has: de, en"):
        llm.transcribe(noise_wav(0.1), TranscribeParams(language="xx"))
    with pytest.raises(RequestError, match="file: is no WAV file"):
        llm.transcribe([noise_wav(0.1), b"noise"])
    with pytest.raises(RequestError, match="backend: this one computes nothing"):
        LLM(str(folder), backend="null").transcribe(noise_wav(0.1))
    with pytest.raises(CapacityError, match="do not hold what one row sees of its encoder"):
        LLM(str(folder), memory=1000)
    smollm = write_tiny_speech(tmp_path / "other")
    text = (smollm / "tokenizer.json").read_text()
    (smollm / "tokenizer.json").write_text(text.replace("<|startofprev|>", "<|startofnext|>"))
    with pytest.raises(ModelError, match=r"has no <\|startofprev\|>: it is no speech model's"):
        LLM(str(smollm), threads=1).transcribe(noise_wav(0.1))


def test_a_sound_that_is_cancelled_leaves_its_row(llm: LLM) -> None:
    assembled = llm.assembled
    transcriber = transcriber_of(
        assembled.executor,  # type: ignore[arg-type]
        assembled.opened,
        assembled.bound_graph,
        assembled.tokenizer,
        64,
    )
    tracks = [transcriber.add(sound_of(noise_wav(2.0, i)), ONCE) for i in range(3)]
    for _ in range(4):
        transcriber.step()
    transcriber.cancel(tracks[1], RequestError("file", "nobody waits"))
    while transcriber.has_work:
        transcriber.step()
    assert [track.error is None for track in tracks] == [True, False, True]
    assert tracks[2].transcript == llm.transcribe(noise_wav(2.0, 2), ONCE)[0]
