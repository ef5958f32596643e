"""Rows of benchmarks/data/serving_measurements.csv.gz as cases: what each says that was measured.

The file: 2,508 measurements of serving engines, closed loop, as bundled with aiconfigurator-core
0.12.0 (Apache-2.0; silicon_sample.csv, retrieved 2026-11-21). What had to be known to read it:

- The concurrency is batch_size x attention_dp_size.
- Where moe_tp_size = moe_ep_size = n and tp_size x attention_dp_size = n^2, the machine has n GPUs,
  not n^2: the same measurement is there a second time with n written (tp 16, moe 4 x 4 is TP4 EP4;
  tp 1, dp 64, moe 8 x 8 is DP8 EP8). So too tp = dp = n with moe 1 x n^2, which is TP n, EP n.
- Where attention_dp_size is left out, it is moe_tp_size x moe_ep_size / tp_size: experts lie on all
  ranks, so what attention does not cut, rows part. (TP 1 with experts in two is two GPUs, or one
  H200 would hold the 235 GB of Qwen3 235B.)
- DeepSeek R1 and V3 are one model here; many rows are there under both names.
- Lengths of 1024 and 8192 are those of InferenceMAX, drawn evenly from 80 to 100 % of what is
  stated (its random range ratio of 0.8), ten requests for each in flight.
- TensorRT-LLM 1.2.0rc6.post3 with DeepSeek is the image of the runs with multi-token prediction;
  those without used post2 (InferenceX issue 135: one tag for both only later). Three drafts, or
  one where attention is data-parallel.
- gpt-oss is MXFP4, whatever the column says. No precision: BF16.
- Which caches are FP8 is in the launch scripts and checkpoints (serving_sweeps.py).
- More than 8 ranks of GB200 that share no attention (tp_size 12 to 72) are whole disaggregated
  deployments, of which only the number of GPUs is stated: how they were split, with how many
  drafts, is in the launch scripts (serving_sweeps.py).
- gpt-oss on H100 under vLLM with 512 in flight: 512 is the client's limit; the engine's own
  (--max-num-seqs) was one of 4 to 64, by the launch script, and ten requests for each of its places
  were sent at once. Which one is not stated: the middle of them is taken.
- TensorRT-LLM's rows of the first months state the tensor parallelism only, where the launch
  script chose data-parallel attention and experts apart by the load; so do SGLang's of DeepSeek in
  NVFP4, whose experts were apart.
- batch_size is concurrency // attention_dp_size, or the concurrency where that is 0: more than was
  ever asked for says so.
- A row that computes prompts faster than the chips' peaks would is not what it says.
- Versions of disaggregated TensorRT-LLM rows are Dynamo's. Aggregated ones without a version are
  of InferenceMAX's first months, as is gpt-oss-dev: 1.1.
- Disaggregated rows without a batch say nothing of their load: there is nothing to predict.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf, isqrt
from pathlib import Path

from serving_sweeps import (
    CAPPED_CLIENT,
    DRAFTS,
    DRAFTS_OF_GROUPS,
    MOST_OF_DEEPSEEK,
    first_months,
    gathered,
    held_steps,
    in_flight_of_capped,
    keeps_fp8,
    places_of_capped,
    split_of,
)

from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.deployment import Deployment, deploy
from ridgeline.cost.described import Described, describe
from ridgeline.cost.efficiency import PUBLISHED
from ridgeline.cost.steps import uniform_steps
from ridgeline.errors import RidgelineError
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.fit import Measurement
from ridgeline.plan.steady import Case, Load

FILE = Path(__file__).parent / "data" / "serving_measurements.csv.gz"
SEED = 6
MAX_AGGREGATED = 8

# model_path: (family, configuration)
MODELS: dict[str, tuple[str, str]] = {
    "deepseek-ai/DeepSeek-R1": ("DeepSeek R1/V3", "deepseek-ai/DeepSeek-R1"),
    "deepseek-ai/DeepSeek-V3": ("DeepSeek R1/V3", "deepseek-ai/DeepSeek-R1"),
    "nvidia/DeepSeek-V3.1-NVFP4": ("DeepSeek R1/V3", "deepseek-ai/DeepSeek-R1"),
    "meta-llama/Llama-3.1-70B": ("Llama 3.1 70B", "meta-llama/Meta-Llama-3.1-70B"),
    "meta-llama/Llama-3.1-8B-Instruct": ("Llama 3.1 8B", "meta-llama/Meta-Llama-3.1-8B"),
    "nvidia/Llama-3.1-8B-Instruct-FP8": ("Llama 3.1 8B", "meta-llama/Meta-Llama-3.1-8B"),
    "Qwen/Qwen3-32B": ("Qwen3 32B", "Qwen/Qwen3-32B"),
    "nvidia/Qwen3-32B-NVFP4": ("Qwen3 32B", "Qwen/Qwen3-32B"),
    "Qwen/Qwen3-235B-A22B-FP8": ("Qwen3 235B", "Qwen/Qwen3-235B-A22B"),
    "openai/gpt-oss-120b": ("gpt-oss 120B", "openai/gpt-oss-120b"),
    "moonshotai/Kimi-K2.5": ("Kimi K2.5", "moonshotai/Kimi-K2.5"),
    "MiniMaxAI/MiniMax-M2.5": ("MiniMax M2.5", "MiniMaxAI/MiniMax-M2.5"),
    "zhipuai/GLM-5": ("GLM-5", "zai-org/GLM-5"),
}
LENGTHS_OF_INFERENCEMAX = (1024, 8192)
MEAN_OF_STATED = 0.9
PREDICTS = ("DeepSeek R1/V3", "trtllm", "1.2.0rc6.post3")
IMAGES = {"": "1.1", "gpt-oss-dev": "1.1"}
CAPPED = ("gpt-oss 120B", "h100_sxm", "vllm", CAPPED_CLIENT)
EXPERTS_APART = ("DeepSeek R1/V3", "b200_sxm", "sglang", "", "nvfp4")
BOTH = ("DeepSeek R1/V3", "b200_sxm", "1.1.0rc2.post2", "nvfp4")


@dataclass(frozen=True, slots=True)
class Row:
    """mode: "agg" or "disagg". measurement: None where the row does not say its load. unlike: why a
    row cannot be what it says, if so.
    """

    mode: str
    family: str
    system: str
    engine: str
    version: str
    precision: str
    mesh: str
    measurement: Measurement | None
    unlike: str = ""

    @property
    def group(self) -> tuple[str, str]:
        return self.family, self.system

    @property
    def is_odd(self) -> bool:
        """Whether what was measured is not what the row says: nothing to learn from."""
        return bool(self.unlike)


def read_rows(path: Path = FILE, families: Collection[str] | None = None) -> tuple[Row, ...]:
    """families: those whose cases are made, which takes time; the others are only named."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return tuple(
            _row(row, families is None or MODELS[row["model_path"]][0] in families)
            for row in csv.DictReader(file)
        )


