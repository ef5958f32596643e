"""What the recurrences cost on this machine: each operator alone, at the sizes of real models.

    python benchmarks/recurrent.py [--threads N] [--tokens 512] [--seconds 1]

One operator between an embedding and the selection of one row, random weights. Prints microseconds
a token of a prompt of `--tokens`, and of a decode step of one row, beside what the bytes of the
state (read and written once) would take at 40 GB/s; the state of a small model stays in the caches.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import numpy.typing as npt

from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, RowState, Weight
from ridgeline.model.graph.ops import (
    CausalConv,
    DeltaRule,
    Embed,
    Operator,
    SelectiveScan,
    SelectRows,
    Split,
    SsdScan,
)
from ridgeline.step import PlanRow, RowSampling, StepPlan

VOCAB = 64
BYTES_PER_SECOND = 40e9

# name -> operator, widths of its inputs, shapes of its weights, state
CASES: dict[str, tuple[Operator, tuple[int, ...], tuple[tuple[int, ...], ...], RowState]] = {
    "causal_conv, Qwen3-Next (8192 x 4)": (
        CausalConv(4, silu=True),
        (8192,),
        ((8192, 4),),
        RowState("s", 8192, 3, is_rolling=True),
    ),
    "selective_scan, Falcon Mamba 7B (8192 x 16)": (
        SelectiveScan(),
        (8192, 8192, 16, 16),
        ((8192, 16), (8192,)),
        RowState("s", 8192, 16),
    ),
    "ssd_scan, Nemotron 3 Nano (64 heads of 64 x 128)": (
        SsdScan(64, 64, 8, 128),
        (4096, 1024, 1024, 64),
        ((64,),) * 3,
        RowState("s", 64, 64 * 128),
    ),
    "delta_rule, Qwen3-Next (32 heads of 128 x 128)": (
        DeltaRule(16, 32, 128, 128),
        (2048, 2048, 4096, 32, 32),
        ((32,),) * 2,
        RowState("s", 32, 128 * 128),
    ),
}


class RandomWeights:
    """Small random numbers; asked twice, the same."""

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        generator = np.random.default_rng(len(weight.name))
        return (0.3 * generator.standard_normal(weight.shape)).astype(np.float32)

    def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
        return self.float32(weight).view(np.uint8).reshape(-1)

    def entry(self, weight: Weight, index: int) -> npt.NDArray[np.uint8]:
        return self.float32(weight)[index].view(np.uint8).reshape(-1)

    def release(self, weight: Weight, index: int | None = None) -> None:
        pass


def graph_of(name: str) -> Graph:
    op, widths, shapes, state = CASES[name]
    b = Builder(name, lambda _: FORMATS["F32"])
    x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", VOCAB, sum(widths)),))
    values = b.add("split", Split(widths), x) if len(widths) > 1 else (x,)
    weights = tuple(b.weight("w" * (i + 1), *shape) for i, shape in enumerate(shapes))
    y = b.one("op", op, *values, weights=weights, state=state)
    return b.finish(b.one("select", SelectRows(), y), 4096)


def microseconds(cpu: CpuExecutor, tokens: int, decode: bool, seconds: float) -> float:
    """Of the operator, a token: the median of what its own timer says."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    context, num_new = 0, tokens
    while time.perf_counter() < end or not found:
        if decode and context:
            plan = StepPlan((PlanRow(0, 1, context, 1),))
            context = context + 1
        else:
            plan = StepPlan((PlanRow(0, tokens, 0, 1, () if context else tuple(range(64))),))
            context = tokens
        cpu.reset_timers()
        cpu.forward(plan)
        took = {t.name: t.nanoseconds / 1000 for t in cpu.timers()}
        if not decode or context > tokens:
            num_new = plan.shape.num_tokens
            found.append(took["op"])
        if decode and context > 1000:
            context = 0
            cpu.close_row(0)
            cpu.open_row(0, [i % VOCAB for i in range(1024)], RowSampling())
    return median(found) / num_new


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=1.0)
    asked = parser.parse_args()
    print(f"{'operator':52} {'prompt, us/token':>17} {'decode, us':>11} {'state bytes take':>17}")
    for name, (_op, _widths, _shapes, state) in CASES.items():
        cpu = CpuExecutor(
            graph_of(name),
            RandomWeights(),
            num_blocks=64,
            max_rows=1,
            max_tokens_per_step=asked.tokens,
            threads=asked.threads,
        )
        cpu.open_row(0, [i % VOCAB for i in range(1024)], RowSampling())
        prompt = microseconds(cpu, asked.tokens, False, asked.seconds)
        cpu.close_row(0)
        cpu.open_row(0, [i % VOCAB for i in range(1024)], RowSampling())
        decode = microseconds(cpu, min(asked.tokens, 64), True, asked.seconds)
        bound = 2 * 4 * state.num_elements / BYTES_PER_SECOND * 1e6
        print(f"{name:52} {prompt:17.2f} {decode:11.1f} {bound:14.1f} us", flush=True)


if __name__ == "__main__":
    main()
