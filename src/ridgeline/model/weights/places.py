"""Where a weight's bytes are in a file: a run of a tensor, a tensor an expert, a view of one, or
codes and scales apart.

All give the whole weight's bytes, or those of one entry of its first axis, in the order of
the graph. Does not know names or architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from ridgeline.errors import ModelError
from ridgeline.model.formats import dequantize
from ridgeline.model.weights.checkpoint import WHOLE, Checkpoint
from ridgeline.model.weights.contents import quoted

Bytes = npt.NDArray[np.uint8]
TILE = 128
# Scales that are a byte: 2^(byte - 127), the last none (OCP Microscaling 1.0).
E8M0 = np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype("<f4")
PLAIN = ("F32", "F16", "BF16")


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
class WholeNumbers:
    """A tensor of whole numbers in [0, below), as float32: `count` entries."""

    tensor: str
    below: int
    count: int

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor,)

    def read(self, checkpoint: Checkpoint) -> Bytes:
        """ModelError for a number that is none of these."""
        numbers = checkpoint.raw(self.tensor).view(WHOLE[checkpoint.tensors[self.tensor].format])
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.below:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(self.tensor)} has numbers from "
                f"{numbers.min()} to {numbers.max()}; 0 to {self.below - 1} are possible"
            )
        return frozen(numbers.astype("<f4").view(np.uint8))

    def entry(self, checkpoint: Checkpoint, index: int) -> Bytes:
        entry: Bytes = self.read(checkpoint).reshape(self.count, -1)[index]
        return entry

    def release(self, checkpoint: Checkpoint, index: int | None) -> None:
        checkpoint.release(self.tensor)


@dataclass(frozen=True, slots=True)
class ScaledTiles:
    """FP8 codes [rows, columns] and a scale for each tile of 128 x 128 of them, as blocks of 128
    codes and their scale. powers: scales are stored as powers of two (E8M0), else as float32.
    """

    codes: str
    scales: str
    rows: int
    columns: int
    powers: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.codes, self.scales)

    def read(self, checkpoint: Checkpoint) -> Bytes:
        blocks = self.columns // TILE
        codes = checkpoint.raw(self.codes).reshape(self.rows, blocks, TILE)
        scales = checkpoint.raw(self.scales)
        if self.powers:
            scales = E8M0[scales].view(np.uint8)
        scales = scales.reshape(-1, blocks, 4)
        of_row = np.repeat(scales, TILE, axis=0)[: self.rows]
        return frozen(np.concatenate([codes, of_row], axis=-1).reshape(-1))

    def entry(self, checkpoint: Checkpoint, index: int) -> Bytes:
        row: Bytes = self.read(checkpoint).reshape(self.rows, -1)[index]
        return row

    def release(self, checkpoint: Checkpoint, index: int | None) -> None:
        for tensor in self.tensors:
            checkpoint.release(tensor)


@dataclass(frozen=True, slots=True)
class OneEach:
    """A place for each entry."""

    places: tuple[Run | ScaledTiles | Mxfp4Rows, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(tensor for place in self.places for tensor in place.tensors)

    def read(self, checkpoint: Checkpoint) -> Bytes:
        return frozen(np.concatenate([place.read(checkpoint) for place in self.places]))

    def entry(self, checkpoint: Checkpoint, index: int) -> Bytes:
        return self.places[index].read(checkpoint)

    def release(self, checkpoint: Checkpoint, index: int | None) -> None:
        for place in self.places if index is None else (self.places[index],):
            place.release(checkpoint, None)


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


@dataclass(frozen=True, slots=True)
class Mxfp4Rows:
    """`count` rows an entry, from `first` on every `step`-th, of MXFP4 as gpt-oss stores it: codes
    [entries, rows, groups, 16], two neighbours a byte, and the groups' scales apart.
    """

    blocks: str
    scales: str
    first: int
    step: int
    count: int
    shape: tuple[int, int, int]

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.blocks, self.scales)

    def read(self, checkpoint: Checkpoint) -> Bytes:
        return self._joined(checkpoint, slice(None))

    def entry(self, checkpoint: Checkpoint, index: int) -> Bytes:
        return self._joined(checkpoint, slice(index, index + 1))

    def release(self, checkpoint: Checkpoint, index: int | None) -> None:
        for tensor in self.tensors:
            checkpoint.release(tensor)

    def _joined(self, checkpoint: Checkpoint, entries: slice) -> Bytes:
        """Blocks of a scale and 16 bytes, of which one has numbers i and i + 16."""
        rows = slice(self.first, self.first + self.step * (self.count - 1) + 1, self.step)
        codes = checkpoint.raw(self.blocks).reshape(*self.shape, 16)[entries, rows]
        scales = checkpoint.raw(self.scales).reshape(self.shape)[entries, rows]
        numbers = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], 32)
        halves = numbers[..., :16] | numbers[..., 16:] << 4
        return frozen(np.concatenate([scales[..., None], halves], axis=-1).reshape(-1))


@dataclass(frozen=True, slots=True)
class ExpandedHeads:
    """Of each head the rows that make keys, stored [heads, rank, key_rows], and those that make
    values, [heads, value_rows, rank]: of one format of plain numbers, or else as float32.
    """

    keys: str
    values: str
    heads: int
    key_rows: int
    value_rows: int
    rank: int
    formats: tuple[str, str]
    element: int

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.keys, self.values)

    def read(self, checkpoint: Checkpoint) -> Bytes:
        keys = self._numbers(checkpoint, 0, (self.heads, self.rank, self.key_rows))
        values = self._numbers(checkpoint, 1, (self.heads, self.value_rows, self.rank))
        joined = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        return frozen(joined.reshape(-1))

    def entry(self, checkpoint: Checkpoint, index: int) -> Bytes:
        rows = self.heads * (self.key_rows + self.value_rows)
        row: Bytes = self.read(checkpoint).reshape(rows, -1)[index]
        return row

    def release(self, checkpoint: Checkpoint, index: int | None) -> None:
        for tensor in self.tensors:
            checkpoint.release(tensor)

    def _numbers(self, checkpoint: Checkpoint, which: int, shape: tuple[int, int, int]) -> Bytes:
        """Bytes [*shape, element] of one of the two."""
        raw = checkpoint.raw(self.tensors[which])
        if self.formats[0] != self.formats[1] or self.formats[0] not in PLAIN:
            raw = dequantize(raw, self.formats[which], shape).view(np.uint8)
        return raw.reshape(*shape, self.element)


def frozen(copy: Bytes) -> Bytes:
    """A copy that looks as a view of the file does: nobody may write to it."""
    copy.flags.writeable = False
    return copy


Place = Run | WholeNumbers | OneEach | ScaledTiles | Strided | Mxfp4Rows | ExpandedHeads
