"""norm: root-mean-square and layer norm over the last dimension, or over equal groups of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.ops.operator import (
    REPLICATED,
    Operator,
    Placement,
    Sharded,
    moved_bytes,
    output_elements,
    require,
)
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class Norm(Operator):
    """x [*, D] -> [*, D]; weights (w [D / num_groups],), or none for w = 1 (OLMo), and
    for "layer" with a bias (w, b).

    rms: x / sqrt(mean(x^2) + eps) * (w + offset) (Zhang and Sennrich 2019; offset 1 in Gemma).
    layer: (x - mean) / sqrt(var + eps) * (w + offset) + b (Ba et al. 2016). num_groups > 1
    normalises each of that many equal slices: with the same weights (the heads of QK norm), or, if
    `by_group`, with weights of its own, w [D] (Mamba 2).
    """

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    offset: float = 0.0
    num_groups: int = 1
    by_group: bool = False

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": 4.0 * output_elements(node, step)},
            weight_bytes=sum(w.num_bytes for w in node.weights),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        if x == REPLICATED:
            return Sharded(self, (REPLICATED,))
        cuts = self.num_groups % ways == 0 and self.num_groups > 1
        own = (
            [w.split == 0 for w in weights] if self.by_group else [w.split is None for w in weights]
        )
        if x.split == -1 and cuts and all(own):
            return Sharded(replace(self, num_groups=self.num_groups // ways), (x,))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require(len(inputs) == 1, self, f"takes 1 input, not {len(inputs)}")
        require(len(weights) <= (2 if self.kind == "layer" else 1), self, "takes w (and b)")
        width = inputs[0].shape[-1]
        require(
            isinstance(width, int) and width % self.num_groups == 0,
            self,
            f"{width} channels do not part into {self.num_groups} groups",
        )
        for weight in weights:
            shared = 1 if self.by_group else self.num_groups
            require(
                isinstance(width, int) and weight.shape == (width // shared,),
                self,
                f"{weight.name} has shape {weight.shape}, for {width} channels in "
                f"{self.num_groups} groups",
            )
        require(self.eps >= 0, self, f"eps {self.eps} is negative")


@dataclass(frozen=True, slots=True)
class AddNorm(Operator):
    """Fused: (h [*, D], y [*, D]) -> (h + y, norm(h + y)); weights as `norm` takes."""

    norm: Norm = Norm()

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0], inputs[0])

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": 5.0 * output_elements(node, step) / 2},
            weight_bytes=sum(w.num_bytes for w in node.weights),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        if inputs == (REPLICATED, REPLICATED):
            return Sharded(self, (REPLICATED, REPLICATED))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require(len(inputs) == 2, self, f"takes 2 inputs, not {len(inputs)}")
        require(inputs[0].shape == inputs[1].shape, self, "adds values of different shapes")
        self.norm.check(inputs[:1], weights, state)
