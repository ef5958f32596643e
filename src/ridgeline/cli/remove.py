"""`ridgeline remove`: delete a pulled model from the cache."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ridgeline.config import Settings
from ridgeline.errors import ModelError

EXAMPLES = """
Examples:

  ridgeline remove smollm2

  ridgeline remove --yes hf:owner/name
"""


def remove(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A name that `ridgeline list` shows.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from the cache, with what interrupted pulls of it left, and say the bytes
    freed.
    """
    from ridgeline.model.weights.sources.cache import removable_bytes, remove_cached
    from ridgeline.units import format_bytes

    settings: Settings = context.obj
    key, name = _find(settings, model)
    num_bytes = removable_bytes(settings.cache_dir, key)
    if not num_bytes:
        raise ModelError(f"{name} is not in {settings.cache_dir}; `ridgeline list` shows what is")
    if not yes:
        if not sys.stdin.isatty():
            raise ModelError(f"remove asks before it deletes {name}; without a terminal, add --yes")
        sys.stderr.write(f"delete {name}, {format_bytes(num_bytes)}? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.stderr.write("kept\n")
            raise typer.Exit(1)
    freed_bytes = remove_cached(settings.cache_dir, key)
    sys.stdout.write(f"removed {name}, {format_bytes(freed_bytes)} freed ({freed_bytes} bytes)\n")


def _find(settings: Settings, text: str) -> tuple[str, str]:
    """Cache key and name of what a person calls `text`: as listed, or as any MODEL argument."""
    from ridgeline.model.weights.sources import cache_key, parse_reference
    from ridgeline.model.weights.sources.cache import list_cached

    cached = list_cached(settings.cache_dir)
    for model in cached:
        if text in (model.reference, model.key):
            return model.key, model.reference
    try:
        reference = parse_reference(text)
    except ModelError as error:
        have = ", ".join(model.reference for model in cached) or "nothing"
        raise ModelError(f"no model {text!r} in {settings.cache_dir}; it holds {have}") from error
    if reference.kind == "path":
        raise ModelError(f"{reference} is a path; remove deletes only what Ridgeline pulled")
    return cache_key(reference), str(reference)
