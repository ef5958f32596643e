"""What a file of weights holds, whatever its kind, and the one way that such a file is mapped.

Does not know any file format.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ridgeline.errors import ModelError

QUOTED_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as its file describes it; `shape` is row-major, outermost first.

    `format` is a name of `model.formats.FORMATS`, or a dtype of safetensors that has no codec here.
    """

    name: str
    shape: tuple[int, ...]
    format: str


class MappedFile(mmap.mmap):
    """A file as read-only memory.

    identity: resolved path, size, times of the last change of content and of status in ns, inode
    and device, when it was mapped: another file, or the same one changed, has another.
    """

    identity: tuple[str, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """One tensor's bytes: `data` is a view of the mapped file, from its byte `start` on."""

    data: npt.NDArray[np.uint8]
    mapping: MappedFile
    start: int

    def release(self) -> None:
        """Takes the tensor's pages from this process; they come back from the file if touched.

        Pages that it shares with a neighbour stay.
        """
        first = -(-self.start // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (self.start + self.data.size) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first:
            self.mapping.madvise(mmap.MADV_DONTNEED, first, end - first)


@dataclass(frozen=True, slots=True)
class Contents:
    """All that was read and checked: metadata, tensors, and where each tensor's bytes are."""

    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]
    segments: Mapping[str, Segment]


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened to be read; ModelError for pipes, devices, and what cannot be."""
    try:
        file = open(path, "rb", opener=open_without_waiting)  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ModelError(f"{path}: not a regular file: give a GGUF or safetensors file")
    return file


def open_without_waiting(path: str, flags: int) -> int:
    """A named pipe without a writer would otherwise hold the caller for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def map_file(path: Path) -> MappedFile:
    """A regular, non-empty file as read-only memory; the mapping lives as long as a view of it.

    Pages are read when touched, so a file that another process cuts short meanwhile faults then: no
    reader that maps can defend itself against that.
    """
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size == 0:
            raise ModelError(f"{path}: the file is empty: download it again")
        try:
            mapping = MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error
    mapping.identity = (
        str(path.resolve()),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
    )
    return mapping


def segments_of(mapping: MappedFile, spans: Mapping[str, tuple[int, int]]) -> dict[str, Segment]:
    """A segment for each name's begin and end, which were checked to be inside the file."""
    data = np.frombuffer(mapping, np.uint8)
    return {name: Segment(data[a:b], mapping, a) for name, (a, b) in spans.items()}


def unreadable(path: Path, error: Exception) -> ModelError:
    """The operating system's refusal as a ModelError."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ModelError(f"{path}: cannot be read: {reason}")


def quoted(name: str) -> str:
    """A name from a file as it may stand in a message: escaped, and cut if it is absurdly long."""
    if len(name) <= QUOTED_CHARACTERS:
        return repr(name)
    return f"{name[:QUOTED_CHARACTERS]!r}... ({len(name)} characters)"