def fitted_groups(rows: Sequence[Row], seed: int = SEED) -> frozenset[tuple[str, str]]:
    """(family, system) groups to fit: every second system of each family in a seeded order, then
    others in a seeded order while at most half of all rows are fitted. Chosen by names alone.
    """
    draw = random.Random(seed)
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        sizes[row.family][row.system] += 1
    fitted: set[tuple[str, str]] = set()
    turn = 0
    for family in sorted(sizes, key=_short):
        systems = sorted(sizes[family])
        draw.shuffle(systems)
        fitted |= {(family, s) for i, s in enumerate(systems) if (i + turn) % 2 == 0}
        turn += len(systems)
    others = sorted(
        ((f, s) for f in sizes for s in sizes[f] if (f, s) not in fitted),
        key=lambda group: (_short(group[0]), group[1]),
    )
    random.Random(seed).shuffle(others)
    for family, system in others:
        now = sum(sizes[f][s] for f, s in fitted)
        if now + sizes[family][system] <= len(rows) // 2:
            fitted.add((family, system))
    return frozenset(fitted)


def _short(family: str) -> str:
    """The order in which the split was drawn: by these words, once and for all."""
    return {
        "DeepSeek R1/V3": "deepseek",
        "GLM-5": "glm5",
        "gpt-oss 120B": "gptoss",
        "Kimi K2.5": "kimi",
        "Llama 3.1 70B": "llama70",
        "Llama 3.1 8B": "llama8",
        "MiniMax M2.5": "minimax",
        "Qwen3 235B": "qwen235",
        "Qwen3 32B": "qwen32",
    }[family]


