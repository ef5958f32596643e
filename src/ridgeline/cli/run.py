"""`ridgeline run`: an answer from a model, streamed; or a conversation."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.progress import show_progress
from ridgeline.config import Settings
from ridgeline.errors import RidgelineError

if TYPE_CHECKING:
    from ridgeline.engine.request import SamplingParams
    from ridgeline.llm import LLM, RequestOutput, Stream

EXAMPLES = """
Examples:

  ridgeline run smollm2 "Why is the sky blue?"

  ridgeline run smollm2                      a conversation; Ctrl-D ends it

  cat notes.txt | ridgeline run smollm2      the prompt from a pipe

  ridgeline run ./model.gguf --raw "Once upon a time" --temperature 0.8 --seed 7
"""


def run(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Path, catalogue name, pypi:package or hf:owner/name.")
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; none: a conversation, or stdin's text.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message of the conversation.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="No chat template: continue the text.")
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest answer, in tokens. [default: until the model ends]")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this mass.")] = 0.95,
    top_k: Annotated[int, typer.Option(help="Keep this many likeliest tokens; 0: all.")] = 0,
    min_p: Annotated[float, typer.Option(help="Keep tokens of this share of the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: avoid seen tokens.")] = 1.0,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same answer. [default: drawn]")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; repeatable.")
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(help="Tokens that fit, prompt and answer. [default: the model's]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    backend: Annotated[str, typer.Option(help="cpu, or reference (NumPy, slow, exact).")] = "cpu",
) -> None:
    """Answer a prompt with a model, streamed; without a prompt, hold a conversation."""
    from ridgeline.engine.request import SamplingParams
    from ridgeline.llm import LLM

    started = time.monotonic()
    settings: Settings = context.obj
    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
    )
    interactive = prompt is None and sys.stdin.isatty()
    if prompt is None and not interactive:
        prompt = sys.stdin.read()
        if not prompt.strip():
            raise RidgelineError('stdin is empty; give a prompt: ridgeline run MODEL "your prompt"')
    with show_progress(model) as progress:
        llm = LLM(
            model,
            settings=settings,
            progress=progress,
            backend=backend,
            context_length=context_length,
            threads=threads,
            max_rows=1,
        )
    if prompt is None:
        _converse(llm, params, system, raw, started)
    else:
        output = _answer(llm, params, _messages(system, prompt), prompt if raw else None)
        _closing_line(llm, output, started)


def _messages(system: str | None, prompt: str) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system is not None else []
    return [*first, {"role": "user", "content": prompt}]


def _answer(
    llm: LLM, params: SamplingParams, messages: list[dict[str, str]], raw: str | None
) -> RequestOutput:
    """Streams one answer to stdout. Ctrl-C ends it and keeps what was said."""
    stream = llm.stream(raw, params) if raw is not None else llm.stream_chat(messages, params)
    output = _show(stream)
    sys.stdout.write("\n")
    sys.stdout.flush()
    answer = output.outputs[0]
    if answer.error is not None:
        raise answer.error
    return output


def _show(stream: Stream) -> RequestOutput:
    before = signal.signal(signal.SIGINT, lambda *_: stream.cancel())
    try:
        for delta in stream:
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    finally:
        signal.signal(signal.SIGINT, before)
    return stream.output


def _converse(
    llm: LLM, params: SamplingParams, system: str | None, raw: bool, started: float
) -> None:
    """Turn after turn; the prefix cache keeps the keys and values of what was said."""
    messages: list[dict[str, str]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    sys.stderr.write("Ctrl-C ends an answer, Ctrl-D the conversation; /clear starts anew.\n")
    text = ""
    while True:
        try:
            line = input(">>> ")
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            continue
        if not line.strip():
            continue
        if line.strip() == "/clear":
            messages, text = [m for m in messages if m["role"] == "system"], ""
            continue
        messages.append({"role": "user", "content": line})
        text += line
        try:
            output = _answer(llm, params, messages, text if raw else None)
        except RidgelineError as error:
            sys.stderr.write(f"error: {error}\n")
            messages.pop()
            text = text.removesuffix(line)
            continue
        answer = output.outputs[0].text
        messages.append({"role": "assistant", "content": answer})
        text += answer
        _closing_line(llm, output, started)
        started = time.monotonic()


def _closing_line(llm: LLM, output: RequestOutput, started: float) -> None:
    """Tokens, TTFT, speeds, and decode beside what this machine's memory allows; to stderr."""
    answer, metrics = output.outputs[0], output.metrics
    num_prompt, num_new = len(output.prompt_token_ids), len(answer.token_ids)
    if metrics.first_token is None or metrics.finished is None:
        sys.stderr.write(f"{num_prompt} prompt tokens, no answer ({answer.finish_reason})\n")
        return
    computed = num_prompt - output.num_cached_tokens
    prefill_seconds = metrics.first_token - metrics.arrival
    cached = f" ({output.num_cached_tokens} cached)" if output.num_cached_tokens else ""
    parts = [
        f"{num_prompt} prompt{cached} + {num_new} new tokens ({answer.finish_reason})",
        f"TTFT {metrics.first_token - started:.2f} s",
        f"prompt {computed / max(prefill_seconds, 1e-9):,.0f} tok/s",
    ]
    decode_seconds = metrics.finished - metrics.first_token
    if num_new > 1 and decode_seconds > 0:
        rate = (num_new - 1) / decode_seconds
        needed = llm.step_bytes(1, num_prompt + num_new // 2) * rate / 1e9
        roof = llm.read_roof()
        parts.append(f"decode {rate:,.0f} tok/s")
        parts.append(
            f"{100 * needed / roof.gigabytes_per_second:.0f}% of the memory roof "
            f"({needed:.1f} of {roof.gigabytes_per_second:.1f} GB/s)"
        )
    parts.append(f"seed {answer.seed}")
    sys.stderr.write(" · ".join(parts) + "\n")
