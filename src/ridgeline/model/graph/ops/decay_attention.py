"""decay_attention: linear attention whose state forgets at a fixed rate (Qin et al. 2024, Lightning
Attention; MiniMax-01; RetNet's retention, Sun et al. 2023).
"""

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

FLOPS_PER_ELEMENT = 5.0  # decay, and two multiply-adds: k v, q s


@dataclass(frozen=True, slots=True)
class DecayAttention(Operator):
    """(q, k [TOKENS, H K], v [TOKENS, H V]) -> [TOKENS, H V]

        s = exp(-rate) s + k v^T,    y = s^T q

    for each of H heads with the rate of that head in `rates`, s [K, V].
    """

    rates: tuple[float, ...]

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[2],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        key_width, value_width = (node.inputs[i].shape[-1] for i in (1, 2))
        assert isinstance(key_width, int)
        assert isinstance(value_width, int)
        elements = step.num_tokens * key_width * value_width // len(self.rates)
        return recurrence_work(node, step, precision, FLOPS_PER_ELEMENT * elements)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 3, 0)
        heads = len(self.rates)
        require(heads > 0 and min(self.rates) >= 0, self, "has heads whose state grows, or none")
        keys, values = inputs[1].shape[-1], inputs[2].shape[-1]
        assert isinstance(keys, int)
        assert isinstance(values, int)
        require(
            inputs[0].shape == inputs[1].shape and keys % heads == 0 and values % heads == 0,
            self,
            f"queries, keys and values do not part into {heads} heads",
        )
        require_state(self, state, heads, keys // heads * (values // heads))
