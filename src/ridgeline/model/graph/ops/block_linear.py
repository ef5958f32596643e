"""block_linear: a matrix for each group of channels, which sees its own group only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape, num_elements
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
from ridgeline.units import FLOPS_PER_MULTIPLY_ADD

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class BlockLinear(Operator):
    """x [*, G K] -> [*, G N], of each group x W + b; weights (W [G, K, N], b [G, N]).

    In float32 whatever the file stores: its outputs go through exponentials (RG-LRU's gates).
    num_groups: weights (W [G N, K],) instead, rows as a linear's, each group's after those of the
    one before, without a bias and in the arithmetic of a linear (DeepSeek V4's output).
    """

    num_groups: int | None = None

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        if self.num_groups is not None:
            return ((*inputs[0][:-1], weights[0].shape[0]),)
        groups, _, width = weights[0].shape
        return ((*inputs[0][:-1], groups * width),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        rows = num_elements(node.inputs[0].shape[:-1], step)
        matrix = node.weights[0]
        arithmetic = "f32"
        if self.num_groups is not None:
            arithmetic = precision.compute_of(matrix.format.name)
        return Work(
            flops={arithmetic: FLOPS_PER_MULTIPLY_ADD * float(rows * matrix.num_elements)},
            weight_bytes=sum(w.num_bytes for w in node.weights),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        if all(x == REPLICATED for x in (*inputs, *weights)):
            return Sharded(self, (REPLICATED,))
        if self.num_groups is None or self.num_groups % ways:
            return None
        if inputs[0].split == -1 and weights[0].split == 0:
            return Sharded(replace(self, num_groups=self.num_groups // ways), inputs)
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 2 if self.num_groups is None else 1)
        matrices, *biases = weights
        if self.num_groups is not None:
            shape, given = matrices.shape, inputs[0].shape[-1]
            fits = len(shape) == 2 and self.num_groups > 0 and shape[0] % self.num_groups == 0
            require(
                fits and shape[1] * self.num_groups == given,
                self,
                f"{matrices.name} has shape {shape}; {given} channels in {self.num_groups} groups "
                "are multiplied",
            )
            return
        (bias,) = biases
        require(len(matrices.shape) == 3, self, f"{matrices.name} is not a matrix for each group")
        groups, width, channels = matrices.shape
        require(
            inputs[0].shape[-1] == groups * width,
            self,
            f"{inputs[0].shape[-1]} channels do not part into {groups} groups of {width}",
        )
        require(
            bias.shape == (groups, channels),
            self,
            f"{bias.name} has shape {bias.shape}; {(groups, channels)} is needed",
        )
