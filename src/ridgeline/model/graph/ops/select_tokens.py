"""select_tokens: which tokens attention looks at (DeepSeek Sparse Attention's lightning indexer,
DeepSeek-AI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
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
class SelectTokens(Operator):
    """(turned q [TOKENS, H R], q [TOKENS, H S], w [TOKENS, H]) -> positions [TOKENS, top_k], over a
    state of keys [R + S], which a latent state keeps as it does latents.

    Token s scores sum over heads of w max(0, q.k_s). The top_k best of a token and those before it
    in its row, equal ones from the first on, ascending; all of them and then -1 where there are no
    more.
    """

    num_heads: int
    top_k: int

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], self.top_k),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, KvState)
        per_pair = FLOPS_PER_MULTIPLY_ADD * self.num_heads * (node.state.key_dim + 1)
        arithmetic = precision.attention_of(node.state.format.name)
        return Work(
            flops={arithmetic: float(step.attended_pairs(None) * per_pair)},
            kv_read_bytes=step.cached_tokens_read(None) * node.state.bytes_per_token,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        whole = all(x == REPLICATED for x in inputs)
        return Sharded(self, (REPLICATED,)) if whole else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 3, 0)
        require(self.top_k > 0, self, f"selects {self.top_k} tokens")
        require(isinstance(state, KvState) and state.latent, self, "has no state of keys")
        assert isinstance(state, KvState)
        turned = state.value_dim
        widths = tuple(self.num_heads * size for size in (turned, state.key_dim - turned, 1))
        given = tuple(value.shape[-1] for value in inputs)
        require(given == widths, self, f"q and w have {given} channels; {widths} are needed")
        require(
            state.kv_heads == 1 and state.window is None and turned % 2 == state.key_dim % 2 == 0,
            self,
            "its state is not one even key a token",
        )
