"""Binders of attention to selected blocks, and of what selects them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ridgeline.model.graph.node import Node
from ridgeline.model.graph.ops.attention import Attention
from ridgeline.model.graph.ops.select_blocks import SelectBlocks

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def bind_select_blocks(b: Binding, node: Node, op: SelectBlocks) -> None:
    q, out = (b.view(value) for value in (*node.inputs, *node.outputs))
    blocks = op.blocks
    b.program.add_select_blocks(
        node.name, q, out, b.cache(node), op.num_heads, blocks.top, blocks.tokens, op.local
    )


def bind_block_attention(b: Binding, node: Node, op: Attention) -> None:
    assert op.blocks is not None
    q, chosen, out = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_block_attention(
        node.name,
        q,
        chosen,
        out,
        b.cache(node),
        op.num_heads,
        op.scale,
        op.blocks.top,
        op.blocks.tokens,
        op.blocks.first,
    )
