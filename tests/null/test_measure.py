"""A machine's roofs: what is measured, what is kept, and when it is another machine or mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_meter import FakeMeter

from ridgeline.cost.device import Read, ReadRates, Roofs
from ridgeline.cost.measure import (
    check,
    load,
    measure,
    pace_now,
    read_roof,
    reads_now,
    store,
    thread_counts,
    upper_quartile,
)
from ridgeline.units import GIB, MIB

MACHINE = FakeMeter().identity()


def measured(meter: FakeMeter | None = None) -> Roofs:
    return measure(meter or FakeMeter(), (1, 2), 16 * GIB)


def test_every_roof_is_measured_with_every_number_of_threads() -> None:
    stages: list[tuple[str, int, int]] = []
    meter = FakeMeter()
    roofs = measure(meter, (1, 2), 16 * GIB, lambda *stage: stages.append(stage))
    assert {r.threads for r in roofs.reads} == {1, 2}
    assert {r.footprint_bytes for r in roofs.reads if r.threads == 2} >= {
        48 * 1024,
        1 * MIB,
        64 * MIB,
        128 * MIB,
        512 * MIB,
    }
    far = roofs.read(512 * MIB, 2)
    assert far is not None
    assert far.gigabytes_per_second == 40
    peak = roofs.peak("int8", 1)
    assert peak is not None
    assert peak.gigaoperations_per_second == 1000
    assert {(p.arithmetic, p.threads) for p in roofs.peaks} == {
        (name, threads) for name in ("int8", "bf16", "f32") for threads in (1, 2)
    }
    assert stages[-1][1] == stages[-1][2]
    assert [stage[1] for stage in stages] == list(range(len(stages)))
    assert meter.num_closed == 1


def test_a_peak_is_not_lost_to_a_disturbed_round() -> None:
    assert upper_quartile([5.0]) == 5.0
    assert upper_quartile([1.0, 2.0, 3.0, 4.0]) == 4.0
    assert upper_quartile([900.0, 990.0, 400.0, 991.0, 100.0, 992.0, 2.0, 989.0, 988.0]) == 990.0


def test_little_memory_is_not_filled() -> None:
    meter = FakeMeter()
    measure(meter, (2,), 400 * MIB)
    assert meter.largest <= 100 * MIB


def test_thread_counts() -> None:
    assert [thread_counts(n) for n in (1, 2, 3, 8, 12)] == [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 4, 8),
        (1, 2, 4, 8, 12),
    ]


def test_roofs_of_this_moment() -> None:
    """Memory that has become slower is slower at every size that no core's own cache holds."""
    meter = FakeMeter(read_rate=20.0)
    reads = reads_now(meter, 2, 16 * GIB)
    assert meter.num_closed == 1
    assert meter.largest == 512 * MIB
    kept = measured()
    now = kept.as_now(reads)
    for was, then in zip(kept.reads, now.reads, strict=True):
        assert was.footprint_bytes == then.footprint_bytes
        far = was.threads == 2 and was.footprint_bytes > 2 * 512 * 1024
        ratio = then.gigabytes_per_second / was.gigabytes_per_second
        assert ratio == pytest.approx(0.5 if far else 1.0)
    assert kept.as_now(()) == kept
    small = FakeMeter()
    assert {r.footprint_bytes for r in reads_now(small, 2, 256 * MIB)} == {32 * MIB}


