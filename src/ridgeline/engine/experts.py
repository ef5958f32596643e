"""Which experts of a mixture the tokens of each request went to.

A token of the last layer is routed only if its logits are wanted: nobody else needs that layer's
output. What the prefix cache had was routed for an earlier request, and is not counted again; what
a preempted request computes again is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ridgeline.engine.executor import Executor
from ridgeline.engine.request import Request
from ridgeline.errors import RequestError
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Experts
from ridgeline.step import StepPlan

Counts = Mapping[str, npt.NDArray[np.int64]]
Chosen = Callable[[], Mapping[str, npt.NDArray[np.int32]]]


class ExpertCounter:
    """Adds a step's choices to its requests.

    chosen: of the step that was run, the experts of each mixture by its node's name, [tokens or
    rows of logits, experts a token]. num_experts: of each such node.
    """

    def __init__(self, chosen: Chosen, num_experts: Mapping[str, int]) -> None:
        self._chosen = chosen
        self._num_experts = num_experts

    def count(self, plan: StepPlan, requests: Sequence[Request]) -> None:
        """requests: of the plan's rows, in their order."""
        tokens = np.cumsum([row.num_new for row in plan.rows])
        logits = np.cumsum([row.num_logits for row in plan.rows])
        for name, experts in self._chosen().items():
            ends = tokens if len(experts) == tokens[-1] else logits
            assert len(experts) == ends[-1], f"{name}: {len(experts)} rows were routed"
            size = self._num_experts[name]
            parts = np.split(experts, ends[:-1])
            for request, part in zip(requests, parts, strict=True):
                counts = np.bincount(part.reshape(-1), minlength=size)
                before = request.experts.get(name)
                request.experts[name] = counts if before is None else before + counts


def counter_of(graph: Graph, executor: Executor) -> ExpertCounter:
    """Raises RequestError for a model that has no experts, or a backend that routes nothing."""
    sizes = {node.name: node.op.num_experts for node in graph.nodes if isinstance(node.op, Experts)}
    chosen = getattr(executor, "chosen_experts", None)
    if not sizes or chosen is None:
        why = "this model has no experts" if chosen is not None else "this backend routes nothing"
        raise RequestError("expert_counts", f"there is nothing to count: {why}")
    return ExpertCounter(chosen, sizes)


def added(parts: Sequence[Counts]) -> dict[str, npt.NDArray[np.int64]]:
    """Counts of several requests together."""
    total: dict[str, npt.NDArray[np.int64]] = {}
    for counts in parts:
        for name, each in counts.items():
            total[name] = total[name] + each if name in total else each
    return total
