"""Ridgeline as a worker: `LLM.generate`, and the machine's limits before each engine's turn."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from protocol import Command, serve

import ridgeline
from ridgeline import LLM, SamplingParams
from ridgeline.bench.latency import moment_of
from ridgeline.bench.sample import Moment
from ridgeline.config import read_settings
from ridgeline.cost.time import step_bound
from ridgeline.step import StepShape

KV_BYTES = 2 * 2**30


def steps_of(case: dict[str, Any], chunk: int) -> list[tuple[StepShape, int]]:
    """The kinds of steps that a sample of the case times, and how many of each.

    chunk: new tokens of a step at most. Decode is priced as its middle step: work is linear in the
    context. Offline runs mix steps as they come: none is named.
    """
    prompt, output, batch = case["prompt"], case["output"], case["batch"]
    if case["phase"] == "prefill":
        return [
            (
                StepShape((min(chunk, prompt - start),), (start,), int(start + chunk >= prompt)),
                1,
            )
            for start in range(0, prompt, chunk)
        ]
    if case["phase"] in ("decode", "aggregate"):
        return [(StepShape.decode(batch, prompt + output // 2), output)]
    return []


def start(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Command]]:
    llm = LLM(
        options["model"],
        settings=replace(read_settings(), threads=options["threads"]),
        context_length=options["context"],
        max_rows=options["rows"],
        memory=KV_BYTES,
    )
    assembled = llm.assembled
    meter = assembled.meter()
    limits = assembled.engine.state.limits
    chunk = limits.max_tokens_per_step
    moments: list[Moment] = []

    def run(command: dict[str, Any]) -> dict[str, Any]:
        prompts = [{"prompt_token_ids": ids} for ids in command["prompts"]]
        params = [
            SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
            for tokens in command["outputs"]
        ]
        begin = time.monotonic()
        results = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.monotonic() - begin
        made = [len(result.outputs[0].token_ids) for result in results]
        assert made == command["outputs"], (made, command["outputs"])
        firsts = [result.metrics.first_token for result in results]
        return {"seconds": seconds, "first_seconds": max(f for f in firsts if f) - begin}

    def machine(command: dict[str, Any]) -> dict[str, Any]:
        steps = steps_of(command["case"], chunk) or [(StepShape.decode(1, 1), 1)]
        now = moment_of(assembled, meter, steps[0][0])
        moments[:] = [now]
        return {
            "read_gbps": now.read.gigabytes_per_second,
            "barrier_ns": now.barrier_nanoseconds,
            "mode": now.mode,
            "gops": {peak.arithmetic: peak.gigaoperations_per_second for peak in now.peaks},
        }

    def share(command: dict[str, Any]) -> dict[str, Any]:
        """Of the roof that binds the case, by the limits that `machine` last found."""
        case = command["case"]
        least = 0.0
        for shape, count in steps_of(case, chunk):
            bound = step_bound(assembled.bound_graph, shape, assembled.precision, moments[0].device)
            memory = case["phase"] == "decode"
            least += count * (bound.memory_seconds if memory else bound.compute_seconds)
        tokens = case["prompt"] if case["phase"] == "prefill" else case["output"]
        seconds = case["batch"] * tokens / command["tokens_per_second"]
        return {"share": least / seconds if least else None}

    facts = {"version": f"ridgeline {ridgeline.__version__}", "isa": assembled.isa}
    return facts, {"run": run, "machine": machine, "share": share}


if __name__ == "__main__":
    serve(start)