def test_the_pace_of_this_moment() -> None:
    pace = pace_now(2, lambda rounds: [600.0, 400.0] * (rounds // 2 - 1) + [600.0, 40.0])
    assert (pace.arithmetic, pace.threads) == ("int8", 2)
    # By times, and without rounds that somebody else had.
    assert 479 < pace.gigaoperations_per_second < 481
    kept = measured()
    assert kept.pace is None
    now = kept.as_now(reads_now(FakeMeter(), 2, 16 * GIB), pace)
    assert now.pace == pace
    assert now.peaks == kept.peaks, "what bounds figures is what can be"
    assert kept.as_now((), pace).pace == pace


def test_between_two_reads_a_size_is_between_them() -> None:
    kept = measured()
    at = [(64 * MIB, 0.5), (256 * MIB, 0.9)]

    def rate(of: Roofs, size: int) -> float:
        found = of.read(size, 2)
        assert found is not None
        return found.gigabytes_per_second

    now = kept.as_now([Read(size, 2, ratio * rate(kept, size), 10.0) for size, ratio in at])
    ratios = [rate(now, m * MIB) / rate(kept, m * MIB) for m in (32, 64, 128, 256, 512)]
    assert ratios == pytest.approx([0.5, 0.5, (0.5 * 0.9) ** 0.5, 0.9, 0.9], rel=1e-6)


def test_each_way_of_reading_changes_by_itself() -> None:
    """Plain streams at half their speed, what asks ahead as it was: kernels are as they were."""
    kept = measured(FakeMeter(read_rate=40.0, forward=0.5))
    now = kept.as_now(reads_now(FakeMeter(read_rate=20.0, forward=1.0), 2, 16 * GIB))
    for was, then in zip(kept.reads, now.reads, strict=True):
        assert then.forward == pytest.approx(was.forward)
    far = now.read(300 * MIB, 2)
    assert far is not None
    assert (far.gigabytes_per_second, far.forward) == pytest.approx((20.0, 20.0))


def test_what_is_kept_is_what_was_measured(tmp_path: Path) -> None:
    roofs = measured()
    assert store(tmp_path, roofs)
    assert load(tmp_path, MACHINE, "avx512") == roofs
    assert load(tmp_path, MACHINE, "avx2") is None
    assert load(tmp_path, {**MACHINE, "processors": "4"}, "avx512") is None
    other = FakeMeter(isa="avx2", read_rate=7.0)
    store(tmp_path, measured(other))
    assert load(tmp_path, MACHINE, "avx512") == roofs, "one machine does not replace another"


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return change


@pytest.mark.parametrize(
    "change",
    [
        edit(lambda entry: entry.pop("reads")),
        edit(lambda entry: entry.update(reads={})),
        edit(lambda entry: entry.update(reads=[1])),
        edit(lambda entry: entry.update(reads=[[1, 2]])),
        edit(lambda entry: entry.update(reads=[[1, 2, 3.0]])),
        edit(lambda entry: entry.update(reads=[[1, 2, "fast", 1.0]])),
        edit(lambda entry: entry.update(reads=[[1, 2, 3.0, -3.0]])),
        edit(lambda entry: entry.update(reads=[[1, 2, 0, 1.0]])),
        edit(lambda entry: entry.update(reads=[[1, 2, 3.0, True]])),
        edit(lambda entry: entry.update(reads=[[0, 2, 1.0, 1.0]])),
        edit(lambda entry: entry.update(reads=[[1.5, 2, 1.0, 1.0]])),
        edit(lambda entry: entry.update(reads=[[1, 2, 1e300, 1.0]])),
        edit(lambda entry: entry.update(reads=[[1, 2, 3.0, 3.0]] * 5000)),
        edit(lambda entry: entry.update(peaks=[["\x1b[2J", 2, 3.0]])),
        edit(lambda entry: entry.update(peaks=[[7, 2, 3.0]])),
        edit(lambda entry: entry.update(barriers=[["2", 3.0]])),
        edit(lambda entry: entry.update(cache_bytes=-1)),
        edit(lambda entry: entry.update(measured_at=3)),
    ],
)
def test_an_entry_of_the_wrong_kind_is_no_entry(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    store(tmp_path, measured())
    path = tmp_path / "roofs.json"
    known = json.loads(path.read_text())
    (entry,) = known.values()
    change(entry)
    path.write_text(json.dumps(known))
    assert load(tmp_path, MACHINE, "avx512") is None
    assert store(tmp_path, measured())
    assert load(tmp_path, MACHINE, "avx512") is not None


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"x": 3}', b"\x00", b"\xff\xfe", b"[" * 100_000, b" " * 2_000_000]
)
def test_a_broken_file_is_measured_over(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "roofs.json").write_bytes(data)
    assert load(tmp_path, MACHINE, "avx512") is None
    roofs = measured()
    assert store(tmp_path, roofs)
    assert load(tmp_path, MACHINE, "avx512") == roofs


def test_nan_is_no_speed(tmp_path: Path) -> None:
    store(tmp_path, measured())
    path = tmp_path / "roofs.json"
    path.write_text(path.read_text().replace("45.0", "NaN"))
    assert load(tmp_path, MACHINE, "avx512") is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    assert not store(path / "below", measured())
    assert load(path / "below", MACHINE, "avx512") is None


@pytest.mark.parametrize(
    ("rate", "nanoseconds", "other"),
    [
        (40.0, 45.0, False),
        (44.0, 52.0, False),
        (36.0, 45.0, False),
        (60.0, 45.0, True),
        (24.0, 45.0, True),
        (40.0, 204.0, True),
        (40.0, 85.0, False),
    ],
)
def test_another_mode_is_told_up_and_down(rate: float, nanoseconds: float, other: bool) -> None:
    found = check(FakeMeter(rate, nanoseconds), measured(), 2, 16 * GIB)
    assert found.other_mode is other
    assert found.read.gigabytes_per_second == rate, "the roof is the one that holds now"
    assert found.kept_mode == "near"
    assert found.mode == ("far" if nanoseconds > 200 else "near")


def test_without_anything_kept_there_is_no_other_mode() -> None:
    found = check(FakeMeter(), None, 2, 16 * GIB)
    assert not found.other_mode
    assert found.read.kept is None
    assert found.kept_mode is None


def test_a_roof_that_was_surpassed_is_read_again_and_the_highest_holds() -> None:
    def reader(*looks: list[float]) -> Callable[[int], list[ReadRates]]:
        rates = iter([[ReadRates(rate, rate / 2) for rate in look] for look in looks])
        return lambda rounds: next(rates)

    look = [30.0, 17.0, 16.0, 10.0, 9.0]
    roof = read_roof(None, 100 * MIB, 2, reader(look, [20.0, 37.0, 36.0]), reached=20.0)
    assert roof.now == Read(100 * MIB, 2, 37.0, 18.5)
    assert read_roof(None, MIB, 2, reader(look), 15.0).now == Read(MIB, 2, 16.0, 8.0)
