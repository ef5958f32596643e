"""A model on accelerators: what a step takes, what lies in memory, and what binds.

`deploy` cuts the graph for one rank (shard), fuses it, shares experts where ranks have rows of
their own (exchange) and compiles it to lines (`lines.py`); a `Deployment` then prices one step or a
million (`price`) with the efficiencies of a profile (`efficiency.py`). Ranks are alike, so one is
priced, and that one is the busiest where rows or experts do not part evenly. Pipeline stages are
priced one after the other, each on its share of the rows: what is named a step's seconds is then
how long a row waits for its next token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp

import numpy as np

from ridgeline.cost.chip import Chip, Mesh
from ridgeline.cost.collectives import COLLECTIVES, routes_of
from ridgeline.cost.deployment_times import DeploymentTimes
from ridgeline.cost.described import Described
from ridgeline.cost.efficiency import (
    ARITHMETICS,
    FAMILIES,
    NEW_SINCE,
    Array,
    Pieces,
    Profile,
    imbalance,
    least_seconds,
    piece_seconds,
)
from ridgeline.cost.engines import (
    ENGINES,
    IN_SWITCH,
    RESERVES_ANSWERS,
    captured_tokens,
    era_of,
    held_tokens,
    lacks_expert_kernels,
)
from ridgeline.cost.host import Host, with_host
from ridgeline.cost.lines import KINDS, Line, compile_lines, norm_sums
from ridgeline.cost.precisions import arithmetic_of, family_of
from ridgeline.cost.profile import load_profile
from ridgeline.cost.steps import Steps, steps_of
from ridgeline.errors import CapacityError, RidgelineError
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Experts
from ridgeline.model.passes.exchange import exchange
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.shard import shard_rank
from ridgeline.step import StepShape
from ridgeline.units import GIB, format_bytes

# What an engine takes of a device's memory (of what is free of it, if answers are reserved), and
# what CUDA, NCCL and graphs take.
USED_SHARE = 0.9
CONTEXT_BYTES = 2 * GIB
# Tokens of a step whose values must have room beside weights and cache.
STEP_TOKENS = 8192


# One rank's graph, and its lines.
Parted = tuple[Graph, tuple[Line, ...]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """seconds, and the 80 % interval around it. by_class: seconds of each kind of operator, and
    "host". binds: what most of the time waits for: "compute", "memory", "link", "launch" or "host".
    """

    seconds: float
    low: float
    high: float
    by_class: Mapping[str, float]
    binds: str


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of one rank. kv_bytes_per_token: that a token more of each row takes, unless windows
    bound it: row_bytes(context) has them. usable: for weights, values and cache together.
    """

    device_bytes: float
    usable: float
    weight_bytes: float
    value_bytes: float
    kv_by_window: Mapping[int | None, float]

    @property
    def kv_bytes(self) -> float:
        """Left for the cache; negative if the weights alone do not fit."""
        return self.usable - self.weight_bytes - self.value_bytes

    @property
    def kv_bytes_per_token(self) -> float:
        return sum(self.kv_by_window.values())

    def row_bytes(self, context: float) -> float:
        return sum(
            per_token * (context if window is None else min(context, window))
            for window, per_token in self.kv_by_window.items()
        )

    def rows(self, context: float) -> float:
        """Rows of `context` tokens that one data-parallel group has room for."""
        return max(0.0, self.kv_bytes) / max(1.0, self.row_bytes(context))


