"""`ridgeline replay`: a recorded run again, and whether it went the same way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli import machine_options as machine
from ridgeline.cli.spinner import show_spinner
from ridgeline.config import Settings
from ridgeline.errors import RidgelineError

EXAMPLES = """
Examples:

  ridgeline run smollm2 "Why is the sky blue?" --record run.jsonl

  ridgeline replay run.jsonl

  ridgeline replay run.jsonl --threads 1     the same tokens, with any number of threads

Exit code 1: a step plan or a token is another than recorded; the first difference is shown.
"""


def replay(
    context: typer.Context,
    record: Annotated[Path, typer.Argument(help="A file that --record wrote.")],
    model: Annotated[
        str | None, typer.Option(help="Where the model is now. [default: where it was]")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="cpu, reference or null. [default: as recorded]")
    ] = None,
    threads: machine.Threads = None,
) -> None:
    """Run a recorded run again, request by request, and compare step plans and tokens."""
    settings: Settings = context.obj
    from ridgeline.assemble import assemble
    from ridgeline.engine.record import read_record
    from ridgeline.engine.record import replay as replay_entries
    from ridgeline.record_header import replay_device, replay_options

    try:
        file = record.open(encoding="utf-8")
    except OSError as error:
        raise RidgelineError(f"record: {record} cannot be read: {error.strerror}") from None
    with file:
        entries = read_record(file)
        header = next(entries)
        recorded_model, options = replay_options(header)
        options = replace(options, backend=backend or options.backend, threads=threads)
        with show_spinner(f"replaying {record.name}"):
            assembled = assemble(
                model or recorded_model, settings, options, device=replay_device(header)
            )
            found = replay_entries(entries, assembled.engine)
    counted = f"{found.num_requests} requests, {found.num_steps} steps, {found.num_tokens} tokens"
    if found.difference is not None:
        sys.stdout.write(f"different after {counted}: {found.difference}\n")
        raise typer.Exit(1)
    sys.stdout.write(f"the same: {counted}\n")
