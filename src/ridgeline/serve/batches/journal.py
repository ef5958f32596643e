"""Files that outlive a crash: whole documents replaced at once, and journals that only grow.

A document is there as it was or as it is now, never in between. A journal is lines of JSON; a line
is there or not, and one that was being written when the machine stopped is not.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ridgeline.serve.core.errors import StorageFault

_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """What the disk says, as one line with a way out."""
    try:
        yield
    except OSError as error:
        raise StorageFault(
            f"the server cannot write to {path.parent.parent}: {error.strerror or error}; nothing "
            "can be kept until there is room, or it is started with another --cache-dir"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Replaces a file; on return it is on the disk. StorageFault if it cannot be."""
    partial = path.with_name(path.name + ".part")
    with _on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)  # its room is somebody's who can use it
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Journal:
    """Lines of JSON, each on the disk once `append` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> Iterator[Any]:
        """All that were written whole. What a crash left of the last one is cut off the file."""
        if not self._path.exists():
            return
        good = 0
        with open(self._path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                except ValueError:
                    break
                good += len(line)
                yield entry
        if good < self._path.stat().st_size:
            os.truncate(self._path, good)

    def append(self, entry: Any) -> None:
        """StorageFault if it cannot be written whole; nothing of it is there then."""
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        with _on_disk(self._path), open(self._path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


class Documents:
    """JSON documents by kind and id under one folder, each with its owner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, kind: str, name: str, suffix: str = ".json") -> Path:
        """Where it lies. Only ids of ours lead to a path."""
        if not _ID.fullmatch(name):
            raise KeyError(name)
        return self._folder / kind / f"{name}{suffix}"

    def write(self, kind: str, name: str, document: dict[str, Any]) -> None:
        path = self.path(kind, name)
        write_whole(path, json.dumps(document, ensure_ascii=False).encode())

    def read(self, kind: str, name: str) -> dict[str, Any]:
        """Raises KeyError where there is none."""
        try:
            found: dict[str, Any] = json.loads(self.path(kind, name).read_bytes())
        except (FileNotFoundError, ValueError):
            raise KeyError(name) from None
        return found

    def every(self, kind: str) -> list[dict[str, Any]]:
        """All of a kind, oldest first."""
        folder = self._folder / kind
        if not folder.is_dir():
            return []
        found = []
        for path in folder.glob("*.json"):
            with suppress(FileNotFoundError):  # removed meanwhile
                found.append(json.loads(path.read_bytes()))
        return sorted(found, key=lambda document: (document["created_at"], document["id"]))

    def remove(self, kind: str, name: str) -> None:
        for path in (self._folder / kind).glob(f"{name}.*"):
            path.unlink(missing_ok=True)

    def names(self, kind: str) -> list[str]:
        """Ids of a kind, the one written first first."""
        paths = (self._folder / kind).glob("*.json")
        return [path.stem for path in sorted(paths, key=lambda one: one.stat().st_mtime_ns)]
