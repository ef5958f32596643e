"""What other servers call an option of `ridgeline serve`: who types it is told ours.

vLLM's, llama.cpp's and Ollama's words for the same. Nothing here is an option.
"""

from __future__ import annotations

_STORED = "a model runs in the format that it is stored in"
_ONE = "one process serves from one machine's CPU"

_WORDS: dict[str, str] = {
    "--served-model-name": "--name",
    "--alias": "--name",
    "--max-model-len": "--context-length",
    "--ctx-size": "--context-length",
    "--num-ctx": "--context-length",
    "--max-num-seqs": "--max-rows",
    "--parallel": "--max-rows",
    "--max-num-batched-tokens": "--max-tokens-per-step",
    "--batch-size": "--max-tokens-per-step",
    "--kv-cache-dtype": "--kv-format",
    "--cache-type-k": "--kv-format",
    "--cache-type-v": "--kv-format",
    "--kv-cache-memory-bytes": "--memory",
    "--gpu-memory-utilization": "--memory",
    "--scheduling-policy": "--policy",
    "--api-key-file": "--api-keys",
    "--runner": "--task",
    "--embedding": "--task embed",
    "--embeddings": "--task embed",
}
_NONE: dict[str, str] = {
    "--dtype": _STORED,
    "--quantization": _STORED,
    "--tensor-parallel-size": _ONE,
    "--pipeline-parallel-size": _ONE,
    "--enable-prefix-caching": "it is always on",
    "--enable-chunked-prefill": "it is always on",
    "--cont-batching": "it is always on",
    "--flash-attn": "it is always on",
    "--jinja": "a model's own template is always used",
    "--trust-remote-code": "no code of a model's is ever run",
    "--enable-auto-tool-choice": "tools are always served, by the model's own template",
    "--tool-call-parser": "how a model writes calls is read from its own template",
    "--reasoning-parser": "how a model writes reasoning is read from its own template",
    "--guided-decoding-backend": "answers in a form are always held to",
}


def word_for(option: str) -> str | None:
    """What to do instead of an option of another server's; None: it is not known here either."""
    name = option.partition("=")[0]
    if name in _WORDS:
        return f"here it is {_WORDS[name]}"
    if name in _NONE:
        return f"leave it out: {_NONE[name]}"
    return None
