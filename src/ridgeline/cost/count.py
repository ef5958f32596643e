"""What a graph holds and what a step of it asks: parameters, bytes, and the operators' work.

Everything is a fold over the graph that runs, by the rules of its operators; no architecture is
described here a second time. Does not know how fast any machine is, nor where bytes lie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ridgeline.model.graph.dims import num_elements
from ridgeline.model.graph.node import CrossState, Graph, KvState, Node, State
from ridgeline.model.graph.ops import OPERATORS, Experts
from ridgeline.model.graph.work import NO_WORK, SUM_BYTES, Precision, Work
from ridgeline.step import StepShape

LAYER = re.compile(r"layers\.\d+\.")
OPERATOR_NAMES = {operator: name for name, operator in OPERATORS.items()}


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers that a model consists of; a tied embedding counts once.

    active: those that one token's computation reads: of a mixture's experts as many as a token is
    routed to. bytes_by_format: as stored, by format name.
    """

    total: int
    active: int
    bytes_by_format: Mapping[str, int]

    @property
    def num_bytes(self) -> int:
        return sum(self.bytes_by_format.values())


@dataclass(frozen=True, slots=True)
class KvBytes:
    """Cache bytes that one more token takes, over all layers.

    windowed: the part of `per_token` that stops growing, by the window after which it does.
    """

    per_token: float
    windowed: Mapping[int, float]

    @property
    def unbounded(self) -> float:
        """Bytes per token of the layers that reach back to the start."""
        return self.per_token - sum(self.windowed.values())

    def held(self, context: int) -> dict[int | None, float]:
        """Bytes that a row of `context` tokens keeps, by window."""
        held: dict[int | None, float] = {None: self.unbounded * context}
        for window, num_bytes in sorted(self.windowed.items()):
            held[window] = num_bytes * min(context, window)
        return held


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """All nodes of a step that are alike: those of a kind, at one place in each layer.

    name: the node's, with `*` for the layer. operator: its key in `OPERATORS`. formats: of its
    weights. kv_format: of the cache that it reads or writes. work: of all `count` nodes together.
    """

    name: str
    operator: str
    formats: tuple[str, ...]
    window: int | None
    kv_format: str | None
    count: int
    work: Work


@dataclass(frozen=True, slots=True)
class StepCount:
    """A step's operators, in the order of the graph, and their sum."""

    rows: tuple[OperatorRow, ...]
    total: Work


def count_parameters(graph: Graph) -> Parameters:
    weights = graph.weights
    by_format: dict[str, int] = {}
    for weight in weights:
        name = weight.format.name
        by_format[name] = by_format.get(name, 0) + weight.num_bytes
    total = sum(weight.num_elements for weight in weights)
    idle = sum(
        weight.num_elements * (node.op.num_experts - node.op.top_k) // node.op.num_experts
        for node in graph.nodes
        if isinstance(node.op, Experts)
        for weight in node.weights
    )
    return Parameters(total, total - idle, by_format)


def count_kv_bytes(graph: Graph) -> KvBytes:
    """In the formats of the graph's states, scales included."""
    windowed: dict[int, float] = {}
    per_token = 0.0
    for state in graph.states:
        state_bytes = state.bytes_per_token
        per_token += state_bytes
        if state.window is not None:
            windowed[state.window] = windowed.get(state.window, 0.0) + state_bytes
    return KvBytes(per_token, windowed)


def count_state_bytes(graph: Graph, rolling_bytes: float = 2.0) -> int:
    """Bytes of recurrent state that a row takes, over all layers, however long it is.

    rolling_bytes: of a number that a convolution keeps of its inputs; sums are float32.
    """
    return round(
        sum(
            state.num_elements * (rolling_bytes if state.is_rolling else SUM_BYTES)
            for state in graph.row_states
        )
    )


def count_cross_bytes(graph: Graph) -> int:
    """Bytes that a row's cross attention reads of its encoder, over all layers."""
    return sum(state.num_bytes for state in graph.cross_states)


def count_step(graph: Graph, step: StepShape, precision: Precision) -> StepCount:
    """The operator table of one step; give it the graph that is executed, which is the fused one.

    Like nodes are priced once, so that a large step of a deep model takes no time.
    """
    groups: dict[object, list[Node]] = {}
    for node in graph.nodes:
        groups.setdefault(cost_key(node), []).append(node)
    rows: dict[tuple[str, str, tuple[str, ...], int | None, str | None], OperatorRow] = {}
    total = NO_WORK
    for nodes in groups.values():
        first = nodes[0]
        one = NO_WORK if _is_idle(first, step) else first.op.cost(first, step, precision)
        work = _times(one, len(nodes))
        total += work
        name = LAYER.sub("layers.*.", first.name)
        formats = tuple(dict.fromkeys(weight.format.name for weight in first.weights))
        window, kv_format = None, None
        if isinstance(first.state, KvState):
            window, kv_format = first.state.window, first.state.format.name
        operator = OPERATOR_NAMES[type(first.op)]
        key = (name, operator, formats, window, kv_format)
        before = rows.get(key)
        rows[key] = OperatorRow(
            *key,
            count=len(nodes) + (before.count if before else 0),
            work=work + before.work if before else work,
        )
    return StepCount(tuple(rows.values()), total)


def intensity(work: Work) -> float | None:
    """FLOPs per byte through memory; None where nothing is moved."""
    return work.total_flops / work.total_bytes if work.total_bytes else None


def _is_idle(node: Node, step: StepShape) -> bool:
    """Whether nobody wants its outputs in this step: the head, where no row is sampled."""
    return bool(node.outputs) and not any(num_elements(v.shape, step) for v in node.outputs)


def cost_key(node: Node) -> object:
    """All that the cost of a node depends on, and its place."""
    return (
        LAYER.sub("layers.*.", node.name),
        node.op,
        tuple((v.shape, v.integer) for v in (*node.inputs, *node.outputs)),
        tuple((w.shape, w.format.name) for w in node.weights),
        None if node.state is None else _state_key(node.state),
        None if node.entries is None else _state_key(node.entries),
    )


def _state_key(state: State) -> object:
    if isinstance(state, KvState):
        heads = (state.kv_heads, state.key_dim, state.value_dim)
        return (*heads, state.window, state.format, state.every)
    if isinstance(state, CrossState):
        return (state.positions, state.kv_heads, state.key_dim, state.value_dim, state.format)
    return (state.parts, state.part_elements, state.is_rolling)


def _times(work: Work, count: int) -> Work:
    return Work(
        flops={arithmetic: flops * count for arithmetic, flops in work.flops.items()},
        weight_bytes=work.weight_bytes * count,
        kv_read_bytes=work.kv_read_bytes * count,
        kv_write_bytes=work.kv_write_bytes * count,
        activation_bytes=work.activation_bytes * count,
        link_bytes=work.link_bytes * count,
        launches=work.launches * count,
    )
