"""Builds a graph node by node and checks each, so that a wrong config fails where it is wrong."""

from __future__ import annotations

from collections.abc import Callable

from ridgeline.errors import ModelError
from ridgeline.model.graph.dims import TOKENS, Shape
from ridgeline.model.graph.node import Graph, KvState, Node, State, StorageFormat, Value, Weight
from ridgeline.model.graph.ops.operator import Operator

FormatOf = Callable[[str], StorageFormat]


class Builder:
    """Owns the nodes until `finish`; format_of gives a weight name's storage format."""

    def __init__(self, name: str, format_of: FormatOf) -> None:
        self._name = name
        self._format_of = format_of
        self._nodes: list[Node] = []
        self._next_id = 0
        self.token_ids = self._value((TOKENS,), integer=True)
        self._inputs = [self.token_ids]

    def hidden(self, width: int) -> Value:
        """Hidden states [TOKENS, width] that are given with the token ids."""
        self._inputs.append(self._value((TOKENS, width)))
        return self._inputs[-1]

    def weight(self, name: str, *shape: int, axes: tuple[str | None, ...] = ()) -> Weight:
        """A weight of `shape`; axes labels its dimensions (none by default)."""
        if any(size <= 0 for size in shape):
            raise ModelError(f"{self._name}: weight {name} has an empty or negative shape {shape}")
        return Weight(name, shape, self._format_of(name), axes or (None,) * len(shape))

    def add(
        self,
        name: str,
        op: Operator,
        *inputs: Value,
        weights: tuple[Weight, ...] = (),
        state: State | None = None,
        entries: KvState | None = None,
    ) -> tuple[Value, ...]:
        """Appends a node, gives its outputs; ModelError names the node if the rules fail."""
        try:
            op.check(inputs, weights, state)
            op.check_entries(entries)
        except ModelError as error:
            raise ModelError(f"{self._name}: {name}: {error}") from None
        shapes = op.shape(tuple(v.shape for v in inputs), weights)
        outputs = tuple(self._value(shape) for shape in shapes)
        self._nodes.append(Node(name, op, inputs, outputs, weights, state, entries))
        return outputs

    def one(
        self,
        name: str,
        op: Operator,
        *inputs: Value,
        weights: tuple[Weight, ...] = (),
        state: State | None = None,
        entries: KvState | None = None,
    ) -> Value:
        """`add` for an operator with exactly one output."""
        (output,) = self.add(name, op, *inputs, weights=weights, state=state, entries=entries)
        return output

    def finish(
        self, logits: Value, max_context: int, *also: Value, encoder: Graph | None = None
    ) -> Graph:
        """also: what the graph gives beside logits."""
        inputs, outputs = tuple(self._inputs), (logits, *also)
        return Graph(self._name, tuple(self._nodes), inputs, outputs, max_context, encoder)

    def _value(self, shape: Shape, integer: bool = False) -> Value:
        self._next_id += 1
        return Value(self._next_id - 1, shape, integer)
