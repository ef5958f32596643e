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

from ridgeline.cost.collectives import (
    COLLECTIVES,
    Routes,
    collective_seconds,
    message_of,
    shots_of,
)
from ridgeline.cost.engines import ENGINES, ERA_TITLES, ERAS
from ridgeline.cost.lines import KINDS

Array = NDArray[Any]

# How weights meet activations: as they are stored, or turned to BF16 on their way (w4a16, w8a16).
FAMILIES = ("bf16", "fp8", "fp8_block", "fp4", "w4a16", "w8a16")
EXPERT_FAMILIES = ("bf16", "fp8", "fp8", "fp4", "w4a16", "w4a16")
ARITHMETICS = ("bf16", "fp8", "fp4")
# Ranks from which engines place copies of popular experts.
PLACED = 16
# Of the variation of how popular experts are, what copies leave, since they are placed by what was
# popular before. SGLang's prompts on 32 H100, copies placed by the same data: 50,302 tokens/s a
# node, and 59,337 if tokens are sent to all experts alike (LMSYS, large-scale EP, 2025-05-05). So
# the busiest rank has 1.3 times the mean, as the experts of our step would have to slow it down.
LEFT_WHERE_PLACED = 0.085
# The year of Blackwell, whose kernels reach less of its peaks than Hopper's of theirs.
NEW_SINCE = 2025
# Kernels that turn 4 or 8 bits to BF16 (Marlin) multiply by Ampere's instructions (mma.sync), which
# reach 63 % of Hopper's peak (Luo et al., arXiv 2402.13499). A processor's peak is twice as high in
# Blackwell, by instructions of its own; that Ampere's are no faster there is taken, not measured.
TURNED_ON_NEW = 0.5
_TURNED = tuple(FAMILIES.index(family) for family in ("w4a16", "w8a16"))
_EXPERTS = KINDS.index("experts")
_ATTENTION = KINDS.index("attention")
_ALL_TO_ALL = COLLECTIVES.index("all_to_all")
TRTLLM = ENGINES.index("trtllm")


@dataclass(frozen=True, slots=True)
class Profile:
    """Efficiencies and overheads, by name; `MEANINGS` says what each is. source: where from.

    spread, spread_ttft: half the width of the 80 % interval of a time per token, and to the first
    one, as logs; spread_tpot_apart, spread_ttft_apart: where prompts are computed elsewhere.
    """

    name: str
    values: Mapping[str, float]
    source: str = ""
    spread: float = 0.3
    spread_ttft: float = 0.6
    spread_ttft_apart: float = 1.2
    spread_tpot_apart: float = 0.3

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def spreads(self, apart: bool) -> tuple[float, float]:
        """Of a time per token, and to the first. apart: whether prompts are computed elsewhere."""
        if apart:
            return self.spread_tpot_apart, self.spread_ttft_apart
        return self.spread, self.spread_ttft

    def table(self, prefix: str, names: tuple[str, ...]) -> Array:
        return np.array([self.values[f"{prefix}.{name}"] for name in names])


@dataclass(frozen=True, slots=True)
class Pieces:
    """Entries of any number of steps, one after the other. All arrays have as many elements.

    kind, family, arithmetic: indices in KINDS, FAMILIES, ARITHMETICS. count: like nodes, which are
    launched one by one. flops: of matrices; tokens: rows of those. decode_flops, prefill_flops,
    decode_bytes, prefill_bytes: of attention. peak, peak_bf16: operations per second; memory, link:
    bytes per second. ways: ranks of a collective, or that part experts; collective: an index in
    COLLECTIVES; in_switch: whether the link's switch adds; near, domain, far, crossing: `Routes` of
    an all-to-all. latent: attention of latents; new: on a chip of NEW_SINCE or later. experts,
    per_expert: of a mixture and of what takes tokens to it: how many there are, and tokens that one
    has on average; weight_bytes are of all there are.
    engine: an index in ENGINES; slow: experts without kernels made for
    them. steps: the step of an entry.
    """

    kind: Array
    family: Array
    arithmetic: Array
    count: Array
    flops: Array
    tokens: Array
    weight_bytes: Array
    experts: Array
    per_expert: Array
    moved_bytes: Array
    decode_flops: Array
    prefill_flops: Array
    decode_bytes: Array
    prefill_bytes: Array
    link_bytes: Array
    ways: Array
    collective: Array
    in_switch: Array
    near: Array
    domain: Array
    far: Array
    crossing: Array
    latent: Array
    new: Array
    peak: Array
    peak_bf16: Array
    memory: Array
    link: Array
    engine: Array
    slow: Array
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


