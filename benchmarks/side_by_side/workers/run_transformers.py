"""transformers on torch as a worker: bf16, one prompt after the other, greedy."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from protocol import Command, serve


def start(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Command]]:
    torch.set_num_threads(options["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options["model"], dtype=torch.bfloat16
    ).eval()

    def run(command: dict[str, Any]) -> dict[str, Any]:
        begin = time.perf_counter()
        with torch.inference_mode():
            for prompt, tokens in zip(command["prompts"], command["outputs"], strict=True):
                ids = torch.tensor([prompt])
                made = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=False,
                )
                assert made.shape[1] == len(prompt) + tokens, made.shape
        return {"seconds": time.perf_counter() - begin, "first_seconds": None}

    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return {"version": version}, {"run": run}


if __name__ == "__main__":
    serve(start)
