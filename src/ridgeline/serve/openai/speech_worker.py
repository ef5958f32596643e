"""A speech model's thread: sounds of many requests, side by side on one executor.

The thread alone steps the model. What comes from event loops waits in a queue; a caller that goes
away ends its sound.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from ridgeline.engine.speech.transcribe import Track, Transcriber
from ridgeline.engine.speech.windows import TranscribeParams, Transcript
from ridgeline.errors import EngineError, RequestError, RidgelineError
from ridgeline.model.audio.wav import read_wav

Result = asyncio.Future[Transcript]


class SpeechWorker:
    """Made when first needed; `close` ends the thread and what it has."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiters: dict[Track, tuple[asyncio.AbstractEventLoop, Result]] = {}
        self._thread = threading.Thread(target=self._run, name="ridgeline-speech", daemon=True)
        self._thread.start()

    async def transcribe(self, data: bytes, params: TranscribeParams) -> Transcript:
        """Of a WAV file. Raises RequestError for one that cannot be read, EngineError."""
        loop = asyncio.get_running_loop()
        track = await asyncio.to_thread(lambda: self._transcriber.prepared(read_wav(data), params))
        result: Result = loop.create_future()

        def begin() -> None:
            self._waiters[track] = loop, result
            self._transcriber.queue(track)

        self._commands.put(begin)
        try:
            return await result
        except asyncio.CancelledError:
            gone = RequestError("file", "the client has gone away")
            self._commands.put(lambda: self._transcriber.cancel(track, gone))
            raise

    def close(self) -> None:
        self._commands.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                # With work to do, only what is there is taken.
                command = self._commands.get(block=not self._transcriber.has_work)
                if command is None:
                    break
                command()
                continue
            except queue.Empty:
                pass
            try:
                self._transcriber.step()
            except Exception as error:  # a fault of ours ends what runs, not the thread
                fault = error if isinstance(error, RidgelineError) else EngineError(repr(error))
                for track in list(self._waiters):
                    self._transcriber.cancel(track, fault)
            self._tell()
        for track in list(self._waiters):
            self._transcriber.cancel(track, EngineError("the server has ended"))
        self._tell()

    def _tell(self) -> None:
        for track in [track for track in self._waiters if track.done]:
            loop, result = self._waiters.pop(track)
            try:
                loop.call_soon_threadsafe(_settle, result, track)
            except RuntimeError:
                continue  # its loop is closed: nobody waits


def _settle(result: Result, track: Track) -> None:
    if result.done():
        return
    if track.transcript is not None:
        result.set_result(track.transcript)
    else:
        result.set_exception(track.error or EngineError("the sound was lost"))
