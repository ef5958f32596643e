"""Traces as files: who reads one is told of each line that is none, and what it should be.

Azure's (CSV: TIMESTAMP,ContextTokens,GeneratedTokens; times without a zone are UTC) and Mooncake's
(JSON lines: timestamp in milliseconds, input_length, output_length, hash_ids or none, session_id or
none), as they are or gzipped. Files are from outside: what is missing, of the wrong kind or absurd
is a RidgelineError with the file and the line.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TextIO, TypeGuard

from ridgeline.errors import RidgelineError
from ridgeline.plan.traces import HASHED_TOKENS, MOST_TOKENS, Arrival

MOST_CHARACTERS = 1 << 20  # of a line: 16 million tokens have 32,768 ids
MOST_SECONDS = 1e12
_GZIP = b"\x1f\x8b"
_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
# Of a second more digits than Python reads; what may come behind is a zone.
_FINER = re.compile(r"(\.[0-9]{6})[0-9]+")
_WHOLE = re.compile(r"\+?([0-9]{1,18})(\.0*)?")


def read_trace(path: Path) -> list[Arrival]:
    """A trace by its file's ending, in order of time; times are seconds since the first."""
    ending = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])
    read = READERS.get(ending.lower().removesuffix(".gz"))
    if read is None:
        known = ", ".join(f"*{name}" for name in READERS)
        raise RidgelineError(
            f"{path.name}: not a trace by its name; there are: {known} (or gzipped: .gz)"
        )
    try:
        with _opened(path) as file:
            # A request without a prompt or an answer asks an engine for nothing.
            arrivals = [a for a in read(_lines(file)) if a.num_prompt > 0 and a.num_output > 0]
    except _WrongLineError as error:
        raise RidgelineError(f"{path.name}, line {error}") from None
    except UnicodeDecodeError:
        raise RidgelineError(f"{path.name}: is no text (UTF-8), so not a trace") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RidgelineError(f"{path.name}: is broken as a gzip file: {error}") from None
    except OSError as error:
        raise RidgelineError(f"--trace: {path} cannot be read: {error.strerror or error}") from None
    if not arrivals:
        raise RidgelineError(f"{path.name}: is a trace without requests")
    arrivals.sort(key=lambda arrival: arrival.seconds)
    first = arrivals[0].seconds
    return _numbered([replace(a, seconds=a.seconds - first) for a in arrivals])


class _WrongLineError(Exception):
    """Its text: the line's number, and what it has that no trace has."""


def _opened(path: Path) -> TextIO:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(MOST_CHARACTERS):
        number += 1
        if len(line) == MOST_CHARACTERS:
            raise _WrongLineError(f"{number}: is longer than a request can be")
        if line.strip():
            yield number, line


def _azure(lines: Iterator[tuple[int, str]]) -> Iterator[Arrival]:
    number, text = next(lines, (0, ""))
    if not text:
        return
    head = [name.strip() for name in _cells(number, text)]
    missing = [name for name in _COLUMNS if name not in head]
    if missing:
        there = _short(", ".join(head))
        raise _WrongLineError(
            f"{number}: has no column {', '.join(missing)} (comma-separated); it has {there}"
        )
    places = [head.index(name) for name in _COLUMNS]
    for number, text in lines:
        cells = _cells(number, text)
        if len(cells) <= max(places):
            raise _WrongLineError(
                f"{number}: has {len(cells)} of {len(head)} columns: {_short(text)}"
            )
        time, prompt, answer = (cells[place].strip() for place in places)
        yield Arrival(
            _moment(number, time),
            _tokens(number, "ContextTokens", _whole(prompt)),
            _tokens(number, "GeneratedTokens", _whole(answer)),
        )


def _cells(number: int, text: str) -> list[str]:
    if '"' not in text:
        return text.rstrip("\r\n").split(",")  # of a million lines, in half the time
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _WrongLineError(f"{number}: is not CSV: {error}") from None


def _moment(number: int, text: str) -> float:
    try:
        # Without a zone 26 characters have all digits that Python reads.
        moment = datetime.fromisoformat(text if len(text) <= 26 else _FINER.sub(r"\1", text))
    except ValueError:
        raise _WrongLineError(
            f"{number}: TIMESTAMP {_short(text)} is no time, as 2023-11-16 18:15:46.680590"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _whole(text: str) -> object:
    """pandas writes whole numbers of a column that has gaps as 374.0."""
    if len(text) <= 18 and text.isdecimal() and text.isascii():
        return int(text)
    match = _WHOLE.fullmatch(text)
    return text if match is None else int(match[1])


def _mooncake(lines: Iterator[tuple[int, str]]) -> Iterator[Arrival]:
    for number, text in lines:
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise _WrongLineError(f"{number}: is no JSON object of one line: {_short(text)}")
        missing = [n for n in ("timestamp", "input_length", "output_length") if n not in entry]
        if missing:
            raise _WrongLineError(f"{number}: has no {', '.join(missing)}")
        prompt = _tokens(number, "input_length", entry["input_length"])
        yield Arrival(
            _milliseconds(number, entry["timestamp"]),
            prompt,
            _tokens(number, "output_length", entry["output_length"]),
            _prefix(number, entry.get("hash_ids"), prompt),
            str(entry.get("session_id", "")),
        )


def _milliseconds(number: int, value: object) -> float:
    if _is_number(value) and isfinite(value) and abs(value) <= 1e3 * MOST_SECONDS:
        return float(value) / 1000
    raise _WrongLineError(f"{number}: timestamp {_short(value)} is no time in milliseconds")


def _tokens(number: int, field: str, value: object) -> int:
    if _is_number(value) and 0 <= value <= MOST_TOKENS and value == int(value):
        return int(value)
    raise _WrongLineError(
        f"{number}: {field} {_short(value)} is no whole number from 0 to {MOST_TOKENS}"
    )


def _prefix(number: int, ids: object, prompt: int) -> tuple[int, ...]:
    """One id for each 512 tokens: with fewer, it would not be known what the rest is."""
    if ids is None or ids == []:
        return ()
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise _WrongLineError(f"{number}: hash_ids {_short(ids)} is no list of whole numbers")
    needed = -(-prompt // HASHED_TOKENS)
    if len(ids) < needed:
        raise _WrongLineError(
            f"{number}: has {len(ids)} hash_ids; {prompt} tokens have {needed}, one each "
            f"{HASHED_TOKENS}"
        )
    return tuple(ids[:needed])


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) is int or type(value) is float


def _short(value: object) -> str:
    text = repr(value.strip() if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def _numbered(trace: list[Arrival]) -> list[Arrival]:
    """Ids that are hashes become numbers in order; those that are numbers stay what they are."""
    ids = chain.from_iterable(a.prefix for a in trace)
    total = sum(len(a.prefix) for a in trace)
    if all(0 <= i <= total for i in ids):
        return trace
    known: dict[int, int] = {}
    return [
        replace(a, prefix=tuple([known.setdefault(i, len(known)) for i in a.prefix])) for a in trace
    ]


READERS: dict[str, Callable[[Iterator[tuple[int, str]]], Iterator[Arrival]]] = {
    ".csv": _azure,
    ".jsonl": _mooncake,
}
