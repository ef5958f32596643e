"""Where a weight's bytes are in a file: a run of a tensor, a tensor an expert, or a view of one.

All three give the whole weight's bytes, or those of one entry of its first axis, in the order of
the graph. Does not know names or architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from ridgeline.model.weights.checkpoint import Checkpoint

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Run:
    """`num_bytes` of a stored tensor, from its byte `start` on: a weight of `count` entries."""

    tensor: str
    start: int
    num_bytes: int
    count: int

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor,)

    def read(self, checkpoint: Checkpoint) -> Bytes:
        return checkpoint.raw(self.tensor)[self.start : self.start + self.num_bytes]

    def entry(self, checkpoint: Checkpoint, index: int) -> Bytes:
        each = self.num_bytes // self.count
        start = self.start + index * each
        return checkpoint.raw(self.tensor)[start : start + each]

    def release(self, checkpoint: Checkpoint, index: int | None) -> None:
        checkpoint.release(self.tensor)


@dataclass(frozen=True, slots=True)
class OneEach:
    """A tensor for each entry."""

    tensors: tuple[str, ...]

    def read(self, checkpoint: Checkpoint) -> Bytes:
        return frozen(np.concatenate([checkpoint.raw(tensor) for tensor in self.tensors]))

    def entry(self, checkpoint: Checkpoint, index: int) -> Bytes:
        return checkpoint.raw(self.tensors[index])

    def release(self, checkpoint: Checkpoint, index: int | None) -> None:
        for tensor in self.tensors if index is None else (self.tensors[index],):
            checkpoint.release(tensor)


@dataclass(frozen=True, slots=True)
class Strided:
    """A view of a tensor's bytes from `start` on, whose last axis is bytes that lie together."""

    tensor: str
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor,)

    def read(self, checkpoint: Checkpoint) -> Bytes:
        return frozen(np.ascontiguousarray(self._view(checkpoint)).reshape(-1))

    def entry(self, checkpoint: Checkpoint, index: int) -> Bytes:
        return np.ascontiguousarray(self._view(checkpoint)[index]).reshape(-1)

    def release(self, checkpoint: Checkpoint, index: int | None) -> None:
        checkpoint.release(self.tensor)

    def _view(self, checkpoint: Checkpoint) -> Bytes:
        raw = checkpoint.raw(self.tensor)[self.start :]
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        assert last < raw.size, f"{self} leaves its tensor"
        return as_strided(raw, self.shape, self.strides, writeable=False)


def frozen(copy: Bytes) -> Bytes:
    """A copy that looks as a view of the file does: nobody may write to it."""
    copy.flags.writeable = False
    return copy


Place = Run | OneEach | Strided
