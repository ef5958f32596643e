"""select_blocks: which blocks of tokens attention's heads look at (MiniMax-M3, MiniMax 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.node import KvState
from ridgeline.model.graph.ops.attention import Blocks
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
class SelectBlocks(Operator):
    """q [TOKENS, H D] -> numbers of blocks [TOKENS, H blocks.top], over a state of keys [D], which
    a latent state keeps as it does latents.

    A row parts into blocks of so many tokens, from its first on. For each of H heads a block scores
    the most that q.k is over those of its tokens that the query's token sees; the token's own block
    and the `local` - 1 before it come first whatever they score. The best of them, equal ones from
    the first on, ascending; all of them and then -1 where there are no more.
    """

    num_heads: int
    blocks: Blocks
    local: int = 1

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], self.num_heads * self.blocks.top),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, KvState)
        per_pair = FLOPS_PER_MULTIPLY_ADD * self.num_heads * node.state.key_dim
        arithmetic = precision.attention_of(node.state.format.name)
        return Work(
            flops={arithmetic: float(step.attended_pairs(None) * per_pair)},
            kv_read_bytes=step.cached_tokens_read(None) * node.state.bytes_per_token,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, (REPLICATED,)) if inputs[0] == REPLICATED else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(isinstance(state, KvState) and state.latent, self, "has no state of keys")
        assert isinstance(state, KvState)
        require(
            self.blocks.top > 0 and self.blocks.tokens > 0 and 1 <= self.local <= self.blocks.top,
            self,
            f"selects {self.blocks.top} blocks of {self.blocks.tokens} tokens, {self.local} local",
        )
        width = self.num_heads * state.key_dim
        require(
            inputs[0].shape[-1] == width,
            self,
            f"q has {inputs[0].shape[-1]} channels; {width} are needed",
        )
        require(
            state.kv_heads == 1 and state.window is None and state.key_dim % 2 == 0,
            self,
            "its state is not one even key a token",
        )
