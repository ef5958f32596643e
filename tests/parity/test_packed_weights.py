"""Packed weights kept on disk: the same numbers as packed anew, whatever has become of the file."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cpu_graphs import Stored, run
from test_whole_models import model, stored

from ridgeline.backends.cpu import packed_weights
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.model.weights.contents import map_file

FORMATS = ("Q4_K", "Q8_0", "BF16", "F32")
SOURCE = ["a file", 1]
TOKENS = 5


ASKS_SYSTEM = packed_weights._native.maps_in_huge_pages


@pytest.fixture(autouse=True)
def keeps_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "LEAST_BYTES", 0)
    # Whether this system maps files in huge pages must not decide what is tested.
    monkeypatch.setattr(packed_weights._native, "maps_in_huge_pages", lambda file: True)


class Model(Stored):
    def __init__(self) -> None:
        super().__init__({})

    def raw(self, weight):  # type: ignore[no-untyped-def]
        return stored(weight)


def load(folder: Path | None, name: str = "Q4_K", source: object = SOURCE) -> bytes:
    """The bits of the logits of a model loaded with its packed weights kept in `folder`."""
    cpu = CpuExecutor(
        model(name),
        Model(),
        num_blocks=4,
        max_rows=2,
        max_tokens_per_step=TOKENS,
        threads=2,
        max_logits_per_step=TOKENS,
        packed_folder=folder,
        source=source,
    )
    return run(cpu, TOKENS).tobytes()


def forbid_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise AssertionError("the kept file was not used")

    monkeypatch.setattr(packed_weights, "write", write)


@pytest.mark.parametrize("name", FORMATS)
def test_kept_weights_give_the_bits_of_packed_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew = load(None, name)
    assert load(tmp_path / "kept", name) == anew
    forbid_packing(monkeypatch)
    assert load(tmp_path / "kept", name) == anew


def test_a_kept_file_is_the_users_alone_and_stands_alone(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    load(folder)
    (path,) = folder.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def rewrite(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    """Changes what a file says about itself, well-formed."""

    def apply(path: Path) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[-16:-8], "little")
        fields = json.loads(data[-16 - length : -16])
        change(fields)
        text = json.dumps(fields).encode()
        path.write_bytes(data[: -16 - length] + text + len(text).to_bytes(8, "little") + data[-8:])

    return apply


def edit_record(index: int, column: int, value: object) -> Callable[[Path], None]:
    def change(fields: dict[str, object]) -> None:
        fields["records"][index][column] = value  # type: ignore[index]

    return rewrite(change)


def become_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit of the first weight": lambda path: flip(path, 0),
    "a bit of a weight": lambda path: flip(path, 50_000),
    "a bit of its end": lambda path: flip(path, -1),
    "a bit of its length": lambda path: flip(path, -10),
    "a bit of its description": lambda path: flip(path, -40),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": become_zeros,
    "another key": rewrite(lambda fields: fields.update(key="0" * 32)),
    "another size": rewrite(lambda fields: fields.update(num_bytes=64)),
    "no records": rewrite(lambda fields: fields.update(records=[])),
    "records of nothing": rewrite(lambda fields: fields.update(records=None)),
    "a matrix beyond the end": edit_record(0, 4, 1 << 40),
    "an odd offset": edit_record(1, 4, 3),
    "a negative offset": edit_record(0, 4, -64),
    "a huge matrix": edit_record(0, 1, 1 << 60),
    "another matrix": edit_record(0, 1, 32),
    "another format": edit_record(0, 0, "Q8_0"),
    "no such format": edit_record(0, 0, "Q9_9"),
    "a prescale of nothing": edit_record(0, 3, float("nan")),
    "a directory": become_directory,
    "a link": become_link,
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_file_that_cannot_be_believed_is_packed_anew(what: str, tmp_path: Path) -> None:
    anew = load(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    DAMAGES[what](path)
    assert load(tmp_path) == anew
    if not path.is_dir():
        assert path.read_bytes() == whole


def test_each_source_and_each_graph_has_a_file_of_its_own(tmp_path: Path) -> None:
    for name in ("Q4_K", "Q8_0"):
        for source in (SOURCE, ["another"]):
            assert load(tmp_path, name, source) == load(None, name)
    assert len(list(tmp_path.iterdir())) == 4


def test_without_a_source_or_below_the_least_size_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, source=None)
    monkeypatch.setattr(packed_weights, "LEAST_BYTES", 1 << 40)
    load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_files_are_not_mapped_in_huge_pages_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weights._native, "maps_in_huge_pages", lambda file: False)
    assert load(tmp_path) == load(None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_weights_in_memory_of_their_own_have_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where too little of a file is in huge pages: as written, and as read."""
    anew = load(None, name)
    monkeypatch.setattr(packed_weights, "LEAST_HUGE_SHARE", 2.0)  # no file has that
    assert load(tmp_path, name) == anew
    forbid_packing(monkeypatch)
    assert load(tmp_path, name) == anew


