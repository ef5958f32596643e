"""streams: what models with several residual streams do among them (AltUp, Baykal et al. 2023), and
an activation that keeps the largest (Gemma 3n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
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
from ridgeline.units import FLOPS_PER_MULTIPLY_ADD

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


def whole(op: Operator, inputs: tuple[Placement, ...], num_outputs: int = 1) -> Sharded | None:
    if all(x == REPLICATED for x in inputs):
        return Sharded(op, (REPLICATED,) * num_outputs)
    return None


@dataclass(frozen=True, slots=True)
class Mix(Operator):
    """(x_1 .. x_n [*, D], c [*, n m]) -> y_1 .. y_m [*, D]: of each row y_i = sum over j of
    (c[n i + j] + offset) x_j.
    """

    num_inputs: int
    num_outputs: int
    offset: float = 0.0

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],) * self.num_outputs

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        each = FLOPS_PER_MULTIPLY_ADD * self.num_inputs
        return Work(
            flops={"f32": float(each * output_elements(node, step))},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return whole(self, inputs, self.num_outputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require(
            self.num_inputs > 0 and self.num_outputs > 0, self, "mixes nothing, or into nothing"
        )
        require_counts(self, inputs, weights, self.num_inputs + 1, 0)
        *streams, numbers = inputs
        require(len({x.shape for x in streams}) == 1, self, "its streams differ in shape")
        needed = (*streams[0].shape[:-1], self.num_inputs * self.num_outputs)
        require(numbers.shape == needed, self, f"mixes by {numbers.shape}; {needed} is needed")


@dataclass(frozen=True, slots=True)
class MatchSize(Operator):
    """(x, like [*, D]) -> x sqrt(mean(like^2) / max(mean(x^2), floor)): x as large as `like`."""

    floor: float = 1e-5

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": 5.0 * output_elements(node, step)},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return whole(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 0)
        require(inputs[0].shape == inputs[1].shape, self, "its inputs differ in shape")
        require(self.floor > 0, self, f"floor {self.floor} is not positive")


@dataclass(frozen=True, slots=True)
class KeepLargest(Operator):
    """x [*, D] -> max(0, x - (mean + z std)), of each row: about that part of a normal distribution
    which is above z is not zero.
    """

    z: float

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": 6.0 * output_elements(node, step)},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return whole(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
