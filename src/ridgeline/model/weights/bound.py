"""Weights of a graph, each bound to the bytes of its tensor in an open checkpoint.

All is checked when bound, so that nothing can be missing or misshapen later; nothing is read until
it is asked for. Does not know architectures, nor what a weight is for.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS, Format, dequantize
from ridgeline.model.graph.node import Graph, Node, Weight
from ridgeline.model.graph.ops import LatentAttention, Route
from ridgeline.model.weights.checkpoint import WHOLE, Checkpoint
from ridgeline.model.weights.contents import quoted
from ridgeline.model.weights.names import Columns, Expansion, Names, Root, Stack
from ridgeline.model.weights.places import (
    PLAIN,
    TILE,
    ExpandedHeads,
    Mxfp4Rows,
    OneEach,
    Place,
    Run,
    ScaledTiles,
    Strided,
    WholeNumbers,
)

MXFP4_GROUP = 32
SCALED = {"F8_E4M3": "F8_E4M3_128", "I8": "MXFP4"}  # of codes that have scales


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

    def numbers(self, weight: Weight) -> list[float]:
        """The same as plain numbers, row by row: for the few that a pass asks for."""
        found: list[float] = self.float32(weight).ravel().tolist()
        return found

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
        stored, stack = names.stored(name, root), names.stack(name, root)
        if stack is not None and stored == stack.weight and stack.blocks in checkpoint.tensors:
            return FORMATS["MXFP4"]
        expansion = names.expansion(name)
        if expansion is not None and is_apart(checkpoint, expansion):
            return joined_format(checkpoint, expansion)
        if stored not in checkpoint.tensors:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(stored)} is missing ({name} of the model)"
            )
        found = format_in(checkpoint, stored)
        if found in WHOLE:
            return FORMATS["F32"]
        if found not in FORMATS:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(stored)} has type {found}, which is not "
                f"supported; supported: {', '.join(FORMATS)}"
            )
        return FORMATS[found]

    return format_of


def is_apart(checkpoint: Checkpoint, expansion: Expansion) -> bool:
    """Whether what makes keys and what makes values are two tensors."""
    parts = (expansion.keys, expansion.values)
    return all(tensor in checkpoint.tensors for tensor in parts)


def joined_format(checkpoint: Checkpoint, expansion: Expansion) -> Format:
    """The format of both, if it is one of plain numbers: other numbers cannot be turned where they
    lie, and are float32.
    """
    found = {checkpoint.tensors[tensor].format for tensor in (expansion.keys, expansion.values)}
    for name in found:
        if name not in FORMATS:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(expansion.keys)} or "
                f"{quoted(expansion.values)} has type {name}, which is not supported"
            )
    return FORMATS[found.pop() if len(found) == 1 and found <= set(PLAIN) else "F32"]


def format_in(checkpoint: Checkpoint, tensor: str) -> str:
    """The tensor's format; FP8 and FP4 codes with their scales beside them are one of blocks."""
    found = checkpoint.tensors[tensor].format
    if scales_of(checkpoint, tensor) in checkpoint.tensors:
        return SCALED.get(found, found)
    return found


def scales_of(checkpoint: Checkpoint, tensor: str) -> str:
    """As DeepSeek V3 calls them, or V4, where they are powers of two."""
    power = f"{tensor.removesuffix('.weight')}.scale"
    return power if is_power(checkpoint, power) else f"{tensor}_scale_inv"


def is_power(checkpoint: Checkpoint, scales: str) -> bool:
    return scales in checkpoint.tensors and checkpoint.tensors[scales].format == "F8_E8M0"


def bind(graph: Graph, checkpoint: Checkpoint, names: Names, root: Root) -> BoundWeights:
    """Binds each of `graph.weights`, whose formats are the file's (`stored_format`).

    ModelError names a tensor whose shape is not the graph's, or one that the graph leaves out
    although it would change the numbers.
    """
    stored: dict[str, list[Weight]] = {}
    places: dict[str, Place] = {}
    expand = {
        node.weights[0].name: node for node in graph.nodes if isinstance(node.op, LatentAttention)
    }
    chosen = {
        node.weights[-1].name: node.weights[0].shape[0]
        for node in graph.nodes
        if isinstance(node.op, Route) and node.op.by_token
    }
    for weight in graph.weights:
        stack, columns = names.stack(weight.name, root), names.columns(weight.name)
        expansion = names.expansion(weight.name)
        if expansion is not None and is_apart(checkpoint, expansion):
            places[weight.name] = place_expansion(checkpoint, expand[weight.name], expansion)
        elif columns is not None:
            tensor = names.stored(weight.name, root)
            places[weight.name] = place_columns(checkpoint, weight, tensor, columns)
        elif stack is not None:
            places[weight.name] = place_in_stack(checkpoint, weight, stack)
        elif names.is_per_expert(weight.name):
            each = [names.stored(weight.name, root, e) for e in range(weight.shape[0])]
            places[weight.name] = OneEach(place_experts(checkpoint, weight, each))
        elif weight.format.name == "F8_E4M3_128":
            tensor = names.stored(weight.name, root)
            places[weight.name] = place_scaled(checkpoint, weight, tensor)
        else:
            stored.setdefault(names.stored(weight.name, root), []).append(weight)
    for tensor, parts in stored.items():
        if checkpoint.tensors[tensor].format in WHOLE:
            places[parts[0].name] = place_whole(checkpoint, tensor, parts, chosen)
            continue
        check_shape(checkpoint, tensor, parts)
        start = 0
        for part in parts:
            places[part.name] = Run(tensor, start, part.num_bytes, part.shape[0])
            start += part.num_bytes
    used = {tensor for place in places.values() for tensor in place.tensors}
    unused = tuple(name for name in checkpoint.tensors if name not in used)
    return BoundWeights(checkpoint, places, unused)


