"""Fusion: a short list of named rewrites, to fewer rows and to fused operators. Not a compiler.

Each rewrite is Graph -> Graph, applies wherever its pattern stands, and changes neither what the
graph computes nor which weights it has. A value that a pattern swallows has no reader outside it.
Backends may run any graph, fused or not; a fused one makes fewer passes over memory, and in a
prompt its last layer computes few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph, KvState, Node, Value, Weight
from ridgeline.model.graph.ops.activation import GatedActivation
from ridgeline.model.graph.ops.attention import KvWrite
from ridgeline.model.graph.ops.elementwise import Add, Split
from ridgeline.model.graph.ops.gated_linear import GatedLinear
from ridgeline.model.graph.ops.linear import Linear, merged
from ridgeline.model.graph.ops.norm import AddNorm, Norm
from ridgeline.model.graph.ops.rope import Rope, RopeKvWrite
from ridgeline.model.passes.select import select_early


def fuse(graph: Graph) -> Graph:
    """`graph` with every rewrite of `REWRITES` applied, in that order."""
    for rewrite in REWRITES.values():
        graph = rewrite(graph)
    if graph.encoder is not None:
        graph = replace(graph, encoder=fuse(graph.encoder))
    check_graph(graph)
    return graph


def merge_linears(graph: Graph) -> Graph:
    """Linears of one input that follow each other -> one Linear and a Split.

    They follow each other if no linear of another input, or with a bias where they have none,
    stands between them: q, k and v do; the branches of a parallel block do not.
    """
    runs: list[list[Node]] = []
    for node in graph.nodes:
        if not isinstance(node.op, Linear):
            continue
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and isinstance(last.op, Linear)
            and last.inputs == node.inputs
            and last.op.bias == node.op.bias
        ):
            runs[-1].append(node)
        else:
            runs.append([node])
    swallowed: set[int] = set()
    made: dict[int, tuple[Node, ...]] = {}
    next_id = _next_value_id(graph)
    for run in runs:
        if len(run) == 1:
            continue
        ops = tuple(node.op for node in run if isinstance(node.op, Linear))
        op = merged(ops)
        weights = tuple(
            weight for node, o in zip(run, ops, strict=True) for weight in o.parts(node.weights)
        ) + tuple(
            weight for node, o in zip(run, ops, strict=True) for weight in o.biases(node.weights)
        )
        (shape,) = op.shape((run[0].inputs[0].shape,), weights)
        joint = Value(next_id, shape)
        next_id += 1
        outputs = tuple(node.outputs[0] for node in run)
        split = Split(tuple(_width(value) for value in outputs))
        name = _joint_name([node.name for node in run])
        made[id(run[0])] = (
            Node(name, op, run[0].inputs, (joint,), weights),
            Node(f"{name}.split", split, (joint,), outputs),
        )
        swallowed.update(id(node) for node in run[1:])
    return _rebuilt(graph, made, swallowed)


def fuse_rope_kv_write(graph: Graph) -> Graph:
    """Split into q, k, v [-> Norms of the heads of q and k] [-> Ropes] -> KvWrite: RopeKvWrite."""
    uses = _Uses.of(graph)
    swallowed: set[int] = set()
    made: dict[int, tuple[Node, ...]] = {}
    for split in graph.nodes:
        match = _match_qkv(split, uses)
        if match is not None:
            made[id(split)] = (match.fused,)
            swallowed.update(id(node) for node in match.swallowed)
    return _rebuilt(graph, made, swallowed)


def join_gate_and_up(graph: Graph) -> Graph:
    """Split into gate and up -> GatedActivation: GatedActivation(joint=True)."""
    uses = _Uses.of(graph)
    swallowed: set[int] = set()
    made: dict[int, tuple[Node, ...]] = {}
    for split in graph.nodes:
        if not (isinstance(split.op, Split) and len(split.outputs) == 2):
            continue
        node = uses.only_reader(split.outputs[0])
        if (
            node is not None
            and isinstance(node.op, GatedActivation)
            and node.inputs == split.outputs
            and uses.only_reader(split.outputs[1]) is node
        ):
            joint = replace(node.op, joint=True)
            made[id(node)] = (Node(node.name, joint, split.inputs, node.outputs),)
            swallowed.add(id(split))
    return _rebuilt(graph, made, swallowed)


def fuse_gated_linear(graph: Graph) -> Graph:
    """Linear of gate and up, one part each or both in one -> GatedActivation: GatedLinear."""
    uses = _Uses.of(graph)
    swallowed: set[int] = set()
    made: dict[int, tuple[Node, ...]] = {}
    for linear in graph.nodes:
        if not isinstance(linear.op, Linear):
            continue
        act = uses.only_reader(linear.outputs[0])
        if act is None or not (isinstance(act.op, GatedActivation) and act.op.joint):
            continue
        sizes = [weight.shape[0] for weight in linear.op.parts(linear.weights)]
        if len(sizes) > 2 or sizes[0] != sizes[-1]:
            continue
        op = GatedLinear(act.op.activation, linear.op)
        made[id(linear)] = (Node(linear.name, op, linear.inputs, act.outputs, linear.weights),)
        swallowed.add(id(act))
    return _rebuilt(graph, made, swallowed)


def fuse_add_norm(graph: Graph) -> Graph:
    """Add -> Norm of the sum: AddNorm, which gives the sum too, for whoever else reads it."""
    uses = _Uses.of(graph)
    swallowed: set[int] = set()
    made: dict[int, tuple[Node, ...]] = {}
    for add in graph.nodes:
        if not isinstance(add.op, Add):
            continue
        norm = next((n for n in uses.readers(add.outputs[0]) if isinstance(n.op, Norm)), None)
        if norm is None:
            continue
        assert isinstance(norm.op, Norm)
        outputs = (add.outputs[0], norm.outputs[0])
        made[id(add)] = (Node(norm.name, AddNorm(norm.op), add.inputs, outputs, norm.weights),)
        swallowed.add(id(norm))
    return _rebuilt(graph, made, swallowed)


REWRITES: dict[str, Callable[[Graph], Graph]] = {
    "select_early": select_early,
    "merge_linears": merge_linears,
    "fuse_rope_kv_write": fuse_rope_kv_write,
    "join_gate_and_up": join_gate_and_up,
    "fuse_gated_linear": fuse_gated_linear,
    "fuse_add_norm": fuse_add_norm,
}


@dataclass(frozen=True, slots=True)
class _Match:
    fused: Node
    swallowed: tuple[Node, ...]


def _match_qkv(split: Node, uses: _Uses) -> _Match | None:
    if not (isinstance(split.op, Split) and len(split.outputs) == 3):
        return None
    q, k, v = split.outputs
    write = uses.only_reader(v)
    if write is None or not isinstance(write.op, KvWrite) or write.inputs[1] != v:
        return None
    state = write.state
    assert isinstance(state, KvState)
    if state.key_dim != state.value_dim or _width(q) % state.key_dim:
        return None
    num_heads = _width(q) // state.key_dim
    swallowed = [write]

    head_norm: Norm | None = None
    weights: tuple[Weight, ...] = ()
    k_norm, q_norm = uses.only_reader(k), uses.only_reader(q)
    if k_norm is not None and isinstance(k_norm.op, Norm):
        if q_norm is None or not isinstance(q_norm.op, Norm):
            return None
        head_norm = replace(k_norm.op, num_groups=1)
        if (
            len(k_norm.weights) != 1
            or k_norm.op.by_group
            or k_norm.op.num_groups != state.kv_heads
            or q_norm.op != replace(head_norm, num_groups=num_heads)
        ):
            return None
        weights = (*q_norm.weights, *k_norm.weights)
        swallowed += [q_norm, k_norm]
        (q,), (k,) = q_norm.outputs, k_norm.outputs

    rotation = None
    k_rope, q_rope = uses.only_reader(k), uses.only_reader(q)
    if k_rope is not None and isinstance(k_rope.op, Rope):
        rotation = k_rope.op.rotation
        if (
            q_rope is None
            or k_rope.op != Rope(state.kv_heads, state.key_dim, rotation)
            or q_rope.op != Rope(num_heads, state.key_dim, rotation)
        ):
            return None
        swallowed += [q_rope, k_rope]
        (q,), (k,) = q_rope.outputs, k_rope.outputs

    if uses.only_reader(k) is not write or write.inputs[0] != k:
        return None
    op = RopeKvWrite(num_heads, state.kv_heads, state.key_dim, rotation, head_norm)
    return _Match(Node(write.name, op, split.inputs, (q,), weights, state), tuple(swallowed))


@dataclass(frozen=True, slots=True)
class _Uses:
    """Who reads each value; a graph's outputs are read by the caller."""

    by_value: Mapping[int, Sequence[Node]]
    outputs: frozenset[int]

    @staticmethod
    def of(graph: Graph) -> _Uses:
        readers: dict[int, list[Node]] = {}
        for node in graph.nodes:
            for value in dict.fromkeys(node.inputs):
                readers.setdefault(value.id, []).append(node)
        return _Uses(readers, frozenset(value.id for value in graph.outputs))

    def readers(self, value: Value) -> Sequence[Node]:
        return self.by_value.get(value.id, ())

    def only_reader(self, value: Value) -> Node | None:
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value.id not in self.outputs else None


def _rebuilt(graph: Graph, made: Mapping[int, tuple[Node, ...]], swallowed: set[int]) -> Graph:
    """`graph` with nodes replaced by others (`made`) or left out, both by `id(node)`."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if id(node) in made:
            nodes += made[id(node)]
        elif id(node) not in swallowed:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _joint_name(names: Sequence[str]) -> str:
    """`layers.0.attn.q`, `.k`, `.v` -> `layers.0.attn.q_k_v`."""
    parents = {name.rpartition(".")[0] for name in names}
    if len(parents) > 1:
        return names[0]
    parent = parents.pop()
    leaf = "_".join(name.rpartition(".")[2] for name in names)
    return f"{parent}.{leaf}" if parent else leaf


def _next_value_id(graph: Graph) -> int:
    made = (value.id for node in graph.nodes for value in node.outputs)
    return max([*made, *(value.id for value in graph.inputs)], default=-1) + 1


def _width(value: Value) -> int:
    width = value.shape[-1]
    assert isinstance(width, int)
    return width
