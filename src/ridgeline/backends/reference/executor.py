"""Runs a graph by the operators' definitions, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.call import Array, Call, KvCache, RowMemory
from ridgeline.backends.reference.cross_attention import CrossMemory
from ridgeline.backends.reference.one_by_one import OneByOne
from ridgeline.backends.reference.row_images import EncodeImage, Part, Places, RowImages
from ridgeline.backends.reference.sample import fault_of, sample, score
from ridgeline.backends.reference.state_table import BoundRow, StateTable
from ridgeline.backends.reference.table import COLLECTIVES, PARTING, REFERENCE
from ridgeline.errors import EngineError, ModelError
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.graph.ops.embed import Embed
from ridgeline.model.graph.ops.experts import Experts
from ridgeline.model.passes.state_groups import StateGroups, state_groups
from ridgeline.step import BLOCK_TOKENS, Image, Masks, RowSampling, Sampled, StepPlan, StepResult


class Weights(Protocol):
    """Where the numbers come from; never asked twice for one weight of a rank."""

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        """The weight, dequantized, in its shape."""


class ReferenceExecutor(OneByOne):
    """Owns the state table, the weights as float arrays and the KV memory.

    graph: one graph, or the graphs of all ranks of a sharded model, which then run in lock-step.
    num_slots: of recurrent states, if the graph has some; max_rows unless given.
    dtype: of values, weights and cache; sums and transcendental functions of float32 values are
    taken in float64 where an operator is not a matrix product. encode_image: what makes rows of an
    image, for a model that sees them. Raises ModelError if the ranks'
    graphs do not agree, EngineError on a plan that cannot be run.
    """

    def __init__(
        self,
        graph: Graph | Sequence[Graph],
        weights: Weights,
        *,
        num_blocks: int,
        max_rows: int,
        num_slots: int | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        encode_image: EncodeImage | None = None,
    ) -> None:
        graphs = (graph,) if isinstance(graph, Graph) else tuple(graph)
        encoder = graphs[0].encoder
        if encoder is not None and len(graphs) > 1:
            raise ModelError(f"{graphs[0].name}: a model with an encoder runs on one rank")
        check_graph(graphs[0])
        graphs = tuple(replace(rank, encoder=None) for rank in graphs)
        for rank in graphs:
            if encoder is None:
                check_graph(rank)
            if [type(n.op) for n in rank.nodes] != [type(n.op) for n in graphs[0].nodes]:
                raise ModelError(f"{rank.name}: its operators are not those of {graphs[0].name}")
        width = graphs[0].outputs[0].shape[-1]
        assert isinstance(width, int)
        self.block_tokens = BLOCK_TOKENS
        self.num_blocks = num_blocks
        self.blocks_together = 1
        self.steps_together = 1
        self.max_rows = max_rows
        self.vocab_size = width
        wanted = max_rows if num_slots is None else num_slots
        self.num_slots = wanted if graphs[0].row_states else 0
        layouts = [state_groups(rank) for rank in graphs]
        self.groups = layouts[0].groups
        if any(layout.groups != self.groups for layout in layouts):
            raise ModelError(f"{graphs[0].name}: the ranks' states part into different groups")
        self._table = StateTable(
            num_blocks=num_blocks,
            max_rows=max_rows,
            block_tokens=BLOCK_TOKENS,
            vocab_size=max(width, _num_ids(graphs)),
            max_context=graphs[0].max_context,
            num_slots=self.num_slots,
            windows=layouts[0].column_windows,
        )
        self._ranks = [
            _Rank(rank, layout, weights, num_blocks, self.num_slots, np.dtype(dtype), max_rows)
            for rank, layout in zip(graphs, layouts, strict=True)
        ]
        self._encoder = None
        if encoder is not None:
            blocks, layout = -(-encoder.max_context // BLOCK_TOKENS), state_groups(encoder)
            self._encoder = _Rank(
                encoder, layout, weights, blocks, 0, np.dtype(dtype), max_rows, self._ranks[0].cross
            )
        self._dtype = np.dtype(dtype)
        self._in_flight: StepResult | None = None
        self._images = RowImages(encode_image)
        self._hidden: Array | None = None

    def open_row(self, row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        self._table.open_row(row, token_ids, sampling)

    def encode(self, row: int, frames: npt.NDArray[np.float32], num_rows: int = 0) -> Array:
        """See `CpuExecutor.encode`."""
        rank = self._encoder
        if rank is None or not 0 <= row < self.max_rows:
            raise EngineError(f"row {row}: there is no encoder for it")
        positions = rank.graph.max_context
        blocks = -(-positions // BLOCK_TOKENS)
        bound = BoundRow(
            row=row,
            num_new=positions,
            num_context=0,
            num_logits=num_rows,
            token_ids=np.zeros(positions, np.int64),
            block_table=np.arange(blocks)[:, None],
            sampling=RowSampling(),
        )
        ids, given = rank.graph.inputs
        if frames.shape != (positions, given.shape[1]):
            raise EngineError(f"row {row}: frames of {frames.shape} are not {given.shape[1]} each")
        rank.values = {ids.id: bound.token_ids, given.id: np.asarray(frames, self._dtype)}
        with np.errstate(all="ignore"):
            for index in range(len(rank.graph.nodes)):
                rank.run(index, (bound,))
        found = rank.values[rank.graph.outputs[0].id]
        rank.values = {}
        return found

    def give_images(self, row: int, images: Sequence[Image]) -> None:
        self._images.give(row, images)

    def append_tokens(self, row: int, token_ids: Sequence[int]) -> None:
        self._table.append_tokens(row, token_ids)

    def close_row(self, row: int) -> None:
        self._images.forget(row)
        self._table.close_row(row)

    def submit(
        self, plan: StepPlan, masks: Masks | None = None, *, hidden: Array | None = None
    ) -> None:
        """Runs the step (nothing here is asynchronous) and appends each row's token to it. hidden:
        [tokens of the step, width], if the graph is a predictor's.
        """
        self._require_idle()
        rows = self._begin(plan, sampling=True)
        logits = self._logits(rows, hidden)
        given = {} if masks is None else masks()
        sampled = []
        for row, end in zip(rows, np.cumsum([r.num_logits for r in rows]), strict=True):
            if row.num_logits == 0:
                continue
            result = self._sample(row, logits[end - row.num_logits : end], given.get(row.row))
            if result.token_id >= 0:
                self._table.append_tokens(row.row, [result.token_id])
            sampled.append(result)
        self._in_flight = StepResult(tuple(sampled))

    def collect(self) -> StepResult:
        if self._in_flight is None:
            raise EngineError("no step is in flight; submit one first")
        result, self._in_flight = self._in_flight, None
        return result

    def forward(
        self, plan: StepPlan, *, hidden: Array | None = None, places: Places | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits [sum of num_logits, vocab_size]; fills the cache, samples nothing. places: of the
        step's tokens, of a graph that sees an image's patches.
        """
        self._require_idle()
        rows = self._begin(plan, sampling=False, places=places)
        return self._logits(rows, hidden).astype(np.float32)

    def hidden(self) -> Array:
        """See `CpuExecutor.hidden`."""
        if self._hidden is None:
            raise EngineError(f"{self._ranks[0].graph.name} gives no hidden states")
        return self._hidden

    def chosen_experts(self) -> dict[str, npt.NDArray[np.int32]]:
        """See `CpuExecutor.chosen_experts`."""
        return dict(self._ranks[0].chosen)

    def _begin(
        self, plan: StepPlan, *, sampling: bool, places: Places | None = None
    ) -> tuple[BoundRow, ...]:
        rows = self._table.begin(plan, sampling=sampling)
        for copy in plan.copies:
            for rank in self._ranks:
                rank.copy_block(copy.source, copy.target)
        for slot_copy in plan.slot_copies:
            for rank in self._ranks:
                rank.copy_slot(slot_copy.source, slot_copy.target)
        parts = self._images.parts(plan)
        places = places or self._images.places(plan)
        for rank in self._ranks:
            rank.images, rank.places = parts, places
        return rows

    def _sample(self, row: BoundRow, logits: Array, mask: npt.NDArray[np.uint32] | None) -> Sampled:
        """logits: [num_logits, vocab], of the row's last new tokens."""
        how, whole = row.sampling, self._table.token_ids(row.row)
        result = Sampled(row.row, -1)
        if row.num_tokens == len(whole):
            result = sample(row.row, logits[-1], row.token_ids, how, mask)
        if how.num_prompt_logprobs < 0 or result.fault is not None:
            return result
        first = row.num_tokens - row.num_logits + 1
        known = np.array(whole[first : row.num_tokens + 1], np.int64)
        if not len(known):
            return result
        faults = [fault for fault in map(fault_of, logits[: len(known)]) if fault is not None]
        if faults:
            return Sampled(row.row, -1, fault=faults[0])
        return result._replace(scored=score(logits[: len(known)], known, first, how))

    def _require_idle(self) -> None:
        if self._in_flight is not None:
            raise EngineError("a step is in flight; collect it first")

    def _logits(self, rows: Sequence[BoundRow], hidden: Array | None = None) -> Array:
        if not rows:
            return np.zeros((0, self.vocab_size), self._dtype)
        token_ids = np.concatenate([row.token_ids[row.num_context :] for row in rows])
        given = [token_ids] if hidden is None else [token_ids, hidden.astype(self._dtype)]
        for rank in self._ranks:
            if len(given) != len(rank.graph.inputs) or any(len(x) != len(token_ids) for x in given):
                raise EngineError(
                    f"{rank.graph.name} takes {len(rank.graph.inputs) - 1} hidden states a token, "
                    f"and the step has {len(token_ids)} tokens"
                )
            rank.values = {
                value.id: array for value, array in zip(rank.graph.inputs, given, strict=True)
            }
        # Overflow and NaN are a row's own fault, which sampling reports.
        with np.errstate(all="ignore"):
            for index, node in enumerate(self._ranks[0].graph.nodes):
                if type(node.op) in COLLECTIVES:
                    inputs = tuple(x for rank in self._ranks for x in rank.inputs(index))
                    outputs = REFERENCE[type(node.op)](node.op, Call(inputs, (), rows, None))
                    is_parted = type(node.op) in PARTING
                    for number, rank in enumerate(self._ranks):
                        rank.store(index, (outputs[number],) if is_parted else outputs)
                else:
                    for rank in self._ranks:
                        rank.run(index, rows)
        first = self._ranks[0]
        logits, *also = [first.values[value.id] for value in first.graph.outputs]
        self._hidden = also[0] if also else None
        for rank in self._ranks:
            rank.values = {}
        return logits


