"""Rules of transcripts, windows and tries, subtitles: without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.engine.speech import write
from ridgeline.engine.speech.decode import Attempt, Heard
from ridgeline.engine.speech.languages import LANGUAGES
from ridgeline.engine.speech.rules import allowed, draw
from ridgeline.engine.speech.tokens import SpeechTokens
from ridgeline.engine.speech.windows import (
    Segment,
    Setting,
    TranscribeParams,
    Transcript,
    compression_ratio,
    cut,
    listen,
)
from ridgeline.errors import RequestError

# Texts are ids below 10; then the special ones; times from 20 on, one each 0.02 s.
TOKENS = SpeechTokens(
    start=11,
    end=10,
    previous=12,
    no_times=19,
    no_speech=18,
    tasks={"transcribe": 13, "translate": 14},
    languages={"en": 15, "de": 16},
    suppressed=(11, 12, 13, 14, 15, 16, 17, 18),
    suppressed_first=(0, 10),
)
VOCAB, T = 20 + 151, 20


class Letters:
    """Ids below 10 are letters, as a tokenizer says them."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(" abcdefghi"[token] for token in ids)

    def encode(self, text: str, **_how: Any) -> list[int]:
        return [" abcdefghi".index(letter) for letter in text]


SETTING = Setting(TOKENS, Letters(), 150, 40)  # type: ignore[arg-type]


def flat(**peaks: float) -> npt.NDArray[np.float32]:
    logits = np.zeros(VOCAB, np.float32)
    for token, value in peaks.items():
        logits[int(token[1:])] = value
    return logits


def possible(said: Sequence[int], times: bool = True) -> set[int]:
    # Texts far likelier than all times together, so that these do not win by their sum.
    logits = flat()
    logits[:11] = 20
    scores = allowed(logits, said, TOKENS, times)
    assert np.logaddexp.reduce(scores) == pytest.approx(0, abs=1e-9)
    return set(np.flatnonzero(np.isfinite(scores)).tolist())


def test_times_come_in_pairs_and_never_run_backwards() -> None:
    texts, later = set(range(10)), set(range(T, VOCAB))
    assert possible([]) == set(range(T, T + 51))  # a first time, within a second
    assert possible([T]) == {*texts, 10}  # opened: a text
    assert possible([T, 3]) == {*texts, 10} | {t for t in later if t > T}
    assert possible([T, 3, T + 9]) == {10} | {t for t in later if t >= T + 9}  # closed
    assert possible([T, 3, T + 9, T + 9]) == {*texts, 10}
    assert possible([T, 3, T + 9, T + 9, 4]) == {*texts, 10} | {t for t in later if t > T + 9}


def test_without_times_there_are_none() -> None:
    assert possible([], times=False) == set(range(1, 10)) | {19}
    assert possible([4], times=False) == set(range(11)) | {19}


def test_times_that_are_likelier_together_than_any_text_come() -> None:
    logits = flat(t3=3.0)
    scores = allowed(logits, [T, 3], TOKENS, True)  # 150 times of weight 1 against e^3
    assert not np.isfinite(scores[:T]).any()
    assert np.isfinite(allowed(flat(t3=9.0), [T, 3], TOKENS, True)[3])


def test_drawing() -> None:
    scores = np.log(np.array([0.1, 0.6, 0.3]))
    assert draw(scores, 0.0, np.random.default_rng(0)) == 1
    noise = np.random.Generator(np.random.Philox(7))
    counts = np.bincount([draw(scores, 1.0, noise) for _ in range(4000)], minlength=3) / 4000
    assert np.abs(counts - [0.1, 0.6, 0.3]).max() < 0.03
    assert np.isneginf(scores).sum() == 0


def test_where_a_window_is_cut() -> None:
    two = (T, 3, T + 50, T + 50, 4, T + 90)
    # Closed by one time: done to its end.
    assert cut(two, 300, SETTING, True) == (
        [(0.0, 1.0, (T, 3, T + 50)), (1.0, pytest.approx(1.8), (T + 50, 4, T + 90))],
        300,
    )
    # Not closed: what follows the last pair is heard again, from that time on.
    assert cut((*two, T + 95, 5), 300, SETTING, True) == (
        [(0.0, 1.0, (T, 3, T + 50)), (1.0, pytest.approx(1.8), (T + 50, 4, T + 90))],
        180,
    )
    # No pair: one piece, to the last time if there is one.
    assert cut((T, 3, T + 40), 300, SETTING, True) == ([(0.0, 0.8, (T, 3, T + 40))], 300)
    assert cut((T, 3), 250, SETTING, True) == ([(0.0, 2.5, (T, 3))], 250)
    assert cut((3, 4), 250, SETTING, False) == ([(0.0, 2.5, (3, 4))], 250)


