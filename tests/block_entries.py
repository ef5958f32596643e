"""Table entries of hand-made plans: entry number i is blocks i * columns, i * columns + 1, ..."""

from __future__ import annotations

from collections.abc import Iterable

from ridgeline.engine.executor import Executor
from ridgeline.model.graph.node import Graph
from ridgeline.model.passes.state_groups import state_groups


def blocks_for(graph: Graph, num_entries: int) -> int:
    """Blocks that so many entries take."""
    return num_entries * len(state_groups(graph).column_windows)


def spread(executor: Executor, entries: Iterable[int]) -> tuple[int, ...]:
    """The blocks of these entries, as `PlanRow.new_blocks` has them."""
    columns = sum(group.blocks for group in executor.groups)
    return tuple(entry * columns + column for entry in entries for column in range(columns))
