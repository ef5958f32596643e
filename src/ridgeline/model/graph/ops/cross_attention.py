"""cross attention: a decoder's queries over keys and values of what its row's encoder has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import TOKENS, Shape
from ridgeline.model.graph.node import CrossState
from ridgeline.model.graph.ops.operator import (
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
class CrossWrite(Operator):
    """k [TOKENS, kv_heads * key_dim], v [TOKENS, kv_heads * value_dim] -> the state; no output

    A row of the step has all of the state's positions.
    """

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ()

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, CrossState)
        return Work(
            kv_write_bytes=step.num_tokens * node.state.bytes_per_position,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, ()) if inputs == (REPLICATED, REPLICATED) else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 0)
        require(isinstance(state, CrossState), self, "writes to no state of cross attention")
        assert isinstance(state, CrossState)
        widths = (state.kv_heads * state.key_dim, state.kv_heads * state.value_dim)
        given = (inputs[0].shape[-1], inputs[1].shape[-1])
        require(given == widths, self, f"k and v have {given} channels; the state holds {widths}")
        require_kept(self, state)


@dataclass(frozen=True, slots=True)
class CrossAttention(Operator):
    """q [TOKENS, num_heads * head_dim] -> [TOKENS, num_heads * value_dim], over all positions of
    the row's state

    scores = scale * q.k. Query head h reads KV head h // (num_heads // kv_heads).
    """

    num_heads: int
    head_dim: int
    value_dim: int
    scale: float

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], self.num_heads * self.value_dim),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, CrossState)
        pairs = step.num_tokens * node.state.positions
        per_pair = FLOPS_PER_MULTIPLY_ADD * self.num_heads * (self.head_dim + self.value_dim)
        return Work(
            flops={precision.attention_of(node.state.format.name): float(pairs * per_pair)},
            kv_read_bytes=step.num_sequences * node.state.num_bytes,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, (REPLICATED,)) if inputs == (REPLICATED,) else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(isinstance(state, CrossState), self, "has no state of an encoder")
        assert isinstance(state, CrossState)
        width = self.num_heads * self.head_dim
        require(inputs[0].shape[0] is TOKENS, self, "goes over the step's tokens only")
        require(
            inputs[0].shape[-1] == width,
            self,
            f"q has {inputs[0].shape[-1]} channels; {self.num_heads} heads of {self.head_dim} "
            f"need {width}",
        )
        require(
            self.num_heads % state.kv_heads == 0,
            self,
            f"{self.num_heads} query heads do not part over {state.kv_heads} KV heads",
        )
        require(
            (state.key_dim, state.value_dim) == (self.head_dim, self.value_dim),
            self,
            "head sizes are not the state's",
        )
        require(state.positions > 0, self, f"{state.positions} positions")
        require_kept(self, state)


def require_kept(op: Operator, state: CrossState) -> None:
    """Whether the state's format can hold its heads."""
    widest, most = max(state.key_dim, state.value_dim), state.format.max_channels
    require(
        most is None or widest <= most,
        op,
        f"a head of {widest} channels is too wide for {state.format.name}, which holds {most}",
    )
