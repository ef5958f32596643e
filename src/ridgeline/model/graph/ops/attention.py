"""attention: scaled dot-product attention over a paged cache, and the write that fills it."""

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
class KvWrite(Operator):
    """k [TOKENS, kv_heads * key_dim], v [TOKENS, kv_heads * value_dim] -> the state; no output.

    Into a state of latents: c [TOKENS, value_dim] and the channels that its keys have besides.
    """

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ()

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, KvState)
        return Work(
            kv_write_bytes=step.num_tokens * node.state.bytes_per_token,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        k, v = inputs
        return Sharded(self, ()) if k == v and not k.partial else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 2, 0)
        require(isinstance(state, KvState), self, "writes to no cache")
        assert isinstance(state, KvState)
        widths = (state.kv_heads * state.key_dim, state.kv_heads * state.value_dim)
        if state.latent:
            widths = (state.value_dim, state.key_dim - state.value_dim)
        given = (inputs[0].shape[-1], inputs[1].shape[-1])
        require(given == widths, self, f"k and v have {given} channels; the cache holds {widths}")
        require_kept(self, state)


def require_kept(op: Operator, state: KvState) -> None:
    """Whether the state's format can hold its heads."""
    widest, most = max(state.key_dim, state.value_dim), state.format.max_channels
    require(
        most is None or widest <= most,
        op,
        f"a head of {widest} channels is too wide for a cache in {state.format.name}, "
        f"which holds {most}",
    )


@dataclass(frozen=True, slots=True)
class Blocks:
    """What attention to selected blocks looks at: at most `top` blocks of `tokens` tokens for each
    KV head. first: the KV head of the selection that is the first here (of a rank).
    """

    top: int
    tokens: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class Attention(Operator):
    """q [TOKENS, num_heads * head_dim] -> [TOKENS, num_heads * value_dim], over the state; weights
    (sinks [num_heads],) if sinks.

    Query head h reads KV head h // (num_heads // kv_heads) (grouped queries, Ainslie et al. 2023).
    scores = scale * q.k, then softcap * tanh(scores / softcap) if softcap. causal: a token sees
    itself and what precedes it in its own row, at most `state.window` positions back, itself
    included; chunked: of its own of the chunks of so many positions that the row parts into
    (Llama 4), priced as the window that it is within. Not causal: it sees its whole row, at most so
    far back, and `ahead` positions ahead. sinks: one more score a head, which takes its share of
    the softmax and gives nothing (gpt-oss). whole_images: causal, and a token of an image sees all
    of it, which is computed in one step (Gemma 3); counted as if it did not. parts: not causal; the
    step says what parts a row has, of at most so many tokens, and a token sees its own (windows
    among an image's patches); counted as if all were as large. blocks: causal, and a
    second input [TOKENS, kv heads * blocks.top] has the blocks that each KV head looks at, as
    `select_blocks` gives them (MiniMax-M3).
    """

    num_heads: int
    head_dim: int
    value_dim: int
    scale: float
    softcap: float | None = None
    causal: bool = True
    ahead: int | None = None
    sinks: bool = False
    chunked: bool = False
    whole_images: bool = False
    blocks: Blocks | None = None
    parts: int | None = None

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], self.num_heads * self.value_dim),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, KvState)
        window = node.state.window
        if self.blocks is not None:
            window = self.blocks.top * self.blocks.tokens
        pairs = step.attended_pairs(window, self.causal, self.ahead)
        read = step.cached_tokens_read(window)
        if self.parts is not None:
            pairs = sum(new * min(new, self.parts) for new in step.new_tokens)
        if self.blocks is not None:  # what a prompt's tokens look at may be anywhere
            read = min(step.cached_tokens_read(None), pairs)
        per_pair = FLOPS_PER_MULTIPLY_ADD * self.num_heads * (self.head_dim + self.value_dim)
        return Work(
            flops={precision.attention_of(node.state.format.name): float(pairs * per_pair)},
            kv_read_bytes=read * node.state.bytes_per_token,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        q, *chosen = inputs
        if any(x != REPLICATED for x in chosen):
            return None
        if q == REPLICATED and all(w.split is None for w in weights):
            return Sharded(self, (REPLICATED,))
        cut = q.split == -1 and all(w.split == 0 for w in weights)
        if cut and self.num_heads % ways == 0:
            return Sharded(replace(self, num_heads=self.num_heads // ways), (q,))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1 if self.blocks is None else 2, int(self.sinks))
        for sinks in weights:
            require(
                sinks.shape == (self.num_heads,),
                self,
                f"{sinks.name} has shape {sinks.shape}; ({self.num_heads},) is needed",
            )
        width = self.num_heads * self.head_dim
        require(
            inputs[0].shape[-1] == width,
            self,
            f"q has {inputs[0].shape[-1]} channels; {self.num_heads} heads of {self.head_dim} "
            f"need {width}",
        )
        require(isinstance(state, KvState), self, "has no cache")
        assert isinstance(state, KvState)
        require(
            self.num_heads % state.kv_heads == 0,
            self,
            f"{self.num_heads} query heads do not part over {state.kv_heads} KV heads",
        )
        require(
            (state.key_dim, state.value_dim) == (self.head_dim, self.value_dim),
            self,
            "head sizes are not the cache's",
        )
        require(not state.latent, self, "the cache keeps latents")
        require(state.window is None or state.window > 0, self, f"window {state.window} is empty")
        require_kept(self, state)
        require(
            not self.chunked or (self.causal and state.window is not None),
            self,
            "chunks are of causal attention with a window, which says how long they are",
        )
        require(
            self.ahead is None or (not self.causal and self.ahead >= 0),
            self,
            f"ahead {self.ahead}: causal attention sees nothing ahead, others 0 or more",
        )
        require(self.causal or not self.whole_images, self, "sees images whole, and is not causal")
        require(
            self.parts is None
            or (self.parts > 0 and not self.causal and self.ahead is None and state.window is None),
            self,
            f"parts of {self.parts} tokens are of attention that is not causal and has no window",
        )
        if self.blocks is not None:
            self._check_blocks(self.blocks, inputs[1], state)

    def _check_blocks(self, blocks: Blocks, chosen: Value, state: KvState) -> None:
        require(
            blocks.top > 0 and blocks.tokens > 0 and blocks.first >= 0,
            self,
            f"looks at {blocks.top} blocks of {blocks.tokens} tokens",
        )
        width = chosen.shape[-1]
        assert isinstance(width, int)
        require(
            width % blocks.top == 0 and width >= (blocks.first + state.kv_heads) * blocks.top,
            self,
            f"{width} blocks are selected; {blocks.top} are needed for each of {state.kv_heads} "
            "KV heads",
        )
        plain = self.causal and not (self.sinks or self.softcap or self.whole_images)
        require(
            plain and state.window is None,
            self,
            "selected blocks are of plain causal attention without a window",
        )
