"""Runs step plans on the CPU: one native call a step.

Owns the native program, in which the state table, the packed weights, the cache and the arena
live. Does not know text, requests or scheduling. A process that forks must build its own executor:
the threads stay with the parent.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline.backends.cpu import _native, packed_weights
from ridgeline.backends.cpu.bind import bind, view_of
from ridgeline.backends.cpu.bind_cross import cross_memory
from ridgeline.backends.cpu.bind_head import LEARNED_ROWS
from ridgeline.backends.cpu.encoder import CpuEncoder
from ridgeline.backends.cpu.learned_screen import LearnedScreen
from ridgeline.backends.cpu.program import (
    ProgramLimits,
    empty_program,
    layout_of,
    memory_of,
)
from ridgeline.backends.cpu.weights import Weights
from ridgeline.backends.reference.row_images import EncodeImage, Places, RowImages
from ridgeline.cost.device import ReadRates
from ridgeline.errors import CapacityError, EngineError, RidgelineError
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops.embed import Embed, TypeEmbed
from ridgeline.model.graph.ops.pool import GridPool, JoinTokens, Pool
from ridgeline.model.passes.state_groups import state_groups
from ridgeline.step import (
    BLOCK_TOKENS,
    Image,
    Masks,
    RowSampling,
    Sampled,
    Scored,
    StepPlan,
    StepResult,
)
from ridgeline.units import KIB, MIB

Floats = npt.NDArray[np.float32]

# Steps that one call runs where rows only write: Python's part is then done while caches hold it.
STEPS_TOGETHER = 8
# Embedding rows are read from the mapped file, and a row brings its neighbours in (64 KB on Linux).
# Of a table larger than this, so much may stay before its pages are given back. Bringing a row in
# again costs a page fault, tens of microseconds in a virtual machine: with 256 lookups between
# releases that was a tenth of a batched decode step.
RESIDENT_TABLE_BYTES = 128 * MIB
LOOKUP_BYTES = 64 * KIB

# Best first; a CPU that has one has those after it.
ISAS = ("amx", "avx512", "avx2", "portable")

# What scores and weighted values are multiplied in (attention.h), by instruction set and format of
# the cache: which peak attention is held to.
_WIDENED = {"bf16": "f32", "f16": "f32", "int8": "int8"}
ATTENTION_ARITHMETIC: dict[str, dict[str, str]] = {
    "amx": _WIDENED | {"bf16": "bf16"},
    "avx512": _WIDENED | {"bf16": "bf16"},
    "avx2": _WIDENED,
    "portable": _WIDENED,
}


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """What an operator of the graph has taken in all steps since the last reset.

    name: the node's. type: its operator's. nanoseconds: wall time, from when the last thread came
    to the barrier before it until the last one came to its own; these add up to a step's. Parts of
    it, means over the threads: barrier_nanoseconds: waiting for others;
    start_nanoseconds: until a thread was at it, its way out of the barrier before it. Of the first
    operator that is the threads' waking; of a thread that was away, all of it.
    """

    name: str
    type: str
    calls: int
    nanoseconds: float
    barrier_nanoseconds: float
    start_nanoseconds: float = 0.0


def choose_isa(wanted: str | None) -> str:
    """`wanted`, or the best that this CPU has. RidgelineError if it has not what is wanted."""
    best = str(_native.best_isa())
    if wanted is None:
        return best
    if wanted not in ISAS or ISAS.index(wanted) < ISAS.index(best):
        raise RidgelineError(
            f"kernels for {wanted!r} cannot run on this CPU; "
            f"it runs: {', '.join(ISAS[ISAS.index(best) :])}"
        )
    return wanted


class CpuExecutor:
    """See `engine.executor.Executor`.

    num_blocks: KV blocks, of 16 tokens of some layers or all; memory is taken as they are used.
    max_rows: rows of the state table. max_tokens_per_step: new tokens of a step.
    max_logits_per_step: rows of logits of a step; max_rows unless given. num_slots: of recurrent
    states, if the graph has some; max_rows unless given. threads: the caller's included. isa:
    "amx", "avx512", "avx2" or "portable"; None for the best. packed_folder, source: where packed
    weights are kept, and what identifies the files that they come from (see `packed_weights.load`).
    quantize_early: False keeps every value float32 between operators, for tests: the bits are the
    same. encode_image: what makes rows of an image, for a model that sees them. learned_rows: rows
    of logits from which a screen (`passes.screen`) learns what activations are like.

    A request gets the same bits whatever stands beside it in a step, however its prompt is cut,
    and with any number of threads; between instruction sets results differ by rounding. Raises
    ModelError for an operator that there is no kernel for, CapacityError where memory cannot be
    had, RidgelineError for an instruction set that this CPU lacks, EngineError on a bad plan.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        *,
        num_blocks: int,
        max_rows: int,
        max_tokens_per_step: int,
        threads: int,
        max_logits_per_step: int | None = None,
        num_slots: int | None = None,
        isa: str | None = None,
        packed_folder: Path | None = None,
        source: object = None,
        quantize_early: bool = True,
        encode_image: EncodeImage | None = None,
        learned_rows: int = LEARNED_ROWS,
    ) -> None:
        check_graph(graph)
        encoder, graph = graph.encoder, replace(graph, encoder=None)
        self.isa = choose_isa(isa)
        self.block_tokens = BLOCK_TOKENS
        self.num_blocks = num_blocks
        self.max_rows = max_rows
        self.max_tokens_per_step = max_tokens_per_step
        width = graph.outputs[0].shape[-1]
        assert isinstance(width, int)
        self.vocab_size = width
        wanted = max_rows if num_slots is None else num_slots
        self.num_slots = wanted if graph.row_states else 0
        self.groups = state_groups(graph).groups
        self._graph = graph
        self._result: StepResult | None = None
        self._weights = weights
        self._num_looked_up = 0
        self._images = RowImages(encode_image)
        max_sampled = max_rows if max_logits_per_step is None else max_logits_per_step
        limits = ProgramLimits(
            isa=self.isa,
            threads=threads,
            num_blocks=num_blocks,
            max_rows=max_rows,
            max_tokens=max_tokens_per_step,
            max_sampled=max_sampled,
            num_slots=self.num_slots,
        )
        layout = layout_of(graph, limits, quantize_early)
        plan = layout.plan
        self.steps_together = STEPS_TOGETHER
        # Pools, and segments of texts, need whole sequences.
        self._takes_whole = any(
            isinstance(node.op, Pool | GridPool | JoinTokens | TypeEmbed) for node in graph.nodes
        )
        self._pools = any(isinstance(node.op, Pool) for node in graph.nodes)
        self._squares = [node.op for node in graph.nodes if isinstance(node.op, GridPool)]
        self._joins = [node.op for node in graph.nodes if isinstance(node.op, JoinTokens)]
        # Of a predictor, what it is given; and what a graph gives beside logits.
        self._given = [view_of(plan, value) for value in graph.inputs[1:]]
        self._gives = [view_of(plan, value) for value in graph.outputs[1:]]
        self._num_tokens = 0
        self._tables = [node.weights[0] for node in graph.nodes if isinstance(node.op, Embed)]
        try:
            cross = cross_memory(graph.cross_states, max_rows)
            self._cross_bytes = 0 if cross is None else cross.row_bytes * max_rows
            self._program = packed_weights.load(
                packed_folder,
                graph,
                source,
                self.isa,
                lambda: empty_program(graph, limits, plan, cross=cross),
                lambda program: bind(program, graph, plan, weights, layout.kinds, learned_rows),
            )
            self._screen = LearnedScreen(
                graph, self._program, weights, self.isa, packed_folder, source
            )
            self._encoder = None
            if encoder is not None:
                assert cross is not None
                self._encoder = CpuEncoder(encoder, weights, limits, cross, packed_folder, source)
        except MemoryError:
            raise CapacityError(
                f"{graph.name}: the system refused memory for the weights, {num_blocks} KV blocks "
                f"and {plan.arena_bytes} bytes of activations; lower the context or the batch"
            ) from None

    @property
    def blocks_together(self) -> int:
        return self._program.kv_blocks_together

    def open_row(self, row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        try:
            how = native_sampling(sampling)
            self._program.open_row(row, _ids(token_ids), how)
        except (ValueError, IndexError) as error:
            raise EngineError(str(error)) from None

    def encode(self, row: int, frames: Floats, num_rows: int = 0) -> Floats | None:
        """Of a model with an encoder: what cross attention sees in this row from now on. frames
        [positions, width] float32: all that the encoder reads. It is computed at once; nothing is
        done for the array that was the row's last. num_rows: as many of the encoder's last rows are
        given back. EngineError for frames of another shape.
        """
        self._require_idle()
        if self._encoder is None or not 0 <= row < self.max_rows:
            raise EngineError(f"row {row}: there is no encoder for it")
        return self._encoder.run(row, frames, num_rows)

    @property
    def encoder_steps(self) -> int:
        """How often something was encoded."""
        return 0 if self._encoder is None else self._encoder.num_steps

    def give_images(self, row: int, images: Sequence[Image]) -> None:
        self._images.give(row, images)

    def append_tokens(self, row: int, token_ids: Sequence[int]) -> None:
        try:
            self._program.append_tokens(row, _ids(token_ids))
        except (ValueError, IndexError) as error:
            raise EngineError(str(error)) from None

    def truncate(self, row: int, num_tokens: int) -> None:
        """Forgets the row's tokens from `num_tokens` on (draft tokens that were refused)."""
        try:
            self._program.truncate(row, num_tokens)
        except (ValueError, IndexError) as error:
            raise EngineError(str(error)) from None

    def close_row(self, row: int) -> None:
        self._images.forget(row)
        try:
            self._program.close_row(row)
        except (ValueError, IndexError) as error:
            raise EngineError(str(error)) from None

    def submit(
        self, plan: StepPlan, masks: Masks | None = None, *, hidden: Floats | None = None
    ) -> None:
        """Runs the step without the interpreter's lock, and samples; `collect` has the result.

        hidden: [tokens of the step, width], if the graph is a predictor's.
        """
        self._require_idle()
        self._run(plan, sampling=True, masks=masks, hidden=hidden)
        found = self._program.samples() if plan.rows else ()
        made = [_made(Sampled, one) if one[-1] is None else _scored(one) for one in found]
        self._result = StepResult(tuple(made))

    def run_on(
        self, plan: StepPlan, steps: int, ends: Sequence[int]
    ) -> list[tuple[StepResult, float]]:
        self._require_idle()
        try:
            lines, blocks, num_tokens = self._lines(plan)
            ran = self._program.run_on(lines, blocks, steps, np.array(ends, np.int32))
        except (ValueError, IndexError, OverflowError, RuntimeError) as error:
            raise EngineError(str(error)) from None
        self._num_tokens = num_tokens
        self._looked_up(num_tokens * len(ran))
        return [
            (StepResult(tuple([_made(Sampled, one) for one in found])), ended)
            for found, ended in ran
        ]

    def collect(self) -> StepResult:
        if self._result is None:
            raise EngineError("no step is in flight; submit one first")
        result, self._result = self._result, None
        return result

    def forward(
        self, plan: StepPlan, *, hidden: Floats | None = None, places: Places | None = None
    ) -> Floats:
        """Logits [sum of num_logits, vocab_size], a copy; fills the cache, samples nothing. places:
        of the step's tokens, of a graph that sees an image's patches.
        """
        self._require_idle()
        if not plan.rows:
            return np.zeros((0, self.vocab_size), np.float32)
        self._run(plan, sampling=False, hidden=hidden, places=places)
        return np.asarray(self._program.logits())

    def hidden(self) -> Floats:
        """A copy of the last step's hidden states [tokens, width], of a graph that gives some
        (`passes.hidden.with_hidden`, predictors).
        """
        if not self._gives:
            raise EngineError(f"{self._graph.name} gives no hidden states")
        return np.asarray(self._program.read_rows(self._gives[0], self._num_tokens))

    def timers(self) -> tuple[OperatorTime, ...]:
        """Time by operator in graph order, sampling last, since the program was made or reset."""
        return tuple(OperatorTime(*time) for time in self._program.times())

    def learns_from(self, rows: int) -> bool:
        """Whether a screen of logits still learns what is usual of them, from steps of so many."""
        return self._screen.learns_from(rows)

    @property
    def screened(self) -> tuple[int, int]:
        """Rows of logits whose token was found by a screen (`passes.screen`), and strips of 32
        channels of the weight itself that were read for them.
        """
        rows, strips = self._program.screened
        return rows, strips

    @property
    def is_cache_ready(self) -> bool:
        """Whether the memory that the cache is likely to use next is ready, which idle threads see
        to: where a hypervisor hands it out slowly, first uses take longer than tokens do.
        """
        return self._program.is_cache_ready()

    def chosen_experts(self) -> dict[str, npt.NDArray[np.int32]]:
        """Of each mixture, by its node's name: the experts of the last step's rows, best first, as
        [rows, top_k]. The rows are the step's tokens; of the last layer, those that want logits.
        """
        return dict(self._program.chosen_experts())

    def reset_timers(self) -> None:
        self._program.reset_times()

    def memory(self) -> dict[str, int]:
        """Bytes that are allocated, by kind: see `program.memory_of`. cross: what the rows' cross
        attention sees; the other kinds are those of decoder and encoder together.
        """
        kinds = memory_of(self._program, self._graph)
        if self._encoder is not None:
            own = memory_of(self._encoder.program, self._encoder.graph)
            kinds = {kind: size + own[kind] for kind, size in kinds.items()}
            kinds["cross"] = self._cross_bytes
        return kinds

    def unit_memory(self) -> dict[str, int]:
        """Bytes of one KV block, and of the recurrent states of one slot."""
        return {"kv_block": self._program.kv_block_bytes, "state": self._program.state_bytes}

    def read_bandwidth(self, rounds: int) -> list[ReadRates]:
        """How fast the threads read the packed weights and do nothing else: the roof of a
        decode step. Takes no memory of its own. One figure a round.
        """
        return [ReadRates(*rates) for rates in self._program.read_bandwidth(rounds)]

    def pace(self, rounds: int) -> list[float]:
        """10^9 operations a second that the threads do in the int8 loop and do nothing else, a
        millisecond a round: what kernels' own speed follows from moment to moment.
        """
        return self._program.pace(rounds)

    def barrier_nanoseconds(self) -> float:
        """What it costs the threads at least to wait for each other, where they are now."""
        return min(self._program.barrier_time(5))

    def _require_idle(self) -> None:
        if self._result is not None:
            raise EngineError("a step is in flight; collect it first")

    def _run(
        self,
        plan: StepPlan,
        *,
        sampling: bool,
        masks: Masks | None = None,
        hidden: Floats | None = None,
        places: Places | None = None,
    ) -> None:
        if not plan.rows:
            return
        if (hidden is None) != (not self._given):
            raise EngineError(f"{self._graph.name} takes {len(self._given)} hidden states a token")
        try:
            lines, blocks, num_tokens = self._lines(plan)
            if plan.copies:
                pairs = [(copy.source, copy.target) for copy in plan.copies]
                self._program.copy_blocks(np.array(pairs, np.int32))
            if plan.slot_copies:
                pairs = [(copy.source, copy.target) for copy in plan.slot_copies]
                self._program.copy_slots(np.array(pairs, np.int32))
            if hidden is not None:
                if len(hidden) != num_tokens:
                    raise EngineError(
                        f"{len(hidden)} hidden states for a step of {num_tokens} tokens"
                    )
                self._program.write_rows(self._given[0], np.ascontiguousarray(hidden, np.float32))
            for part in self._images.parts(plan):
                rows = np.ascontiguousarray(part.rows, np.float32)
                self._program.give_image(part.token_begin, part.position, rows)
            if (told := places or self._images.places(plan)) is not None:
                ends = None if told.part_ends is None else told.part_ends.astype(np.int32)
                self._program.give_places(told.positions.astype(np.int32), ends)
            self._program.run(lines, blocks, sampling, masks)
        except (ValueError, IndexError, OverflowError, RuntimeError) as error:
            raise EngineError(str(error)) from None
        self._num_tokens = num_tokens
        self._looked_up(num_tokens)

    def _looked_up(self, num_tokens: int) -> None:
        self._num_looked_up += num_tokens
        if self._num_looked_up * LOOKUP_BYTES >= RESIDENT_TABLE_BYTES:
            self._num_looked_up = 0
            for table in self._tables:
                if table.num_bytes > RESIDENT_TABLE_BYTES:
                    self._weights.release(table)
        self._screen.after_step()

    def _lines(self, plan: StepPlan) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], int]:
        """A plan's rows as the program reads them, their new blocks, and its tokens. EngineError
        for rows that the graph cannot take, OverflowError for a number that 32 bits do not hold.
        """
        lines: list[int] = []  # one after the other: NumPy reads a list of tuples half as fast
        new_blocks: list[int] = []
        num_tokens = 0
        for row, num_new, num_context, num_logits, news, slot in plan.rows:
            if (self._takes_whole and num_context) or (self._pools and num_logits != 1):
                raise EngineError(f"row {row}: only whole sequences are pooled, into one row each")
            for pool in self._squares:
                if (num_new, num_logits) != (pool.num_tokens, pool.num_rows):
                    raise EngineError(
                        f"row {row}: only whole squares of {pool.num_tokens} are pooled"
                    )
            for join in self._joins:
                if num_new != join.count * num_logits:
                    raise EngineError(f"row {row}: each {join.count} tokens make one row")
            at = row if slot is None else slot
            lines += (row, num_new, num_context, num_logits, len(news), at)
            num_tokens += num_new
            if news:
                new_blocks += news
        blocks = np.array(new_blocks, np.int32) if new_blocks else _NO_BLOCKS
        return np.array(lines, np.int32).reshape(-1, 6), blocks, num_tokens


