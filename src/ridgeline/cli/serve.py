"""`ridgeline serve`: a server that OpenAI's, Anthropic's and Ollama's clients speak to."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli import machine_options as machine
from ridgeline.cli.progress import show_progress
from ridgeline.cli.spinner import show_spinner
from ridgeline.config import Settings
from ridgeline.errors import RidgelineError
from ridgeline.options import (
    SERVED_ITL_STEPS,
    SERVED_RATE_SHARE,
    SERVED_ROWS,
    SERVED_WAVE_SECONDS,
)

EXAMPLES = """
Examples:

  ridgeline serve smollm2

  curl localhost:8000/v1/chat/completions -H 'content-type: application/json' -d
  '{"messages": [{"role": "user", "content": "Hi"}]}'

  ridgeline serve smollm2 --port 9000 --name smol --name gpt-4o-mini

  ridgeline serve ./model.gguf --host 0.0.0.0 --api-keys keys.toml

A key file has a table for each tenant: [tenants.acme] with keys = ["sk-..."], and, if they are to
be limited, weight, requests_per_minute, tokens_per_minute and max_concurrent. SIGTERM or Ctrl-C
finishes what runs and refuses what is new; the same again ends at once.
"""

_ACCESS = "Who may call"
_LIMITS = "Limits"


def serve(
    context: typer.Context,
    model: machine.Model,
    host: Annotated[
        str, typer.Option(help="Address to listen on.", rich_help_panel=_ACCESS)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port; 0: any that is free.", rich_help_panel=_ACCESS)
    ] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="A key that callers must show; may be repeated. Others can see it in the list of "
            "processes: --api-keys is safer.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="TOML file of keys, tenants and their limits.", rich_help_panel=_ACCESS),
    ] = None,
    metrics_key: Annotated[
        list[str] | None,
        typer.Option(
            help="A key that alone may read /metrics and /live, and nothing else; may be repeated. "
            "Without one, any key may.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen beyond this machine without keys.",
            rich_help_panel=_ACCESS,
        ),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name by which a server on loopback may be called; may be repeated.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="What clients call the model; may be repeated. [default: MODEL's last part]"
        ),
    ] = None,
    lenient: Annotated[
        bool,
        typer.Option(
            "--lenient", help="List unknown fields in the answer, where they would be refused."
        ),
    ] = False,
    max_ttft: Annotated[
        float,
        typer.Option(
            help="Seconds to the first token: who would wait longer, by prediction, is refused "
            "with the time when to come back.",
            rich_help_panel=_LIMITS,
        ),
    ] = 60.0,
    max_queue: Annotated[
        int, typer.Option(help="Requests that may wait.", rich_help_panel=_LIMITS)
    ] = 1024,
    max_answers: Annotated[
        int,
        typer.Option(help="Answers to one request (n, best_of).", rich_help_panel=_LIMITS),
    ] = 128,
    max_body_bytes: Annotated[
        int, typer.Option(help="Bytes of a request.", rich_help_panel=_LIMITS)
    ] = 8 << 20,
    access_log: Annotated[
        bool,
        typer.Option(
            "--access-log", help="A line of JSON on stderr for each HTTP request, without bodies."
        ),
    ] = False,
    drain_seconds: Annotated[
        float,
        typer.Option(
            help="What runs may take so long to end after SIGTERM.", rich_help_panel=_LIMITS
        ),
    ] = 30.0,
    step_seconds: Annotated[
        float,
        typer.Option(
            help="A step that takes longer is called stuck, and /readyz says so.",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0,
    itl_target: Annotated[
        float | None,
        typer.Option(
            help="Seconds between the tokens of an answer that prompts must leave; chunks of "
            "prompts shrink to it. 0: prompts shrink for nobody. [default: 1.5 steps that write in "
            "every row, as predicted]",
            rich_help_panel=machine.PANEL,
        ),
    ] = None,
    wave_seconds: Annotated[
        float | None,
        typer.Option(
            help="8 prompts and more that come together are read before any of their answers "
            "begins, if that takes no longer by prediction: all end sooner, and no answer stops "
            "for a prompt. 0: each answer begins at once. [default: 3, or 0 with --itl-target]",
            rich_help_panel=machine.PANEL,
        ),
    ] = None,
    forced_spans: Annotated[
        bool,
        typer.Option(
            help="Tokens that a grammar forces come without a step for each; the answer is the "
            "same.",
            rich_help_panel=machine.PANEL,
        ),
    ] = True,
    max_rows: Annotated[
        int | None,
        typer.Option(
            help="Answers that are written at once. [default: 64, but no more than gain by it: "
            "from about 16 on, those that write 90 % of 64's tokens a second, by prediction]",
            rich_help_panel=machine.PANEL,
        ),
    ] = None,
    max_tokens_per_step: Annotated[
        int, typer.Option(help="New tokens that a step has at most.", rich_help_panel=machine.PANEL)
    ] = 512,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Who goes first: fcfs, priority or fair. [default: fair with --api-keys, else "
            "fcfs]",
            rich_help_panel=machine.PANEL,
        ),
    ] = None,
    context_length: machine.ContextLength = None,
    memory: machine.Memory = None,
    kv_format: machine.KvFormat = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="generate, or embed: vectors of texts, from an encoder or any model's last hidden "
            "state. [default: what the model is for]",
            rich_help_panel=machine.PANEL,
        ),
    ] = None,
    threads: machine.Threads = None,
    backend: machine.Backend = "cpu",
) -> None:
    """Serve a model to clients of OpenAI's, Anthropic's and Ollama's APIs."""
    settings: Settings = context.obj
    from ridgeline.serve.core.keys import Keys, read_keys
    from ridgeline.serve.server import is_loopback, listen

    if api_key and api_keys is not None:
        raise RidgelineError("--api-key and --api-keys: give one")
    for flag, given in (("--api-key", api_key), ("--metrics-key", metrics_key)):
        if any(len(key) < 8 for key in given or ()):
            raise RidgelineError(f"{flag}: a key needs 8 characters at least")
    keys = Keys.of(api_key or ()) if api_keys is None else read_keys(api_keys)
    if metrics_key:
        keys = keys.with_metrics(metrics_key)
    loopback = is_loopback(host)
    if not loopback and not keys and not insecure:
        raise RidgelineError(
            f"--host {host} can be reached from other machines: give --api-keys or --api-key, or "
            "say --insecure"
        )
    for flag, value in (
        ("--max-ttft", max_ttft),
        ("--max-queue", max_queue),
        ("--max-answers", max_answers),
        ("--max-body-bytes", max_body_bytes),
        ("--step-seconds", step_seconds),
    ):
        if not value > 0:
            raise RidgelineError(f"{flag}: {value!r} is not above 0")
    if not drain_seconds >= 0:
        raise RidgelineError(f"--drain-seconds: {drain_seconds!r} is not 0 or more")
    if not 0 <= port <= 65535:
        raise RidgelineError(f"--port: {port} is not a whole number from 0 to 65535")
    if wave_seconds is None and itl_target is None:
        wave_seconds = SERVED_WAVE_SECONDS
    cache_bytes = machine.memory_bytes(memory)
    listening = listen(host, port)  # before a model is loaded: a port that is taken is known
    context.call_on_close(listening.close)
    from ridgeline.llm import LLM
    from ridgeline.model.weights.sources import parse_reference, resolve
    from ridgeline.serve.core.core import Core, ServeOptions
    from ridgeline.serve.server import serve as run

    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    with show_progress(model) as progress:
        path = resolve(parse_reference(model), settings, progress)
    names = tuple(name) if name else (model.rstrip("/").rsplit("/", 1)[-1],)
    with machine.flags_named(context), show_spinner(f"loading {names[0][-60:]}"):
        llm = LLM(
            str(path),
            settings=settings,
            backend=backend,
            context_length=context_length,
            memory=cache_bytes,
            kv_format=kv_format,
            task=task,
            max_rows=SERVED_ROWS if max_rows is None else max_rows,
            rate_share=SERVED_RATE_SHARE if max_rows is None else None,
            max_tokens_per_step=max_tokens_per_step,
            policy=policy or ("fair" if keys else "fcfs"),
            itl_target=itl_target or None,
            itl_steps=SERVED_ITL_STEPS if itl_target is None else None,
            wave_seconds=wave_seconds or None,
            forced_spans=forced_spans,
            threads=threads,
        )
    options = ServeOptions(
        names=names,
        keys=keys,
        lenient=lenient,
        state=settings.cache_dir / "serve" / hashlib.sha256(str(path).encode()).hexdigest()[:16],
        max_body_bytes=max_body_bytes,
        max_answers=max_answers,
        max_ttft_seconds=max_ttft,
        max_queue=max_queue,
        drain_seconds=drain_seconds,
        step_seconds=step_seconds,
        hosts=tuple(allowed_host or ()) if loopback else None,
        access_log=_say if access_log else None,
    )
    state = llm.session.engine.state
    target = state.step_target
    if llm.task == "generate" and itl_target is None and target is not None:
        _say(
            f"note: {state.rows_at_once} answers are written at once (--max-rows); beside them, "
            f"prompts get what {SERVED_ITL_STEPS} of their steps leave (about {1e3 * target:.0f} "
            "ms by a first prediction; --itl-target 0: all there is)"
        )
    for note in llm.notes:
        _say(f"note: {note}")
    where = f"[{host}]" if ":" in host else host
    address = f"http://{where}:{listening.getsockname()[1]}"

    def ready() -> None:
        _say(f"{names[0]} is served at {address} (context {llm.max_context:,} tokens)")

    run(Core(llm, options), listening, ready)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
