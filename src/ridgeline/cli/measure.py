"""`ridgeline measure`: what this machine can do at most, measured and kept."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.stages import show_stages
from ridgeline.config import Settings
from ridgeline.errors import RidgelineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ridgeline.cost.device import Bandwidth, Read, Roofs
    from ridgeline.cost.kernels import KernelProfile
    from ridgeline.cost.measure import Check

EXAMPLES = """
Examples:

  ridgeline measure

  ridgeline measure --json > roofs.json

  ridgeline measure --check        is the machine as it was? 0.2 s; exit code 3: it is not

Read and copy bandwidth are in GB/s (10^9 bytes; a copied byte counts twice), peaks in 10^9
operations per second (a multiply-add is two). A bandwidth is the median of some rounds, a peak
their upper quartile, a barrier the least: what else runs on the machine makes them worse. Modes:
near and far, the threads share a last-level cache, or do not (virtual machines go from one to the
other by themselves); busy, another program has their cores.
"""

# Not 1 or 2, which say that something failed.
OTHER_MODE = 3


def measure(
    context: typer.Context,
    check: Annotated[
        bool,
        typer.Option("--check", help="Look for a moment, compare with what is kept, keep nothing."),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Most threads to measure with. [default: all cores]")
    ] = None,
    only_roofs: Annotated[
        bool, typer.Option("--roofs", help="Only the roofs: a third of the time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Measure this machine: memory, arithmetic, barriers and kernels; and keep what is found.

    Roofs bound what can be; kernels are timed on operators of no model, of every weight and cache
    format, and priced: `explain`, `plan --hardware this` and the scheduler predict by these prices.

    Both are kept in the cache folder by CPU, cores, instruction set and version of the measurement,
    prices also by build of the kernels, and every figure that is printed as a share of a roof is
    compared with them.
    """
    from ridgeline.assemble import machine_and_kernels, machine_isa, machine_meter
    from ridgeline.bench.kernels import profile_kernels
    from ridgeline.cost import measure as roofs
    from ridgeline.cost.free_memory import available_bytes
    from ridgeline.cost.kernel_store import store_profile

    settings: Settings = context.obj
    most = settings.threads if threads is None else threads
    if not 1 <= most <= 1024:
        raise RidgelineError(f"--threads: {most} is not a whole number from 1 to 1024")
    meter = machine_meter(machine_isa(settings))
    kept = roofs.load(settings.cache_dir, meter.identity(), meter.isa)
    if check:
        found = roofs.check(meter, kept, most, available_bytes())
        if as_json:
            sys.stdout.write(json.dumps(check_fields(found), indent=1) + "\n")
        else:
            print_check(found)
        if found.other_mode:
            raise typer.Exit(OTHER_MODE)
        return
    with show_stages("measuring") as report:
        measured = roofs.measure(meter, roofs.thread_counts(most), available_bytes(), report)
    if not roofs.store(settings.cache_dir, measured):
        sys.stderr.write(f"not kept: {settings.cache_dir} cannot be written\n")
    profile = None
    if not only_roofs:
        with show_stages("timing kernels") as report:
            profile = profile_kernels(meter, measured, most, report)
        if profile is not None:
            store_profile(settings.cache_dir, machine_and_kernels(), profile)
    if as_json:
        fields = roofs_fields(measured)
        if profile is not None:
            fields["kernels"] = profile_fields(profile)
        sys.stdout.write(json.dumps(fields, indent=1) + "\n")
        return
    print_roofs(measured)
    if profile is not None:
        sys.stdout.write(kernels_line(profile) + "\n")
    sys.stdout.write(since(measured, kept, most) + "\n")


def roofs_fields(roofs: Roofs) -> dict[str, object]:
    """In JSON's types; units in the names."""
    from ridgeline.cost.device import mode_name

    return {
        "machine": dict(roofs.machine),
        "isa": roofs.isa,
        "last_level_cache_bytes": roofs.cache_bytes,
        "measured_at": roofs.measured_at,
        "read": [read_fields(read) for read in roofs.reads],
        "copy": [bandwidth_fields(copy) for copy in roofs.copies],
        "arithmetic": [
            {
                "arithmetic": peak.arithmetic,
                "threads": peak.threads,
                "gop_per_s": peak.gigaoperations_per_second,
            }
            for peak in roofs.peaks
        ],
        "barrier": [
            {
                "threads": barrier.threads,
                "ns": barrier.nanoseconds,
                "mode": mode_name(barrier.nanoseconds, barrier.threads),
            }
            for barrier in roofs.barriers
        ],
    }


def profile_fields(profile: KernelProfile) -> dict[str, object]:
    """In JSON's types; prices are seconds a unit of their term."""
    return {
        "threads": profile.threads,
        "prices_s": dict(profile.prices),
        "outside_s": dict(profile.outside),
        "residuals": dict(profile.residuals),
    }


def kernels_line(profile: KernelProfile) -> str:
    """How well the prices say what was timed."""
    linear, attention = (100 * profile.residuals.get(k, 0.0) for k in ("linear", "attention"))
    return (
        f"kernels: {len(profile.prices)} prices with {profile.threads} threads; off by "
        f"{linear:.0f} % (linears) and {attention:.0f} % (attention) in the middle"
    )


