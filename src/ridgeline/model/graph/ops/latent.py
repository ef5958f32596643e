"""latent attention: heads whose keys and values are made from one small vector a token (MLA,
DeepSeek-AI 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.node import KvState
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
class LatentAttention(Operator):
    """(q [TOKENS, num_heads * nope_dim], turned q [TOKENS, num_heads * rope_dim]) -> [TOKENS,
    num_heads * value_dim], over the state; weights (expand [num_heads * (nope_dim + value_dim),
    R],). top_k: a third input [TOKENS, top_k] has the positions that a token looks at, as
    `select_tokens` gives them.

    The state keeps of each token a latent c [R] and a turned key [rope_dim] that all heads share.
    Head h has rows of its own in `expand`, K [nope_dim, R] and V [value_dim, R] after them. scores
    = scale * (q.(K c) + q_turned.k_turned); the output is the softmax's mean of V c. A backend need
    not make a head's keys and values: q.(K c) = (K^T q).c, and V comes after the mean. Causal.
    """

    num_heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    scale: float
    top_k: int | None = None

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], self.num_heads * self.value_dim),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        """Of the absorbed form: each head attends to latents."""
        assert isinstance(node.state, KvState)
        (expand,) = node.weights
        rank = expand.shape[1]
        pairs = step.attended_pairs(self.top_k)
        read = min(step.cached_tokens_read(None), pairs)
        per_pair = FLOPS_PER_MULTIPLY_ADD * self.num_heads * (2 * rank + self.rope_dim)
        flops = {precision.attention_of(node.state.format.name): float(pairs * per_pair)}
        arithmetic = precision.compute_of(expand.format.name)
        flops[arithmetic] = flops.get(arithmetic, 0.0) + (
            FLOPS_PER_MULTIPLY_ADD * step.num_tokens * expand.num_elements
        )
        return Work(
            flops=flops,
            weight_bytes=expand.num_bytes,
            kv_read_bytes=read * node.state.bytes_per_token,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        if all(x == REPLICATED for x in (*inputs, *weights)):
            return Sharded(self, (REPLICATED,))
        q, chosen = inputs[:2], inputs[2:]
        cut = all(x.split == -1 for x in q) and weights[0].split == 0
        cut = cut and all(x == REPLICATED for x in chosen)
        if cut and self.num_heads % ways == 0:
            local = replace(self, num_heads=self.num_heads // ways)
            return Sharded(local, (Placement(split=-1),))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2 if self.top_k is None else 3, 1)
        for chosen in inputs[2:]:
            require(
                chosen.shape == (*inputs[0].shape[:-1], self.top_k),
                self,
                f"looks at {chosen.shape[-1]} positions; {self.top_k} are needed",
            )
        widths = (self.num_heads * self.nope_dim, self.num_heads * self.rope_dim)
        given = (inputs[0].shape[-1], inputs[1].shape[-1])
        require(given == widths, self, f"q has {given} channels; {widths} are needed")
        require(isinstance(state, KvState) and state.latent, self, "has no cache of latents")
        assert isinstance(state, KvState)
        rank = state.value_dim
        shape = (self.num_heads * (self.nope_dim + self.value_dim), rank)
        require(
            weights[0].shape == shape,
            self,
            f"{weights[0].name} has shape {weights[0].shape}; {shape} is needed",
        )
        require(
            (state.kv_heads, state.key_dim) == (1, rank + self.rope_dim) and state.window is None,
            self,
            f"the cache keeps {state.key_dim} numbers; {rank} + {self.rope_dim} are needed",
        )