def _by_era(
    name: str, default: float, least: float, most: float, what: str
) -> dict[str, tuple[float, float, float, str]]:
    """A number for each era of an engine, which all begin with the same."""
    return {
        f"{name}.{era}": (default, least, most, f"{what if not i else 'the same'}, {title}")
        for i, (era, title) in enumerate((e, ERA_TITLES[e]) for e in ERAS)
    }


# name: (published default, least, most, what it is)
MEANINGS: dict[str, tuple[float, float, float, str]] = {
    "stream.bf16": (0.80, 0.5, 0.95, "of the memory's bandwidth, reading weights in BF16"),
    "stream.fp8": (0.76, 0.4, 0.95, "the same, FP8 with a scale a matrix"),
    "stream.fp8_block": (0.76, 0.4, 0.95, "the same, FP8 in blocks"),
    "stream.fp4": (0.55, 0.3, 0.95, "the same, NVFP4 and MXFP4 where the chip multiplies FP4"),
    "stream.w4a16": (0.60, 0.3, 0.95, "the same, 4 bits turned to BF16"),
    "stream.w8a16": (0.70, 0.3, 0.95, "the same, 8 bits turned to BF16"),
    "compute.bf16": (0.75, 0.4, 0.95, "of the peak of dense BF16, in large matrices"),
    "compute.fp8": (0.55, 0.3, 0.95, "the same, FP8"),
    "compute.fp4": (0.42, 0.15, 0.9, "the same, FP4"),
    "experts.stream.bf16": (0.75, 0.3, 0.95, "of the bandwidth, reading experts in BF16"),
    "experts.stream.fp8": (0.75, 0.3, 0.95, "the same, FP8"),
    "experts.stream.fp4": (0.75, 0.3, 0.95, "the same, FP4"),
    "experts.stream.w4a16": (0.70, 0.3, 0.95, "the same, 4 bits turned to BF16"),
    "experts.compute.bf16": (0.7, 0.2, 1.2, "of a linear's compute, in grouped experts in BF16"),
    "experts.compute.fp8": (0.7, 0.2, 1.2, "the same, FP8"),
    "experts.compute.fp4": (0.7, 0.2, 1.2, "the same, FP4"),
    "experts.compute.w4a16": (0.7, 0.2, 1.2, "the same, 4 bits turned to BF16"),
    "experts.tile": (32.0, 1.0, 256.0, "rows of a tile: of an expert's last one half is empty"),
    "experts.skew": (0.5, 0.01, 4.0, "squared variation of how popular experts are; 0: all alike"),
    "kv.stream": (0.75, 0.3, 0.95, "of the memory's bandwidth, reading a cache"),
    "attention.decode": (0.4, 0.1, 0.9, "of the BF16 peak, an answer's attention"),
    "attention.prefill": (0.5, 0.2, 0.9, "of the BF16 peak, a prompt's attention"),
    "attention.latent": (0.5, 0.1, 0.9, "the same, of latents (MLA), a prompt's"),
    "new.compute": (0.9, 0.5, 1.1, "of the shares of peaks above, what chips since 2025 reach"),
    "moved.stream": (0.7, 0.2, 0.95, "of the memory's bandwidth, values between operators"),
    "overlap": (
        2.0,
        1.0,
        8.0,
        "p of (compute^p + memory^p)^(1/p): 1 adds, infinity hides",
    ),
    "floor.linear": (4e-6, 1e-6, 2e-5, "seconds, least time of a linear beside its work"),
    "floor.experts.bf16": (2e-5, 2e-6, 8e-5, "the same, 256 experts in BF16 with their sorting"),
    "floor.experts.fp8": (2e-5, 2e-6, 8e-5, "the same, FP8"),
    "floor.experts.fp4": (2e-5, 2e-6, 8e-5, "the same, FP4"),
    "floor.experts.w4a16": (2e-5, 2e-6, 8e-5, "the same, 4 bits turned to BF16"),
    "experts.slow": (2.0, 0.5, 8.0, "times that floor, TensorRT-LLM without kernels made for them"),
    "floor.attention.trtllm": (2e-5, 2e-6, 6e-5, "the same, attention, TensorRT-LLM"),
    "floor.attention.vllm": (2e-5, 2e-6, 6e-5, "the same, vLLM"),
    "floor.attention.sglang": (2e-5, 2e-6, 6e-5, "the same, SGLang"),
    "floor.elementwise": (2e-6, 2e-7, 1e-5, "the same, norms, rotations and the like"),
    "collective.latency": (4e-6, 2e-6, 1.2e-5, "seconds, least time of an all-reduce in one shot"),
    "exchange.latency": (4e-6, 1e-6, 3e-5, "of an all-to-all, for each doubling of the ranks"),
    "collective.link": (0.7, 0.2, 0.95, "of the link's bandwidth"),
    **_by_era("host.step", 5e-4, 5e-5, 8e-3, "seconds of the host a step"),
    **_by_era("host.row", 1e-5, 1e-6, 2e-4, "seconds of the host a row and step"),
    **_by_era("eager", 1.5e-5, 1e-6, 3e-5, "seconds to launch an operator beside CUDA graphs"),
    "host.overlap": (
        2.0,
        1.0,
        8.0,
        "the same exponent, of the device's seconds and the host's",
    ),
    **_by_era("ttft.floor", 0.03, 0.005, 0.3, "seconds of a first token beside the steps"),
    "ttft.handover": (0.05, 0.005, 0.5, "the same, more, where prompts are computed elsewhere"),
    "ttft.burst": (0.05, 0.01, 0.5, "of all others' prompts, where they are computed elsewhere"),
    **_by_era("ttft.prompts", 1.5, 1.0, 6.0, "prompts until the first token, one's own included"),
    **_by_era("ttft.steps", 2.0, 0.5, 10.0, "steps until the first token"),
    **_by_era("ttft.wave", 0.05, 0.01, 0.5, "of all others' prompts; 0.05: a burst in ten waves"),
}
# Numbers that seconds of a device do not depend on.
OF_THE_HOST = ("host.", "eager.", "ttft.")
PUBLISHED = Profile(
    "published",
    {name: default for name, (default, _least, _most, _what) in MEANINGS.items()},
    source="medians of op-level tables (aiconfigurator-core 0.12.0, Apache-2.0), 2026-11-21",
)


