"""One window's tokens: prompts computed, tokens drawn, many sounds a step.

Needs of an executor the rows, blocks and `forward` of `engine.executor.Executor`, and `encode`. A
sound keeps its row while it is read, so that its encoder runs once a window however often the
window is tried. Its tokens do not depend on those beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ridgeline.engine.executor import Executor
from ridgeline.engine.speech.rules import allowed, draw
from ridgeline.engine.speech.tokens import SpeechTokens
from ridgeline.errors import EngineError
from ridgeline.step import PlanRow, RowSampling, StepPlan

Floats = npt.NDArray[np.float32]
PLAIN = RowSampling()


class SpeechExecutor(Executor, Protocol):
    """An executor of a model with an encoder."""

    def encode(self, row: int, frames: Floats) -> object:
        """What cross attention sees in `row` from now on; nothing for the row's last array."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A window, to be tried once. frames: see `SpeechExecutor.encode`. prompt: tokens up to the one
    that starts a transcript; prefix: those after it. times: whether the transcript has them.
    most: tokens at most. seed: of the noise above temperature 0. no text is wanted where most is
    0: only what the start token's row says.
    """

    frames: Floats
    prompt: tuple[int, ...]
    prefix: tuple[int, ...] = ()
    times: bool = True
    temperature: float = 0.0
    most: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """tokens: without the end. log_probability: of all of them and of the end, if it came.
    start_scores: logits [vocab] after the start token.
    """

    tokens: tuple[int, ...]
    log_probability: float
    start_scores: Floats

    @property
    def mean_log_probability(self) -> float:
        return self.log_probability / (len(self.tokens) + 1)


@dataclass(slots=True)
class _Running:
    """An attempt in a row. computed: tokens of the row that are in the cache."""

    attempt: Attempt
    row: int
    blocks: tuple[int, ...]
    row_tokens: list[int]
    noise: np.random.Generator
    computed: int = 0
    given: bool = False  # the row's blocks are known to the executor
    start_scores: Floats | None = None
    said: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    heard: Heard | None = None


class Decoder:
    """Runs attempts on an executor that nobody else uses meanwhile: `begin` each in a row of its
    own, `step` until there are none.
    """

    def __init__(
        self, executor: SpeechExecutor, tokens: SpeechTokens, max_context: int, max_tokens: int
    ) -> None:
        self._executor = executor
        self._tokens = tokens
        self._max_tokens = max_tokens
        self._max_context = max_context
        columns = sum(group.blocks for group in executor.groups)
        each = -(-max_context // executor.block_tokens) * columns
        self.num_rows = min(executor.max_rows, executor.num_blocks // max(1, each))
        if not self.num_rows:
            raise EngineError(
                f"{executor.num_blocks} blocks hold no row of {max_context} tokens: more are needed"
            )
        self._blocks = [tuple(range(r * each, (r + 1) * each)) for r in range(self.num_rows)]
        self._running: dict[int, _Running] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    def begin(self, row: int, attempt: Attempt) -> None:
        """Starts an attempt in a row that has none. EngineError for frames of another shape."""
        self._executor.encode(row, attempt.frames)
        row_tokens = [*attempt.prompt, *attempt.prefix]
        self._executor.open_row(row, row_tokens, PLAIN)
        noise = np.random.Generator(np.random.Philox(attempt.seed))
        self._running[row] = _Running(attempt, row, self._blocks[row], row_tokens, noise)

    def abandon(self, row: int) -> None:
        """Ends what a row has, if it has something."""
        if self._running.pop(row, None) is not None:
            self._executor.close_row(row)

    def step(self) -> dict[int, Heard]:
        """Computes each row's next tokens, as many as a step has; attempts that are done, by row,
        which is free then.
        """
        plans, rows, budget = [], [], self._max_tokens
        # Rows of one token first: they are the cheapest to bring on.
        for run in sorted(self._running.values(), key=lambda r: (len(r.row_tokens), r.row)):
            wanted = self._next(run)
            count = min(wanted, budget)
            if not count:
                break
            blocks = () if run.given else run.blocks
            plans.append(PlanRow(run.row, count, run.computed, int(count == wanted), blocks))
            rows.append(run)
            budget -= count
        if not plans:
            return {}
        logits = self._executor.forward(StepPlan(tuple(plans)))
        taken = 0
        for run, plan in zip(rows, plans, strict=True):
            run.given = True
            run.computed += plan.num_new
            if plan.num_logits:
                self._take(run, logits[taken])
                taken += 1
        done = {r.row: r.heard for r in rows if r.heard is not None}
        for row in done:
            self.abandon(row)
        return done

    def _next(self, run: _Running) -> int:
        """New tokens up to the next logits that are wanted: the start token's, then the last's."""
        start = len(run.attempt.prompt)
        return (start if run.computed < start else len(run.row_tokens)) - run.computed

    def _take(self, run: _Running, logits: Floats) -> None:
        if not np.isfinite(logits).all():
            raise EngineError("the model gave logits that are no numbers")
        attempt, tokens = run.attempt, self._tokens
        if run.start_scores is None:
            run.start_scores = logits
            if attempt.most == 0:
                run.heard = Heard((), 0.0, logits)
            if run.computed < len(run.row_tokens) or attempt.most == 0:
                return
        scores = allowed(logits, run.said, tokens, attempt.times)
        token = draw(scores, attempt.temperature, run.noise)
        run.log_probability += float(scores[token])
        if token != tokens.end:
            run.said.append(token)
            run.row_tokens.append(token)
        full = len(run.said) >= attempt.most or len(run.row_tokens) >= self._max_context
        if token == tokens.end or full:
            run.heard = Heard(tuple(run.said), run.log_probability, run.start_scores)
        else:
            self._executor.append_tokens(run.row, [token])


def probability(scores: Sequence[float] | Floats, token: int) -> float:
    """Softmax of logits at one token."""
    x = np.asarray(scores, np.float64)
    weights = np.exp(x - x.max())
    return float(weights[token] / weights.sum())
