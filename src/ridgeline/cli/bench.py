"""`ridgeline bench latency`: speed of prompts and tokens, each figure beside its roof."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli import machine_options as machine
from ridgeline.cli.progress import show_progress
from ridgeline.cli.spinner import show_spinner
from ridgeline.cli.stages import show_stages
from ridgeline.config import Settings
from ridgeline.errors import RequestError, RidgelineError
from ridgeline.output_files import write_output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ridgeline.assemble import Assembled, Options
    from ridgeline.bench.latency import Plan
    from ridgeline.bench.records import Profile
    from ridgeline.bench.sample import Measured

HELP = "Measure speed, beside what the machine allows."

LATENCY_EXAMPLES = """
Examples:

  ridgeline bench latency smollm2

  ridgeline bench latency smollm2 --prompt none --context 32,512 --batch 1,4,16 --profile

  ridgeline bench latency ./model.gguf --prompt 512 --context none --repeat 3 --json -

MBU: bytes of weights and KV that the steps must move, over time and the read bandwidth of this
moment. MFU: ideal compute time over time, each arithmetic at its own measured peak. "of roof": the
time that nothing could beat, operator by operator, over the time it took. Roofs and a barrier of
the threads are measured before each sample. Modes of the host: near and far (the threads share a
last-level cache, or do not), busy (something else has their cores): compare figures within one.
"""


def latency(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Path, catalogue name, pypi:package or hf:owner/name.")
    ],
    prompt: Annotated[
        str, typer.Option(help="Prompt lengths to compute, in tokens, with commas; or none.")
    ] = "512,2048",
    contexts: Annotated[
        str,
        typer.Option(
            "--context", help="Context lengths to decode at, in tokens, with commas; or none."
        ),
    ] = "32,2048",
    batch: Annotated[str, typer.Option(help="Rows that decode at once, with commas.")] = "1",
    output: Annotated[int, typer.Option(help="Tokens of each row that a sample times.")] = 64,
    repeat: Annotated[int, typer.Option(help="Samples of each figure.")] = 5,
    kv_format: machine.KvFormat = None,
    threads: machine.Threads = None,
    backend: Annotated[str, typer.Option(help="cpu, or reference (NumPy: slow).")] = "cpu",
    profile: Annotated[
        bool, typer.Option("--profile", help="Operators by time, with their roofs.")
    ] = False,
    json_to: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Records as JSON to a file; - for stdout."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="A roofline with the operators on it: FILE.png, .svg or .pdf."),
    ] = None,
) -> None:
    """Speed of prefill and decode through the whole engine, beside the machine's roofs.

    Medians over samples that take turns, with their least and greatest; sampling is in the figures,
    text is not. Prompts are random ids: the prefix cache gives no help.
    """
    settings: Settings = context.obj
    with _flags_named():
        from ridgeline.assemble import Options
        from ridgeline.bench.latency import Plan
        from ridgeline.bench.plot import check_plot, draw

        plan = Plan(
            prompts=_numbers("prompt", prompt),
            contexts=_numbers("context", contexts),
            batches=_numbers("batch", batch) or (1,),
            output=output,
            repeat=repeat,
            profile=profile or plot is not None,
        )
        plan.check()
        _check_writable(json_to)
        if plot is not None:
            check_plot(plot)
        options = Options(
            backend=backend, kv_format=kv_format, threads=threads, max_rows=plan.max_batch
        )
        assembled = _assembled(model, settings, plan, options)

        from ridgeline.bench import latency as bench
        from ridgeline.bench.records import record

        with show_stages("measuring") as report:
            found = bench.run(assembled, plan, report)
    if plot is not None:
        draw(found, plot)
        sys.stderr.write(f"wrote {plot}\n")
    if json_to is not None:
        text = json.dumps([record(measured) for measured in found], indent=1) + "\n"
        if json_to == "-":
            sys.stdout.write(text)
            return
        write_output(Path(json_to), text)
        sys.stderr.write(f"wrote {json_to}\n")
    _print(assembled, found, profile)


def _assembled(model: str, settings: Settings, plan: Plan, options: Options) -> Assembled:
    from ridgeline.assemble import BACKEND_NAMES, assemble, kv_format_of
    from ridgeline.model.weights.sources import parse_reference, resolve

    backend = options.backend
    if backend not in BACKEND_NAMES:
        raise RequestError("backend", f"{backend!r}; there are: {', '.join(BACKEND_NAMES)}")
    kv_format_of(options)
    if plan.profile and backend != "cpu":
        raise RequestError(
            "profile", f"the {backend} backend keeps no time by operator; only cpu does"
        )
    with show_progress(model) as progress:
        path = resolve(parse_reference(model), settings, progress)
    with show_spinner(f"loading {path.name[-60:]}"):
        return assemble(str(path), replace(settings, offline=True), options)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    """`512,2048`; `none` is no number."""
    if text.strip() == "none":
        return ()
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) <= 9 and int(word) >= 1):
            raise RequestError(
                name, f"{word!r} is not a whole number from 1; write them with commas: 512,2048"
            )
    return tuple(int(word) for word in words)


@contextmanager
def _flags_named() -> Iterator[None]:
    """Faults of a field are told of the flag that sets it."""
    try:
        yield
    except RequestError as error:
        if error.field == "model":
            raise
        reason = str(error).removeprefix(f"{error.field}: ")
        raise RidgelineError(f"--{error.field.replace('_', '-')}: {reason}") from None


def _check_writable(json_to: str | None) -> None:
    """Before minutes of measuring."""
    if json_to not in (None, "-"):
        assert json_to is not None
        folder = Path(json_to).resolve().parent
        if not folder.is_dir() or Path(json_to).is_dir():
            raise RequestError("json", f"{json_to} cannot be written: there is no such folder")


# ---- printing


def _print(assembled: Assembled, found: Sequence[Measured], with_profile: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ridgeline.bench.records import profile_of

    console = Console(highlight=False)
    tables: list[Table | str] = [_cases_table(assembled, found)]
    for measured in found if with_profile else ():
        profile = profile_of(measured)
        if profile is not None:
            tables += ["", _profile_table(str(measured.case), profile), _profile_line(profile)]
    tables += ["", *_roof_lines(assembled, found)]
    console = Console(highlight=False, width=_width(console, tables))
    for table in tables:
        console.print(table, markup=isinstance(table, Table))


def _width(console: Console, tables: Sequence[Table | str]) -> int:
    """A cut number is worse than a line that the terminal wraps."""
    wide = console.options.update(width=1000)
    return max(
        console.width, *(console.measure(table, options=wide).maximum for table in tables if table)
    )


def _cases_table(assembled: Assembled, found: Sequence[Measured]) -> Table:
    from statistics import median

    from rich.markup import escape
    from rich.table import Table

    name = "".join(c if c.isprintable() else " " for c in assembled.opened.name)
    table = Table(
        title=escape(f"{name}: {assembled.threads} threads, {assembled.isa}"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("case", no_wrap=True)
    for heading in ("tok/s", "min - max", "MBU", "MFU", "of roof"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for heading in ("read roof", "barrier"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    for measured in found:
        rates = measured.rates
        read = measured.median_of(lambda s: s.moment.read.gigabytes_per_second)
        barrier = measured.median_of(lambda s: s.moment.barrier_nanoseconds)
        table.add_row(
            str(measured.case),
            f"{median(rates):,.0f}",
            f"{rates[0]:,.0f} - {rates[-1]:,.0f}",
            f"{100 * measured.median_of(lambda s: s.mbu):.0f} %",
            f"{100 * measured.median_of(lambda s: s.mfu):.0f} %",
            f"{100 * measured.median_of(lambda s: s.least_seconds / s.seconds):.0f} %",
            measured.binds,
            f"{read:.1f} GB/s",
            f"{barrier:.0f} ns",
            measured.mode,
        )
    return table


def _profile_table(title: str, profile: Profile) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{title}: operators by time, one step of {_milliseconds(profile.step_seconds)} ms",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("node", "operator"):
        table.add_column(heading, no_wrap=True)
    for heading in ("calls", "ms", "share", "barrier ms", "start ms", "speed", "roof", "of roof"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for row in profile.rows:
        speed, roof, of_roof = "", "", ""
        if row.achieved is not None and row.roof is not None and row.of_roof is not None:
            unit = "GB/s" if row.binds in ("memory", "cache") else "GOP/s"
            speed, roof = f"{row.achieved:,.1f} {unit}", f"{row.roof:,.1f}"
            of_roof = f"{100 * row.of_roof:.0f} %"
        table.add_row(
            row.name.removeprefix("layers.*."),
            row.operator,
            f"{row.calls:g}",
            _milliseconds(row.seconds),
            f"{100 * row.share:.1f} %",
            _milliseconds(row.barrier_seconds),
            _milliseconds(row.start_seconds),
            speed,
            roof,
            of_roof,
            row.binds,
        )
    return table


def _profile_line(profile: Profile) -> str:
    idle = 100 * profile.idle_seconds / profile.step_seconds
    barrier = 100 * profile.barrier_seconds / profile.step_seconds
    return (
        f"outside operators {_milliseconds(profile.idle_seconds)} ms ({idle:.1f} %); at barriers, "
        f"within operators, {_milliseconds(profile.barrier_seconds)} ms ({barrier:.1f} %)"
    )


def _roof_lines(assembled: Assembled, found: Sequence[Measured]) -> list[str]:
    from statistics import median

    peaks: dict[str, list[float]] = {}
    for measured in found:
        for sample in measured.samples:
            for peak in sample.moment.peaks:
                peaks.setdefault(peak.arithmetic, []).append(peak.gigaoperations_per_second)
    line = ", ".join(f"{name} {median(rates):,.0f} GOP/s" for name, rates in peaks.items())
    lines = [f"arithmetic peaks beside the samples: {line}"]
    kept = assembled.kept_roofs()
    for measured in found:
        read = measured.samples[-1].moment.read
        before = None if kept is None else kept.read(read.footprint_bytes, read.threads)
        rate = measured.median_of(lambda s: s.moment.read.gigabytes_per_second)
        if before is not None and not 0.8 < rate / before.gigabytes_per_second < 1.25:
            lines.append(
                f"{measured.case}: the machine is in another mode than when it was measured "
                f"({before.gigabytes_per_second:.1f} GB/s)"
            )
    return lines


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}" if seconds < 0.1 else f"{1e3 * seconds:.1f}"
