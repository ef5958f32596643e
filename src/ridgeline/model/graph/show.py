"""A graph as text: one line a node, with repeated layers folded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from ridgeline.model.graph.node import Graph, Node, Value
from ridgeline.model.graph.ops.rope import Rotation


def show(graph: Graph, *, fold: bool = True) -> str:
    """The graph's nodes in order; fold: a layer like the one before it is only counted."""
    lines = [f"{graph.name}: {len(graph.nodes)} nodes, {len(graph.weights)} weights"]
    previous: list[str] | None = None
    repeats = 0
    for layer, nodes in _by_layer(graph.nodes):
        text = [_line(node, layer) for node in nodes]
        if fold and layer is not None and text == previous:
            repeats += 1
            continue
        if repeats:
            lines.append(f"  ... {repeats} more layers like it")
            repeats = 0
        previous = text if layer is not None else None
        lines += [f"layer {layer}"] if layer is not None else []
        lines += text
    return "\n".join(lines)


def _by_layer(nodes: Iterable[Node]) -> list[tuple[int | None, list[Node]]]:
    groups: list[tuple[int | None, list[Node]]] = []
    for node in nodes:
        match = re.match(r"layers\.(\d+)\.", node.name)
        layer = int(match.group(1)) if match else None
        if not groups or groups[-1][0] != layer:
            groups.append((layer, []))
        groups[-1][1].append(node)
    return groups


def _line(node: Node, layer: int | None) -> str:
    prefix = f"layers.{layer}."
    attributes = ", ".join(
        f"{f.name}={_attribute(getattr(node.op, f.name))}"
        for f in dataclasses.fields(node.op)
        if getattr(node.op, f.name) != f.default
    )
    weights = " ".join(f"{w.name.removeprefix(prefix)}:{w.format.name}" for w in node.weights)
    inputs = " ".join(_shape(v) for v in node.inputs)
    outputs = " ".join(_shape(v) for v in node.outputs)
    name = node.name.removeprefix(prefix)
    operator = f"{type(node.op).__name__}({attributes})"
    return f"  {name:24} {operator} {inputs} -> {outputs}  {weights}".rstrip()


def _attribute(value: object) -> str:
    if isinstance(value, Rotation):
        style = "interleaved" if value.interleaved else "neox"
        return f"{style} {value.rotary_dim}"
    return repr(value)


def _shape(value: Value) -> str:
    return "[" + ", ".join(str(d) if isinstance(d, int) else d.value for d in value.shape) + "]"
