"""The folder where pulled models lie, and the rules that keep it whole.

```
CACHE/models/smollm2/manifest.json     what, whence, each file's size, SHA-256 and time
CACHE/models/smollm2/SmolLM2-...gguf
CACHE/models/.partial/smollm2/         under download; kept when interrupted, to resume
CACHE/models/.locks/smollm2.lock       held by the process that pulls or removes
```

A model becomes visible by one rename of its folder, after every file was checked and synced.
Readers take no lock and write nothing, so a cache on a read-only disk serves. Sums are checked when
a model is pulled; a run compares only size and time, which costs one `stat` a file. Files put here
by hand are not known to the cache and stay untouched.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ridgeline.errors import CapacityError, ModelError
from ridgeline.model.weights.sources.select import ModelKind, is_plain_name
from ridgeline.model.weights.sources.transfer import Progress, disk_faults, sha256_of, silent

MANIFEST = "manifest.json"
_MANIFEST_VERSION = 1
_MANIFEST_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class CachedFile:
    name: str
    size_bytes: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One complete model in the cache. `entry` is the file that a loader opens, None for a
    directory.
    """

    key: str
    reference: str
    kind: ModelKind
    format: str
    source: str
    licence: str
    entry: str | None
    files: tuple[CachedFile, ...]
    pulled_at: str
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder if self.entry is None else self.folder / self.entry

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Staged:
    """A fetched model before it is published: checked files in `folder`, `sha256` by file name."""

    folder: Path
    kind: ModelKind
    entry: str | None
    format: str
    source: str
    licence: str
    sha256: Mapping[str, str]


class DamagedModelError(ModelError):
    """A cached model is not what was pulled: a file is missing or has changed."""


def find_cached(cache_dir: Path, key: str) -> CachedModel | None:
    """The cached model of `key`, or None. Raises `DamagedModelError` when its files are not those
    that were pulled.
    """
    folder = _models(cache_dir) / key
    model = _read_manifest(folder)
    if model is None:
        return None
    touched = False
    for file in model.files:
        try:
            status = (folder / file.name).stat()
        except OSError as error:
            raise _damaged(model, file.name, "is missing") from error
        if status.st_size != file.size_bytes:
            raise _damaged(model, file.name, f"has {status.st_size} bytes, not {file.size_bytes}")
        touched = touched or not _is_same_time(status.st_mtime_ns, file.mtime_ns)
    # A copied or restored cache has new times: the sums decide, once.
    return _verify_again(model) if touched else model


def list_cached(cache_dir: Path) -> tuple[CachedModel, ...]:
    """All complete models, by key. What has no readable manifest is not listed."""
    folder = _models(cache_dir)
    if not folder.is_dir():
        return ()
    with disk_faults(folder):
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    models = (_read_manifest(folder / name) for name in names)
    return tuple(model for model in models if model is not None)


def remove_cached(cache_dir: Path, key: str) -> int:
    """Delete a model and what is left of interrupted pulls of it; returns the bytes freed. 0:
    nothing was there.
    """
    models = _models(cache_dir)
    if not models.is_dir():
        return 0
    freed_bytes = 0
    with pull_lock(cache_dir, key, silent, wait=False):
        for folder in (models / key, models / ".partial" / key):
            if not folder.is_dir():
                continue
            with disk_faults(folder):
                num_bytes = sum(
                    path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()
                )
                # The manifest first: from then on no reader takes the folder for a model.
                (folder / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder)
            freed_bytes += num_bytes
    return freed_bytes


def removable_bytes(cache_dir: Path, key: str) -> int:
    """What `remove_cached` would free."""
    folders = (_models(cache_dir) / key, _models(cache_dir) / ".partial" / key)
    paths = (path for folder in folders if folder.is_dir() for path in folder.rglob("*"))
    return sum(path.lstat().st_size for path in paths if not path.is_dir())