def bandwidth_fields(bandwidth: Bandwidth) -> dict[str, object]:
    return {
        "footprint_bytes": bandwidth.footprint_bytes,
        "threads": bandwidth.threads,
        "gb_per_s": bandwidth.gigabytes_per_second,
    }


def read_fields(read: Read) -> dict[str, object]:
    return {**bandwidth_fields(read), "forward_gb_per_s": read.forward}


def check_fields(found: Check) -> dict[str, object]:
    kept, kept_barrier = found.read.kept, found.kept_barrier
    return {
        "read": read_fields(found.read.now),
        "kept_read_gb_per_s": None if kept is None else kept.gigabytes_per_second,
        "barrier_ns": found.barrier.nanoseconds,
        "kept_barrier_ns": None if kept_barrier is None else kept_barrier.nanoseconds,
        "mode": found.mode,
        "kept_mode": found.kept_mode,
        "kept_at": found.read.measured_at or None,
        "other_mode": found.other_mode,
    }


def print_check(found: Check) -> None:
    from rich.console import Console
    from rich.table import Table

    kept, kept_barrier = found.read.kept, found.kept_barrier
    size = found.read.now.footprint_bytes >> 20
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("now", justify="right")
    table.add_column("kept", justify="right")
    table.add_row(
        f"read {size} MiB, {found.read.now.threads} threads",
        f"{found.read.gigabytes_per_second:.1f} GB/s",
        "" if kept is None else f"{kept.gigabytes_per_second:.1f} GB/s",
    )
    table.add_row(
        "barrier",
        f"{found.barrier.nanoseconds:.0f} ns",
        "" if kept_barrier is None else f"{kept_barrier.nanoseconds:.0f} ns",
    )
    table.add_row("mode", found.mode, found.kept_mode or "")
    Console(highlight=False).print(table)
    sys.stdout.write(verdict(found) + "\n")


def verdict(found: Check) -> str:
    if found.read.kept is None:
        return "nothing is kept of this machine; `ridgeline measure` measures it"
    at = found.read.measured_at
    if found.other_mode:
        return f"another mode than when it was measured ({at}), or something else is running"
    return f"as it was measured ({at})"


def print_roofs(roofs: Roofs) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ridgeline.cost.device import mode_name

    console = Console(highlight=False)
    counts = sorted({barrier.threads for barrier in roofs.barriers})
    name = "".join(c if c.isprintable() else " " for c in roofs.machine.get("model name", ""))
    table = Table(
        title=escape(f"{name or 'this machine'}, {roofs.isa}"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for count in counts:
        table.add_column("1 thread" if count == 1 else f"{count} threads", justify="right")
    table.add_column("", no_wrap=True)
    add_bandwidths(table, "read", roofs.reads, counts, roofs.cache_bytes)
    add_bandwidths(table, "copy", roofs.copies, counts, roofs.cache_bytes)
    for arithmetic in dict.fromkeys(peak.arithmetic for peak in roofs.peaks):
        peaks = [roofs.peak(arithmetic, count) for count in counts]
        cells = ["" if p is None else f"{p.gigaoperations_per_second:,.0f}" for p in peaks]
        table.add_row(arithmetic, *cells, "GOP/s")
    barriers = [roofs.barrier(count) for count in counts]
    table.add_row(
        "barrier", *("" if b is None else f"{b.nanoseconds:,.0f}" for b in barriers), "ns"
    )
    table.add_row(
        "mode",
        *("" if b is None else mode_name(b.nanoseconds, b.threads) for b in barriers),
        "",
    )
    console.print(table)


def add_bandwidths(
    table: Table, kind: str, found: Sequence[Bandwidth], counts: Sequence[int], cache_bytes: int
) -> None:
    """A row for each footprint; small ones are a thread's own, so they differ by thread count."""
    from ridgeline.cost.measure import OWN_FOOTPRINTS

    rows: dict[tuple[bool, int], dict[int, float]] = {}
    for each in found:
        own = kind == "read" and each.footprint_bytes // each.threads in OWN_FOOTPRINTS
        size = each.footprint_bytes // each.threads if own else each.footprint_bytes
        rows.setdefault((not own, size), {})[each.threads] = each.gigabytes_per_second
    for (shared, size), rates in sorted(rows.items()):
        where = "" if shared else " a thread"
        if shared and kind == "read" and size <= cache_bytes:
            where = ", last-level cache"
        label = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
        cells = [f"{rates[count]:,.1f}" if count in rates else "" for count in counts]
        table.add_row(f"{kind} {label}{where}", *cells, "GB/s")


def since(now: Roofs, kept: Roofs | None, threads: int) -> str:
    """How the machine differs from what was kept of it before."""
    from ridgeline.cost.measure import CHECK_BYTES, Check, ReadRoof

    read, barrier = now.read(CHECK_BYTES, threads), now.barrier(threads)
    if kept is None or read is None or barrier is None:
        return "kept; nothing was kept of this machine before"
    before = ReadRoof(read, kept.read(CHECK_BYTES, threads), kept.measured_at)
    found = Check(before, barrier, kept.barrier(threads))
    if not found.other_mode or before.kept is None:
        return f"kept; the machine is in the mode of {kept.measured_at}"
    return (
        f"kept; the machine is in another mode than at {kept.measured_at} "
        f"({before.kept.gigabytes_per_second:.1f} GB/s, {found.kept_mode or 'unknown'})"
    )
