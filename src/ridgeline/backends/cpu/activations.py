"""Which values of a step lie as activations: quantized as linears multiply them, not as float32.

Where only linears read a value, whoever makes it quantizes it while a row is at hand, and no
linear needs a pass and a barrier for that. The bits are those of quantizing later. Does not know
weights' bytes, memory or steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from ridgeline.backends.cpu import _native
from ridgeline.model.graph.node import Graph, Node, Value
from ridgeline.model.graph.ops.elementwise import Scale, Softcap
from ridgeline.model.graph.ops.gated_linear import GatedLinear
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.ops.norm import AddNorm, Norm
from ridgeline.model.graph.ops.rows import SelectRows

_FLOAT_BYTES = 4


def activation_kinds(graph: Graph, isa: str) -> dict[int, str]:
    """Value id -> the kind of activations (`_native.activation_kind`) that it lies as.

    All its readers are linears of that kind, and its maker is an operator that can quantize.
    """
    readers: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            readers.setdefault(value.id, []).append(node)
    outputs = {value.id for value in graph.outputs}
    fine = takes_fine_activations(graph)
    found: dict[int, str] = {}
    for node in graph.nodes:
        made = _quantized(node)
        if made is None or made.id in outputs:
            continue
        kinds = {
            kind
            for reader in readers.get(made.id, [])
            for kind in _kinds(reader, isa, fine=reader.name in fine)
        }
        if len(kinds) == 1 and None not in kinds:
            (kind,) = kinds
            assert kind is not None
            if _can_lie_as(made, kind, node):
                found[made.id] = kind
    return found


def _can_lie_as(value: Value, kind: str, maker: Node) -> bool:
    """Whether the maker can, and it takes no more room than float32.

    A gated linear makes its rows by pieces; an int16 row has a scale that all of it is needed for.
    """
    width = value.shape[-1]
    assert isinstance(width, int)
    by_pieces = isinstance(maker.op, GatedLinear)
    return (
        not (kind == "int16" and by_pieces)
        and _native.activation_row_bytes(kind, width) <= _FLOAT_BYTES * width
    )


def row_bytes(graph: Graph, kinds: Mapping[int, str]) -> dict[int, int]:
    """Bytes of a row of each value in `kinds`."""
    found: dict[int, int] = {}
    for value in (value for node in graph.nodes for value in node.outputs):
        if value.id in kinds:
            width = value.shape[-1]
            assert isinstance(width, int)
            found[value.id] = _native.activation_row_bytes(kinds[value.id], width)
    return found


def takes_fine_activations(graph: Graph) -> set[str]:
    """Names of linears that get int8 activations in two terms: those that make the logits.

    (Where an instruction set has int16 activations, all linears get two terms.)

    Logits feel the rounding of the last activations most, and a step multiplies few rows by the
    head: two terms there take a quarter off the KL divergence (docs/log.md).
    """
    logits = {graph.outputs[0].id}
    for node in reversed(graph.nodes):
        if isinstance(node.op, Softcap | Scale) and node.outputs[0].id in logits:
            logits.add(node.inputs[0].id)
    return {
        node.name
        for node in graph.nodes
        if isinstance(node.op, Linear) and node.outputs[0].id in logits
    }


def _quantized(node: Node) -> Value | None:
    """The output that a node's operator can give as activations."""
    if isinstance(node.op, Norm | GatedLinear | SelectRows):
        return node.outputs[0]
    return node.outputs[1] if isinstance(node.op, AddNorm) else None


def _kinds(reader: Node, isa: str, *, fine: bool) -> set[str | None]:
    """What a reader multiplies; None if it is no linear, or one that a screen is multiplied for."""
    if not isinstance(reader.op, Linear | GatedLinear):
        return {None}
    if isinstance(reader.op, Linear) and reader.op.screen is not None:
        return {None}
    kinds = {_native.activation_kind(w.format.name, isa) for w in reader.op.parts(reader.weights)}
    return {"int8x2" if fine and kind == "int8" else kind for kind in kinds}
