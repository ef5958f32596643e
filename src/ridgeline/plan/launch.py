"""A choice as the command that starts it, in the words of each engine.

Flags are those of the engines' own references (vLLM 0.19, SGLang 0.5, TensorRT-LLM 1.2, llama.cpp
of 2026). What a flag cannot say (another checkpoint, a router, a transfer of caches) stands beside
it as a comment.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from ridgeline.plan.search import Choice

# Weights that engines make themselves of a bf16 checkpoint as they load it; others are files.
_MADE_AT_LOAD = ("bf16", "fp8")
_GGUF = {"bf16": "BF16", "fp8": "Q8_0", "int8": "Q8_0", "int4": "Q4_K_M", "mxfp4": "MXFP4"}


def launch(choice: Choice, model: str, engine: str) -> str:
    """Lines of a shell script; engine: a key of `ENGINES`."""
    return "\n".join((*_notes(choice, engine), *ENGINES[engine](choice, model))) + "\n"


def _notes(c: Choice, engine: str) -> list[str]:
    notes = [f"# {c.gpus} x {c.accelerator.name}: {c.name}"]
    if c.replicas > 1:
        notes.append(f"# {c.replicas} of these behind a router (least loaded first)")
    if engine != "llama.cpp" and c.precision not in _MADE_AT_LOAD:
        notes.append(f"# MODEL must be a checkpoint whose weights are {c.precision}")
    return notes


def _rows(c: Choice) -> int:
    """Of one engine: what the caches have room for, and no more than is wanted."""
    workers = max(1, c.workers)
    return max(1, min(ceil(1.25 * c.in_flight / workers), int(c.limit / workers)))


def _context(c: Choice) -> int:
    return ceil(1.25 * (c.input_tokens + c.output_tokens) / 256) * 256


def _words(*parts: str) -> str:
    return " \\\n  ".join(part for part in parts if part)


def _vllm(c: Choice, model: str) -> list[str]:
    mesh = c.deployment.mesh
    common = (
        f"vllm serve {model}",
        f"--tensor-parallel-size {mesh.tp}",
        f"--pipeline-parallel-size {mesh.pp}" if mesh.pp > 1 else "",
        f"--data-parallel-size {mesh.dp}" if mesh.dp > 1 else "",
        "--enable-expert-parallel" if mesh.ep > 1 else "",
        "--quantization fp8" if c.precision == "fp8" else "",
        "--kv-cache-dtype fp8" if c.kv == "fp8" else "",
        f"--max-num-seqs {_rows(c)}",
        f"--max-model-len {_context(c)}",
    )
    if not c.prefill_workers:
        return [_words(*common)]
    sent = """--kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'"""
    return [
        f"# {c.prefill_workers} for prompts and {c.workers} for answers, each so, behind vLLM's "
        "disaggregated proxy",
        _words(*common, sent),
    ]


def _sglang(c: Choice, model: str) -> list[str]:
    mesh = c.deployment.mesh
    common = (
        f"python -m sglang.launch_server --model-path {model}",
        f"--tp-size {mesh.ranks}",
        f"--pp-size {mesh.pp}" if mesh.pp > 1 else "",
        f"--dp-size {mesh.dp} --enable-dp-attention" if mesh.dp > 1 else "",
        f"--ep-size {mesh.ep}" if mesh.ep > 1 else "",
        "--quantization fp8" if c.precision == "fp8" else "",
        "--kv-cache-dtype fp8_e4m3" if c.kv == "fp8" else "",
        f"--max-running-requests {_rows(c)}",
        f"--context-length {_context(c)}",
    )
    if not c.prefill_workers:
        return [_words(*common)]
    return [
        line
        for role, count in (("prefill", c.prefill_workers), ("decode", c.workers))
        for line in (f"# {count} of", _words(*common, f"--disaggregation-mode {role}"))
    ]


def _trtllm(c: Choice, model: str) -> list[str]:
    mesh = c.deployment.mesh
    lines = []
    if c.prefill_workers:
        lines.append(
            f"# {c.prefill_workers} for prompts and {c.workers} for answers: trtllm-serve "
            "disaggregated, with a worker of these sizes each"
        )
    extra = []
    if mesh.dp > 1:
        extra.append("enable_attention_dp: true")
    if c.kv == "fp8":
        extra.append("kv_cache_config: {dtype: fp8}")
    if extra:
        text = "\\n".join(extra)
        lines.append(f"printf '{text}\\n' > options.yaml")
    lines.append(
        _words(
            f"trtllm-serve {model}",
            f"--tp_size {mesh.ranks}",
            f"--pp_size {mesh.pp}" if mesh.pp > 1 else "",
            f"--ep_size {mesh.ep}" if mesh.ep > 1 else "",
            f"--max_batch_size {_rows(c)}",
            f"--max_seq_len {_context(c)}",
            "--extra_llm_api_options options.yaml" if extra else "",
        )
    )
    return lines


def _llama_cpp(c: Choice, model: str) -> list[str]:
    rows = _rows(c)
    lines = [f"# MODEL.gguf: {model} as {_GGUF.get(c.precision, 'Q4_K_M')}"]
    if c.prefill_workers:
        lines.append("# it has no prompts and answers apart: this is one engine of both")
    gpus = c.deployment.mesh.gpus
    lines.append(
        _words(
            "llama-server -m MODEL.gguf",
            "-ngl 999",
            f"--split-mode row --tensor-split {','.join(['1'] * gpus)}" if gpus > 1 else "",
            f"-np {rows} -c {rows * _context(c)}",
            "-ctk q8_0 -ctv q8_0" if c.kv == "fp8" else "",
        )
    )
    return lines


def _ridgeline(c: Choice, model: str) -> list[str]:
    return [
        "# Ridgeline's own kernels run on CPUs so far: on this accelerator the plan is for others",
        _words(
            f"ridgeline serve {model}", f"--max-rows {_rows(c)}", f"--context-length {_context(c)}"
        ),
    ]


ENGINES: dict[str, Callable[[Choice, str], list[str]]] = {
    "ridgeline": _ridgeline,
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "llama.cpp": _llama_cpp,
}
