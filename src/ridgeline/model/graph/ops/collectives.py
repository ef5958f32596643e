"""collectives: what makes whole a value that lies over the ranks of a mesh axis; and what takes
tokens to the ranks that have their experts, and back.

The passes shard and exchange put them in; a rank's graph is ordinary apart from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape, num_elements
from ridgeline.model.graph.ops.operator import (
    REPLICATED,
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


@dataclass(frozen=True, slots=True)
class Dispatch(Operator):
    """(x [T, D], slots [T, 2 top_k] as `route` gives them) on each of `ways` ranks, whose tokens
    differ -> (x [ways, T, D], slots [ways, T, 2 top_k]) on each: all ranks' tokens, in rank order.

    A rank has an equal part of the experts and sends a token to those ranks only that have one of
    its `top_k`. element_bytes: of a number of x on its way (FP8 with a float32 scale for each 128:
    1.03125); slots go as two float32 each.
    """

    ways: int
    top_k: int
    element_bytes: float

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return tuple((self.ways, *shape) for shape in inputs)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        """What leaves a rank; as much comes, where experts are as popular as each other."""
        x, slots = (num_elements(value.shape, step) for value in node.inputs)
        others = ranks_reached(self.ways, self.top_k)
        return Work(
            activation_bytes=moved_bytes(node, step, precision),
            link_bytes=others * (self.element_bytes * x + 4.0 * slots),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        # Over another axis of the mesh: whole tokens go.
        whole = all(x == REPLICATED for x in inputs)
        return Sharded(self, (REPLICATED, REPLICATED)) if whole else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 0)
        require(self.ways >= 2, self, f"over {self.ways} ranks; at least 2 are needed")
        require(self.element_bytes > 0, self, "numbers on their way have some bytes")
        require(
            inputs[1].shape == (*inputs[0].shape[:-1], 2 * self.top_k),
            self,
            f"slots have shape {inputs[1].shape}; {self.top_k} experts a token are needed",
        )


@dataclass(frozen=True, slots=True)
class Combine(Operator):
    """y [ways, T, D] on each of `ways` ranks, which their experts made of all ranks' tokens (zeros
    where a token has none of them) -> [T, D]: of a rank's own tokens, the sum over the ranks.

    The way back of `Dispatch`: only ranks that had a token's experts send it. element_bytes: of a
    number on its way.
    """

    ways: int
    top_k: int
    element_bytes: float

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0][1:],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        """Each rank that a token went to sends one row; the sum is made where it lands."""
        own = output_elements(node, step)
        sent = ranks_reached(self.ways, self.top_k) * own
        return Work(
            flops={"f32": sent},
            activation_bytes=moved_bytes(node, step, precision),
            link_bytes=self.element_bytes * sent,
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
        require(self.element_bytes > 0, self, "numbers on their way have some bytes")
        require(
            len(inputs[0].shape) > 2 and inputs[0].shape[0] == self.ways,
            self,
            f"is given {inputs[0].shape}; tokens of {self.ways} ranks are needed",
        )


def ranks_reached(ways: int, top_k: int) -> float:
    """Of `ways` ranks, the other ones that have an expert of a token with `top_k`, on average, if
    each expert is as likely to be anywhere.
    """
    return (ways - 1) * (1.0 - (1.0 - 1.0 / ways) ** top_k)
