"""A choice as the command that starts it, in the words of each engine.

Flags are those of the engines' own references (vLLM 0.19, SGLang 0.5, TensorRT-LLM 1.2, llama.cpp
of 2026). What a flag cannot say (another checkpoint, a router, a transfer of caches) stands beside
it as a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import ceil

from ridgeline.plan.choice import Choice, Drafter

# Weights that engines make themselves of a bf16 checkpoint as they load it; others are files.
_MADE_AT_LOAD = ("bf16", "fp8")
# What the name of a checkpoint says of its weights.
_STORED = re.compile(r"[-_.](nvfp4|mxfp4|fp4|fp8|int8|w8a8|int4|w4a16|awq|gptq)(?![a-z0-9])", re.I)
_KNOWN_AS = {"fp4": "nvfp4", "w8a8": "int8", "w4a16": "int4", "awq": "int4", "gptq": "int4"}
_MOST_SLOTS = 256  # LLAMA_MAX_SEQ: llama-server ends with "n_seq_max must be <= 256" beyond
_GGUF = {"bf16": "BF16", "fp8": "Q8_0", "int8": "Q8_0", "int4": "Q4_K_M", "mxfp4": "MXFP4"}


def launch(choice: Choice, model: str, engine: str) -> str:
    """Lines of a shell script; engine: a key of `ENGINES`."""
    # llama.cpp serves a file, which it names itself.
    name, notes = (model, list[str]()) if engine == "llama.cpp" else _checkpoint(choice, model)
    return "\n".join((*_notes(choice), *notes, *ENGINES[engine](choice, name))) + "\n"


def _stored(model: str) -> tuple[str, str]:
    """What a checkpoint's name says of its weights ("" if nothing), and the name without it."""
    found = _STORED.search(model)
    if found is None:
        return "", model
    word = found[1].lower()
    return _KNOWN_AS.get(word, word), model[: found.start()] + model[found.end() :]


def _checkpoint(c: Choice, model: str) -> tuple[str, list[str]]:
    """The name to serve, and what must be said of it."""
    stored, name = _stored(model)
    if stored == c.precision or (stored == "fp8" and c.precision.startswith("fp8")):
        return model, []
    if stored:
        said = f"whose weights are {c.precision}; those of {model} are {stored}"
        return name, [f"# {name} stands for a checkpoint {said}"]
    if c.precision not in _MADE_AT_LOAD:
        return model, [f"# {model} stands for a checkpoint of it whose weights are {c.precision}"]
    return model, []


def _made_fp8(c: Choice, model: str) -> str:
    """What makes FP8 weights of others as they are loaded; a checkpoint's own need no flag."""
    return "--quantization fp8" if c.precision == "fp8" and not _stored(model)[0] else ""


def _notes(c: Choice) -> list[str]:
    notes = [f"# {c.gpus} x {c.accelerator.name}: {c.name}"]
    if c.replicas > 1:
        notes.append(f"# {c.replicas} of these behind a router (least loaded first)")
    return notes


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
        _made_fp8(c, model),
        "--kv-cache-dtype fp8" if c.kv == "fp8" else "",
        # Of each data-parallel group, which is an engine of its own.
        f"--max-num-seqs {ceil(c.rows / mesh.dp)}",
        f"--max-num-batched-tokens {c.chunk}",
        f"--max-model-len {_context(c)}",
        _vllm_drafts(c),
    )
    if not c.prefill_workers:
        return [_words(*common)]
    sent = """--kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'"""
    return [
        f"# {c.prefill_workers} for prompts and {c.workers} for answers, each so, behind vLLM's "
        "disaggregated proxy",
        _words(*common, sent),
    ]


def _vllm_drafts(c: Choice) -> str:
    if not c.drafts or c.drafter is None:
        return ""
    fields: dict[str, object] = {"method": c.drafter.method, "num_speculative_tokens": c.drafts}
    if c.drafter.method == "draft":
        fields = {"model": c.drafter.name, "num_speculative_tokens": c.drafts}
    elif c.drafter.method == "ngram":
        fields |= {"prompt_lookup_max": 4}
    return f"--speculative-config '{json.dumps(fields)}'"


def _sglang(c: Choice, model: str) -> list[str]:
    mesh = c.deployment.mesh
    common = (
        f"python -m sglang.launch_server --model-path {model}",
        f"--tp-size {mesh.ranks}",
        f"--pp-size {mesh.pp}" if mesh.pp > 1 else "",
        f"--dp-size {mesh.dp} --enable-dp-attention" if mesh.dp > 1 else "",
        f"--ep-size {mesh.ep}" if mesh.ep > 1 else "",
        _made_fp8(c, model),
        "--kv-cache-dtype fp8_e4m3" if c.kv == "fp8" else "",
        f"--max-running-requests {c.rows}",
        # It parts both by the data-parallel groups itself.
        f"--chunked-prefill-size {c.chunk * mesh.dp}",
        f"--context-length {_context(c)}",
        *_sglang_drafts(c),
    )
    if not c.prefill_workers:
        return [_words(*common)]
    return [
        line
        for role, count in (("prefill", c.prefill_workers), ("decode", c.workers))
        for line in (f"# {count} of", _words(*common, f"--disaggregation-mode {role}"))
    ]


