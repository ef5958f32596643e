"""Options that say on what a model runs, and with how much: fields of `assemble.Options`."""

from __future__ import annotations

from typing import Annotated

import typer

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
