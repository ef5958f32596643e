"""Accelerators and what they are put together to: the figures of `devices/*.toml`, checked.

An `Accelerator` is one device as its vendor or others state it: peaks, memory, links, power and
prices, each number with its source. A `Machine` is so many of one accelerator in a scale-up domain:
a card, a node of eight, an NVL72 rack. Peaks are dense and upper bounds: how much of them kernels
reach is not known here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from ridgeline.cost.chip import Chip
from ridgeline.cost.device import Device
from ridgeline.errors import RidgelineError
from ridgeline.units import GB, TB, format_bytes, format_count, parse_bytes

ARITHMETICS = ("f32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")
LINK_KINDS = ("nvlink", "nvlink-bridge", "infinity-fabric", "ici", "pcie", "nic")
PRICE_CLASSES = ("owned", "reserved", "spot", "on-demand", "index", "unchecked")
# What one pays: "index" says what many pay, "unchecked" what nobody should count on.
PAID_CLASSES = PRICE_CLASSES[:4]
# NVSwitch adds from its third generation on (Hopper, 2022), where it joins eight or more.
_ADDING_SWITCH = ("nvlink", 2022, 8)
_MOST_MEMORY = 100 * TB


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and where it comes from. confidence: "" (a vendor's table), "low" or "derived"."""

    value: float
    source: str
    confidence: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """bytes_per_second: of one accelerator, one way. domain: how many accelerators it joins at this
    speed; 0: any number (PCIe and NIC).
    """

    kind: str
    bytes_per_second: float
    domain: int
    figure: Figure


@dataclass(frozen=True, slots=True)
class Price:
    """USD for one accelerator and hour, from `low` to `high`. price_class: of PRICE_CLASSES; kind:
    the source's words. date: a year, month or day, ISO 8601.
    """

    price_class: str
    kind: str
    low: float
    high: float
    date: str
    source: str


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device. peaks: operations/s by arithmetic (of ARITHMETICS), dense.

    memory_bytes: None where it is bought in sizes. links: "scaleup" (NVLink, Infinity Fabric, ICI),
    "pcie", "nic", those that are known. chip_watts: its limit; all_in_watts: with its share of
    host, network and cooling.
    """

    name: str
    title: str
    vendor: str
    device_class: str
    year: int
    retrieved: str
    aliases: tuple[str, ...]
    peaks: Mapping[str, Figure]
    memory_bytes: Figure | None
    memory_bytes_per_second: Figure
    cache_bytes: Figure | None
    links: Mapping[str, Link]
    chip_watts: Figure | None
    all_in_watts: Figure | None
    prices: tuple[Price, ...]
    notes: str = ""

    @property
    def domain(self) -> int:
        """How many are joined by the scale-up link; 1: each stands alone."""
        return self.links["scaleup"].domain if "scaleup" in self.links else 1

    @property
    def watts(self) -> Figure | None:
        """All-in where it is known, else the chip's."""
        return self.all_in_watts or self.chip_watts

    def peak(self, arithmetic: str) -> float:
        """Operations/s; RidgelineError names the arithmetics that there are."""
        figure = self.peaks.get(arithmetic)
        if figure is None:
            raise RidgelineError(
                f"{self.name} has no peak for {arithmetic} arithmetic; there are: "
                f"{', '.join(self.peaks)}"
            )
        return figure.value

    def link(self, ranks: int) -> Link | None:
        """What joins so many: the scale-up link where its domain holds them, else the NIC, else
        PCIe; None: nothing known does.
        """
        scaleup = self.links.get("scaleup")
        if scaleup is not None and ranks <= scaleup.domain:
            return scaleup
        return self.links.get("nic") or self.links.get("pcie") or scaleup

    @property
    def price_classes(self) -> tuple[str, ...]:
        """Those of PRICE_CLASSES in which a price is known."""
        return tuple(dict.fromkeys(p.price_class for p in self.prices))

    def price_range(self, price_class: str) -> tuple[float, float, str] | None:
        """Least and most USD/hour of a class and the latest date; None: no price of that class."""
        having = [p for p in self.prices if p.price_class == price_class]
        if not having:
            return None
        return min(p.low for p in having), max(p.high for p in having), max(p.date for p in having)

    def chip(self) -> Chip:
        """What a deployment is priced on. RidgelineError where its memory is not known."""
        if self.memory_bytes is None:
            raise RidgelineError(
                f"{self.name} is bought in sizes: say how much memory it has, as "
                f"{short_name(self.name)}:32GB"
            )
        scaleup, nic = self.links.get("scaleup"), self.links.get("nic") or self.links.get("pcie")
        peaks = self.stated_or_wider()
        halves = {name: peaks[name] for name in ("bf16", "fp16")}
        return Chip(
            name=self.name,
            peaks={name: figure.value for name, figure in self.peaks.items()} | halves,
            memory_bytes=self.memory_bytes.value,
            memory_bytes_per_second=self.memory_bytes_per_second.value,
            link_bytes_per_second=scaleup.bytes_per_second if scaleup else None,
            domain=self.domain,
            nic_bytes_per_second=nic.bytes_per_second if nic else None,
            in_switch=self._adds_in_switch(),
            year=self.year,
        )

    def _adds_in_switch(self) -> bool:
        kind, since, ranks = _ADDING_SWITCH
        scaleup = self.links.get("scaleup")
        if scaleup is None or self.vendor.lower() != "nvidia":
            return False
        return scaleup.kind == kind and self.year >= since and scaleup.domain >= ranks

    def device(self, ranks: int = 1) -> Device:
        """The data sheet as the limits of a roofline, on one of so many ranks. Arithmetics that it
        has no units of their own for run on wider ones, as kernels do: fp16 is bf16's peak and the
        other way round, f32 for all below where nothing else is stated.
        """
        link = self.link(ranks) if ranks > 1 else None
        return Device(
            name=self.name,
            memory_bytes_per_second=self.memory_bytes_per_second.value,
            operations_per_second=self.stated_or_wider(),
            cache_bytes=self.cache_bytes.value if self.cache_bytes else 0.0,
            link_bytes_per_second=link.bytes_per_second if link else None,
        )

    def stated_or_wider(self) -> dict[str, float]:
        """A peak for each arithmetic that it can do at all: its own, or of the next wider one."""
        wider = {
            "fp4": ("fp8", "int8", "bf16", "fp16", "f32"),
            "fp8": ("bf16", "fp16", "f32"),
            "int8": ("bf16", "fp16", "f32"),
            "bf16": ("fp16", "f32", "fp8", "fp4"),
            "fp16": ("bf16", "f32", "fp8", "fp4"),
            "tf32": ("f32",),
            "f32": ("tf32", "bf16", "fp16", "fp8", "fp4"),
        }
        found = {}
        for arithmetic, others in wider.items():
            for name in (arithmetic, *others):
                if name in self.peaks:
                    found[arithmetic] = self.peaks[name].value
                    break
        return found