def test_weights_in_memory_of_their_own_leave_nothing_of_the_file_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[tuple[int, int, int]] = []

    class Program(packed_weights._native.Program):
        def settle_weights(self, least_huge_share: float) -> int:
            num_bytes = super().settle_weights(least_huge_share)
            moved.append((num_bytes, self.weights_file_bytes, resident_bytes(tmp_path)))
            return num_bytes

    monkeypatch.setattr(packed_weights._native, "Program", Program)
    monkeypatch.setattr(packed_weights, "LEAST_HUGE_SHARE", 2.0)
    load(tmp_path)
    load(tmp_path)
    assert len(moved) == 2
    for num_bytes, file_bytes, resident in moved:
        assert num_bytes == file_bytes > 0
        assert resident == 0
    monkeypatch.setattr(packed_weights, "LEAST_HUGE_SHARE", 0.0)
    load(tmp_path)
    num_bytes, file_bytes, resident = moved[-1]
    assert num_bytes == 0
    assert 0 < resident <= file_bytes + (2 << 20)


def resident_bytes(folder: Path) -> int:
    """Of files in the folder, as far as this process has them mapped."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            total += inside * 1024 * int(line.split()[1])
        elif "-" in line.split()[0]:
            inside = str(folder) in line
    return total


def test_asking_whether_pages_are_huge_leaves_the_file_empty(tmp_path: Path) -> None:
    with open(tmp_path / "x", "w+b") as file:
        assert ASKS_SYSTEM(file.fileno()) in (True, False)
        assert os.fstat(file.fileno()).st_size == 0


def test_a_full_disk_costs_the_file_and_nothing_else(tmp_path: Path) -> None:
    anew = load(None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        assert load(tmp_path) == anew
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    assert load(tmp_path / "file" / "folder") == load(None)


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_the_files_used_longest_ago_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weights, "MOST_BYTES", 3000)
    for index, name in enumerate(("new", "old", "older")):
        (tmp_path / f"{name}.packed").write_bytes(bytes(1000))
        age(tmp_path / f"{name}.packed", 100.0 * index)
    (tmp_path / "something else").write_bytes(bytes(5000))
    assert packed_weights.make_room(tmp_path, 1500)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["new.packed", "something else"]
    assert not packed_weights.make_room(tmp_path, 3001)


def test_what_nobody_finished_or_used_goes(tmp_path: Path) -> None:
    for name in (".packing-now", ".packing-abandoned", "used.packed", "unused.packed"):
        (tmp_path / name).write_bytes(b"x")
    age(tmp_path / ".packing-abandoned", packed_weights.UNFINISHED_SECONDS + 60)
    age(tmp_path / "unused.packed", packed_weights.UNUSED_SECONDS + 60)
    assert packed_weights.make_room(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".packing-now", "used.packed"]


def test_a_file_that_changes_is_another_source(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"12345678")
    first = map_file(path).identity
    assert map_file(path).identity == first
    path.write_bytes(b"12345679")
    assert map_file(path).identity != first
    copy = tmp_path / "copy"
    copy.write_bytes(b"12345678")
    assert map_file(copy).identity != first
