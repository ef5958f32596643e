"""elementwise: add, multiply by a number, soft cap, weigh; and the split of a value into column
ranges, or into those of each of its groups, and the join of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
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
from ridgeline.model.graph.work import NO_WORK, Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class Add(Operator):
    """(a, b) -> a + b, of one shape."""

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": float(output_elements(node, step))},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        a, b = inputs
        return Sharded(self, (a,)) if a == b else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 0)
        require(
            inputs[0].shape == inputs[1].shape,
            self,
            f"adds {inputs[0].shape} and {inputs[1].shape}",
        )


@dataclass(frozen=True, slots=True)
class Scale(Operator):
    """x -> factor * x."""

    factor: float

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": float(output_elements(node, step))},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, inputs)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)


@dataclass(frozen=True, slots=True)
class Softcap(Operator):
    """x -> cap * tanh(x / cap) (Gemma 2)."""

    cap: float

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": 4.0 * output_elements(node, step)},
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
        require(self.cap > 0, self, f"cap {self.cap} is not positive")


@dataclass(frozen=True, slots=True)
class Weigh(Operator):
    """(x [*, D], g [*, num_groups]) -> sigmoid(g) * x, one g for D / num_groups channels: for
    all of them (Qwen2-MoE's shared expert), or for a head's (Step 3.7).
    """

    num_groups: int = 1

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(
            flops={"f32": float(output_elements(node, step))},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        x, g = inputs
        if self.num_groups == 1:
            return Sharded(self, (x,)) if g == REPLICATED else None
        if x.partial or x != g or (x.split is not None and self.num_groups % ways):
            return None
        groups = self.num_groups if x.split is None else self.num_groups // ways
        return Sharded(Weigh(groups), (x,))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 0)
        x, g = inputs
        width = x.shape[-1]
        assert isinstance(width, int)
        require(
            self.num_groups > 0
            and width % self.num_groups == 0
            and g.shape == (*x.shape[:-1], self.num_groups),
            self,
            f"weighs rows of {x.shape} by {g.shape}: a number for each of {self.num_groups} equal "
            "groups of channels is needed",
        )


@dataclass(frozen=True, slots=True)
class Split(Operator):
    """x [*, sum(sizes)] -> one value per size: views, no work."""

    sizes: tuple[int, ...]

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return tuple((*inputs[0][:-1], size) for size in self.sizes)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return NO_WORK

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        if x == REPLICATED:
            return Sharded(self, (REPLICATED,) * len(self.sizes))
        if x.split == -1 and all(size % ways == 0 for size in self.sizes):
            local = Split(tuple(size // ways for size in self.sizes))
            return Sharded(local, (x,) * len(self.sizes))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(
            inputs[0].shape[-1] == sum(self.sizes) and all(size > 0 for size in self.sizes),
            self,
            f"{inputs[0].shape[-1]} channels do not part into {self.sizes}",
        )


@dataclass(frozen=True, slots=True)
class SplitGroups(Operator):
    """x [*, groups * sum(sizes)] -> for each size [*, groups * size]: its columns of each group.

    Parts what a file stores head by head (q and gate of each head, say). Copies, unlike `Split`.
    """

    num_groups: int
    sizes: tuple[int, ...]

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return tuple((*inputs[0][:-1], self.num_groups * size) for size in self.sizes)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(activation_bytes=moved_bytes(node, step, precision))

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        if x == REPLICATED:
            return Sharded(self, (REPLICATED,) * len(self.sizes))
        if x.split == -1 and self.num_groups % ways == 0:
            local = SplitGroups(self.num_groups // ways, self.sizes)
            return Sharded(local, (x,) * len(self.sizes))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(
            self.num_groups > 0
            and inputs[0].shape[-1] == self.num_groups * sum(self.sizes)
            and all(size > 0 for size in self.sizes),
            self,
            f"{inputs[0].shape[-1]} channels do not part into {self.num_groups} groups of "
            f"{self.sizes}",
        )


@dataclass(frozen=True, slots=True)
class Join(Operator):
    """(a [*, A], b [*, B]) -> [*, A + B]: b's columns after a's. Copies."""

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        first, second = inputs[0][-1], inputs[1][-1]
        assert isinstance(first, int)
        assert isinstance(second, int)
        return ((*inputs[0][:-1], first + second),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(activation_bytes=moved_bytes(node, step, precision))

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, (REPLICATED,)) if inputs == (REPLICATED, REPLICATED) else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 0)
        a, b = inputs
        require(
            a.shape[:-1] == b.shape[:-1] and not (a.integer or b.integer),
            self,
            f"joins columns of {a.shape} and {b.shape}: as many rows are needed",
        )
