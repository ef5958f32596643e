"""A step priced again with one knob turned: what would move it, and what would not.

Nothing is run: the graph is rebuilt as the knob would have it and asked of the machine's profile.
Where a profile for the other setting was never measured, that is said instead of a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ridgeline.assemble import Assembled, kept_profile, kept_roofs
from ridgeline.bench.sample import Case
from ridgeline.cost.device import Peak, Roofs
from ridgeline.cost.kernel_times import KernelTimes
from ridgeline.cost.kernels import KernelProfile
from ridgeline.cost.measure import PACE
from ridgeline.errors import RidgelineError
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops.embed import Embed
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.screen import has_screen, with_screen
from ridgeline.step import StepShape

# A change of less is none: no prediction is that sure.
LEAST_CHANGE = 0.03
# Tokens that each row of a timed decode writes.
OUTPUT = 24


def shapes_of(case: Case, max_tokens: int, output: int = OUTPUT) -> list[StepShape]:
    """The steps of a prompt as the engine cuts it; of a decode, the middle one of those timed."""
    if case.phase == "decode":
        # The prompts' own first token, and those that are timed.
        return [StepShape.decode(case.batch, case.context + output // 2)]
    shapes = []
    for done in range(0, case.context, max_tokens):
        new = min(max_tokens, case.context - done)
        shapes.append(StepShape((new,), (done,), int(done + new == case.context)))
    return shapes


@dataclass(frozen=True, slots=True)
class Turned:
    """knob: its option. setting: turned to what; now: where it stands. seconds_a_token: then; None
    where it cannot be said. change: of seconds a token, as a part of now's; note: what else it
    does, or why nothing can be said.
    """

    knob: str
    now: str
    setting: str
    seconds_a_token: float | None
    change: float | None
    note: str = ""

    @property
    def moves(self) -> bool:
        return self.change is not None and abs(self.change) >= LEAST_CHANGE


@dataclass(frozen=True, slots=True)
class Asked:
    """What a knob may look at: the step, the prices that hold now, and what is kept of others."""

    assembled: Assembled
    case: Case
    output: int
    times: KernelTimes
    roofs: Roofs

    def seconds_a_token(
        self, times: KernelTimes, case: Case | None = None, chunk: int | None = None
    ) -> float:
        case = case or self.case
        shapes = shapes_of(case, chunk or self.assembled.max_tokens_per_step, self.output)
        tokens = case.context if case.phase == "prefill" else case.batch
        return sum(times.step(shape).seconds for shape in shapes) / tokens

    def on(self, graph: Graph) -> KernelTimes:
        return KernelTimes(graph, self.assembled.precision, self.times.profile, self.roofs)


Knob = Callable[[Asked], list[Turned]]


def turn_knobs(
    assembled: Assembled,
    case: Case,
    output: int,
    times: KernelTimes,
    roofs: Roofs,
    knobs: Mapping[str, Knob],
) -> tuple[Turned, ...]:
    """Those that move most first; then those that do not, and those that nothing is known of."""
    asked = Asked(assembled, case, output, times, roofs)
    now = asked.seconds_a_token(times)
    found = []
    for knob in knobs.values():
        for turned in knob(asked):
            seconds = turned.seconds_a_token
            change = turned.change if seconds is None else seconds / now - 1
            found.append(replace(turned, change=change))
    return tuple(sorted(found, key=lambda t: -abs(t.change) if t.change is not None else 1.0))


# ---- knobs


def _kv_format(asked: Asked) -> list[Turned]:
    graph = asked.assembled.bound_graph
    names = dict.fromkeys(state.format.name for state in graph.states)
    if not names:
        return []
    now = "+".join(names)
    found = []
    for name in ("bf16", "f16", "int8"):
        if name == now:
            continue
        turned = with_kv_format(graph, KV_FORMATS[name])
        share = KV_FORMATS[name].head_bytes(64) / KV_FORMATS[next(iter(names))].head_bytes(64)
        note = f"the cache takes {share:.2f} times the bytes"
        seconds = asked.seconds_a_token(asked.on(turned))
        found.append(Turned("--kv-format", now, name, seconds, None, note))
    return found


def _weights(asked: Asked) -> list[Turned]:
    """Every matrix in another format; a lookup table's copy as a head, too."""
    graph = asked.assembled.bound_graph
    stored = dict.fromkeys(w.format.name for w in graph.weights if len(w.shape) > 1)
    now = "+".join(stored)
    found = []
    for name in ("Q4_0", "Q8_0", "BF16"):
        turned = with_weight_format(graph, name)
        before, after = (sum(w.num_bytes for w in g.weights) for g in (graph, turned))
        if list(stored) == [name]:
            continue
        note = f"weights take {after / before:.2f} times the bytes; another file of the model"
        seconds = asked.seconds_a_token(asked.on(turned))
        found.append(Turned("weight format", now, name, seconds, None, note))
    return found


