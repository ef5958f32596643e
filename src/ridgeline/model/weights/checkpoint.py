"""Opening a model's weights: the kind is found by content, and all kinds look alike afterwards.

Files are mapped, so that opening reads headers only and a tensor's bytes come from disk when they
are touched. Does not know where a model comes from (`sources`), what it computes (`architectures`),
or names of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS, dequantize
from ridgeline.model.weights.contents import (
    Contents,
    Segment,
    TensorInfo,
    open_regular,
    quoted,
    unreadable,
)
from ridgeline.model.weights.ctranslate2 import is_ctranslate2, open_ctranslate2
from ridgeline.model.weights.gguf import MAGIC, open_gguf
from ridgeline.model.weights.gguf_listed import with_listed
from ridgeline.model.weights.safetensors import open_directory, open_file

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]

WHOLE: dict[str, str] = {"I32": "<i4", "I64": "<i8"}  # numbers that a file may have a table of

Kind = Literal["gguf", "safetensors", "ct2"]

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"


class Checkpoint:
    """An open model: metadata, tensors, and their bytes; owns the mappings until `close`.

    metadata: a GGUF's key-values (int, float, bool, str, NumPy array, sequence of str), or the
    parsed config.json. tensors: by name, in the file's order; shapes are row-major.
    """

    def __init__(self, path: Path, kind: Kind, contents: Contents) -> None:
        self.path = path
        self.kind: Kind = kind
        self.metadata: Mapping[str, object] = contents.metadata
        self.tensors: Mapping[str, TensorInfo] = contents.tensors
        self._segments: Mapping[str, Segment] | None = contents.segments

    @property
    def identity(self) -> tuple[tuple[str, int, int, int, int, int], ...]:
        """Of each file that the tensors lie in (see `MappedFile`), sorted: what is made from the
        tensors is good for as long as this is the same.
        """
        segments = {} if self._segments is None else self._segments
        return tuple(sorted({segment.mapping.identity for segment in segments.values()}))

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, 1-D and read-only, a view of the mapped file: valid as long as it is
        held.

        The address is aligned as the file aligns it: safetensors promises nothing.
        """
        return self._segment(name).data

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor as float32, dequantized, in an array of the caller's own."""
        raw = self.raw(name)
        info = self.tensors[name]
        if info.format in WHOLE:
            return raw.view(WHOLE[info.format]).reshape(info.shape).astype(np.float32)
        if info.format not in FORMATS:
            raise ModelError(
                f"{self.path}: tensor {quoted(name)}: {info.format} cannot be read as numbers yet; "
                f"supported: {', '.join(FORMATS)}"
            )
        return dequantize(raw, info.format, info.shape)

    def release(self, name: str) -> None:
        """Says that the tensor's bytes have been used: its pages no longer count as this process's.

        What a loader has repacked would otherwise lie in memory twice. Views stay valid; what is
        touched again is read from the file again.
        """
        self._segment(name).release()

    def close(self) -> None:
        """Lets go of the files; views that `raw` gave stay valid and hold them until they go."""
        self._segments = None

    def _segment(self, name: str) -> Segment:
        if self._segments is None:
            raise ModelError(f"{self.path}: the checkpoint is closed")
        if name not in self._segments:
            raise ModelError(f"{self.path}: no tensor {quoted(name)} among {len(self.tensors)}")
        return self._segments[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_checkpoint(path: Path) -> Checkpoint:
    """A GGUF file (or any part of a split one), a Hugging Face directory, one of CTranslate2, or a
    .safetensors file.

    ModelError names the file and the field that is wrong, missing or not supported.
    """
    if is_directory(path) and is_ctranslate2(path):
        return Checkpoint(path, "ct2", open_ctranslate2(path))
    if is_directory(path):
        return Checkpoint(path, "safetensors", open_directory(path))
    with open_regular(path) as file:
        start = file.read(9)
    if start.startswith(MAGIC):
        return Checkpoint(path, "gguf", with_listed(open_gguf(path), str(path)))
    if path.suffix == ".safetensors" or start[8:] == b"{":
        return Checkpoint(path, "safetensors", open_file(path))
    if path.suffix == ".gguf":
        # Its own reader says best what is wrong with the magic.
        return Checkpoint(path, "gguf", with_listed(open_gguf(path), str(path)))
    pickled = start.startswith((ZIP_MAGIC, PICKLE_MAGIC))
    reason = "looks like a pickle, which is never read" if pickled else "is of no kind known here"
    raise ModelError(
        f"{path}: {reason}: give a GGUF file, a .safetensors file, or a folder with config.json"
    )


def is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
