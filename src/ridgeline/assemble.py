"""The composition root: a model's name becomes an engine that runs it.

The only file that imports `backends/`. What fits is decided here, before a weight is read: the KV
cache gets what the machine has free less the weights, the arena and a stated reserve.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ridgeline.config import Settings
from ridgeline.cost.calibrate import FIRST_GUESS, StepSeconds
from ridgeline.cost.count import count_parameters, count_step
from ridgeline.cost.device import Barrier, Device, Peak, Roofs
from ridgeline.cost.free_memory import available_bytes
from ridgeline.cost.kernel_store import KERNELS, load_profile
from ridgeline.cost.kernel_times import kernel_seconds
from ridgeline.cost.kernels import KernelProfile
from ridgeline.cost.measure import (
    PACE,
    Meter,
    ReadRoof,
    device_now,
    load,
    pace_now,
    read_roof,
    steady,
)
from ridgeline.cost.memory import Needs
from ridgeline.cost.sizes import Sizes, plan_sizes
from ridgeline.cost.step_times import least_seconds
from ridgeline.engine.constrain.compile import Constraints
from ridgeline.engine.engine import Engine
from ridgeline.engine.executor import Executor
from ridgeline.engine.experts import counter_of
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.errors import CapacityError, RequestError
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import Precision, Work
from ridgeline.model.images import ImageModel, open_images
from ridgeline.model.opened import OpenedModel, open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.screen import with_screen
from ridgeline.model.task import Purpose, purpose_of
from ridgeline.model.text.load import load_tokenizer
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.model.weights.sources import Progress, parse_reference, resolve, silent
from ridgeline.options import Options as Options
from ridgeline.options import check_numbers, check_threads
from ridgeline.record_header import start_record
from ridgeline.step import BLOCK_TOKENS, StepShape

if TYPE_CHECKING:
    from ridgeline.backends.cpu.executor import CpuExecutor
    from ridgeline.backends.cpu.executor import OperatorTime as OperatorTime  # timers() gives them
    from ridgeline.backends.reference.image_encoder import Tower
    from ridgeline.backends.reference.row_images import EncodeImage
    from ridgeline.model.text.chat import ChatTemplate


@dataclass(frozen=True, slots=True)
class Assembled:
    """A model ready to run, and what may be asked about it."""

    engine: Engine
    constraints: Constraints
    executor: Executor
    opened: OpenedModel
    bound_graph: Graph
    tokenizer: Tokenizer
    precision: Precision
    settings: Settings
    threads: int
    step_seconds: StepSeconds
    purpose: Purpose
    max_tokens_per_step: int
    images: ImageModel | None = None
    """What makes rows of images, of a model that sees them."""

    @property
    def vocab_size(self) -> int:
        return self.executor.vocab_size

    def template(self) -> ChatTemplate:
        """The model's chat template. Raises ModelError if it has none."""
        from ridgeline.model.text.chat import ChatTemplate

        return ChatTemplate.of(self.tokenizer)

    def work(self, shape: StepShape) -> Work:
        """What a step of this shape asks of the machine, counted on the graph that runs."""
        return count_step(self.bound_graph, shape, self.precision).total

    @property
    def isa(self) -> str:
        """Of the kernels that compute; of those that would, where none do (reference, null)."""
        return machine_isa(self.settings) if self._cpu is None else self._cpu.isa

    def meter(self) -> Meter:
        """Measures this machine, with the kernels of `isa`."""
        return machine_meter(self.isa)

    def kept_roofs(self) -> Roofs | None:
        """What was measured of this machine, if it was (`ridgeline measure`)."""
        return kept_roofs(self.settings, self.isa)

    def read_roof(self, reached: float = 0.0) -> ReadRoof:
        """This machine's read bandwidth for a working set of the weights' size, now, beside what
        was kept. reached: GB/s that was seen; a figure below it is measured again.
        """
        num_bytes = count_parameters(self.bound_graph).num_bytes
        cpu, meter = self._cpu, self.meter()
        # The weights themselves, where they are: a second area of their size may not fit.
        read = cpu.read_bandwidth if cpu else partial(meter.read, num_bytes, self.threads)
        return read_roof(self.kept_roofs(), num_bytes, self.threads, read, reached)

    def pace_now(self) -> Peak:
        """How fast this machine computes at this moment, beside what kernels were timed at."""
        cpu, meter = self._cpu, self.meter()
        if cpu is not None:
            return pace_now(self.threads, cpu.pace)
        return pace_now(self.threads, partial(meter.arithmetic, PACE, self.threads))

    def roofs_now(self) -> Roofs | None:
        """What was measured of this machine, with memory as fast as the weights are read now, and
        the pace and the barrier of this moment.
        """
        kept = self.kept_roofs()
        return None if kept is None else self.as_now(kept, steady(self.read_roof))

    def as_now(self, kept: Roofs, read: ReadRoof) -> Roofs:
        """read: just found, of the weights."""
        pace, waited = self.pace_now(), self.barrier_nanoseconds()
        barrier = None if waited is None else Barrier(self.threads, waited)
        return kept.as_now([read.now], pace, barrier)

    def barrier_nanoseconds(self) -> float | None:
        """What the threads that compute need to wait for each other; None if no pool computes."""
        return None if self._cpu is None else self._cpu.barrier_nanoseconds()

    def timers(self) -> tuple[OperatorTime, ...] | None:
        """Time by operator since the last reset; None from a backend that keeps none."""
        return None if self._cpu is None else self._cpu.timers()

    def reset_timers(self) -> None:
        if self._cpu is not None:
            self._cpu.reset_timers()

    def learns_from(self, rows: int) -> bool:
        """Whether steps of so many rows are not yet as fast as they will be."""
        return self._cpu is not None and self._cpu.learns_from(rows)

    @property
    def _cpu(self) -> CpuExecutor | None:
        from ridgeline.backends.cpu.executor import CpuExecutor

        return self.executor if isinstance(self.executor, CpuExecutor) else None


