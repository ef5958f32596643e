"""Options that say on what a model runs, and with how much: fields of `assemble.Options`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer

from ridgeline.errors import RequestError, RidgelineError
from ridgeline.units import parse_bytes

PANEL = "Model and machine"

Model = Annotated[str, typer.Argument(help="Path, catalogue name, pypi:package or hf:owner/name.")]
ContextLength = Annotated[
    int | None,
    typer.Option(
        help="Room for prompt and answer, in tokens. [default: the model's, or what fits]",
        rich_help_panel=PANEL,
    ),
]
KvFormat = Annotated[
    str | None,
    typer.Option(
        help="How keys and values are kept: bf16, f16, or int8 (nearly twice the tokens). "
        "[default: bf16]",
        rich_help_panel=PANEL,
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads. [default: all cores]", rich_help_panel=PANEL)
]
Backend = Annotated[
    str, typer.Option(help="cpu, or reference (NumPy: slow, exact).", rich_help_panel=PANEL)
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Of the KV cache: 500MB, 2GiB, or bytes. [default: from what is free]",
        metavar="SIZE",
        rich_help_panel=PANEL,
    ),
]


def memory_bytes(text: str | None) -> int | None:
    """What --memory says. Raises RequestError that says how a size is written."""
    if text is None:
        return None
    found = parse_bytes(text)
    if found is None or found < 1:
        raise RequestError("--memory", f"{text!r} is not a size; as 500MB, 2GiB or 1000000")
    return found


@contextmanager
def flags_named(context: typer.Context, others: Mapping[str, str] | None = None) -> Iterator[None]:
    """Faults of the API's fields are told of the flags that set them. others: of fields that have a
    flag of another name.
    """
    try:
        yield
    except RequestError as error:
        flag = (others or {}).get(error.field)
        if flag is None:
            if error.field not in context.params or error.field in ("model", "prompt"):
                raise
            flag = f"--{error.field.replace('_', '-')}"
        reason = str(error).removeprefix(f"{error.field}: ")
        raise RidgelineError(f"{flag}: {reason}") from None
