"""An encoder on the CPU: a program of its own that writes what a decoder's program reads.

Does not know steps or scheduling: it reads one request's frames whole, in one step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ridgeline.backends.cpu import _native, packed_weights
from ridgeline.backends.cpu.bind import bind, view_of
from ridgeline.backends.cpu.program import ProgramLimits, empty_program, encoder_limits, layout_of
from ridgeline.backends.cpu.weights import Weights
from ridgeline.errors import EngineError
from ridgeline.model.graph.node import Graph

PLAIN = _native.Sampling({}, 0, (), (), (), (), None)

Floats = npt.NDArray[np.float32]


class CpuEncoder:
    """Owns the encoder's program. limits: of the decoder, whose rows it writes to."""

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        limits: ProgramLimits,
        memory: _native.CrossMemory,
        packed_folder: Path | None,
        source: object,
    ) -> None:
        own = encoder_limits(graph, limits)
        layout = layout_of(graph, own)
        self._program = packed_weights.load(
            packed_folder,
            graph,
            source,
            limits.isa,
            lambda: empty_program(graph, own, layout.plan, cross=memory),
            lambda program: bind(program, graph, layout.plan, weights, layout.kinds),
        )
        self.graph = graph
        self._positions = graph.max_context
        self._given = view_of(layout.plan, graph.inputs[1])
        self._width = graph.inputs[1].shape[1]
        self._blocks = np.arange(own.num_blocks, dtype=np.int32)
        self._ids = np.zeros(self._positions, np.int32)
        self._done: dict[int, Floats] = {}
        self.num_steps = 0

    @property
    def program(self) -> _native.Program:
        return self._program

    def run(self, row: int, frames: Floats, num_rows: int = 0) -> Floats | None:
        """See `CpuExecutor.encode`. The same array again, where nothing else was written: nothing
        is computed.
        """
        if frames.shape != (self._positions, self._width) or frames.dtype != np.float32:
            raise EngineError(
                f"row {row}: frames of {frames.dtype} {frames.shape}; float32 "
                f"({self._positions}, {self._width}) are needed"
            )
        if num_rows == 0 and self._done.get(row) is frames:
            return None
        program = self._program
        self._done.pop(row, None)
        try:
            program.open_row(row, self._ids, PLAIN)
            try:
                program.write_rows(self._given, np.ascontiguousarray(frames))
                line = (row, self._positions, 0, num_rows, len(self._blocks), 0)
                program.run(np.array([line], np.int32), self._blocks, False)
            finally:
                program.close_row(row)
        except (ValueError, IndexError, RuntimeError) as error:
            raise EngineError(str(error)) from None
        self._done[row] = frames
        self.num_steps += 1
        return np.asarray(program.logits()) if num_rows else None
