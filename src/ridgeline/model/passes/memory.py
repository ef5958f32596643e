"""Where every value of a step lies in one arena: liveness, views, in-place outputs, best fit.

Does not know which backend reads the plan; it only promises that two values which are needed at the
same node never share a byte, except a view with its base and an in-place output with its input.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Mapping
from dataclasses import dataclass
from operator import itemgetter
from types import MappingProxyType

from ridgeline.model.graph.dims import SAMPLED, SEQUENCES, TOKENS, Dim
from ridgeline.model.graph.node import Graph, Node, Value
from ridgeline.model.graph.ops.activation import Activate, GatedActivation, Xielu
from ridgeline.model.graph.ops.elementwise import Add, Scale, Softcap, Split
from ridgeline.model.graph.ops.norm import AddNorm

ELEMENT_BYTES = 4  # float32
ALIGNMENT_BYTES = 64  # a cache line, and the widest vector load
NOTHING: Mapping[int, int] = MappingProxyType({})
_start = itemgetter(0)


@dataclass(frozen=True, slots=True)
class View:
    """A value that is columns [column, column + width) of `base`, whose rows it strides over.

    base: value id; never itself a view. column, row_stride: elements.
    """

    base: int
    column: int
    row_stride: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All keys are value ids; every value but token ids has an offset.

    offsets: bytes from the arena's start, of the first element of a view too. row_strides: elements
    from one row to the next. views: the outputs of splits. in_place: output -> the input whose
    bytes it takes over. value_bytes: of each value that has memory of its own. arena_bytes: the
    whole, for the largest step; a smaller step uses the same offsets.
    """

    offsets: Mapping[int, int]
    row_strides: Mapping[int, int]
    views: Mapping[int, View]
    in_place: Mapping[int, int]
    value_bytes: Mapping[int, int]
    arena_bytes: int