@dataclass
class Script:
    """What is heard, attempt by attempt."""

    says: Callable[[Attempt], Heard]
    attempts: list[Attempt] = field(default_factory=list)

    def run(self, frames: int, params: TranscribeParams) -> Transcript:
        spectrum = np.arange(frames + 300, dtype=np.float32)[:, None] * np.ones(4, np.float32)
        listening = listen(spectrum, frames, params, SETTING)
        heard = None
        while True:
            try:
                attempt = listening.send(heard)  # type: ignore[arg-type]
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            assert attempt.frames.shape == (150, 8)
            self.attempts.append(attempt)
            heard = self.says(attempt)


def heard(*tokens: int, mean: float = -0.1, silence: float = 0.0) -> Heard:
    scores = np.full(VOCAB, -30.0, np.float32)
    scores[16] = 5.0  # German
    scores[18] = 5 + np.log(silence / (1 - silence)) if silence else -30.0
    return Heard(tokens, mean * (len(tokens) + 1), scores)


def test_windows_begin_where_the_last_pair_ended() -> None:
    script = Script(lambda a: heard(T, 3, T + 50, T + 50, 4))
    found = script.run(700, TranscribeParams(language="en"))
    starts = [round(float(a.frames[0, 0])) for a in script.attempts]
    assert starts == [0, 100, 200, 300, 400, 500, 600]
    assert [(s.start, s.end) for s in found.segments][:2] == [(0.0, 1.0), (1.0, 2.0)]
    assert found.text == "c" * 7
    assert (found.duration, found.seek_seconds, found.num_windows) == (7.0, 7.0, 7)
    assert script.attempts[0].prompt == (11,)
    assert script.attempts[0].prefix == (15, 13)


def test_the_language_is_heard_first() -> None:
    script = Script(lambda a: heard(T, 3, T + 60))
    found = script.run(250, TranscribeParams(task="translate", timestamps=False))
    first, second = script.attempts
    assert (first.prefix, first.most) == ((), 0)
    assert second.prefix == (16, 14, 19)
    assert second.frames is first.frames, "encoded once"
    assert (found.language, found.language_name) == ("de", "german")


def test_tries_at_higher_temperatures() -> None:
    def says(attempt: Attempt) -> Heard:
        if attempt.temperature < 0.4:
            return heard(T, *[3] * 30, T + 60)  # the same again and again
        return heard(T, 3, T + 60, mean=-2.0 if attempt.temperature < 0.6 else -0.5)

    script = Script(says)
    (segment,) = script.run(100, TranscribeParams(language="en")).segments
    assert [a.temperature for a in script.attempts] == [0.0, 0.2, 0.4, 0.6]
    assert len({a.seed for a in script.attempts}) == 4
    assert segment.temperature == 0.6
    assert len({id(a.frames) for a in script.attempts}) == 1
    # The last is taken, however bad.
    script = Script(lambda a: heard(T, 3, T + 60, mean=-5.0))
    assert script.run(100, TranscribeParams(language="en")).segments[0].temperature == 1.0
    script = Script(lambda a: heard(T, 3, T + 60, mean=-5.0))
    loose = TranscribeParams(language="en", logprob_threshold=None, temperature=0.3)
    assert script.run(100, loose).num_attempts == 1


def test_silence_is_left_out_and_not_tried_again() -> None:
    script = Script(lambda a: heard(T, 3, T + 60, mean=-1.5, silence=0.9))
    found = script.run(500, TranscribeParams(language="en"))
    assert not found.segments
    assert (found.num_windows, found.num_attempts) == (2, 2)
    # Likely words in what may be silence are words; and nothing is, without a threshold.
    script = Script(lambda a: heard(T, 3, T + 60, mean=-0.5, silence=0.9))
    assert script.run(300, TranscribeParams(language="en")).text == "c"
    script = Script(lambda a: heard(T, 3, T + 60, mean=-1.5, silence=0.9))
    all_heard = TranscribeParams(language="en", no_speech_threshold=None, temperature=0.0)
    assert script.run(300, all_heard).text == "c"


