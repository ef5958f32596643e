"""Weights of a graph, each bound to the bytes of its tensor in an open checkpoint.

All is checked when bound, so that nothing can be missing or misshapen later; nothing is read until
it is asked for. Does not know architectures, nor what a weight is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS, Format, dequantize
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.weights.checkpoint import Checkpoint
from ridgeline.model.weights.contents import quoted
from ridgeline.model.weights.names import Names, Root


@dataclass(frozen=True, slots=True)
class Place:
    """Where a weight's bytes are: a stored tensor, from a byte of it on."""

    tensor: str
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class BoundWeights:
    """Every weight of a graph, in its file's bytes.

    places: by canonical name. unused: the file's tensors that the graph does not need, none of
    which would change its numbers.
    """

    checkpoint: Checkpoint
    places: Mapping[str, Place]
    unused: tuple[str, ...]

    def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
        """The weight's `num_bytes` bytes, 1-D, a read-only view of the mapped file."""
        place = self.places[weight.name]
        return self.checkpoint.raw(place.tensor)[place.start : place.start + place.num_bytes]

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        """The weight of `weight.shape` dequantized, in an array of the caller's own."""
        return dequantize(self.raw(weight), weight.format.name, weight.shape)

    def release(self, weight: Weight) -> None:
        """Says that the weight has been repacked: its pages no longer count as this process's."""
        self.checkpoint.release(self.places[weight.name].tensor)


def stored_format(checkpoint: Checkpoint, names: Names, root: Root) -> Callable[[str], Format]:
    """Canonical weight name -> the format it has in the file; ModelError if it is not there or has
    no codec.
    """

    def format_of(name: str) -> Format:
        stored = names.stored(name, root)
        if stored not in checkpoint.tensors:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(stored)} is missing ({name} of the model)"
            )
        found = checkpoint.tensors[stored].format
        if found not in FORMATS:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(stored)} has type {found}, which is not "
                f"supported; supported: {', '.join(FORMATS)}"
            )
        return FORMATS[found]

    return format_of


def bind(graph: Graph, checkpoint: Checkpoint, names: Names, root: Root) -> BoundWeights:
    """Binds each of `graph.weights`, whose formats are the file's (`stored_format`).

    ModelError names a tensor whose shape is not the graph's, or one that the graph leaves out
    although it would change the numbers.
    """
    stored: dict[str, list[Weight]] = {}
    for weight in graph.weights:
        stored.setdefault(names.stored(weight.name, root), []).append(weight)
    places: dict[str, Place] = {}
    for tensor, parts in stored.items():
        check_shape(checkpoint, tensor, parts)
        start = 0
        for part in parts:
            places[part.name] = Place(tensor, start, part.num_bytes)
            start += part.num_bytes
    unused = tuple(name for name in checkpoint.tensors if name not in stored)
    return BoundWeights(checkpoint, places, unused)


def check_shape(checkpoint: Checkpoint, tensor: str, parts: list[Weight]) -> None:
    """Whether the stored tensor is the parts' rows, one after the other; dimensions of 1 in the
    middle (of a depthwise convolution's filters) do not count.
    """
    first = parts[0]
    needed = (sum(part.shape[0] for part in parts), *first.shape[1:])
    found = checkpoint.tensors[tensor].shape
    if found != needed and _without_ones(found) != needed:
        whole = " + ".join(part.name for part in parts)
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)} has shape {found}; {needed} is needed "
            f"({whole})"
        )
    if checkpoint.raw(tensor).size != sum(part.num_bytes for part in parts):
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)}: rows of {found[-1]} do not fill whole "
            f"{first.format.name} blocks of {first.format.block_elements}"
        )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:1], *(size for size in shape[1:-1] if size != 1), *shape[-1:])


def check_unused(
    checkpoint: Checkpoint, unused: Iterable[str], names: Names, root: Root, tied: bool
) -> None:
    """ModelError for a tensor left out that is not known to be harmless."""
    for name in unused:
        if names.harmless.fullmatch(name):
            continue
        if tied and name == names.stored("head.weight", root):
            continue  # The configuration says that the embedding is the output matrix.
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(name)} is not part of this architecture as built "
            "here: leaving it out would change the model's numbers"
        )
