"""`ridgeline inspect`: what a model holds, and what one step of it asks of a machine."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.config import Settings
from ridgeline.errors import RequestError
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from rich.table import Table

    from ridgeline.cost.count import KvBytes, OperatorRow, Parameters, StepCount
    from ridgeline.model.graph.node import Graph
    from ridgeline.model.graph.work import Work

EXAMPLES = """
Examples:

  ridgeline inspect smollm2

  ridgeline inspect smollm2 --step prefill:512

  ridgeline inspect ./config.json --step decode:8@2048 --json
"""

STEP = re.compile(
    r"(?P<kind>prefill|decode):(?:(?P<batch>[0-9]+)(?P<mark>[x@]))?(?P<tokens>[0-9]+)"
)
STEP_EXAMPLES = "prefill:512, prefill:4x512 (4 prompts) or decode:8@2048 (8 rows, 2048 cached)"
MAX_ROWS = 1 << 16
MAX_TOKENS = 1 << 30
DEFAULT_CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that the command shows. `name` and `architecture` are the file's own words."""

    name: str
    architecture: str
    graph: Graph
    step_text: str
    parameters: Parameters
    kv: KvBytes
    step: StepCount
    notes: tuple[str, ...] = ()


def inspect(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="MODEL, or a config.json or its folder: no weights are needed.")
    ],
    step: Annotated[
        str | None,
        typer.Option(help=f"The step to count: {STEP_EXAMPLES}. [default: decode:1@1024]"),
    ] = None,
    kv_format: Annotated[
        str, typer.Option(help="How keys and values are kept: bf16, f16, int8 or f32.")
    ] = "bf16",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    graph: Annotated[bool, typer.Option("--graph", help="The graph too, as it is run.")] = False,
) -> None:
    """Parameters, bytes and KV per token of a model, and the operators of one step.

    FLOPs count a multiply-add as 2. Bytes are what each operator must move; values are taken as 2
    bytes a number, weights and cache as they are stored, products as bf16: no device is meant.
    FLOP/B is arithmetic intensity.
    """
    from ridgeline.model.graph.show import show

    settings: Settings = context.obj
    found = examine(model, settings, step, kv_format)
    if as_json:
        fields = as_fields(found) | ({"graph": show(found.graph)} if graph else {})
        sys.stdout.write(json.dumps(fields, indent=1) + "\n")
        return
    print_tables(found)
    if graph:
        sys.stdout.write(f"\n{show(found.graph)}\n")


def examine(
    model: str, settings: Settings, step_text: str | None, kv_format: str = "bf16"
) -> Inspection:
    """Opens MODEL, headers only, and counts."""
    from ridgeline.cost.count import count_kv_bytes, count_parameters, count_step
    from ridgeline.model.graph.kv_format import KV_FORMATS
    from ridgeline.model.graph.work import Precision
    from ridgeline.model.passes.fuse import fuse
    from ridgeline.model.passes.kv_format import with_kv_format

    if kv_format not in KV_FORMATS:
        raise RequestError("--kv-format", f"{kv_format!r}; there are: {', '.join(KV_FORMATS)}")
    if step_text is not None:
        parse_step(step_text)  # before a download
    name, architecture, built, notes = open_graph(model, settings)
    graph = fuse(with_kv_format(built, KV_FORMATS[kv_format]))
    default = f"decode:1@{min(DEFAULT_CONTEXT, graph.max_context - 1)}"
    text = default if step_text is None else step_text
    step = parse_step(text)
    longest = max(n + c for n, c in zip(step.new_tokens, step.context_lens, strict=True))
    if longest > graph.max_context:
        raise RequestError(
            "--step", f"{text} needs {longest} positions; {name} has {graph.max_context}"
        )
    return Inspection(
        name,
        architecture,
        graph,
        text,
        count_parameters(graph),
        count_kv_bytes(graph),
        count_step(graph, step, Precision()),
        notes,
    )


def open_graph(model: str, settings: Settings) -> tuple[str, str, Graph, tuple[str, ...]]:
    """MODEL's name, architecture, graph and notes; from config.json alone where there are no
    weights.
    """
    from ridgeline.cli.progress import show_progress
    from ridgeline.model.architectures import find_architecture
    from ridgeline.model.opened import describe, open_model, read_config
    from ridgeline.model.weights.sources import parse_reference, resolve

    with show_progress(model) as progress:
        path = resolve(parse_reference(model), settings, progress)
    if path.suffix == ".json" or is_bare(path):
        config, where = read_config(path)
        architecture, _ = find_architecture(config, where, "hf")
        folder = path if path.is_dir() else path.parent
        return folder.resolve().name, architecture, describe(config, where=where), ()
    opened = open_model(path)
    return opened.name, opened.architecture, opened.graph, opened.notes


