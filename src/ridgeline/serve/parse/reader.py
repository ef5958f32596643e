"""Text that comes in pieces, read as if it were all there.

A parser is a generator over a `Reader`: where it needs a character that has not come, it yields,
and goes on when more has. Whatever it decides, it decides on the characters themselves, never on
where a piece ended; so any split of a text gives the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from ridgeline.serve.parse.parts import Part, Text

T = TypeVar("T")
Steps = Generator[None, None, T]
Emit = Callable[[str], None]

# In a marker: a run of letters and digits that names a call, a run of digits, and "true" or
# "false", which says whether the value behind it is text.
ANY_ID, ANY_NUMBER, ANY_TRUTH = "\x00", "\x01", "\x02"
_SPACE = " \t\r\n"
_NAME_ENDS = frozenset(" \t\r\n<>[](){}\"':=,|;\\`")


class Reader:
    """The text so far; `at` is the place of the parser, `parts` what it has given and nobody took.

    `mark` is the start of what may yet turn out to be plain text.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.closed = False
        self.parts: list[Part] = []

    def feed(self, text: str) -> None:
        self.text += text

    def emit_text(self, text: str) -> None:
        if text:
            self.parts.append(Text(text))

    def give_up(self, start: int) -> None:
        """What lies from `start` to the place is no call: it is text."""
        self.emit_text(self.text[start : self.at])

    def forget(self) -> None:
        """Lets go of what was read; places kept from before mean nothing afterwards."""
        self.text, self.at = self.text[self.at :], 0

    def char(self) -> Steps[str]:
        """The character at the place, or "" at the end of all text."""
        while self.at >= len(self.text):
            if self.closed:
                return ""
            yield
        return self.text[self.at]

    def space(self) -> Steps[str]:
        """Reads white space."""
        start = self.at
        while True:
            char = yield from self.char()
            if not char or char not in _SPACE:
                return self.text[start : self.at]
            self.at += 1

    def literal(self, text: str) -> Steps[bool]:
        """Reads exactly `text`; else stays where it is."""
        start = self.at
        for wanted in text:
            char = yield from self.char()
            if char != wanted:
                self.at = start
                return False
            self.at += 1
        return True

    def at_any(self, texts: Sequence[str]) -> Steps[bool]:
        """Whether one of `texts` is next; reads nothing."""
        start = self.at
        for text in texts:
            if (yield from self.literal(text)):
                self.at = start
                return True
        return False

    def accept(self, marker: str) -> Steps[bool]:
        """Reads `marker`, taking any white space where it has some, before it and at its breaks;
        else stays where it is.
        """
        start = self.at
        for piece in marker_pieces(marker):
            yield from self.space()
            if piece == ANY_ID:
                found = (yield from self.name()) != ""
            elif piece == ANY_NUMBER:
                found = (yield from self.digits()) != ""
            elif piece == ANY_TRUTH:
                found = (yield from self.name()) in ("true", "false")
            else:
                found = yield from self.literal(piece)
            if not found:
                self.at = start
                return False
        if marker and marker[-1] in _SPACE:
            yield from self.space()
        return True

    def name(self) -> Steps[str]:
        """A function's name or a call's: what has no space, quote, bracket or colon in it."""
        start = self.at
        while True:
            char = yield from self.char()
            if not char or char in _NAME_ENDS or self.at - start > 256:
                return self.text[start : self.at]
            self.at += 1

    def digits(self) -> Steps[str]:
        start = self.at
        while True:
            char = yield from self.char()
            if not ("0" <= char <= "9"):
                return self.text[start : self.at]
            self.at += 1

    def copy_until(self, stops: tuple[str, ...], emit: Emit) -> Steps[str | None]:
        """Gives out text up to the first of `stops`, and stays before it; the stop, or None when
        the text has ended. The earliest stop wins, of those that begin together the longest.
        """
        while True:
            found = _first(self.text, self.at, stops)
            pending = len(self.text) if self.closed else _pending(self.text, self.at, stops)
            end = pending if found is None else min(found[0], pending)
            if end > self.at:
                emit(self.text[self.at : end])
                self.at = end
            if found is not None and found[0] < pending:
                return found[1]
            if self.closed:
                return None
            self.forget()
            yield


def marker_pieces(marker: str) -> list[str]:
    """The parts of a marker between which white space may be."""
    pieces: list[str] = []
    for word in marker.split():
        start = 0
        for place, char in enumerate(word):
            if char in (ANY_ID, ANY_NUMBER, ANY_TRUTH):
                if start < place:
                    pieces.append(word[start:place])
                pieces.append(char)
                start = place + 1
        if start < len(word):
            pieces.append(word[start:])
    return pieces


def _first(text: str, at: int, stops: tuple[str, ...]) -> tuple[int, str] | None:
    found = [(place, -len(stop), stop) for stop in stops if (place := text.find(stop, at)) >= 0]
    if not found:
        return None
    place, _, stop = min(found)
    return place, stop


def _pending(text: str, at: int, stops: tuple[str, ...]) -> int:
    """Where the longest ending of `text` begins that could yet become a stop."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for start in range(max(at, len(text) - longest), len(text)):
        if any(len(stop) > len(text) - start and stop.startswith(text[start:]) for stop in stops):
            return start
    return len(text)
