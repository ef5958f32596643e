"""How long a step will take: the roofline's least time, times what steps here have taken more.

The roofline says how the time of a step grows with its rows and contexts; how far above it this
model's kernels run on this machine at this moment is learned from the steps themselves. Two factors
are kept apart, since prompts are bound by arithmetic and answers by memory: one of what the rows
that write an answer take alone, one of what prompts add to them. Knows no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ridgeline.step import StepShape

Seconds = Callable[[StepShape], float]

# Before anything was seen. Kernels reach half of the roof to nine tenths of it (docs/kernels.md).
FIRST_GUESS = 1.5
# What a new step says counts for this much, once so many were seen that a mean means something.
LAST_WEIGHT = 1 / 16
# One step may say so much more or less than what is known: others disturb single steps.
MOST_AT_ONCE = 4.0
# Predictions stay as they are until they would be so far off.
TOLERANCE = 0.1
# A prompt's part of a step that is less than this is lost in the noise of the rest.
LEAST_SHARE = 0.25
# Least times that are remembered, of the shapes that were asked about last.
KEPT_SHAPES = 512


@dataclass(slots=True)
class _Factor:
    """seen: what steps say. used: what predictions are made with."""

    seen: float = FIRST_GUESS
    used: float = FIRST_GUESS
    count: int = 0

    def learn(self, ratio: float) -> bool:
        """Whether `used` follows."""
        if self.count:
            ratio = min(max(ratio, self.seen / MOST_AT_ONCE), self.seen * MOST_AT_ONCE)
        self.count += 1
        self.seen += max(1 / self.count, LAST_WEIGHT) * (ratio - self.seen)
        if abs(self.seen / self.used - 1) <= TOLERANCE:
            return False
        self.used = self.seen
        return True


class StepSeconds:
    """`StepSeconds(build)(shape)`: seconds. build: makes the least times, when first asked; guess:
    what steps are thought to take more before any was seen, 1 where `build` prices this machine's
    kernels.
    """

    def __init__(self, build: Callable[[], Seconds], guess: float = FIRST_GUESS) -> None:
        self._build = build
        self._least: Seconds | None = None
        self._answers, self._prompts = _Factor(guess, guess), _Factor(guess, guess)

    @property
    def in_use(self) -> bool:
        """Whether anybody has asked; nothing is learned before."""
        return self._least is not None

    @property
    def factors(self) -> tuple[float, float]:
        """What the least times are multiplied by: of answers, of prompts."""
        return self._answers.used, self._prompts.used

    @factors.setter
    def factors(self, values: tuple[float, float]) -> None:
        self._answers.used, self._prompts.used = values

    def __call__(self, shape: StepShape) -> float:
        answers, prompts = self._parts(shape)
        return self._answers.used * answers + self._prompts.used * prompts

    def prompt_share(self, shape: StepShape) -> float:
        """What part of the step's time its prompts take, 0 to 1, by these predictions."""
        answers, prompts = self._parts(shape)
        prompts *= self._prompts.used
        whole = self._answers.used * answers + prompts
        return prompts / whole if whole > 0 else 0.0

    def observe(self, shape: StepShape, seconds: float) -> bool:
        """A step took so long; whether predictions have changed by it."""
        answers, prompts = self._parts(shape)
        if not prompts:
            return self._answers.learn(seconds / answers)
        if prompts < LEAST_SHARE * answers:
            return False
        rest = seconds - self._answers.seen * answers
        return self._prompts.learn(max(rest / prompts, 1 / MOST_AT_ONCE))

    def _parts(self, shape: StepShape) -> tuple[float, float]:
        """Least seconds of the rows that write an answer, and what the others add."""
        if self._least is None:
            # A step is asked about when it is booked and when it is learned from; steps that might
            # be, after each change of the factors.
            self._least = lru_cache(KEPT_SHAPES)(self._build())
        whole = self._least(shape)
        writing = [c for n, c in zip(shape.new_tokens, shape.context_lens, strict=True) if n == 1]
        if len(writing) == shape.num_sequences:
            return whole, 0.0
        if not writing:
            return 0.0, whole
        count = len(writing)
        answers = self._least(StepShape((1,) * count, tuple(writing), count))
        return answers, max(whole - answers, 0.0)