def is_bare(path: Path) -> bool:
    """Whether it is a folder with a config.json and no weights that could be opened."""
    from ridgeline.model.weights.ctranslate2 import is_ctranslate2

    return (
        path.is_dir()
        and (path / "config.json").is_file()
        and not any(path.glob("*.safetensors"))
        and not is_ctranslate2(path)
        and not any(path.glob("*.safetensors.index.json"))
    )


def parse_step(text: str) -> StepShape:
    """`prefill:N`, `prefill:BxN` or `decode:B@C`; RequestError with examples for anything else."""
    match = STEP.fullmatch(text)
    if match is None or (match["kind"], match["mark"]) not in STEP_MARKS:
        raise RequestError("--step", f"{text!r} is no step: write {STEP_EXAMPLES}")
    # A number of thousands of digits is not even converted.
    batch_text, tokens_text = match["batch"] or "1", match["tokens"]
    if max(len(batch_text), len(tokens_text)) > 12:
        raise RequestError("--step", f"a number in it is absurd: write {STEP_EXAMPLES}")
    batch, tokens = int(batch_text), int(tokens_text)
    fewest = 1 if match["kind"] == "prefill" else 0
    if not 1 <= batch <= MAX_ROWS or not fewest <= tokens <= MAX_TOKENS:
        raise RequestError(
            "--step",
            f"{text!r} is out of range: 1 to {MAX_ROWS} rows, {fewest} to {MAX_TOKENS} tokens; "
            f"write {STEP_EXAMPLES}",
        )
    if match["kind"] == "prefill":
        return StepShape.prefill(tokens, batch)
    return StepShape.decode(batch, tokens)


STEP_MARKS = {("prefill", None), ("prefill", "x"), ("decode", "@")}


def as_fields(found: Inspection) -> dict[str, object]:
    """The inspection in JSON's types; bytes and FLOPs are whole numbers."""
    return {
        "model": found.name,
        "architecture": found.architecture,
        "family": found.graph.name,
        "parameters": found.parameters.total,
        "active_parameters": found.parameters.active,
        "weight_bytes": found.parameters.num_bytes,
        "weight_bytes_by_format": dict(found.parameters.bytes_by_format),
        "kv_format": kv_formats(found.graph),
        "kv_bytes_per_token": round(found.kv.per_token),
        "kv_bytes_per_token_by_window": {
            "none": round(found.kv.unbounded),
            **{str(window): round(b) for window, b in sorted(found.kv.windowed.items())},
        },
        "kv_bytes_of_a_row": row_kv_fields(found),
        "notes": list(found.notes),
        **shape_fields(found.graph),
        "step": found.step_text,
        "operators": [row_fields(row) for row in found.step.rows],
        "total": work_fields(found.step.total),
    }


def row_kv_fields(found: Inspection) -> dict[str, object]:
    """What a row keeps when its context is full, by how far layers reach back."""
    held = found.kv.held(found.graph.max_context)
    return {
        "context": found.graph.max_context,
        "total": round(sum(held.values())),
        "by_window": {str(window or "none"): round(held[window]) for window in held},
    }


def shape_fields(graph: Graph) -> dict[str, object]:
    """Layers, heads and widths, read off the graph itself."""
    from ridgeline.model.graph.ops import Attention, Embed, LatentAttention

    operators = [node.op for node in graph.nodes]
    (table,) = next(node.weights for node in graph.nodes if isinstance(node.op, Embed))
    return {
        "layers": len(graph.states),
        "heads": sorted(
            {op.num_heads for op in operators if isinstance(op, Attention | LatentAttention)}
        ),
        "kv_heads": sorted({state.kv_heads for state in graph.states}),
        "head_dim": sorted({state.key_dim for state in graph.states}),
        "width": table.shape[1],
        "vocabulary": table.shape[0],
        "max_context": graph.max_context,
    }


def kv_formats(graph: Graph) -> str:
    """All that its caches are kept in, by name."""
    return "+".join(dict.fromkeys(state.format.name for state in graph.states))


def row_fields(row: OperatorRow) -> dict[str, object]:
    return {
        "name": row.name,
        "operator": row.operator,
        "formats": list(row.formats),
        "window": row.window,
        "kv_format": row.kv_format,
        "count": row.count,
        **work_fields(row.work),
    }


