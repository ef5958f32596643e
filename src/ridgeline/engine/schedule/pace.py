"""How many tokens a step may have if answers being written are not to wait too long for it.

The cost model is asked as seldom as possible: a price costs it a fifth of a millisecond, between
two steps. Answers are kept by rows and contexts rounded up to an eighth of a power of two, so
what is kept errs to the slow side; between a few numbers of prompt tokens times lie on a line.
"""

from __future__ import annotations

from collections.abc import Callable

from ridgeline.step import StepShape


class Pace:
    """Owns the answers of `seconds` (pure: the same shape, the same time) that are asked again."""

    def __init__(self, seconds: Callable[[StepShape], float], max_tokens: int) -> None:
        self.seconds = seconds
        self._max_tokens = max_tokens
        self._marks = _marks(max_tokens)
        self._prompt_tokens: dict[tuple[int, int, int, float], int] = {}
        self._decode: dict[tuple[int, int], float] = {}
        self._useful: dict[tuple[int, int, float], int] = {}
        self._prefill: float | None = None

    def forget(self) -> None:
        """`seconds` answers otherwise from now on."""
        self._prompt_tokens.clear()
        self._decode.clear()
        self._useful.clear()
        self._prefill = None

    def prompt_tokens(
        self, num_decode: int, decode_context: int, prompt_context: int, target: float
    ) -> int:
        """Prompt tokens that fit a step of `target` seconds beside `num_decode` rows whose contexts
        are `decode_context` together; the prompt has `prompt_context` tokens computed. 0: none fit.
        """
        context = _round_up(-(-decode_context // max(num_decode, 1)))
        key = (_round_up(num_decode), context, _round_up(prompt_context), target)
        known = self._prompt_tokens.get(key)
        if known is None:
            known = self._prompt_tokens[key] = self._most(*key)
        return known

    def decode_seconds(self, rows: int, context: int) -> float:
        """A step of `rows` rows that each have about `context` tokens."""
        key = (rows, _round_up(context))
        if key not in self._decode:
            self._decode[key] = self.seconds(StepShape.decode(*key))
        return self._decode[key]

    def useful_rows(self, most: int, context: int, share: float) -> int:
        """The least number of rows that write `share` of the tokens a second that `most` write, at
        contexts of about `context` tokens. More rows are taken to write no fewer.
        """
        key = (most, context, share)
        if key not in self._useful:
            enough = share * most / self.decode_seconds(most, context)
            too_few, rows = 0, most
            while rows - too_few > 1:
                middle = (too_few + rows) // 2
                if middle / self.decode_seconds(middle, context) >= enough:
                    rows = middle
                else:
                    too_few = middle
            self._useful[key] = rows
        return self._useful[key]

    def prefill_seconds(self, num_tokens: int) -> float:
        """`num_tokens` of prompts, in full steps."""
        if self._prefill is None:
            whole = self.seconds(StepShape.prefill(self._max_tokens))
            self._prefill = whole / self._max_tokens
        return num_tokens * self._prefill

    def _most(self, num_decode: int, context: int, prompt_context: int, target: float) -> int:
        def seconds(tokens: int) -> float:
            ones, contexts = (1,) * num_decode, (context,) * num_decode
            if not tokens:
                return self.seconds(StepShape(ones, contexts, num_decode))
            return self.seconds(
                StepShape((*ones, tokens), (*contexts, prompt_context), num_decode + 1)
            )

        # Between which two marks the target lies: one that fits, one that does not.
        low, high = 0, len(self._marks) - 1
        fitting, beyond = seconds(self._marks[low]), seconds(self._marks[high])
        if beyond <= target:
            return self._marks[high]
        if fitting > target:
            return 0
        while high - low > 1:
            middle = (low + high) // 2
            at = seconds(self._marks[middle])
            if at <= target:
                low, fitting = middle, at
            else:
                high, beyond = middle, at
        fewest, most = self._marks[low], self._marks[high]
        return fewest + int((most - fewest) * (target - fitting) / (beyond - fitting))


def _marks(max_tokens: int) -> tuple[int, ...]:
    """0, powers of two from 16, and the most."""
    marks, mark = [0], 16
    while mark < max_tokens:
        marks.append(mark)
        mark *= 2
    return (*marks, max_tokens)


def _round_up(count: int) -> int:
    """Up to the next of eight marks between powers of two."""
    grain = 1 << max(0, count.bit_length() - 4)
    return -(-count // grain) * grain
