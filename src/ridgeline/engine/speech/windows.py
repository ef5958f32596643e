"""A sound of any length in windows of 30 seconds: where each begins, and when it is tried again.

The next window begins at the last time that the transcript of this one closes, or behind it. An
attempt that repeats itself or is unlikely is tried at higher temperatures; one that says nothing is
left out (Radford et al. 2022, section 4.5). Each sound is a generator that asks for attempts and is
told what was heard: who runs them is no affair of this file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ridgeline.engine.speech.decode import Attempt, Heard, probability
from ridgeline.engine.speech.languages import LANGUAGES
from ridgeline.engine.speech.tokens import SECONDS_PER_TIME, TASKS, SpeechTokens
from ridgeline.errors import RequestError
from ridgeline.model.audio.mel import FRAMES_PER_SECOND
from ridgeline.model.text.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
FRAMES_PER_TIME = round(SECONDS_PER_TIME * FRAMES_PER_SECOND)


@dataclass(frozen=True, slots=True)
class TranscribeParams:
    """How to transcribe. language: a code or a name; None: heard in the first window. task:
    "transcribe", or "translate" into English. timestamps: whether segments have times; without,
    a window is one segment. temperature: one, or several that are tried in turn while an attempt
    repeats itself (its bytes shrink by more than compression_ratio_threshold when packed) or its
    tokens are less likely than logprob_threshold in the mean. no_speech_threshold: a window whose
    probability of no speech is above it, and whose text is so unlikely, is left out. prompt: a text
    that goes before, for names and spelling. condition_on_previous_text: the text so far goes
    before each window. seed: of what is drawn above temperature 0.

    Raises RequestError, naming the field.
    """

    language: str | None = None
    task: str = "transcribe"
    timestamps: bool = True
    temperature: float | tuple[float, ...] = TEMPERATURES
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    prompt: str = ""
    condition_on_previous_text: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise RequestError("task", f"{self.task!r}; there are: {', '.join(TASKS)}")
        if self.language is not None and not isinstance(self.language, str):
            raise RequestError("language", f"{self.language!r} is no code of a language")
        if not self.temperatures or len(self.temperatures) > 16:
            raise RequestError("temperature", "1 to 16 of them are needed")
        for value in self.temperatures:
            if not isinstance(value, int | float) or not 0 <= value <= 2:
                raise RequestError("temperature", f"{value!r} is not a number from 0 to 2")
        for name in ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, int | float):
                raise RequestError(name, f"{value!r} is not a number")
        if not isinstance(self.prompt, str):
            raise RequestError("prompt", "must be a text")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise RequestError("seed", f"{self.seed!r} is not a whole number from 0 on")

    @property
    def temperatures(self) -> tuple[float, ...]:
        given = self.temperature
        return tuple(given) if isinstance(given, tuple | list) else (given,)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a transcript. start, end: seconds. seek: the first frame of 10 ms of its window.
    tokens: with times. The last four are its window's.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


@dataclass(slots=True)
class Transcript:
    """What was heard so far. language: a code. duration, seek_seconds: of the sound, and how much
    of it is done. num_windows, num_attempts: windows, each encoded once, and attempts at their
    texts. num_tokens: that were drawn. doubtful: where windows began, in seconds, at which no
    attempt was good: their texts repeat themselves, or are unlikely.
    """

    language: str
    task: str
    duration: float
    segments: list[Segment] = field(default_factory=list)
    seek_seconds: float = 0.0
    num_windows: int = 0
    num_attempts: int = 0
    num_tokens: int = 0
    doubtful: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def language_name(self) -> str:
        return LANGUAGES.get(self.language, self.language)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all sounds of a model share. positions, context: of its encoder and its decoder."""

    tokens: SpeechTokens
    tokenizer: Tokenizer
    positions: int
    context: int

    @property
    def window_frames(self) -> int:
        return self.positions * FRAMES_PER_TIME


