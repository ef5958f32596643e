"""rg_lru: the real-gated linear recurrent unit (De et al. 2024, Griffin; RecurrentGemma)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.ops.operator import (
    Operator,
    Placement,
    Sharded,
    output_elements,
    require,
    require_counts,
)
from ridgeline.model.graph.ops.recurrence import copied, recurrence_work, require_state
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight

FLOPS_PER_CHANNEL = 20.0  # two sigmoids, an exponential, a root, and the update
DECAY = 8.0  # the paper's c


@dataclass(frozen=True, slots=True)
class RgLru(Operator):
    """(x, r, i [TOKENS, C]) -> h [TOKENS, C]; weights (a [C],)

        log d = -8 sigmoid(r) softplus(a),    h = d h + sqrt(1 - d^2) sigmoid(i) x

    At a row's first token h is sigmoid(i) x. state: h of each channel.
    """

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        flops = FLOPS_PER_CHANNEL * output_elements(node, step)
        return recurrence_work(node, step, precision, flops)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 3, 1)
        shapes = {value.shape for value in inputs}
        require(len(shapes) == 1, self, "its inputs differ in shape")
        channels = inputs[0].shape[-1]
        assert isinstance(channels, int)
        require(
            weights[0].shape == (channels,),
            self,
            f"{weights[0].name} has shape {weights[0].shape}; ({channels},) is needed",
        )
        require_state(self, state, channels, 1)
