"""Tensor parallelism: one graph -> an ordinary graph for each rank of one mesh axis.

A model only labels the axes of its weights; where the cut goes follows from the operators' shard
rules, and collectives are put where an operator cannot work on what it is given. A rank's graph is
executed and priced like any other.

A rank's share of a weight is named `name@dim:part/parts`, from which `share_of` reads the rows or
columns that it is. Does not know bytes, devices, or how ranks talk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ridgeline.errors import ModelError
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.dims import Shape
from ridgeline.model.graph.node import Graph, KvState, Node, State, Value, Weight
from ridgeline.model.graph.ops.activation import GatedActivation
from ridgeline.model.graph.ops.attention import Attention
from ridgeline.model.graph.ops.collectives import AllGather, AllReduce
from ridgeline.model.graph.ops.elementwise import Split
from ridgeline.model.graph.ops.embed import Embed
from ridgeline.model.graph.ops.entries import EntryAttention
from ridgeline.model.graph.ops.experts import Experts
from ridgeline.model.graph.ops.gated_linear import GatedLinear
from ridgeline.model.graph.ops.latent import LatentAttention
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.ops.operator import PARTIAL, REPLICATED, Operator, Placement
from ridgeline.model.graph.ops.rope import RopeKvWrite

ATTENDING = (Attention, LatentAttention, EntryAttention)


@dataclass(frozen=True, slots=True)
class Share:
    """Part `part` of `parts` equal ones of dimension `dim` of the weight `name` of the model."""

    name: str
    dim: int
    part: int
    parts: int


def share_of(weight: Weight) -> Share:
    """Which share of the model's weight this is; (name, 0, 0, 1) for all of it."""
    match = re.fullmatch(r"(.+)@(\d+):(\d+)/(\d+)", weight.name)
    if match is None:
        return Share(weight.name, 0, 0, 1)
    dim, part, parts = (int(group) for group in match.groups()[1:])
    return Share(match.group(1), dim, part, parts)


def shard(graph: Graph, ways: int) -> tuple[Graph, ...]:
    """Graphs of ranks 0 to ways - 1, each with the inputs and outputs of `graph`.

    "heads", "kv_heads", "ffn", "vocab" and "experts" are cut where they divide by `ways`, in whole
    blocks of the format. Fewer KV heads than ranks: each rank keeps the one that its queries read,
    if `ways` is a multiple of them; else attention stays whole on every rank. What cannot be cut is
    copied. Best before `fuse`, which then fuses each rank's graph.
    """
    if ways < 1:
        raise ModelError(f"{graph.name}: cannot be cut in {ways} parts; use 1 or more")
    if ways == 1:
        return (graph,)
    if graph.encoder is not None:
        raise ModelError(f"{graph.name}: a model with an encoder is not cut; use one part")
    return _cut(graph, ways, range(ways))


def shard_rank(graph: Graph, ways: int, rank: int = 0) -> Graph:
    """The graph of one of the ranks that `shard` gives: what pricing a rank needs."""
    if graph.encoder is not None and ways > 1:
        raise ModelError(f"{graph.name}: a model with an encoder is not cut; use one part")
    if not 0 <= rank < ways:
        raise ModelError(f"{graph.name}: rank {rank} is not among {ways}")
    return graph if ways == 1 else _cut(graph, ways, (rank,))[0]


def _cut(graph: Graph, ways: int, ranks: Iterable[int]) -> tuple[Graph, ...]:
    kv_parts = _kv_parts(graph, ways)
    try:
        made = tuple(_Rank(graph, ways, rank, kv_parts).run() for rank in ranks)
    except ModelError:
        if kv_parts is None:
            raise
        # Some layer's q, k and v do not reach its cache cut as the cache is.
        made = tuple(_Rank(graph, ways, rank, None).run() for rank in ranks)
    for rank_graph in made:
        check_graph(rank_graph)
    return made


@dataclass(frozen=True, slots=True)
class _Placed:
    """A value's local twin. parts: in how many different parts its channels are cut: `ways`, or the
    number of KV heads where several ranks hold the same one.
    """

    value: Value
    placement: Placement
    parts: int


