"""Who comes when: the requests that a simulated fleet is asked.

Open loads (a trace, or a Poisson process) come whatever the fleet does; a closed one has so many
users, each of whom asks again when the last answer is there. All are iterators of arrivals, so that
a million requests are never in memory together; random ones are a function of their seed (Philox).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ridgeline.errors import RequestError
from ridgeline.plan.traces import MOST_TOKENS, Arrival, repeated

_LENGTHS = re.compile(r"(?P<low>[0-9]+)(-(?P<high>[0-9]+))?")
MOST_SECONDS = 1e9
_DRAWN = 1024
_TOLD = 100


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens, each number from low to high as often as any other."""

    low: int
    high: int

    @staticmethod
    def parse(option: str, text: str) -> Lengths:
        """`300` or `100-500`. RequestError names the option."""
        match = _LENGTHS.fullmatch(text.strip())
        if match is None:
            raise RequestError(option, f"{text!r}; tokens, as 300, or from and to, as 100-500")
        low = int(match["low"])
        high = int(match["high"] or low)
        if not 1 <= low <= high <= MOST_TOKENS:
            raise RequestError(option, f"{text!r}: from 1 to {MOST_TOKENS} tokens, least first")
        return Lengths(low, high)

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True)
class Load:
    """arrivals: open loads in order of time; of closed ones the times mean nothing, and `users` of
    them are under way at any time. count: of requests.
    """

    arrivals: Callable[[], Iterable[Arrival]]
    count: int
    users: int | None = None
    words: str = ""


def counted(load: Load, report: Callable[[int], None]) -> Load:
    """The same load, which says now and then how many of it have come."""

    def arrivals() -> Iterator[Arrival]:
        number = 0
        for number, arrival in enumerate(load.arrivals(), 1):
            if number % _TOLD == 0:
                report(number)
            yield arrival
        report(number)

    return replace(load, arrivals=arrivals)


def drawn_lengths(
    prompts: Lengths, answers: Lengths, count: int, seed: int
) -> Iterator[tuple[int, int]]:
    """`count` prompts and answers; the same for a seed, whatever comes between."""
    random = np.random.Generator(np.random.Philox(key=[seed, 1]))
    for start in range(0, count, _DRAWN):
        ins = random.integers(prompts.low, prompts.high, _DRAWN, endpoint=True).tolist()
        outs = random.integers(answers.low, answers.high, _DRAWN, endpoint=True).tolist()
        yield from list(zip(ins, outs, strict=True))[: count - start]


def poisson(rate: float, prompts: Lengths, answers: Lengths, count: int, seed: int) -> Load:
    """`rate` requests a second, independent of each other."""
    _check_rate(rate)
    _check_span(count / rate)

    def arrivals() -> Iterator[Arrival]:
        random = np.random.Generator(np.random.Philox(key=[seed, 0]))
        lengths = drawn_lengths(prompts, answers, count, seed)
        now = 0.0
        while True:
            for gap in random.exponential(1.0 / rate, _DRAWN).tolist():
                pair = next(lengths, None)
                if pair is None:
                    return
                yield Arrival(now, *pair)
                now += gap

    return Load(arrivals, count, words=f"Poisson, {rate:g} requests/s")


def closed(users: int, prompts: Lengths, answers: Lengths, count: int, seed: int) -> Load:
    """`users` at a time, `count` requests together."""
    if users < 1:
        raise RequestError("--concurrency", f"{users}; at least one request is under way")

    def arrivals() -> Iterator[Arrival]:
        return (Arrival(0.0, *pair) for pair in drawn_lengths(prompts, answers, count, seed))

    return Load(arrivals, count, users, f"closed loop, {users} at a time")


def recorded(trace: Sequence[Arrival], count: int | None = None, rate: float | None = None) -> Load:
    """A trace: `count` requests, again and again if it has fewer; at a mean `rate` if one is
    given, its bursts kept.
    """
    count = len(trace) if count is None else count
    if count < 1:
        raise RequestError("--requests", f"{count}; at least one is needed")
    seconds = trace[-1].seconds
    own = len(trace) / seconds if seconds > 0 else 0.0
    factor = 1.0
    if rate is not None:
        _check_rate(rate)
        if not own:
            raise RequestError("--rate", "the trace's requests all come at once; it has no rate")
        factor = own / rate
    _check_span(seconds * factor * count / len(trace))

    def arrivals() -> Iterator[Arrival]:
        for arrival in repeated(trace, count):
            yield arrival if factor == 1 else replace(arrival, seconds=arrival.seconds * factor)

    return Load(arrivals, count, words=f"trace, {own if rate is None else rate:.3g} requests/s")


def _check_span(seconds: float) -> None:
    """A clock of float64 tells milliseconds apart up to 10^12 s, and their thousandths to 10^9."""
    if seconds > MOST_SECONDS:
        raise RequestError(
            "--rate",
            f"the load would take {seconds:.3g} s, and {MOST_SECONDS:.0e} s are the most; raise "
            "the rate, or lower --requests",
        )


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1e6:
        raise RequestError(
            "--rate", f"{rate:g} requests/s; a load has more than none, up to a million"
        )