def attention_arithmetic(executor: Executor) -> Mapping[str, str]:
    """Of the kernels that run, by the cache's format; empty where the backend's own attends."""
    from ridgeline.backends.cpu.executor import ATTENTION_ARITHMETIC, CpuExecutor

    return ATTENTION_ARITHMETIC[executor.isa] if isinstance(executor, CpuExecutor) else {}


def machine_isa(settings: Settings) -> str:
    """The kernels that this machine runs: the best, or those that the settings name."""
    from ridgeline.backends.cpu.executor import choose_isa

    return choose_isa(settings.isa)


def machine_meter(isa: str) -> Meter:
    from ridgeline.backends.cpu.machine import CpuMeter

    return CpuMeter(isa)


def synthetic_engine(
    isa: str, threads: int
) -> tuple[Engine, Callable[[], tuple[OperatorTime, ...]], Callable[[], None]]:
    """An engine on a graph of no model, its operators' times, and what forgets them."""
    from ridgeline.backends.cpu.synthetic import engine_executor

    executor = engine_executor(isa, threads)
    engine = Engine(executor, max_context=1024, max_tokens_per_step=512)
    return engine, executor.timers, executor.reset_timers


def packed_ratios(isa: str) -> dict[str, float]:
    """Of each weight format, bytes that kernels read for each byte as stored."""
    from ridgeline.backends.cpu.synthetic import packed_ratios

    return packed_ratios(isa)


def streamed_rows(isa: str) -> dict[str, float]:
    """Of each weight format, rows up to which kernels read it in several streams."""
    from ridgeline.backends.cpu.synthetic import streamed_rows

    return streamed_rows(isa)


def kept_profile(settings: Settings, isa: str) -> KernelProfile | None:
    """What was timed of these kernels with the settings' threads; None if nothing is kept."""
    return load_profile(settings.cache_dir, machine_and_kernels(), isa, settings.threads)


def machine_and_kernels() -> dict[str, str]:
    """Whom a kernel profile is of: kernels of another build have other prices."""
    from ridgeline.backends.cpu.machine import identity
    from ridgeline.backends.cpu.packed_weights import build_identity

    return {**identity(), KERNELS: build_identity()[:16]}


def kept_roofs(settings: Settings, isa: str) -> Roofs | None:
    """What was measured of this machine with these kernels; None if nothing is kept."""
    from ridgeline.backends.cpu.machine import identity

    return load(settings.cache_dir, identity(), isa)


# Arithmetic and bytes of each backend, for its figures.
CPU_PRECISION = Precision(
    activation_bytes=4.0,
    rolling_bytes=4.0,
    default_compute="f32",
    compute={name: "int8" for name in FORMATS if name not in ("F32", "F16", "BF16")}
    | {"BF16": "bf16"},
)
_REFERENCE_PRECISION = Precision(activation_bytes=4.0, rolling_bytes=4.0, default_compute="f32")


