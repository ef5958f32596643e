"""`ridgeline list`: the models that are here, and those that have a name."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.config import Settings
from ridgeline.errors import RidgelineError

if TYPE_CHECKING:
    from rich.table import Table

    from ridgeline.model.weights.sources.cache import CachedModel

EXAMPLES = """
Examples:

  ridgeline list

  ridgeline list --available

  ridgeline list --json
"""


def list_models(
    context: typer.Context,
    available: Annotated[
        bool, typer.Option("--available", help="The catalogue instead: names that can be pulled.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """List the models in the cache: name, format, size, path, source, and when they were pulled."""
    from ridgeline.model.weights.sources.cache import list_cached

    settings: Settings = context.obj
    where = settings.cache_dir
    if where.is_file():
        raise RidgelineError(f"--cache-dir: {where} is a file; models lie in a folder")
    models = list_cached(where)
    if available:
        _show_catalogue({model.key for model in models}, as_json)
    elif as_json:
        sys.stdout.write(json.dumps([_fields(model) for model in models], indent=1) + "\n")
    elif not models:
        sys.stdout.write(
            f"no models in {settings.cache_dir}; "
            f"`ridgeline list --available` shows what can be pulled\n"
        )
    else:
        shown = _columns()
        table = _table(*shown)
        for model in models:
            values = {
                **_fields(model),
                "size": _size(model.size_bytes),
                "pulled (UTC)": model.pulled_at[:16].replace("T", " "),
            }
            table.add_row(*[_text(values[name]) for name in shown])
        _print(table)


def _columns() -> tuple[str, ...]:
    """What a terminal is wide enough for; --json and pipes have all."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    if width < 80:
        return ("name", "size")
    if width < 140:
        return ("name", "format", "size", "path")
    return ("name", "format", "size", "path", "source", "pulled (UTC)")


def _fields(model: CachedModel) -> dict[str, object]:
    container = "GGUF" if model.kind == "gguf" else "safetensors"
    if model.kind == "directory" and any(file.name == "model.bin" for file in model.files):
        container = "CTranslate2"
    return {
        "name": model.reference,
        "kind": model.kind,
        "format": f"{container} {model.format}".strip(),
        "size_bytes": model.size_bytes,
        "path": str(model.path),
        "source": model.source,
        "licence": model.licence,
        "pulled_at": model.pulled_at,
        "sha256": {file.name: file.sha256 for file in model.files},
    }


def _show_catalogue(cached: set[str], as_json: bool) -> None:
    from ridgeline.model.weights.sources.catalogue import CATALOGUE

    if as_json:
        rows = [
            {
                "name": row.name,
                "aliases": list(row.aliases),
                "title": row.title,
                "parameters": row.parameters,
                "format": f"GGUF {row.format}",
                "size_bytes": row.size_bytes,
                "licence": row.licence,
                "source": row.source,
                "sha256": row.sha256,
                "cached": row.name in cached,
            }
            for row in CATALOGUE.values()
        ]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    table = _table("name", "parameters", "format", "size", "licence", "here", "description")
    for row in CATALOGUE.values():
        here = "yes" if row.name in cached else ""
        values = (row.name, row.parameters, row.format, _size(row.size_bytes), row.licence, here)
        table.add_row(*map(_text, (*values, row.title)))
    _print(table)


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in ("size", "parameters")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    return table


def _text(value: object) -> str:
    """File and repository names are strangers' text: markup in them is not ours to obey."""
    from rich.markup import escape

    return escape(str(value))


def _size(num_bytes: int) -> str:
    from ridgeline.units import format_bytes

    return format_bytes(num_bytes)


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    # Into a pipe, rows stay whole: there is no right edge to fold at.
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    console.print(table)
