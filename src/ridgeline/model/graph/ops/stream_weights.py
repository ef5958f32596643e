"""stream_weights: by what residual streams are mixed (hyper-connections, Zhu et al. 2024, kept
doubly stochastic: Xie et al. 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.model.graph.dims import Shape, num_elements
from ridgeline.model.graph.ops.operator import (
    Operator,
    Placement,
    Sharded,
    moved_bytes,
    require,
    require_counts,
)
from ridgeline.model.graph.ops.streams import whole
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape
from ridgeline.units import FLOPS_PER_MULTIPLY_ADD

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight


@dataclass(frozen=True, slots=True)
class StreamWeights(Operator):
    """(x_1 .. x_n [*, D]) -> numbers that `mix` takes: [*, n] to make one of the streams, and [*, n
    (n + 1)] to make the next n of them and of what becomes of that one; weights (W [n (n + 2), n
    D], b [n (n + 2)], s [3]).

    y = W x / rms, x being all streams of a row and rms the root of its mean square + eps. Three
    parts of y, times s of each, plus b: p [n], q [n] and c [n, n]. The first numbers are sigmoid(p)
    + floor. Of the second, stream k is 2 sigmoid(q_k) of what became of the one, plus C_jk of each
    stream j: C is the softmax of c's rows + floor, its columns divided by their sums + floor, then
    rows and columns in turn, `iterations` times columns in all (Sinkhorn and Knopp 1967).
    last: the first numbers alone, by W [n, n D], b [n], s [1].
    """

    num_streams: int
    iterations: int
    eps: float
    floor: float
    last: bool = False

    @property
    def num_rows(self) -> int:
        """Of W."""
        return self.num_streams if self.last else self.num_streams * (self.num_streams + 2)

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        n, rows = self.num_streams, inputs[0][:-1]
        one = (*rows, n)
        return (one,) if self.last else (one, (*rows, n * (n + 1)))

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        rows, n = num_elements(node.inputs[0].shape[:-1], step), self.num_streams
        matrix = node.weights[0]
        flops = float(FLOPS_PER_MULTIPLY_ADD * rows * (matrix.num_elements + matrix.shape[1]))
        if not self.last:
            flops += 4.0 * rows * n * n * self.iterations
        return Work(
            flops={"f32": flops},
            weight_bytes=sum(w.num_bytes for w in node.weights),
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        return whole(self, (*inputs, *weights), 1 if self.last else 2)

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        require(self.num_streams >= 1 and self.iterations >= 1, self, "has no streams to mix")
        require(self.eps >= 0 and self.floor >= 0, self, "eps or floor is negative")
        require_counts(self, inputs, weights, self.num_streams, 3)
        require(len({x.shape for x in inputs}) == 1, self, "its streams differ in shape")
        width = inputs[0].shape[-1]
        assert isinstance(width, int)
        rows = self.num_rows
        needed = ((rows, self.num_streams * width), (rows,), (1 if self.last else 3,))
        for weight, shape in zip(weights, needed, strict=True):
            require(
                weight.shape == shape,
                self,
                f"{weight.name} has shape {weight.shape}; {shape} is needed",
            )
