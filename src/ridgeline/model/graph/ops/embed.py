"""embed: rows of a table by token id, by position, and by segment of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import TOKENS, Shape, num_elements
from ridgeline.model.graph.ops.operator import (
    PARTIAL,
    REPLICATED,
    Operator,
    Placement,
    Sharded,
    moved_bytes,
    require,
    require_counts,
)
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class Embed(Operator):
    """token ids [TOKENS] -> scale * rows [TOKENS, D]; weights (table [vocab, D],).

    first_row: the token id of the table's first row, in a rank's share of a table; ids that the
    share does not have give zeros.
    """

    scale: float = 1.0
    first_row: int = 0

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0], weights[0].shape[1]),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        (table,) = node.weights
        ids = num_elements(node.inputs[0].shape, step)
        return Work(
            flops={"f32": float(num_elements(node.outputs[0].shape, step))}
            if self.scale != 1.0
            else {},
            weight_bytes=table.num_bytes / table.shape[0] * min(ids, table.shape[0]),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        (table,) = weights
        if inputs != (REPLICATED,):
            return None
        if table.split is None:
            return Sharded(self, (REPLICATED,))
        # A rank holds some of the rows and gives zero for the others.
        return Sharded(self, (PARTIAL if table.split == 0 else Placement(split=-1),))

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 1)
        require(inputs[0].integer, self, "looks up token ids, not real numbers")
        require(len(weights[0].shape) == 2, self, f"{weights[0].name} is not a table")


@dataclass(frozen=True, slots=True)
class PlaceImages(Operator):
    """x [TOKENS, D] -> x, and for the tokens of images the rows that an encoder made of these

    Which tokens these are comes with the step (`Image`); all that an image has of new tokens are in
    one step.
    """

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return (inputs[0],)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return Work(activation_bytes=moved_bytes(node, step, precision))

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return Sharded(self, (REPLICATED,)) if inputs == (REPLICATED,) else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require_counts(self, inputs, weights, 1, 0)
        require(inputs[0].shape[0] is TOKENS, self, "goes over the step's tokens only")


@dataclass(frozen=True, slots=True)
class PositionEmbed(Operator):
    """token ids [TOKENS] -> rows [TOKENS, D] of the table [positions, D] by the tokens' positions.

    first: the row of position 0 (2 in RoBERTa). The ids say only which tokens there are.
    """

    first: int = 0

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0], weights[0].shape[1]),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return table_cost(node, step, precision)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        is_whole = inputs == (REPLICATED,) and weights[0].split is None
        return Sharded(self, (REPLICATED,)) if is_whole else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        check_table(self, inputs, weights)
        require(
            0 <= self.first < weights[0].shape[0], self, f"first {self.first} is not in the table"
        )


@dataclass(frozen=True, slots=True)
class TypeEmbed(Operator):
    """token ids [TOKENS] -> rows [TOKENS, D] of the table [types, D] by the tokens' segments.

    A token's segment is the number of `separator` tokens before it in its row, at most the last of
    the table (BERT's pairs: 0 up to the first separator, 1 after it); 0 if separator is None.
    """

    separator: int | None = None

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0], weights[0].shape[1]),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        return table_cost(node, step, precision)

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        is_whole = inputs == (REPLICATED,) and weights[0].split is None
        return Sharded(self, (REPLICATED,)) if is_whole else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        check_table(self, inputs, weights)


def check_table(op: Operator, inputs: tuple[Value, ...], weights: tuple[Weight, ...]) -> None:
    require_counts(op, inputs, weights, 1, 1)
    require(inputs[0].integer, op, "looks at token ids, not real numbers")
    require(len(weights[0].shape) == 2, op, f"{weights[0].name} is not a table")


def table_cost(node: Node, step: StepShape, precision: Precision) -> Work:
    """As many rows are read as there are tokens, none twice."""
    (table,) = node.weights
    ids = num_elements(node.inputs[0].shape, step)
    return Work(
        weight_bytes=table.num_bytes / table.shape[0] * min(ids, table.shape[0]),
        activation_bytes=moved_bytes(node, step, precision),
    )
