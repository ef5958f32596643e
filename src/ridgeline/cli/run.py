"""`ridgeline run`: an answer from a model, streamed; or a conversation.

stdout has the answer and nothing else; what is said about it goes to stderr. Exit code 130: Ctrl-C
ended the answer early; what had come of it was printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgeline.cli import machine_options as machine
from ridgeline.cli import sampling_options as options
from ridgeline.cli import structured_options as forms
from ridgeline.cli.figures import as_json, as_line, figures_of, seconds
from ridgeline.cli.progress import show_progress
from ridgeline.cli.spinner import show_spinner
from ridgeline.config import Settings
from ridgeline.errors import RidgelineError

if TYPE_CHECKING:
    from ridgeline.engine.experts import Counts
    from ridgeline.engine.outputs import RequestOutput
    from ridgeline.engine.request import SamplingParams
    from ridgeline.engine.turns import Stream
    from ridgeline.llm import LLM

EXAMPLES = """
Examples:

  ridgeline run smollm2 "Why is the sky blue?"

  ridgeline run smollm2                      a conversation; Ctrl-D ends it

  cat notes.txt | ridgeline run smollm2      the prompt from a pipe

  ridgeline run smollm2 --system "Answer in one word." "Capital of France?" --temperature 0

  ridgeline run ./gemma-3-4b-it "What is in the picture?" --image cat.png

  ridgeline run ./model.gguf --raw "Once upon a time" --max-tokens 50 --seed 7

  ridgeline run smollm2 "Is water wet?" --choice yes,no

  ridgeline run smollm2 "A date in May 1999, as ISO 8601" --regex "1999-05-[0-3][0-9]"

  ridgeline run smollm2 "Name a river" --json-schema '{"type": "object", "properties":
  {"river": {"type": "string", "maxLength": 20}}, "required": ["river"]}'

  ridgeline run smollm2 "Add two numbers" --grammar sum.lark

  ridgeline run smollm2 "Name a river" --json | jq -r .text

