"""experts: gated units, of which each token has its own few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape, num_elements
from ridgeline.model.graph.ops.activation import FLOPS_PER_GATED, Activation
from ridgeline.model.graph.ops.operator import (
    PARTIAL,
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
class Experts(Operator):
    """(x [*, D], slots [*, 2 top_k] as `route` gives them) -> [*, D]; weights (gate [E, F, D], up
    [E, F, D], down [E, D, F], and if bias theirs: [E, F], [E, F], [E, D]); without the gate and its
    bias if not gated, where act(up) stands for act(gate) * up.

    The sum, in the order of a token's slots, of weight * down(act(gate(x)) * up(x)) of the slot's
    expert; weigh_input: of down(act(gate(weight * x)) * up(weight * x)) (Llama 4). num_experts: of
    the whole model; those here are first_expert and the E - 1 that follow it, and a slot of any
    other adds nothing. num_zero: the last so many of num_experts have no weights anywhere; see
    `ZeroExperts`.
    """

    num_experts: int
    top_k: int
    activation: Activation
    bias: bool = False
    weigh_input: bool = False
    first_expert: int = 0
    gated: bool = True
    num_zero: int = 0

    def matrices(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        return weights[: 2 + self.gated]

    def biases(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        return weights[2 + self.gated :]

    def num_touched(self, num_tokens: int) -> float:
        """Different experts that so many tokens are expected to need, if all are as likely."""
        missed = (1 - self.top_k / self.num_experts) ** num_tokens
        return self.num_experts * (1 - missed)

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        rows = num_elements(node.inputs[0].shape[:-1], step)
        here = node.weights[0].shape[0]
        passes = rows * self.top_k * here / self.num_experts
        flops = {"f32": FLOPS_PER_GATED * passes * node.weights[0].shape[1]}
        for weight in self.matrices(node.weights):
            arithmetic = precision.compute_of(weight.format.name)
            flops[arithmetic] = flops.get(arithmetic, 0.0) + (
                FLOPS_PER_MULTIPLY_ADD * passes * weight.num_elements / here
            )
        share = self.num_touched(rows) / self.num_experts
        return Work(
            flops=flops,
            weight_bytes=share * sum(w.num_bytes for w in node.weights),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        if any(x != REPLICATED for x in inputs):
            return None
        if all(w.split is None for w in weights):
            return Sharded(self, (REPLICATED,))
        by_expert = all(w.split == 0 for w in weights)
        by_channel = [w.split for w in weights] == [*(1,) * (1 + self.gated), 2] and not self.bias
        return Sharded(self, (PARTIAL,)) if by_expert or by_channel else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, (2 + self.gated) * (2 if self.bias else 1))
        width = inputs[0].shape[-1]
        assert isinstance(width, int)
        gate = weights[0]
        require(
            len(gate.shape) == 3 and gate.shape[2] == width,
            self,
            f"{gate.name} has shape {gate.shape}; (experts, hidden, {width}) is needed",
        )
        here, hidden = gate.shape[:2]
        ups = 1 + self.gated
        needed = (*((here, hidden, width),) * ups, (here, width, hidden))
        biases = (*((here, hidden),) * ups, (here, width))
        for weight, shape in zip(weights, (*needed, *biases), strict=False):
            require(
                weight.shape == shape,
                self,
                f"{weight.name} has shape {weight.shape}; {shape} is needed",
            )
        require(
            inputs[1].shape == (*inputs[0].shape[:-1], 2 * self.top_k),
            self,
            f"slots have shape {inputs[1].shape}; {self.top_k} experts a token are needed",
        )
        require(
            self.first_expert >= 0 and self.first_expert + here <= self.num_experts - self.num_zero,
            self,
            f"experts {self.first_expert} to {self.first_expert + here - 1} are not among "
            f"{self.num_experts - self.num_zero}",
        )


@dataclass(frozen=True, slots=True)
class ZeroExperts(Operator):
    """(x [*, D], slots [*, 2 top_k] as `route` gives them) -> [*, D]: x times the sum of the
    weights of a token's slots of experts from number `first` on, which compute nothing
    (LongCat-Flash, Meituan 2025).
    """

    first: int
    top_k: int

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        rows = num_elements(node.inputs[0].shape, step)
        return Work(flops={"f32": float(rows)}, activation_bytes=moved_bytes(node, step, precision))

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        x, slots = inputs
        return Sharded(self, (x,)) if slots == REPLICATED else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 0)
        require(self.first >= 0, self, f"no expert has the number {self.first}")
        require(
            inputs[1].shape == (*inputs[0].shape[:-1], 2 * self.top_k),
            self,
            f"slots have shape {inputs[1].shape}; {self.top_k} experts a token are needed",
        )
