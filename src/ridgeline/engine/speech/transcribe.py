"""Many sounds at once on one model: each in a row, as many as there are.

Owns the decoder and the sounds that are being read. Not thread-safe: one caller steps it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ridgeline.engine.speech.decode import Attempt, Decoder, Heard, SpeechExecutor
from ridgeline.engine.speech.tokens import read_speech_tokens
from ridgeline.engine.speech.windows import (
    FRAMES_PER_TIME,
    Listening,
    Setting,
    Told,
    TranscribeParams,
    Transcript,
    listen,
)
from ridgeline.errors import RequestError, RidgelineError
from ridgeline.model.audio.mel import HOP, RATE, log_mel
from ridgeline.model.audio.resample import resample
from ridgeline.model.audio.wav import Sound, sound_of
from ridgeline.model.graph.node import Graph
from ridgeline.model.opened import OpenedModel
from ridgeline.model.text.tokenizer import Tokenizer

MAX_SECONDS = 24 * 3600


@dataclass(slots=True, eq=False)
class Track:
    """One sound's way. error: why it ended without a transcript."""

    listening: Listening
    attempt: Attempt | None = None
    transcript: Transcript | None = None
    error: RidgelineError | None = None
    row: int | None = None

    @property
    def done(self) -> bool:
        return self.transcript is not None or self.error is not None


def transcriber_of(
    executor: SpeechExecutor,
    opened: OpenedModel,
    graph: Graph,
    tokenizer: Tokenizer,
    max_tokens: int,
) -> Transcriber:
    """For an opened speech model. ModelError if its vocabulary is none of a speech model's."""
    encoder = graph.encoder
    assert encoder is not None
    each = encoder.inputs[1].shape[1]
    assert isinstance(each, int)
    path = opened.checkpoint.path
    folder = path if path.is_dir() else path.parent
    tokens = read_speech_tokens(tokenizer, opened.config, folder)
    setting = Setting(tokens, tokenizer, encoder.max_context, graph.max_context)
    return Transcriber(executor, setting, each // FRAMES_PER_TIME, max_tokens)


def transcribe_all(
    transcriber: Transcriber,
    sounds: Sequence[object],
    params: TranscribeParams | None,
    told: Callable[[int, Transcript], None] | None,
) -> list[Transcript]:
    """See `LLM.transcribe`."""
    tracks = []
    for index, sound in enumerate([sound_of(each) for each in sounds]):
        own = partial(told, index) if told is not None else _nothing
        tracks.append(transcriber.prepared(sound, params or TranscribeParams(), own))
    for track in tracks:
        transcriber.queue(track)
    try:
        while transcriber.has_work:
            transcriber.step()
    finally:
        for track in tracks:
            transcriber.cancel(track, RequestError("sounds", "were interrupted"))
    failed = next((track.error for track in tracks if track.error is not None), None)
    if failed is not None:
        raise failed
    return [track.transcript for track in tracks if track.transcript is not None]


def _nothing(_transcript: Transcript) -> None:
    """Nobody wants to know."""


class Transcriber:
    """mels: of the spectrum that the model hears."""

    def __init__(
        self, executor: SpeechExecutor, setting: Setting, mels: int, max_tokens: int
    ) -> None:
        self._setting = setting
        self._mels = mels
        self._decoder = Decoder(executor, setting.tokens, setting.context, max_tokens)
        self._waiting: deque[Track] = deque()
        self._reading: dict[int, Track] = {}
        self._free = list(range(self._decoder.num_rows))[::-1]

    def add(self, sound: Sound, params: TranscribeParams, told: Told = _nothing) -> Track:
        """Queues a sound. RequestError for one that is longer than a day, or a language that the
        model does not know. The spectrum is made here, by who calls.
        """
        return self.queue(self.prepared(sound, params, told))

    def prepared(self, sound: Sound, params: TranscribeParams, told: Told = _nothing) -> Track:
        """What `queue` takes; safe to call in any thread."""
        if sound.seconds > MAX_SECONDS:
            raise RequestError(
                "file", f"is {sound.seconds:.0f} s long; at most {MAX_SECONDS} s are transcribed"
            )
        if params.language is not None:
            self._setting.tokens.language(params.language)
        if params.task == "translate" and not self._setting.tokens.languages:
            raise RequestError("task", "'translate': this model knows English only")
        samples = resample(sound.samples, sound.rate, RATE)
        spectrum = log_mel(samples, self._mels, silence=self._setting.window_frames * HOP)
        return Track(listen(spectrum, len(samples) // HOP, params, self._setting, told))

    def queue(self, track: Track) -> Track:
        self._waiting.append(track)
        return track

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._reading)

    def step(self) -> None:
        """Brings every sound that has a row a step further; what fails ends one sound."""
        while self._waiting and self._free:
            track = self._waiting.popleft()
            if not track.done:
                track.row = self._free.pop()
                self._reading[track.row] = track
                self._go_on(track, None)
        if not self._decoder.has_work:
            return
        try:
            heard = self._decoder.step()
        except RidgelineError as error:
            # It is not known whose fault it is.
            for track in list(self._reading.values()):
                self._end(track, error=error)
            return
        for row, what in heard.items():
            self._go_on(self._reading[row], what)

    def cancel(self, track: Track, reason: RidgelineError) -> None:
        if not track.done:
            self._end(track, error=reason)

    def _go_on(self, track: Track, heard: Heard | None) -> None:
        assert track.row is not None
        try:
            attempt = track.listening.send(heard)  # type: ignore[arg-type]
            self._decoder.begin(track.row, attempt)
        except StopIteration as stop:
            self._end(track, transcript=stop.value)
        except RidgelineError as error:
            self._end(track, error=error)

    def _end(
        self,
        track: Track,
        *,
        transcript: Transcript | None = None,
        error: RidgelineError | None = None,
    ) -> None:
        track.transcript, track.error = transcript, error
        if track.row is not None:
            self._decoder.abandon(track.row)
            del self._reading[track.row]
            self._free.append(track.row)
            track.row = None
        track.listening.close()
