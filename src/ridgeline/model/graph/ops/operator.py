"""The contract: an operator is a frozen dataclass of attributes with four pure rules.

shape: what comes out of what goes in. cost: the work of one application. shard: how a split of the
inputs and weights carries over. check: whether attributes, inputs and weights agree. No tensors
here; what an operator *means* is its function in `backends/reference`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.errors import ModelError
from ridgeline.model.graph.dims import Shape, num_elements
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.model.graph.node import KvState, Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a tensor lies over the ranks of one mesh axis.

    split: the dimension that is cut in equal parts, or None for a copy on every rank. partial: each
    rank holds a term of a sum that is still to be taken (an all-reduce away from a copy).
    """

    split: int | None = None
    partial: bool = False


REPLICATED = Placement()
PARTIAL = Placement(partial=True)


@dataclass(frozen=True, slots=True)
class Sharded:
    """A rank's share of an application: its local operator and where its outputs lie."""

    op: Operator
    outputs: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Operator:
    """Base of all operators: the four rules and nothing else.

    mypy and a test of the architecture see that none is missing. No ABC: every pass asks each node
    what it is, and `isinstance` of an ABC takes ten times as long.
    """

    @abstractmethod
    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        """Shapes of the outputs."""

    @abstractmethod
    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        """What one application asks of a machine in a step of this shape."""

    @abstractmethod
    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        """The local share; None if it cannot work on inputs placed so (gather them first)."""

    @abstractmethod
    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        """Raises ModelError where attributes, inputs, weights and state do not agree."""

    def check_entries(self, entries: KvState | None) -> None:
        """The same of a second cache, which few have."""
        require(entries is None, self, "has no second cache")


def require(condition: bool, op: Operator, message: str) -> None:
    if not condition:
        raise ModelError(f"{type(op).__name__}: {message}")


def require_counts(
    op: Operator,
    inputs: tuple[Value, ...],
    weights: tuple[Weight, ...],
    num_inputs: int,
    num_weights: int,
) -> None:
    require(
        len(inputs) == num_inputs,
        op,
        f"takes {num_inputs} inputs, not {len(inputs)}",
    )
    require(
        len(weights) == num_weights,
        op,
        f"takes {num_weights} weights, not {len(weights)}",
    )


def moved_bytes(node: Node, step: StepShape, precision: Precision) -> float:
    """Bytes of a node's inputs and outputs; token ids are 4 bytes."""
    return sum(
        num_elements(v.shape, step) * (4.0 if v.integer else precision.activation_bytes)
        for v in (*node.inputs, *node.outputs)
    )


def output_elements(node: Node, step: StepShape) -> int:
    return sum(num_elements(v.shape, step) for v in node.outputs)
