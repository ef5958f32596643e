"""What public launch scripts say of rows that the file of measurements leaves out.

InferenceMAX (now InferenceX, SemiAnalysis) publishes its launch scripts and the lists of what was
run; each fact below names the commit of github.com/SemiAnalysisAI/InferenceX that has it, read
2026-11-28. They hold for rows by what was asked for, never by what was measured.

- c2fe824e0 (2025-09-25), runners/launch_gb200-nv.sh: the disaggregated deployments of GB200 under
  Dynamo, of which the file has the number of GPUs and the load: how many workers of how many ranks
  compute prompts and write, and with how many drafts. Requests in flight are for each writer. Two
  loads were run with and without drafts on as many GPUs; they are taken as without.
- d22bf9ca9 (2025-11-21) until 4e135fd3f (2025-12-08, "fix h100 docker error"),
  benchmarks/gptoss_fp4_h100_docker.sh: the client asks for 512 at once whatever the row's own
  number, of which the server runs that many (--max-num-seqs) and ten times as many are sent. Rows
  are named 512; the numbers were 4, 8, 16, 32, 64, and 4, 8, 16 for TP 8 with prompts of 8,192.
- ec90f3fe7 (2025-09-18), 28e5a01ea (2025-09-19), c93f6ac82: until November the scripts chose by
  themselves, by load, whether attention is data-parallel and experts are apart; rows of then have
  the tensor parallelism alone.
- bf3456727 (2026-01-15), benchmarks/dsr1_fp{4,8}_{b200,h200}_trt_mtp*.sh: three drafts, one where
  attention is data-parallel. The image 1.1.0rc2.post2 served both; with 8 GPUs, prompts of 8,192
  and 32 in flight, data-parallel attention was run with drafts only.
- .github/configs/nvidia-master.yaml in all of its history: TensorRT-LLM on one node was never asked
  for more than 256 of DeepSeek at once. batch_size is concurrency // attention_dp_size, or the
  concurrency itself where that is 0.
- The same scripts: under TensorRT-LLM, data-parallel attention has enable_balance of
  attention_dp_config: a prompt waits until each group has one, or for timeout_iters steps (60; 50
  where it is left out, gpt-oss). Under SGLang, DeepSeek on Blackwell has --scheduler-recv-interval
  10, from 16 at once on 30: the scheduler looks for new requests once in so many steps.
- 28e5a01ea (2025-09-19) until 17d5e204f (2025-11-03), gptoss_fp4_h200_trt_slurm.sh: --ep_size=$TP.
  27f29acbe (2025-09-21) until d8fe8f73e (2025-11-10), dsr1_fp4_b200_docker.sh: --enable-ep-moe.
- 1b563c858 (2025-09-18), 70b_fp{4,8}_{b200,h200}_trt_*.sh: of prompts and answers of 1,024 with TP
  below 8, TensorRT-LLM waits 20 steps for more prompts before it computes one, unless there are
  tokens for a whole step (batch_wait_timeout_iters, batch_wait_max_tokens_ratio).
- What caches are kept in (kv-cache-dtype, kv_cache_config.dtype), of every version of the scripts:
  FP8 for Llama 70B (af4ccd03f, 2025-09-23, all chips), DeepSeek and GLM-5 under SGLang on Blackwell
  (b8857e738, 13930ca61), gpt-oss on B200 from 25506e87c (2025-12-05; "auto", BF16, before and on
  Hopper), MiniMax M2.5 on Blackwell (79bd988e9, 340d7854c). Under vLLM a checkpoint of NVIDIA's own
  quantizer that names FP8 caches gets them without being asked (vLLM pull request 29980, 2025-12):
  Kimi K2.5 in NVFP4, and Llama 8B in FP8, whose steps are shorter than reading BF16 would be.
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.cost.chip import Mesh

# Requests that a client sends for each that is in flight.
PROMPTS_EACH = 10
CAPPED_CLIENT = 512
MOST_OF_DEEPSEEK = 256
# Its scripts of then were another project's.
GB200 = ("gb200", "")
DRAFTS = 3
DRAFTS_OF_GROUPS = 1
# batch_wait_timeout_iters.
GATHERING = 20.0


@dataclass(frozen=True, slots=True)
class Split:
    """A disaggregated deployment: `readers` of `reads` compute prompts, `workers` of `writes`."""

    readers: int
    reads: Mesh
    workers: int
    writes: Mesh
    drafts: int = 0

    @property
    def gpus(self) -> int:
        return self.readers * self.reads.gpus + self.workers * self.writes.gpus


def _joint(ranks: int) -> Mesh:
    return Mesh(tp=ranks, ep=ranks)


def _groups(ranks: int) -> Mesh:
    return Mesh(dp=ranks, ep=ranks)


_TRTLLM: dict[int, tuple[tuple[Split, tuple[int, ...]], ...]] = {
    1024: (
        (Split(1, _joint(4), 4, _joint(8)), (4, 8, 16, 32, 64, 128, 256, 564)),
        (Split(1, _groups(4), 1, _groups(32)), (1075,)),
        (Split(1, _groups(4), 1, _groups(16)), (1075,)),
        (Split(2, _groups(4), 1, _groups(16)), (2048, 4300)),
        (Split(1, _groups(4), 1, _groups(8)), (4300,)),
        (Split(1, _joint(4), 4, _joint(8), 3), (4, 8, 16, 32, 64, 144)),
        (Split(1, _groups(4), 1, _groups(16), 3), (512, 1075)),
        (Split(2, _groups(4), 1, _groups(16), 1), (2150,)),
        (Split(1, _groups(4), 1, _groups(32), 3), (512,)),
        (Split(1, _groups(4), 1, _groups(8), 1), (2252,)),
    ),
    8192: (
        (Split(1, _joint(4), 3, _joint(8)), (3, 6, 12, 24, 48, 102)),
        (Split(4, _groups(4), 1, _groups(32)), (256, 538)),
        (Split(6, _groups(4), 1, _groups(16)), (1075,)),
        (Split(8, _groups(4), 1, _groups(16)), (2150,)),
        (Split(5, _groups(4), 1, _groups(8)), (2150,)),
        (Split(1, _joint(4), 3, _joint(8), 3), (3, 6, 12, 24, 54)),
        (Split(5, _groups(4), 1, _groups(32), 3), (128, 269)),
        (Split(8, _groups(4), 1, _groups(32), 3), (538,)),
        (Split(8, _groups(4), 1, _groups(16), 2), (1075,)),
        (Split(6, _groups(4), 1, _groups(8), 1), (2150,)),
    ),
}
_SGLANG = {
    1024: Split(3, _groups(8), 1, _groups(48)),
    8192: Split(6, _groups(8), 1, _groups(24)),
}


def split_of(engine: str, gpus: int, input_tokens: int, concurrency: int) -> Split | None:
    """What was run on `gpus` GB200 with so many requests of so long prompts; None: not listed."""
    if engine == "sglang":
        split = _SGLANG.get(input_tokens)
        return split if split and split.gpus == gpus else None
    for split, loads in _TRTLLM.get(input_tokens, ()):
        if split.gpus == gpus and concurrency in loads:
            return split
    return None


def places_of_capped(tp: int, input_tokens: int) -> int:
    """The middle of the numbers that --max-num-seqs had where the client asked for 512."""
    return 8 if (tp, input_tokens) == (8, 8192) else 16


def in_flight_of_capped(places: int) -> float:
    """The mean of a burst of PROMPTS_EACH for each place, all sent at once: who comes i-th waits
    for i - 1 answers, so that by Little's law (PROMPTS_EACH + 1) / 2 of each place are there.
    """
    assert places * PROMPTS_EACH <= CAPPED_CLIENT
    return places * (PROMPTS_EACH + 1) / 2


def first_months(
    family: str, system: str, precision: str, tp: int, lengths: tuple[int, int], concurrency: int
) -> Mesh:
    """Of TensorRT-LLM without a version and more than one GPU: what its script chose."""
    short, answers = lengths[0] == 1024, lengths[1] == 8192
    apart, groups = False, False
    if family == "gpt-oss 120B" and system == "h200_sxm":
        apart = True
    elif family == "gpt-oss 120B" and system == "b200_sxm":
        groups = concurrency >= 256
        apart = groups or (short and tp in (4, 8) and concurrency >= 16)
    elif family == "DeepSeek R1/V3" and precision == "fp8":
        apart = True
        if system == "h200_sxm":
            groups = concurrency > (64 if short else 32)
        else:
            groups = concurrency > (32 if short and not answers else 64)
    elif family == "DeepSeek R1/V3" and precision == "nvfp4":
        least = 32 if tp == 4 or not short else 16 if answers else 8
        apart = concurrency > least
        groups = concurrency >= 256 if short else apart
    if groups:
        return Mesh(dp=tp, ep=tp)
    return Mesh(tp=tp, ep=tp if apart else 1)


def keeps_fp8(engine: str, family: str, system: str, precision: str, version: str) -> bool:
    """Whether caches are FP8, else BF16."""
    blackwell = system in ("b200_sxm", "b300_sxm", "gb200")
    if precision == "bf16":
        return False
    if family == "gpt-oss 120B":
        return system == "b200_sxm" and version not in ("", "gpt-oss-dev")
    if engine == "trtllm" or family == "Llama 3.1 70B":
        return True
    if engine == "sglang":
        return blackwell and family in ("DeepSeek R1/V3", "GLM-5") and (system, version) != GB200
    if family == "MiniMax M2.5":
        return blackwell
    return (family, precision) in (("Kimi K2.5", "nvfp4"), ("Llama 3.1 8B", "fp8"))


def gathered(
    engine: str, family: str, mesh: Mesh, lengths: tuple[int, int], steps: float, concurrency: float
) -> float:
    """Prompts that have come where TensorRT-LLM waits for more of them; 1: it does not wait.
    steps: those of an answer.
    """
    waits = engine == "trtllm" and family == "Llama 3.1 70B" and lengths == (1024, 1024)
    return 1.0 + GATHERING * concurrency / steps if waits and mesh.tp < 8 else 1.0


def held_steps(
    engine: str,
    family: str,
    system: str,
    mesh: Mesh,
    steps: float,
    concurrency: float,
    together: float,
) -> float:
    """Steps that pass on average before a new request is looked at. steps: those of an answer.
    together: `gathered`; the first waits for all of them, the others for half of it on average.
    """
    if together > 1.0:
        return GATHERING * (1.0 + together) / (2.0 * together)
    if engine == "trtllm" and mesh.dp > 1:
        most = 60 if family == "DeepSeek R1/V3" else 50
        return min(most, mesh.dp * steps / concurrency)
    if engine == "sglang" and family == "DeepSeek R1/V3" and system in ("b200_sxm", "b300_sxm"):
        return (30 if concurrency >= 16 else 10) / 2
    return 0.0
