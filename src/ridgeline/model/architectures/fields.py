"""Typed reading of a model's configuration, in which nothing is trusted.

Every number has a range, so that no configuration can make building a graph slow or large. Does not
know any architecture, nor what a field is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Never, TypeVar

from ridgeline.errors import ModelError

T = TypeVar("T")

# Far above anything real.
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 12
MAX_VOCAB = 1 << 24
MAX_POSITIONS = 1 << 30
MAX_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Fields:
    """A configuration's keys and values; null is the same as absent, as in transformers.

    where: what messages begin with, the file and the section. spelled: the name of a field in the
    user's file where that is not the key here (GGUF); `section.key` for those of a section.
    """

    values: Mapping[str, object]
    where: str
    spelled: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number in low..high; without a default it must be there."""
        value = self.values.get(name)
        if value is None:
            return self._default(name, default, f"a whole number from {low} to {high}")
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON written by JavaScript and some converters
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(name, f"a whole number from {low} to {high} is needed")
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        return self.integer(name, low, high) if self.has(name) else None

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number in low..high; without a default it must be there."""
        value = self.values.get(name)
        if value is None:
            return self._default(name, default, f"a number from {low:g} to {high:g}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, f"a number from {low:g} to {high:g} is needed")
        if not low <= value <= high:
            self.refuse(name, f"a number from {low:g} to {high:g} is needed")
        return float(value)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        return self.number(name, low, high) if self.has(name) else None

    def boolean(self, name: str, default: bool) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(name, "true or false is needed")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name)
        if value is None:
            return self._default(name, default, "text")
        if not isinstance(value, str):
            self.refuse(name, "text is needed")
        return value

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """A list of exactly `count` numbers in low..high; it must be there."""
        items = self._items(name, f"a list of {count} numbers from {low:g} to {high:g}")
        if len(items) != count:
            self.refuse(name, f"a list of {count} numbers is needed, not of {len(items)}")
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int | float):
                self.refuse(name, f"numbers are needed, and one is {quote(item)}")
            if not (math.isfinite(item) and low <= item <= high):
                self.refuse(name, f"numbers from {low:g} to {high:g}, and one is {quote(item)}")
        return tuple(float(item) for item in items if isinstance(item, int | float))

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """A list of whole numbers in low..high, of at most as many; none if it is not there."""
        if not self.has(name):
            return ()
        items = self._items(name, f"a list of whole numbers from {low} to {high}")
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
                self.refuse(name, f"whole numbers from {low} to {high}, and one is {quote(item)}")
        if len(items) > high - low + 1:
            self.refuse(name, f"{len(items)} numbers, and at most {high - low + 1} are different")
        return tuple(item for item in items if isinstance(item, int))

    def texts(self, name: str, count: int, allowed: Sequence[str]) -> tuple[str, ...]:
        """A list of exactly `count` of the texts in `allowed`; it must be there."""
        items = self._items(name, f"a list of {count} of {', '.join(allowed)}")
        if len(items) != count:
            self.refuse(name, f"a list of {count} is needed, not of {len(items)}")
        for item in items:
            if item not in allowed:
                self.refuse(name, f"{quote(item)} is not one of {', '.join(allowed)}")
        return tuple(str(item) for item in items)

    def with_default(self, name: str, value: object) -> Fields:
        """The same, where a field that is not there has `value`."""
        return self if self.has(name) else replace(self, values={**self.values, name: value})

    def renamed(self, names: Mapping[str, str]) -> Fields:
        """The same under our names: ours -> the file's, for those that the file does not call by
        ours. Messages keep the file's.
        """
        found = {ours: t for ours, t in names.items() if not self.has(ours) and t in self.values}
        values = {ours: self.values[theirs] for ours, theirs in found.items()}
        return replace(self, values={**self.values, **values}, spelled={**found, **self.spelled})

    def section(self, name: str) -> Fields:
        """The object under `name`; an empty one if it is not there."""
        value = self.values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            self.refuse(name, "an object is needed")
        inner = {
            key.removeprefix(f"{name}."): spelling
            for key, spelling in self.spelled.items()
            if key.startswith(f"{name}.")
        }
        return Fields(value, self.where if inner else f"{self.where}: {name}", inner)

    def require_neutral(self, neutral: Mapping[str, tuple[object, ...]]) -> None:
        """Each field of `neutral` must be absent or one of its values: else it changes numbers in a
        way that is not built here.
        """
        for name, allowed in neutral.items():
            if self.has(name) and not any(
                value == self.values[name] and type(value) is type(self.values[name])
                for value in allowed
            ):
                values = " or ".join(["absent", *(quote(value) for value in allowed)])
                self.refuse(name, f"is not supported here: it can only be {values}")

    def refuse(self, name: str, reason: str) -> Never:
        """ModelError that names the field, its value and the reason."""
        raise ModelError(
            f"{self.where}: {self.spelled.get(name, name)} = {quote(self.values.get(name))}: "
            f"{reason}"
        )

    def _default(self, name: str, default: T | None, needed: str) -> T:
        if default is None:
            raise ModelError(
                f"{self.where}: {self.spelled.get(name, name)} is missing: {needed} is needed"
            )
        return default

    def _items(self, name: str, needed: str) -> Sequence[object]:
        value = self.values.get(name)
        if value is None:
            raise ModelError(
                f"{self.where}: {self.spelled.get(name, name)} is missing: {needed} is needed"
            )
        if isinstance(value, str) or not isinstance(value, Sequence):
            self.refuse(name, f"{needed} is needed")
        return value


def quote(value: object) -> str:
    """A value from a file as it may stand in a message: on one line and not long."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value) if not isinstance(value, Mapping | list | tuple) else ascii(value)
    text = text.replace("\n", " ")
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
