"""What the engine is doing now, small enough to be asked for every second: for the page at `/`."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ridgeline.assemble import kept_roofs
from ridgeline.cost.count import LAYER, count_step
from ridgeline.engine.book import Histogram
from ridgeline.model.graph.work import NO_WORK, Work
from ridgeline.serve.core.core import Core
from ridgeline.step import StepShape

MAP_CELLS = 384

if TYPE_CHECKING:
    from ridgeline.assemble import OperatorTime


def live(core: Core, roof: dict[str, float] | None) -> dict[str, Any]:
    """roof: see `Roof`. Moments and durations in seconds; quantiles are upper bounds of their
    buckets.
    """
    load, book = core.engine.load, core.engine.book
    return {
        "model": core.model,
        "running": core.running,
        "waiting": core.waiting,
        "answering": core.door.running,
        "free_blocks": load.free_blocks,
        "num_blocks": load.num_blocks,
        "kv_map": kv_map(core),
        "uptime_seconds": round(core.uptime_seconds, 3),
        "steps": [
            [round(s.ended, 6), round(s.seconds, 6), s.decode_rows, s.prompt_rows, s.prompt_tokens]
            for s in list(book.steps)
        ],
        "ttft_p50": _quantile(book.ttft, 0.5),
        "ttft_p99": _quantile(book.ttft, 0.99),
        "itl_p50": _quantile(book.itl, 0.5),
        "itl_p99": _quantile(book.itl, 0.99),
        "answer_tokens": book.answer_tokens,
        "prompt_tokens": book.prompt_tokens,
        "cache_hit_rate": book.cache_hits / max(1, book.cache_queries),
        "operators": operators(core),
        "roof": roof,
    }


def kv_map(core: Core, cells: int = MAP_CELLS) -> list[list[float]]:
    """The cache's blocks in order, so many to a cell: the shares of a cell's blocks that are kept
    for their names, in use by one request, and by several. What is left is empty.
    """
    states = core.engine.block_states()
    cells = min(cells, len(states))
    edges = [len(states) * i // cells for i in range(cells + 1)]
    return [
        [round(states.count(state, a, b) / (b - a), 3) for state in (1, 2, 3)]
        for a, b in pairwise(edges)
    ]


def operators(core: Core) -> list[dict[str, Any]]:
    """Of the last step that was looked at, each kind of operator: FLOPs, bytes and time. Asks for
    a look at the next step.
    """
    sampled = core.engine.sampled_step()
    if sampled is None:
        return []
    return dots(core, *sampled)


def dots(core: Core, shape: StepShape, timers: tuple[OperatorTime, ...]) -> list[dict[str, Any]]:
    made = core.llm.assembled
    seconds: dict[str, float] = {}
    for timer in timers:
        name = LAYER.sub("layers.*.", timer.name)
        seconds[name] = seconds.get(name, 0.0) + 1e-9 * timer.nanoseconds
    whole = sum(seconds.values())
    asked: dict[str, Work] = {}  # rows of one name may differ by layer: in formats, or windows
    for row in count_step(made.bound_graph, shape, made.precision).rows:
        asked[row.name] = asked.get(row.name, NO_WORK) + row.work
    found = []
    for name, work in asked.items():
        took = seconds.get(name, 0.0)
        moved = work.weight_bytes + work.kv_read_bytes + work.kv_write_bytes
        if took > 0 and moved > 0 and work.total_flops > 0:
            found.append(
                {
                    "name": name.removeprefix("layers.*."),
                    "flops_per_byte": work.total_flops / moved,
                    "flops_per_second": work.total_flops / took,
                    "share": took / whole,
                }
            )
    return sorted(found, key=lambda one: -one["share"])


class Roof:
    """This machine's, as `ridgeline measure` kept it; None if it has not been measured. The file is
    read once in so many seconds: somebody may measure while the server runs.
    """

    def __init__(self, core: Core, seconds: float = 60.0) -> None:
        self._core = core
        self._seconds = seconds
        self._until = 0.0
        self._kept: dict[str, float] | None = None

    def get(self) -> dict[str, float] | None:
        now = time.monotonic()
        if now >= self._until:
            self._kept, self._until = _roof(self._core), now + self._seconds
        return self._kept


def _roof(core: Core) -> dict[str, float] | None:
    made = core.llm.assembled
    roofs = kept_roofs(core.llm.settings, made.isa)
    if roofs is None:
        return None
    footprint = sum(
        row.work.weight_bytes
        for row in count_step(made.bound_graph, StepShape((1,), (1,), 1), made.precision).rows
    )
    read = roofs.read(footprint, made.threads)
    peaks = [one for one in roofs.peaks if one.threads == made.threads]
    if read is None or not peaks:
        return None
    return {
        "bytes_per_second": 1e9 * read.gigabytes_per_second,
        "flops_per_second": 1e9 * max(one.gigaoperations_per_second for one in peaks),
    }


def _quantile(histogram: Histogram, share: float) -> float | None:
    value = histogram.quantile(share)
    return value if math.isfinite(value) else None
