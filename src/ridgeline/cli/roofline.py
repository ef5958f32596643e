"""`ridgeline roofline`: a step's operators under an accelerator's roof, and precision floors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.inspect import parse_step
from ridgeline.cli.planned import planned_model
from ridgeline.config import Settings
from ridgeline.errors import RequestError, RidgelineError
from ridgeline.output_files import check_outputs, write_figure, write_output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ridgeline.plan.roofline import Roofline

EXAMPLES = """
Examples:

  ridgeline roofline llama-3.3-70b --on h200 --step decode:64@4096

  ridgeline roofline deepseek-v3.1 --on gb200 --precision nvfp4 --kv fp8 --step prefill:2048

  ridgeline roofline qwen3-235b --on mi355x --precision fp8 --html roof.html --png roof.png

  ridgeline roofline llama-3.1-8b --on h100 --step prefill:256 --engine sglang:0.5.9

  ridgeline roofline --list

MODEL is a published configuration (no weights are needed), a config.json, a GGUF file, or
hf:owner/name. Each letter is an operator: how many FLOPs it does for a byte, and how fast it is
predicted to do them. FLOPs count a multiply-add as 2.
"""


def roofline(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="A published model, config.json, folder or GGUF file.")
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            help="Accelerator, as --list names them; m3-max:64GB: of so much memory, where it is "
            "bought in sizes."
        ),
    ] = "h200",
    step: Annotated[
        str, typer.Option(help="prefill:512, prefill:4x512 or decode:64@4096.")
    ] = "decode:64@4096",
    precision: Annotated[
        str, typer.Option(help="Of the weights: bf16, fp8, int8, int4, nvfp4 or mxfp4.")
    ] = "bf16",
    kv: Annotated[str, typer.Option(help="Of the cache: bf16, fp8, int8, ...")] = "bf16",
    tp: Annotated[
        int | None, typer.Option(help="Ranks of tensor parallelism. [default: the fewest that fit]")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Whose overheads the host has: vllm, sglang or trtllm, or of a version: vllm:0.12."
        ),
    ] = "vllm",
    png: Annotated[Path | None, typer.Option(help="The drawing as a picture.")] = None,
    html: Annotated[Path | None, typer.Option(help="One self-contained page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="The accelerators that are known.")
    ] = False,
) -> None:
    """Every operator of a step under the roof of an accelerator, and what each precision's floor
    is.
    """
    if listed:
        print_accelerators(as_json)
        return
    if model is None:
        raise RequestError("MODEL", "say which: ridgeline roofline llama-3.3-70b --on h200")
    from ridgeline.cost.accelerator import load_accelerator
    from ridgeline.cost.engines import parse_engine
    from ridgeline.plan.roofline import roofline as find

    settings: Settings = context.obj
    check_drawings(html, png)
    shape = parse_step(step)
    accelerator = load_accelerator(on)
    if tp is not None and not 1 <= tp <= 1024:
        raise RequestError("--tp", f"{tp} is not 1 to 1024 ranks")
    of = parse_engine("--engine", engine)
    name, config = planned_model(model, settings)
    found = find(
        name,
        config,
        accelerator,
        shape,
        step=step,
        precision=precision,
        kv=kv,
        tp=tp,
        engine=of,
    )
    if html is not None:
        from ridgeline.plan.draw_roofline import html as page

        write_output(html, page(found))
    if png is not None:
        draw_png(found, png)
    if as_json:
        sys.stdout.write(json.dumps(as_fields(found), indent=1) + "\n")
        return
    show(found)


def check_drawings(html: Path | None, png: Path | None) -> None:
    """Raises RidgelineError for what could not be written or drawn: before minutes of work."""
    check_outputs({"--html": html, "--png": png})
    if png is not None and find_spec("matplotlib") is None:
        raise RidgelineError("--png needs matplotlib: pip install 'ridgeline[plot]'")


def show(found: Roofline) -> None:
    from ridgeline.plan.draw_roofline import binds_counts, characters, heading

    tables = [operator_table(found), floor_table(found)]
    console = console_for(tables)
    console.print(heading(found), markup=False, style="bold")
    console.print()
    for line in characters(found):
        console.print(line, markup=False)
    console.print()
    console.print(tables[0])
    total = sum(d.seconds for d in found.dots) + found.host_seconds
    parts = ", ".join(f"{name} {s / total:.0%}" for name, s in binds_counts(found) if s > 0)
    console.print(f"step {1e3 * total:.2f} ms predicted; waits for: {parts}", markup=False)
    console.print()
    console.print(tables[1])
    console.print(
        "floor: each operator at the speed of what binds it; fits: weights, values and this "
        "step's cache\nin a rank's memory; predicted: docs/accuracy.md says how well",
        markup=False,
        style="dim",
    )


def console_for(tables: Sequence[Table]) -> Console:
    """As wide as the widest table: a terminal breaks lines better than a table does."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    widest = max(
        console.measure(t, options=console.options.update(width=1000)).maximum for t in tables
    )
    return Console(highlight=False, soft_wrap=True, width=max(console.width, widest))


def operator_table(found: Roofline, most: int = 14) -> Table:
    from rich.table import Table

    from ridgeline.plan.draw_roofline import letters
    from ridgeline.units import format_bytes, format_count

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "operator", "count"):
        table.add_column(name, justify="left" if name != "count" else "right")
    for name in ("FLOP/B", "FLOP", "bytes", "predicted", "of roof", "share", "binds"):
        table.add_column(name, justify="right")
    marks = letters(found)
    total = sum(d.seconds for d in found.dots) + found.host_seconds
    for dot in [d for d in found.dots if d.seconds > 0][:most]:
        table.add_row(
            marks.get(dot.name, ""),
            dot.name,
            str(dot.count),
            f"{dot.intensity:.3g}" if dot.flops else "",
            format_count(dot.flops) if dot.flops else "",
            format_bytes(dot.num_bytes or dot.link_bytes),
            f"{1e6 * dot.seconds:,.0f} us",
            f"{dot.least_seconds / dot.seconds:.0%}",
            f"{dot.seconds / total:.1%}",
            dot.binds,
        )
    return table


