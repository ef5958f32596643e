"""scale_by: multiply by a number, or a number for each channel, that is a parameter, or by one that
a token's position gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import TOKENS, Shape
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
class ScaleBy(Operator):
    """x [*, D] -> w * x; weights (w [1],) or, if `by_channel`, (w [D],) (Gemma 4 and 3n)."""

    by_channel: bool = False

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": float(output_elements(node, step))},
            weight_bytes=sum(w.num_bytes for w in node.weights),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        return None if self.by_channel and x.split is not None else Sharded(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 1)
        needed = inputs[0].shape[-1:] if self.by_channel else (1,)
        require(
            weights[0].shape == needed,
            self,
            f"{weights[0].name} has shape {weights[0].shape}; {needed} is needed",
        )


@dataclass(frozen=True, slots=True)
class ScaleByPosition(Operator):
    """x [TOKENS, D] -> (1 + beta * log(1 + floor((position + first) / period))) * x: the
    temperature of queries that see far (Llama 4, Ministral 3; Nakanishi 2025).
    """

    period: float
    beta: float
    first: int = 0

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": float(output_elements(node, step))},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(inputs[0].shape[0] is TOKENS, self, "scales rows that are not the step's tokens")
        require(self.period > 0 and self.first >= 0, self, f"period {self.period} is not above 0")
