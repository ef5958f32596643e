"""delta_rule: linear attention whose state forgets and is corrected (Yang et al. 2024).

Gated DeltaNet has one decay a head (Qwen3-Next, Qwen3.5); Kimi Delta Attention one a key channel
(Kimi team 2025).
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

FLOPS_PER_ELEMENT = 7.0  # decay, and three multiply-adds: k s, the correction, q s


@dataclass(frozen=True, slots=True)
class DeltaRule(Operator):
    """(q, k [TOKENS, Hk K], v [TOKENS, Hv V], g, beta [TOKENS, Hv]) -> [TOKENS, Hv V]

        s = exp(a softplus(g + dt_bias)) s,    s = s + k (sigmoid(beta) (v - s^T k))^T,    y = s^T q

    for each of Hv = value_heads heads, s [K, V]; value head i has the q and k of key head
    i // (Hv / Hk), or if `tiled` i % Hk (as GGUF has them). q and k are divided by sqrt(sum of
    their squares + 1e-6) a head, q also by sqrt(K). weights (a [Hv], dt_bias like a token's g): a
    is -exp of its weight if `log_a`, else the weight. by_channel: g [TOKENS, Hv K], a decay for
    each row of s; Hk is Hv then. floor: the decay is exp(floor sigmoid(-a (g + dt_bias))) instead,
    and no less than exp(floor).
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    by_channel: bool = False
    log_a: bool = True
    tiled: bool = False
    floor: float | None = None

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[2],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        elements = step.num_tokens * self.value_heads * self.key_dim * self.value_dim
        return recurrence_work(node, step, precision, FLOPS_PER_ELEMENT * elements)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return copied(self, (*inputs, *weights))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 5, 2)
        heads = self.value_heads
        require(
            self.floor is None or self.floor < 0, self, f"a decay is no less than e^{self.floor}"
        )
        require(
            self.key_heads > 0 and heads % self.key_heads == 0,
            self,
            f"{heads} value heads do not part over {self.key_heads} key heads",
        )
        require(
            not self.by_channel or self.key_heads == heads,
            self,
            f"has {self.key_heads} key heads and {heads} value heads, and a decay by channel",
        )
        keys, decays = (
            self.key_heads * self.key_dim,
            heads * (self.key_dim if self.by_channel else 1),
        )
        widths = (keys, keys, heads * self.value_dim, decays, heads)
        found = tuple(value.shape[-1] for value in inputs)
        require(found == widths, self, f"its inputs have {found} channels; {widths} are needed")
        for weight, shape in zip(weights, ((heads,), (decays,)), strict=True):
            require(
                weight.shape == shape,
                self,
                f"{weight.name} has shape {weight.shape}; {shape} is needed",
            )
        require_state(self, state, heads, self.key_dim * self.value_dim)
