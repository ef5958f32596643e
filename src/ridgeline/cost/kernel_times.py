"""A model's steps on this machine, as its profile prices them: operator by operator, or in a sum.

An operator that the profile cannot price is held to the roofline, times what kernels usually take
more, and its error bar says so. Does not know who asks: the scheduler every step, the simulator, or
a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ridgeline.cost.cold_weights import FREE, NOTHING_READ, Prices
from ridgeline.cost.count import LAYER, cost_key
from ridgeline.cost.device import Roofs
from ridgeline.cost.kernel_terms import (
    Needs,
    Place,
    is_asked_for,
    is_sampled,
    needs_of,
    places,
    row_span,
    sample_needs,
)
from ridgeline.cost.kernels import KernelProfile, Parts, interval
from ridgeline.cost.time import bound_of
from ridgeline.errors import RidgelineError
from ridgeline.model.graph.node import Graph, Node
from ridgeline.model.graph.ops.attention import Attention
from ridgeline.model.graph.ops.embed import Embed
from ridgeline.model.graph.ops.latent import LatentAttention
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.work import Precision
from ridgeline.model.passes.screen import has_screen
from ridgeline.step import StepShape

# What an operator that was never timed takes, over the roofline.
UNKNOWN_FACTOR = 1.6
UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class OperatorPrediction:
    """All nodes at one place in each layer. name: with `*` for the layer. group: whose error bar
    it has. seconds: of all `count` together.
    """

    name: str
    group: str
    count: int
    seconds: float

    def plus(self, other: OperatorPrediction) -> OperatorPrediction:
        """The same operators in another step."""
        return replace(self, count=self.count + other.count, seconds=self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class StepPrediction:
    """seconds: operators and what is outside them. 80 % of steps are between low and high."""

    operators: tuple[OperatorPrediction, ...]
    outside_seconds: float
    seconds: float
    low: float
    high: float


class Sum(NamedTuple):
    """Of several operators: those that read nothing but what caches hold, and those that do."""

    hidden: Parts
    reads: Parts

    def plus(self, count: float, one: Parts) -> Sum:
        if any(one.read.num_bytes):
            return Sum(self.hidden, _plus(self.reads, count, one))
        return Sum(_plus(self.hidden, count, one), self.reads)

    def and_all(self, other: Sum, share: float = 1.0) -> Sum:
        hidden = _plus(self.hidden, share, other.hidden)
        return Sum(hidden, _plus(self.reads, share, other.reads))


_NOTHING = Parts(0.0, 0.0, NOTHING_READ)
NOTHING = Sum(_NOTHING, _NOTHING)


def _plus(one: Parts, count: float, other: Parts) -> Parts:
    return Parts(
        one.hot + count * other.hot,
        one.handed + count * other.handed,
        one.read.plus(count, other.read),
    )


def outside_terms(shape: StepShape) -> Mapping[str, float]:
    """Of a step's time outside its operators: scheduling, the call, booking."""
    return {
        "outside/1": 1.0,
        "outside/row": float(shape.num_sequences),
        "outside/token": float(shape.num_tokens - shape.num_sequences),
    }