@cache
def deployment(
    model: str, precision: str, kv: str, system: str, mesh: Mesh, engine: str, version: str
) -> Deployment:
    chip = load_accelerator(system.replace("_", "-")).chip()
    return deploy(
        _described(model, precision, kv),
        chip=chip,
        mesh=mesh,
        engine=engine,
        version=version,
        profile=PUBLISHED,
    )


@cache
def _described(model: str, precision: str, kv: str) -> Described:
    return describe(load_configuration(model).config, precision, kv=kv, where=model)


def _row(row: Mapping[str, str], is_made: bool) -> Row:
    family, model = MODELS[row["model_path"]]
    engine, system, version = row["backend"], row["system"], row["backend_version"]
    precision = "mxfp4" if model == "openai/gpt-oss-120b" else row["gemm_quant_mode"] or "bf16"
    kv = "fp8" if keeps_fp8(engine, family, system, precision, version) else "bf16"

    known = version
    if engine == "trtllm":
        known = "" if row["mode"] == "disagg" else IMAGES.get(version, version)

    def deployed(mesh: Mesh) -> Deployment:
        return deployment(model, precision, kv, system, mesh, engine, known)

    case, mesh, unlike = _case(row, deployed, precision) if is_made else (None, "", "")
    measurement = None
    if case is not None:
        tpot = 1e-3 * float(row["silicon_tpot_ms"])
        ttft = 1e-3 * float(row["silicon_ttft_ms"])
        if (family, system, engine, int(row["batch_size"] or 0)) == CAPPED:
            unlike = "the engine ran fewer at a time than its client asked, how many is not stated"
        elif row["mode"] == "agg" and _beats_peaks(case, tpot, ttft):
            unlike = "faster than the chips' peaks"
        measurement = Measurement(
            case,
            tpot,
            ttft,
            (family, system),
            (engine, precision, row["mode"]),
            (system, row["isl"], row["osl"], round(1e5 * tpot)),
        )
    return Row(row["mode"], family, system, engine, version, precision, mesh, measurement, unlike)


def _case(
    row: Mapping[str, str], deployed: Callable[[Mesh], Deployment], precision: str
) -> tuple[Case | None, str, str]:
    isl, osl = int(row["isl"]), int(row["osl"])
    varied = isl in LENGTHS_OF_INFERENCEMAX and osl in LENGTHS_OF_INFERENCEMAX
    mean = MEAN_OF_STATED if varied else 1.0

    def load(concurrency: float, drafts: int = 0, places: float = inf) -> Load:
        return Load(concurrency, mean * isl, mean * osl, varied, drafts, places=places)

    if row["mode"] == "disagg":
        if not row["decode_batch_size"]:
            return None, "", ""
        mesh, reads = _mesh(row, "decode_"), _mesh(row, "prefill_")
        workers = _number(row["decode_num_workers"])
        rows = int(row["decode_batch_size"]) * mesh.dp * workers
        readers = _number(row["prefill_num_workers"])
        case = Case(deployed(mesh), load(rows), deployed(reads), readers, workers)
        return case, f"{readers} x {reads} : {workers} x {mesh}", ""
    family, engine, system = MODELS[row["model_path"]][0], row["backend"], row["system"]
    tp, batch, concurrency = int(row["tp_size"]), int(row["batch_size"]), _concurrency(row)
    mesh = _aggregated(row)
    if tp > MAX_AGGREGATED and mesh is None:
        split = split_of(engine, tp, isl, concurrency)
        if split is None:
            raise RidgelineError(
                f"{engine}, {tp} GPUs, {isl} tokens, {concurrency} at once: no split"
            )
        case = Case(
            deployed(split.writes),
            load(concurrency, split.drafts),
            deployed(split.reads),
            split.readers,
            split.workers,
        )
        return case, f"{split.readers} x {split.reads} : {split.workers} x {split.writes}", ""
    mesh = mesh or Mesh()
    if engine == "trtllm" and not row["backend_version"] and mesh.dp == 1 and mesh.gpus > 1:
        mesh = first_months(family, system, precision, tp, (isl, osl), concurrency)
    if (family, system, engine, row["backend_version"], precision) == EXPERTS_APART:
        mesh = replace(mesh, ep=mesh.tp)
    if (family, system, engine, batch) == CAPPED:
        places = places_of_capped(tp, isl)
        return Case(deployed(mesh), load(in_flight_of_capped(places), places=places)), str(mesh), ""
    drafts = 0
    if (family, engine, row["backend_version"]) == PREDICTS:
        drafts = DRAFTS_OF_GROUPS if mesh.dp > 1 else DRAFTS
    elif (family, system, row["backend_version"], precision) == BOTH:
        # Of 32 at once on 8 groups there is a run with drafts, and none without.
        is_only = (mesh.dp, isl, concurrency) == (8, 8192, 32)
        drafts = DRAFTS_OF_GROUPS if is_only else 0
    asked = load(concurrency, drafts)
    steps = asked.output_tokens / asked.tokens_per_step
    together = gathered(engine, family, mesh, (isl, osl), steps, concurrency)
    held = held_steps(engine, family, system, mesh, steps, concurrency, together)
    case = Case(deployed(mesh), replace(asked, held=held, together=together))
    unlike = "" if case.deployment.room.kv_bytes > 0 else "its weights do not fit"
    return case, str(mesh), unlike


