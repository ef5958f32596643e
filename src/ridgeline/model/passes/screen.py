"""What makes logits gets a screen: a coarse copy of its weight, for rows that need few logits.

A row needs to know which channel is the largest, alone or with its noise, not what the others are.
The copy says what every logit is and how far it can be off, and only channels that may still be
drawn are read from the weight itself: the same token, for half of the bytes. Does not know how a
backend bounds what the copy is off by.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.dims import SAMPLED
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops.linear import Linear

# Five bits and a float16 for 32 weights: with four, a small model's screen lets through too much.
SCREEN = FORMATS["Q5_0"]
# The weight's formats that are enough larger, and fewest channels that are worth it.
SCREENED_FORMATS = ("Q6_K", "Q8_0", "BF16", "F16", "F32")
LEAST_CHANNELS = 4096


def with_screen(graph: Graph) -> Graph:
    """The graph with a screen where its logits are a large weight's, and nowhere else."""
    nodes = []
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Linear) and op.screen is not None:
            op = replace(op, screen=None)
            node = replace(node, op=op)
        if (
            isinstance(op, Linear)
            and node.outputs[0].id == graph.outputs[0].id
            and node.inputs[0].shape[0] is SAMPLED
            and op.num_parts == 1
            and not op.bias
            and _pays(node.weights[0].format.name, node.weights[0].shape)
        ):
            node = replace(node, op=replace(op, screen=SCREEN))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def has_screen(graph: Graph) -> bool:
    return any(isinstance(node.op, Linear) and node.op.screen for node in graph.nodes)


def _pays(format_name: str, shape: tuple[int, ...]) -> bool:
    channels, width = shape
    return (
        format_name in SCREENED_FORMATS
        and channels >= LEAST_CHANNELS
        and width % SCREEN.block_elements == 0
    )
