"""An empty native program for a graph, and what a filled one allocates: known from the graph alone.

What a program will allocate is told by one that is built of the same operators and only counts: no
size is described a second time, and no weight is read. Does not know steps or requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.activations import activation_kinds, row_bytes
from ridgeline.backends.cpu.bind import bind
from ridgeline.backends.cpu.bind_cross import cross_memory
from ridgeline.cost.memory import Needs
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.graph.ops.embed import Embed
from ridgeline.model.passes.memory import MemoryPlan, plan_memory
from ridgeline.model.passes.state_groups import state_groups
from ridgeline.step import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """The largest steps and tables of a program. num_blocks: of the cache. max_sampled: rows of
    logits. num_slots: of recurrent states, 0 where the graph has none.
    """

    isa: str
    threads: int
    num_blocks: int
    max_rows: int
    max_tokens: int
    max_sampled: int
    num_slots: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where values lie, and as what: kinds of activations by value id."""

    plan: MemoryPlan
    kinds: Mapping[int, str]


def layout_of(graph: Graph, limits: ProgramLimits, quantize_early: bool = True) -> Layout:
    kinds = activation_kinds(graph, limits.isa) if quantize_early else {}
    plan = plan_memory(
        graph,
        max_tokens=limits.max_tokens,
        max_sampled=limits.max_sampled,
        max_sequences=limits.max_rows,
        row_bytes=row_bytes(graph, kinds),
    )
    return Layout(plan, kinds)


def empty_program(
    graph: Graph,
    limits: ProgramLimits,
    plan: MemoryPlan,
    counts_only: bool = False,
    cross: _native.CrossMemory | None = None,
) -> _native.Program:
    """cross: what its operators of cross attention write or see. Raises MemoryError where the
    system refuses the arena.
    """
    width = graph.outputs[0].shape[-1]
    assert isinstance(width, int)
    tables = [node.weights[0].shape[0] for node in graph.nodes if isinstance(node.op, Embed)]
    program = _native.Program(
        isa=limits.isa,
        threads=limits.threads,
        num_blocks=limits.num_blocks,
        max_rows=limits.max_rows,
        max_tokens=limits.max_tokens,
        max_sampled=limits.max_sampled,
        max_context=graph.max_context,
        vocab=width,
        vocab_ids=min(tables, default=width),
        arena_bytes=plan.arena_bytes,
        num_slots=limits.num_slots,
        windows=[window or 0 for window in state_groups(graph).column_windows],
        counts_only=counts_only,
    )
    if cross is not None:
        program.share_cross(cross)
    return program


def predict_memory(graph: Graph, limits: ProgramLimits) -> dict[str, int]:
    """Bytes by kind as the executor's `memory` will say, before a weight is read."""
    _, kinds = _counted(replace(graph, encoder=None), limits)
    if graph.encoder is None:
        return kinds
    _, own = _counted(graph.encoder, encoder_limits(graph.encoder, limits))
    together = {kind: size + own[kind] for kind, size in kinds.items()}
    return together | {"cross": _cross_row_bytes(graph) * limits.max_rows}


def predict_needs(graph: Graph, limits: ProgramLimits) -> Needs:
    """What does not depend on how large the cache is; it is sized after that. An encoder's own
    cache is as large as it is.
    """
    program, kinds = _counted(replace(graph, encoder=None), limits)
    fixed = {kind: size for kind, size in kinds.items() if kind not in ("kv", "states")}
    if graph.encoder is None:
        return Needs(fixed, program.kv_block_bytes, program.state_bytes)
    _, own = _counted(graph.encoder, encoder_limits(graph.encoder, limits))
    fixed = {kind: size + fixed.get(kind, 0) for kind, size in own.items()}
    return Needs(fixed, program.kv_block_bytes, program.state_bytes, _cross_row_bytes(graph))


def encoder_limits(graph: Graph, limits: ProgramLimits) -> ProgramLimits:
    """Of an encoder, by those of its decoder: one row's positions in one step, any of which may be
    asked for.
    """
    return ProgramLimits(
        isa=limits.isa,
        threads=limits.threads,
        num_blocks=-(-graph.max_context // BLOCK_TOKENS),
        max_rows=limits.max_rows,
        max_tokens=graph.max_context,
        max_sampled=graph.max_context,
    )


def _counted(graph: Graph, limits: ProgramLimits) -> tuple[_native.Program, dict[str, int]]:
    """A program that only counts, and its bytes by kind."""
    layout = layout_of(graph, limits)
    cross = cross_memory(graph.cross_states, limits.max_rows, counts_only=True)
    program = empty_program(graph, limits, layout.plan, counts_only=True, cross=cross)
    bind(program, graph, layout.plan, _NoWeights(), layout.kinds)
    return program, memory_of(program, graph)


def _cross_row_bytes(graph: Graph) -> int:
    memory = cross_memory(graph.cross_states, 1, counts_only=True)
    return 0 if memory is None else memory.row_bytes


def memory_of(program: _native.Program, graph: Graph) -> dict[str, int]:
    """Bytes by kind: packed weights and vectors; the KV cache; recurrent states; values between
    operators (arena); what threads share within an operator, activations of linears, parts of
    attention, scratch of all threads; rotations of all positions; tables that are looked up in and
    have no form of their own. A kind's bytes are those that were asked for: pages that nobody
    touched take no memory.
    """
    return {**program.memory(), "tables": own_table_bytes(graph)}


def own_table_bytes(graph: Graph) -> int:
    """Of lookup tables whose format has no row decoder: they are held as float32. Others stay in
    the model's file.
    """
    return sum(
        4 * node.weights[0].num_elements
        for node in graph.nodes
        if isinstance(node.op, Embed)
        and node.weights[0].format.name not in _native.packed_formats()
    )


class _NoWeights:
    """Zeros that nobody touches, so that they take no memory."""

    def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
        return np.zeros(weight.num_bytes, np.uint8)

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        return np.zeros(weight.shape, np.float32)

    def entry(self, weight: Weight, index: int) -> npt.NDArray[np.uint8]:
        return np.zeros(weight.num_bytes // weight.shape[0], np.uint8)

    def release(self, weight: Weight, index: int | None = None) -> None:
        pass