class _Rank:
    """Builds one rank's graph, node by node; kv_parts None leaves attention whole."""

    def __init__(self, graph: Graph, ways: int, rank: int, kv_parts: int | None) -> None:
        self._graph = graph
        self._ways = ways
        self._rank = rank
        self._nodes: list[Node] = []
        self._placed: dict[int, _Placed] = {}
        self._whole: dict[int, _Placed] = {}
        self._next_id = 0
        self._kv_parts = kv_parts
        self._readers: dict[int, list[Node]] = {}
        for node in graph.nodes:
            for value in node.inputs:
                self._readers.setdefault(value.id, []).append(node)
        self._makers = {value.id: node for node in graph.nodes for value in node.outputs}

    def run(self) -> Graph:
        inputs = tuple(self._value(v.shape, v.integer) for v in self._graph.inputs)
        for value, local in zip(self._graph.inputs, inputs, strict=True):
            self._placed[value.id] = _Placed(local, REPLICATED, self._ways)
        for node in self._graph.nodes:
            self._add(node)
        outputs = tuple(self._made_whole(v, "logits").value for v in self._graph.outputs)
        name = f"{self._graph.name}@{self._rank}/{self._ways}"
        return replace(
            self._graph, name=name, nodes=tuple(self._nodes), inputs=inputs, outputs=outputs
        )

    def _add(self, node: Node) -> None:
        """The node on its share; else on whole inputs; else on whole inputs and weights."""
        given = tuple(self._placed[value.id] for value in node.inputs)
        cuts = self._cuts(node)
        if self._try(node, given, cuts):
            return
        whole = tuple(self._made_whole(value, node.name) for value in node.inputs)
        if self._try(node, whole, cuts):
            return
        if not self._try(node, whole, (None,) * len(node.weights)):
            raise ModelError(
                f"{self._graph.name}: {node.name}: {type(node.op).__name__} cannot run on "
                f"{self._ways} ranks"
            )

    def _try(
        self,
        node: Node,
        inputs: tuple[_Placed, ...],
        cuts: tuple[Share | None, ...],
    ) -> bool:
        parts = {x.parts for x in inputs if x.placement.split is not None}
        parts |= {cut.parts for cut in cuts if cut is not None}
        if len(parts) > 1:
            return False
        ways = parts.pop() if parts else self._ways
        weights = tuple(Placement() if cut is None else Placement(split=cut.dim) for cut in cuts)
        sharded = node.op.shard(tuple(x.placement for x in inputs), weights, ways)
        if (
            sharded is None
            or not self._states_agree(node, inputs)
            or not self._sections_agree(node, inputs)
        ):
            return False
        local_weights = tuple(
            weight if cut is None else local_weight(weight, cut)
            for weight, cut in zip(node.weights, cuts, strict=True)
        )
        op: Operator = sharded.op
        if isinstance(op, Embed) and cuts[0] is not None and cuts[0].dim == 0:
            op = replace(op, first_row=cuts[0].part * local_weights[0].shape[0])
        if isinstance(op, Experts) and cuts[0] is not None and cuts[0].dim == 0:
            op = replace(op, first_expert=cuts[0].part * local_weights[0].shape[0])
        if isinstance(op, Attention) and op.blocks is not None:
            state = node.state
            assert isinstance(state, KvState)
            parts_of = self._kv_parts or 1
            first = self._rank * parts_of // self._ways * (state.kv_heads // parts_of)
            op = replace(op, blocks=replace(op.blocks, first=first))
        shapes = op.shape(tuple(x.value.shape for x in inputs), local_weights)
        outputs = tuple(self._value(shape) for shape in shapes)
        for value, local, placement in zip(node.outputs, outputs, sharded.outputs, strict=True):
            self._placed[value.id] = _Placed(local, placement, ways)
        local_inputs = tuple(x.value for x in inputs)
        self._nodes.append(
            Node(
                node.name,
                op,
                local_inputs,
                outputs,
                local_weights,
                self._state(node.state),
                node.entries,
            )
        )
        return True

    def _cuts(self, node: Node) -> tuple[Share | None, ...]:
        """Where each weight of a node is cut."""
        cuts = [self._cut(weight) for weight in node.weights]
        if not isinstance(node.op, Linear | GatedLinear):
            return tuple(cuts)
        matrices = cuts[: len(node.op.parts(node.weights))]
        dims = {None if cut is None else (cut.dim, cut.parts) for cut in matrices}
        if len(dims) > 1 or (matrices[0] is not None and not self._parts_stay_apart(node)):
            return (None,) * len(cuts)
        # A bias goes with the rows of its matrix, labelled or not.
        biases = [
            None if cut is None or cut.dim != 0 else Share(weight.name, 0, cut.part, cut.parts)
            for weight, cut in zip(node.op.biases(node.weights), matrices, strict=False)
        ]
        return (*matrices, *biases)

    def _cut(self, weight: Weight) -> Share | None:
        for dim, axis in enumerate(weight.axes):
            parts = self._parts_of(axis)
            size = weight.shape[dim]
            if parts == 1 or size % parts:
                continue
            is_row = dim == len(weight.shape) - 1
            if is_row and len(weight.shape) > 1 and size // parts % weight.format.block_elements:
                continue
            return Share(weight.name, dim, self._rank * parts // self._ways, parts)
        return None

    def _parts_of(self, axis: str | None) -> int:
        if axis in ("ffn", "vocab", "experts"):
            return self._ways
        if axis == "heads":
            return self._ways if self._kv_parts is not None else 1
        if axis == "kv_heads":
            return self._kv_parts or 1
        return 1

    def _parts_stay_apart(self, node: Node) -> bool:
        """Whether the readers of several matrices' rows side by side part them where they meet.

        Cut rows of q, k and v side by side are not a cut of q|k|v: only an operator that parts them
        again at the same columns may read them.
        """
        if isinstance(node.op, GatedLinear):
            return len(node.op.parts(node.weights)) == 2
        assert isinstance(node.op, Linear)
        sizes = [weight.shape[0] for weight in node.op.parts(node.weights)]
        readers = self._readers.get(node.outputs[0].id, [])
        sections = [_sections(reader) for reader in readers]
        if len(sizes) == 1 and all(section is None for section in sections):
            return True
        return len(readers) == 1 and sections == [tuple(sizes)]

    def _sections_agree(self, node: Node, inputs: tuple[_Placed, ...]) -> bool:
        """Whether an operator that parts its channels finds each part cut, not the whole."""
        if _sections(node) is None or inputs[0].placement.split is None:
            return True
        maker = self._makers.get(node.inputs[0].id)
        return maker is not None and isinstance(maker.op, Linear) and maker.op.num_parts > 1

    def _states_agree(self, node: Node, inputs: tuple[_Placed, ...]) -> bool:
        """Whether a node sees as many heads as its rank's cache has."""
        if not isinstance(node.state, KvState):
            return True  # a recurrent state is a copy on every rank, as what updates it
        is_cut = inputs[0].placement.split is not None
        if node.state.latent and not isinstance(node.op, LatentAttention | EntryAttention):
            return not is_cut  # keys that select: whole on every rank
        if isinstance(node.op, ATTENDING):
            return is_cut == (self._kv_parts is not None)
        kv_parts = self._kv_parts or 1
        return (inputs[0].parts if is_cut else 1) == kv_parts

    def _state(self, state: State | None) -> State | None:
        if not isinstance(state, KvState) or self._kv_parts is None or state.latent:
            return state
        heads = state.kv_heads // self._kv_parts
        first = self._rank * self._kv_parts // self._ways * heads * state.key_dim
        balance = state.balance and state.balance.part(first, heads * state.key_dim)
        return replace(state, kv_heads=heads, balance=balance)

    def _made_whole(self, value: Value, reader: str) -> _Placed:
        """The value on every rank: summed or gathered once, for all its readers."""
        placed = self._placed[value.id]
        if placed.placement == REPLICATED:
            return placed
        if value.id not in self._whole:
            op: Operator
            if placed.placement == PARTIAL:
                op, name = AllReduce(self._ways), f"{reader}.all_reduce"
            elif placed.placement.split == -1 and placed.parts == self._ways:
                op, name = AllGather(self._ways), f"{reader}.all_gather"
            else:
                raise ModelError(
                    f"{self._graph.name}: {reader}: needs all of a value of which {self._ways} "
                    f"ranks hold {placed.parts} parts"
                )
            (shape,) = op.shape((placed.value.shape,), ())
            output = self._value(shape)
            self._nodes.append(Node(name, op, (placed.value,), (output,)))
            self._whole[value.id] = _Placed(output, REPLICATED, self._ways)
        # Later readers that could do with the cut value take this one too: it is there.
        self._placed[value.id] = self._whole[value.id]
        return self._whole[value.id]

    def _value(self, shape: Shape, integer: bool = False) -> Value:
        self._next_id += 1
        return Value(self._next_id - 1, shape, integer)


def _kv_parts(graph: Graph, ways: int) -> int | None:
    """In how many parts the KV heads are cut; None: attention stays whole on every rank."""
    heads = [(n.op.num_heads, n.state) for n in graph.nodes if isinstance(n.op, ATTENDING)]
    parts: set[int] = set()
    for num_heads, state in heads:
        assert isinstance(state, KvState)
        if num_heads % ways:
            return None
        if state.kv_heads % ways == 0:
            parts.add(ways)
        elif ways % state.kv_heads == 0:
            parts.add(state.kv_heads)
        else:
            return None
    return parts.pop() if len(parts) == 1 else None


def local_weight(weight: Weight, cut: Share) -> Weight:
    """The share `cut` of a weight, which its name says."""
    shape = list(weight.shape)
    shape[cut.dim] //= cut.parts
    name = f"{weight.name}@{cut.dim}:{cut.part}/{cut.parts}"
    return replace(weight, name=name, shape=tuple(shape))


def _sections(node: Node) -> tuple[int, ...] | None:
    """Columns at which an operator parts its input; None if it takes it as one."""
    if isinstance(node.op, Split):
        return node.op.sizes
    if isinstance(node.op, RopeKvWrite):
        kv_width = node.op.kv_heads * node.op.head_dim
        return (node.op.num_heads * node.op.head_dim, kv_width, kv_width)
    if isinstance(node.op, GatedActivation) and node.op.joint:
        width = node.inputs[0].shape[-1]
        assert isinstance(width, int)
        return (width // 2, width // 2)
    return None
