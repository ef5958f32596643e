"""Ridgeline as a worker: `LLM.generate`, and this machine's limits while the others wait."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from protocol import Command, serve

import ridgeline
from ridgeline import LLM, SamplingParams
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.config import read_settings

KV_BYTES = 2 * 2**30


def start(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Command]]:
    llm = LLM(
        options["model"],
        settings=replace(read_settings(), threads=options["threads"]),
        context_length=options["context"],
        max_rows=options["rows"],
        memory=KV_BYTES,
    )

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

    def machine(_: dict[str, Any]) -> dict[str, Any]:
        executor = llm._assembled.executor
        assert isinstance(executor, CpuExecutor)
        return {"read_gbps": executor.read_bandwidth(), "barrier_ns": None, "mode": ""}

    def share(_: dict[str, Any]) -> dict[str, Any]:
        return {"share": None}

    facts = {"version": f"ridgeline {ridgeline.__version__}"}
    return facts, {"run": run, "machine": machine, "share": share}


if __name__ == "__main__":
    serve(start)
