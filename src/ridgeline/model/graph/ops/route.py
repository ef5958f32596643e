"""route: which experts a token goes to, and how much each of them counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ridgeline.model.graph.dims import Shape, num_elements
from ridgeline.model.graph.ops.operator import (
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
from ridgeline.units import FLOPS_PER_MULTIPLY_ADD

if TYPE_CHECKING:
    from ridgeline.model.graph.node import Node, State, Value, Weight

Scores = Literal["softmax", "sigmoid", "sqrt_softplus", "sparsemixer"]

FLOPS_PER_SCORE = 8.0  # an exponential, a sum, and the selection's comparisons


@dataclass(frozen=True, slots=True)
class Route(Operator):
    """x [*, D] -> slots [*, 2 top_k]: a token's experts, best first, then their weights; weights
    (router [E, D], if bias b [E], if correction c [E], if gain g [E], if by_token t [vocab,
    top_k]).

    logits = x router^T (+ b). scores = softmax over all experts, or sigmoid, or sqrt(log(1 + e^l))
    (DeepSeek V4) of the logits. by_token: a second input has the token ids, and a token's experts
    are its id's row of t (hash layers, Roller et al. 2021); else experts are chosen by scores (+ c,
    DeepSeek V3): equals go to the lower number; with groups (of E / num_groups experts that follow
    each other) only in the top_groups groups whose best group_best chosen-by figures have the
    largest sum (DeepSeek V2 and V3). Their weights are the scores without c; normalize: over the
    sum of the chosen ones, which makes of softmax over all experts the softmax over the chosen;
    then times scale, and times g of the expert. Numbers of experts are stored as numbers.

    sparsemixer (Liu et al. 2024): the expert of the largest logit m, weighed by the softmax over
    those with m - l <= 2 jitter max(|l|, m); then the same among the others.
    """

    top_k: int
    scores: Scores = "softmax"
    normalize: bool = True
    scale: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    bias: bool = False
    correction: bool = False
    gain: bool = False
    jitter: float = 0.0
    by_token: bool = False

    def shape(self, inputs: tuple[Shape, ...], weights: tuple[Weight, ...]) -> tuple[Shape, ...]:
        return ((*inputs[0][:-1], 2 * self.top_k),)

    def cost(self, node: Node, step: StepShape, precision: Precision) -> Work:
        rows = num_elements(node.inputs[0].shape[:-1], step)
        router = node.weights[0]
        flops = float(FLOPS_PER_MULTIPLY_ADD * rows * router.num_elements)
        flops += FLOPS_PER_SCORE * rows * router.shape[0]
        weights = sum(w.num_bytes for w in node.weights)
        if self.by_token:  # of the table a row a token
            table = node.weights[-1]
            weights += (min(rows, table.shape[0]) - table.shape[0]) * (
                table.num_bytes // table.shape[0]
            )
        return Work(
            flops={"f32": flops},
            weight_bytes=weights,
            activation_bytes=moved_bytes(node, step, precision),
        )

    def shard(
        self, inputs: tuple[Placement, ...], weights: tuple[Placement, ...], ways: int
    ) -> Sharded | None:
        whole = all(x == REPLICATED for x in (*inputs, *weights))
        return Sharded(self, (REPLICATED,)) if whole else None

    def check(
        self, inputs: tuple[Value, ...], weights: tuple[Weight, ...], state: State | None
    ) -> None:
        vectors = 1 + self.bias + self.correction + self.gain
        require_counts(self, inputs, weights, 1 + self.by_token, vectors + self.by_token)
        router, width = weights[0], inputs[0].shape[-1]
        require(
            len(router.shape) == 2 and router.shape[1] == width,
            self,
            f"{router.name} has shape {router.shape}; (experts, {width}) is needed",
        )
        num_experts = router.shape[0]
        for vector in weights[1:vectors]:
            require(
                vector.shape == (num_experts,),
                self,
                f"{vector.name} has shape {vector.shape}; ({num_experts},) is needed",
            )
        if self.by_token:
            table = weights[-1]
            require(
                len(table.shape) == 2 and table.shape[1] == self.top_k,
                self,
                f"{table.name} has shape {table.shape}; (vocabulary, {self.top_k}) is needed",
            )
            require(inputs[1].integer, self, "its second input is not token ids")
            plain = not self.correction and self.num_groups == 1 and self.scores != "sparsemixer"
            require(plain, self, "what a token id says leaves nothing to choose")
        require(
            self.num_groups >= 1 and num_experts % self.num_groups == 0,
            self,
            f"{num_experts} experts do not part into {self.num_groups} groups",
        )
        sparse = Route(self.top_k, self.scores, False, bias=self.bias, jitter=self.jitter)
        require(
            self.scores != "sparsemixer" or (self == sparse and self.jitter >= 0),
            self,
            "a sparse mixer has no groups, no correction and no scales, and a jitter of 0 or more",
        )
        each = num_experts // self.num_groups
        require(
            1 <= self.top_groups <= self.num_groups and 1 <= self.group_best <= each,
            self,
            f"the best {self.top_groups} of {self.num_groups} groups by the best {self.group_best} "
            f"of {each} experts",
        )
        require(
            1 <= self.top_k <= self.top_groups * each,
            self,
            f"{self.top_k} experts a token, of {self.top_groups * each} that may be chosen",
        )
