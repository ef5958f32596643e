"""Weights of a graph, each bound to the bytes of its tensor in an open checkpoint.

All is checked when bound, so that nothing can be missing or misshapen later; nothing is read until
it is asked for. Does not know architectures, nor what a weight is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS, Format, dequantize
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.weights.checkpoint import Checkpoint
from ridgeline.model.weights.contents import quoted
from ridgeline.model.weights.names import Names, Root, Stack
from ridgeline.model.weights.places import OneEach, Place, Run, Strided


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
        """The weight's `num_bytes` bytes, 1-D, read-only: a view of the file, if it can be."""
        return self.places[weight.name].read(self.checkpoint)

    def entry(self, weight: Weight, index: int) -> npt.NDArray[np.uint8]:
        """The same of one entry of the weight's first axis: of an expert."""
        return self.places[weight.name].entry(self.checkpoint, index)

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        """The weight of `weight.shape` dequantized, in an array of the caller's own."""
        return dequantize(self.raw(weight), weight.format.name, weight.shape)

    def release(self, weight: Weight, index: int | None = None) -> None:
        """Says that the weight, or one entry of it, has been repacked: its pages no longer count as
        this process's.
        """
        self.places[weight.name].release(self.checkpoint, index)


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
    places: dict[str, Place] = {}
    for weight in graph.weights:
        stack = names.stack(weight.name, root)
        if stack is not None:
            places[weight.name] = place_in_stack(checkpoint, weight, stack)
        elif names.is_per_expert(weight.name):
            each = [names.stored(weight.name, root, e) for e in range(weight.shape[0])]
            check_experts(checkpoint, weight, each)
            places[weight.name] = OneEach(tuple(each))
        else:
            stored.setdefault(names.stored(weight.name, root), []).append(weight)
    for tensor, parts in stored.items():
        check_shape(checkpoint, tensor, parts)
        start = 0
        for part in parts:
            places[part.name] = Run(tensor, start, part.num_bytes, part.shape[0])
            start += part.num_bytes
    used = {tensor for place in places.values() for tensor in place.tensors}
    unused = tuple(name for name in checkpoint.tensors if name not in used)
    return BoundWeights(checkpoint, places, unused)


def check_experts(checkpoint: Checkpoint, weight: Weight, tensors: list[str]) -> None:
    """Whether there is such a tensor for each expert, all alike."""
    for tensor in tensors:
        if tensor not in checkpoint.tensors:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(tensor)} is missing ({weight.name} of the "
                f"model has {len(tensors)} experts)"
            )
        found = checkpoint.tensors[tensor]
        if found.format != weight.format.name:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(tensor)} has type {found.format}, and the one "
                f"of expert 0 {weight.format.name}: all experts of a layer must have one"
            )
        check_shape(checkpoint, tensor, [replace(weight, shape=weight.shape[1:])])


def place_in_stack(checkpoint: Checkpoint, weight: Weight, stack: Stack) -> Strided:
    """A weight [E, out, in], or a bias [E, out], within a tensor that has it in another order."""
    is_bias = len(weight.shape) == 2
    tensor = stack.bias if is_bias else stack.weight
    count, out = weight.shape[:2]
    needed: tuple[int, ...] = (count, stack.parts * out, *weight.shape[2:])
    if stack.transposed and not is_bias:
        needed = (count, weight.shape[2], stack.parts * out)
    if tensor not in checkpoint.tensors:
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)} is missing ({weight.name} of the model)"
        )
    found = checkpoint.tensors[tensor].shape
    if found != needed:
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)} has shape {found}; {needed} is needed "
            f"({weight.name})"
        )
    step = stack.parts if stack.interleaved else 1
    first = stack.part if stack.interleaved else stack.part * out
    if stack.transposed or is_bias:
        element = weight.format.block_bytes
        if weight.format.block_elements != 1:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(tensor)} is stored inputs first, in blocks: "
                f"{weight.format.name} is not supported so"
            )
        inputs = () if is_bias else (weight.shape[2],)
        row = stack.parts * out * element
        each = row * (1 if is_bias else weight.shape[2])
        strides = (each, step * element, *(row for _ in inputs), 1)
        return Strided(tensor, first * element, (count, out, *inputs, element), strides)
    row = weight.num_bytes // (count * out)
    strides = (stack.parts * out * row, step * row, 1)
    return Strided(tensor, first * row, (count, out, row), strides)


def check_shape(checkpoint: Checkpoint, tensor: str, parts: list[Weight]) -> None:
    """Whether the stored tensor is the parts' rows, one after the other. Dimensions of 1 do not
    count (of a depthwise convolution's filters), nor how a vector is folded (by group, by head).
    """
    first = parts[0]
    needed = (sum(part.shape[0] for part in parts), *first.shape[1:])
    found = checkpoint.tensors[tensor].shape
    folded = (prod(found),) if len(needed) == 1 else without_ones(found)
    if found != needed and folded != without_ones(needed):
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


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1) or (1,)


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