def floor_table(found: Roofline) -> Table:
    from rich.table import Table

    from ridgeline.plan.draw_roofline import floor_cells

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("weights", "bytes", "fits", "floor", "predicted", "80 % interval", "tok/s"):
        table.add_column(name, justify="right" if name not in ("weights", "fits") else "left")
    table.add_column("binds (units)")
    for index in range(len(found.floors)):
        table.add_row(*floor_cells(found, index))
    return table


def as_fields(found: Roofline) -> dict[str, object]:
    """In JSON's types: seconds, bytes, FLOPs."""
    return {
        "model": found.model,
        "accelerator": found.accelerator.name,
        "ranks": found.mesh.gpus,
        "precision": found.precision,
        "kv": found.kv,
        "engine": found.engine,
        "step": found.step,
        "tokens": found.tokens,
        "memory_bytes_per_second": found.memory_bytes_per_second,
        "peaks": dict(found.peaks),
        "host_seconds": found.host_seconds,
        "operators": [
            {
                "name": d.name,
                "kind": d.kind,
                "arithmetic": d.arithmetic,
                "count": d.count,
                "flops": round(d.flops),
                "bytes": round(d.num_bytes),
                "link_bytes": round(d.link_bytes),
                "seconds": d.seconds,
                "least_seconds": d.least_seconds,
                "binds": d.binds,
            }
            for d in found.dots
        ],
        "floors": [
            {
                "precision": f.precision,
                "arithmetic": f.arithmetic,
                "weight_bytes": round(f.weight_bytes),
                "rank_bytes_needed": round(f.needed),
                "rank_bytes_usable": round(f.usable),
                "fits": f.fits,
                "least_seconds": f.least_seconds,
                "seconds": f.seconds,
                "low": f.low,
                "high": f.high,
                "binds": f.binds,
            }
            for f in found.floors
        ],
    }


def draw_png(found: Roofline, path: Path) -> None:
    """Needs matplotlib; RidgelineError says how to have it."""
    from ridgeline.plan.draw_roofline import COLORS, heading, letters, limits, plotted
    from ridgeline.units import format_bytes, format_count

    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise RidgelineError("--png needs matplotlib: pip install 'ridgeline[plot]'") from error
    left, right, bottom, top = limits(found)
    figure, axes = pyplot.subplots(figsize=(9.6, 5.6), layout="constrained")
    bandwidth, highest = found.memory_bytes_per_second, max(found.peaks.values())
    axes.plot([left, highest / bandwidth], [left * bandwidth, highest], color="#333")
    axes.annotate(f"{format_bytes(bandwidth)}/s", (left * 1.3, left * bandwidth * 2))
    for name, peak in found.peaks.items():
        axes.plot([peak / bandwidth, right], [peak, peak], color="#333")
        text = f"{name} {format_count(peak)}FLOP/s"
        axes.annotate(text, (right, peak * 1.05), ha="right", va="bottom", fontsize=8)
    total = sum(d.seconds for d in found.dots)
    for dot in plotted(found):
        at = (dot.intensity, dot.flops_per_second)
        size = 40 + 2500 * dot.seconds / total
        axes.scatter([at[0]], [at[1]], s=size, alpha=0.5, color=COLORS[dot.kind])
        label = letters(found).get(dot.name, "")
        axes.annotate(label, at, ha="center", va="center", fontsize=8)
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    axes.set(xlabel="FLOP per byte through memory", ylabel="FLOP/s of a rank")
    axes.set_title(heading(found), fontsize=9)
    try:
        write_figure(figure, path)
    finally:
        pyplot.close(figure)


def print_accelerators(as_json: bool) -> None:
    from rich.table import Table

    from ridgeline.cost.accelerator import accelerators, machines, short_name
    from ridgeline.units import format_bytes, format_count

    if as_json:
        fields = [
            {
                "name": a.name,
                "title": a.title,
                "memory_bytes": a.memory_bytes.value if a.memory_bytes else None,
                "memory_bytes_per_second": a.memory_bytes_per_second.value,
                "peaks": {name: figure.value for name, figure in a.peaks.items()},
                "domain": a.domain,
            }
            for a in accelerators()
        ]
        sys.stdout.write(json.dumps(fields, indent=1) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name")
    for name in ("memory", "bandwidth", "bf16", "fp8", "fp4", "joins", "$/h"):
        table.add_column(name, justify="right")
    table.add_column("")
    for a in accelerators():
        prices = [
            p for p in a.prices if p.price_class in ("owned", "reserved", "spot", "on-demand")
        ]
        least, most = (
            (min(p.low for p in prices), max(p.high for p in prices)) if prices else (0, 0)
        )
        table.add_row(
            short_name(a.name),
            format_bytes(a.memory_bytes.value) if a.memory_bytes else "by size",
            f"{format_bytes(a.memory_bytes_per_second.value)}/s",
            *(
                f"{format_count(a.peaks[n].value)}" if n in a.peaks else "-"
                for n in ("bf16", "fp8", "fp4")
            ),
            str(a.domain) if a.domain > 1 else "-",
            f"{least:.2f} - {most:.2f}" if prices else "-",
            a.title,
        )
    console = console_for([table])
    console.print(table)
    names = ", ".join(m.name for m in machines())
    console.print(f"\nput together: {names}", markup=False)
