"""Files that once broke a reader, and a short seeded run of the fuzzer that found them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from fuzz_files import MAKERS, fuzz, read_all, try_files

from ridgeline.errors import ModelError

CORPUS = Path(__file__).parent / "corpus"
CASES = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())


def test_there_are_cases() -> None:
    assert CASES


@pytest.mark.parametrize("case", CASES)
def test_what_was_found_stays_fixed(case: str, tmp_path: Path) -> None:
    """Each folder is one model: a directory if it has a config.json, else any of its files."""
    files = {path.name: path.read_bytes() for path in (CORPUS / case).iterdir()}
    tracemalloc.start()
    try:
        for entry in ["."] if "config.json" in files else sorted(files):
            try_files(files, entry, tmp_path)
    finally:
        tracemalloc.stop()


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    report = fuzz(1500, seed=20, folder=tmp_path, corpus=None)
    assert report.findings == {}
    assert set(report.by_kind) == set(MAKERS)
    assert min(report.opened, report.refused) > 50


def test_a_finding_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would be blind if nothing could count as found."""

    def fails(path: Path) -> None:
        try:
            read_all(path)
        except ModelError as error:
            raise KeyError("not what a reader may raise") from error

    monkeypatch.setattr("fuzz_files.read_all", fails)
    report = fuzz(20, seed=1, folder=tmp_path, corpus=tmp_path / "corpus")
    assert len(report.findings) == 1
    assert len(list((tmp_path / "corpus").iterdir())) == 1
