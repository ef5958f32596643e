"""A step's operators under an accelerator's roof, and what each precision's floor is.

The dots are the bound graph's own work at the times that the cost model predicts; the roof is the
data sheet's. A floor is the time that nothing beats: each operator at the speed of what binds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ridgeline.cost.accelerator import Accelerator
from ridgeline.cost.chip import Chip, Mesh
from ridgeline.cost.deployment import Deployment, deploy
from ridgeline.cost.described import describe
from ridgeline.cost.efficiency import Pieces, least_seconds, piece_seconds
from ridgeline.cost.engines import NEWEST, spelled
from ridgeline.cost.precisions import arithmetic_of
from ridgeline.cost.steps import steps_of
from ridgeline.errors import CapacityError, RidgelineError
from ridgeline.plan.degrees import check_degree
from ridgeline.plan.deployed import PRECISIONS
from ridgeline.step import StepShape
from ridgeline.units import format_bytes

# Side by side: what the weights are kept in.
FLOORS = ("bf16", "fp8", "int4", "nvfp4")


@dataclass(frozen=True, slots=True)
class Dot:
    """Like operators of a step. intensity: FLOPs per byte through memory. seconds: predicted, of
    all `count`; least_seconds: at the roof. binds: "memory", "link" or an arithmetic.
    """

    name: str
    kind: str
    arithmetic: str
    count: int
    flops: float
    num_bytes: float
    link_bytes: float
    seconds: float
    least_seconds: float
    binds: str

    @property
    def intensity(self) -> float:
        return self.flops / self.num_bytes if self.num_bytes else 0.0

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Floor:
    """A precision on the same ranks. native: whether the chip multiplies in it. seconds: None where
    the weights and the step's cache do not fit; needed, usable: bytes of a rank.
    """

    precision: str
    arithmetic: str
    native: bool
    weight_bytes: float
    needed: float
    usable: float
    least_seconds: float
    seconds: float
    low: float
    high: float
    binds: str

    @property
    def fits(self) -> bool:
        return self.needed <= self.usable


@dataclass(frozen=True, slots=True)
class Roofline:
    """peaks: operations per second by arithmetic, of one rank; all times are of one step. engine:
    whose overheads the host's seconds are, as `parse_engine` reads it.
    """

    model: str
    accelerator: Accelerator
    mesh: Mesh
    precision: str
    kv: str
    step: str
    tokens: int
    memory_bytes_per_second: float
    peaks: Mapping[str, float]
    dots: tuple[Dot, ...]
    floors: tuple[Floor, ...]
    host_seconds: float
    engine: str


def roofline(
    model: str,
    config: Mapping[str, object],
    accelerator: Accelerator,
    shape: StepShape,
    *,
    step: str,
    precision: str = "bf16",
    kv: str = "bf16",
    tp: int | None = None,
    engine: tuple[str, str] = NEWEST,
) -> Roofline:
    """tp: ranks of tensor parallelism; None: the fewest that hold the weights and the step's cache
    in `precision`. engine: and its version, whose overheads the host has. CapacityError where
    the accelerator's whole domain does not hold them.
    """
    if tp is not None:
        check_degree(describe(config, "bf16").graph, tp)
    chip = accelerator.chip()
    mesh = Mesh(tp=tp) if tp else _fewest(config, precision, kv, chip, shape, accelerator)
    main = _deployed(config, precision, kv, chip, mesh, engine)
    steps = steps_of((shape,), main.windows)
    pieces = main.pieces(steps)
    dots = _dots(main, pieces, chip)
    host = main.step_seconds(shape).by_class["host"]
    floors = []
    for name in dict.fromkeys((*FLOORS, precision)):
        deployment = main if name == precision else _deployed(config, name, kv, chip, mesh, engine)
        floors.append(_floor(name, deployment, shape, chip))
    used = {dot.arithmetic for dot in dots if dot.flops}
    return Roofline(
        model,
        accelerator,
        mesh,
        precision,
        kv,
        step,
        shape.num_tokens,
        chip.memory_bytes_per_second,
        {n: p for n, p in chip.peaks.items() if n in used or n in ("bf16", "fp8", "fp4")},
        dots,
        tuple(floors),
        host,
        spelled(*engine),
    )


def _deployed(
    config: Mapping[str, object],
    precision: str,
    kv: str,
    chip: Chip,
    mesh: Mesh,
    engine: tuple[str, str] = NEWEST,
) -> Deployment:
    if precision not in PRECISIONS:
        raise RidgelineError(
            f"precision {precision!r} is not known; there are: {', '.join(PRECISIONS)}"
        )
    described = describe(config, PRECISIONS[precision], kv=kv)
    return deploy(described, chip=chip, mesh=mesh, engine=engine[0], version=engine[1])


def _needed(deployment: Deployment, shape: StepShape) -> float:
    """Bytes of one rank for weights, values and the step's cache."""
    cache = sum(
        deployment.room.row_bytes(new + context)
        for new, context in zip(shape.new_tokens, shape.context_lens, strict=True)
    )
    return deployment.room.weight_bytes + deployment.room.value_bytes + cache


