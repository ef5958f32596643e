"""The order of things: every contender once a round, the machine's limits before each turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from side_by_side.cases import OURS, Case
from side_by_side.contenders import Contender, open_contender
from side_by_side.description import Description
from side_by_side.figures import Machine, Measured, Sample, hopeless
from side_by_side.foreign import clocks, foreign_share
from side_by_side.processes import MissingError, Worker

Tell = Callable[[str], None]
CONTEXT_STEP = 256
# Others may take this part of the machine during a turn; beyond it the turn is taken again.
DISTURBED, TRIES = 0.1, 3


@dataclass(frozen=True, slots=True)
class Rounds:
    """At most `most` a case; after `least`, none begins that would end later than `seconds`."""

    most: int = 7
    least: int = 3
    seconds: float = 25.0


class OursError(MissingError):
    """Ridgeline's worker has ended: nothing can be compared with it."""


class Field:
    """The contenders that are open. Models come one after the other: the last one's are closed.

    also: contenders beside the bars'. facts: what each engine said of itself.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        description: Description,
        also: Sequence[str],
        folder: Path,
        tell: Tell,
    ) -> None:
        self._cases, self._description, self._folder = cases, description, folder
        self._also, self._tell = also, tell
        self._open: dict[tuple[str, ...], Contender] = {}
        self._missing: dict[tuple[str, ...], str] = {}
        self.facts: dict[str, object] = {}

    def contenders(self, case: Case) -> tuple[list[Contender], dict[str, str]]:
        """Ours first, then the case's peers; and why some are not there.

        Raises MissingError if ours is not.
        """
        wanted = {self._key(name, case): name for name in self._names(case)}
        later = self._cases[self._cases.index(case) :]
        needed = {self._key(name, c) for c in later for name in self._names(c)}
        model = (case.model, case.weights)
        for key in list(self._open):
            if key not in needed or key[1:3] != model:
                self._open.pop(key).close()
        left_out = {}
        for key, name in wanted.items():
            if key not in self._open and key not in self._missing:
                self._start(key, name, case)
            if key in self._missing:
                left_out[name] = self._missing[key]
        if OURS in left_out:
            raise MissingError(left_out[OURS])
        return [self._open[key] for key in wanted if key in self._open], left_out

    def _start(self, key: tuple[str, ...], name: str, case: Case) -> None:
        context = max(c.context for c in self._cases if c.model == case.model)
        context = -(-context // CONTEXT_STEP) * CONTEXT_STEP
        begin = time.monotonic()
        try:
            opened = open_contender(name, case, self._description, context, self._folder)
        except MissingError as error:
            self._missing[key] = str(error)
            self._tell(f"left out: {error}")
            return
        self._open[key] = opened
        self._tell(f"{name} on {case.model} is there after {time.monotonic() - begin:.1f} s")

    def drop(self, contender: Contender, case: Case, why: str) -> None:
        """A contender that failed is not asked again."""
        key = self._key(contender.name, case)
        self._missing[key] = why
        self._open.pop(key).close()
        self._tell(f"left out: {why}")

    def note(self, contender: Contender, case: Case) -> None:
        self.facts[" ".join(self._key(contender.name, case))] = dict(contender.facts)

    def close(self) -> None:
        for contender in self._open.values():
            contender.close()
        self._open.clear()

    def _names(self, case: Case) -> tuple[str, ...]:
        return tuple(dict.fromkeys((OURS, *case.peers, *self._also)))

    @staticmethod
    def _key(name: str, case: Case) -> tuple[str, ...]:
        """Who must be another process: by model, and llama-server beside llama.cpp's tools."""
        served = "served" if case.phase == "offline" and name.startswith("llamacpp") else ""
        return (name, case.model, case.weights, served)