def _sglang_drafts(c: Choice) -> list[str]:
    if not c.drafts or c.drafter is None:
        return []
    if c.drafter.method == "ngram":
        return [
            "--speculative-algorithm NGRAM",
            f"--speculative-num-draft-tokens {c.drafts}",
        ]
    algorithm = "EAGLE" if c.drafter.method == "mtp" else "STANDALONE"
    return [
        f"--speculative-algorithm {algorithm}",
        f"--speculative-draft-model-path {c.drafter.name}" if c.drafter.name else "",
        f"--speculative-num-steps {c.drafts} --speculative-eagle-topk 1",
        f"--speculative-num-draft-tokens {c.drafts + 1}",
    ]


def _trtllm(c: Choice, model: str) -> list[str]:
    mesh = c.deployment.mesh
    lines = []
    if c.prefill_workers:
        lines.append(
            f"# {c.prefill_workers} for prompts and {c.workers} for answers: trtllm-serve "
            "disaggregated, with a worker of these sizes each"
        )
    extra = ["enable_chunked_prefill: true"]
    if mesh.dp > 1:
        extra.append("enable_attention_dp: true")
    if c.kv == "fp8":
        extra.append("kv_cache_config: {dtype: fp8}")
    if c.drafts and c.drafter is not None:
        extra.append(f"speculative_config: {_trtllm_drafts(c, c.drafter)}")
    text = "\\n".join(extra)
    lines.append(f"printf '{text}\\n' > options.yaml")
    lines.append(
        _words(
            f"trtllm-serve {model}",
            f"--tp_size {mesh.ranks}",
            f"--pp_size {mesh.pp}" if mesh.pp > 1 else "",
            f"--ep_size {mesh.ep}" if mesh.ep > 1 else "",
            f"--max_batch_size {ceil(c.rows / mesh.dp)}",
            f"--max_num_tokens {c.chunk}",
            f"--max_seq_len {_context(c)}",
            "--extra_llm_api_options options.yaml",
        )
    )
    return lines


def _trtllm_drafts(c: Choice, drafter: Drafter) -> str:
    if drafter.method == "mtp":
        return f"{{decoding_type: MTP, num_nextn_predict_layers: {c.drafts}}}"
    if drafter.method == "ngram":
        return f"{{decoding_type: NGram, max_draft_len: {c.drafts}, max_matching_ngram_size: 4}}"
    return (
        f"{{decoding_type: DraftTarget, max_draft_len: {c.drafts}, "
        f"speculative_model_dir: {drafter.name}}}"
    )


def _llama_cpp(c: Choice, model: str) -> list[str]:
    rows = min(c.rows, _MOST_SLOTS)
    lines = [f"# MODEL.gguf: {model} as {_GGUF.get(c.precision, 'Q4_K_M')}"]
    if rows < c.rows:
        lines.append(f"# it runs {_MOST_SLOTS} requests at once at most, of {c.rows} planned")
    mesh = c.deployment.mesh
    if mesh.dp > 1 or mesh.ep > 1:
        lines.append(f"# it has no {mesh}: layers' rows are split, and slower than planned")
    if c.prefill_workers:
        lines.append("# it has no prompts and answers apart: this is one engine of both")
    gpus = mesh.gpus
    is_drafted = c.drafts > 0 and c.drafter is not None and c.drafter.method == "draft"
    if is_drafted and c.drafter is not None:
        lines.append(f"# DRAFT.gguf: {c.drafter.name}")
    elif c.drafts:
        lines.append("# it has no such predictor: answers are slower than planned")
    lines.append(
        _words(
            "llama-server -m MODEL.gguf",
            "-ngl 999",
            f"--split-mode row --tensor-split {','.join(['1'] * gpus)}" if gpus > 1 else "",
            f"-np {rows} -c {rows * _context(c)}",
            f"-b {c.chunk} -ub {c.chunk}",
            f"-md DRAFT.gguf --draft-max {c.drafts}" if is_drafted else "",
            "-fa on -ctk q8_0 -ctv q8_0" if c.kv == "fp8" else "",
        )
    )
    return lines


def _ridgeline(c: Choice, model: str) -> list[str]:
    return [
        "# Ridgeline's own kernels run on CPUs so far: on this accelerator the plan is for others",
        _words(
            f"ridgeline serve {model}",
            f"--max-rows {c.rows}",
            f"--max-tokens-per-step {c.chunk}",
            f"--context-length {_context(c)}",
        ),
    ]


ENGINES: dict[str, Callable[[Choice, str], list[str]]] = {
    "ridgeline": _ridgeline,
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "llama.cpp": _llama_cpp,
}
