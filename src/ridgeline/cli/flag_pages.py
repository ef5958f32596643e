"""`ridgeline explain flag X`: a row of the table, and what it comes to on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ridgeline.cli.flags import FLAGS
from ridgeline.config import Settings
from ridgeline.errors import RidgelineError

if TYPE_CHECKING:
    from ridgeline.cost.device import Read, Roofs
    from ridgeline.cost.kernels import KernelProfile

UNMEASURED = "this machine was not measured with this; `ridgeline measure` does"


def explain_flags(name: str | None, settings: Settings, as_json: bool) -> None:
    """One setting, or all of them in a line each. RidgelineError with the nearest names."""
    if name is None:
        if as_json:
            rows = {n: {"does": f.does, "formula": f.formula} for n, f in FLAGS.items()}
            sys.stdout.write(json.dumps(rows, indent=1) + "\n")
            return
        width = max(map(len, FLAGS))
        for flag, row in FLAGS.items():
            sys.stdout.write(f"{flag.ljust(width)}  {row.does}\n")
        return
    key = flag_named(name)
    row = FLAGS[key]
    here = HERE[row.here](Machine.of(settings)) if row.here else []
    if as_json:
        fields = {"flag": key, "does": row.does, "formula": row.formula, "here": here}
        sys.stdout.write(json.dumps(fields, indent=1) + "\n")
        return
    sys.stdout.write(f"{key}: {row.does}\n")
    if row.formula:
        sys.stdout.write(f"formula: {row.formula}\n")
    for line in here:
        sys.stdout.write(f"here: {line}\n")
    if not here:
        sys.stdout.write("here: no effect on a step's time or memory\n")


def flag_named(name: str) -> str:
    """However it is written: --kv-format, kv_format, KV-FORMAT."""
    plain = name.lstrip("-").replace("_", "-").lower()
    known = {flag.replace("_", "-").lower(): flag for flag in FLAGS}
    if plain in known:
        return known[plain]
    near = get_close_matches(plain, known, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(known[n] for n in near)}" if near else ""
    raise RidgelineError(f"no setting is called {name!r}{hint}; `ridgeline explain flag` has all")


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine as far as it is known."""

    settings: Settings
    isa: str
    profile: KernelProfile | None
    roofs: Roofs | None

    @staticmethod
    def of(settings: Settings) -> Machine:
        from ridgeline.assemble import kept_profile, kept_roofs, machine_isa

        isa = machine_isa(settings)
        return Machine(settings, isa, kept_profile(settings, isa), kept_roofs(settings, isa))

    def read(self, num_bytes: float, threads: int) -> Read | None:
        return None if self.roofs is None else self.roofs.read(num_bytes, threads)

    def read_rate(self, num_bytes: float, threads: int) -> float | None:
        read = self.read(num_bytes, threads)
        return None if read is None else read.gigabytes_per_second


def _kv(_machine: Machine) -> list[str]:
    from ridgeline.model.graph.kv_format import KV_FORMATS
    from ridgeline.units import format_bytes

    sizes = ", ".join(
        f"{name} {format_bytes(2 * 8 * 32 * KV_FORMATS[name].head_bytes(128))}"
        for name in ("bf16", "f16", "int8")
    )
    return [f"a token of 32 layers with 8 KV heads of 128 channels takes {sizes}"]


def _memory(_machine: Machine) -> list[str]:
    from ridgeline.cost.free_memory import available_bytes
    from ridgeline.cost.sizes import KV_SHARE, RESERVE_BYTES
    from ridgeline.units import format_bytes

    free = available_bytes()
    return [
        f"{format_bytes(free)} are free; {format_bytes(RESERVE_BYTES)} of them stay free, and the "
        f"cache takes {100 * KV_SHARE:.0f} % of what a model leaves"
    ]


def _threads(machine: Machine) -> list[str]:
    counts = sorted({r.threads for r in machine.roofs.reads}) if machine.roofs else []
    lines = [f"{machine.settings.threads} are used now"]
    for count in counts:
        rate, peak = machine.read_rate(256 << 20, count), None
        if machine.roofs is not None:
            peak = machine.roofs.peak("int8", count)
        if rate is not None and peak is not None:
            lines.append(
                f"{count}: reads {rate:.1f} GB/s of 256 MiB, int8 "
                f"{peak.gigaoperations_per_second:,.0f} GOP/s"
            )
    return lines if counts else [*lines, UNMEASURED]