def plan_memory(
    graph: Graph,
    *,
    max_tokens: int,
    max_sampled: int,
    max_sequences: int,
    row_bytes: Mapping[int, int] = NOTHING,
) -> MemoryPlan:
    """A plan for steps of at most so many tokens, logits and rows.

    row_bytes: of values that a backend stores otherwise than as float32, by id; such a value shares
    its memory with no other.
    Outputs of the graph keep their memory to the end; a value that nobody reads has some while its
    node runs. Largest first, each value in the smallest gap that fits between those that live when
    it does.
    """
    sizes: dict[Dim, int] = {TOKENS: max_tokens, SAMPLED: max_sampled, SEQUENCES: max_sequences}
    inputs = {value.id for value in graph.inputs}
    given = tuple(value for value in graph.inputs if not value.integer)
    lives, views, in_place = _lives(graph, inputs, row_bytes)

    value_bytes: dict[int, int] = {}
    row_strides: dict[int, int] = {}
    for value in (*given, *(value for node in graph.nodes for value in node.outputs)):
        view = views.get(value.id)
        row_strides[value.id] = view.row_stride if view else _elements(value.shape[1:], sizes)
        if view is None and value.id not in in_place:
            rows = _elements(value.shape[:1], sizes)
            own = row_bytes.get(value.id, ELEMENT_BYTES * row_strides[value.id])
            value_bytes[value.id] = rows * own

    offsets: dict[int, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # (start, end, of a life: first, last), by start
    for owner in sorted(lives, key=lambda owner: (-value_bytes[owner], owner)):
        life, size = lives[owner], _aligned(value_bytes[owner])
        first, last = life.first, life.last
        together = [(s, e) for s, e, begin, until in placed if begin <= last and first <= until]
        start = _best_gap(together, size)
        offsets[owner] = start
        insort(placed, (start, start + size, first, last), key=_start)

    for value in (value for node in graph.nodes for value in node.outputs):
        if value.id in views:
            view = views[value.id]
            offsets[value.id] = offsets[view.base] + ELEMENT_BYTES * view.column
        elif value.id in in_place:
            offsets[value.id] = offsets[in_place[value.id]]
    arena_bytes = max((end for _, end, _, _ in placed), default=0)
    return MemoryPlan(offsets, row_strides, views, in_place, value_bytes, arena_bytes)


@dataclass(slots=True)
class _Life:
    """Node indices at which a piece of memory holds something needed, both ends included."""

    first: int
    last: int


def _lives(
    graph: Graph, inputs: set[int], otherwise: Container[int]
) -> tuple[dict[int, _Life], dict[int, View], dict[int, int]]:
    """Lives by owning value, and which values are views or in place of what."""
    end = len(graph.nodes)
    last_use: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            last_use[value.id] = index
    for value in graph.outputs:
        last_use[value.id] = end

    owner_of: dict[int, int] = {}
    lives: dict[int, _Life] = {}
    views: dict[int, View] = {}
    in_place: dict[int, int] = {}
    # A piece of memory dies with the last of the values in it. Views are found first, so that a
    # value is only overwritten once its views are done.
    last_of_owner = dict(last_use)
    for node in graph.nodes:
        if isinstance(node.op, Split):
            for value, view in zip(node.outputs, _split_views(node, views), strict=True):
                views[value.id] = view
                last_of_owner[view.base] = max(
                    last_of_owner.get(view.base, 0), last_use.get(value.id, 0)
                )
    for value in graph.inputs:
        if not value.integer:
            # There before the first node runs.
            owner_of[value.id] = value.id
            lives[value.id] = _Life(0, last_of_owner.get(value.id, 0))
    for index, node in enumerate(graph.nodes):
        for position, value in enumerate(node.outputs):
            if value.id in views:
                owner_of[value.id] = owner_of[views[value.id].base]
                continue
            last = max(index, last_of_owner.get(value.id, index))
            target = _overwritable(node, inputs, views, last_of_owner, index)
            apart = value.id in otherwise or (target is not None and target.id in otherwise)
            if position == 0 and target is not None and not apart:
                in_place[value.id] = target.id
                owner_of[value.id] = owner_of[target.id]
                lives[owner_of[value.id]].last = last
                continue
            owner_of[value.id] = value.id
            lives[value.id] = _Life(index, last)
    return lives, views, in_place


def _split_views(node: Node, views: Mapping[int, View]) -> list[View]:
    source = node.inputs[0]
    width = source.shape[-1]
    assert isinstance(width, int)
    root = views.get(source.id, View(source.id, 0, width))
    assert isinstance(node.op, Split)
    result: list[View] = []
    column = root.column
    for size in node.op.sizes:
        result.append(View(root.base, column, root.row_stride))
        column += size
    return result


def _overwritable(
    node: Node,
    inputs: set[int],
    views: Mapping[int, View],
    last_use: Mapping[int, int],
    index: int,
) -> Value | None:
    """The input whose bytes the first output may take: same place, element by element."""
    elementwise = isinstance(node.op, Add | AddNorm | Scale | Softcap | Activate | Xielu) or (
        isinstance(node.op, GatedActivation) and not node.op.joint
    )
    if not elementwise:
        return None
    for value in node.inputs:
        if value.id not in inputs and value.id not in views and last_use[value.id] == index:
            return value
    return None


def _best_gap(taken: list[tuple[int, int]], size: int) -> int:
    """Start of the smallest gap of at least `size` between ranges sorted by start, or their end."""
    best: tuple[int, int] | None = None
    cursor = 0
    for start, end in taken:
        gap = start - cursor
        if gap >= size and (best is None or gap < best[0]):
            best = (gap, cursor)
        cursor = max(cursor, end)
    return best[1] if best is not None else cursor


def _elements(shape: tuple[Dim, ...], sizes: Mapping[Dim, int]) -> int:
    count = 1
    for dim in shape:
        count *= dim if isinstance(dim, int) else sizes[dim]
    return count


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
