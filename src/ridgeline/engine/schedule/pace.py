"""How many tokens a step may have if answers being written are not to wait too long for it.

The cost model is asked as seldom as possible: answers are kept by number of rows and by contexts
rounded up to an eighth of a power of two, so what is kept errs to the slow side.
"""

from __future__ import annotations

from collections.abc import Callable

from ridgeline.step import StepShape


class Pace:
    """Owns the answers of `seconds` (pure: the same shape, the same time) that are asked again."""

    def __init__(self, seconds: Callable[[StepShape], float], max_tokens: int) -> None:
        self.seconds = seconds
        self._max_tokens = max_tokens
        self._prompt_tokens: dict[tuple[int, int, int, float], int] = {}
        self._decode: dict[tuple[int, int], float] = {}
        self._prefill: float | None = None

    def forget(self) -> None:
        """`seconds` answers otherwise from now on."""
        self._prompt_tokens.clear()
        self._decode.clear()
        self._prefill = None

    def prompt_tokens(
        self, num_decode: int, decode_context: int, prompt_context: int, target: float
    ) -> int:
        """Prompt tokens that fit a step of `target` seconds beside `num_decode` rows whose contexts
        are `decode_context` together; the prompt has `prompt_context` tokens computed. 0: none fit.
        """
        context = _round_up(-(-decode_context // max(num_decode, 1)))
        key = (num_decode, context, _round_up(prompt_context), target)
        known = self._prompt_tokens.get(key)
        if known is None:
            known = self._prompt_tokens[key] = self._most(num_decode, context, key[2], target)
        return known

    def decode_seconds(self, rows: int, context: int) -> float:
        """A step of `rows` rows that each have about `context` tokens."""
        key = (rows, _round_up(context))
        if key not in self._decode:
            self._decode[key] = self.seconds(StepShape.decode(*key))
        return self._decode[key]

    def prefill_seconds(self, num_tokens: int) -> float:
        """`num_tokens` of prompts, in full steps."""
        if self._prefill is None:
            whole = self.seconds(StepShape.prefill(self._max_tokens))
            self._prefill = whole / self._max_tokens
        return num_tokens * self._prefill

    def _most(self, num_decode: int, context: int, prompt_context: int, target: float) -> int:
        low, high = 0, self._max_tokens
        while low < high:
            middle = (low + high + 1) // 2
            shape = StepShape(
                (1,) * num_decode + (middle,),
                (context,) * num_decode + (prompt_context,),
                num_decode + 1,
            )
            if self.seconds(shape) <= target:
                low = middle
            else:
                high = middle - 1
        return low


def _round_up(count: int) -> int:
    """Up to the next of eight marks between powers of two."""
    grain = 1 << max(0, count.bit_length() - 4)
    return -(-count // grain) * grain
