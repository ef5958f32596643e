"""entries: caches with a key for several tokens, what selects among them, and attention over them
beside a window (compressed attention, DeepSeek-AI 2026).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.node import KvState
from ridgeline.model.graph.ops.attention import require_kept
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
from ridgeline.step import BLOCK_TOKENS, StepShape
from ridgeline.units import FLOPS_PER_MULTIPLY_ADD

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


def entries_seen(step: StepShape, every: int, top_k: int | None = None) -> int:
    """Query-entry pairs: of each token the entries that are complete with it, at most top_k."""

    def up_to(count: int) -> int:
        """Of a row's first `count` tokens."""
        most = count if top_k is None else min(count, top_k * every - 1)
        whole = most // every
        found = every * (whole * (whole - 1) // 2) + whole * (most - whole * every + 1)
        return found + (0 if top_k is None else (count - most) * top_k)

    return sum(
        up_to(context + new) - up_to(context)
        for new, context in zip(step.new_tokens, step.context_lens, strict=True)
    )


def entries_cached(step: StepShape, every: int) -> int:
    """Entries of all rows, the new ones included."""
    return sum(
        (context + new) // every
        for new, context in zip(step.new_tokens, step.context_lens, strict=True)
    )


def require_entries(op: Operator, state: State | None, width: int | None = None) -> None:
    """Whether a state keeps one even key a token or entry, which is its value too."""
    require(isinstance(state, KvState) and state.latent, op, "has no cache of keys that are values")
    assert isinstance(state, KvState)
    require(
        state.kv_heads == 1 and state.key_dim == state.value_dim and state.key_dim % 2 == 0,
        op,
        f"its cache keeps keys of {state.key_dim} and values of {state.value_dim}",
    )
    require(
        state.every >= 1 and (state.every == 1 or state.window is None),
        op,
        f"its cache has a key for {state.every} tokens and window {state.window}",
    )
    # An entry lies in the block of its last token.
    require(
        BLOCK_TOKENS % state.every == 0 or state.every % BLOCK_TOKENS == 0,
        op,
        f"entries of {state.every} tokens do not fill blocks of {BLOCK_TOKENS}",
    )
    require(
        width is None or state.key_dim == width,
        op,
        f"the cache keeps {state.key_dim} channels, not {width}",
    )
    require_kept(op, state)


@dataclass(frozen=True, slots=True)
class EntryWrite(Operator):
    """x [TOKENS, D] -> the state of keys that are values too; no output. Where it has an entry for
    several tokens: of the last of these, x is the entry; the others are not kept.
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
        return Sharded(self, ()) if inputs[0] == REPLICATED else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        width = inputs[0].shape[-1]
        assert isinstance(width, int)
        require_entries(self, state, width)


@dataclass(frozen=True, slots=True)
class SelectEntries(Operator):
    """(q [TOKENS, H D], w [TOKENS, H]) -> numbers of entries [TOKENS, top_k], over a state of
    entries [D].

    Entry s scores sum over heads of w max(0, q.k_s). The top_k best of those that are complete with
    a token, equal ones from the first on, ascending; all of them and then -1 where there are no
    more.
    """

    num_heads: int
    top_k: int

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], self.top_k),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, KvState)
        state = node.state
        per_pair = FLOPS_PER_MULTIPLY_ADD * self.num_heads * (state.key_dim + 1)
        arithmetic = precision.attention_of(state.format.name)
        read = entries_cached(step, state.every)
        return Work(
            flops={arithmetic: float(entries_seen(step, state.every) * per_pair)},
            kv_read_bytes=float(read * state.every * state.bytes_per_token),
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
        require_counts(self, inputs, weights, 2, 0)
        require(self.top_k > 0, self, f"selects {self.top_k} entries")
        require_entries(self, state)
        assert isinstance(state, KvState)
        widths = (self.num_heads * state.key_dim, self.num_heads)
        given = tuple(value.shape[-1] for value in inputs)
        require(given == widths, self, f"q and w have {given} channels; {widths} are needed")
        require(state.window is None, self, "its state has a window")


@dataclass(frozen=True, slots=True)
class EntryAttention(Operator):
    """q [TOKENS, num_heads * dim] -> [TOKENS, num_heads * dim], over the state, and over a second
    one of entries if the node has that; weights (sinks [num_heads],).

    All heads share one key a token, which is its value too. A token sees itself and what precedes
    it within the state's window, and the entries that are complete with it: all of them, or if
    top_k those that a second input [TOKENS, top_k] says, as `select_entries` gives them. One
    softmax over both and the head's sink, which gives nothing.
    """

    num_heads: int
    dim: int
    scale: float
    top_k: int | None = None

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        assert isinstance(node.state, KvState)
        pairs = step.attended_pairs(node.state.window)
        read = float(step.cached_tokens_read(node.state.window) * node.state.bytes_per_token)
        if node.entries is not None:
            every = node.entries.every
            seen = entries_seen(step, every, self.top_k)
            cached = min(entries_cached(step, every), seen)
            pairs += seen
            read += float(cached * every * node.entries.bytes_per_token)
        per_pair = 2 * FLOPS_PER_MULTIPLY_ADD * self.num_heads * self.dim
        return Work(
            flops={precision.attention_of(node.state.format.name): float(pairs * per_pair)},
            kv_read_bytes=read,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        q, *chosen = inputs
        if any(x != REPLICATED for x in chosen):
            return None
        if q == REPLICATED and weights[0] == REPLICATED:
            return Sharded(self, (REPLICATED,))
        if q.split == -1 and weights[0].split == 0 and self.num_heads % ways == 0:
            return Sharded(replace(self, num_heads=self.num_heads // ways), (q,))
        return None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1 if self.top_k is None else 2, 1)
        width = self.num_heads * self.dim
        require(
            inputs[0].shape[-1] == width,
            self,
            f"q has {inputs[0].shape[-1]} channels; {self.num_heads} heads of {self.dim} need "
            f"{width}",
        )
        for chosen in inputs[1:]:
            require(
                chosen.shape == (*inputs[0].shape[:-1], self.top_k),
                self,
                f"looks at {chosen.shape[-1]} entries; {self.top_k} are needed",
            )
        require(
            weights[0].shape == (self.num_heads,),
            self,
            f"{weights[0].name} has shape {weights[0].shape}; ({self.num_heads},) is needed",
        )
        require_entries(self, state, self.dim)
        assert isinstance(state, KvState)
        require(state.every == 1 and state.window is not None, self, "its first cache is no window")

    def check_entries(self, entries: KvState | None) -> None:
        if entries is None:
            require(self.top_k is None, self, "selects among entries that are not there")
            return
        require_entries(self, entries, self.dim)
        require(entries.window is None, self, "its entries have a window")
