"""A machine's read roof: measured once, kept by machine, threads and size, never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ridgeline.cost.device import read_roof

MACHINE = {"model name": "An abacus", "processors": "2"}
MiB = 2**20


class Meter:
    """Gives the speeds in turn and counts how often it is asked."""

    def __init__(self, *speeds: float) -> None:
        self.speeds = list(speeds)
        self.asked: list[tuple[int, int]] = []

    def __call__(self, num_bytes: int, threads: int) -> float:
        self.asked.append((num_bytes, threads))
        return self.speeds.pop(0)


def test_it_is_measured_once_a_machine_size_and_thread_count(tmp_path: Path) -> None:
    meter = Meter(10.0, 20.0, 30.0, 40.0)
    first = read_roof(tmp_path, MACHINE, 2, 97 * MiB, meter)
    assert (first.footprint_bytes, first.threads, first.gigabytes_per_second) == (128 * MiB, 2, 10)
    assert read_roof(tmp_path, MACHINE, 2, 120 * MiB, meter) == first
    assert read_roof(tmp_path, MACHINE, 1, 97 * MiB, meter).gigabytes_per_second == 20
    assert read_roof(tmp_path, MACHINE, 2, 200 * MiB, meter).gigabytes_per_second == 30
    other = MACHINE | {"processors": "4"}
    assert read_roof(tmp_path, other, 2, 97 * MiB, meter).gigabytes_per_second == 40
    assert meter.asked == [(128 * MiB, 2), (128 * MiB, 1), (256 * MiB, 2), (128 * MiB, 2)]


@pytest.mark.parametrize(("num_bytes", "footprint"), [(1, 32 * MiB), (2**40, 2**30)])
def test_sizes_are_held_within_reason(tmp_path: Path, num_bytes: int, footprint: int) -> None:
    assert read_roof(tmp_path, MACHINE, 2, num_bytes, Meter(1.0)).footprint_bytes == footprint


def test_a_figure_that_was_surpassed_is_measured_again_and_the_higher_kept(tmp_path: Path) -> None:
    def roof(reached: float, *speeds: float) -> float:
        return read_roof(tmp_path, MACHINE, 2, MiB, Meter(*speeds), reached).gigabytes_per_second

    assert roof(0, 17.0) == 17
    assert roof(16.9) == 17
    assert roof(20, 37.0) == 37
    assert roof(40, 12.0) == 37
    assert roof(0) == 37


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 3}', "\x00"])
def test_a_broken_cache_is_measured_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "roofs.json"
    path.write_text(text)
    assert read_roof(tmp_path, MACHINE, 2, MiB, Meter(5.0)).gigabytes_per_second == 5
    assert json.loads(path.read_text())


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    for speed in (5.0, 6.0):
        roof = read_roof(path / "below", MACHINE, 2, MiB, Meter(speed))
        assert roof.gigabytes_per_second == speed
