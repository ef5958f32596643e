"""The nouns of a graph: weights, states, values, nodes, the graph. All frozen; no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol

from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.kv_format import BF16, KeyBalance, KvFormat

if TYPE_CHECKING:
    from ridgeline.model.graph.ops.operator import Operator


class StorageFormat(Protocol):
    """How a weight's numbers are stored, as far as a graph must know; codecs: `model/formats`."""

    @property
    def name(self) -> str: ...
    @property
    def block_elements(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Weight:
    """A named parameter.

    shape is row-major, output channels first for a matrix: (out, in). axes has a label per
    dimension ("heads", "kv_heads", "ffn", "vocab", "experts" or None): all that a model says about
    sharding.
    """

    name: str
    shape: tuple[int, ...]
    format: StorageFormat
    axes: tuple[str | None, ...]

    @property
    def num_elements(self) -> int:
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes as stored; rows are whole blocks."""
        row_blocks = -(-self.shape[-1] // self.format.block_elements)
        return prod(self.shape[:-1]) * row_blocks * self.format.block_bytes


@dataclass(frozen=True, slots=True)
class KvState:
    """One layer's cache of keys and values, addressed through a row's block table.

    window: positions that attention can reach back, the query included; None for all. format: how
    its numbers are kept. latent: the values are the first value_dim channels of the keys, and are
    not kept beside them. balance: how an int8 cache evens out its keys first; None: not. every:
    tokens of a row to a key: there is one when the last of so many has come (an entry).
    """

    name: str
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    format: KvFormat = BF16
    latent: bool = False
    balance: KeyBalance | None = None
    every: int = 1

    @property
    def elements_per_token(self) -> int:
        """Numbers of a key and its value."""
        values = 0 if self.latent else self.value_dim
        return self.kv_heads * (self.key_dim + values)

    def elements_within(self, block_tokens: int) -> int:
        """Numbers that a block of so many tokens holds for each of them. An entry lies in one
        block, that of its last token, so a block has room for one at least.
        """
        return -(-self.elements_per_token // min(self.every, block_tokens))

    def bytes_within(self, block_tokens: int) -> int:
        """The same in bytes."""
        return -(-self._entry_bytes // min(self.every, block_tokens))

    @property
    def bytes_per_token(self) -> int:
        """With the scales, where the format has some; without room that blocks leave."""
        return -(-self._entry_bytes // self.every)

    @property
    def _entry_bytes(self) -> int:
        values = 0 if self.latent else self.format.head_bytes(self.value_dim)
        return self.kv_heads * (self.format.head_bytes(self.key_dim) + values)


@dataclass(frozen=True, slots=True)
class RowState:
    """What one layer carries from token to token of a row: as many numbers however long the row.

    parts: channels or heads, each with part_elements numbers of its own. is_rolling: the numbers
    are a convolution's last inputs, which a backend may keep as it keeps keys and values; else they
    are sums over all that came before, in float32.
    """

    name: str
    parts: int
    part_elements: int
    is_rolling: bool = False

    @property
    def num_elements(self) -> int:
        return self.parts * self.part_elements


@dataclass(frozen=True, slots=True)
class CrossState:
    """One layer's keys and values of what a row's encoder has read: as many positions in every row.

    Written once a request by the encoder's graph, read by every step of the decoder's. It lies at
    the row's number, apart from blocks.
    """

    name: str
    positions: int
    kv_heads: int
    key_dim: int
    value_dim: int
    format: KvFormat = BF16

    @property
    def bytes_per_position(self) -> int:
        """With the scales, where the format has some."""
        return self.kv_heads * (
            self.format.head_bytes(self.key_dim) + self.format.head_bytes(self.value_dim)
        )

    @property
    def num_bytes(self) -> int:
        """Of one row."""
        return self.positions * self.bytes_per_position


State = KvState | RowState | CrossState


@dataclass(frozen=True, slots=True)
class Value:
    """An edge: what one node gives and others take; `integer` marks token ids."""

    id: int
    shape: Shape
    integer: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """One application of an operator. name says where in the model, e.g. `layers.3.attn.q`.
    entries: of attention over a window and entries, the cache of those.
    """

    name: str
    op: Operator
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    weights: tuple[Weight, ...] = ()
    state: State | None = None
    entries: KvState | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """A model: nodes in an order that can be executed.

    inputs: (token ids [TOKENS],); of a predictor also hidden states [TOKENS, width], which another
    graph has given, and of an encoder what a request comes with. outputs: (logits [SAMPLED,
    vocab],), and hidden states [TOKENS, width] where they are asked for. max_context: tokens that
    positions reach. encoder: the graph that reads what a request comes with (the sound of its
    audio) in one step of max_context positions, and writes what this graph's cross attention sees.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    max_context: int
    encoder: Graph | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Each weight once (a tied embedding is one weight), in order of first use; the encoder's
        first.
        """
        seen: dict[str, Weight] = {}
        for node in (*(() if self.encoder is None else self.encoder.nodes), *self.nodes):
            for weight in node.weights:
                seen.setdefault(weight.name, weight)
        return tuple(seen.values())

    @property
    def states(self) -> tuple[KvState, ...]:
        """The caches of keys and values, each once, in order of first use."""
        seen: dict[str, KvState] = {}
        for node in self.nodes:
            for state in (node.state, node.entries):
                if isinstance(state, KvState):
                    seen.setdefault(state.name, state)
        return tuple(seen.values())

    @property
    def row_states(self) -> tuple[RowState, ...]:
        """Each once, in order of first use."""
        seen: dict[str, RowState] = {}
        for node in self.nodes:
            if isinstance(node.state, RowState):
                seen.setdefault(node.state.name, node.state)
        return tuple(seen.values())

    @property
    def cross_states(self) -> tuple[CrossState, ...]:
        """Each once, in order of first use."""
        seen: dict[str, CrossState] = {}
        for node in self.nodes:
            if isinstance(node.state, CrossState):
                seen.setdefault(node.state.name, node.state)
        return tuple(seen.values())