def with_weight_format(graph: Graph, name: str) -> Graph:
    fmt = FORMATS[name]
    nodes = []
    for node in graph.nodes:
        weights = tuple(
            replace(weight, format=fmt)
            if len(weight.shape) > 1 and weight.shape[-1] % fmt.block_elements == 0
            else weight
            for weight in node.weights
        )
        nodes.append(node if isinstance(node.op, Embed) else replace(node, weights=weights))
    turned = replace(graph, nodes=tuple(nodes))
    return with_screen(turned) if has_screen(graph) else turned


def _batch(asked: Asked) -> list[Turned]:
    if asked.case.phase == "prefill":
        return [_still("requests at once", "1", "more", "a prompt fills its steps by itself")]
    found = []
    for batch in (1, 4, 16, 32):
        if batch != asked.case.batch:
            seconds = asked.seconds_a_token(asked.times, replace(asked.case, batch=batch))
            note = f"each answer then gets a token every {1e3 * seconds * batch:.1f} ms"
            now, then = str(asked.case.batch), str(batch)
            found.append(Turned("requests at once", now, then, seconds, None, note))
    return found


def _chunk(asked: Asked) -> list[Turned]:
    now = asked.assembled.max_tokens_per_step
    if asked.case.phase == "decode":
        note = "a decode step has one token a row, far below it"
        return [_still("max_tokens_per_step", str(now), "more", note)]
    found = []
    for chunk in (128, 256, 512, 1024):
        if chunk != now and min(chunk, now) < asked.case.context:
            seconds = asked.seconds_a_token(asked.times, chunk=chunk)
            note = "smaller: answers that are being written wait less for a prompt"
            found.append(Turned("max_tokens_per_step", str(now), str(chunk), seconds, None, note))
    return found


def _context(asked: Asked) -> list[Turned]:
    if asked.case.context < 64:
        return []
    half = replace(asked.case, context=asked.case.context // 2)
    what = "prompt length" if asked.case.phase == "prefill" else "context"
    seconds = asked.seconds_a_token(asked.times, half)
    return [Turned(what, str(asked.case.context), str(half.context), seconds, None)]


def _threads(asked: Asked) -> list[Turned]:
    now = asked.assembled.threads
    found = []
    for threads in dict.fromkeys((1, now // 2, 2 * now)):
        if threads in (0, now):
            continue
        settings = replace(asked.assembled.settings, threads=threads)
        profile = kept_profile(settings, asked.assembled.isa)
        try:
            if profile is None:
                raise RidgelineError("")
            graph, precision = asked.assembled.bound_graph, asked.assembled.precision
            roofs = as_slow(asked.roofs, profile, asked.times.slower)
            seconds = asked.seconds_a_token(KernelTimes(graph, precision, profile, roofs))
            found.append(Turned("--threads", str(now), str(threads), seconds, None))
        except RidgelineError:
            note = f"not measured: ridgeline measure --threads {threads}"
            found.append(_still("--threads", str(now), str(threads), note, known=False))
    return found


def as_slow(roofs: Roofs, profile: KernelProfile, slower: float) -> Roofs:
    """In a moment of which only another profile's threads or kernels tell how slow it is."""
    return replace(roofs, pace=Peak(PACE, profile.threads, profile.pace / slower))


def _isa(asked: Asked) -> list[Turned]:
    now = asked.assembled.isa
    order = ("amx", "avx512", "avx2", "portable")
    found = []
    for isa in order[order.index(now) + 1 :][:2]:
        profile = kept_profile(asked.assembled.settings, isa)
        roofs = kept_roofs(asked.assembled.settings, isa)
        if profile is None or roofs is None:
            note = f"not measured: RIDGELINE_ISA={isa} ridgeline measure"
            found.append(_still("RIDGELINE_ISA", now, isa, note, known=False))
            continue
        graph, precision = asked.assembled.bound_graph, asked.assembled.precision
        roofs = as_slow(roofs, profile, asked.times.slower)
        seconds = asked.seconds_a_token(KernelTimes(graph, precision, profile, roofs))
        found.append(Turned("RIDGELINE_ISA", now, isa, seconds, None))
    return found


def _others(_asked: Asked) -> list[Turned]:
    """What no step is priced by."""
    return [
        _still("--context-length", "", "less", "room, not time: a step reads what a row has"),
        _still("RIDGELINE_KEEP_PACKED", "", "0", "time to load; the same bytes are read in a step"),
        _still("policy", "", "any", "who goes first; with one request nobody else waits"),
        _still("max_rows", "", "more", "room for more requests at once, until they come"),
    ]


def _still(knob: str, now: str, setting: str, note: str, *, known: bool = True) -> Turned:
    return Turned(knob, now, setting, None, 0.0 if known else None, note)


KNOBS: dict[str, Knob] = {
    "kv_format": _kv_format,
    "weights": _weights,
    "batch": _batch,
    "chunk": _chunk,
    "context": _context,
    "threads": _threads,
    "isa": _isa,
    "others": _others,
}
