"""How far an answer is in its grammar, and the masks of a step's rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ridgeline.errors import RequestError, RidgelineError
from ridgeline.step import Masks

if TYPE_CHECKING:
    from llguidance import LLMatcher

Mask = npt.NDArray[np.uint32]


class Follower:
    """Of one answer. What it allows is a function of the grammar and of the answer's tokens.

    num_tokens: that the tokenizer has; the logits of others pad a vocabulary and are never allowed.
    """

    def __init__(self, matcher: LLMatcher, num_tokens: int) -> None:
        self._matcher = matcher
        self._num_tokens = num_tokens
        self._num_taken = 0
        self._error: str | None = None

    def mask(self, answer: Sequence[int], words: int) -> Mask:
        """What may follow `answer`, which begins as the last one did: a bit a token, the lowest
        first, [words]. After a fault nothing may.
        """
        mask = np.zeros(words, np.uint32)
        try:
            self._take(answer)
            if self._error is None:
                found = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
                if self._matcher.is_error():
                    self._error = self._matcher.get_error()
                else:
                    whole, rest = divmod(self._num_tokens, 32)
                    mask[:whole] = found[:whole]
                    if rest:
                        mask[whole] = found[whole] & np.uint32((1 << rest) - 1)
        except Exception as error:  # one answer's fault, never its neighbours'
            self._error = repr(error)
        return mask

    def forced(self, answer: Sequence[int], most: int) -> list[int]:
        """Tokens, `most` at most, that have to follow `answer`, each the only one that its mask
        allows; they count as taken. What the tokenizer would make of bytes that have to follow says
        nothing: an answer may spell them otherwise.
        """
        found: list[int] = []
        try:
            self._take(answer)
            # No bytes have to follow: no token has to, but for an end, which has its step.
            while len(found) < most and self._error is None and self._matcher.compute_ff_bytes():
                bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
                (words,) = np.nonzero(bits)
                if len(words) != 1 or int(bits[words[0]]).bit_count() != 1:
                    break
                token = 32 * int(words[0]) + int(bits[words[0]]).bit_length() - 1
                if token >= self._num_tokens or not self._matcher.consume_tokens([token]):
                    break
                found.append(token)
                self._num_taken += 1
        except Exception as error:  # told when the next token is asked for
            self._error = repr(error)
        return found

    def fault(self, reason: RidgelineError) -> RidgelineError:
        """Why the request had no token, where `reason` is what sampling says of it."""
        if self._error is not None:
            text = " ".join(self._error.split())[:300]
            return RequestError("structured_outputs", f"the grammar cannot be followed: {text}")
        return RequestError(
            "structured_outputs", f"no token that the grammar allows is left: {reason}"
        )

    def _take(self, answer: Sequence[int]) -> None:
        news = list(answer[self._num_taken :])
        if news and self._error is None and not self._matcher.consume_tokens(news):
            self._error = self._matcher.get_error() or "a token was not the grammar's"
        self._num_taken += len(news)


class Wanted(NamedTuple):
    """A row that the next step samples."""

    row: int
    follower: Follower
    answer: Sequence[int]


class MaskMaker:
    """Makes a step's masks in threads of its own, while the step's forward pass runs."""

    def __init__(self, vocab_size: int) -> None:
        self._words = -(-vocab_size // 32)
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, wanted: Sequence[Wanted]) -> Masks:
        """Starts; what comes back waits for the masks, of each row."""
        if self._pool is None:
            threads = max(1, min(8, (os.cpu_count() or 1) - 1))
            self._pool = ThreadPoolExecutor(threads, "ridgeline-mask")
        futures: list[tuple[int, Future[Mask]]] = [
            (row, self._pool.submit(follower.mask, answer, self._words))
            for row, follower, answer in wanted
        ]
        return lambda: {row: future.result() for row, future in futures}
