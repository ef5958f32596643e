"""The typed key-value part of a GGUF file, read from memory in which nothing is trusted.

Every count and length is compared with the bytes that are left before it is used. Arrays of numbers
become read-only NumPy views and arrays of strings `StringArray`s: opening a file with 260,000
tokens creates neither as many objects nor copies. Defined by `docs/gguf.md` of ggml. Does not know
what any key means.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Never, overload

import numpy as np

from ridgeline.errors import ModelError
from ridgeline.model.weights.contents import quoted

# Far above anything real, and low enough that a hostile file cannot keep us busy.
MAX_KEYS = 1 << 14
MAX_KEY_BYTES = (1 << 16) - 1
MAX_STRING_BYTES = 64 << 20
MAX_ARRAY_STRINGS = 1 << 24

BOOL, STRING, ARRAY = 7, 8, 9

SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    BOOL: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}

U32, U64 = SCALARS[4], SCALARS[10]


class StringArray(Sequence[str]):
    """Strings that stay where the file is mapped and become `str` when asked for.

    Their bounds were checked at opening; that they are UTF-8 is checked when one is decoded
    (ModelError then names the file, the key and the index).
    """

    def __init__(self, data: memoryview, edges: array[int], where: str) -> None:
        # String i lies behind its eight-byte length: data[edges[i] + 8 : edges[i + 1]].
        self._data = data
        self._edges = edges
        self._where = where

    def __len__(self) -> int:
        return len(self._edges) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return self._decode(at, bytes(self._data[self._edges[at] + 8 : self._edges[at + 1]]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def tolist(self) -> list[str]:
        """All strings, in one pass."""
        first = self._edges[0]
        data = bytes(self._data[first : self._edges[-1]])
        try:
            return [data[a - first + 8 : b - first].decode() for a, b in pairwise(self._edges)]
        except UnicodeDecodeError:
            return [self[i] for i in range(len(self))]

    def _decode(self, index: int, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{self._where}: string {index} is not UTF-8") from error


class Cursor:
    """A position in a mapped file that cannot leave it."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def refuse(self, field: str, reason: str) -> Never:
        raise ModelError(f"{self.path}: {field}: {reason}")

    def need(self, num_bytes: int, field: str) -> None:
        if num_bytes > self.left:
            self.refuse(
                field,
                f"needs {num_bytes} bytes at byte {self.position}, but the file has only "
                f"{self.left} left: it is damaged or was cut short; download it again",
            )

    def number(self, layout: struct.Struct, field: str) -> int:
        self.need(layout.size, field)
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return value  # type: ignore[no-any-return]

    def count(self, field: str, item_bytes: int, limit: int) -> int:
        """A u64 that says how many items of at least `item_bytes` follow."""
        count = self.number(U64, field)
        if count > limit:
            self.refuse(field, f"{count} is absurd: at most {limit} are read")
        self.need(count * item_bytes, field)
        return count

    def string(self, field: str, limit_bytes: int) -> str:
        length = self.number(U64, field)
        if length > limit_bytes:
            self.refuse(field, f"a string of {length} bytes: at most {limit_bytes} are read")
        self.need(length, field)
        start, self.position = self.position, self.position + length
        try:
            return str(self.data[start : self.position], "utf-8")
        except UnicodeDecodeError:
            self.refuse(field, f"the string at byte {start} is not UTF-8")


def read_metadata(cursor: Cursor, num_keys: int) -> dict[str, object]:
    """`num_keys` pairs of key and value: int, float, bool, str, a read-only NumPy array or a
    StringArray.
    """
    metadata: dict[str, object] = {}
    for i in range(num_keys):
        key = cursor.string(f"metadata key {i}", MAX_KEY_BYTES)
        field = f"metadata {quoted(key)}"
        if not key:
            cursor.refuse(f"metadata key {i}", "is empty")
        if key in metadata:
            cursor.refuse(field, "stands twice")
        kind = cursor.number(U32, field)
        metadata[key] = (
            read_array(cursor, field) if kind == ARRAY else read_one(cursor, kind, field)
        )
    return metadata


def read_one(cursor: Cursor, kind: int, field: str) -> object:
    if kind == STRING:
        return cursor.string(field, MAX_STRING_BYTES)
    if kind not in SCALARS:
        cursor.refuse(field, f"value type {kind} is not known (0 to 12 are)")
    value = cursor.number(SCALARS[kind], field)
    if kind == BOOL:
        if value > 1:
            cursor.refuse(field, f"a boolean is 0 or 1, not {value}")
        return bool(value)
    return value


def read_array(cursor: Cursor, field: str) -> object:
    kind = cursor.number(U32, field)
    if kind == STRING:
        return read_strings(cursor, field)
    if kind == ARRAY:
        cursor.refuse(field, "an array of arrays is not supported: no known model has one")
    if kind not in SCALARS:
        cursor.refuse(field, f"array element type {kind} is not known (0 to 12 are)")
    layout = SCALARS[kind]
    count = cursor.count(field, layout.size, len(cursor.data))
    values = np.frombuffer(cursor.data, layout.format, count, cursor.position)
    cursor.position += count * layout.size
    if kind == BOOL:
        if values.size and values.max() > 1:
            cursor.refuse(field, "a boolean is 0 or 1, and the array has others")
        return values.astype(np.bool_)
    return values


def read_strings(cursor: Cursor, field: str) -> StringArray:
    count = cursor.count(field, U64.size, MAX_ARRAY_STRINGS)
    data, position, end = cursor.data, cursor.position, len(cursor.data)
    edges = array("Q", [position])
    append: Callable[[int], None] = edges.append
    length_at = U64.unpack_from
    # The one loop whose trips a file dictates by the hundred thousand: `need` is spelled out.
    for _ in range(count):
        if position + 8 > end:
            break
        position += 8 + length_at(data, position)[0]
        if position > end:
            break
        append(position)
    if len(edges) <= count:
        i = len(edges) - 1
        cursor.refuse(field, f"string {i} of {count} reaches beyond the end of the file")
    cursor.position = position
    return StringArray(data, edges, f"{cursor.path}: {field}")
