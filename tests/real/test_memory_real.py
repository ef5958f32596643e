"""What smollm2 takes of this machine's memory is what was predicted, in every cache format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.backends.cpu.program import ProgramLimits, predict_memory
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.opened import open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.screen import with_screen

CONTEXT, ROWS = 1024, 4
# Rows of a full cache are computed, so that its pages are there.
RUN = """
import json, sys
from pathlib import Path
from dataclasses import replace
from ridgeline.assemble import Options, assemble
from ridgeline.config import read_settings
from ridgeline.model.text.load import load_tokenizer
from ridgeline.model.opened import open_model
from ridgeline.step import PlanRow, RowSampling, StepPlan

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(l.split()[1]) for l in lines if l.startswith("RssAnon"))

path, kv_format = sys.argv[1:]
settings = replace(read_settings(), keep_packed=False, offline=True)
# What text takes is no part of the engine's memory.
tokenizer = load_tokenizer(open_model(Path(path)).checkpoint)
before = resident()
made = assemble(path, settings, Options(kv_format=kv_format, max_rows=4, context_length=1024))
executor = made.executor
for row in range(4):
    executor.open_row(row, [row + 3] * 1024, RowSampling())
    for at in range(0, 1024, 512):
        blocks = tuple(range(row * 64 + at // 16, row * 64 + at // 16 + 32))
        executor.submit(StepPlan((PlanRow(row, 512, at, int(at > 0), blocks),)))
        executor.collect()
print(json.dumps({
    "grown": resident() - before, "memory": executor.memory(), "isa": executor.isa,
    "blocks": executor.num_blocks, "threads": made.threads, "tokens": made.max_tokens_per_step,
}))
"""


@pytest.mark.parametrize("kv_format", ["bf16", "f16", "int8"])
def test_memory_is_as_predicted(smollm2_path: Path, kv_format: str) -> None:
    model = open_model(smollm2_path, context_length=CONTEXT)
    graph = with_screen(fuse(with_kv_format(model.graph, KV_FORMATS[kv_format])))
    shown = subprocess.run(
        [sys.executable, "-c", RUN, smollm2_path, kv_format],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    found = json.loads(shown)
    limits = ProgramLimits(
        isa=found["isa"],
        threads=found["threads"],
        num_blocks=found["blocks"],
        max_rows=ROWS,
        max_tokens=found["tokens"],
        max_sampled=ROWS,
    )
    predicted = predict_memory(graph, limits)
    for kind, num_bytes in found["memory"].items():
        assert abs(predicted[kind] - num_bytes) <= 0.01 * num_bytes, kind
    total = sum(predicted.values())
    assert abs(total - sum(found["memory"].values())) <= 0.01 * total
    # Beside it a tokenizer is read once more, and Python has objects; pages are whole and huge.
    assert 0.9 * total < found["grown"] < 1.1 * total + (64 << 20)
