"""Dimensions of a graph's values: integers, and three symbols that a step binds.

Only these are symbolic, so that everything else about a model is known before a step exists.
"""

from __future__ import annotations

from enum import Enum

from ridgeline.step import StepShape


class Symbol(Enum):
    """TOKENS: new tokens of the step. SEQUENCES: its rows. SAMPLED: tokens that want logits."""

    TOKENS = "tokens"
    SEQUENCES = "sequences"
    SAMPLED = "sampled"

    def __repr__(self) -> str:
        return self.value


TOKENS, SEQUENCES, SAMPLED = Symbol.TOKENS, Symbol.SEQUENCES, Symbol.SAMPLED

Dim = int | Symbol
Shape = tuple[Dim, ...]


def bind(dim: Dim, step: StepShape) -> int:
    """The number that `dim` stands for in `step`."""
    if isinstance(dim, int):
        return dim
    if dim is TOKENS:
        return step.num_tokens
    if dim is SEQUENCES:
        return step.num_sequences
    return step.num_sampled


def num_elements(shape: Shape, step: StepShape) -> int:
    count = 1
    for dim in shape:
        count *= bind(dim, step)
    return count
