"""token_shift: a token mixed with the one before it, by channel (RWKV, Peng et al. 2023)."""

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
)
from ridgeline.model.graph.ops.recurrence import copied, recurrence_work, require_state
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight

FLOPS_PER_OUTPUT = 3.0


@dataclass(frozen=True, slots=True)
class TokenShift(Operator):
    """x [TOKENS, C] -> for each of `count` weights m [C]: x + m (x' - x), x' the token before.

    Before a row's first token x' is zero. state: the last token of each channel.
    """

    count: int = 1

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],) * self.count

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        flops = FLOPS_PER_OUTPUT * output_elements(node, step)
        return recurrence_work(node, step, precision, flops)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights), self.count)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require(len(inputs) == 1, self, f"takes 1 input, not {len(inputs)}")
        require(
            0 < self.count == len(weights), self, f"takes {self.count} weights, not {len(weights)}"
        )
        channels = inputs[0].shape[-1]
        assert isinstance(channels, int)
        for weight in weights:
            require(
                weight.shape == (channels,),
                self,
                f"{weight.name} has shape {weight.shape}; ({channels},) is needed",
            )
        require_state(self, state, channels, 1, is_rolling=True)
