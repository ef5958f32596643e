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


@dataclass(frozen=True, slots=True)
class Contents:
    """All that was read and checked: metadata, tensors, and each tensor's bytes where the file is
    mapped.
    """

    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]
    segments: Mapping[str, npt.NDArray[np.uint8]]


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


def map_file(path: Path) -> memoryview:
    """A regular, non-empty file as read-only memory; the mapping lives as long as a view of it.

    Pages are read when touched, so a file that another process cuts short meanwhile faults then: no
    reader that maps can defend itself against that.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ModelError(f"{path}: the file is empty: download it again")
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ModelError:
    """The operating system's refusal as a ModelError."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ModelError(f"{path}: cannot be read: {reason}")


def quoted(name: str) -> str:
    """A name from a file as it may stand in a message: escaped, and cut if it is absurdly long."""
    if len(name) <= QUOTED_CHARACTERS:
        return repr(name)
    return f"{name[:QUOTED_CHARACTERS]!r}... ({len(name)} characters)"
