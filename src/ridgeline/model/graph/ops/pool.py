"""pool: one row of numbers for each sequence of a step, or for each square of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ridgeline.model.graph.dims import SAMPLED, TOKENS, Shape, num_elements
from ridgeline.model.graph.ops.operator import (
    REPLICATED,
    Operator,
    Placement,
    Sharded,
    moved_bytes,
    require,
    require_counts,
)
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight

Pooling = Literal["mean", "first"]


@dataclass(frozen=True, slots=True)
class Pool(Operator):
    """x [TOKENS, D] -> [SAMPLED, D]: of each sequence the mean of its tokens, or its first token.

    The step must have whole sequences (no context) that want one row each.
    """

    kind: Pooling

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((SAMPLED, *inputs[0][1:]),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        if self.kind == "first":
            copied = num_elements(node.outputs[0].shape, step)
            return Work(activation_bytes=2.0 * copied * precision.activation_bytes)
        return Work(
            flops={"f32": float(num_elements(node.inputs[0].shape, step))},
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
        require(inputs[0].shape[0] is TOKENS, self, "pools the step's tokens only")


@dataclass(frozen=True, slots=True)
class GridPool(Operator):
    """x [TOKENS, D] -> [SAMPLED, D]: of each sequence, a square of side * side tokens line by line,
    the means of squares of kernel * kernel tokens, line by line.

    The step must have whole sequences (no context) that want a row for each small square.
    """

    side: int
    kernel: int

    @property
    def num_tokens(self) -> int:
        return self.side**2

    @property
    def num_rows(self) -> int:
        """That come of a sequence."""
        return (self.side // self.kernel) ** 2

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((SAMPLED, *inputs[0][1:]),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": float(num_elements(node.inputs[0].shape, step))},
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
        require(inputs[0].shape[0] is TOKENS, self, "pools the step's tokens only")
        require(
            self.kernel >= 1 and self.side >= self.kernel and self.side % self.kernel == 0,
            self,
            f"a side of {self.side} tokens does not part into {self.kernel}",
        )


@dataclass(frozen=True, slots=True)
class JoinTokens(Operator):
    """x [TOKENS, D] -> [SAMPLED, count * D]: each `count` successive tokens side by side.

    The step must have whole sequences (no context) that want a row for each `count` tokens.
    """

    count: int

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        width = inputs[0][-1]
        assert isinstance(width, int)
        return ((SAMPLED, self.count * width),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(activation_bytes=moved_bytes(node, step, precision))

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, inputs) if inputs == (REPLICATED,) else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(inputs[0].shape[0] is TOKENS, self, "joins the step's tokens only")
        require(self.count >= 1, self, f"joins {self.count} tokens")
