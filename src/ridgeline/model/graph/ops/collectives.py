"""collectives: what makes whole a value that lies over the ranks of a mesh axis.

The sharding pass puts them in; a rank's graph is ordinary apart from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape, num_elements
from ridgeline.model.graph.ops.operator import (
    Operator,
    Placement,
    Sharded,
    moved_bytes,
    output_elements,
    require,
    require_counts,
)
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class AllReduce(Operator):
    """x on each of `ways` ranks -> the sum over the ranks, on each."""

    ways: int

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        """A ring: every rank sends (ways - 1) / ways of the value twice, to reduce and to gather
        (Patarasuk and Yuan 2009).
        """
        summed = output_elements(node, step)
        share = (self.ways - 1) / self.ways
        return Work(
            flops={"f32": share * summed},
            activation_bytes=moved_bytes(node, step, precision),
            link_bytes=2.0 * share * summed * precision.activation_bytes,
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        # Over another axis of the mesh: a sum works on any part or term of a value.
        return Sharded(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(self.ways >= 2, self, f"over {self.ways} ranks; at least 2 are needed")
        require(not inputs[0].integer, self, "sums real numbers, not token ids")


@dataclass(frozen=True, slots=True)
class AllGather(Operator):
    """x [*, D] on each of `ways` ranks -> [*, ways * D]: the ranks' channels in rank order."""

    ways: int

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        width = inputs[0][-1]
        assert isinstance(width, int)
        return ((*inputs[0][:-1], self.ways * width),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        """A ring: every rank sends (ways - 1) / ways of the gathered value."""
        gathered = num_elements(node.outputs[0].shape, step)
        share = (self.ways - 1) / self.ways
        return Work(
            activation_bytes=moved_bytes(node, step, precision),
            link_bytes=share * gathered * precision.activation_bytes,
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        # Over another axis of the mesh: channels that are cut again would come out interleaved.
        return None if inputs[0].split == -1 else Sharded(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(self.ways >= 2, self, f"over {self.ways} ranks; at least 2 are needed")
        require(isinstance(inputs[0].shape[-1], int), self, "gathers channels, not tokens")
