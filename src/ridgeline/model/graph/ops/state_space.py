"""state_space: the recurrences of Mamba (Gu and Dao 2023) and of Mamba 2 (Dao and Gu 2024)."""

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

FLOPS_PER_ELEMENT = 6.0  # decay, outer product, sum: three multiply-adds
FLOPS_PER_EXP = 10.0


@dataclass(frozen=True, slots=True)
class SelectiveScan(Operator):
    """(x, dt [TOKENS, C], b, c [TOKENS, N]) -> y [TOKENS, C]; weights (a [C, N], d [C])

        h = exp(dt a) h + (dt x) b^T,    y = h c + d x,    dt = softplus(dt)

    for each channel, h [C, N]. a is -exp of its weight if `log_a`, else the weight.
    """

    log_a: bool = True

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        elements = step.num_tokens * node.weights[0].num_elements
        flops = (FLOPS_PER_ELEMENT + FLOPS_PER_EXP) * elements
        return recurrence_work(node, step, precision, flops)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 4, 2)
        channels, size = inputs[0].shape[-1], inputs[2].shape[-1]
        assert isinstance(channels, int)
        assert isinstance(size, int)
        _require_widths(self, inputs, (channels, channels, size, size))
        _require_shapes(self, weights, ((channels, size), (channels,)))
        require_state(self, state, channels, size)


@dataclass(frozen=True, slots=True)
class SsdScan(Operator):
    """(x [TOKENS, H P], b, c [TOKENS, G N], dt [TOKENS, H]) -> y [TOKENS, H P]

        h = exp(dt a) h + (dt x) b^T,    y = h c + d x,    dt = clip(softplus(dt + dt_bias))

    for each of H = num_heads heads of P = head_dim channels, h [P, N]; head i has the b and c of
    group i // (H / G), G = num_groups, N = state_size. weights (a [H], d [H], dt_bias [H]). a is
    -exp of its weight if `log_a`, else the weight. dt_limits: what dt is clipped to.
    """

    num_heads: int
    head_dim: int
    num_groups: int
    state_size: int
    log_a: bool = True
    dt_limits: tuple[float, float] = (0.0, float("inf"))

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        elements = step.num_tokens * self.num_heads * self.head_dim * self.state_size
        return recurrence_work(node, step, precision, FLOPS_PER_ELEMENT * elements)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 4, 3)
        heads, groups = self.num_heads, self.num_groups * self.state_size
        require(
            self.num_groups > 0 and heads % self.num_groups == 0,
            self,
            f"{heads} heads do not part into {self.num_groups} groups",
        )
        _require_widths(self, inputs, (heads * self.head_dim, groups, groups, heads))
        _require_shapes(self, weights, ((heads,),) * 3)
        low, high = self.dt_limits
        require(0 <= low <= high, self, f"dt is limited to {self.dt_limits}, which is empty")
        require_state(self, state, heads, self.head_dim * self.state_size)


def _require_widths(op: Operator, inputs: tuple[Value, ...], widths: tuple[int, ...]) -> None:
    found = tuple(value.shape[-1] for value in inputs)
    require(found == widths, op, f"its inputs have {found} channels; {widths} are needed")


def _require_shapes(
    op: Operator, weights: tuple[Weight, ...], shapes: tuple[tuple[int, ...], ...]
) -> None:
    for weight, shape in zip(weights, shapes, strict=True):
        require(
            weight.shape == shape,
            op,
            f"{weight.name} has shape {weight.shape}; {shape} is needed",
        )