_NO_BLOCKS = np.zeros(0, np.int32)

_NUMBERS = tuple(
    f.name for f in fields(RowSampling) if isinstance(f.default, int | float) and f.name != "seed"
)


def native_sampling(sampling: RowSampling) -> _native.Sampling:
    """The kernels' form of it. Raises ValueError for a number that is out of its range."""
    return _native.Sampling(
        numbers={name: getattr(sampling, name) for name in _NUMBERS},
        seed=sampling.seed & 0xFFFF_FFFF_FFFF_FFFF,
        logit_bias=sampling.logit_bias,
        dry_breakers=sampling.dry_breakers,
        bad_words=sampling.bad_words,
        stop_ids=sampling.stop_ids,
        allowed_ids=sampling.allowed_ids,
    )


# `Sampled._make` without its check of the length, for each row of each step.
_made = tuple.__new__


def _scored(found: tuple[Any, ...]) -> Sampled:
    """From the fields of `Sampled` in their order, `scored` as plain numbers."""
    first, width, ids, values = found[-1]
    scored = Scored(first, width, array("i", ids), array("f", values))
    return Sampled._make(found)._replace(scored=scored)


def _ids(token_ids: Sequence[int]) -> npt.NDArray[np.int32]:
    try:
        return np.array(token_ids, np.int32).reshape(-1)
    except OverflowError:
        raise ValueError("a token id does not fit 32 bits") from None
