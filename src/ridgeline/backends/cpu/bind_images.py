"""Binders of operators that images take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ridgeline.model.graph.node import Node
from ridgeline.model.graph.ops.embed import PlaceImages
from ridgeline.model.graph.ops.operator import Operator
from ridgeline.model.graph.ops.pool import GridPool, JoinTokens

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def _place_images(b: Binding, node: Node, op: PlaceImages) -> None:
    b.program.add_place_images(node.name, b.view(node.inputs[0]), b.view(node.outputs[0]))


def _grid_pool(b: Binding, node: Node, op: GridPool) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_grid_pool(node.name, x, y, op.side, op.kernel)


def _join_tokens(b: Binding, node: Node, op: JoinTokens) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_join_tokens(node.name, x, y, op.count)


# Each takes its own operator class, hence Any.
IMAGE_BINDERS: dict[type[Operator], Callable[[Binding, Node, Any], None]] = {
    PlaceImages: _place_images,
    GridPool: _grid_pool,
    JoinTokens: _join_tokens,
}
