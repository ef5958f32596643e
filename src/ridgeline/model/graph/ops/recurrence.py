"""What operators with a recurrent state share: its traffic, its check, and where it may lie.

A recurrence is defined token by token, in float32. A backend may compute it in any way that gives a
token the same bits whether a step has one token of the row or hundreds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ridgeline.model.graph.node import RowState
from ridgeline.model.graph.ops.operator import (
    REPLICATED,
    Operator,
    Placement,
    Sharded,
    moved_bytes,
    require,
)
from ridgeline.model.graph.work import SUM_BYTES, Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State


def recurrence_work(node: Node, step: StepShape, precision: Precision, flops: float) -> Work:
    """flops: in float32. Each row's state is read and written once a step."""
    assert isinstance(node.state, RowState)
    element_bytes = precision.rolling_bytes if node.state.is_rolling else SUM_BYTES
    state_bytes = step.num_sequences * node.state.num_elements * element_bytes
    return Work(
        flops={"f32": flops},
        weight_bytes=sum(w.num_bytes for w in node.weights),
        kv_read_bytes=state_bytes,
        kv_write_bytes=state_bytes,
        activation_bytes=moved_bytes(node, step, precision),
    )


def copied(op: Operator, inputs: tuple[Placement, ...], num_outputs: int = 1) -> Sharded | None:
    """On every rank all of it: a recurrence is not cut yet."""
    if all(x == REPLICATED for x in inputs):
        return Sharded(op, (REPLICATED,) * num_outputs)
    return None


def require_state(
    op: Operator, state: State | None, parts: int, part_elements: int, *, is_rolling: bool = False
) -> None:
    require(isinstance(state, RowState), op, "has no recurrent state")
    assert isinstance(state, RowState)
    found = (state.parts, state.part_elements, state.is_rolling)
    require(
        found == (parts, part_elements, is_rolling),
        op,
        f"its state has {state.parts} x {state.part_elements} numbers; {parts} x {part_elements} "
        "are needed",
    )
