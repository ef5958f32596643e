"""`ridgeline measure` over machines of known speed: its table, its JSON, and its verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_meter import FakeMeter

from ridgeline.cli.main import main
from ridgeline.cost.measure import load

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def command(meter: FakeMeter, *arguments: str, code: int = 0) -> str:
        monkeypatch.setattr("ridgeline.assemble.machine_meter", lambda isa: meter)
        words = ["--cache-dir", str(tmp_path), "measure", "--threads", "2", *arguments]
        assert main(words) == code
        said = capsys.readouterr()
        return said.err if code == 2 else said.out

    return command


def test_a_table_of_roofs(run: Run, tmp_path: Path) -> None:
    said = run(FakeMeter())
    for words in ("An abacus, avx512", "read 24 KiB a thread", "copy 256 MiB", "int8", "barrier"):
        assert words in said
    (line,) = [line for line in said.splitlines() if line.startswith("read 512 MiB")]
    assert line.split()[3:] == ["40.0", "40.0", "GB/s"]
    assert "read 32 MiB, last-level cache" in said
    assert "nothing was kept of this machine before" in said
    kept = load(tmp_path, FakeMeter().identity(), "avx512")
    assert kept is not None
    assert "the machine is in the mode of" in run(FakeMeter())
    assert "in another mode than" in run(FakeMeter(read_rate=66.0, barrier_rate=204.0))
    again = load(tmp_path, FakeMeter().identity(), "avx512")
    assert again is not None
    assert again.read(512 << 20, 2) != kept.read(512 << 20, 2), "the newest is kept"


def test_json_has_units_in_its_names(run: Run) -> None:
    fields = json.loads(run(FakeMeter(), "--json"))
    assert fields["isa"] == "avx512"
    of_memory = {"footprint_bytes": 512 << 20, "threads": 1, "gb_per_s": 40.0}
    assert {**of_memory, "forward_gb_per_s": 30.0} in fields["read"]
    assert {"arithmetic": "int8", "threads": 2, "gop_per_s": 2000.0} in fields["arithmetic"]
    assert {"threads": 2, "ns": 45.0, "mode": "near"} in fields["barrier"]


def test_a_check_compares_and_keeps_nothing(run: Run, tmp_path: Path) -> None:
    assert "nothing is kept" in run(FakeMeter(), "--check")
    assert not list(tmp_path.iterdir())
    run(FakeMeter())
    before = (tmp_path / "roofs.json").read_bytes()
    assert "as it was measured" in run(FakeMeter(), "--check")
    for rate in (60.0, 20.0):
        assert "another mode" in run(FakeMeter(read_rate=rate), "--check", code=3)
    fields = json.loads(run(FakeMeter(barrier_rate=210.0), "--check", "--json", code=3))
    assert (fields["mode"], fields["kept_mode"], fields["other_mode"]) == ("far", "near", True)
    assert fields["kept_read_gb_per_s"] == 40.0
    assert (tmp_path / "roofs.json").read_bytes() == before


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("ridgeline.assemble.machine_meter", lambda isa: FakeMeter())
    assert main(["--cache-dir", str(tmp_path / "file"), "measure", "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert "not kept:" in said.err
    assert "int8" in said.out


def test_no_threads_are_refused(run: Run) -> None:
    assert run(FakeMeter(), "--threads", "0", code=2).startswith("error: --threads: 0 is not")