def piece_seconds(pieces: Pieces, profile: Profile) -> Array:
    """Seconds of each entry, one after the other: what the device does in a step, all in all."""
    p = profile["overlap"]
    is_experts = pieces.kind == _EXPERTS
    stream = profile.table("stream", FAMILIES)[pieces.family]
    compute = profile.table("compute", ARITHMETICS)[pieces.arithmetic]
    stream = np.where(
        is_experts, profile.table("experts.stream", EXPERT_FAMILIES)[pieces.family], stream
    )
    grouped = compute * profile.table("experts.compute", EXPERT_FAMILIES)[pieces.family]
    compute = np.where(is_experts, np.minimum(0.95, grouped), compute)
    floors = np.array([profile["floor.linear"], 0.0, 0.0, profile["floor.elementwise"], 0.0])
    compute = compute * np.where(pieces.new, profile["new.compute"], 1.0)
    turned = pieces.new & np.isin(pieces.family, _TURNED)
    compute = compute * np.where(turned, TURNED_ON_NEW, 1.0)
    touched = touched_share(pieces.per_expert, profile["experts.skew"])
    reading = weights_read(pieces, profile) / (pieces.memory * stream)
    moving = pieces.moved_bytes / (pieces.memory * profile["moved.stream"])
    busiest = imbalance(pieces.ways, pieces.per_expert, pieces.experts, profile["experts.skew"])
    filled = busiest * filled_up(pieces.per_expert, touched, profile["experts.tile"])
    computing = pieces.flops * np.where(is_experts, filled, 1.0) / (pieces.peak * compute)
    seconds = both(computing, reading + moving, p) + pieces.count * floors[pieces.kind]
    attending = profile.table("floor.attention", ENGINES)[pieces.engine]
    # Of latents, the two products that are absorbed around it are kernels of their own.
    attending = attending + pieces.latent * 2.0 * profile["floor.linear"]
    seconds += np.where(pieces.kind == _ATTENTION, pieces.count * attending, 0.0)
    seconds += np.where(
        is_experts,
        pieces.count
        * (pieces.experts / 256.0)
        * np.where(pieces.slow, profile["experts.slow"], 1.0)
        * profile.table("floor.experts", EXPERT_FAMILIES)[pieces.family],
        0.0,
    )
    seconds += both(
        pieces.decode_flops / (pieces.peak_bf16 * profile["attention.decode"]),
        pieces.decode_bytes / (pieces.memory * profile["kv.stream"]),
        p,
    )
    seconds += both(
        pieces.prefill_flops
        / (
            pieces.peak_bf16
            * np.where(pieces.new, profile["new.compute"], 1.0)
            * np.where(pieces.latent, profile["attention.latent"], profile["attention.prefill"])
        ),
        pieces.prefill_bytes / (pieces.memory * profile["kv.stream"]),
        p,
    )
    count = np.maximum(pieces.count, 1.0)
    # An all-to-all waits for the rank that most tokens come to.
    sent = pieces.link_bytes / count * np.where(pieces.collective == _ALL_TO_ALL, busiest, 1.0)
    seconds += pieces.count * collective_seconds(
        pieces.collective,
        sent,
        pieces.ways,
        pieces.link * profile["collective.link"],
        profile["collective.latency"],
        profile["exchange.latency"],
        pieces.in_switch,
        Routes(
            pieces.near * profile["collective.link"], pieces.domain, pieces.far, pieces.crossing
        ),
        shots_of(
            message_of(sent, pieces.ways), pieces.tokens, pieces.ways, pieces.engine == TRTLLM
        ),
    )
    return np.asarray(seconds)