def test_what_is_said_over_and_over_does_not_end_as_silence() -> None:
    """Refused for repeating itself, drawn wildly, left out as silence: a minute was lost."""

    def says(attempt: Attempt) -> Heard:
        if attempt.temperature < 0.4:
            return heard(T, *[3] * 30, T + 60, mean=-0.25 - attempt.temperature, silence=0.61)
        return heard(T, 5, T + 60, mean=-2.0, silence=0.61)

    found = Script(says).run(100, TranscribeParams(language="en"))
    assert found.text == "c" * 30
    assert found.segments[0].temperature == 0.0
    assert found.doubtful == [0.0]
    # What is good, or silent in every attempt, is not doubted.
    sure = Script(lambda a: heard(T, 3, T + 60)).run(100, TranscribeParams(language="en"))
    none = Script(lambda a: heard(T, 3, T + 60, mean=-2.0, silence=0.9))
    assert not sure.doubtful
    assert not none.run(100, TranscribeParams(language="en")).doubtful
    # What is unlikely in every attempt is written, as the last has it, and told.
    script = Script(lambda a: heard(T, 3, T + 60, mean=-5.0))
    assert script.run(500, TranscribeParams(language="en")).doubtful == [0.0, 3.0]


def test_what_went_before_is_told() -> None:
    script = Script(lambda a: heard(T, 3, 4, T + 150))
    params = TranscribeParams(language="en", prompt="ab", condition_on_previous_text=True)
    script.run(900, params)
    prompts = [a.prompt for a in script.attempts]
    assert prompts == [(12, 0, 1, 2, 11), (12, 0, 1, 2, 3, 4, 11), (12, 0, 1, 2, 3, 4, 3, 4, 11)]
    long = TranscribeParams(language="en", prompt="abcdefghi" * 9)
    script = Script(lambda a: heard(T, 3, T + 60))
    script.run(100, long)
    assert len(script.attempts[0].prompt) == 40 // 2 - 1 + 2
    assert script.attempts[0].most == 40 - 21 - 2


def test_what_is_refused() -> None:
    for name, value in (
        ("task", "sing"),
        ("temperature", 2.5),
        ("temperature", ()),
        ("temperature", ("hot",)),
        ("seed", -1),
        ("language", 7),
        ("prompt", None),
        ("logprob_threshold", "low"),
    ):
        with pytest.raises(RequestError, match=f"^{name}: "):
            TranscribeParams(**{name: value})  # type: ignore[arg-type]
    assert TOKENS.language("German") == "de"
    with pytest.raises(RequestError, match="'xx' is not known to the model; it has: de, en"):
        TOKENS.language("xx")
    assert len(LANGUAGES) == 100
    assert LANGUAGES["ht"] == "haitian creole"


def test_how_often_it_says_the_same() -> None:
    assert compression_ratio("") == 0
    assert compression_ratio("la " * 60) > 2.4
    assert compression_ratio("the quick brown fox jumps over the lazy dog") < 1.2


def test_transcripts_as_text_json_and_subtitles() -> None:
    segments = [
        Segment(0, 0, 0.0, 1.5, " one --> two\n", (1,), 0.0, -0.1234567, 1.0, 0.25),
        Segment(1, 3000, 3725.25, 3726.999, " three", (2,), 0.2, -0.5, 1.0, 0.0),
    ]
    made = Transcript("de", "transcribe", 4000.1234, segments)
    assert write.to_text(made) == "one --> two\n three\n"
    assert write.to_srt(made) == (
        "1\n00:00:00,000 --> 00:00:01,500\none -> two\n\n2\n01:02:05,250 --> 01:02:06,999\nthree\n"
    )
    assert write.to_vtt(made) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\none -> two\n\n"
        "01:02:05.250 --> 01:02:06.999\nthree\n"
    )
    found = write.to_json(made)
    assert {k: found[k] for k in ("task", "language", "duration")} == {
        "task": "transcribe",
        "language": "german",
        "duration": 4000.123,
    }
    assert found["segments"][0]["avg_logprob"] == -0.123457
    assert set(found["segments"][0]) >= {"id", "seek", "start", "end", "text", "tokens"}
    assert write.to_srt(Transcript("en", "transcribe", 0.0)) == ""
