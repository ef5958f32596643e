"""Weight formats by what a deployment is called: "fp8" or "nvfp4" -> which weight is kept how.

Served checkpoints leave some weights as they were: embeddings, output matrix, norms and routers
always; a mixture in FP4 or INT4 its attention. Formats here are sizes, for pricing; those that
backends run are in `model/formats`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ridgeline.errors import RidgelineError
from ridgeline.model.graph.kv_format import KV_FORMATS, KvFormat

KEPT = re.compile(r"(^|\.)(embed|head)\b|norm|\.bias$|\.router\.|sinks")
ATTENTION = re.compile(r"\.attn\.")
EXPERTS = re.compile(r"\.moe\.(gate|up|down)\b")


@dataclass(frozen=True, slots=True)
class Stored:
    """How numbers are stored: `block_elements` of them in `block_bytes` bytes, scales included."""

    name: str
    block_elements: int
    block_bytes: int


# FP8 in blocks of 128 x 128 has a float32 scale for each: 1.0002 bytes a number. NVFP4: 16 numbers
# and an FP8 scale; MXFP4: 32 and an exponent; INT4 in groups of 32 with a BF16 scale (Kimi K2).
STORED = {
    stored.name: stored
    for stored in (
        Stored("bf16", 1, 2),
        Stored("fp8", 1, 1),
        Stored("fp8_block", 1, 1),
        Stored("nvfp4", 16, 9),
        Stored("mxfp4", 32, 17),
        Stored("int4_wo", 32, 18),
        Stored("int8_wo", 1, 1),
    )
}
# What a cache is kept in, for pricing: those of the engine and FP8 without scales.
KV_STORED: dict[str, KvFormat] = {**KV_FORMATS, "fp8": KvFormat("fp8", 1)}

# The arithmetics that multiply a format, best first: the first that the chip has.
ARITHMETIC: Mapping[str, tuple[str, ...]] = {
    "bf16": ("bf16", "fp16"),
    "fp8": ("fp8", "bf16", "fp16"),
    "fp8_block": ("fp8", "bf16", "fp16"),
    "nvfp4": ("fp4", "bf16", "fp16"),
    # MXFP4 weights meet FP8 activations where the chip scales blocks, else BF16 ones.
    "mxfp4": ("fp4_by_fp8", "bf16", "fp16"),
    "int4_wo": ("bf16", "fp16"),
    "int8_wo": ("bf16", "fp16"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """dense: of a model without experts. attention, experts, others: of one with."""

    dense: str
    attention: str
    experts: str
    others: str


RECIPES: dict[str, Recipe] = {
    "bf16": Recipe("bf16", "bf16", "bf16", "bf16"),
    "fp8": Recipe("fp8", "fp8", "fp8", "fp8"),
    "fp8_block": Recipe("fp8_block", "fp8_block", "fp8_block", "fp8_block"),
    "nvfp4": Recipe("nvfp4", "bf16", "nvfp4", "nvfp4"),
    "mxfp4": Recipe("mxfp4", "bf16", "mxfp4", "bf16"),
    "int4_wo": Recipe("int4_wo", "bf16", "int4_wo", "bf16"),
    "int8_wo": Recipe("int8_wo", "int8_wo", "int8_wo", "int8_wo"),
}


def formats_of(precision: str, is_mixture: bool) -> Callable[[str], Stored]:
    """A weight's canonical name -> how it is stored. RidgelineError names the precisions."""
    if precision not in RECIPES:
        known = ", ".join(RECIPES)
        raise RidgelineError(f"precision {precision!r} is not known; there are: {known}")
    recipe = RECIPES[precision]

    def format_of(name: str) -> Stored:
        if KEPT.search(name):
            return STORED["bf16"]
        if not is_mixture:
            return STORED[recipe.dense]
        if EXPERTS.search(name):
            return STORED[recipe.experts]
        return STORED[recipe.attention if ATTENTION.search(name) else recipe.others]

    return format_of


def arithmetic_of(format_name: str, peaks: Mapping[str, float]) -> str:
    """The arithmetic of `peaks` (operations per second) that multiplies a format's numbers."""
    for name in ARITHMETIC.get(format_name, ("bf16", "fp16")):
        if name == "fp4_by_fp8":
            if peaks.get("fp4"):
                return "fp8"
        elif peaks.get(name):
            return name
    raise RidgelineError(
        f"no arithmetic for {format_name} weights; there are: {', '.join(peaks) or 'none'}"
    )


def family_of(format_name: str, peaks: Mapping[str, float]) -> str:
    """How a format's numbers meet activations on such a chip: a name of `efficiency.FAMILIES`."""
    arithmetic = arithmetic_of(format_name, peaks)
    if format_name in ("nvfp4", "mxfp4", "int4_wo"):
        return "w4a16" if arithmetic in ("bf16", "fp16") else "fp4"
    if format_name in ("fp8", "fp8_block", "int8_wo"):
        return "w8a16" if arithmetic in ("bf16", "fp16") else format_name
    return "bf16"
