"""Hold the GGUF twins against llama.cpp: does another reader take them for the same models?

    python tests/golden/check_llamacpp.py DIR_OF_GGUF [CASE ...]

Run by a Python that has llama-cpp-python and numpy. DIR_OF_GGUF has CASE.gguf in float32
(make_checkpoints.py --float32-gguf), because llama.cpp rounds activations to the type of F16 and
BF16 matrices. Prints the distance of its logits from the golden ones, relative to their norm, and
ends with status 1 where one exceeds 1e-5; 3e-4 for Gemma, GPT-2 and GPT-NeoX, whose GELU llama.cpp
reads from a table in half precision. It does not take `dots1` and `olmoe`, whose heads here share
keys, nor `gpt_neox_plain`, whose output matrix is the embedding.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import Llama

TOLERANCE = 1e-5
GELU_TOLERANCE = 3e-4
GELU = ("gemma", "gpt2", "gpt_neox")
GGML_TYPE_F32 = 0


def peer_logits(path: Path, token_ids: list[int], overrides: dict[str, Any] | None) -> Any:
    """llama.cpp's logits [tokens, vocab], with float32 keys and values."""
    model = Llama(
        str(path),
        n_ctx=256,
        n_batch=256,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        flash_attn=False,
        type_k=GGML_TYPE_F32,
        type_v=GGML_TYPE_F32,
        kv_overrides=overrides,
        verbose=False,
    )
    model.eval(token_ids)
    return np.array(model.scores[: len(token_ids)])


def main() -> int:
    goldens = Path(__file__).parent
    failed = False
    for path in sorted(Path(sys.argv[1]).glob("*.gguf")):
        if sys.argv[2:] and path.stem not in sys.argv[2:]:
            continue
        with np.load(goldens / path.stem / "expected.npz") as expected:
            for prefix in ("", "short_"):
                if prefix + "token_ids" not in expected:
                    continue
                # llama.cpp chooses LongRoPE's factors by the size of its context, at least 256.
                key = "phi3.rope.scaling.original_context_length"
                overrides = {key: 512} if prefix else None
                wanted = expected[prefix + "logits"]
                ids = expected[prefix + "token_ids"].tolist()
                got = peer_logits(path, ids, overrides)
                distance = float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
                print(f"{prefix + path.stem:20} {distance:.2e}", flush=True)
                allowed = GELU_TOLERANCE if path.stem.startswith(GELU) else TOLERANCE
                failed |= not distance <= allowed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