def _concurrency(row: Mapping[str, str]) -> int:
    batch, groups = int(row["batch_size"]), _groups(row)
    is_bounded = row["backend"] == "trtllm" and MODELS[row["model_path"]][0] == "DeepSeek R1/V3"
    if groups > 1 and is_bounded and batch * groups > MOST_OF_DEEPSEEK:
        return batch
    return batch * groups


def _beats_peaks(case: Case, tpot: float, ttft: float) -> bool:
    """Whether prompts alone would take longer than all was measured to take, at the best peak."""
    load, d = case.load, case.prefill or case.deployment
    prompts = float(max(1, min(d.mesh.dp, int(load.concurrency))))
    pieces = d.pieces(
        uniform_steps(d.windows, prompts=prompts, prompt_tokens=float(load.input_tokens))
    )
    best = max(d.chip.peaks.values())
    least = float((pieces.flops / pieces.peak).sum() + pieces.prefill_flops.sum() / best) / (
        prompts * case.prefill_workers
    )
    return load.concurrency * least > ttft + load.output_tokens * tpot


def _number(text: str) -> int:
    return max(1, int(text or 1))


def _mesh(row: Mapping[str, str], prefix: str) -> Mesh:
    tp, dp = _number(row[f"{prefix}tp_size"]), _number(row[f"{prefix}attention_dp_size"])
    ep = _number(row[f"{prefix}moe_ep_size"])
    return Mesh(tp=tp, dp=dp, ep=ep if tp * dp % ep == 0 else 1)


def _groups(row: Mapping[str, str]) -> int:
    """Groups of rows apart; where they are not stated, what experts' ranks say."""
    if row["attention_dp_size"]:
        return _number(row["attention_dp_size"])
    return max(1, _number(row["moe_tp_size"]) * _number(row["moe_ep_size"]) // int(row["tp_size"]))


def _aggregated(row: Mapping[str, str]) -> Mesh | None:
    """None: more ranks than one attention has."""
    tp, dp = _number(row["tp_size"]), _groups(row)
    moe_tp, moe_ep = _number(row["moe_tp_size"]), _number(row["moe_ep_size"])
    ranks = isqrt(moe_tp * moe_ep)
    if not row["attention_dp_size"]:
        return Mesh(tp=tp, dp=dp, ep=moe_ep)
    if tp * dp == moe_tp * moe_ep and moe_tp == moe_ep > 1:
        return Mesh(tp=ranks, ep=ranks) if dp == 1 else Mesh(dp=ranks, ep=ranks)
    if tp == dp > 1 and moe_tp == 1 and moe_ep == tp * dp:
        return Mesh(tp=tp, ep=tp)
    if tp > MAX_AGGREGATED:
        return None
    return Mesh(tp=tp, dp=dp, ep=moe_ep if tp * dp % moe_ep == 0 else 1)