The closing line on stderr: tokens; load (process start to model ready); TTFT (prompt handed over to
first token); prompt and decode tokens per second; and the bytes per second that decoding had to
read, beside what this machine's memory gives (read again each time; "another mode": `ridgeline
measure` found it faster or slower). --json puts the same on stdout, with the answer, as one line.
"""

# What a terminal would act on is not text; line breaks and tabs are.
_NOT_TEXT = {c: "\ufffd" for c in (*range(32), *range(0x7F, 0xA0)) if chr(c) not in "\n\t"}


def run(
    context: typer.Context,
    model: machine.Model,
    prompt: Annotated[
        str | None,
        typer.Argument(help="The prompt. None: stdin's text, or a conversation at a terminal."),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System message: how the model is to answer.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A picture that the prompt is about, of a model that sees; often."
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")
    ] = False,
    json_line: Annotated[
        bool,
        typer.Option(
            "--json", help="When the answer is whole, it and its figures as one line of JSON."
        ),
    ] = False,
    max_tokens: options.MaxTokens = None,
    min_tokens: options.MinTokens = 0,
    temperature: options.Temperature = 0.7,
    dynatemp_range: options.DynatempRange = 0.0,
    top_p: options.TopP = None,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    typical_p: options.TypicalP = 1.0,
    top_n_sigma: options.TopNSigma = 0.0,
    xtc_probability: options.XtcProbability = 0.0,
    xtc_threshold: options.XtcThreshold = 0.1,
    mirostat: options.Mirostat = 0,
    mirostat_tau: options.MirostatTau = 5.0,
    mirostat_eta: options.MirostatEta = 0.1,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    presence_penalty: options.PresencePenalty = 0.0,
    dry_multiplier: options.DryMultiplier = 0.0,
    no_repeat_ngram_size: options.NoRepeatNgramSize = 0,
    bad_words: options.BadWords = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    stop_regex: options.StopRegex = None,
    ignore_eos: options.IgnoreEos = False,
    json_schema: forms.JsonSchema = None,
    regex: forms.Regex = None,
    choice: forms.Choice = None,
    grammar: forms.Grammar = None,
    context_length: machine.ContextLength = None,
    memory: machine.Memory = None,
    kv_format: machine.KvFormat = None,
    threads: machine.Threads = None,
    backend: machine.Backend = "cpu",
    record: Annotated[
        Path | None,
        typer.Option(
            help="Write what the engine is told and does to this file, for `ridgeline replay`.",
            rich_help_panel=machine.PANEL,
        ),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Which experts a mixture's tokens went to, as a heat map: FILE.png, .svg or .pdf; "
            "- for characters on stderr.",
            rich_help_panel=machine.PANEL,
        ),
    ] = None,
) -> None:
    """Answer a prompt with a model, streamed; without a prompt, hold a conversation."""
    began = time.monotonic() - _process_age_seconds()
    settings: Settings = context.obj
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack the model's alphabet
    if raw and system is not None:
        raise RidgelineError("--system needs the chat template that --raw turns off; drop one")
    for picture in image or ():
        if raw:
            raise RidgelineError("--image needs the chat template that --raw turns off; drop one")
        if not picture.is_file():
            raise RidgelineError(f"--image {picture}: there is no such file")
    if experts is not None and experts != "-":
        from ridgeline.bench.plot import check_plot

        check_plot(Path(experts))
    cache_bytes = machine.memory_bytes(memory)
    _check_text("prompt", prompt or "")
    _check_text("--system", system or "")
    for flag, texts in (("--stop", stop), ("--stop-regex", stop_regex), ("--bad-words", bad_words)):
        _check_text(flag, "".join(texts or []))
    with machine.flags_named(context, forms.FLAG_OF):
        from ridgeline.engine.request import SamplingParams

        params = SamplingParams(
            temperature=temperature,
            dynatemp_range=dynatemp_range,
            top_p=(1.0 if mirostat else 0.95) if top_p is None else top_p,
            top_k=top_k,
            min_p=min_p,
            typical_p=typical_p,
            top_n_sigma=top_n_sigma,
            xtc_probability=xtc_probability,
            xtc_threshold=xtc_threshold,
            mirostat=mirostat,
            mirostat_tau=mirostat_tau,
            mirostat_eta=mirostat_eta,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            dry_multiplier=dry_multiplier,
            no_repeat_ngram_size=no_repeat_ngram_size,
            bad_words=tuple(bad_words or ()),
            seed=seed,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            stop=tuple(stop or ()),
            stop_regex=tuple(stop_regex or ()),
            ignore_eos=ignore_eos,
            structured_outputs=forms.structured_outputs(
                json_schema, regex, choice, grammar, ignore_eos=ignore_eos
            ),
        )
        if prompt is None and not (sys.stdin is not None and sys.stdin.isatty()):
            waited = time.monotonic()
            prompt = _read_stdin()
            began += time.monotonic() - waited
        elif prompt is not None and not prompt.strip() and not raw:
            raise RidgelineError("the prompt is empty; leave it out for a conversation")
        if prompt is None and json_line:
            raise RidgelineError("--json needs a prompt, of the command line or of a pipe")
        if prompt is None and image:
            raise RidgelineError("--image needs a prompt that says what is asked of the picture")

        from ridgeline.llm import LLM
        from ridgeline.model.weights.sources import parse_reference, resolve

        waited = time.monotonic()
        with show_progress(model) as progress:
            path = resolve(parse_reference(model), settings, progress)
        began += time.monotonic() - waited  # a download is not a load
        name = model.rstrip("/").rsplit("/", 1)[-1][-60:]
        with show_spinner(f"loading {name}"):
            llm = LLM(
                str(path),
                settings=settings,
                backend=backend,
                context_length=context_length,
                memory=cache_bytes,
                kv_format=kv_format,
                threads=threads,
                max_rows=1,
                record=record,
                expert_counts=experts is not None,
            )
        for note in llm.notes:
            _say(f"note: {note}")
        if not raw:
            llm.check_chat_template()
        speaker = _Speaker(llm, params, name if json_line else None)
        load_seconds = time.monotonic() - began
        if prompt is None:
            _converse(speaker, name, system, raw, load_seconds)
            return
        output = speaker.answer(prompt if raw else _messages(system, prompt, image), load_seconds)
        if experts is not None and output.expert_counts is not None:
            _show_experts(output.expert_counts, experts)
    if output.outputs[0].finish_reason == "abort":
        raise typer.Exit(130)


def _show_experts(counts: Counts, where: str) -> None:
    from ridgeline.bench.expert_map import as_text, draw

    if where == "-":
        sys.stderr.write(as_text(counts))
        return
    try:
        draw(counts, Path(where))
    except OSError as error:
        raise RidgelineError(f"--experts: {where} cannot be written: {error}") from None
    _say(f"wrote {where}")


def _messages(
    system: str | None, prompt: str, images: Sequence[Path] | None
) -> list[dict[str, Any]]:
    first = [{"role": "system", "content": system}] if system is not None else []
    seen = [{"type": "image", "image": path} for path in images or ()]
    content = [*seen, {"type": "text", "text": prompt}] if seen else prompt
    return [*first, {"role": "user", "content": content}]


def _read_stdin() -> str:
    """All of stdin, without the line break that ends a text file."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RidgelineError(f"stdin is not UTF-8 text (at byte {error.start})") from None
    if not text.strip():
        raise RidgelineError('stdin is empty; give a prompt: ridgeline run MODEL "your prompt"')
    return text.removesuffix("\n").removesuffix("\r")


def _check_text(name: str, text: str) -> None:
    """What is not UTF-8 on the command line or the keyboard comes as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RidgelineError(f"{name}: is not UTF-8 text (at character {error.start})") from None


def _process_age_seconds() -> float:
    """Seconds since the kernel started this process; the interpreter's start is in a load too."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass(frozen=True, slots=True)
class _Speaker:
    """A model and how it is to be sampled: prints answers to stdout, their figures to stderr; or
    both as JSON to stdout, under a name of the model.
    """

    llm: LLM
    params: SamplingParams
    json_name: str | None = None

    def answer(
        self, prompt: str | list[dict[str, Any]], load_seconds: float | None = None
    ) -> RequestOutput:
        """Streams one answer. Ctrl-C ends it and keeps what was said; a fault of it is raised."""
        stream = (
            self.llm.stream(prompt, self.params)
            if isinstance(prompt, str)
            else self.llm.stream_chat(prompt, self.params)
        )
        with _signals_for(stream):
            if self.json_name is None:
                _print(delta.text for delta in stream)
            else:
                for _ in stream:
                    pass
            output = stream.output
            error = output.outputs[0].error
            if error is not None:
                raise error
            told = figures_of(self.llm, self.params, output, load_seconds)
            if self.json_name is None:
                _say(as_line(told))
            else:
                line = as_json(told, self.json_name, output)
                _print([json.dumps(line, ensure_ascii=False)])
        return output


@contextmanager
def _signals_for(stream: Stream) -> Iterator[None]:
    """Ctrl-C ends the stream and not the program; a reader that is gone (`| head`) ends the
    program without a word, as it ends any filter.
    """
    interrupt = signal.signal(signal.SIGINT, lambda *_: stream.cancel())
    pipe = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGPIPE, pipe)


def _print(pieces: Iterable[str]) -> None:
    terminal = sys.stdout.isatty()
    last = ""
    try:
        for piece in pieces:
            text = piece.translate(_NOT_TEXT) if terminal else piece
            if text:
                sys.stdout.write(text)
                sys.stdout.flush()
                last = text
        if not last.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
    except OSError as error:
        # Else the interpreter would try again to write it at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RidgelineError(f"the answer cannot be written: {error.strerror}") from None


def _converse(
    speaker: _Speaker, name: str, system: str | None, raw: bool, load_seconds: float
) -> None:
    """Turn after turn; the prefix cache keeps the keys and values of what was said."""
    with suppress(ImportError):
        import readline  # noqa: F401  input() edits lines and recalls them once this is here
    _say(
        f"{name} is ready ({seconds(load_seconds)}). Ctrl-C ends an answer, Ctrl-D the "
        "conversation; /clear starts anew."
    )
    opening = [] if system is None else [{"role": "system", "content": system}]
    messages, text = list(opening), ""
    while True:
        try:
            line = _ask()
        except EOFError:
            _say("")
            return
        except KeyboardInterrupt:
            _say("\nCtrl-D or /exit ends the conversation.")
            continue
        command = line.strip()
        if command in ("/exit", "/bye", "/quit"):
            return
        if command == "/clear":
            messages, text = list(opening), ""
            continue
        if command.startswith("/") and command[1:].isalpha():
            _say(f"there is no {command}; there are /clear and /exit")
            continue
        if not command:
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            _check_text("prompt", line)
            output = speaker.answer(text + line if raw else asked)
        except KeyboardInterrupt:
            _say("")
            continue
        except RidgelineError as error:
            _say(f"error: {' '.join(str(error).split())}; /clear starts anew")
            continue
        answer = output.outputs[0]
        if answer.token_ids:
            messages = [*asked, {"role": "assistant", "content": answer.text}]
            text += line + answer.text


def _ask() -> str:
    """A line from the keyboard. The question mark of a conversation is no part of its answers: it
    goes to stdout only where readline needs it there, at a terminal.
    """
    if sys.stdout.isatty():
        return input(">>> ")
    sys.stderr.write(">>> ")
    sys.stderr.flush()
    return input()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
