"""What is known of serving engines apart from their kernels: eras of versions, and their memory.

Engines are told apart where a release changed what a step costs beside the device:

- TensorRT-LLM 1.0 (2025-09) hands each token to Python and the client in every step; measured
  deployments of 1.1 stream in intervals, and 1.2 (2025-11) is told apart since its steps of few
  rows are half as long for the same model.
- vLLM 0.14 (2026-01) schedules the next step while one runs (asynchronous scheduling by default).
- Before these, and without a version, the newest is taken.

A step of answers is one CUDA graph. One with a prompt in it is launched operator by operator, but
for attention only where its tokens fit a captured size ("piecewise" graphs): in vLLM since V1 to
512 tokens (max_cudagraph_capture_size = min(2 max_num_seqs, 512); vllm/config, read 2026-11-29), in
SGLang since 0.5.10 (2026-04) to the chunk, to 2,048 where caches hold latents, and not with
attention in data-parallel groups or pipelines (its docs, piecewise_cuda_graph.md, same day); in
TensorRT-LLM where it is asked for (prefill_cuda_graph_backend), which is not assumed.

TensorRT-LLM keeps room for a request's whole answer before it starts (GUARANTEED_NO_EVICT) and
takes 90 % of what weights and values leave free; vLLM and SGLang take blocks as answers grow, of
90 % of the memory less weights and values.
"""

from __future__ import annotations

import re

from ridgeline.errors import RequestError

ENGINES = ("trtllm", "vllm", "sglang")
ERAS = (*ENGINES, "trtllm-1.1", "trtllm-1.0", "vllm-0.13")
ERA_TITLES = {
    "trtllm": "TensorRT-LLM",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm-1.1": "TensorRT-LLM 1.1",
    "trtllm-1.0": "TensorRT-LLM 1.0 and before",
    "vllm-0.13": "vLLM 0.13 and before",
}
# Of each era, the first version after it; the oldest era first.
_UNTIL: dict[str, tuple[tuple[str, tuple[int, int]], ...]] = {
    "trtllm": (("trtllm-1.0", (1, 1)), ("trtllm-1.1", (1, 2))),
    "vllm": (("vllm-0.13", (0, 14)),),
    "sglang": (),
}
# Engine and version that are taken where nobody says.
NEWEST = ("vllm", "")
RESERVES_ANSWERS = ("trtllm",)
# Whose all-reduces let the link's switch add: vLLM's, in symmetric memory. SGLang turns NCCL's NVLS
# off unless asked (_set_envs_and_config: NCCL_NVLS_ENABLE, NCCL_CUMEM_ENABLE). TensorRT-LLM reaches
# it with a message of a GB, but served prompts (8 to 43 MB of Qwen3, TP 8 beside TP 4) take a ring.
IN_SWITCH = ("vllm",)
# The year of Blackwell, for which TensorRT-LLM has kernels of experts of its own.
MADE_SINCE = 2025
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
# Of graphs of steps with prompts: the first version that makes them, and tokens at most.
_PIECEWISE = {"vllm": ((0, 8, 0), 512), "sglang": ((0, 5, 10), 8192)}
_PIECEWISE_OF_LATENTS = {"sglang": 2048}


def parse_engine(option: str, text: str) -> tuple[str, str]:
    """Engine and version, of `vllm` or `vllm:0.12`. RequestError names the option."""
    engine, colon, version = text.strip().partition(":")
    if engine not in ENGINES:
        raise RequestError(option, f"{engine!r}; there are: {', '.join(ENGINES)}")
    if colon and not _VERSION.match(version):
        raise RequestError(option, f"{version!r} is not a version, as {engine}:0.12")
    return engine, version


def spelled(engine: str, version: str) -> str:
    """As `parse_engine` reads it."""
    return f"{engine}:{version}" if version else engine


def era_of(engine: str, version: str = "") -> str:
    """One of ERAS. A version that does not begin with two numbers ("", "nightly-...") is new."""
    found = _VERSION.match(version)
    if found:
        for era, first in _UNTIL[engine]:
            if (int(found[1]), int(found[2])) < first:
                return era
    return engine


def captured_tokens(engine: str, version: str, *, latent: bool, parted: bool) -> int:
    """Tokens up to which a step with a prompt is launched as pieces of CUDA graphs, but for its
    attention; 0: never. parted: attention in data-parallel groups, or a pipeline.
    """
    if engine not in _PIECEWISE or (engine == "sglang" and parted):
        return 0
    since, most = _PIECEWISE[engine]
    found = _VERSION.match(version)
    if found and tuple(int(part or 0) for part in found.groups()) < since:
        return 0
    return _PIECEWISE_OF_LATENTS.get(engine, most) if latent else most


def lacks_expert_kernels(engine: str, version: str, year: int) -> bool:
    """Whether TensorRT-LLM computes experts by general kernels (CUTLASS, DeepGEMM, Triton) with
    steps of their own for sorting and adding: on chips before Blackwell, and FP8 before 1.2
    (moe_config.backend in InferenceMAX's launch scripts, 2025-09 to 2026-02). Of FP4 there are
    kernels in 1.1, but gpt-oss and DeepSeek take a tenth to a fifth longer than in 1.2.
    """
    return engine == "trtllm" and (year < MADE_SINCE or era_of(engine, version) != engine)


def held_tokens(engine: str, input_tokens: float, output_tokens: float) -> float:
    """Tokens that the cache has room for while a request runs, on average over its life."""
    written = 1.0 if engine in RESERVES_ANSWERS else 0.5
    return input_tokens + written * output_tokens
