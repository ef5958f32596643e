"""What makes logits and has a screen: its weight packed, and a coarse copy beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ridgeline.model.graph.node import Node
from ridgeline.model.graph.ops.linear import Linear

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding

# Rows of which the usual magnitudes of activations are learned; until then nothing is screened.
LEARNED_ROWS = 32


def bind_head(b: Binding, node: Node, op: Linear) -> None:
    weight = node.weights[0]
    n, k = weight.shape
    raw, row_bytes = b.weights.raw(weight), weight.num_bytes // n
    matrix = b.matrix(weight)
    screen = b.program.pack_screen(
        weight.format.name, raw, n, k, row_bytes, lambda: b.weights.release(weight)
    )
    b.program.add_head(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.outputs[0]),
        matrix,
        node.name in b.fine,
        screen,
        weight.format.name,
        raw,
        row_bytes,
        op.screened_rows(node.weights),
        b.learned_rows,
    )
