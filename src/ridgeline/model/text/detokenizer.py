"""Text out of a stream of token ids, a whole character at a time, and the stop strings that end it.

Neither class knows when a generation ends by token id; that is the caller's. One object serves one
stream.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ridgeline.errors import RequestError
from ridgeline.model.text.tokenizer import Tokenizer


class Detokenizer:
    """Decodes ids one by one: what `push` and `flush` return, joined, is `tokenizer.decode` of all
    ids.

    Bytes that are not yet a character are held back, so nothing returned ever needs taking back.
    `continues` means as for `Tokenizer.decode`: these ids follow others, and a leading space is
    text.
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_special: bool = True, *, continues: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset[int]()
        self._strips_next = tokenizer.strips_leading_space and not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """The characters that token `index` completes, often none. Raises `RequestError` as
        `decode` does.
        """
        if index in self._skipped:
            return ""
        data = self._tokenizer.token_bytes(index)
        if self._strips_next and data:
            data = data.removeprefix(b" ")
            self._strips_next = False
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What the bytes still held back stand for: U+FFFD, or nothing. The stream may go on after
        it.
        """
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Cuts a stream of text at the first stop string, and holds back what might become one.

    The stop string that ends a text is the one that is complete first; of those complete at the
    same character, the one that starts first. The text ends before it, or after it with `include`.
    `matched` is the stop string that ended the text, None until then.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
            raise RequestError("stop", "must be a list of strings that are not empty")
        self.matched: str | None = None
        self._stops = tuple(dict.fromkeys(stops))
        self._include = include
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, text: str) -> str:
        """The text that is certain now; nothing after a match."""
        if self.matched is not None:
            return ""
        held = self._held + text
        found = min(
            (
                (start + len(stop), start, stop)
                for stop in self._stops
                if (start := held.find(stop)) >= 0
            ),
            default=None,
        )
        if found is not None:
            end, start, self.matched = found
            self._held = ""
            return held[: end if self._include else start]
        keep = max(
            (
                size
                for size in range(1, min(self._longest, len(held) + 1))
                if any(stop.startswith(held[-size:]) for stop in self._stops)
            ),
            default=0,
        )
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """The text held back, when the stream has ended without a stop string."""
        held, self._held = self._held, ""
        return held
