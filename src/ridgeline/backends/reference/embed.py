"""embed: rows of a table by token id, by position, by segment of a text; and rows of images."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.embed import Embed, PlaceImages, PositionEmbed, TypeEmbed


def embed(op: Embed, call: Call) -> tuple[Array]:
    token_ids, table = call.inputs[0].astype(np.int64), call.weights[0]
    index = token_ids - op.first_row
    held = (index >= 0) & (index < len(table))
    rows = np.where(held[:, None], table[np.where(held, index, 0)], 0)
    return ((rows * table.dtype.type(op.scale)).astype(table.dtype),)


def place_images(op: PlaceImages, call: Call) -> tuple[Array]:
    out = call.inputs[0].copy()
    for part in call.images:
        out[part.token_begin : part.token_begin + len(part.rows)] = part.rows
    return (out,)


def position_embed(op: PositionEmbed, call: Call) -> tuple[Array]:
    return (call.weights[0][call.positions + op.first],)


def type_embed(op: TypeEmbed, call: Call) -> tuple[Array]:
    (table,) = call.weights
    types: list[Array] = []
    for row in call.rows:
        is_separator = np.asarray(row.token_ids) == (-1 if op.separator is None else op.separator)
        before = np.cumsum(is_separator) - is_separator
        types.append(np.minimum(before[row.num_context : row.num_tokens], len(table) - 1))
    return (table[np.concatenate(types)],)