def place_whole(
    checkpoint: Checkpoint, tensor: str, parts: list[Weight], chosen: Mapping[str, int]
) -> WholeNumbers:
    """A table of experts' numbers; chosen: how many experts there are, by the table's name."""
    first, found = parts[0], checkpoint.tensors[tensor]
    if first.name not in chosen or len(parts) > 1:
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)} has type {found.format}, which is not "
            f"supported; supported: {', '.join(FORMATS)}"
        )
    if found.shape != first.shape:
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)} has shape {found.shape}; {first.shape} is "
            f"needed ({first.name})"
        )
    return WholeNumbers(tensor, chosen[first.name], first.shape[0])


def place_experts(
    checkpoint: Checkpoint, weight: Weight, tensors: list[str]
) -> tuple[Run | ScaledTiles | Mxfp4Rows, ...]:
    """Where each expert's matrix is: there must be a tensor for each, all alike."""
    one = replace(weight, shape=weight.shape[1:], axes=weight.axes[1:])
    found: list[Run | ScaledTiles | Mxfp4Rows] = []
    for tensor in tensors:
        if tensor not in checkpoint.tensors:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(tensor)} is missing ({weight.name} of the "
                f"model has {len(tensors)} experts)"
            )
        stored = format_in(checkpoint, tensor)
        if stored != weight.format.name:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(tensor)} has type {stored}, and the one of "
                f"expert 0 {weight.format.name}: all experts of a layer must have one"
            )
        if stored == "F8_E4M3_128":
            found.append(place_scaled(checkpoint, one, tensor))
        elif checkpoint.tensors[tensor].format == "I8":
            found.append(place_packed(checkpoint, one, tensor))
        else:
            check_shape(checkpoint, tensor, [one])
            found.append(Run(tensor, 0, one.num_bytes, one.shape[0]))
    return tuple(found)


def place_scaled(checkpoint: Checkpoint, weight: Weight, tensor: str) -> ScaledTiles:
    """A matrix of FP8 codes with a scale for each tile of 128 x 128."""
    if len(weight.shape) != 2 or weight.shape[1] % TILE:
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)}: FP8 in tiles of {TILE} needs rows of "
            f"whole tiles; {weight.name} has shape {weight.shape}"
        )
    rows, columns = weight.shape
    scales = scales_of(checkpoint, tensor)
    powers = is_power(checkpoint, scales)
    needed = {
        tensor: ("F8_E4M3", (rows, columns)),
        scales: ("F8_E8M0" if powers else "F32", (-(-rows // TILE), columns // TILE)),
    }
    for name, (format_name, shape) in needed.items():
        found = checkpoint.tensors[name]
        if (found.format, found.shape) != (format_name, shape):
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(name)} is {found.format} of shape "
                f"{found.shape}; {format_name} of shape {shape} is needed ({weight.name})"
            )
    return ScaledTiles(tensor, scales, rows, columns, powers)


def place_packed(checkpoint: Checkpoint, weight: Weight, tensor: str) -> Mxfp4Rows:
    """A matrix of FP4 codes, two in a byte, and a power of two for each 32 of them."""
    rows, columns = weight.shape
    scales = scales_of(checkpoint, tensor)
    shape = (rows, columns // MXFP4_GROUP)
    needed = {tensor: ("I8", (rows, columns // 2)), scales: ("F8_E8M0", shape)}
    for name, (format_name, size) in needed.items():
        found = checkpoint.tensors[name]
        if (found.format, found.shape) != (format_name, size) or columns % MXFP4_GROUP:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(name)} is {found.format} of shape "
                f"{found.shape}; {format_name} of shape {size} is needed ({weight.name})"
            )
    return Mxfp4Rows(tensor, scales, 0, 1, rows, (1, *shape))


def place_expansion(checkpoint: Checkpoint, node: Node, expansion: Expansion) -> ExpandedHeads:
    """What makes keys and values of latents, in two tensors."""
    op, weight = node.op, node.weights[0]
    assert isinstance(op, LatentAttention)
    rank = weight.shape[1]
    needed = {
        expansion.keys: (op.num_heads, rank, op.nope_dim),
        expansion.values: (op.num_heads, op.value_dim, rank),
    }
    for tensor, shape in needed.items():
        found = checkpoint.tensors[tensor].shape
        if found != shape:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(tensor)} has shape {found}; {shape} is needed "
                f"({weight.name})"
            )
        check_rows(checkpoint, tensor)
    formats = (
        checkpoint.tensors[expansion.keys].format,
        checkpoint.tensors[expansion.values].format,
    )
    return ExpandedHeads(
        *(expansion.keys, expansion.values),
        op.num_heads,
        op.nope_dim,
        op.value_dim,
        rank,
        formats,
        weight.format.block_bytes,
    )


def check_rows(checkpoint: Checkpoint, tensor: str) -> None:
    """Whether the tensor's rows are whole blocks."""
    stored = checkpoint.tensors[tensor]
    form = FORMATS[stored.format]
    if stored.shape[-1] % form.block_elements:
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)}: rows of {stored.shape[-1]} do not fill "
            f"whole {form.name} blocks of {form.block_elements}"
        )


