"""A transcript as text, JSON, SubRip (.srt) or WebVTT."""

from __future__ import annotations

from typing import Any

from ridgeline.engine.speech.windows import Segment, Transcript


def to_text(transcript: Transcript) -> str:
    return transcript.text + "\n"


def to_json(transcript: Transcript) -> dict[str, Any]:
    """As OpenAI's verbose_json: language by name, seconds, and each segment with what is known of
    its window.
    """
    return {
        "task": transcript.task,
        "language": transcript.language_name,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "segments": [_segment(segment) for segment in transcript.segments],
    }


def to_srt(transcript: Transcript) -> str:
    blocks = [
        f"{number}\n{clock(s.start, ',')} --> {clock(s.end, ',')}\n{one_line(s.text)}\n"
        for number, s in enumerate(transcript.segments, 1)
    ]
    return "\n".join(blocks)


def to_vtt(transcript: Transcript) -> str:
    blocks = [
        f"{clock(s.start, '.')} --> {clock(s.end, '.')}\n{one_line(s.text)}\n"
        for s in transcript.segments
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def clock(seconds: float, point: str) -> str:
    """hh:mm:ss and three digits of a second."""
    whole = round(seconds * 1000)
    hours, rest = divmod(whole, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def one_line(text: str) -> str:
    """No text of a model can end a cue, or look like one's times."""
    return " ".join(text.split()).replace("-->", "->")


def _segment(segment: Segment) -> dict[str, Any]:
    numbers = {
        name: round(getattr(segment, name), 6)
        for name in ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
    }
    return {
        "id": segment.id,
        "seek": segment.seek,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.tokens),
        **numbers,
    }
