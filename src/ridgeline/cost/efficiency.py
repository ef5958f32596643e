"""From work to seconds on an accelerator: a roofline with efficiencies by kind of operator, floors
for launches and collectives, and an engine's overheads.

A `Profile` is a few dozen numbers with names, each with a meaning and bounds that physics sets
(`MEANINGS`). `Pieces` is work in flat arrays, one entry an operator of a step, so that one or a
million are priced alike. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.cost.lines import KINDS

Array = NDArray[Any]

FORMATS = ("bf16", "fp8", "fp8_block", "nvfp4", "mxfp4", "int4_wo", "int8_wo")
ARITHMETICS = ("bf16", "fp8", "fp4")
ENGINES = ("trtllm", "vllm", "sglang")
_LINEAR, _EXPERTS, _ATTENTION, _ELEMENTWISE, _COLLECTIVE = range(len(KINDS))


@dataclass(frozen=True, slots=True)
class Profile:
    """Efficiencies and overheads, by name; `MEANINGS` says what each is. source: where from.

    spread: half the width of the 80 % interval of a step's seconds, as a log.
    """

    name: str
    values: Mapping[str, float]
    source: str = ""
    spread: float = 0.3

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def table(self, prefix: str, names: tuple[str, ...]) -> Array:
        return np.array([self.values[f"{prefix}.{name}"] for name in names])


@dataclass(frozen=True, slots=True)
class Pieces:
    """Entries of any number of steps, one after the other. All arrays have as many elements.

    kind, format, arithmetic, engine: indices in KINDS, FORMATS, ARITHMETICS, ENGINES. count: like
    nodes, which are launched one by one. flops: of matrices; tokens: rows of those. decode_flops,
    prefill_flops, decode_bytes, prefill_bytes: of attention. peak, peak_bf16: operations per
    second; memory, link: bytes per second. ways: ranks of a collective; hops: its latencies.
    steps: of an entry of `seconds`, its step.
    """

    kind: Array
    format: Array
    arithmetic: Array
    engine: Array
    count: Array
    flops: Array
    tokens: Array
    weight_bytes: Array
    moved_bytes: Array
    decode_flops: Array
    prefill_flops: Array
    decode_bytes: Array
    prefill_bytes: Array
    link_bytes: Array
    ways: Array
    peak: Array
    peak_bf16: Array
    memory: Array
    link: Array
    steps: Array

    @staticmethod
    def joined(parts: list[Pieces], steps: list[int]) -> Pieces:
        """Of several, one; steps: how many steps each of `parts` has."""
        offsets = np.cumsum([0, *steps[:-1]])
        arrays = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(Pieces)
            if f.name != "steps"
        }
        arrays["steps"] = np.concatenate(
            [part.steps + offset for part, offset in zip(parts, offsets, strict=True)]
        )
        return Pieces(**arrays)


# name: (published default, least, most, what it is)
MEANINGS: dict[str, tuple[float, float, float, str]] = {
    "stream.bf16": (0.80, 0.5, 0.95, "of the memory's bandwidth, reading weights in BF16"),
    "stream.fp8": (0.76, 0.4, 0.95, "the same, FP8"),
    "stream.fp8_block": (0.76, 0.4, 0.95, "the same, FP8 in blocks"),
    "stream.nvfp4": (0.55, 0.3, 0.95, "the same, NVFP4"),
    "stream.mxfp4": (0.55, 0.3, 0.95, "the same, MXFP4"),
    "stream.int4_wo": (0.60, 0.3, 0.95, "the same, INT4"),
    "stream.int8_wo": (0.70, 0.3, 0.95, "the same, INT8"),
    "compute.bf16": (0.75, 0.4, 0.95, "of the peak of dense BF16, in large matrices"),
    "compute.fp8": (0.55, 0.3, 0.95, "the same, FP8"),
    "compute.fp4": (0.42, 0.15, 0.9, "the same, FP4"),
    "experts.stream": (0.9, 0.3, 1.2, "of a linear's stream, in grouped experts"),
    "experts.compute": (0.7, 0.2, 1.2, "of a linear's compute, in grouped experts"),
    "kv.stream": (0.75, 0.3, 0.95, "of the memory's bandwidth, reading a cache"),
    "attention.decode": (0.4, 0.1, 0.9, "of the BF16 peak, an answer's attention"),
    "attention.prefill": (0.5, 0.2, 0.9, "of the BF16 peak, a prompt's attention"),
    "moved.stream": (0.7, 0.2, 0.95, "of the memory's bandwidth, values between operators"),
    "overlap": (2.0, 1.0, 8.0, "exponent p of (compute^p + memory^p)^(1/p); infinity: a perfect"),
    "floor.linear": (4e-6, 1e-6, 2e-5, "seconds, least time of a linear beside its work"),
    "floor.experts": (1.5e-5, 2e-6, 8e-5, "the same, experts with their sorting"),
    "floor.attention": (9e-6, 2e-6, 4e-5, "the same, attention"),
    "floor.elementwise": (2e-6, 2e-7, 1e-5, "the same, norms, rotations and the like"),
    "collective.latency": (4e-6, 1e-6, 3e-5, "seconds for each doubling of the ranks"),
    "collective.link": (0.7, 0.2, 0.95, "of the link's bandwidth"),
    "host.step.trtllm": (5e-4, 1e-5, 8e-3, "seconds a step beside the device, TensorRT-LLM"),
    "host.step.vllm": (5e-4, 1e-5, 8e-3, "the same, vLLM"),
    "host.step.sglang": (5e-4, 1e-5, 8e-3, "the same, SGLang"),
    "host.row.trtllm": (1e-5, 1e-7, 1e-4, "seconds a row and step beside the device, TensorRT-LLM"),
    "host.row.vllm": (1e-5, 1e-7, 1e-4, "the same, vLLM"),
    "host.row.sglang": (1e-5, 1e-7, 1e-4, "the same, SGLang"),
}
PUBLISHED = Profile(
    "published",
    {name: default for name, (default, _least, _most, _what) in MEANINGS.items()},
    source="medians of op-level tables (aiconfigurator-core 0.12.0, Apache-2.0), 2026-11-21",
)


def piece_seconds(pieces: Pieces, profile: Profile) -> Array:
    """Seconds of each entry, one after the other: what the device does in a step, all in all."""
    p = profile["overlap"]
    is_experts = pieces.kind == _EXPERTS
    stream = profile.table("stream", FORMATS)[pieces.format]
    compute = profile.table("compute", ARITHMETICS)[pieces.arithmetic]
    stream = np.where(is_experts, np.minimum(0.95, stream * profile["experts.stream"]), stream)
    compute = np.where(is_experts, np.minimum(0.95, compute * profile["experts.compute"]), compute)
    floors = np.array(
        [
            profile["floor.linear"],
            profile["floor.experts"],
            profile["floor.attention"],
            profile["floor.elementwise"],
            0.0,
        ]
    )
    reading = pieces.weight_bytes / (pieces.memory * stream)
    moving = pieces.moved_bytes / (pieces.memory * profile["moved.stream"])
    computing = pieces.flops / (pieces.peak * compute)
    seconds = _both(computing, reading + moving, p) + pieces.count * floors[pieces.kind]
    seconds += _both(
        pieces.decode_flops / (pieces.peak_bf16 * profile["attention.decode"]),
        pieces.decode_bytes / (pieces.memory * profile["kv.stream"]),
        p,
    )
    seconds += _both(
        pieces.prefill_flops / (pieces.peak_bf16 * profile["attention.prefill"]),
        pieces.prefill_bytes / (pieces.memory * profile["kv.stream"]),
        p,
    )
    latency = profile["collective.latency"] * np.log2(pieces.ways)
    seconds += np.where(
        pieces.kind == _COLLECTIVE,
        pieces.count * latency + pieces.link_bytes / (pieces.link * profile["collective.link"]),
        0.0,
    )
    return np.asarray(seconds)


def _both(computing: Array, reading: Array, p: float) -> Array:
    """Two resources at once: as long as the slower one if p is infinite, their sum if p is 1."""
    most = np.maximum(computing, reading)
    least = np.minimum(computing, reading)
    ratio = np.divide(least, most, out=np.zeros_like(most), where=most > 0)
    return np.asarray(most * (1.0 + ratio**p) ** (1.0 / p))