def assemble(
    model: str,
    settings: Settings,
    options: Options,
    progress: Progress = silent,
    device: Device | None = None,
) -> Assembled:
    """Finds, opens, plans and loads `model`. device: whose limits steps are predicted by; if
    None, this machine's prices, or where it was not profiled, its limits.

    Raises ModelError (cannot be found or read), CapacityError (will not fit; nothing was read yet)
    or RequestError (an option that is not allowed).
    """
    if options.policy not in POLICIES:
        raise RequestError("policy", f"{options.policy!r}; there are: {', '.join(POLICIES)}")
    if options.backend not in _BACKENDS:
        raise RequestError("backend", f"{options.backend!r}; there are: {', '.join(_BACKENDS)}")
    check_numbers(options)
    threads = options.threads or settings.threads
    check_threads(threads)
    kept = KV_FORMATS[kv_format_of(options)]  # refused before a download
    path = resolve(parse_reference(model), settings, progress)
    opened = open_model(path, context_length=options.context_length, pooling=options.pooling)
    # Read first: a broken tokenizer is known before weights are packed.
    tokenizer = load_tokenizer(opened.checkpoint)
    precision, _, build, needs_of, see = _BACKENDS[options.backend]
    purpose = purpose_of(opened, options.task, options.positions)
    graph = fuse(with_kv_format(purpose.graph, kept, opened.weights.numbers))
    if purpose.whole and options.max_tokens_per_step < graph.max_context:
        options = replace(options, max_tokens_per_step=graph.max_context)
    settings = replace(settings, threads=threads, isa=options.isa or settings.isa)
    images = open_images(opened) if purpose.task == "generate" else None
    tower = None if images is None else see(images, opened, settings)
    available = available_bytes() - (0 if tower is None else tower.num_bytes)

    def sized(graph: Graph) -> Sizes:
        return plan_sizes(
            graph,
            memory=options.memory,
            max_rows=options.max_rows,
            max_tokens_per_step=options.max_tokens_per_step,
            context_is_asked=options.context_length is not None,
            rolling_bytes=precision.rolling_bytes,
            available=available,
            needs=needs_of(graph, options, settings),
        )

    try:
        screened = with_screen(graph) if options.backend == "cpu" else graph
        graph, sizes = screened, sized(screened)
    except CapacityError:
        sizes = sized(graph)  # what is only there to be faster is the first to go
    executor = build(graph, opened, sizes, settings, None if tower is None else tower.load())
    precision = replace(precision, attention=attention_arithmetic(executor))
    # A record must be had again on other machines: it is told by limits, which it holds itself.
    told = device is not None or options.record is not None
    paced = options.itl_steps or options.rate_share or options.wave_seconds
    if device is None and (options.itl_target or (paced and options.record)):
        device = machine_device(graph, settings)
    known = device
    profile = None if told else kept_profile(settings, machine_isa(settings))
    priced = kernel_seconds(graph, precision, profile, kept_roofs(settings, machine_isa(settings)))
    step_seconds = StepSeconds(
        lambda: priced or least_seconds(graph, precision, known or machine_device(graph, settings)),
        FIRST_GUESS if priced is None else 1.0,
    )
    constraints = Constraints(tokenizer, executor.vocab_size)
    engine = Engine(
        executor,
        max_context=sizes.max_context,
        max_tokens_per_step=sizes.max_tokens_per_step,
        policy=options.policy,
        max_waiting=options.max_waiting,
        itl_target=options.itl_target,
        itl_steps=options.itl_steps,
        rate_share=options.rate_share,
        wave_seconds=options.wave_seconds,
        seconds=step_seconds,
        constraints=constraints,
        experts=counter_of(graph, executor) if options.expert_counts else None,
        forced_spans=options.forced_spans,
        observer=None
        if options.record is None
        else start_record(
            Path(options.record),
            options,
            sizes,
            model=str(opened.checkpoint.path),
            kv_format=kv_format_of(options),
            device=device,
        ),
    )
    # What loading made would be looked through in the first steps: now, once, and then it is old.
    # Not `gc.freeze`, which would keep what an application drops later, this model too.
    gc.collect()
    return Assembled(
        engine=engine,
        constraints=constraints,
        executor=executor,
        opened=opened,
        bound_graph=graph,
        tokenizer=tokenizer,
        precision=precision,
        settings=settings,
        threads=threads,
        step_seconds=step_seconds,
        purpose=purpose,
        max_tokens_per_step=sizes.max_tokens_per_step,
        images=images,
    )


def kv_format_of(options: Options) -> str:
    """The format that keys and values are kept in; RequestError for one that the backend lacks."""
    allowed = _BACKENDS[options.backend][1]
    if options.kv_format is None:
        return allowed[0]
    if options.kv_format not in allowed:
        raise RequestError(
            "kv_format",
            f"{options.kv_format!r}; the {options.backend} backend has: {', '.join(allowed)}",
        )
    return options.kv_format


