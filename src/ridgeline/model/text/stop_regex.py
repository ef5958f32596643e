"""Regular expressions that end a text, in time linear in it: a set of states instead of a search
that goes back (Thompson 1968, Pike's variant, which knows where each match began).

The syntax is a part of Python's: literals, `.`, classes with \\d \\w \\s and their opposites,
groups, `|`, `* + ? {m,n}` (lazy marks change nothing: the earliest end counts), `^` for the
beginning of the answer, and (?i) or (?s) in front. No look-around, no back-references, and neither
`$` nor `\\b`, which would have to wait for text to come. A pattern comes from outside: its size is
bounded, so a character costs at most a walk over `MAX_STATES` states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from ridgeline.errors import RequestError

MAX_STATES = 400
MAX_PATTERN_CHARACTERS = 1000
_MAX_NESTING = 30
_MAX_KNOWN_CHARACTERS = 4096

_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, slots=True)
class _Class:
    """Characters: in one of the ranges, or of one of the categories (capital: the opposite)."""

    ranges: tuple[tuple[str, str], ...] = ()
    categories: tuple[str, ...] = ()
    is_negated: bool = False
    folds_case: bool = False

    def has(self, char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if self.folds_case else {char}
        return any(self._lists(form) for form in forms if len(form) == 1) != self.is_negated

    def _lists(self, char: str) -> bool:
        if any(low <= char <= high for low, high in self.ranges):
            return True
        return any(_CATEGORIES[c.lower()](char) != c.isupper() for c in self.categories)


@dataclass(slots=True)
class _Program:
    """States: what each reads (a class, "^" for the beginning, None for nothing), where it goes.

    matches: the states that are a pattern's end. first, later: the reading states that a match
    begins in at the first character, and at others.
    """

    reads: list[_Class | str | None] = field(default_factory=list)
    goes: list[list[int]] = field(default_factory=list)
    matches: dict[int, str] = field(default_factory=dict)
    first: tuple[int, ...] = ()
    later: tuple[int, ...] = ()
    known: dict[str, bytes] = field(default_factory=dict)

    def add(self, reads: _Class | str | None, *goes: int) -> int:
        if len(self.reads) >= MAX_STATES:
            raise RequestError(
                "stop_regex", f"needs more than {MAX_STATES} states; make it simpler"
            )
        self.reads.append(reads)
        self.goes.append(list(goes))
        return len(self.reads) - 1

    def readers(self, char: str) -> bytes:
        """One byte a state: whether it reads this character."""
        mask = self.known.get(char)
        if mask is None:
            classes = {id(c): c.has(char) for c in self.reads if isinstance(c, _Class)}
            mask = bytes(classes.get(id(c), False) for c in self.reads)
            if len(self.known) >= _MAX_KNOWN_CHARACTERS:
                self.known.clear()
            self.known[char] = mask
        return mask


# A part of a pattern: builds its states in front of the state given, and says where it begins.
_Part = Callable[[_Program, int], int]


class StopRegex:
    """Where patterns match in one stream of characters. Raises RequestError for what it does not
    know.

    held_from: the position that the earliest match still possible would begin at. After a match
    the object is of no further use.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._program = _compile(tuple(patterns))
        self._position = 0
        self._states: list[int] = []
        self._starts: list[int] = []

    @property
    def held_from(self) -> int:
        return self._starts[0] if self._starts else self._position

    def feed(self, char: str) -> tuple[int, str] | None:
        """Reads one character; a match that ends with it: where it began, and its pattern."""
        program = self._program
        reads, goes = program.reads, program.goes
        mask = program.readers(char)
        seen = bytearray(len(reads))
        states: list[int] = []
        starts: list[int] = []
        here = program.later if self._position else program.first
        begun = (*self._starts, *[self._position] * len(here))
        self._position += 1
        # In order of their beginnings, so that the first to reach a state began first.
        for state, start in zip((*self._states, *here), begun, strict=True):
            if not mask[state]:
                continue
            stack = list(goes[state])
            while stack:
                at = stack.pop()
                if seen[at]:
                    continue
                seen[at] = 1
                if at in program.matches:
                    return start, program.matches[at]
                if isinstance(reads[at], _Class):
                    states.append(at)
                    starts.append(start)
                elif reads[at] is None:
                    stack += reversed(goes[at])
        self._states, self._starts = states, starts
        return None


def _readers_from(program: _Program, begin: int, at_start: bool) -> tuple[int, ...]:
    """The reading states that can be reached from `begin` without reading."""
    seen, stack, found = {begin}, [begin], []
    while stack:
        state = stack.pop()
        reads = program.reads[state]
        if isinstance(reads, _Class):
            found.append(state)
        elif state in program.matches:
            raise RequestError(
                "stop_regex", f"{program.matches[state]!r} matches the empty text; it would end all"
            )
        elif reads is None or at_start:
            fresh = [s for s in program.goes[state] if s not in seen]
            seen.update(fresh)
            stack += reversed(fresh)
    return tuple(found)


@lru_cache(maxsize=128)
def _compile(patterns: tuple[str, ...]) -> _Program:
    program = _Program()
    begins = []
    for pattern in patterns:
        part = _Parser(pattern).parse()
        end = program.add(None)
        program.matches[end] = pattern
        begins.append(part(program, end))
    begin = program.add(None, *begins)
    program.first = _readers_from(program, begin, at_start=True)
    program.later = _readers_from(program, begin, at_start=False)
    return program


