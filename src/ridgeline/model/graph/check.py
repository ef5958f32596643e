"""Whether a graph is well formed: what every pass must leave true."""

from __future__ import annotations

from ridgeline.errors import ModelError
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops.cross_attention import CrossAttention


def check_graph(graph: Graph) -> None:
    """Raises ModelError naming the first node that breaks an invariant.

    Every input is made before it is used, every value is made once, shapes are what the shape rules
    say, each operator's own check holds, one name is one weight, and outputs exist.
    """
    made = {value.id: value for value in graph.inputs}
    weights: dict[str, object] = {}
    for node in graph.nodes:
        where = f"{graph.name}: {node.name}"
        for value in node.inputs:
            known = made.get(value.id)
            if known is not value and known != value:
                raise ModelError(f"{where}: takes value {value.id} before it is made")
        node.op.check(node.inputs, node.weights, node.state)
        node.op.check_entries(node.entries)
        shapes = node.op.shape(tuple(v.shape for v in node.inputs), node.weights)
        if shapes != tuple(v.shape for v in node.outputs):
            raise ModelError(f"{where}: outputs do not have the shapes {shapes}")
        for value in node.outputs:
            if value.id in made:
                raise ModelError(f"{where}: makes value {value.id} a second time")
            made[value.id] = value
        for weight in node.weights:
            known_weight = weights.setdefault(weight.name, weight)
            if known_weight is not weight and known_weight != weight:
                raise ModelError(f"{where}: {weight.name} is two different weights")
    for value in graph.outputs:
        if made.get(value.id) != value:
            raise ModelError(f"{graph.name}: output value {value.id} is never made")
    if graph.encoder is not None:
        check_graph(graph.encoder)
    written = () if graph.encoder is None else graph.encoder.cross_states
    if any(isinstance(node.op, CrossAttention) for node in graph.nodes) and (
        written != graph.cross_states
    ):
        raise ModelError(f"{graph.name}: its cross attention is over what no encoder writes")
