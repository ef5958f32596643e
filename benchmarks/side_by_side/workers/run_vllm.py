"""vLLM's CPU engine as a worker: `LLM.generate` on a bf16 directory, prefix cache off."""

from __future__ import annotations

import time
from typing import Any

from protocol import Command, serve


def start(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Command]]:
    import vllm

    llm = vllm.LLM(
        model=options["model"],
        dtype="bfloat16",
        max_model_len=options["context"],
        max_num_seqs=options["rows"],
        enable_prefix_caching=False,
        disable_log_stats=True,
    )

    def run(command: dict[str, Any]) -> dict[str, Any]:
        prompts = [{"prompt_token_ids": ids} for ids in command["prompts"]]
        params = [
            vllm.SamplingParams(
                temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
            )
            for tokens in command["outputs"]
        ]
        begin = time.perf_counter()
        results = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - begin
        made = [len(result.outputs[0].token_ids) for result in results]
        assert made == command["outputs"], (made, command["outputs"])
        return {"seconds": seconds, "first_seconds": None}

    return {"version": f"vllm {vllm.__version__}"}, {"run": run}


if __name__ == "__main__":  # vLLM starts its engine as a process that imports this file
    serve(start)
