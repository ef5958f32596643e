"""A replica to simulate: the scheduler of an engine that serves a model on accelerators, what its
steps take, and what it costs to keep.

Room for the cache, and what a token takes of it, are the deployment's (`cost/deployment.py`); the
scheduler's sizes follow from them as an engine's do. Does not know who asks what of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ridgeline.cost.accelerator import PAID_CLASSES, Accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.count import count_state_bytes
from ridgeline.cost.deployment import Deployment, deploy
from ridgeline.cost.described import Described, describe
from ridgeline.cost.efficiency import Profile
from ridgeline.cost.engines import NEWEST, spelled
from ridgeline.cost.profile import load_profile
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.errors import CapacityError, RequestError
from ridgeline.model.passes.shard import shard_rank
from ridgeline.model.passes.state_groups import state_groups
from ridgeline.plan.degrees import check_degree, divides
from ridgeline.plan.replica import Times
from ridgeline.step import ONE_GROUP, BlockGroup, StepShape
from ridgeline.units import format_bytes

# What people type -> the names of cost/precisions.py.
PRECISIONS = {
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8-block": "fp8_block",
    "int8": "int8_wo",
    "int4": "int4_wo",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
}
# Tried where nobody says how many accelerators a replica has.
_RANKS = (1, 2, 4, 8, 16, 32, 64, 72)


@dataclass(frozen=True, slots=True)
class Knobs:
    """What an engine is started with. itl_target: seconds, see `Limits`."""

    max_rows: int = 256
    step_tokens: int = 8192
    block_tokens: int = 64
    policy: str = "fcfs"
    max_waiting: int | None = None
    itl_target: float | None = None

    def check(self) -> None:
        for option, value in (
            ("--rows", self.max_rows),
            ("--step-tokens", self.step_tokens),
            ("--block", self.block_tokens),
        ):
            if not 1 <= value <= 1 << 20:
                raise RequestError(option, f"{value} is not a whole number from 1 to {1 << 20}")
        if self.max_waiting is not None and self.max_waiting < 0:
            raise RequestError("--max-waiting", f"{self.max_waiting}; 0, or how many may wait")
        if self.policy not in POLICIES:
            raise RequestError("--policy", f"{self.policy!r}; there are: {', '.join(POLICIES)}")


@dataclass(frozen=True, slots=True)
class ReplicaKind:
    """Replicas that are alike. engine: whose overheads are in its steps (`parse_engine`); "":
    those that were timed here. cache_tokens: that the cache of one holds, of rows that no window
    has passed. kv_bytes: of so many tokens of a row, recurrent states included. gpus: of one
    replica; usd_per_hour, watts: of one GPU, least and most; None: not known.
    """

    name: str
    machine: str
    make: Callable[[], SchedulerState]
    times: Times
    knobs: Knobs
    max_context: int
    cache_tokens: int
    kv_bytes_per_token: float
    kv_bytes: Callable[[int], float]
    gpus: int = 1
    usd_per_hour: tuple[float, float] | None = None
    watts: float | None = None
    link_bytes_per_second: float | None = None
    notes: tuple[str, ...] = ()
    engine: str = ""


def replica_on(
    name: str,
    config: Mapping[str, object],
    accelerator: Accelerator,
    knobs: Knobs,
    *,
    mesh: Mesh | None = None,
    precision: str = "bf16",
    kv: str = "bf16",
    price: str | None = None,
    profile: Profile | None = None,
    engine: str = NEWEST[0],
    version: str = NEWEST[1],
) -> ReplicaKind:
    """mesh: None: the fewest ranks of tensor parallelism that hold the model. price: a class of
    prices; None: all that are paid. profile: of efficiencies; None: the fitted one. engine,
    version: whose overheads, as `deploy` has them. RequestError and CapacityError say what cannot
    be.
    """
    knobs.check()
    if precision not in PRECISIONS:
        raise RequestError("--precision", f"{precision!r}; there are: {', '.join(PRECISIONS)}")
    profile = profile or load_profile()
    described = describe(config, PRECISIONS[precision], kv=kv)
    chip = accelerator.chip()

    def on(mesh: Mesh) -> Deployment:
        return deploy(
            described, chip=chip, mesh=mesh, engine=engine, version=version, profile=profile
        )

    if mesh is not None:
        check_degree(described.graph, mesh.tp)
        deployment = on(mesh)
    else:
        deployment = _fewest(on, accelerator, described)
    return replica_of(name, described, deployment, accelerator, knobs, price=price)


def replica_of(
    name: str,
    described: Described,
    deployment: Deployment,
    accelerator: Accelerator,
    knobs: Knobs,
    *,
    price: str | None = None,
    times: Times | None = None,
) -> ReplicaKind:
    """The engine of a deployment. times: what its steps take; None: what the deployment says.
    CapacityError where no block of the cache fits beside the weights.
    """
    mesh, profile = deployment.mesh, deployment.profile
    groups, num_blocks, slots = _sizes(described, deployment, knobs)
    kv_by_window = _kv_by_window(described)
    limits = Limits(
        knobs.max_rows,
        knobs.step_tokens,
        described.graph.max_context,
        knobs.block_tokens,
        knobs.max_waiting,
        knobs.itl_target,
        is_recurrent=slots > 0,
    )
    times = times or deployment.step_times()
    return ReplicaKind(
        name=name,
        machine=f"{mesh.gpus} x {accelerator.title}, {mesh}",
        make=partial(empty_state, limits, num_blocks, knobs.policy, times, groups, slots),
        times=times,
        knobs=knobs,
        max_context=described.graph.max_context,
        cache_tokens=num_blocks * knobs.block_tokens // sum(group.blocks for group in groups),
        kv_bytes_per_token=sum(kv_by_window.values()),
        kv_bytes=partial(_row_bytes, kv_by_window, count_state_bytes(described.graph)),
        gpus=mesh.gpus,
        usd_per_hour=_price(accelerator, price),
        watts=accelerator.watts.value if accelerator.watts else None,
        link_bytes_per_second=_link(accelerator, mesh.gpus),
        notes=(f"steps by the profile {profile.name!r}: {profile.source}",),
        engine=spelled(deployment.engine, deployment.version),
    )


def _kv_by_window(described: Described) -> dict[int | None, float]:
    """Bytes of the cache that a token takes, each once: ranks may keep copies."""
    found: dict[int | None, float] = {}
    for state in described.graph.states:
        found[state.window] = found.get(state.window, 0.0) + state.bytes_per_token
    if described.indexer is not None:
        more = described.indexer.token_bytes * len(described.graph.states)
        found[None] = found.get(None, 0.0) + more
    return found


def _row_bytes(by_window: Mapping[int | None, float], state_bytes: float, tokens: int) -> float:
    return state_bytes + sum(
        per_token * (tokens if window is None else min(tokens, window))
        for window, per_token in by_window.items()
    )


def _fewest(
    on: Callable[[Mesh], Deployment], accelerator: Accelerator, described: Described
) -> Deployment:
    """Ranks that share each row, as few as have room for a row of the cache beside the weights."""
    tried: Deployment | None = None
    for ranks in _RANKS:
        if ranks > 1 and accelerator.link(ranks) is None:
            break
        if not divides(described.graph, ranks):
            continue
        tried = on(Mesh(tp=ranks))
        if tried.room.rows(8192) >= 1:
            return tried
    assert tried is not None
    raise CapacityError(
        f"{tried.name}: a rank of {tried.mesh.tp} needs {format_bytes(tried.room.weight_bytes)} of "
        f"weights and has {format_bytes(tried.room.usable)}: take a smaller precision, or more "
        "ranks that hold experts apart (--ep, --dp)"
    )


def _sizes(
    described: Described, deployment: Deployment, knobs: Knobs
) -> tuple[tuple[BlockGroup, ...], int, int]:
    """Groups of layers, blocks of all data-parallel groups, slots of recurrent states beside those
    of the rows.
    """
    room, mesh = deployment.room, deployment.mesh
    rank = shard_rank(described.graph, mesh.tp)
    left, slots = room.kv_bytes, 0
    state_bytes = count_state_bytes(rank) / mesh.pp
    if state_bytes:
        slots = knobs.max_rows
        left -= 2 * slots * state_bytes / mesh.dp
    groups = state_groups(rank).groups if rank.states else ONE_GROUP
    width = sum(group.blocks for group in groups)
    per_block = knobs.block_tokens * max(room.kv_bytes_per_token, 1.0) / width
    num_blocks = int(left / per_block) * mesh.dp
    if num_blocks < width:
        raise CapacityError(
            f"{deployment.name} on {mesh.gpus} x {deployment.chip.name}: weights take "
            f"{format_bytes(room.weight_bytes)} and values {format_bytes(room.value_bytes)} of "
            f"{format_bytes(room.usable)} of a rank; no block of the cache fits beside them: take "
            "more ranks or a smaller precision"
        )
    return groups, num_blocks, slots


def empty_state(
    limits: Limits,
    num_blocks: int,
    policy: str,
    seconds: Callable[[StepShape], float],
    groups: tuple[BlockGroup, ...],
    slots: int,
) -> SchedulerState:
    """A scheduler that nobody has asked anything. slots: of recurrent states, beside the rows'."""
    policy_queue = POLICIES[policy]()
    return SchedulerState.empty(
        limits, num_blocks, policy_queue, seconds, groups, slots, explains=False
    )


def _price(accelerator: Accelerator, price: str | None) -> tuple[float, float] | None:
    classes = PAID_CLASSES if price is None else (price,)
    found = [r for r in map(accelerator.price_range, classes) if r is not None]
    if not found:
        if price is not None:
            known = ", ".join(accelerator.price_classes) or "none"
            raise RequestError("--price", f"{price!r} of {accelerator.name}; there are: {known}")
        return None
    return min(low for low, _, _ in found), max(high for _, high, _ in found)


def _link(accelerator: Accelerator, gpus: int) -> float | None:
    """Between two replicas, each over the NICs of all its GPUs."""
    link = accelerator.links.get("nic") or accelerator.links.get("pcie")
    return None if link is None else link.bytes_per_second * gpus