def _fewest(
    config: Mapping[str, object],
    precision: str,
    kv: str,
    chip: Chip,
    shape: StepShape,
    accelerator: Accelerator,
) -> Mesh:
    tp, most = 1, max(8, min(accelerator.domain, 64)) if chip.link_bytes_per_second else 1
    while True:
        try:
            deployment = _deployed(config, precision, kv, chip, Mesh(tp=tp))
        except RidgelineError:
            if tp == 1:
                raise
            break
        if _needed(deployment, shape) <= deployment.room.usable:
            return deployment.mesh
        needed, usable = _needed(deployment, shape), deployment.room.usable
        if 2 * tp > most:
            break
        tp *= 2
    raise CapacityError(
        f"{deployment.name} in {precision} with this step's cache needs "
        f"{format_bytes(needed * deployment.mesh.tp)} on {deployment.mesh.tp} x {chip.name}, and a "
        f"rank has {format_bytes(usable)}: take a smaller precision, --kv fp8, fewer rows, or --tp"
    )


def _dots(deployment: Deployment, pieces: Pieces, chip: Chip) -> tuple[Dot, ...]:
    seconds = piece_seconds(pieces, deployment.profile)
    compute, memory, link = least_seconds(pieces, deployment.profile)
    flops = pieces.flops + pieces.decode_flops + pieces.prefill_flops
    moved = memory * pieces.memory
    dots: dict[tuple[str, str], Dot] = {}
    for i, line in enumerate(deployment.lines):
        arithmetic = "bf16" if line.kind == "attention" else arithmetic_of(line.format, chip.peaks)
        by = {arithmetic: compute[i], "memory": memory[i], "link": link[i]}
        name = line.name.removeprefix("layers.*.")
        before = dots.get((name, arithmetic))
        dots[name, arithmetic] = Dot(
            name,
            line.kind,
            arithmetic,
            line.count + (before.count if before else 0),
            float(flops[i]) + (before.flops if before else 0.0),
            float(moved[i]) + (before.num_bytes if before else 0.0),
            float(pieces.link_bytes[i]) + (before.link_bytes if before else 0.0),
            float(seconds[i]) + (before.seconds if before else 0.0),
            float(max(by.values())) + (before.least_seconds if before else 0.0),
            max(by, key=lambda key: by[key]),
        )
    return tuple(sorted(dots.values(), key=lambda dot: -dot.seconds))


def _floor(name: str, deployment: Deployment, shape: StepShape, chip: Chip) -> Floor:
    pieces = deployment.pieces(steps_of((shape,), deployment.windows))
    compute, memory, link = least_seconds(pieces, deployment.profile)
    estimate = deployment.step_seconds(shape)
    stored = PRECISIONS[name]
    arithmetic = arithmetic_of(stored, chip.peaks)
    native = {"bf16": "bf16", "fp8": "fp8", "nvfp4": "fp4", "mxfp4": "fp8", "int8": "int8"}
    return Floor(
        name,
        arithmetic,
        native.get(name) == arithmetic,
        deployment.room.weight_bytes * deployment.mesh.gpus,
        _needed(deployment, shape),
        deployment.room.usable,
        float(np.maximum(np.maximum(compute, memory), link).sum()),
        estimate.seconds,
        estimate.low,
        estimate.high,
        estimate.binds,
    )
