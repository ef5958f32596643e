"""compress: one entry of several tokens' keys (compressed attention, DeepSeek-AI 2026)."""

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

FLOPS_PER_VALUE = 10.0  # an exponential, and what it multiplies
NUMBERS_PER_SUM = 3  # of a softmax that is not complete: its largest score, and two sums


@dataclass(frozen=True, slots=True)
class Compress(Operator):
    """(x, scores [TOKENS, C]) -> [TOKENS, D]: for the last of each `every` tokens of a row an entry
    of all of them, for the others zeros; weights (b [every, C],).

    D = C. Of each channel an entry is the mean of x by the softmax of scores + b over its tokens,
    b's row being the token's number among them. overlaps: D = C / 2; an entry is the same mean over
    twice as many: the first D channels of the `every` tokens before these (none before a row's
    first), and the other D channels of these. state: what softmaxes that are not complete have
    summed up, D x 3 numbers; with overlaps D x 9, of the tokens before too.
    """

    every: int
    overlaps: bool = False

    @property
    def numbers(self) -> int:
        """Of the state, for each channel of an entry."""
        return NUMBERS_PER_SUM * (3 if self.overlaps else 1)

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        channels = inputs[0][-1]
        assert isinstance(channels, int)
        return ((*inputs[0][:-1], channels // 2 if self.overlaps else channels),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        values = output_elements(node, step) * (2 if self.overlaps else 1)
        return recurrence_work(node, step, precision, FLOPS_PER_VALUE * values)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 1)
        require(self.every >= 1, self, f"makes an entry of {self.every} tokens")
        require(inputs[0].shape == inputs[1].shape, self, "keys and scores differ in shape")
        channels = inputs[0].shape[-1]
        assert isinstance(channels, int)
        require(
            not self.overlaps or channels % 2 == 0,
            self,
            f"{channels} channels are not two halves",
        )
        require(
            weights[0].shape == (self.every, channels),
            self,
            f"{weights[0].name} has shape {weights[0].shape}; {(self.every, channels)} is needed",
        )
        width = channels // 2 if self.overlaps else channels
        require_state(self, state, width, self.numbers)
