"""How many long requests run at once in so much memory, with what windows give up and without:
`python benchmarks/long_requests.py MODEL --memory 1e9 --prompt 8000 --answer 500`.

MODEL may be a config.json: no weights are needed. The real scheduler admits them on a virtual
clock; what counts is how many have a row at once, on the mean over the run and at most.
"""

from __future__ import annotations

import argparse

from ridgeline.backends.simulated.executor import SimulatedExecutor, VirtualClock
from ridgeline.cli.inspect import open_graph
from ridgeline.config import read_settings
from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Request
from ridgeline.model.passes.state_groups import state_groups
from ridgeline.step import BLOCK_TOKENS, ONE_GROUP, BlockGroup, RowSampling

MAX_ROWS = 1024
STEP_TOKENS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--memory", type=float, default=1e9, help="bytes of the KV cache")
    parser.add_argument("--prompt", type=int, default=8000)
    parser.add_argument("--answer", type=int, default=500)
    parser.add_argument("--requests", type=int, default=200)
    asked = parser.parse_args()
    _name, _architecture, graph = open_graph(asked.model, read_settings())
    layout = state_groups(graph)
    whole = sum(state.bytes_per_token for state in graph.states) * BLOCK_TOKENS
    block = layout.bytes_per_token * BLOCK_TOKENS
    print(f"groups: {', '.join(map(str, layout.groups))}; a block has {block:,} bytes")
    for title, groups, block_bytes in (
        ("all layers kept", ONE_GROUP, whole),
        ("windows give up", layout.groups, block),
    ):
        mean, most = rows_at_once(asked, groups, int(asked.memory // block_bytes))
        print(f"{title}: {mean:.1f} requests at once on the mean, {most} at most")


def rows_at_once(
    asked: argparse.Namespace, groups: tuple[BlockGroup, ...], num_blocks: int
) -> tuple[float, int]:
    executor = SimulatedExecutor(
        lambda shape: 1.0,
        VirtualClock(),
        num_blocks=num_blocks,
        max_rows=MAX_ROWS,
        block_tokens=BLOCK_TOKENS,
        groups=groups,
    )
    engine = Engine(
        executor, max_context=asked.prompt + asked.answer + 1, max_tokens_per_step=STEP_TOKENS
    )
    for index in range(asked.requests):
        prompt = [index, *range(asked.prompt - 1)]
        name = str(index)
        sampling = RowSampling()
        engine.submit(Request(name, prompt, len(prompt), asked.answer, sampling, frozenset()))
    running = []
    while engine.has_work:
        engine.step()
        if engine.state.waiting:  # while there are more than fit
            running.append(len(engine.state.running))
    return sum(running) / max(len(running), 1), max(running, default=asked.requests)


if __name__ == "__main__":
    main()