Listening = Generator[Attempt, Heard, Transcript]
Told = Callable[[Transcript], None]


def listen(
    spectrum: Floats,
    num_frames: int,
    params: TranscribeParams,
    setting: Setting,
    told: Told = lambda _: None,
) -> Listening:
    """spectrum [frames, mels]: of the sound's num_frames, and of a window of silence behind it.
    told: after each window. Raises RequestError for a language that the model does not know.
    """
    tokens = setting.tokens
    opening: Floats | None = None
    language = None if params.language is None else tokens.language(params.language)
    if language is None:
        language = "en"
        if tokens.languages:
            opening = window_at(spectrum, 0, setting)
            heard = yield Attempt(opening, (tokens.start,))
            language = likeliest_language(heard.start_scores, tokens)
    prefix = tokens.prefix(language, params.task, params.timestamps)
    transcript = Transcript(language, params.task, num_frames / FRAMES_PER_SECOND)
    encode = setting.tokenizer.encode
    asked = encode(f" {params.prompt.strip()}", add_special=False, parse_special=False)
    asked = asked if params.prompt.strip() else []
    before: list[int] = []
    seek = 0
    while seek < num_frames:
        length = min(setting.window_frames, num_frames - seek)
        prompt = prompt_of([*asked, *before], setting)
        # The window that told the language is not encoded again.
        frames = opening if opening is not None and not seek else window_at(spectrum, seek, setting)
        heard, temperature, ratio, is_sure = yield from heard_at_last(
            frames, prompt, prefix, params, setting, transcript
        )
        if not is_sure:
            transcript.doubtful.append(seek / FRAMES_PER_SECOND)
        transcript.num_windows += 1
        silence = 0.0
        if tokens.no_speech is not None:
            silence = probability(heard.start_scores, tokens.no_speech)
        if not is_silence(heard, silence, params):
            pieces, moved = cut(heard.tokens, length, setting, params.timestamps)
            for start, end, part in pieces:
                text = text_of(part, setting)
                if text.strip():
                    transcript.segments.append(
                        Segment(
                            len(transcript.segments),
                            seek,
                            round(seek / FRAMES_PER_SECOND + start, 2),
                            round(seek / FRAMES_PER_SECOND + end, 2),
                            text,
                            part,
                            temperature,
                            heard.mean_log_probability,
                            ratio,
                            silence,
                        )
                    )
            if params.condition_on_previous_text:
                # What was drawn wildly is no guide to what follows.
                said = [token for token in heard.tokens if token < tokens.first_time]
                before = [*before, *said] if temperature <= 0.5 else []
        else:
            moved = length
        seek += max(1, moved)
        transcript.seek_seconds = min(seek, num_frames) / FRAMES_PER_SECOND
        told(transcript)
    return transcript


