"""devices/*.toml: every figure has a source, names are found, and nonsense is told the nearest."""

from __future__ import annotations

from importlib.resources import files

import pytest

from ridgeline.cost.accelerator import (
    ARITHMETICS,
    PAID_CLASSES,
    Accelerator,
    accelerators,
    load_accelerator,
    load_machine,
    machines,
    read_accelerator,
)
from ridgeline.errors import RidgelineError

FIGURE = {"value": 1e12, "source": "a"}
SMALL = {
    "name": "Small", "vendor": "v", "class": "c", "year": 2026, "retrieved": "2026-11-21",
    "peaks": {"bf16": FIGURE}, "memory": {"bytes_per_second": FIGURE}, "sources": {"a": "A book"},
}  # fmt: skip


@pytest.mark.parametrize("accelerator", accelerators(), ids=lambda a: a.name)
def test_figures_are_plausible_and_have_sources(accelerator: Accelerator) -> None:
    figures = [*accelerator.peaks.values(), accelerator.memory_bytes_per_second]
    figures += [link.figure for link in accelerator.links.values()]
    for figure in figures:
        assert figure.source
    assert set(accelerator.peaks) <= set(ARITHMETICS)
    assert 1e11 <= accelerator.memory_bytes_per_second.value <= 3e13
    assert 1e12 <= max(f.value for f in accelerator.peaks.values()) <= 1e17
    for price in accelerator.prices:
        assert 0.1 < price.low <= price.high < 20
        assert price.date.startswith(("2025", "2026"))
        assert price.source
    assert accelerator.device(2).memory_bytes_per_second >= 1e9
    assert accelerator.device().operations_per_second["bf16"] > 0


def test_what_there_is() -> None:
    names = {a.name for a in accelerators()}
    assert len(names) >= 36
    assert {"h100-sxm", "mi355x", "tpu-v6e", "m4-max", "epyc-turin-9755", "rubin"} <= names
    assert {m.name: m.count for m in machines()}["gb200-nvl72"] == 72
    installed = {p.name for p in files("ridgeline.devices").iterdir()}
    assert {f"{name}.toml" for name in names} <= installed


def test_short_names_and_compositions() -> None:
    h200 = load_accelerator("H200")
    assert h200 is load_accelerator("h200_sxm") is load_accelerator("hgx-h200")
    assert h200.peak("fp8") == 1.978e15
    assert h200.memory_bytes is not None
    assert h200.memory_bytes.value == 151397597184
    assert h200.domain == 8
    assert h200.price_range("on-demand") == (2.5, 7.0, "2026-05")
    assert h200.price_range("spot") is None
    assert {p.price_class for p in h200.prices} <= set(PAID_CLASSES)
    rack = load_machine("gb200-nvl72")
    assert (rack.count, rack.domain, rack.accelerator.name) == (72, 72, "gb200")
    assert load_machine("h200", 16).domain == 8


def test_links_by_how_many_they_join() -> None:
    h200 = load_accelerator("h200")
    inside, outside = h200.link(8), h200.link(16)
    assert inside is not None
    assert outside is not None
    assert (inside.kind, outside.kind) == ("nvlink", "nic")
    assert inside.bytes_per_second == 9 * outside.bytes_per_second
    pcie = load_accelerator("l40s").link(2)
    assert pcie is not None
    assert pcie.kind == "pcie"


def test_an_arithmetic_without_units_runs_on_wider_ones() -> None:
    peaks = load_accelerator("h200").device().operations_per_second
    assert peaks["fp4"] == peaks["fp8"] == 2 * peaks["bf16"]
    assert load_accelerator("a100").device().operations_per_second["fp8"] == 312e12
    with pytest.raises(RidgelineError, match="no peak for fp4 arithmetic; there are: f32"):
        load_accelerator("h200").peak("fp4")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("h20O", "h200"), ("b20", "b200"), ("mi300", "mi300x"), ("", "a100"), ("h999", "h100")],
)
def test_unknown_names_are_told_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(RidgelineError, match=f"nearest: .*{nearest}"):
        load_accelerator(name)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"peaks": {"fp3": FIGURE}}, "peaks are of f32"),
        ({"peaks": {"bf16": {"value": 1e12, "source": "b"}}}, "names no source"),
        ({"peaks": {"bf16": {"value": -1, "source": "a"}}}, "is not above 0"),
        ({"peaks": {"bf16": 3}}, "is not { value"),
        ({"memory": {}}, "bytes_per_second is missing"),
        ({"links": {"nic": {**FIGURE, "kind": "string"}}}, "links.nic is none of"),
        (
            {"prices": [{"class": "gift", "kind": "", "usd_per_hour": [1, 2], "date": "2026",
                         "source": "a"}]},
            "a price of class 'gift'",
        ),
    ],
)  # fmt: skip
def test_a_broken_file_is_told(change: dict[str, object], told: str) -> None:
    assert read_accelerator("small", SMALL).peak("bf16") == 1e12
    with pytest.raises(RidgelineError, match=told):
        read_accelerator("small", {**SMALL, **change})


def test_machines_of_no_accelerators() -> None:
    with pytest.raises(RidgelineError, match="one accelerator or more, not 0"):
        load_machine("h200", 0)


def test_a_chip_of_a_deployment() -> None:
    chip = load_accelerator("gb200").chip()
    assert (chip.domain, chip.link(72), chip.link(73)) == (72, 9e11, 5e10)
    assert load_accelerator("l40s").chip().link(2) == 3.2e10
    v100 = load_accelerator("v100")
    with pytest.raises(RidgelineError, match="say how much memory"):
        v100.chip()
    sized = load_accelerator("V100:32GB")
    assert sized.chip().peaks["bf16"] == v100.peak("fp16")
    assert sized.chip().memory_bytes == 32e9
    assert (sized.name, v100.memory_bytes) == ("v100-sxm:32GB", None)
    assert load_accelerator(sized.name) == sized
    assert load_accelerator("hgx-h100:96GiB").chip().memory_bytes == 96 * 2**30


@pytest.mark.parametrize("size", ["", "32", "x", "-1GB", "nan", "0GB", "1000TB"])
def test_sizes_of_memory_that_are_none(size: str) -> None:
    with pytest.raises(RidgelineError, match=r"no size of memory .*; as m3-max:32GB"):
        load_accelerator(f"m3-max:{size}")
