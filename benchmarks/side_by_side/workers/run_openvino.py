"""OpenVINO GenAI as a worker: its continuous-batching pipeline on a GGUF file, prefix cache off."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from protocol import Command, serve

CACHE_GB = 2


def generation(tokens: int) -> Any:
    config = genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = tokens
    config.ignore_eos = True
    config.do_sample = False
    return config


def start(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Command]]:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GB
    scheduler.max_num_seqs = options["rows"]
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": options["threads"]}
    pipeline = genai.ContinuousBatchingPipeline(options["model"], scheduler, "CPU", properties)

    def run(command: dict[str, Any]) -> dict[str, Any]:
        prompts = [ov.Tensor(np.array([ids], dtype=np.int64)) for ids in command["prompts"]]
        configs = [generation(tokens) for tokens in command["outputs"]]
        begin = time.perf_counter()
        results = pipeline.generate(prompts, configs)
        seconds = time.perf_counter() - begin
        made = [len(result.m_generation_ids[0]) for result in results]
        assert made == command["outputs"], (made, command["outputs"])
        return {"seconds": seconds, "first_seconds": None}

    return {"version": f"openvino-genai {genai.__version__}"}, {"run": run}


if __name__ == "__main__":
    serve(start)