def _isa(machine: Machine) -> list[str]:
    from ridgeline.assemble import kept_roofs

    lines = [f"{machine.isa} is used now"]
    for isa in ("amx", "avx512", "avx2", "portable"):
        kept = kept_roofs(machine.settings, isa)
        peak = None if kept is None else kept.peak("int8", machine.settings.threads)
        if peak is not None:
            lines.append(f"{isa}: int8 {peak.gigaoperations_per_second:,.0f} GOP/s")
    return lines


def _prices(machine: Machine, kind: str, rows: tuple[int, ...]) -> list[str]:
    """Of a matrix of 4096 x 4096 as Q4_0, at so many rows."""
    from ridgeline.cost.device import ReadRates
    from ridgeline.cost.kernel_terms import Place, needs_of
    from ridgeline.model.formats import FORMATS
    from ridgeline.model.graph.dims import TOKENS
    from ridgeline.model.graph.node import Node, Value, Weight
    from ridgeline.model.graph.ops.linear import Linear
    from ridgeline.step import StepShape

    profile = machine.profile
    if profile is None:
        return [UNMEASURED]
    size = 4096
    weight = Weight("w", (size, size), FORMATS["Q4_0"], (None, None))
    values = [Value(i, (TOKENS, size), False) for i in (0, 1)]
    node = Node("linear", Linear(), (values[0],), (values[1],), (weight,), None)
    read = machine.read(1 << 30, profile.threads)
    of_caches = ReadRates(profile.read_rate, profile.read_rate)
    price = profile.prices_at(1 << 30, of_caches if read is None else read.rates)
    found = []
    for count in rows:
        needs = needs_of(node, Place(), StepShape.prefill(count), profile.threads)
        seconds = None if needs is None else profile.seconds(needs, price)
        if seconds is not None:
            found.append(f"{count}: {1e6 * seconds / count:,.1f}")
    what = f"us a row of a 4096 x 4096 matrix as Q4_0 in a model of 1 GB, by {kind}"
    return [f"{what}: {', '.join(found)}"] if found else [UNMEASURED]


def _batch(machine: Machine) -> list[str]:
    return _prices(machine, "requests at once", (1, 4, 16, 64))


def _chunk(machine: Machine) -> list[str]:
    return _prices(machine, "tokens of a step", (32, 128, 256, 512))


def _prefill(machine: Machine) -> list[str]:
    return _prices(machine, "tokens of a prompt", (64, 512))


def _decode(machine: Machine) -> list[str]:
    lines = []
    for size in (128 << 20, 512 << 20):
        rate = machine.read_rate(size, machine.settings.threads)
        if rate is not None:
            least = 1e3 * size / (1e9 * rate)
            lines.append(f"a token of a model of {size >> 20} MiB takes {least:.1f} ms at least")
    return lines or [UNMEASURED]


def _sampling(machine: Machine) -> list[str]:
    from ridgeline.cost.cold_weights import FREE
    from ridgeline.cost.kernel_terms import sample_needs

    profile, needs = machine.profile, sample_needs(1, 150_000, machine.settings.threads)
    seconds = None if profile is None or needs is None else profile.seconds(needs, FREE)
    if seconds is None:
        return [UNMEASURED]
    return [
        f"drawing the likeliest of 150,000 tokens takes {1e6 * seconds:.0f} us a row; filters look "
        "at the logits once or twice more"
    ]


def _cache(machine: Machine) -> list[str]:
    return [f"{machine.settings.cache_dir}"]


def _packed(machine: Machine) -> list[str]:
    from ridgeline.units import format_bytes

    folder = machine.settings.cache_dir / "packed"
    sizes = [path.stat().st_size for path in folder.glob("*.packed")] if folder.is_dir() else []
    kept = f"{len(sizes)} files, {format_bytes(sum(sizes))}, in {folder}"
    return [kept if machine.settings.keep_packed else f"{kept}; off now"]


HERE: dict[str, Callable[[Machine], list[str]]] = {
    "kv": _kv,
    "memory": _memory,
    "threads": _threads,
    "isa": _isa,
    "batch": _batch,
    "chunk": _chunk,
    "prefill": _prefill,
    "decode": _decode,
    "sampling": _sampling,
    "cache": _cache,
    "packed": _packed,
}