def work_fields(work: Work) -> dict[str, object]:
    from ridgeline.cost.count import intensity

    flops_per_byte = intensity(work)
    return {
        "flops": round(work.total_flops),
        "flops_by_arithmetic": {name: round(flops) for name, flops in work.flops.items()},
        "weight_bytes": round(work.weight_bytes),
        "kv_read_bytes": round(work.kv_read_bytes),
        "kv_write_bytes": round(work.kv_write_bytes),
        "activation_bytes": round(work.activation_bytes),
        "bytes": round(work.total_bytes),
        "intensity": None if flops_per_byte is None else round(flops_per_byte, 4),
    }


def print_tables(found: Inspection) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    # A cut number is worse than a line that the terminal wraps.
    tables = (facts_table(found), operators_table(found))
    width = max(
        console.measure(tables[1], options=console.options.update(width=1000)).maximum,
        console.width,
    )
    console = Console(highlight=False, width=width)
    console.print(tables[0])
    console.print()
    console.print(tables[1])
    console.print(arithmetic_line(found))
    for note in found.notes:
        console.print(f"note: {note}")


def facts_table(found: Inspection) -> Table:
    """One fact a line."""
    from rich.markup import escape
    from rich.table import Table

    from ridgeline.units import format_bytes, format_count

    shape = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in shape_fields(found.graph).items()
    }
    formats = ", ".join(
        f"{name} {format_bytes(num_bytes)}"
        for name, num_bytes in sorted(found.parameters.bytes_by_format.items(), key=by_bytes)
    )
    kv = f"{format_bytes(found.kv.per_token)} as {kv_formats(found.graph)}"
    for window, num_bytes in sorted(found.kv.windowed.items()):
        kv += f"; {format_bytes(num_bytes)} of it only up to {window} tokens"
    facts = {
        "model": f"{found.name} ({found.architecture})",
        "parameters": f"{format_count(found.parameters.total)} "
        f"({found.parameters.total:,}), active {format_count(found.parameters.active)}",
        "weights": f"{format_bytes(found.parameters.num_bytes)}: {formats}",
        "KV per token": kv,
        "KV of a row": kv_of_a_row(found),
        "shape": "{layers} layers, width {width}, {heads} heads of {head_dim}, "
        "{kv_heads} KV heads".format(**shape),
        "reach": "vocabulary {vocabulary}, context {max_context}".format(**shape),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, fact in facts.items():
        table.add_row(name, escape("".join(c if c.isprintable() else " " for c in fact)))
    return table


def kv_of_a_row(found: Inspection) -> str:
    """At the longest context, and what each kind of layer has of it."""
    from ridgeline.units import format_bytes

    context = found.graph.max_context
    held = found.kv.held(context)
    text = f"{format_bytes(sum(held.values()))} at {context:,} tokens"
    for window, num_bytes in held.items():
        if window is not None:
            text += f"; {format_bytes(num_bytes)} of it in windows of {window}"
    return text


def by_bytes(item: tuple[str, int]) -> int:
    return -item[1]


def operators_table(found: Inspection) -> Table:
    from rich.table import Table

    table = Table(
        title=f"one step: {found.step_text}", title_justify="left", box=None, pad_edge=False
    )
    for heading in ("node", "operator", "stored as"):
        table.add_column(heading, no_wrap=True)
    for heading in ("count", "FLOPs", "weights", "KV", "values", "FLOP/B"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.step.rows:
        operator = row.operator if row.window is None else f"{row.operator} ≤{row.window}"
        table.add_row(
            row.name.removeprefix("layers.*."),
            operator,
            "+".join((*row.formats, *([f"KV {row.kv_format}"] if row.kv_format else []))),
            str(row.count),
            *cells(row.work),
        )
    table.add_section()
    total = found.step.total
    table.add_row("total", "", "", str(total.launches), *cells(total), style="bold")
    return table


def arithmetic_line(found: Inspection) -> str:
    from ridgeline.units import format_count

    flops = found.step.total.flops.items()
    return "FLOPs by arithmetic: " + ", ".join(f"{format_count(n)} {name}" for name, n in flops)


def cells(work: Work) -> tuple[str, ...]:
    """FLOPs, bytes by kind, intensity; an empty cell is nothing."""
    from ridgeline.cost.count import intensity
    from ridgeline.units import format_bytes, format_count

    kv_bytes = work.kv_read_bytes + work.kv_write_bytes
    numbers = (work.weight_bytes, kv_bytes, work.activation_bytes)
    flops_per_byte = intensity(work)
    return (
        format_count(work.total_flops) if work.total_flops else "",
        *(format_bytes(number) if number else "" for number in numbers),
        "" if not flops_per_byte else f"{flops_per_byte:.3g}",
    )
