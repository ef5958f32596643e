"""Texts in, a row of numbers each out: embeddings, scores and classes, many texts a step.

Needs of an executor the rows, blocks and `forward` of `engine.executor.Executor`; holds blocks only
while a text is computed, so that nothing is cached. A text's numbers do not depend on those beside
it. Result fields are those that users of vLLM's offline API know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgeline.engine.executor import Executor
from ridgeline.errors import RequestError
from ridgeline.step import PlanRow, RowSampling, StepPlan

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    embedding: list[float]


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """A text and its embedding. prompt: None if token ids were given."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: EmbeddingOutput


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    score: float


@dataclass(frozen=True, slots=True)
class ScoringRequestOutput:
    """How well a text goes with another: 0 to 1 of a classifier, a cosine of embeddings."""

    prompt_token_ids: list[int]
    outputs: ScoringOutput


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """probs: of each class, in the order of `labels`."""

    probs: list[float]
    labels: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.labels[int(np.argmax(self.probs))]


@dataclass(frozen=True, slots=True)
class ClassificationRequestOutput:
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: ClassificationOutput


@dataclass(slots=True)
class _Open:
    """A text that is being computed."""

    index: int
    row: int
    token_ids: Sequence[int]
    blocks: list[int]
    done: int = 0


class Pooler:
    """Computes texts on an executor that nobody else uses meanwhile.

    max_tokens: new tokens of a step. whole: a text is computed in one step (encoders), else in as
    many as it needs. watch: told of each step that ran, when it began and when it ended, of
    `time.monotonic()`.
    """

    def __init__(
        self, executor: Executor, *, max_context: int, max_tokens: int, whole: bool
    ) -> None:
        self._executor = executor
        self._whole = whole
        self.watch: Callable[[StepPlan, float, float], None] | None = None
        self.max_tokens = max_tokens
        # Blocks of one entry of a row's table.
        self._columns = sum(group.blocks for group in executor.groups)
        room = executor.num_blocks // max(1, self._columns) * executor.block_tokens
        self.max_context = min(max_context, room, max_tokens if whole else max_context)

    def rows(self, texts: Sequence[Sequence[int]]) -> Floats:
        """[texts, width]: what the model gives for each text's token ids. Raises RequestError for a
        text that is empty or too long, before anything is computed.
        """
        for token_ids in texts:
            if not 1 <= len(token_ids) <= self.max_context:
                raise RequestError(
                    "prompt",
                    f"has {len(token_ids)} tokens; 1 to {self.max_context} are possible",
                )
        found = np.zeros((len(texts), self._executor.vocab_size), np.float32)
        waiting = list(enumerate(texts))[::-1]
        free_rows = list(range(self._executor.max_rows))[::-1]
        free_blocks = list(range(self._executor.num_blocks))[::-1]
        active: list[_Open] = []
        try:
            while waiting or active:
                self._admit(waiting, active, free_rows, free_blocks)
                plan, part = self._plan(active)
                began = time.monotonic()
                values = self._executor.forward(plan)
                if self.watch is not None:
                    self.watch(plan, began, time.monotonic())
                taken = 0
                for text, planned in zip(part, plan.rows, strict=True):
                    text.done += planned.num_new
                    if planned.num_logits:
                        found[text.index] = values[taken]
                        taken += 1
                for text in [text for text in active if text.done == len(text.token_ids)]:
                    active.remove(text)
                    self._close(text, free_rows, free_blocks)
        finally:
            for text in active:
                self._executor.close_row(text.row)
        return found

    def _admit(
        self,
        waiting: list[tuple[int, Sequence[int]]],
        active: list[_Open],
        free_rows: list[int],
        free_blocks: list[int],
    ) -> None:
        """Opens texts in their order, as many as a step has tokens, rows and blocks for."""
        budget = self.max_tokens - sum(len(text.token_ids) - text.done for text in active)
        while waiting and free_rows:
            index, token_ids = waiting[-1]
            needed = -(-len(token_ids) // self._executor.block_tokens) * self._columns
            fits = len(token_ids) <= budget if self._whole else budget > 0
            if needed > len(free_blocks) or not fits:
                return
            waiting.pop()
            row = free_rows.pop()
            blocks = [free_blocks.pop() for _ in range(needed)]
            self._executor.open_row(row, token_ids, RowSampling())
            active.append(_Open(index, row, token_ids, blocks))
            budget -= len(token_ids)

    def _plan(self, active: list[_Open]) -> tuple[StepPlan, list[_Open]]:
        budget = self.max_tokens
        rows: list[PlanRow] = []
        part: list[_Open] = []
        for text in active:
            left = len(text.token_ids) - text.done
            count = min(left, budget)
            if count == 0:
                break
            blocks = tuple(text.blocks) if text.done == 0 else ()
            rows.append(PlanRow(text.row, count, text.done, int(count == left), blocks))
            part.append(text)
            budget -= count
        return StepPlan(tuple(rows)), part

    def _close(self, text: _Open, free_rows: list[int], free_blocks: list[int]) -> None:
        self._executor.close_row(text.row)
        free_rows.append(text.row)
        free_blocks += text.blocks


def normalized(rows: Floats) -> Floats:
    """Each row divided by its length; a row of zeros stays."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def probabilities(logits: Floats) -> npt.NDArray[np.float64]:
    """Softmax over the classes; of a single one the sigmoid."""
    x = logits.astype(np.float64)
    if x.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-x)))
    weights = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def truncated(token_ids: list[int], longest: int) -> list[int]:
    """At most `longest` ids: the last one stays (an encoder's closing token), those before go."""
    if len(token_ids) <= longest:
        return token_ids
    return [*token_ids[: longest - 1], token_ids[-1]]


def pair(first: list[int], second: list[int]) -> list[int]:
    """Two texts as one, for a model that reads both: the second's own opening token goes."""
    return first + second[1 if second[:1] == first[:1] else 0 :]


def scores(left: Floats, right: Floats) -> list[float]:
    """Of each row of length 1 the cosine with its own of the other's."""
    products = (
        a.astype(np.float64) @ b.astype(np.float64) for a, b in zip(left, right, strict=True)
    )
    return [float(one) for one in products]
