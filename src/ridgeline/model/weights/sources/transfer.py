"""Bytes that arrive: a partial file that hashes, counts and resumes, and what is said when the disk
refuses.

It does not know where bytes come from. A partial file is never visible under the name of a complete
one; who owns it renames it when the sum is right.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ridgeline.errors import CapacityError, ModelError, RidgelineError
from ridgeline.units import MIB, format_bytes

if TYPE_CHECKING:
    import hashlib

# progress(stage, done_bytes, total_bytes): called often, from the thread that downloads.
Progress = Callable[[str, int, int | None], None]

_CHUNK_BYTES = MIB
# Room that a download leaves to everyone else on the disk.
_SPARE_BYTES = 64 * MIB


def silent(stage: str, done_bytes: int, total_bytes: int | None) -> None:
    """A `Progress` that shows nothing."""


class PartialFile:
    """A file under download, opened for appending; owns its handle and its running SHA-256.

    Bytes that are already there count: they are hashed on opening, up to `keep_bytes`. It offers as
    much of a binary file (`write`, `tell`, `seek(0)`, `truncate`) as a downloader needs that may
    have to start again.
    """

    def __init__(
        self,
        path: Path,
        progress: Progress,
        stage: str,
        total_bytes: int | None,
        keep_bytes: int | None = None,
    ) -> None:
        self.path = path
        self.stage = stage
        self._progress = progress
        self._total_bytes = total_bytes
        self._digest = _sha256()
        self.size_bytes = 0
        with disk_faults(path):
            # Unbuffered: after a full disk, closing must not try to write once more.
            self._file = path.open("a+b", buffering=0)
        try:
            self._resume(keep_bytes)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        """Append, hash and report. Raises `CapacityError` when the disk is full."""
        with disk_faults(self.path):
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._count(data, self.stage)
        return len(data)

    def tell(self) -> int:
        return self.size_bytes

    def seek(self, position: int) -> int:
        """Only to the start, and only before `truncate`: a server that ignored Range sends
        everything again.
        """
        assert position == 0, position
        self._restart()
        return 0

    def truncate(self) -> int:
        assert self.size_bytes == 0
        with disk_faults(self.path):
            self._file.truncate(0)
        return 0

    def sync(self) -> None:
        """Bytes on the disk: a name given afterwards never stands for less than was hashed."""
        with disk_faults(self.path):
            os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def _resume(self, keep_bytes: int | None) -> None:
        with disk_faults(self.path):
            if keep_bytes is not None:
                # A shorter file than was promised starts again: its bytes cannot be placed.
                size_bytes = os.fstat(self._file.fileno()).st_size
                self._file.truncate(keep_bytes if size_bytes >= keep_bytes else 0)
            self._file.seek(0)
            while data := self._file.read(_CHUNK_BYTES):
                self._count(data, "resume: check what is here")

    def _restart(self) -> None:
        self._digest = _sha256()
        self.size_bytes = 0

    def _count(self, data: bytes, stage: str) -> None:
        self._digest.update(data)
        self.size_bytes += len(data)
        self._progress(stage, self.size_bytes, self._total_bytes)


def _sha256() -> hashlib._Hash:
    # Loading OpenSSL costs milliseconds, which a run of a cached model need not wait for.
    import hashlib

    return hashlib.sha256()


def sha256_of(path: Path, progress: Progress = silent) -> str:
    """The SHA-256 of a file, in hexadecimal, read in bounded pieces."""
    digest, done_bytes = _sha256(), 0
    with disk_faults(path), path.open("rb") as file:
        total_bytes = os.fstat(file.fileno()).st_size
        while data := file.read(_CHUNK_BYTES):
            digest.update(data)
            done_bytes += len(data)
            progress("verify", done_bytes, total_bytes)
    return digest.hexdigest()


def git_blob_sha1_of(path: Path) -> str:
    """The name that git gives to a file's content: SHA-1 over `blob SIZE\\0` and the bytes."""
    import hashlib

    with disk_faults(path), path.open("rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while data := file.read(_CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Raises `CapacityError` when `needed_bytes` more, and a little to spare, do not fit beside
    `folder`'s files.
    """
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes + _SPARE_BYTES > free_bytes:
        raise CapacityError(
            f"the download needs {format_bytes(needed_bytes)} and {folder} has "
            f"{format_bytes(free_bytes)} free; "
            f"free some, or choose another disk with --cache-dir or RIDGELINE_CACHE"
        )


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn what the disk says about `path` into one line with a way out."""
    try:
        yield
    except OSError as error:
        raise disk_fault(error, path) from error


def disk_fault(error: OSError, path: Path) -> RidgelineError:
    """`CapacityError` for a full disk or quota, `ModelError` for all else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CapacityError(
            f"no room on the disk for {path} ({error.strerror}); what came is kept and the pull "
            f"resumes: "
            f"free some, or choose another disk with --cache-dir or RIDGELINE_CACHE"
        )
    return ModelError(
        f"cannot use {path}: {error.strerror or error}; "
        f"make it writable, or choose another folder with --cache-dir or RIDGELINE_CACHE"
    )


def wrong_sum(what: str, path: Path, expected: str, actual: str) -> ModelError:
    """Delete a file whose bytes are not the promised ones, and say which sums disagree."""
    path.unlink(missing_ok=True)
    return ModelError(
        f"{what} has SHA-256 {actual}, not {expected}: it was damaged or replaced on the way; "
        f"it is deleted, pull it again"
    )