def least_seconds(pieces: Pieces, profile: Profile) -> tuple[Array, Array, Array]:
    """Of each entry at the roof: of arithmetic, of memory, of the link."""
    attending = pieces.decode_flops + pieces.prefill_flops
    compute = pieces.flops / pieces.peak + attending / pieces.peak_bf16
    moved = pieces.moved_bytes + pieces.decode_bytes + pieces.prefill_bytes
    memory = (weights_read(pieces, profile) + moved) / pieces.memory
    return compute, memory, pieces.link_bytes / pieces.link


def weights_read(pieces: Pieces, profile: Profile) -> Array:
    """Bytes of each entry: of experts, those that some token needs."""
    touched = touched_share(pieces.per_expert, profile["experts.skew"])
    return np.asarray(pieces.weight_bytes * np.where(pieces.kind == _EXPERTS, touched, 1.0))


def touched_share(per_expert: Array, skew: float) -> Array:
    """Of a layer's experts, the share that some token needs, at `per_expert` tokens for each on
    average: popularities are spread as a gamma distribution of squared variation `skew`.
    """
    return np.asarray(1.0 - (1.0 + skew * per_expert) ** (-1.0 / skew))


def filled_up(per_expert: Array, touched: Array, tile: float) -> Array:
    """How much more is computed than there are rows, since kernels compute whole tiles: of each
    expert that some token needs, half a tile on average.
    """
    return np.asarray(1.0 + 0.5 * tile * touched / np.maximum(per_expert, 1e-9))


def imbalance(ways: Array, per_expert: Array, experts: Array, skew: float) -> Array:
    """How much more than the mean the busiest of `ways` ranks, each with its own experts, computes:
    ranks' loads vary by how popular their experts are and by the draw of `per_expert` tokens, and
    the largest of n such is about sqrt(2 ln n) deviations above the mean. From PLACED ranks on,
    popular experts are taken to have copies (DeepSeek's load balancer), which leave some of it.
    """
    mean = np.maximum(per_expert * experts / np.maximum(ways, 1.0), 1e-9)
    left = np.where(ways < PLACED, 1.0, LEFT_WHERE_PLACED)
    varied = left * skew * ways / np.maximum(experts, 1.0) + 1.0 / mean
    return np.minimum(ways, 1.0 + np.sqrt(2.0 * np.log(np.maximum(ways, 1.0)) * varied))


def both(one: Array, other: Array, p: float) -> Array:
    """Two resources at once: as long as the slower one if p is infinite, their sum if p is 1."""
    most = np.maximum(one, other)
    least = np.minimum(one, other)
    ratio = np.divide(least, most, out=np.zeros_like(most), where=most > 0)
    return np.asarray(most * (1.0 + ratio**p) ** (1.0 / p))
