"""activation: gated units (Shazeer 2020), apart or over a joint gate-and-up linear; and ungated, of
which one has parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.ops.operator import (
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

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight

Activation = Literal[
    "silu",
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "relu",
    "relu2",
    "sigmoid",
    "tanh",
    "identity",
    "clamped_swiglu",
    "capped_silu_7",
    "capped_silu_16",
    "silu_of_capped_10",
]
# Those that change both halves of a gated unit.
OF_TWO: tuple[Activation, ...] = (
    "clamped_swiglu",
    "capped_silu_7",
    "capped_silu_16",
    "silu_of_capped_10",
)
FLOPS_PER_GATED = 6.0
FLOPS_PER_ACTIVATED = 5.0
XIELU_SLOPE, XIELU_EDGE = 0.5, -1e-6  # beta and epsilon of the paper, which are not learned


@dataclass(frozen=True, slots=True)
class GatedActivation(Operator):
    """(gate [*, F], up [*, F]) -> act(gate) * up; joint: one input [*, 2F], gate first.

    silu: x * sigmoid(x). gelu: x * Phi(x). gelu_tanh: its tanh approximation (Hendrycks and Gimpel
    2016); quick_gelu: another, x * sigmoid(1.702 x). relu2: max(x, 0)^2 (So et al. 2021). identity:
    x, the bilinear unit. clamped_swiglu (gpt-oss): with gate at most 7 and up in -7..7, gate *
    sigmoid(1.702 gate) * (up + 1).
    capped_silu_7 and _16 (Step 3.7): silu(gate), at most so much, times up in -7..7 or -16..16.
    silu_of_capped_10 (DeepSeek V4): silu of gate, which is at most 10, times up in -10..10.
    """

    activation: Activation
    joint: bool = False

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        if not self.joint:
            return (inputs[0],)
        width = inputs[0][-1]
        assert isinstance(width, int)
        return ((*inputs[0][:-1], width // 2),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": FLOPS_PER_GATED * output_elements(node, step)},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        first = inputs[0]
        if first.partial or any(x != first for x in inputs):
            return None
        return Sharded(self, (first,))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require(len(inputs) == (1 if self.joint else 2), self, f"takes not {len(inputs)} inputs")
        require(not weights, self, "takes no weights")
        width = inputs[0].shape[-1]
        if self.joint:
            require(isinstance(width, int) and width % 2 == 0, self, f"{width} channels are odd")
        else:
            require(inputs[0].shape == inputs[1].shape, self, "gate and up differ in shape")


@dataclass(frozen=True, slots=True)
class Activate(Operator):
    """x -> act(x), number by number, as `gated_activation` defines act."""

    activation: Activation

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": FLOPS_PER_ACTIVATED * output_elements(node, step)},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        return None if x.partial else Sharded(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(
            self.activation not in OF_TWO, self, f"{self.activation} is a function of two inputs"
        )


@dataclass(frozen=True, slots=True)
class Xielu(Operator):
    """x -> p x^2 + x / 2 above 0, n (e^min(x, -1e-6) - 1 - x) + x / 2 below; weights (p' [1],
    n' [1]): p = softplus(p'), n = 1 / 2 + softplus(n') (xIELU, Huang and Schlag 2024; Apertus).
    """

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": FLOPS_PER_GATED * output_elements(node, step)},
            weight_bytes=sum(w.num_bytes for w in node.weights),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        return None if x.partial else Sharded(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 2)
        for weight in weights:
            require(
                weight.shape == (1,),
                self,
                f"{weight.name} has shape {weight.shape}; (1,) is needed",
            )