@dataclass(frozen=True, slots=True)
class Deployment:
    """See `deploy`. lines: of one rank, experts not shared. width: of the residual stream."""

    name: str
    lines: tuple[Line, ...]
    windows: tuple[int | None, ...]
    chip: Chip
    mesh: Mesh
    engine: str
    profile: Profile
    width: int
    room: Room
    predicts: int = 0
    version: str = ""

    @property
    def era(self) -> str:
        return era_of(self.engine, self.version)

    def rows(self, input_tokens: float, output_tokens: float) -> float:
        """Requests of so many tokens that one data-parallel group has room for at once."""
        return self.room.rows(held_tokens(self.engine, input_tokens, output_tokens))

    def with_profile(self, profile: Profile) -> Deployment:
        return replace(self, profile=profile)

    def pieces(self, steps: Steps) -> Pieces:
        """All lines of all steps, as the busiest rank has them."""
        return _pieces(self, steps)

    def price(self, steps: Steps) -> Array:
        """Seconds of each step."""
        return self.with_host(self.device(steps), steps)

    def device(self, steps: Steps) -> Array:
        """Seconds of each, without what the host adds."""
        pieces = self.pieces(steps)
        return np.bincount(pieces.steps, piece_seconds(pieces, self.profile), len(steps))

    def with_host(self, device: Array, steps: Steps) -> Array:
        """Seconds of the device, and what the host adds that they do not hide."""
        rows = (steps.decode + steps.prefill) / self.mesh.dp
        return with_host(device, rows, self.eager(steps), self.era, self.profile)

    def eager(self, steps: Steps) -> Array:
        """Operators that the host launches one by one: none of a step of answers, a CUDA graph."""
        host = self.host()
        few = _tokens(self, steps) <= host.captured
        return np.where(steps.prefill > 0, np.where(few, host.pieces, host.operators), 0.0)

    def host(self) -> Host:
        """Of one step at a time. Of a step with a prompt whose tokens fit a captured size attention
        is launched, and the piece of CUDA graph after it.
        """
        attention = sum(line.count for line in self.lines if line.kind == "attention")
        operators = float(sum(line.count for line in self.lines))
        captured = captured_tokens(
            self.engine,
            self.version,
            latent=any(line.latent for line in self.lines),
            parted=self.mesh.dp > 1 or self.mesh.pp > 1,
        )
        return Host(
            self.profile[f"host.step.{self.era}"],
            self.profile[f"host.row.{self.era}"],
            self.profile[f"eager.{self.era}"],
            self.profile["host.overlap"],
            operators,
            min(2.0 * attention, operators),
            float(captured),
            self.mesh.dp * self.mesh.pp,
            self.mesh.dp,
        )

    def step_seconds(self, shape: StepShape) -> Estimate:
        """One step of the whole deployment: the rows of all its data-parallel groups."""
        steps = steps_of((shape,), self.windows)
        pieces = self.pieces(steps)
        each = piece_seconds(pieces, self.profile)
        total = float(self.with_host(np.array([each.sum()]), steps)[0])
        by_class: dict[str, float] = {
            kind: float(each[pieces.kind == index].sum()) for index, kind in enumerate(KINDS)
        }
        by_class["host"] = total - float(each.sum())
        spread = exp(self.profile.spread)
        return Estimate(
            total, total / spread, total * spread, by_class, _binds(pieces, self.profile, by_class)
        )

    def memory(self) -> Room:
        return self.room

    def check_fits(self, rows: int = 1, context: int = 1) -> None:
        """CapacityError with the bytes needed, those there, and what would fit."""
        needed = self.room.row_bytes(context) * -(-rows // self.mesh.dp)
        if needed <= self.room.kv_bytes:
            return
        most = int(self.room.rows(context)) * self.mesh.dp
        fit = f"{most} rows would fit" if most else "more ranks or smaller weights would fit"
        raise CapacityError(
            f"{self.name} on {self.mesh.gpus} x {self.chip.name}: a rank needs "
            f"{format_bytes(self.room.weight_bytes)} of weights, "
            f"{format_bytes(self.room.value_bytes)} of values and {format_bytes(needed)} of cache "
            f"for {rows} x {context} tokens, of {format_bytes(self.room.usable)}: {fit}"
        )

    def step_times(self) -> DeploymentTimes:
        """What a simulator asks, every step."""
        return DeploymentTimes(self)


def deploy(
    described: Described,
    *,
    chip: Chip,
    mesh: Mesh | None = None,
    engine: str = "vllm",
    version: str = "",
    profile: Profile | None = None,
    parted: dict[tuple[int, int], Parted] | None = None,
) -> Deployment:
    """version: of the engine ("0.12.0"); "": the newest. profile: of efficiencies; None: the fitted
    one. parted: kept by who lays one model out on many meshes; those of the same parts share them.
    RidgelineError and ModelError say what of a mesh, an engine or a model is not supported.
    """
    mesh = mesh or Mesh()
    if engine not in ENGINES:
        raise RidgelineError(f"engine {engine!r} is not known; there are: {', '.join(ENGINES)}")
    if min(mesh.tp, mesh.pp, mesh.dp, mesh.ep) < 1:
        axes = ", ".join(f"{axis} {getattr(mesh, axis)}" for axis in ("tp", "pp", "dp", "ep"))
        raise RidgelineError(f"a mesh of {axes}: each has 1 or more ranks")
    graph = described.graph
    mixture = any(isinstance(node.op, Experts) for node in graph.nodes)
    if mesh.ep > 1 and (not mixture or mesh.ranks % mesh.ep):
        why = "has no experts" if not mixture else f"has {mesh.ranks} ranks a stage"
        raise RidgelineError(f"{graph.name} on {mesh} {why}; ep {mesh.ep} cannot part it")
    rank, lines = _parted(
        described,
        mesh.tp,
        mesh.ranks if mesh.dp > 1 and mixture else 1,
        {} if parted is None else parted,
    )
    embed = next(node for node in rank.nodes if node.name == "embed")
    width = embed.outputs[0].shape[-1]
    assert isinstance(width, int)
    windows = tuple(dict.fromkeys(line.window for line in lines if line.kind == "attention"))
    room = _room(rank, lines, described, chip, mesh, width, engine in RESERVES_ANSWERS)
    return Deployment(
        graph.name,
        lines,
        windows,
        chip,
        mesh,
        engine,
        profile or load_profile(),
        width,
        room,
        described.predicts,
        version,
    )


def _parted(
    described: Described, ways: int, among: int, known: dict[tuple[int, int], Parted]
) -> Parted:
    """Cut in `ways` parts, and with experts `among` so many ranks."""
    found = known.get((ways, among))
    if found is None:
        if among > 1:
            rank = exchange(_parted(described, ways, 1, known)[0], among)
        else:
            rank = fuse(shard_rank(described.graph, ways))
        lines = compile_lines(rank, described.indexer)
        if described.whole_norms and ways > 1:
            lines = (*lines, norm_sums(described.whole_norms, ways))
        found = known[ways, among] = (rank, lines)
    return found


def expert_imbalance(deployment: Deployment, tokens: float) -> float:
    """How much more than the mean the busiest rank's experts compute, of `tokens` in a step over
    all ranks: above 1.2 or so, placing or copying popular experts pays.
    """
    lines = [line for line in deployment.lines if line.kind == "experts"]
    if not lines:
        return 1.0
    experts, ways = np.array([float(lines[0].experts)]), np.array([float(deployment.mesh.ep)])
    each = np.array([tokens * lines[0].top_k / lines[0].experts])
    return float(imbalance(ways, each, experts, deployment.profile["experts.skew"])[0])


def _room(
    rank: Graph,
    lines: tuple[Line, ...],
    described: Described,
    chip: Chip,
    mesh: Mesh,
    width: int,
    is_of_free: bool,
) -> Room:
    expert_names = {
        w.name for node in rank.nodes if isinstance(node.op, Experts) for w in node.weights
    }
    weight_bytes = float(sum(w.num_bytes for w in rank.weights if w.name not in expert_names))
    weight_bytes += sum(line.weight_bytes for line in lines if line.kind == "experts") / mesh.ranks
    kv: dict[int | None, float] = {}
    for state in rank.states:
        kv[state.window] = kv.get(state.window, 0.0) + state.bytes_per_token
    if described.indexer is not None:
        kv[None] = kv.get(None, 0.0) + described.indexer.token_bytes * len(rank.states)
    values = STEP_TOKENS * 2.0 * 8 * width
    if is_of_free:
        taken = weight_bytes / mesh.pp + values
        usable = taken + USED_SHARE * (chip.memory_bytes - CONTEXT_BYTES - taken)
    else:
        usable = USED_SHARE * chip.memory_bytes - CONTEXT_BYTES
    return Room(
        chip.memory_bytes,
        usable,
        weight_bytes / mesh.pp,
        values,
        {window: per_token / mesh.pp for window, per_token in kv.items()},
    )


def _pieces(d: Deployment, steps: Steps) -> Pieces:
    lines, mesh, chip, n = d.lines, d.mesh, d.chip, len(steps)
    rows = steps.decode + steps.prefill
    # Of pipelined rows a stage has its share at a time; of data-parallel ones the busiest group.
    parts = float(mesh.dp * mesh.pp)
    decode_share = _share(steps.decode, parts)
    prefill_share = _share(steps.prefill, parts)
    tokens = _tokens(d, steps)
    sampled = steps.sampled * _share(rows, parts)
    all_tokens = (steps.decode_tokens + steps.prefill_tokens) * _share(rows, float(mesh.pp))
    one = np.ones(n)
    sums = np.stack([one, tokens, sampled, rows * _share(rows, parts)])
    is_sampled = (sampled > 0).astype(np.float64)

    zeros = np.zeros(n)
    mixture = float(max(line.experts for line in lines))
    columns: dict[str, list[Array]] = {name: [] for name in _COLUMNS}
    for line in lines:
        flops = np.array(line.flops) @ sums
        weights = np.full(n, line.weight_bytes)
        moved = np.array(line.moved_bytes) @ sums
        count, per_expert = np.full(n, float(line.count)), zeros
        if line.sampled_only:
            weights, count = weights * is_sampled, count * is_sampled
        if line.top_k:
            per_expert = all_tokens * line.top_k / mixture
        if line.kind == "experts":
            flops = line.flops[1] * all_tokens / mesh.ranks
            weights = weights / mesh.ranks
            moved = line.moved_bytes[1] * all_tokens / mesh.ranks
        window = line.window
        attends = line.kind == "attention"
        if line.expand_flops:
            # Negative where tables ask for prompts that read nothing, not even their own tokens.
            cached = steps.prefill_read[window] - steps.prefill_tokens
            flops = np.maximum(flops + line.expand_flops * cached * prefill_share, 0.0)
        columns["flops"].append(flops)
        columns["weight_bytes"].append(weights)
        columns["moved_bytes"].append(moved)
        columns["per_expert"].append(per_expert)
        columns["count"].append(count)
        columns["link_bytes"].append(np.array(line.link_bytes) @ sums)
        columns["decode_flops"].append(
            line.decode_pair_flops * steps.decode_pairs[window] * decode_share if attends else zeros
        )
        columns["prefill_flops"].append(
            line.prefill_pair_flops * steps.prefill_pairs[window] * prefill_share
            if attends
            else zeros
        )
        columns["decode_bytes"].append(
            line.token_bytes * steps.decode_read[window] * decode_share if attends else zeros
        )
        columns["prefill_bytes"].append(
            line.token_bytes * steps.prefill_read[window] * prefill_share if attends else zeros
        )
    made = {name: np.concatenate(parts_) for name, parts_ in columns.items()}
    arithmetic = [arithmetic_of(line.format, chip.peaks) for line in lines]
    ways = [mesh.ep if line.kind == "experts" else line.ways for line in lines]
    exchanged = [line.top_k if line.collective == "all_to_all" else 0 for line in lines]
    domain = max(1, chip.domain)
    routes = routes_of(
        np.array(ways, np.float64),
        np.array(exchanged, np.float64),
        float(domain),
        np.array([chip.link(min(w, domain)) for w in ways]),
    )

    def each(values: Sequence[float], kind: type = np.float64) -> Array:
        return np.repeat(np.array(values, kind), n)

    return Pieces(
        kind=each([KINDS.index(line.kind) for line in lines], np.intp),
        family=each(
            [FAMILIES.index(family_of(line.format, chip.peaks)) for line in lines], np.intp
        ),
        arithmetic=each([ARITHMETICS.index(_known(a)) for a in arithmetic], np.intp),
        tokens=np.tile(tokens, len(lines)),
        ways=each([float(w) for w in ways]),
        collective=each([COLLECTIVES.index(line.collective) for line in lines], np.intp),
        latent=each([line.latent for line in lines], np.bool_),
        new=each([chip.year >= NEW_SINCE] * len(lines), np.bool_),
        in_switch=each(
            [
                chip.in_switch and d.engine in IN_SWITCH and line.ways <= chip.domain
                for line in lines
            ],
            np.bool_,
        ),
        near=np.repeat(routes.near, n),
        domain=np.repeat(routes.domain, n),
        far=np.repeat(routes.far, n),
        crossing=np.repeat(routes.crossing, n),
        experts=each([mixture if line.top_k else 0.0 for line in lines]),
        peak=each([chip.peaks[a] for a in arithmetic]),
        peak_bf16=each([chip.peaks[arithmetic_of("bf16", chip.peaks)]] * len(lines)),
        memory=each([chip.memory_bytes_per_second] * len(lines)),
        link=each([chip.link(line.ways) for line in lines]),
        engine=each([ENGINES.index(d.engine)] * len(lines), np.intp),
        slow=each([lacks_expert_kernels(d.engine, d.version, chip.year)] * len(lines), np.bool_),
        steps=np.tile(np.arange(n), len(lines)),
        **made,
    )


_COLUMNS = (
    "flops",
    "weight_bytes",
    "moved_bytes",
    "per_expert",
    "count",
    "link_bytes",
    "decode_flops",
    "prefill_flops",
    "decode_bytes",
    "prefill_bytes",
)


def _known(arithmetic: str) -> str:
    return "bf16" if arithmetic == "fp16" else arithmetic


def _tokens(d: Deployment, steps: Steps) -> Array:
    """Of the busiest group, padded as its CUDA graphs are."""
    parts = float(d.mesh.dp * d.mesh.pp)
    answers = steps.decode_tokens * _share(steps.decode, parts)
    prompts = steps.prefill_tokens * _share(steps.prefill, parts)
    return np.asarray(_padded(answers, steps.prefill_tokens) + prompts)


def _share(rows: Array, parts: float) -> Array:
    """Of `rows` over `parts` groups, the busiest group's part."""
    if parts == 1:
        return np.ones_like(rows)
    return np.where(rows > 0, np.minimum(1.0, np.ceil(rows / parts) / np.maximum(rows, 1e-9)), 1.0)


def _padded(tokens: Array, beside: Array) -> Array:
    """A CUDA graph of answers is made for some numbers of tokens: powers of 2 to 8, then each 8."""
    small = np.exp2(np.ceil(np.log2(np.maximum(tokens, 1.0))))
    bucket = np.where(tokens <= 8, small, 8 * np.ceil(tokens / 8))
    return np.where((beside > 0) | (tokens > 512) | (tokens <= 0), tokens, bucket)


def _binds(pieces: Pieces, profile: Profile, by_class: Mapping[str, float]) -> str:
    """Which resource is the longest of all, if each had only what it asks."""
    compute, memory, _ = least_seconds(pieces, profile)
    shares = {
        "compute": float(compute[compute >= memory].sum()),
        "memory": float(memory[memory > compute].sum()),
        "link": by_class["collective"],
        "host": by_class["host"],
    }
    work = shares["compute"] + shares["memory"]
    shares["launch"] = max(0.0, sum(by_class.values()) - work - shares["link"] - shares["host"]) / 2
    return max(shares, key=lambda name: shares[name])