def measure(case: Case, field: Field, rounds: Rounds, tell: Tell) -> Measured:
    """The case's samples. A first, uncounted one of each warms caches and tells which formats
    cannot be the best. The order turns by one each round. Raises MissingError if ours fails.
    """
    contenders, left_out = field.contenders(case)
    firsts, contenders = _round(case, contenders, field, 0, left_out, tell)
    for contender in contenders:
        field.note(contender, case)
    slow = hopeless(case, {sample.contender: sample.tokens_per_second for sample in firsts})
    left_out |= slow
    contenders = [contender for contender in contenders if contender.name not in slow]
    samples: list[Sample] = []
    begin = time.monotonic()
    for number in range(1, rounds.most + 1):
        done, elapsed = number - 1, time.monotonic() - begin
        if done >= rounds.least and elapsed * number / done > rounds.seconds:
            break
        more, contenders = _round(case, contenders, field, number, left_out, tell)
        samples += more
    return Measured(case, tuple(samples), left_out)


def _round(
    case: Case,
    contenders: list[Contender],
    field: Field,
    number: int,
    left_out: dict[str, str],
    tell: Tell,
) -> tuple[list[Sample], list[Contender]]:
    """One sample of each, begun by another one each round; and who is still there afterwards."""
    ours = next(c for c in contenders if c.name == OURS)
    assert isinstance(ours, Worker)
    samples, there = [], list(contenders)
    turn = number % len(contenders)
    for contender in contenders[turn:] + contenders[:turn]:
        try:
            samples.append(_calm(case, contender, ours, number, tell))
        except OursError:
            raise
        except MissingError as error:
            field.drop(contender, case, str(error))
            left_out[contender.name] = str(error)
            there.remove(contender)
    return samples, there


def _calm(case: Case, contender: Contender, ours: Worker, number: int, tell: Tell) -> Sample:
    """One sample; while others take too much of the machine another one, and the calmest of all."""
    samples: list[Sample] = []
    while len(samples) < TRIES and (not samples or samples[-1].foreign > DISTURBED):
        samples.append(_sample(case, contender, ours, number, len(samples)))
        tell(_line(case, samples[-1]))
    return min(samples, key=lambda sample: sample.foreign)


def _sample(case: Case, contender: Contender, ours: Worker, number: int, attempt: int) -> Sample:
    """The machine's limits, then one sample beside them."""
    machine = Machine(**_ask(ours, {"do": "machine", "case": asdict(case)}))
    rate, foreign = _turn(case, contender, f"round {number}, attempt {attempt}")
    share = None
    if contender is ours:
        question = {"do": "share", "case": asdict(case), "tokens_per_second": rate}
        share = _ask(ours, question)["share"]
    return Sample(contender.name, number, rate, machine, foreign, share)


def _ask(ours: Worker, command: dict[str, Any]) -> dict[str, Any]:
    ours.wake()
    try:
        return ours.ask(command)
    except MissingError as error:
        raise OursError(str(error)) from None
    finally:
        ours.sleep()


def _turn(case: Case, contender: Contender, seed: str) -> tuple[float, float]:
    """Tokens per second, and the part of the machine that others took; no other contender is awake
    meanwhile.
    """
    contender.wake()
    try:
        before = clocks(contender.group)
        rate = contender.rate(case, seed)
        after = clocks(contender.group)
    except MissingError as error:
        raise (OursError if contender.name == OURS else MissingError)(str(error)) from None
    finally:
        contender.sleep()
    return rate, foreign_share(before, after, os.cpu_count() or 1)


def _line(case: Case, sample: Sample) -> str:
    turn = f"round {sample.round}" if sample.round else "first, not counted"
    parts = [f"{case.label}; {turn}: {sample.contender} {sample.tokens_per_second:,.1f} tok/s"]
    if sample.share is not None:
        parts.append(f"{sample.share:.0%} of the roof")
    if sample.machine.read_gbps is not None:
        parts.append(f"reads {sample.machine.read_gbps:.1f} GB/s")
    if sample.machine.barrier_ns is not None:
        parts.append(f"barrier {sample.machine.barrier_ns:.0f} ns ({sample.machine.mode})")
    if sample.foreign >= 0.02:
        parts.append(f"others took {sample.foreign:.0%} of the machine")
    return ", ".join(parts)