@dataclass(frozen=True, slots=True)
class Machine:
    """`count` of one accelerator: by itself, on a board, or in a rack. name: a composition's file,
    or made of the accelerator's. domain: ranks that the scale-up link joins.
    """

    name: str
    title: str
    accelerator: Accelerator
    count: int

    @property
    def domain(self) -> int:
        return min(self.count, self.accelerator.domain)

    @property
    def memory_bytes(self) -> float | None:
        one = self.accelerator.memory_bytes
        return None if one is None else one.value * self.count


def load_accelerator(name: str) -> Accelerator:
    """`h200-sxm`, or a short name of it, in any case; `m3-max:64GB`: of that much memory, whatever
    its data sheet says. RidgelineError names the nearest there are; of a composition, its
    accelerator.
    """
    bare, sized, size = name.partition(":")
    key = _find(bare)
    composed = _tables()[key].get("composed_of")
    found = _accelerator(composed["device"] if composed else key)
    return _of_size(found, size) if sized else found


def _of_size(accelerator: Accelerator, size: str) -> Accelerator:
    memory = parse_bytes(size)
    if memory is None or not GB <= memory <= _MOST_MEMORY:
        raise RidgelineError(
            f"{accelerator.name}: {size!r} is no size of memory from 1 GB to 100 TB; as "
            f"{short_name(accelerator.name)}:32GB"
        )
    return replace(
        accelerator,
        name=f"{accelerator.name}:{size.strip()}",
        title=f"{accelerator.title}, {format_bytes(memory)}",
        memory_bytes=Figure(float(memory), "as it was asked for"),
    )


def load_machine(name: str, count: int | None = None) -> Machine:
    """`h200`, `hgx-h200` or `gb200-nvl72`; count: how many accelerators, over a composition's own.
    Without one, an accelerator is one.
    """
    key = _find(name)
    table = _tables()[key]
    composed = table.get("composed_of")
    accelerator = _accelerator(composed["device"] if composed else key)
    size = count if count is not None else (composed["count"] if composed else 1)
    if size < 1:
        raise RidgelineError(f"{name}: a machine has one accelerator or more, not {size}")
    if composed and size == composed["count"]:
        return Machine(key, table["name"], accelerator, size)
    title = accelerator.title if size == 1 else f"{size} x {accelerator.title}"
    return Machine(accelerator.name, title, accelerator, size)


def accelerators() -> tuple[Accelerator, ...]:
    """All single devices, by name."""
    return tuple(_accelerator(k) for k, t in sorted(_tables().items()) if "composed_of" not in t)


def machines() -> tuple[Machine, ...]:
    """All compositions, by name."""
    return tuple(load_machine(k) for k, t in sorted(_tables().items()) if "composed_of" in t)


