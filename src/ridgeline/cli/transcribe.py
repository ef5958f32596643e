"""`ridgeline transcribe`: what is said in sound files, as text, JSON or subtitles."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli import machine_options as machine
from ridgeline.cli.progress import show_progress
from ridgeline.cli.spinner import show_spinner
from ridgeline.cli.stages import show_stages
from ridgeline.errors import RequestError

if TYPE_CHECKING:
    from ridgeline.engine.speech.windows import Transcript
    from ridgeline.llm import LLM

EXAMPLES = """
Examples:

  ridgeline transcribe talk.wav

  ridgeline transcribe talk.wav --language de --srt > talk.srt

  ridgeline transcribe rede.wav --translate

  ridgeline transcribe a.wav b.wav --json

  ffmpeg -v error -i talk.mp3 -f wav - | ridgeline transcribe -

A WAV file of any rate and any number of channels; others are converted, as above. Several files are
read side by side. The last line, on stderr, says how many times faster than speech that was, and
the roof: what this machine could at most.
"""

_HOW = "How it listens"
_FORM = "What is printed"


def transcribe(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(help="WAV files; -: what is piped in.", show_default=False)
    ],
    model: Annotated[
        str, typer.Option(help="Path, catalogue name, pypi:package or hf:owner/name.")
    ] = "whisper-base",
    language: Annotated[
        str | None,
        typer.Option(
            help="What is spoken, as a code or a name. [default: heard in the first 30 seconds]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    translate: Annotated[
        bool, typer.Option("--translate", help="Into English.", rich_help_panel=_HOW)
    ] = False,
    prompt: Annotated[
        str,
        typer.Option(help="A text that goes before: names, spelling.", rich_help_panel=_HOW),
    ] = "",
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            help="May be repeated: tried in turn while an attempt repeats itself or is unlikely. "
            "[default: 0, 0.2, 0.4, 0.6, 0.8, 1]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    condition_on_previous_text: Annotated[
        bool,
        typer.Option(
            "--condition-on-previous-text",
            help="Each window of 30 seconds is told the text so far.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Of what is drawn above temperature 0.", rich_help_panel=_HOW)
    ] = 0,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="A line of JSON a file, with times.", rich_help_panel=_FORM),
    ] = False,
    srt: Annotated[
        bool, typer.Option("--srt", help="SubRip subtitles.", rich_help_panel=_FORM)
    ] = False,
    vtt: Annotated[
        bool, typer.Option("--vtt", help="WebVTT subtitles.", rich_help_panel=_FORM)
    ] = False,
    kv_format: machine.KvFormat = None,
    threads: machine.Threads = None,
    backend: machine.Backend = "cpu",
) -> None:
    """Write down what is said in sound files."""
    if as_json + srt + vtt > 1:
        raise RequestError("--json, --srt, --vtt", "give one of them at most")
    from ridgeline.engine.speech import write
    from ridgeline.engine.speech.windows import TEMPERATURES, TranscribeParams
    from ridgeline.llm import LLM
    from ridgeline.model.audio.wav import read_wav_file, read_wav_stdin

    if len(files) > 1 and (srt or vtt):
        raise RequestError("--srt, --vtt", "subtitles are of one file")
    params = TranscribeParams(
        language=language,
        task="translate" if translate else "transcribe",
        temperature=tuple(temperature) if temperature else TEMPERATURES,
        prompt=prompt,
        condition_on_previous_text=condition_on_previous_text,
        seed=seed,
    )
    piped = Path("-")
    if files.count(piped) > 1:
        raise RequestError("-", "what is piped in is one file")
    # Before a download, and a load.
    sounds = [read_wav_stdin() if path == piped else read_wav_file(path) for path in files]
    with show_progress(model) as progress, show_spinner(f"loading {model[-60:]}"):
        llm = LLM(
            model,
            settings=context.obj,
            kv_format=kv_format,
            threads=threads,
            backend=backend,
            progress=progress,
        )
    start = time.monotonic()
    done = [0.0] * len(sounds)
    total = round(sum(sound.seconds for sound in sounds))
    with show_stages("transcribing") as report:

        def told(index: int, transcript: Transcript) -> None:
            done[index] = transcript.seek_seconds
            report("seconds of sound", round(sum(done)), total)

        report("seconds of sound", 0, total)
        found = llm.transcribe(sounds, params, told=told)
    seconds = time.monotonic() - start
    for path, transcript in zip(files, found, strict=True):
        if as_json:
            line = {"file": str(path), **write.to_json(transcript)}
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        elif srt or vtt:
            sys.stdout.write((write.to_srt if srt else write.to_vtt)(transcript))
        else:
            if len(files) > 1:
                sys.stdout.write(f"{path}:\n")
            sys.stdout.write(write.to_text(transcript))
    sys.stdout.flush()
    for path, transcript in zip(files, found, strict=True):
        _say_doubts(str(path) if len(files) > 1 else "", transcript)
    _say_speed(llm, found, seconds)


def _say_doubts(name: str, transcript: Transcript) -> None:
    from ridgeline.engine.speech.write import clock

    places = [clock(second, ".")[:8] for second in transcript.doubtful]
    if places:
        more = f" and {len(places) - 6} more" if len(places) > 6 else ""
        sys.stderr.write(
            f"{name}{': ' if name else ''}not sure of what is said from {', '.join(places[:6])}"
            f"{more} on: every attempt repeats itself or is unlikely\n"
        )


def _say_speed(llm: LLM, found: list[Transcript], seconds: float) -> None:
    length = sum(transcript.duration for transcript in found)
    parts = [
        (sum(transcript.num_windows for transcript in found), "window"),
        (sum(transcript.num_tokens for transcript in found), "token"),
    ]
    line = (
        f"{length:.1f} s of sound in {seconds:.1f} s: {length / max(seconds, 1e-9):.1f} x real time"
    )
    least = llm.least_transcribe_seconds(found)
    if least is not None and least > 0:
        roof = length / least
        line += f", {100 * least / seconds:.0f} % of this machine's roof ({roof:.0f} x)"
    counts = [f"{n} {name}{'' if n == 1 else 's'}" for n, name in parts]
    line += f"; {', '.join(counts)}, {found[0].language_name if found else ''}"
    sys.stderr.write(line.rstrip(", ") + "\n")
