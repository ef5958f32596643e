"""gated_linear: a gated unit over the linear that makes its two halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.ops.activation import FLOPS_PER_GATED, Activation
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.ops.operator import (
    Operator,
    Placement,
    Sharded,
    output_elements,
    require,
)
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


LINEAR = Linear(num_parts=2)


@dataclass(frozen=True, slots=True)
class GatedLinear(Operator):
    """Fused: x [*, K] -> act(gate) * up [*, F], gate and up [*, F] being the halves of a linear.

    linear: of one part or of two (gate, up); weights as `linear` takes.
    """

    activation: Activation
    linear: Linear = LINEAR

    def parts(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        return self.linear.parts(weights)

    def biases(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        return self.linear.biases(weights)

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        (shape,) = self.linear.shape(inputs, weights)
        width = shape[-1]
        assert isinstance(width, int)
        return ((*shape[:-1], width // 2),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        gated = FLOPS_PER_GATED * output_elements(node, step)
        return self.linear.cost(node, step, precision) + Work(flops={"f32": gated}, launches=0)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        # Rows of one joint matrix are cut into a rank's gate and up no more than its outputs are.
        if self.linear.num_parts == 1 and weights[0].split is not None:
            return None
        sharded = self.linear.shard(inputs, weights, ways)
        if sharded is None or any(placement.partial for placement in sharded.outputs):
            return None
        return Sharded(self, sharded.outputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        num_parts = self.linear.num_parts
        require(num_parts in (1, 2), self, f"gate and up are 1 or 2 parts, not {num_parts}")
        self.linear.check(inputs, weights, state)
        sizes = [weight.shape[0] for weight in self.parts(weights)]
        require(
            sizes[0] == sizes[-1] and sum(sizes) % 2 == 0,
            self,
            f"gate and up differ in width: {sizes} channels",
        )
