"""collectives: what the ranks of a mesh axis make of their values together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ridgeline.backends.reference.call import Array
from ridgeline.model.graph.ops.collectives import AllGather, AllReduce


def all_reduce(op: AllReduce, by_rank: Sequence[Array]) -> Array:
    """The sum over the ranks, in rank order."""
    total = by_rank[0]
    for x in by_rank[1:]:
        total = total + x
    return total


def all_gather(op: AllGather, by_rank: Sequence[Array]) -> Array:
    """The ranks' channels side by side, in rank order."""
    return np.concatenate(by_rank, axis=-1)
