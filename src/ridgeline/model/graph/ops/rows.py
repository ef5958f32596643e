"""rows: keep only the tokens whose logits are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import SAMPLED, TOKENS, Shape, num_elements
from ridgeline.model.graph.ops.operator import (
    Operator,
    Placement,
    Sharded,
    require,
    require_counts,
)
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class SelectRows(Operator):
    """x [TOKENS, D] -> [SAMPLED, D]: the last `num_logits` new tokens of each row, in row order."""

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((SAMPLED, *inputs[0][1:]),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        copied = num_elements(node.outputs[0].shape, step)
        return Work(activation_bytes=2.0 * copied * precision.activation_bytes)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(inputs[0].shape[0] is TOKENS, self, "selects among the step's tokens only")