def _find(name: str) -> str:
    known = _names()
    key = "-".join(name.strip().lower().replace("_", "-").split())
    if key in known:
        return known[key]
    near = get_close_matches(key, known, n=4, cutoff=0.5)
    # A number that there is not (h999): those of the same letters.
    letters = key.rstrip("0123456789")
    near = near or [n for n in sorted(known) if letters and n.startswith(letters)] or sorted(known)
    shown = list(dict.fromkeys(known[n] for n in near))[:4]
    raise RidgelineError(
        f"there is no accelerator {name!r}; nearest: {', '.join(map(short_name, shown))} "
        f"(all {len(_tables())}: ridgeline roofline --list)"
    )


def short_name(key: str) -> str:
    """What a person would type: the first alias, or the name."""
    aliases = _tables()[key].get("aliases") or ()
    return aliases[0] if aliases and "composed_of" not in _tables()[key] else key


@cache
def _names() -> dict[str, str]:
    known: dict[str, str] = {}
    for key, table in _tables().items():
        for name in (key, *table.get("aliases", ())):
            if known.setdefault(name, key) != key:
                raise RidgelineError(f"devices: {name!r} is {known[name]} and {key}")
    return known


@cache
def _tables() -> dict[str, dict[str, Any]]:
    found = {}
    for path in files("ridgeline.devices").iterdir():
        if path.name.endswith(".toml"):
            found[path.name.removesuffix(".toml")] = tomllib.loads(path.read_text("utf-8"))
    return dict(sorted(found.items()))


@cache
def _accelerator(key: str) -> Accelerator:
    return read_accelerator(key, _tables()[key])


def read_accelerator(key: str, table: Mapping[str, Any]) -> Accelerator:
    """An accelerator's TOML, checked; RidgelineError names the file and the entry at fault."""
    where = f"devices/{key}.toml"
    sources = table.get("sources", {})

    def figure(entry: Any, what: str) -> Figure:
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), int | float):
            raise RidgelineError(f"{where}: {what} is not {{ value = ..., source = ... }}")
        if not entry["value"] > 0:
            raise RidgelineError(f"{where}: {what} = {entry['value']} is not above 0")
        source = sources.get(entry.get("source"))
        if source is None:
            raise RidgelineError(f"{where}: {what} names no source that [sources] has")
        confidence, note = entry.get("confidence", ""), entry.get("note", "")
        return Figure(float(entry["value"]), source, confidence, note)

    def maybe(section: str, name: str) -> Figure | None:
        entry = table.get(section, {}).get(name)
        return None if entry is None else figure(entry, f"{section}.{name}")

    peaks = {name: figure(entry, f"peaks.{name}") for name, entry in table["peaks"].items()}
    unknown = set(peaks) - set(ARITHMETICS)
    if unknown or not peaks:
        raise RidgelineError(f"{where}: peaks are of {', '.join(ARITHMETICS)}, not {unknown}")
    links = {}
    for name, entry in table.get("links", {}).items():
        found = figure(entry, f"links.{name}")
        if entry.get("kind") not in LINK_KINDS:
            raise RidgelineError(f"{where}: links.{name} is none of {', '.join(LINK_KINDS)}")
        links[name] = Link(entry["kind"], found.value, int(entry.get("domain", 0)), found)
    prices = tuple(_price(entry, where, sources) for entry in table.get("prices", ()))
    speed = maybe("memory", "bytes_per_second")
    if speed is None:
        raise RidgelineError(f"{where}: memory.bytes_per_second is missing")
    return Accelerator(
        name=key,
        title=table["name"],
        vendor=table["vendor"],
        device_class=table["class"],
        year=table["year"],
        retrieved=table["retrieved"],
        aliases=tuple(table.get("aliases", ())),
        peaks=peaks,
        memory_bytes=maybe("memory", "bytes"),
        memory_bytes_per_second=speed,
        cache_bytes=maybe("memory", "cache_bytes"),
        links=links,
        chip_watts=maybe("power", "chip"),
        all_in_watts=maybe("power", "all_in"),
        prices=prices,
        notes=table.get("notes", ""),
    )


def _price(entry: Mapping[str, Any], where: str, sources: Mapping[str, str]) -> Price:
    low, high = entry["usd_per_hour"]
    if entry["class"] not in PRICE_CLASSES or not 0 < low <= high:
        raise RidgelineError(f"{where}: a price of class {entry['class']!r} from {low} to {high}")
    source = sources.get(entry["source"])
    if source is None:
        raise RidgelineError(f"{where}: a price names no source that [sources] has")
    return Price(entry["class"], entry["kind"], float(low), float(high), entry["date"], source)


def describe(accelerator: Accelerator) -> str:
    """One line: memory, bandwidth, peaks."""
    memory = accelerator.memory_bytes
    peaks = ", ".join(
        f"{name} {format_count(figure.value)}" for name, figure in accelerator.peaks.items()
    )
    return (
        f"{format_bytes(memory.value) if memory else 'memory by size bought'} at "
        f"{format_bytes(accelerator.memory_bytes_per_second.value)}/s; FLOP/s: {peaks}"
    )
