"""causal_conv: a short depthwise convolution over a row's tokens, with the row's last inputs."""

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
from ridgeline.units import FLOPS_PER_MULTIPLY_ADD

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight

FLOPS_PER_SILU = 4.0
MAX_TAPS = 32


@dataclass(frozen=True, slots=True)
class CausalConv(Operator):
    """x [TOKENS, C] -> [TOKENS, C]: b + sum over j of w[:, j] x[t - taps + 1 + j], then silu if so

    weights (w [C, taps], and if `bias` b [C]). What precedes a row's first token is zero. state:
    the last taps - 1 inputs of each channel. At most 32 taps.
    """

    taps: int
    bias: bool = False
    silu: bool = False

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        each = FLOPS_PER_MULTIPLY_ADD * self.taps + (FLOPS_PER_SILU if self.silu else 0.0)
        return recurrence_work(node, step, precision, each * output_elements(node, step))

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 2 if self.bias else 1)
        require(2 <= self.taps <= MAX_TAPS, self, f"{self.taps} taps; there can be 2 to {MAX_TAPS}")
        channels = inputs[0].shape[-1]
        assert isinstance(channels, int)
        needed = ((channels, self.taps), (channels,))
        for weight, shape in zip(weights, needed, strict=False):
            require(
                weight.shape == shape,
                self,
                f"{weight.name} has shape {weight.shape}; {shape} is needed",
            )
        require_state(self, state, channels, self.taps - 1, is_rolling=True)