def place_mxfp4(checkpoint: Checkpoint, weight: Weight, stack: Stack) -> Mxfp4Rows:
    """A weight [E, out, in] in two tensors of codes and scales."""
    count, out, width = weight.shape
    shape = (count, stack.parts * out, width // MXFP4_GROUP)
    for tensor, needed in ((stack.blocks, (*shape, MXFP4_GROUP // 2)), (stack.scales, shape)):
        if tensor not in checkpoint.tensors:
            raise ModelError(f"{checkpoint.path}: tensor {quoted(tensor)} is missing")
        found = checkpoint.tensors[tensor]
        if found.shape != needed or found.format != "U8" or width % MXFP4_GROUP:
            raise ModelError(
                f"{checkpoint.path}: tensor {quoted(tensor)} is {found.format} of shape "
                f"{found.shape}; U8 of shape {needed} is needed ({weight.name})"
            )
    step = stack.parts if stack.interleaved else 1
    first = stack.part if stack.interleaved else stack.part * out
    return Mxfp4Rows(stack.blocks, stack.scales, first, step, out, shape)


def place_columns(checkpoint: Checkpoint, weight: Weight, tensor: str, columns: Columns) -> Strided:
    """A matrix [out, in] among the columns of a tensor [in, parts * out]."""
    out, width = weight.shape
    found, needed = checkpoint.tensors[tensor].shape, (width, columns.parts * out)
    if found != needed:
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)} has shape {found}; {needed} is needed "
            f"({weight.name})"
        )
    require_plain(checkpoint, weight, tensor)
    element = weight.format.block_bytes
    strides = (element, columns.parts * out * element, 1)
    return Strided(tensor, columns.part * out * element, (out, width, element), strides)


def require_plain(checkpoint: Checkpoint, weight: Weight, tensor: str) -> None:
    if weight.format.block_elements != 1:
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(tensor)} is stored inputs first, in blocks: "
            f"{weight.format.name} is not supported so"
        )


def place_in_stack(checkpoint: Checkpoint, weight: Weight, stack: Stack) -> Strided | Mxfp4Rows:
    """A weight [E, out, in], or a bias [E, out], within a tensor that has it in another order."""
    is_bias = len(weight.shape) == 2
    if not is_bias and stack.blocks in checkpoint.tensors:
        return place_mxfp4(checkpoint, weight, stack)
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
        require_plain(checkpoint, weight, tensor)
        element = weight.format.block_bytes
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
    count (of a depthwise convolution's filters), nor how a vector is folded (by group, by head) or
    a matrix's rows (channels, frames, lines and columns of a patch).
    """
    first = parts[0]
    needed = (sum(part.shape[0] for part in parts), *first.shape[1:])
    found = checkpoint.tensors[tensor].shape
    folded = {(prod(found),) if len(needed) == 1 else without_ones(found)}
    if len(needed) == 2 and len(found) in (4, 5):
        folded.add(without_ones((found[0], prod(found[1:]))))
    if len(parts) > 1 and found == (len(parts), *first.shape):
        folded.add(without_ones(needed))
    if found != needed and without_ones(needed) not in folded:
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
    checkpoint: Checkpoint,
    unused: Iterable[str],
    names: Names,
    root: Root,
    tied: bool,
    known: Container[str] = (),
) -> None:
    """ModelError for a tensor left out that is not known to be harmless; known: those of which the
    user is told.
    """
    for name in unused:
        if name in known:
            continue
        if names.harmless.fullmatch(name):
            continue
        if tied and name == names.stored("head.weight", root):
            continue  # The configuration says that the embedding is the output matrix.
        raise ModelError(
            f"{checkpoint.path}: tensor {quoted(name)} is not part of this architecture as built "
            "here: leaving it out would change the model's numbers"
        )