def heard_at_last(
    frames: Floats,
    prompt: tuple[int, ...],
    prefix: tuple[int, ...],
    params: TranscribeParams,
    setting: Setting,
    transcript: Transcript,
) -> Generator[Attempt, Heard, tuple[Heard, float, float, bool]]:
    """The first attempt that is good enough, or the last; its temperature, how it packs, and
    whether it was good. A window is silent if no attempt at it was likely: a text that somebody
    does say over and over is refused at low temperatures, and what is drawn at high ones would
    pass for silence.
    """
    most = max(1, min(setting.context // 2, setting.context - len(prompt) - len(prefix)))
    last: tuple[Heard, float, float] | None = None
    likeliest: tuple[Heard, float, float] | None = None
    is_sure = False
    for number, temperature in enumerate(params.temperatures):
        seed = params.seed * len(params.temperatures) + number
        heard = yield Attempt(
            frames, prompt, prefix, params.timestamps, temperature, most, seed % 2**64
        )
        transcript.num_attempts += 1
        transcript.num_tokens += len(heard.tokens)
        last = heard, temperature, compression_ratio(text_of(heard.tokens, setting))
        if likeliest is None or heard.mean_log_probability > likeliest[0].mean_log_probability:
            likeliest = last
        is_sure = is_good(heard, last[2], params, setting.tokens)
        if is_sure:
            break
    assert last is not None
    assert likeliest is not None
    if setting.tokens.no_speech is not None:
        none = probability(last[0].start_scores, setting.tokens.no_speech)
        if is_silence(last[0], none, params) and not is_silence(likeliest[0], none, params):
            return *likeliest, False
    return *last, is_sure


def is_good(heard: Heard, ratio: float, params: TranscribeParams, tokens: SpeechTokens) -> bool:
    if tokens.no_speech is not None and is_silence(
        heard, probability(heard.start_scores, tokens.no_speech), params
    ):
        return True
    repeats = params.compression_ratio_threshold
    unlikely = params.logprob_threshold
    return not (
        (repeats is not None and ratio > repeats)
        or (unlikely is not None and heard.mean_log_probability < unlikely)
    )


def is_silence(heard: Heard, probability_of_none: float, params: TranscribeParams) -> bool:
    if params.no_speech_threshold is None or probability_of_none <= params.no_speech_threshold:
        return False
    least = params.logprob_threshold
    return least is None or heard.mean_log_probability < least


def cut(
    said: tuple[int, ...], length: int, setting: Setting, times: bool
) -> tuple[list[tuple[float, float, tuple[int, ...]]], int]:
    """A window's tokens in pieces (start, end, tokens) in seconds from its begin, and by how many
    frames the next window begins later.

    Where one text's last time stands beside the next one's first, a piece ends. The window is done
    to its end if it closes with a single time, or has no such places; else to the last time that
    closes a piece, and what was said behind it is heard again. length: of the window's sound.
    """
    first = setting.tokens.first_time
    whole = length / FRAMES_PER_SECOND
    if not times:
        return [(0.0, whole, said)], length
    is_time = [token >= first for token in said]
    ends = [i for i in range(1, len(said)) if is_time[i - 1] and is_time[i]]
    if not ends:
        closed = [token for token in said if token >= first]
        end = whole
        if closed and closed[-1] != first:
            end = (closed[-1] - first) * SECONDS_PER_TIME
        return [(0.0, end, said)], length
    closes = len(said) >= 2 and not is_time[-2] and is_time[-1]
    pieces = []
    begin = 0
    for stop in [*ends, len(said)] if closes else ends:
        part = said[begin:stop]
        start, end = (max(0, token - first) * SECONDS_PER_TIME for token in (part[0], part[-1]))
        pieces.append((start, end, part))
        begin = stop
    return pieces, length if closes else (said[begin - 1] - first) * FRAMES_PER_TIME


def prompt_of(before: list[int], setting: Setting) -> tuple[int, ...]:
    """Tokens up to the one that starts a transcript: of what came before, the last that fit."""
    tokens, most = setting.tokens, setting.context // 2 - 1
    if not before:
        return (tokens.start,)
    return (tokens.previous, *before[-most:], tokens.start)


def window_at(spectrum: Floats, seek: int, setting: Setting) -> Floats:
    """[positions, frames of a position x mels]: a window, zeros where the spectrum ends."""
    part = spectrum[seek : seek + setting.window_frames]
    if len(part) < setting.window_frames:
        part = np.pad(part, ((0, setting.window_frames - len(part)), (0, 0)))
    return np.ascontiguousarray(part).reshape(setting.positions, -1)


def likeliest_language(logits: Floats, tokens: SpeechTokens) -> str:
    return max(tokens.languages, key=lambda code: float(logits[tokens.languages[code]]))


def text_of(said: tuple[int, ...], setting: Setting) -> str:
    return setting.tokenizer.decode([token for token in said if token < setting.tokens.end])


def compression_ratio(text: str) -> float:
    """How many times shorter the text is once packed: high if it says the same again and again."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0
