"""wkv7: RWKV-7's time mixing, a delta rule with vectors of decays and rates (Peng et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.ops.operator import (
    Operator,
    Placement,
    Sharded,
    require,
    require_counts,
)
from ridgeline.model.graph.ops.recurrence import copied, recurrence_work, require_state
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight

FLOPS_PER_ELEMENT = 9.0  # the decay, and four multiply-adds: s k', the correction, the new, s r


@dataclass(frozen=True, slots=True)
class Wkv7(Operator):
    """(r, w, k, v, a [TOKENS, H N]) -> (y, own [TOKENS, H N]); weights (kk, ka, rk [H N])

    for each of H = num_heads heads, s [N, N] (value, key), with a = sigmoid(a), the key's direction
    k' = unit(kk k) and the key to write k = k (1 + ka (a - 1)):

        s = s diag(exp(-e^-0.5 sigmoid(w))) - (s k') (a k')^T + v k^T,    y = s r

    s k' is of the state as it was. own: (sum of r rk k) v, what a token adds of itself after y's
    norm. unit divides by max(length, 1e-12).
    """

    num_heads: int

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[3], inputs[3])

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        width = node.inputs[0].shape[-1]
        assert isinstance(width, int)
        elements = step.num_tokens * width * (width // self.num_heads)
        return recurrence_work(node, step, precision, FLOPS_PER_ELEMENT * elements)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights), 2)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 5, 3)
        require(len({v.shape for v in inputs}) == 1, self, "its inputs differ in shape")
        width = inputs[0].shape[-1]
        assert isinstance(width, int)
        require(
            self.num_heads > 0 and width % self.num_heads == 0,
            self,
            f"{width} channels do not part into {self.num_heads} heads",
        )
        for weight in weights:
            require(
                weight.shape == (width,),
                self,
                f"{weight.name} has shape {weight.shape}; ({width},) is needed",
            )
        require_state(self, state, self.num_heads, (width // self.num_heads) ** 2)
