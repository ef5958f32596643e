"""`Deployment.price` in microseconds a step, for a simulator that asks it millions of times.

What the device takes is read off tables that the deployment fills when a place is first asked for,
and interpolated between their marks: a twelfth apart in tokens of prompts and in rows. Attention
comes on top, by what its rows read: of answers for each number of rows, of prompts in proportion
(twice the pairs and the tokens read take twice the time). What the host adds comes last. Knows
nothing of what makes up a price; that it says the same as `price` is checked on steps that the
tables were not made of, by the tests.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ridgeline.cost.host import Host
from ridgeline.cost.lines import MOST_DECODED
from ridgeline.cost.step_times import decode_sums
from ridgeline.cost.steps import Steps
from ridgeline.step import Answers, StepShape

Floats = NDArray[np.float64]

_EXACT, _PER_OCTAVE = 16, 12
_MOST_TOKENS = 1 << 21
# Tokens that all rows read together, where answers are priced: up to a thousand rows of a million.
_READ_MARKS = np.concatenate([[0.0], np.exp2(np.arange(4, 31, 0.5))])
# Pairs for each token read, where attention of prompts is priced, at so many tokens read: as many
# as make all else disappear beside it.
_RATIOS = np.exp2(np.arange(-1.0, 21.0, 0.25))
_READ = 1e9
# Numbers of rows, and marks, that are priced together.
_ROWS_AT_ONCE, _MARKS_AT_ONCE = 32, 8
# Marks for tokens of prompts that are priced below, and above, the one that is asked for.
_TOKENS_AT_ONCE = 12


class Priced(Protocol):
    """What prices steps: a `Deployment`. windows: of its caches."""

    @property
    def windows(self) -> tuple[int | None, ...]: ...
    def device(self, steps: Steps) -> Floats: ...
    def host(self) -> Host: ...


class DeploymentTimes:
    """`times(shape)` and `decode_run(contexts, count)`, as `cost/step_times.StepTimes` has them."""

    def __init__(self, deployment: Priced) -> None:
        self.deployment = deployment
        self.windows = deployment.windows
        self._host = deployment.host()
        self._marks = _token_marks(_MOST_TOKENS)
        self._answers: dict[int, list[list[float]]] = {}
        self._priced: set[tuple[int, int, int]] = set()  # first of some rows, window, some marks
        self._curves: dict[int, list[Floats]] = {}  # all but the last of these, for many at once
        self._mixed: dict[tuple[int, int, bool], list[float]] = {}
        self._prompts: dict[int, list[list[float]]] = {}

    def __call__(self, shape: StepShape) -> float:
        return self.beside(shape, Answers(0, (0,) * len(self.windows)))

    def beside(self, shape: StepShape, others: Answers) -> float:
        """Of a step that has answers besides: to the bit as if they were in its shape."""
        rows: list[tuple[int, int]] = []
        if max(shape.new_tokens, default=0) > MOST_DECODED:
            both = zip(shape.new_tokens, shape.context_lens, strict=True)
            rows = [row for row in both if row[0] > MOST_DECODED]
        prompts, prompt_tokens = len(rows), sum([new for new, _ in rows])
        answers = shape.num_sequences - prompts + others.rows
        answer_tokens = shape.num_tokens - prompt_tokens + others.rows * others.new
        read = [
            self._read_by_answers(shape, rows, window) + more
            for window, more in zip(self.windows, others.read, strict=True)
        ]
        if not prompts and answers == answer_tokens:
            seconds = self._of_answers(answers, read, read)
            device = seconds[-1][0] + sum(
                _at(_READ_MARK_LIST, of, n) - of[0] for of, n in zip(seconds, read, strict=False)
            )
            return self._host(device, answers, 0, answer_tokens, 0)
        is_sampled = shape.num_sampled > 0 or others.rows > 0
        seconds_of = self._between(answer_tokens, prompts, prompt_tokens, is_sampled)
        if answers:
            of_answers = self._of_answers(answer_tokens, read, read)
            seconds_of += sum(
                _at(_READ_MARK_LIST, of, n) - of[0] for of, n in zip(of_answers, read, strict=False)
            )
        if prompts:
            of_prompts = StepShape(tuple(n for n, _ in rows), tuple(c for _, c in rows), 0)
            for window, of in zip(self.windows, self._of_prompts(prompts), strict=True):
                tokens = of_prompts.cached_tokens_read(window)
                pairs = of_prompts.attended_pairs(window)
                seconds_of += tokens * _at(_RATIO_LIST, of, pairs / tokens)
        return self._host(seconds_of, answers, prompts, answer_tokens, prompt_tokens)

    @staticmethod
    def _read_by_answers(
        shape: StepShape, prompts: Sequence[tuple[int, int]], window: int | None
    ) -> int:
        """Cached tokens, and the own; of rows with few new tokens as if each had one."""
        if window is None:
            contexts = sum(shape.context_lens) - sum([context for _, context in prompts])
            return contexts + shape.num_sequences - len(prompts)
        return sum(min(context + 1, window) for context in shape.context_lens) - sum(
            min(context + 1, window) for _, context in prompts
        )

    def decode_run(self, contexts: Sequence[int], count: int) -> Floats:
        """The seconds of `count` decode steps one after the other."""
        sums = decode_sums(contexts, count, self.windows)
        # They only grow.
        most = [float(tokens[-1]) for tokens in sums]
        tables = self._of_answers(len(contexts), [float(tokens[0]) for tokens in sums], most)
        seconds: Floats | float = tables[-1][0]
        for of, tokens in zip(self._curves[len(contexts)], sums, strict=True):
            seconds = seconds + (np.interp(tokens, _READ_MARKS, of) - of[0])
        device = seconds if isinstance(seconds, np.ndarray) else np.full(count, seconds)
        return self._host.of_answers(device, len(contexts))

    def _of_answers(
        self, rows: int, least: Sequence[float], most: Sequence[float]
    ) -> list[list[float]]:
        """Of `rows` answers: for each window the seconds at `_READ_MARKS`, all else read nowhere;
        and at last those of rows that read nothing. least, most: for each window, between which
        reads they are asked for; other marks may not be there (NaN).
        """
        first = rows - rows % _ROWS_AT_ONCE
        if rows not in self._answers:
            self._price_rows(first)
        for window, (low, high) in enumerate(zip(least, most, strict=True)):
            parts = range((_above(low) - 1) // _MARKS_AT_ONCE, _above(high) // _MARKS_AT_ONCE + 1)
            for part in parts:
                if (first, window, part) not in self._priced:
                    self._price_marks(first, window, part)
        return self._answers[rows]

    def _price_rows(self, first: int) -> None:
        """Of some numbers of rows, that read nothing."""
        rows = np.arange(max(first, 1), first + _ROWS_AT_ONCE, dtype=np.float64)
        empty = self.deployment.device(_steps(self.windows, len(rows), answers=rows, sampled=rows))
        for count, seconds in zip(map(int, rows), empty.tolist(), strict=True):
            curves = [np.full(len(_READ_MARKS), np.nan) for _ in self.windows]
            for curve in curves:
                curve[0] = seconds
            self._curves[count] = curves
            self._answers[count] = [*(curve.tolist() for curve in curves), [seconds]]

    def _price_marks(self, first: int, window: int, part: int) -> None:
        """Of the same numbers of rows, some marks of one window: one call takes little longer for
        all of them than for one.
        """
        self._priced.add((first, window, part))
        rows = np.arange(max(first, 1), first + _ROWS_AT_ONCE, dtype=np.float64)
        begin = max(1, part * _MARKS_AT_ONCE)
        marks = _READ_MARKS[begin : (part + 1) * _MARKS_AT_ONCE]
        each, read = np.repeat(rows, len(marks)), np.tile(marks, len(rows))
        made = _steps(self.windows, len(each), answers=each, sampled=each)
        _set(made.decode_pairs, self.windows[window], read)
        _set(made.decode_read, self.windows[window], read)
        priced = self.deployment.device(made).reshape(len(rows), len(marks))
        for count, seconds in zip(map(int, rows), priced, strict=True):
            self._curves[count][window][begin : begin + len(marks)] = seconds
            self._answers[count][window][begin : begin + len(marks)] = seconds.tolist()

    def _between(self, answers: int, prompts: int, tokens: int, is_sampled: bool) -> float:
        """Without attention: between the marks for rows, and those for tokens of prompts."""
        prompts = _next_mark(prompts)
        low, high = _around(answers)
        seconds = _at(self._marks, self._at_marks(low, prompts, is_sampled, tokens), tokens)
        if high == low:
            return seconds
        above = _at(self._marks, self._at_marks(high, prompts, is_sampled, tokens), tokens)
        return seconds + (above - seconds) * (answers - low) / (high - low)

    def _at_marks(self, answers: int, prompts: int, is_sampled: bool, tokens: int) -> list[float]:
        """Seconds at the marks for tokens of prompts; those far from `tokens` may not be there."""
        key = (answers, prompts, is_sampled)
        known = self._mixed.get(key)
        if known is None:
            known = self._mixed[key] = [nan] * len(self._marks)
        high = min(max(bisect_right(self._marks, tokens), 1), len(self._marks) - 1)
        if isnan(known[high]) or isnan(known[high - 1]):
            begin = max(0, high - _TOKENS_AT_ONCE)
            marks = self._marks[begin : high + _TOKENS_AT_ONCE]
            sampled = answers + prompts if is_sampled else 0
            made = _steps(
                self.windows,
                len(marks),
                answers=answers,
                prompts=prompts,
                tokens=np.array(marks, np.float64),
                sampled=sampled,
            )
            known[begin : begin + len(marks)] = self.deployment.device(made).tolist()
        return known

    def _of_prompts(self, prompts: int) -> list[list[float]]:
        """For each window, seconds for a token read, at `_RATIOS` of pairs to tokens."""
        prompts = _next_mark(prompts)
        known = self._prompts.get(prompts)
        if known is None:
            known = []
            shape = {"prompts": prompts, "tokens": 2048.0 * prompts, "sampled": prompts}
            base = float(self.deployment.device(_steps(self.windows, 1, **shape))[0])
            for window in self.windows:
                made = _steps(self.windows, len(_RATIOS), **shape)
                _set(made.prefill_pairs, window, _READ * _RATIOS)
                _set(made.prefill_read, window, np.full(len(_RATIOS), _READ))
                known.append(((self.deployment.device(made) - base) / _READ).tolist())
            self._prompts[prompts] = known
        return known


_READ_MARK_LIST: list[float] = _READ_MARKS.tolist()
_RATIO_LIST: list[float] = _RATIOS.tolist()


def _above(read: float) -> int:
    """The mark up to which a read is interpolated."""
    return min(max(bisect_right(_READ_MARK_LIST, read), 1), len(_READ_MARKS) - 1)


def _steps(
    windows: Sequence[int | None],
    count: int,
    *,
    answers: Floats | float = 0.0,
    prompts: float = 0.0,
    tokens: Floats | float = 0.0,
    sampled: Floats | float = 0.0,
) -> Steps:
    """So many steps whose attention reads nothing."""
    rows, asked = np.broadcast_to(answers, count).astype(np.float64), np.full(count, float(prompts))
    nothing = [{window: np.zeros(count) for window in windows} for _ in range(4)]
    return Steps(
        rows, rows, asked, np.broadcast_to(tokens, count).astype(np.float64),
        np.broadcast_to(sampled, count).astype(np.float64), *nothing,
    )  # fmt: skip


def _set(sums: Mapping[int | None, Floats], window: int | None, values: Floats) -> None:
    sums[window][:] = values


def _token_marks(most: int) -> list[float]:
    """1 to 16, then twelve to an octave."""
    octaves = np.arange(1, 12 * np.log2(most / _EXACT) + 1) / _PER_OCTAVE
    return [*map(float, range(_EXACT + 1)), *(_EXACT * np.exp2(octaves)).tolist()]


_ROW_MARKS = sorted({int(mark) for mark in _token_marks(1 << 17)})


def _around(rows: int) -> tuple[int, int]:
    at = bisect_right(_ROW_MARKS, rows)
    low = _ROW_MARKS[at - 1]
    return (low, low) if low == rows or at == len(_ROW_MARKS) else (low, _ROW_MARKS[at])


def _next_mark(rows: int) -> int:
    return _around(rows)[1]


def _at(marks: Sequence[float], values: Sequence[float], x: float) -> float:
    """Between marks, and beyond the last as between the last two."""
    at = min(max(bisect_right(marks, x), 1), len(marks) - 1)
    low, high = marks[at - 1], marks[at]
    below = values[at - 1]
    return below + (values[at] - below) * (x - low) / (high - low)
