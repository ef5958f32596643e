"""Binders of operators that look up rows of a table, which stays as its file has it, or go by a
token's position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ridgeline.backends.cpu import _native
from ridgeline.model.graph.node import Node, Weight
from ridgeline.model.graph.ops.embed import Embed, PositionEmbed, TypeEmbed
from ridgeline.model.graph.ops.scale_by import ScaleByPosition

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def _table(b: Binding, table: Weight) -> tuple[str, npt.NDArray[np.uint8], int]:
    """A table's format, its bytes as the file has them, and those of a row."""
    if table.format.name in _native.packed_formats():
        return table.format.name, b.weights.raw(table), table.num_bytes // table.shape[0]
    return "F32", b.weights.float32(table).view(np.uint8).reshape(-1), 4 * table.shape[1]


def bind_embed(b: Binding, node: Node, op: Embed) -> None:
    y = b.view(node.outputs[0])
    b.program.add_embed(node.name, y, *_table(b, node.weights[0]), op.scale)


def bind_position_embed(b: Binding, node: Node, op: PositionEmbed) -> None:
    y = b.view(node.outputs[0])
    b.program.add_position_embed(node.name, y, *_table(b, node.weights[0]), op.first)


def bind_type_embed(b: Binding, node: Node, op: TypeEmbed) -> None:
    y = b.view(node.outputs[0])
    separator = -1 if op.separator is None else op.separator
    b.program.add_type_embed(node.name, y, *_table(b, node.weights[0]), separator)


def bind_scale_by_position(b: Binding, node: Node, op: ScaleByPosition) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_scale_by_position(node.name, x, y, op.period, op.beta, op.first)
