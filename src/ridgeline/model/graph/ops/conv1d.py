"""conv1d: convolution over the frames that come with a row.

The positions of a row are what an encoder attends to; each may carry several frames side by side,
as Whisper's positions carry two frames of 10 ms until its second convolution makes one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import TOKENS, Shape
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

MAX_TAPS = 32


@dataclass(frozen=True, slots=True)
class Conv1d(Operator):
    """x [TOKENS, frames * C] -> [TOKENS, frames / stride * D]: y[t] = b + sum over c, j of
    w[:, c, j] x[stride t + j - taps // 2, c]

    weights (w [D, C, taps], b [D]); `taps` is odd. A token has `frames` frames of C channels side
    by side, and t counts the frames of a row through; what lies beyond its ends is zero. The step
    must have whole rows (no context).
    """

    taps: int
    frames: int = 1
    stride: int = 1

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], self.frames // self.stride * weights[0].shape[0]),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        channels = node.weights[0].shape[1]
        sums = FLOPS_PER_MULTIPLY_ADD * self.taps * channels * output_elements(node, step)
        return Work(
            flops={precision.compute_of(node.weights[0].format.name): float(sums)},
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
        require(
            self.taps % 2 == 1 and 1 <= self.taps <= MAX_TAPS,
            self,
            f"{self.taps} taps; an odd number of them up to {MAX_TAPS} is needed",
        )
        require(
            self.stride >= 1 and self.frames >= 1 and self.frames % self.stride == 0,
            self,
            f"a token's {self.frames} frames do not part into steps of {self.stride}",
        )
        require(inputs[0].shape[0] is TOKENS, self, "goes over the step's tokens only")
        matrix, bias = weights
        require(
            len(matrix.shape) == 3 and matrix.shape[2] == self.taps,
            self,
            f"{matrix.name} has shape {matrix.shape}; (D, C, {self.taps}) is needed",
        )
        require(
            inputs[0].shape[-1] == self.frames * matrix.shape[1],
            self,
            f"x has {inputs[0].shape[-1]} channels; {self.frames} frames of {matrix.shape[1]} "
            "are needed",
        )
        require(
            bias.shape == matrix.shape[:1],
            self,
            f"{bias.name} has shape {bias.shape}; {matrix.shape[:1]} is needed",
        )