def _num_ids(ranks: Sequence[Graph]) -> int:
    """Token ids that an embedding table has a row for: of an encoder, not its output's width."""
    ends = [
        node.op.first_row + node.weights[0].shape[0]
        for graph in ranks
        for node in graph.nodes
        if isinstance(node.op, Embed)
    ]
    return max(ends, default=0)


class _Rank:
    """One graph's weights, cache and states, and the values of the step that runs."""

    def __init__(
        self,
        graph: Graph,
        layout: StateGroups,
        weights: Weights,
        num_blocks: int,
        num_slots: int,
        dtype: npt.DTypeLike,
        num_rows: int,
        cross: dict[str, CrossMemory] | None = None,
    ) -> None:
        self.graph = graph
        # An encoder writes where its decoder reads.
        self.cross = cross or {
            state.name: CrossMemory(state, num_rows, dtype) for state in graph.cross_states
        }
        self.values: dict[int, Array] = {}
        self.images: Sequence[Part] = ()
        self.places: Places | None = None
        self.chosen: dict[str, npt.NDArray[np.int32]] = {}
        self._weights: dict[str, Array] = {
            weight.name: weights.float32(weight).astype(dtype, copy=False)
            for weight in graph.weights
        }
        # One memory: a block is now of some layers, now of others.
        blocks = np.full((num_blocks, BLOCK_TOKENS, layout.elements_per_token), np.nan, dtype)
        self._blocks: Array = blocks
        self._caches: dict[str, KvCache] = {}
        for state in graph.states:
            place = layout.places[state.name]
            own = blocks[..., place.offset : place.offset + state.elements_within(BLOCK_TOKENS)]
            self._caches[state.name] = KvCache(
                state, num_blocks, BLOCK_TOKENS, dtype, place.column, own
            )
        self._memories = {
            state.name: RowMemory(state, num_slots, dtype) for state in graph.row_states
        }
        for weight in graph.weights:
            found = self._weights[weight.name].shape
            if found != weight.shape:
                raise ModelError(f"{weight.name}: has shape {found}; {weight.shape} is needed")
        last_reader = {v.id: i for i, node in enumerate(graph.nodes) for v in node.inputs}
        kept = {value.id for value in graph.outputs}
        self._last_read: list[list[int]] = [[] for _ in graph.nodes]
        for value, index in last_reader.items():
            if value not in kept:
                self._last_read[index].append(value)

    def copy_block(self, source: int, target: int) -> None:
        self._blocks[target] = self._blocks[source]

    def copy_slot(self, source: int, target: int) -> None:
        for memory in self._memories.values():
            memory.copy(source, target)

    def inputs(self, index: int) -> tuple[Array, ...]:
        return tuple(self.values[value.id] for value in self.graph.nodes[index].inputs)

    def run(self, index: int, rows: Sequence[BoundRow]) -> None:
        node = self.graph.nodes[index]
        name = "" if node.state is None else node.state.name
        call = Call(
            inputs=self.inputs(index),
            weights=tuple(self._weights[weight.name] for weight in node.weights),
            rows=rows,
            cache=self._caches.get(name),
            memory=self._memories.get(name),
            entries=None if node.entries is None else self._caches[node.entries.name],
            cross=self.cross.get(name),
            images=self.images,
            places=self.places,
        )
        if isinstance(node.op, Experts):
            self.chosen[node.name] = call.inputs[1][:, : node.op.top_k].astype(np.int32)
        self.store(index, REFERENCE[type(node.op)](node.op, call))

    def store(self, index: int, outputs: tuple[Array, ...]) -> None:
        """Keeps a node's outputs, and forgets values that nobody reads after it."""
        for value, array in zip(self.graph.nodes[index].outputs, outputs, strict=True):
            self.values[value.id] = array
        for value_id in self._last_read[index]:
            del self.values[value_id]
