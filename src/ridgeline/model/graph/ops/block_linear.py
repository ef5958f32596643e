"""block_linear: a matrix for each group of channels, which sees its own group only."""

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
    """

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        groups, _, width = weights[0].shape
        return ((*inputs[0][:-1], groups * width),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        rows = num_elements(node.inputs[0].shape[:-1], step)
        multiplied = node.weights[0].num_elements
        return Work(
            flops={"f32": FLOPS_PER_MULTIPLY_ADD * float(rows * multiplied)},
            weight_bytes=sum(w.num_bytes for w in node.weights),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        whole = all(x == REPLICATED for x in (*inputs, *weights))
        return Sharded(self, (REPLICATED,)) if whole else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 2)
        matrices, bias = weights
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
