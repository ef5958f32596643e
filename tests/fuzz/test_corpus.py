"""Files that once broke a reader, and a short seeded run of the fuzzer that found them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from fuzz_files import FILES, MODELS, Kind, fuzz, read_all, try_files

from ridgeline.errors import ModelError

CORPUS = Path(__file__).parent / "corpus"
KINDS = {**FILES, **MODELS}
SINGLE = ("gguf", "safetensors", "model", "config")
CASES = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())


def test_there_are_cases() -> None:
    assert CASES


@pytest.mark.parametrize("case", CASES)
def test_what_was_found_stays_fixed(case: str, tmp_path: Path) -> None:
    """A folder's name begins with the kind of model that it is."""
    files = {path.name: path.read_bytes() for path in (CORPUS / case).iterdir()}
    name = next(name for name in KINDS if case.startswith(f"{name}-"))
    entries = sorted(files) if name in ("split-gguf", *SINGLE) else ["."]
    tracemalloc.start()
    try:
        for entry in entries:
            try_files(files, entry, tmp_path, KINDS[name])
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("kinds", "count"), [(FILES, 1500), (MODELS, 150)])
def test_a_short_run_finds_nothing(kinds: dict[str, Kind], count: int, tmp_path: Path) -> None:
    report = fuzz(kinds, count, seed=20, folder=tmp_path, corpus=None)
    assert report.findings == {}
    assert set(report.by_kind) == set(kinds)
    assert min(report.opened, report.refused) > count // 40


def test_a_finding_is_noticed(tmp_path: Path) -> None:
    """The fuzzer would be blind if nothing could count as found."""

    def fails(path: Path) -> None:
        try:
            read_all(path)
        except ModelError as error:
            raise KeyError("not what a reader may raise") from error

    kinds = {"gguf": Kind(1, FILES["gguf"].make, fails)}
    report = fuzz(kinds, 20, seed=1, folder=tmp_path, corpus=tmp_path / "corpus")
    assert len(report.findings) == 1
    assert len(list((tmp_path / "corpus").iterdir())) == 1
