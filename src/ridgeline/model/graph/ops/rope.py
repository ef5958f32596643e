"""rope: rotary position embedding (Su et al. 2021), its scalings, and the fused rope + KV write.

Frequencies are attributes: an architecture computes them once (`architectures/rope_scaling.py`), so
that a new scaling is new numbers and not a new operator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.node import KvState
from ridgeline.model.graph.ops.attention import require_kept
from ridgeline.model.graph.ops.norm import Norm
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

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a head is rotated.

    frequencies: radians per position of each rotated pair; the first 2 * len(frequencies) channels
    of a head turn, the rest pass (partial rotary). interleaved: pairs are channels (2i, 2i + 1);
    else (i, i + half), the "neox" style. magnitude multiplies cos and sin (YaRN's and LongRoPE's
    attention factor). axes: of a token in an image, or behind one, which of its positions each pair
    turns by (mrope: time, line, column), where a step tells several; none: by its place in its row.
    """

    frequencies: tuple[float, ...]
    interleaved: bool = False
    magnitude: float = 1.0
    axes: tuple[int, ...] = ()

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.frequencies)

    @property
    def num_axes(self) -> int:
        """Positions that a token has at least."""
        return max(self.axes, default=0) + 1


@dataclass(frozen=True, slots=True)
class Rope(Operator):
    """x [TOKENS, num_heads * head_dim] -> the same, each head rotated by its token's position.

    first: channels of a head before those that turn. every: a row parts into runs of so many
    tokens, and a token is rotated by the position of its run's first.
    """

    num_heads: int
    head_dim: int
    rotation: Rotation
    first: int = 0
    every: int = 1

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        share = self.rotation.rotary_dim / self.head_dim
        return Work(
            flops={"f32": 3.0 * share * output_elements(node, step)},
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        if x == REPLICATED:
            return Sharded(self, (REPLICATED,))
        if x.split == -1 and self.num_heads % ways == 0:
            return Sharded(replace(self, num_heads=self.num_heads // ways), (x,))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        width = self.num_heads * self.head_dim
        require(
            inputs[0].shape[-1] == width,
            self,
            f"{self.num_heads} heads of {self.head_dim} are not {inputs[0].shape[-1]} channels",
        )
        require(
            self.first >= 0 and self.every >= 1, self, f"first {self.first}, {self.every} a run"
        )
        require_rotation(self, self.rotation, self.head_dim - self.first)


def require_rotation(op: Operator, rotation: Rotation, head_dim: int) -> None:
    require(
        rotation.rotary_dim <= head_dim,
        op,
        f"{rotation.rotary_dim} rotated channels do not fit a head of {head_dim}",
    )
    require(
        len(rotation.axes) in (0, len(rotation.frequencies)) and min(rotation.axes, default=0) >= 0,
        op,
        f"{len(rotation.axes)} axes for {len(rotation.frequencies)} pairs",
    )


@dataclass(frozen=True, slots=True)
class RopeKvWrite(Operator):
    """Fused: split q, k, v; norm q and k heads (if `head_norm`); rotate them; write k and v.

    qkv [TOKENS, (num_heads + 2 * kv_heads) * head_dim] -> q [TOKENS, num_heads * head_dim]; state:
    the layer's cache. weights: (q norm, k norm) if head_norm, else none. rotation None leaves q and
    k as they are.
    """

    num_heads: int
    kv_heads: int
    head_dim: int
    rotation: Rotation | None
    head_norm: Norm | None = None

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], self.num_heads * self.head_dim),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, KvState)
        rotated = step.num_tokens * (self.num_heads + self.kv_heads) * self.head_dim
        share = 0.0 if self.rotation is None else self.rotation.rotary_dim / self.head_dim
        return Work(
            flops={"f32": rotated * (3.0 * share + (4.0 if self.head_norm else 0.0))},
            weight_bytes=sum(w.num_bytes for w in node.weights),
            kv_write_bytes=step.num_tokens * node.state.bytes_per_token,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (x,) = inputs
        if x == REPLICATED:
            return Sharded(self, (REPLICATED,))
        if x.split == -1 and self.num_heads % ways == 0 and self.kv_heads % ways == 0:
            local = replace(self, num_heads=self.num_heads // ways, kv_heads=self.kv_heads // ways)
            return Sharded(local, (x,))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 2 if self.head_norm else 0)
        width = (self.num_heads + 2 * self.kv_heads) * self.head_dim
        require(
            inputs[0].shape[-1] == width,
            self,
            f"q, k and v need {width} channels, not {inputs[0].shape[-1]}",
        )
        for weight in weights:
            require(
                weight.shape == (self.head_dim,),
                self,
                f"{weight.name} has shape {weight.shape}; ({self.head_dim},) is needed",
            )
        if self.rotation is not None:
            require_rotation(self, self.rotation, self.head_dim)
        require(
            isinstance(state, KvState)
            and (state.kv_heads, state.key_dim, state.value_dim)
            == (self.kv_heads, self.head_dim, self.head_dim),
            self,
            "the cache's heads are not k's and v's",
        )
        assert isinstance(state, KvState)
        require_kept(self, state)