def machine_device(graph: Graph, settings: Settings) -> Device:
    """The limits of this machine: those that `ridgeline measure` kept; where nothing is kept, those
    of this moment, measured in some tenths of a second and not kept.
    """
    isa = machine_isa(settings)
    footprint = count_parameters(graph).num_bytes
    kept = kept_roofs(settings, isa)
    device = None if kept is None else kept.device(footprint, settings.threads)
    if device is None:
        device = device_now(machine_meter(isa), footprint, settings.threads, available_bytes())
    return device


def _cpu(
    graph: Graph, opened: OpenedModel, sizes: Sizes, settings: Settings, see: EncodeImage | None
) -> Executor:
    from ridgeline.backends.cpu.executor import CpuExecutor

    return CpuExecutor(
        graph,
        opened.weights,
        num_blocks=sizes.num_blocks,
        max_rows=sizes.max_rows,
        max_tokens_per_step=sizes.max_tokens_per_step,
        num_slots=sizes.num_slots,
        threads=settings.threads,
        isa=settings.isa,
        packed_folder=settings.cache_dir / "packed" if settings.keep_packed else None,
        source=opened.checkpoint.identity,
        encode_image=see,
    )


def _reference(
    graph: Graph, opened: OpenedModel, sizes: Sizes, settings: Settings, see: EncodeImage | None
) -> Executor:
    from ridgeline.backends.reference.executor import ReferenceExecutor

    return ReferenceExecutor(
        graph,
        opened.weights,
        num_blocks=sizes.num_blocks,
        max_rows=sizes.max_rows,
        num_slots=sizes.num_slots,
        encode_image=see,
    )


def _null(
    graph: Graph, opened: OpenedModel, sizes: Sizes, settings: Settings, see: EncodeImage | None
) -> Executor:
    from ridgeline.backends.null.executor import NullExecutor

    vocab_size = graph.outputs[0].shape[-1]
    assert isinstance(vocab_size, int)
    return NullExecutor(
        vocab_size=vocab_size,
        num_blocks=sizes.num_blocks,
        max_rows=sizes.max_rows,
        block_tokens=BLOCK_TOKENS,
        groups=sizes.groups,
        num_slots=sizes.num_slots,
    )


def cpu_needs(graph: Graph, options: Options, settings: Settings) -> Needs:
    """What the cpu backend will allocate beside cache and states, before a weight is read."""
    from ridgeline.backends.cpu.executor import choose_isa
    from ridgeline.backends.cpu.program import ProgramLimits, predict_needs

    limits = ProgramLimits(
        isa=choose_isa(settings.isa),
        threads=settings.threads,
        num_blocks=1,
        max_rows=options.max_rows,
        max_tokens=options.max_tokens_per_step,
        max_sampled=options.max_rows,
    )
    try:
        return predict_needs(graph, limits)
    except MemoryError:
        raise CapacityError(f"max_rows: no memory for {options.max_rows} rows' states") from None


def _unsaid(_graph: Graph, _options: Options, _settings: Settings) -> None:
    """Of backends that say nothing of what they allocate."""


def _cpu_tower(images: ImageModel, opened: OpenedModel, settings: Settings) -> Tower:
    from ridgeline.backends.cpu.images import tower

    return tower(images, settings, opened.checkpoint.identity)


def _reference_tower(images: ImageModel, opened: OpenedModel, settings: Settings) -> Tower:
    from ridgeline.backends.reference.images import tower

    return tower(images)


def _null_tower(images: ImageModel, opened: OpenedModel, settings: Settings) -> None:
    """Of a backend that computes nothing."""


_Build = Callable[[Graph, OpenedModel, Sizes, Settings, "EncodeImage | None"], Executor]
_NeedsOf = Callable[[Graph, Options, Settings], Needs | None]
_See = Callable[[ImageModel, OpenedModel, Settings], "Tower | None"]

# What its figures are in; how it keeps keys and values, its own way first; how it is made; what it
# will allocate; what makes rows of images there.
_BACKENDS: dict[str, tuple[Precision, tuple[str, ...], _Build, _NeedsOf, _See]] = {
    "cpu": (CPU_PRECISION, ("bf16", "f16", "int8"), _cpu, cpu_needs, _cpu_tower),
    "reference": (
        _REFERENCE_PRECISION, ("f32", "bf16", "f16", "int8"), _reference, _unsaid, _reference_tower,
    ),
    "null": (CPU_PRECISION, ("bf16", "f16", "int8"), _null, _unsaid, _null_tower),
}  # fmt: skip

BACKEND_NAMES = tuple(_BACKENDS)

# Formats that are packed as others are, and timed with them (backends/cpu/synthetic.py).
TIMED_LIKE = {"Q4_K": "Q4_1", "Q5_K": "Q5_1"}