class KernelTimes:
    """`KernelTimes(...)(shape)`: seconds of a step, outside included.

    roofs: say how fast a working set of the step's size is read, which the profile's prices do not
    know, and what a line takes from a thread to another; those of this moment (`Roofs.as_now`) for
    a step of this moment, whose pace also says how fast all else is. slower: what prices are
    multiplied by for it. Raises RidgelineError where roofs lack this number of threads.
    """

    def __init__(
        self, graph: Graph, precision: Precision, profile: KernelProfile, roofs: Roofs
    ) -> None:
        self._graph, self._precision = graph, precision
        self.profile, self._roofs = profile, roofs
        self.slower = profile.slower_at(roofs.pace)
        self._each_line = profile.line_seconds(roofs.barrier(profile.threads))
        placed = places(graph)
        groups: dict[object, list[Node]] = {}
        for node in graph.nodes:
            key = (cost_key(node), placed.get(node.name))
            groups.setdefault(key, []).append(node)
        self._groups = [
            (nodes[0], placed.get(nodes[0].name, Place()), len(nodes)) for nodes in groups.values()
        ]
        width = graph.outputs[0].shape[-1]
        assert isinstance(width, int)
        self._vocab = width
        self._is_screened = has_screen(graph)
        # A table of which a step reads some rows is no part of what it goes over.
        self._weights = sum(
            num_bytes * profile.packed.get(name, 1.0)
            for name, num_bytes in {
                weight.name: (weight.format.name, weight.num_bytes)
                for node in graph.nodes
                if not isinstance(node.op, Embed)
                for weight in node.weights
            }.values()
        )
        self._kv_per_token = sum(state.bytes_per_token for state in graph.states)
        if roofs.device(64 << 20, profile.threads) is None:
            raise RidgelineError(f"roofs of {profile.threads} threads were not measured")
        self._reading: dict[int, Prices] = {}
        self._fixed: dict[tuple[int, int], tuple[Sum, Sum] | None] = {}
        self._sampled: dict[tuple[int, bool], Sum | None] = {}
        self._at_mark: dict[int, Sum | None] = {}
        by: dict[str, list[tuple[Node, Place, int]]] = {}
        for group in self._groups:
            by.setdefault(_goes_by(group[0]), []).append(group)
        self._growing, self._by_tokens, self._by_samples = (
            by.get(goes, []) for goes in (CONTEXTS, TOKENS, SAMPLES)
        )

    def __call__(self, shape: StepShape) -> float:
        """`step(shape).seconds`, in tens of microseconds: what does not depend on contexts is kept
        by numbers of tokens.
        """
        key = (shape.num_tokens, shape.num_sampled)
        if key not in self._fixed:
            self._fixed[key] = self._steady_seconds(shape)
        fixed = self._fixed[key]
        grown = fixed and self._priced(self._growing, shape)
        if fixed is None or grown is None:
            return self.step(shape).seconds
        price = self._prices_at(shape)
        return self._outside(shape) + sum(
            self._seconds(each, price) for of in (*fixed, grown) for each in of
        )

    def _seconds(self, parts: Parts, price: Prices) -> float:
        """Of operators that read beside each other's computing."""
        return price.together(self.slower * parts.hot + self._each_line * parts.handed, parts.read)

    def _steady_seconds(self, shape: StepShape) -> tuple[Sum, Sum] | None:
        """Of what goes by tokens and of what goes by samples: a head reads when all else has
        computed.
        """
        key = (shape.num_sampled, shape.num_tokens == shape.num_sampled)
        if key not in self._sampled:
            self._sampled[key] = self._sampled_seconds(shape)
        sampled = self._sampled[key]
        low, high = row_span(shape.num_tokens)
        first, last = self._mark_seconds(low), self._mark_seconds(high)
        if sampled is None or first is None or last is None:
            return None
        # As terms are: straight between marks; beyond the last, multiples of it.
        share = (shape.num_tokens - low) / (high - low) if high > low else 0.0
        found = NOTHING.and_all(first, 1 - share).and_all(last, share)
        if high == low:
            times = shape.num_tokens / low
            found = Sum(*(parts._replace(hot=times * parts.hot) for parts in found))
        return found, sampled

    def _mark_seconds(self, mark: int) -> Sum | None:
        if mark not in self._at_mark:
            self._at_mark[mark] = self._priced(self._by_tokens, StepShape((mark,), (0,), 0))
        return self._at_mark[mark]

    def _sampled_seconds(self, shape: StepShape) -> Sum | None:
        found = self._priced(self._by_samples, shape)
        drawing = self._drawing(shape)
        drawn = None if drawing is None else self.profile.split(drawing)
        return found if found is None or drawn is None else found.plus(1, drawn)

    def _priced(self, groups: Sequence[tuple[Node, Place, int]], shape: StepShape) -> Sum | None:
        """None where the profile lacks a term."""
        found = NOTHING
        for node, place, count in groups:
            needs = self._needs(node, place, shape)
            if needs is not None:
                one = self.profile.split(needs)
                if one is None:
                    return None
                found = found.plus(count, one)
        return found

    def _needs(self, node: Node, place: Place, shape: StepShape) -> Needs | None:
        needs = needs_of(node, place, shape, self.profile.threads, self.profile.isa)
        if needs is None or "cache" not in needs.read:
            return needs
        isa, rows = self.profile.isa, shape.num_tokens
        if is_asked_for(needs, rows, isa, self._roofs.cache_bytes):
            return replace(needs, read={})
        return needs

    def _drawing(self, shape: StepShape) -> Needs | None:
        screened = self._is_screened and shape.num_tokens == shape.num_sampled
        return sample_needs(shape.num_sampled, self._vocab, self.profile.threads, screened)

    def _outside(self, shape: StepShape) -> float:
        prices = self.profile.outside
        terms = outside_terms(shape).items()
        return self.slower * sum(prices.get(n, 0.0) * amount for n, amount in terms)

    def decode_run(self, contexts: Sequence[int], count: int) -> NDArray[np.float64]:
        """The seconds of `count` decode steps one after the other, for rows that begin with
        `contexts`: to the bit what each would cost by itself.
        """
        rows = len(contexts)
        ones = (1,) * rows
        return np.array(
            [
                self(StepShape(ones, tuple(context + done for context in contexts), rows))
                for done in range(count)
            ],
            np.float64,
        )

    def _prices_at(self, shape: StepShape) -> Prices:
        """What reading takes in the step's working set, weights and caches; to a few percent of its
        size.
        """
        held = self._weights + sum(shape.context_lens) * self._kv_per_token
        mark = round(16 * log2(held + 1))
        if mark not in self._reading:
            read = self._roofs.read(2 ** (mark / 16), self.profile.threads)
            assert read is not None
            self._reading[mark] = self.profile.prices_at(2 ** (mark / 16), read.rates)
        return self._reading[mark]

    def step(self, shape: StepShape) -> StepPrediction:
        price = self._prices_at(shape)
        found: dict[str, OperatorPrediction] = {}
        by_group: dict[str, float] = {}
        sums: dict[str, Sum] = {}
        parted: list[tuple[str, str, int, str, Parts]] = []
        for node, place, count in self._groups:
            needs = self._needs(node, place, shape)
            if needs is None:
                continue
            name, parts = LAYER.sub("layers.*.", node.name), self.profile.split(needs)
            if parts is None:
                one = count * self._unknown(node, shape)
                _book(found, by_group, OperatorPrediction(name, UNKNOWN, count, one))
                continue
            goes = _goes_by(node)
            sums[goes] = sums.get(goes, NOTHING).plus(count, parts)
            parted.append((name, needs.group, count, goes, parts))
        drawing = self._drawing(shape)
        if drawing is not None:
            drawn = self.profile.split(drawing) or _NOTHING
            sums[SAMPLES] = sums.get(SAMPLES, NOTHING).plus(1, drawn)
            parted.append(("sample", "sample", 1, SAMPLES, drawn))
        # What reads takes together what it computes or what it reads, and some of the other: each
        # operator its part of both.
        together = {goes: self._shares(of.reads, price) for goes, of in sums.items()}
        for name, group, count, goes, parts in parted:
            of_computing, of_reading = together[goes] if any(parts.read.num_bytes) else (1.0, 0.0)
            one = of_computing * self._seconds(parts, FREE)
            one += of_reading * price.reading(parts.read)
            _book(found, by_group, OperatorPrediction(name, group, count, count * one))
        outside = self._outside(shape)
        by_group["outside"] = outside
        seconds = sum(each.seconds for each in found.values()) + outside
        low, high = interval(seconds, by_group, self.profile.residuals)
        return StepPrediction(tuple(found.values()), outside, seconds, low, high)

    def _shares(self, parts: Parts, price: Prices) -> tuple[float, float]:
        """Of computing and of reading, what of each is in the time of both."""
        computing, reads = self._seconds(parts, FREE), price.reading(parts.read)
        if not computing or not reads:
            return 1.0, 1.0
        lost = (self._seconds(parts, price) - max(computing, reads)) / min(computing, reads)
        return (lost, 1.0) if reads > computing else (1.0, lost)

    def _unknown(self, node: Node, shape: StepShape) -> float:
        work = node.op.cost(node, shape, self._precision)
        device = self._roofs.device(self._weights, self.profile.threads)
        assert device is not None
        return UNKNOWN_FACTOR * bound_of(work, device).seconds + device.barrier_seconds


# What an operator's time goes by: what grows with contexts; what goes straight between marks of
# tokens; and all else.
CONTEXTS, TOKENS, SAMPLES = "contexts", "tokens", "samples"


def _goes_by(node: Node) -> str:
    if isinstance(node.op, Attention | LatentAttention):
        return CONTEXTS
    screened = isinstance(node.op, Linear) and node.op.screen is not None
    return SAMPLES if screened or is_sampled(node) else TOKENS


def _book(
    found: dict[str, OperatorPrediction], by_group: dict[str, float], one: OperatorPrediction
) -> None:
    by_group[one.group] = by_group.get(one.group, 0.0) + one.seconds
    before = found.get(one.name)
    found[one.name] = one if before is None else replace(before.plus(one), group=one.group)


def kernel_seconds(
    graph: Graph, precision: Precision, profile: KernelProfile | None, roofs: Roofs | None
) -> Callable[[StepShape], float] | None:
    """None where nothing was measured, or not with this number of threads."""
    if profile is None or roofs is None or roofs.device(64 << 20, profile.threads) is None:
        return None
    return KernelTimes(graph, precision, profile, roofs)
