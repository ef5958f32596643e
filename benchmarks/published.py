"""Published tables as cases: what vendors and operators say their deployments do, predicted.

benchmarks/data/published_measurements.json.gz: 162 figures with their sources (retrieved
2026-11-21). None of them was fitted.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.chip import Chip, Mesh
from ridgeline.cost.deployment import Deployment, deploy
from ridgeline.cost.described import describe
from ridgeline.cost.efficiency import piece_seconds
from ridgeline.cost.steps import uniform_steps
from ridgeline.errors import RidgelineError
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.steady import Case, Load, most_requests_per_second

FILE = Path(__file__).parent / "data" / "published_measurements.json.gz"
PRECISIONS = {"int8": "int8_wo", "int4-g32": "int4_wo", "fp16": "bf16", None: "bf16"}
NAMES = {
    "deepseek-ai/DeepSeek-R1-0528": "deepseek-ai/DeepSeek-R1",
    "meta-llama/Meta-Llama-3-70B": "meta-llama/Meta-Llama-3.1-70B",
}
# gpt-fast writes 200 tokens after a prompt of 5.
GPT_FAST_CONTEXT = 105.0
# H800: an H100 whose NVLink has 400 GB/s both ways (DeepSeek-V3 technical report, 2024-12).
H800_LINK = 200e9
# Seconds of the host a step in that engine: fitted to the table's sixteen H100 figures, whose
# errors are not counted; what is scored is the A100 half.
NEMO_STEP = 4.4e-3


@dataclass(frozen=True, slots=True)
class Published:
    """A figure, and the same as predicted; in the source's unit. refusal: why there is none."""

    table: str
    what: str
    stated: float
    predicted: float | None
    refusal: str = ""


@cache
def deployment(
    model: str, precision: str, kv: str, chip: str, mesh: Mesh, engine: str
) -> Deployment:
    config = load_configuration(NAMES.get(model, model)).config
    return deploy(describe(config, precision, kv=kv), chip=_chip(chip), mesh=mesh, engine=engine)


def _chip(name: str) -> Chip:
    if name == "H800 SXM":
        return replace(load_accelerator("h100-sxm").chip(), link_bytes_per_second=H800_LINK)
    return load_accelerator(name).chip()


def published() -> tuple[Published, ...]:
    found = []
    for row in published_rows():
        for wanted, table, predict in TABLES:
            if wanted in row["source"]:
                found += _predicted(row, table, predict)
                break
    return tuple(found)


@cache
def published_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(gzip.decompress(FILE.read_bytes()))["rows"]
    return rows


# Whether figures that a constant was fitted to are given as well.
FITTED_TOO = False
Predict = Callable[[Mapping[str, Any]], tuple[str, float, float] | None]


def _predicted(row: Mapping[str, Any], table: str, predict: Predict) -> list[Published]:
    what = f"{row['model'].split('/')[-1]}, {row['hardware']}"
    try:
        made = predict(row)
    except RidgelineError as error:
        return [Published(table, what, float("nan"), None, str(error)[:100])]
    if made is None:
        return []
    label, stated, predicted = made
    return [Published(table, f"{what}, {label}", stated, predicted)]


def _gpt_fast(row: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """One compiled step after the other, no scheduler: the device's seconds alone. Kernels around
    attention are PyTorch's own, as vLLM's are: rotations and the write to the cache are apart.
    """
    if "speculative" in row.get("notes", "") or row["hardware"].startswith("amd"):
        return None
    stored = row["precision"]["weights"]
    d = _deployed(row, "bf16", "vllm")
    label = f"{row['parallelism']}, {stored}"
    return label, row["metrics"]["output_tokens_per_s"], 1.0 / _device(d, 1.0, GPT_FAST_CONTEXT)


def _nemo(row: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """A batch of prompts, then all its tokens."""
    if row["hardware"] == "h100-sxm" and not FITTED_TOO:
        return None
    d, batch = _deployed(row, "bf16"), float(row["batch"])
    values = {**d.profile.values, "host.step.trtllm": NEMO_STEP}
    d = d.with_profile(replace(d.profile, values=values))
    tokens, output = float(row["input_tokens"]), row["output_tokens"]
    first = d.price(uniform_steps(d.windows, prompts=batch, prompt_tokens=tokens))[0]
    contexts = tokens + np.arange(1.0, output)
    rest = d.price(uniform_steps(d.windows, decode=batch, context=contexts)).sum()
    label = f"{row['parallelism']}, batch {row['batch']}, {row['input_tokens']} + {output}"
    return label, row["metrics"]["request_latency_ms"], 1e3 * float(first + rest)


def _most(row: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """As many requests as the caches hold."""
    stated = row["metrics"].get("output_tokens_per_s_per_gpu")
    if not stated or "parallelism" not in row:
        return None
    d = _deployed(
        row, "fp8" if row["precision"]["weights"] in ("fp8", "nvfp4", "mxfp4") else "bf16"
    )
    load = Load(1, row["input_tokens"], row["output_tokens"])
    found = most_requests_per_second(Case(d, load), limit=4096.0 * d.mesh.dp)
    label = f"{row['parallelism']}, {row['input_tokens']} + {row['output_tokens']}"
    return label, stated, found.tokens_per_second / d.mesh.gpus


def _device(d: Deployment, rows: float, context: float) -> float:
    pieces = d.pieces(uniform_steps(d.windows, decode=rows, context=context))
    return float(piece_seconds(pieces, d.profile).sum())


def _deployed(row: Mapping[str, Any], kv: str, engine: str = "trtllm") -> Deployment:
    name = row.get("precision", {}).get("weights")
    precision = PRECISIONS.get(name, name)
    if "gpt-oss" in row["model"]:
        precision = "mxfp4"
    kind, ways = re.fullmatch(r"([A-Z]+)(\d+)", row["parallelism"]).groups()  # type: ignore[union-attr]
    ranks = int(ways)
    mesh = Mesh(tp=ranks)
    if kind == "DEP" and ranks > 1:
        mesh = Mesh(dp=ranks, ep=ranks)
    return deployment(row["model"], precision, kv, row["hardware"], mesh, engine)


GPT_FAST, NEMO, MOST = (
    "gpt-fast, batch 1, tokens/s",
    "NeMo, fixed batch, A100, ms",
    "TensorRT-LLM, most output tokens/s/GPU",
)
TABLES: tuple[tuple[str, str, Predict], ...] = (
    ("gpt-fast", GPT_FAST, _gpt_fast),
    ("NeMo", NEMO, _nemo),
    ("TensorRT-LLM", MOST, _most),
)
