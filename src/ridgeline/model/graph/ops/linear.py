"""linear: y = x W^T + b, over one or several weights whose output channels lie side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape, num_elements
from ridgeline.model.graph.ops.operator import (
    PARTIAL,
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
from ridgeline.units import FLOPS_PER_MULTIPLY_ADD

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, StorageFormat, Value, Weight


# Rows of logits of a step that read a copy, of a weight in integers and of one in floats: with
# more, products are what takes long. Of the weight, what is read for a row after all: 0.1 to 1.5 %
# were measured of four models (docs/log.md, nineteenth session).
SCREENED_ROWS, SCREENED_FLOAT_ROWS = 7, 32
SCREENED_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Linear(Operator):
    """x [*, K] -> [*, N1 + ... + Np]; weights (W1 [N1, K], ..., Wp, and if bias b1 [N1], ..., bp).

    Each part keeps its own format, so q, k and v can be one linear in a file that stores v finer.

    screen: of what makes logits, the format of a coarse copy of its weight. A step of few rows, a
    token each, that want no more than what they draw reads the copy, and the weight only where it
    may be drawn; the token is the same, which is all that it means. Such a step is priced so,
    whatever its rows want.
    """

    num_parts: int = 1
    bias: bool = False
    screen: StorageFormat | None = None

    def parts(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        return weights[: self.num_parts]

    def biases(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        return weights[self.num_parts :]

    def screened_rows(self, weights: tuple[Weight, ...]) -> int:
        """The most rows of logits of a step that reads the screen; 0: none does."""
        if self.screen is None:
            return 0
        is_float = weights[0].format.name in ("F32", "F16", "BF16")
        return SCREENED_FLOAT_ROWS if is_float else SCREENED_ROWS

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], sum(w.shape[0] for w in self.parts(weights))),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        rows = num_elements(node.inputs[0].shape[:-1], step)
        weight_bytes = float(sum(w.num_bytes for w in node.weights))
        is_decode = step.num_tokens == step.num_sampled
        if self.screen is not None and is_decode and rows <= self.screened_rows(node.weights):
            weight_bytes *= 1 - (1 - SCREENED_SHARE) ** rows
            weight_bytes += replace(node.weights[0], format=self.screen).num_bytes
        flops: dict[str, float] = {}
        for weight in self.parts(node.weights):
            arithmetic = precision.compute_of(weight.format.name)
            flops[arithmetic] = flops.get(arithmetic, 0.0) + (
                FLOPS_PER_MULTIPLY_ADD * rows * weight.num_elements
            )
        return Work(
            flops=flops,
            weight_bytes=weight_bytes,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        matrices = weights[: self.num_parts]
        if x.partial:
            return None
        if all(w.split is None for w in matrices):
            return Sharded(self, (REPLICATED,)) if x == REPLICATED else None
        if all(w.split == 0 for w in matrices) and x == REPLICATED:
            return Sharded(self, (Placement(split=-1),))
        if all(w.split == 1 for w in matrices) and x.split == -1 and not self.bias:
            return Sharded(self, (PARTIAL,))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, self.num_parts * (2 if self.bias else 1))
        k = inputs[0].shape[-1]
        for weight in self.parts(weights):
            require(
                len(weight.shape) == 2 and weight.shape[1] == k,
                self,
                f"{weight.name} has shape {weight.shape}; (out, {k}) is needed",
            )
        for weight, bias in zip(self.parts(weights), self.biases(weights), strict=False):
            require(
                bias.shape == (weight.shape[0],),
                self,
                f"{bias.name} has shape {bias.shape}; ({weight.shape[0]},) is needed",
            )


def merged(linears: tuple[Linear, ...]) -> Linear:
    """The one linear that computes all of `linears` of the same input, side by side."""
    return replace(linears[0], num_parts=sum(op.num_parts for op in linears))
