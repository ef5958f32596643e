"""`ridgeline explain`: where a step's time goes on this machine, why, and what would change it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli import machine_options as machine
from ridgeline.cli.inspect import STEP_EXAMPLES, parse_step
from ridgeline.cli.progress import show_progress
from ridgeline.cli.roofline import check_drawings
from ridgeline.cli.spinner import show_spinner
from ridgeline.cli.stages import show_stages
from ridgeline.config import Settings
from ridgeline.errors import RidgelineError
from ridgeline.output_files import write_output

if TYPE_CHECKING:
    from rich.table import Table

    from ridgeline.assemble import Assembled
    from ridgeline.bench.explain import Explained
    from ridgeline.bench.latency import Plan
    from ridgeline.bench.turned import Turned
    from ridgeline.cost.device import Roofs
    from ridgeline.cost.kernels import KernelProfile
    from ridgeline.cost.measure import ReadRoof

EXAMPLES = """
Examples:

  ridgeline explain smollm2

  ridgeline explain smollm2 --step prefill:512 --html page.html

  ridgeline explain smollm2 --step decode:8@512 --json

  ridgeline explain flag kv-format     what a setting does, its formula, and its effect here

Predicted: by the prices of this machine's kernels (`ridgeline measure`), before the step is run.
Measured: by the engine's own timers, medians. A knob's effect is the step priced again with the
knob turned; nothing is tried.
"""

DEFAULT_STEP = "decode:1@512"


def explain(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="Path, catalogue name, pypi:package or hf:owner/name; or: flag."),
    ],
    name: Annotated[
        str | None, typer.Argument(help="After flag: an option or setting; none: all of them.")
    ] = None,
    step: Annotated[
        str, typer.Option(help=f"The step: {STEP_EXAMPLES}; one prompt at a time.")
    ] = DEFAULT_STEP,
    kv_format: machine.KvFormat = None,
    threads: machine.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    html: Annotated[Path | None, typer.Option(help="One page with all of it, to a file.")] = None,
) -> None:
    """Where the time of a step goes on this machine, why, and which knob would move it.

    Every operator predicted beside measured, its share of the roof and the reason for the gap; a
    ledger that sums to the whole; knobs that would move it, priced again, and knobs that would not.
    """
    settings: Settings = context.obj
    if model == "flag":
        from ridgeline.cli.flag_pages import explain_flags

        explain_flags(name, settings, as_json)
        return
    if name is not None:
        raise RidgelineError(f"{name!r}: one model at a time; or `ridgeline explain flag {name}`")
    check_drawings(html, None)
    from ridgeline.bench.explain import explain as explain_step
    from ridgeline.bench.explain import plan_of
    from ridgeline.bench.turned import KNOBS

    plan = plan_of(step, parse_step(step))
    assembled = _assembled(model, settings, plan, kv_format, threads)
    profile, roofs = _measured(assembled)
    with show_stages("measuring") as report:
        found = explain_step(assembled, plan, profile, roofs, KNOBS, report)
    title = "".join(c if c.isprintable() else " " for c in assembled.opened.name)
    title = f"{title}: {assembled.threads} threads, {assembled.isa}"
    if html is not None:
        from ridgeline.cli.explain_page import page

        write_output(html, page(title, found))
        sys.stderr.write(f"wrote {html}\n")
    if as_json:
        sys.stdout.write(json.dumps({"model": title, **as_fields(found)}, indent=1) + "\n")
        return
    print_explained(title, found)


def _assembled(
    model: str, settings: Settings, plan: Plan, kv_format: str | None, threads: int | None
) -> Assembled:
    from ridgeline.assemble import Options, assemble, kv_format_of
    from ridgeline.model.weights.sources import parse_reference, resolve

    options = Options(kv_format=kv_format, threads=threads, max_rows=plan.max_batch)
    kv_format_of(options)
    with show_progress(model) as progress:
        path = resolve(parse_reference(model), settings, progress)
    with show_spinner(f"loading {path.name[-60:]}"):
        return assemble(str(path), replace(settings, offline=True), options)


def _measured(assembled: Assembled) -> tuple[KernelProfile, Roofs]:
    """What is kept of this machine; where nothing is, it is measured now, once."""
    from ridgeline.assemble import kept_profile, machine_and_kernels
    from ridgeline.bench.kernels import profile_kernels
    from ridgeline.cost import measure
    from ridgeline.cost.free_memory import available_bytes
    from ridgeline.cost.kernel_store import store_profile

    settings, threads = assembled.settings, assembled.threads
    profile, roofs = kept_profile(settings, assembled.isa), assembled.kept_roofs()
    if profile is not None and roofs is not None and roofs.barrier(threads) is not None:
        return profile, roofs
    meter = assembled.meter()
    with show_stages("this machine is not measured yet; measuring") as report:
        counts = measure.thread_counts(threads)
        roofs = measure.measure(meter, counts, available_bytes(), report)
        measure.store(settings.cache_dir, roofs)
        profile = profile_kernels(meter, roofs, threads, report)
    if profile is None:
        raise RidgelineError("this backend's kernels cannot be timed")
    store_profile(settings.cache_dir, machine_and_kernels(), profile)
    return profile, roofs


# ---- what is told


def as_fields(found: Explained) -> dict[str, object]:
    """In JSON's types; seconds are of one step, or of all steps of a prompt."""
    told = found.prediction
    return {
        "step": str(found.case),
        "measured_s": found.seconds,
        "predicted_s": told.seconds,
        "predicted_low_s": told.low,
        "predicted_high_s": told.high,
        "read_gb_per_s": found.read.gigabytes_per_second,
        "read_forward_gb_per_s": found.read.now.forward,
        "pace": found.pace,
        "error": told.seconds / found.seconds - 1,
        "tokens_per_s": found.tokens / found.seconds,
        "roof": {"s": found.least, "share": found.least / found.seconds, "binds": found.binds},
        "mode": found.mode,
        "profiled_at": found.profiled_at,
        "other_mode": found.other_mode,
        "operators": [asdict(each) for each in found.operators],
        "ledger": [asdict(line) for line in found.ledger],
        "knobs": [{**asdict(turned), "moves": turned.moves} for turned in found.knobs],
    }