class _Parser:
    """One pattern; fails with the position of what it does not know."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0
        self._folds_case = self._dot_is_all = False
        if pattern.startswith("(?") and (flags := pattern[2 : pattern.find(")")]).isalpha():
            if set(flags) - set("is"):
                raise self._error("has flags other than i and s")
            self._folds_case, self._dot_is_all = "i" in flags, "s" in flags
            self._at = len(flags) + 3

    def parse(self) -> _Part:
        part = self._alternatives()
        if self._at < len(self._pattern):
            raise self._error("has a ) that nothing opened")
        return part

    def _error(self, what: str) -> RequestError:
        return RequestError(
            "stop_regex", f"{self._pattern[:60]!r} {what} (at character {self._at})"
        )

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise self._error("ends too early")
        self._at += 1
        return char

    def _takes(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _alternatives(self) -> _Part:
        choices = [self._sequence()]
        while self._takes("|"):
            choices.append(self._sequence())
        if len(choices) == 1:
            return choices[0]
        return lambda program, after: program.add(None, *(c(program, after) for c in choices))

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))

        def build(program: _Program, after: int) -> int:
            if not parts:
                return program.add(None, after)  # that nothing, repeated, costs something too
            for part in reversed(parts):
                after = part(program, after)
            return after

        return build

    def _repeated(self, part: _Part) -> _Part:
        char = self._peek()
        counts: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if char in counts:
            self._at += 1
            low, high = counts[char]
        elif char == "{":
            low, high = self._counts()
        else:
            return part
        self._takes("?")
        if self._peek() in ("*", "+", "?", "{"):
            raise self._error("repeats a repetition")
        return lambda program, after: _repeat(program, part, low, high, after)

    def _counts(self) -> tuple[int, int | None]:
        end = self._pattern.find("}", self._at)
        low, comma, high = self._pattern[self._at + 1 : max(end, self._at + 1)].partition(",")
        ok = all(not n or (n.isascii() and n.isdigit() and len(n) < 5) for n in (low, high))
        if end < 0 or not ok or not (low or high):
            raise self._error("has a { that is no count; write \\{")
        least = int(low or 0)
        most = int(high) if high else None if comma else least
        if most is not None and (most < least or most == 0):
            raise self._error("has a count that allows nothing")
        if max(least, most or 0) > MAX_STATES:
            raise self._error(f"repeats more than {MAX_STATES} times")
        self._at = end + 1
        return least, most

    def _atom(self) -> _Part:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return _reading(self._set())
        if char == ".":
            any_char = _Class((("\0", "\U0010ffff"),))
            line = _Class((("\n", "\n"),), is_negated=True)
            return _reading(any_char if self._dot_is_all else line)
        if char == "^":
            return lambda program, after: program.add("^", after)
        if char in "$*+?{":
            self._at -= 1
            raise self._error(f"has a {char} that means nothing here; write \\{char}")
        if char == "\\":
            return _reading(self._class(*self._escape()))
        return _reading(self._class(((char, char),), ()))

    def _group(self) -> _Part:
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise self._error(f"nests more than {_MAX_NESTING} groups")
        if self._peek() == "?" and not self._takes("?:"):
            raise self._error("has a group of a kind that is not here")
        part = self._alternatives()
        if not self._takes(")"):
            raise self._error("has a ( that nothing closes")
        self._depth -= 1
        return part

    def _class(
        self,
        ranges: tuple[tuple[str, str], ...],
        categories: tuple[str, ...],
        negated: bool = False,
    ) -> _Class:
        return _Class(ranges, categories, negated, self._folds_case)

    def _escape(self) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        char = self._next()
        if char.lower() in _CATEGORIES:
            return (), (char,)
        if char in _ESCAPES:
            char = _ESCAPES[char]
        elif char in _HEX_DIGITS:
            digits = self._pattern[self._at : self._at + _HEX_DIGITS[char]]
            try:
                char = chr(int(digits if len(digits) == _HEX_DIGITS[char] else "", 16))
            except (ValueError, OverflowError):
                raise self._error("has a hexadecimal escape that is no character") from None
            self._at += len(digits)
        elif char.isascii() and char.isalnum():
            raise self._error(f"has \\{char}, which is not here")
        return ((char, char),), ()

    def _set(self) -> _Class:
        negated = self._takes("^")
        ranges: list[tuple[str, str]] = []
        categories: list[str] = []
        first = True
        while first or self._peek() != "]":
            first = False
            low, named = self._member()
            categories += named
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high, others = self._member()
                if named or others or high[0][1] < low[0][0]:
                    raise self._error("has a range that runs backwards, or of categories")
                ranges.append((low[0][0], high[0][1]))
            else:
                ranges += low
        self._at += 1
        return self._class(tuple(ranges), tuple(categories), negated)

    def _member(self) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        char = self._next()
        return self._escape() if char == "\\" else (((char, char),), ())


def _reading(chars: _Class) -> _Part:
    return lambda program, after: program.add(chars, after)


def _repeat(program: _Program, part: _Part, low: int, high: int | None, after: int) -> int:
    if high is None:
        loop = program.add(None, after)
        program.goes[loop].insert(0, part(program, loop))
        begin = loop
        copies = low
        if low:  # the loop's first turn is one of those that must be
            begin, copies = program.goes[loop][0], low - 1
    else:
        begin, copies = after, low
        for _ in range(high - low):
            begin = program.add(None, part(program, begin), after)
    for _ in range(copies):
        begin = part(program, begin)
    return begin
