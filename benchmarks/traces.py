"""Recorded loads through the simulator: how fast it is, and what a prefix cache of each size hits.

    python benchmarks/traces.py TRACES --out DIR [--requests 100000] [--only replay|hits]

TRACES holds azure_llm_2023_conversation.csv and mooncake_conversation.jsonl. The machine is made of
a data sheet's figures (four H200: 4.8 TB/s and 989 dense BF16 TFLOP/s each) as if they were one,
the model has the shape of Llama 3.1 8B; both only say how long a step takes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ridgeline.cost.count import count_kv_bytes
from ridgeline.cost.device import Device
from ridgeline.cost.step_times import StepTimes
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.model.architectures import build
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import Precision
from ridgeline.model.passes.fuse import fuse
from ridgeline.plan.one_engine import Simulation, simulate
from ridgeline.plan.tally import percentile
from ridgeline.plan.trace_files import read_trace
from ridgeline.plan.traces import HASHED_TOKENS, as_requests, repeated

# https://huggingface.co/meta-llama/Llama-3.1-8B, config.json.
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
# https://www.nvidia.com/en-us/data-center/h200/ (dense BF16, FP32; HBM3e), four as one.
MACHINE = Device(
    "4 x H200 as one",
    4 * 4.8e12,
    {"bf16": 4 * 989e12, "f32": 4 * 67e12},
    cache_bytes=50e6,
)
MAX_ROWS, STEP_TOKENS, MAX_CONTEXT = 256, 8192, 200_000
REPLAY_BLOCK_TOKENS = 64
CACHE_TOKENS = (
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    25_000_000,
    60_000_000,
)


def run(
    graph: Graph, times: StepTimes, trace: Path, count: int, block_tokens: int, cache_tokens: int
) -> tuple[Simulation, float]:
    """What came of `count` requests, and a core's seconds that it took to find out."""
    arrivals = read_trace(trace)
    limits = Limits(MAX_ROWS, STEP_TOKENS, MAX_CONTEXT, block_tokens)
    state = SchedulerState.empty(limits, cache_tokens // block_tokens, explains=False)
    start = time.process_time()
    found = simulate(as_requests(repeated(arrivals, count), block_tokens), state, times)
    return found, time.process_time() - start


def in_words(found: Simulation, seconds: float) -> str:
    return (
        f"{found.num_finished} requests, {found.output_tokens} tokens, {found.num_steps} steps "
        f"({found.num_planned_steps} planned singly) in {seconds:.1f} s of a core: "
        f"{found.seconds / 3600:.1f} h of the load, busy {found.busy_seconds / found.seconds:.0%}; "
        f"TTFT p50 {percentile(found.ttft_seconds, 0.5) * 1e3:.0f} ms, "
        f"p99 {percentile(found.ttft_seconds, 0.99) * 1e3:.0f} ms; "
        f"TPOT p50 {percentile(found.tpot_seconds, 0.5) * 1e3:.2f} ms; "
        f"{found.num_preemptions} preemptions; prefix hits {found.hit_rate:.1%}"
    )


def replay(graph: Graph, times: StepTimes, traces: Path, count: int) -> None:
    for name, block in (
        ("azure_llm_2023_conversation.csv", REPLAY_BLOCK_TOKENS),
        ("mooncake_conversation.jsonl", HASHED_TOKENS),
    ):
        found, seconds = run(graph, times, traces / name, count, block, 3_000_000)
        print(f"{name}, blocks of {block} tokens: {in_words(found, seconds)}", flush=True)


def hits(graph: Graph, times: StepTimes, traces: Path, out: Path) -> None:
    trace = traces / "mooncake_conversation.jsonl"
    arrivals = read_trace(trace)
    seen: set[int] = set()
    again = 0
    for arrival in arrivals:
        for index, block in enumerate(arrival.prefix):
            if block in seen:
                again += min(HASHED_TOKENS, arrival.num_prompt - index * HASHED_TOKENS)
            seen.add(block)
    most = again / sum(a.num_prompt for a in arrivals)
    print(f"{len(arrivals)} requests; an unbounded cache, at once: at most {most:.1%}")
    per_token = count_kv_bytes(graph).per_token
    points = []
    for tokens in CACHE_TOKENS:
        found, seconds = run(graph, times, trace, len(arrivals), HASHED_TOKENS, tokens)
        gigabytes = tokens * per_token / 1e9
        points.append({"tokens": tokens, "gigabytes": gigabytes, "hit_rate": found.hit_rate})
        print(f"{tokens:>10} tokens ({gigabytes:.0f} GB): {in_words(found, seconds)}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    data = {"trace": trace.name, "machine": MACHINE.name, "most": most, "points": points}
    (out / "prefix_hits.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    plot(data, out / "prefix_hits.png")


def plot(data: dict[str, object], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = data["points"]
    assert isinstance(points, list)
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(
        [p["tokens"] / 1e6 for p in points], [100 * p["hit_rate"] for p in points], "o-", color="C0"
    )
    most = data["most"]
    assert isinstance(most, float)
    axes.axhline(100 * most, color="0.5", linestyle="--", linewidth=1)
    axes.annotate(
        f"all that comes again: {most:.1%}",
        (points[0]["tokens"] / 1e6, 100 * most),
        (0, 4),
        textcoords="offset points",
        color="0.4",
    )
    for p in points:
        axes.annotate(
            f"{p['gigabytes']:.0f} GB",
            (p["tokens"] / 1e6, 100 * p["hit_rate"]),
            (4, -12),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlabel("KV cache, million tokens (GB for Llama 3.1 8B, BF16)")
    axes.set_ylabel("prompt tokens from the cache, %")
    axes.set_title("Prefix hits on the Mooncake conversation trace, LRU of leaves")
    axes.set_ylim(0, 115 * most)
    axes.set_xlim(points[0]["tokens"] / 1.5e6, points[-1]["tokens"] / 0.6e6)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("traces", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--only", choices=("replay", "hits"))
    asked = parser.parse_args()
    graph = fuse(build(LLAMA_8B, lambda _name: FORMATS["BF16"]))
    times = StepTimes(graph, Precision(), MACHINE)
    if asked.only != "hits":
        replay(graph, times, asked.traces, asked.requests)
    if asked.only != "replay":
        hits(graph, times, asked.traces, asked.out)


if __name__ == "__main__":
    main()