@contextmanager
def pull_lock(cache_dir: Path, key: str, progress: Progress, wait: bool = True) -> Iterator[None]:
    """Hold the right to change `key`. With `wait` false, raises `ModelError` when another process
    holds it.

    The lock is the kernel's (flock) and dies with its process; the empty file stays, since removing
    it would let two processes hold two files of one name.
    """
    import fcntl

    path = _models(cache_dir) / ".locks" / f"{key}.lock"
    with disk_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise ModelError(
                    f"{key} is being pulled by another process; wait, or end it"
                ) from error
            progress("wait for another process that pulls this model", 0, None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def workspace(cache_dir: Path, key: str) -> Path:
    """The folder for partial files of `key`; what an interrupted pull left there is still in it."""
    folder = _models(cache_dir) / ".partial" / key
    with disk_faults(folder):
        (folder / "files").mkdir(parents=True, exist_ok=True)
    return folder


def publish(cache_dir: Path, key: str, reference: str, staged: Staged) -> CachedModel:
    """Make a staged model visible in one step, in place of an older one; under `pull_lock`."""
    folder = _models(cache_dir) / key
    with disk_faults(folder):
        files = []
        for name, digest in staged.sha256.items():
            assert is_plain_name(name), name
            status = (staged.folder / name).stat()
            files.append(CachedFile(name, status.st_size, digest, status.st_mtime_ns))
        model = CachedModel(
            key=key,
            reference=reference,
            kind=staged.kind,
            format=staged.format,
            source=staged.source,
            licence=staged.licence,
            entry=staged.entry,
            files=tuple(files),
            pulled_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            folder=folder,
        )
        _write_manifest(model, staged.folder)
        # An earlier pull of the same reference may have left files that this one does not have.
        for path in staged.folder.iterdir():
            if path.name not in staged.sha256 and path.name != MANIFEST:
                path.unlink()
        replaced = staged.folder.parent / f"replaced-{os.getpid()}"
        if folder.exists():
            folder.rename(replaced)
        staged.folder.rename(folder)
        shutil.rmtree(staged.folder.parent)
    return model


def _models(cache_dir: Path) -> Path:
    return cache_dir / "models"


def _is_same_time(found_ns: int, recorded_ns: int) -> bool:
    """Archives and image layers keep whole seconds: a cache that went through one is unchanged."""
    second = 10**9
    return found_ns == recorded_ns or found_ns == recorded_ns // second * second


def _damaged(model: CachedModel, name: str, fault: str) -> DamagedModelError:
    return DamagedModelError(
        f"the cached {model.reference} was changed since it was pulled: {model.folder / name} "
        f"{fault}; "
        f"run `ridgeline pull {model.reference}` to fetch it again"
    )


def _verify_again(model: CachedModel) -> CachedModel:
    files = []
    for file in model.files:
        digest = sha256_of(model.folder / file.name)
        if digest != file.sha256:
            raise _damaged(model, file.name, f"has SHA-256 {digest}, not {file.sha256}")
        mtime_ns = (model.folder / file.name).stat().st_mtime_ns
        files.append(CachedFile(file.name, file.size_bytes, digest, mtime_ns))
    fields = {name: getattr(model, name) for name in CachedModel.__slots__}
    checked = CachedModel(**{**fields, "files": tuple(files)})
    # A read-only or full cache cannot remember that it was checked; the answer is right anyhow.
    if os.access(model.folder, os.W_OK):
        with suppress(CapacityError):
            _write_manifest(checked, model.folder)
    return checked


def _write_manifest(model: CachedModel, folder: Path) -> None:
    fields = asdict(model)
    del fields["folder"], fields["key"]
    partial = folder / f"{MANIFEST}.{os.getpid()}"
    with disk_faults(partial):
        text = json.dumps({"version": _MANIFEST_VERSION, **fields}, indent=1)
        try:
            partial.write_text(text + "\n", encoding="utf-8")
            partial.replace(folder / MANIFEST)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def _read_manifest(folder: Path) -> CachedModel | None:
    """None for a folder that is not a whole model: no manifest, one of another version, or not as
    we write it.
    """
    try:
        with (folder / MANIFEST).open("rb") as file:
            data = json.loads(file.read(_MANIFEST_MAX_BYTES))
        return _parse_manifest(data, folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _parse_manifest(data: dict[str, Any], folder: Path) -> CachedModel:
    if data["version"] != _MANIFEST_VERSION or data["kind"] not in ("gguf", "directory"):
        raise ValueError(data["version"])
    files = tuple(
        CachedFile(
            str(file["name"]), int(file["size_bytes"]), str(file["sha256"]), int(file["mtime_ns"])
        )
        for file in data["files"]
    )
    names = {file.name for file in files}
    entry = data["entry"]
    if (
        not names
        or not all(map(is_plain_name, names))
        or (entry is not None and entry not in names)
    ):
        raise ValueError(entry)
    return CachedModel(
        key=folder.name,
        reference=str(data["reference"]),
        kind=data["kind"],
        format=str(data["format"]),
        source=str(data["source"]),
        licence=str(data["licence"]),
        entry=entry,
        files=files,
        pulled_at=str(data["pulled_at"]),
        folder=folder,
    )