def summary(found: Explained) -> list[str]:
    told = found.prediction
    lines = [
        f"{found.case}: measured {1e3 * found.seconds:.2f} ms, predicted "
        f"{1e3 * told.seconds:.2f} ms ({100 * (told.seconds / found.seconds - 1):+.0f} %; 80 % "
        f"between {1e3 * told.low:.2f} and {1e3 * told.high:.2f})",
        moment_text(found.read, found.pace),
        f"{found.tokens / found.seconds:,.0f} tok/s; the roof is "
        f"{found.tokens / found.least:,.0f} ({found.binds}): "
        f"{100 * found.least / found.seconds:.0f} % of it",
    ]
    if found.mode == "busy":
        lines.append("another program had the cores meanwhile: measured is too slow")
    if found.other_mode:
        lines.append(
            f"the machine is in another mode than when it was profiled ({found.profiled_at}); "
            "`ridgeline measure` again"
        )
    return lines


def moment_text(read: ReadRoof, pace: float) -> str:
    kept = "" if read.kept is None else f" ({read.kept.forward:.1f} when measured)"
    return (
        f"predicted with weights read at {read.now.forward:.1f} GB/s, as just now{kept}, and "
        f"arithmetic at {100 * pace:.0f} % of when kernels were timed"
    )


def knob_text(turned: Turned) -> str:
    """A change of speed in words; of seconds a token, less is faster."""
    if turned.change is None:
        return "unknown"
    if not turned.moves:
        return "no"
    return f"{100 * (1 / (1 + turned.change) - 1):+.0f} % tok/s"


def print_explained(title: str, found: Explained) -> None:
    from rich.console import Console

    from ridgeline.bench.explain import REASONS

    tables = (_operators_table(title, found), _ledger_table(found), _knobs_table(found))
    console = Console(highlight=False)
    wide = console.options.update(width=1000)
    width = max(console.width, *(console.measure(t, options=wide).maximum for t in tables))
    console = Console(highlight=False, width=width)
    for line in summary(found):
        console.print(line, markup=False)
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    for reason in dict.fromkeys(each.reason for each in found.operators):
        console.print(f"{reason}: {REASONS[reason]}", markup=False)


def _operators_table(title: str, found: Explained) -> Table:
    from rich.markup import escape

    table = _table(escape(title), ("node", "operator"))
    for heading in ("measured ms", "predicted", "share", "waiting", "start", "of roof"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("roof", no_wrap=True)
    table.add_column("why not faster", no_wrap=True)
    for each in found.operators:
        table.add_row(
            each.name.removeprefix("layers.*."),
            each.operator,
            f"{1e3 * each.seconds:.3f}",
            "" if each.predicted is None else f"{1e3 * each.predicted:.3f}",
            f"{100 * each.seconds / found.seconds:.1f} %",
            f"{1e3 * each.waiting:.3f}",
            f"{1e3 * each.starting:.3f}",
            "" if each.of_roof is None else f"{100 * each.of_roof:.0f} %",
            each.binds,
            each.reason,
        )
    return table


def _ledger_table(found: Explained) -> Table:
    table = _table("where the time goes", ("",))
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for line in found.ledger:
        table.add_row(line.name, f"{1e3 * line.seconds:.3f}", f"{100 * line.share:.1f} %")
    whole = sum(line.seconds for line in found.ledger)
    table.add_section()
    table.add_row("a step", f"{1e3 * whole:.3f}", "100.0 %", style="bold")
    return table


def _knobs_table(found: Explained) -> Table:
    table = _table("knobs, priced again", ("knob", "now", "turned to"))
    table.add_column("would it move?", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for turned in found.knobs:
        table.add_row(turned.knob, turned.now, turned.setting, knob_text(turned), turned.note)
    return table


def _table(title: str, headings: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table
