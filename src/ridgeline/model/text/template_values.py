"""What a chat template may do with values: their attributes and methods, filters and tests.

Values are JSON's (str, int, float, bool, None, list, tuple, dict), Jinja's `Undefined`, and the few
classes here. No Python attribute is ever looked up for a template: a name is a method of the tables
below, a key, or undefined. What a filter or test means is Jinja 3.1's. Functions here assume that
their arguments' sizes were paid for; those whose result can be larger than its arguments say so in
`GROWTH`.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2.runtime import Undefined
from markupsafe import Markup, escape

MAX_TEXT = 1 << 24
MAX_RANGE = 100_000
MAX_BITS = 4096


class TemplateFault(Exception):  # noqa: N818  a house name: the template's fault, not ours
    """A template did something that it may not, or that cannot be done."""


@dataclass(slots=True)
class Namespace:
    """Jinja's `namespace(...)`: the one value whose attributes a template may set."""

    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a value, looked up and not yet called."""

    owner: Any
    name: str
    call: Callable[..., Any]


def _mutates(*_: object, **__: object) -> Any:
    raise TemplateFault("a template may not change a list or dict in place")


class _PlainFormatter(string.Formatter):
    """`str.format` for positions and names alone: no attribute, no item, no wide field."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not re.fullmatch(r"\w*", field_name):
            raise TemplateFault(f"format field {field_name[:40]!r} is not allowed")
        return super().get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        if re.search(r"\d{4}", format_spec):
            raise TemplateFault(f"format width {format_spec[:40]!r} is too large")
        return super().format_field(value, format_spec)


def _format(text: str, *args: Any, **kwargs: Any) -> str:
    return _PlainFormatter().vformat(str(text), args, kwargs)


_STRING_NAMES = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit"
    " islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix"
    " removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith"
    " strip swapcase title upper"
)
STRING_METHODS: Mapping[str, Callable[..., Any]] = {
    **{
        name: (lambda owner, *args, _name=name, **kwargs: getattr(owner, _name)(*args, **kwargs))
        for name in _STRING_NAMES.split()
    },
    "format": _format,
}
LIST_METHODS: Mapping[str, Callable[..., Any]] = {
    "count": lambda owner, value: owner.count(value),
    "index": lambda owner, *args: owner.index(*args),
    "copy": lambda owner: list(owner),
    **dict.fromkeys(
        ("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"), _mutates
    ),
}
DICT_METHODS: Mapping[str, Callable[..., Any]] = {
    "get": lambda owner, key, default=None: owner.get(key, default),
    "items": lambda owner: list(owner.items()),
    "keys": lambda owner: list(owner.keys()),
    "values": lambda owner: list(owner.values()),
    "copy": lambda owner: dict(owner),
    **dict.fromkeys(("pop", "popitem", "update", "setdefault", "clear"), _mutates),
}


def attribute(owner: Any, name: str) -> Any:
    """`owner.name` as a template means it: a method, else a key, else undefined."""
    if isinstance(owner, Undefined):
        return owner._fail_with_undefined_error()
    methods: Mapping[str, Callable[..., Any]] = {}
    if isinstance(owner, str):
        methods = STRING_METHODS
    elif isinstance(owner, dict):
        methods = DICT_METHODS
    elif isinstance(owner, list):
        methods = LIST_METHODS
    elif isinstance(owner, Namespace):
        return owner.values.get(name, Undefined(obj=owner, name=name))
    elif isinstance(owner, Loop):
        return owner.attribute(name)
    if name in methods:
        return Method(owner, name, methods[name])
    if isinstance(owner, dict) and name in owner:
        return owner[name]
    return Undefined(obj=owner, name=name)


def item(owner: Any, key: Any) -> Any:
    """`owner[key]` as a template means it: an item, else an attribute, else undefined."""
    if isinstance(owner, Undefined):
        return owner._fail_with_undefined_error()
    if isinstance(owner, (dict, list, tuple, str)):
        try:
            return owner[key]
        except (LookupError, TypeError):
            pass
    return attribute(owner, key) if isinstance(key, str) else Undefined(obj=owner, name=key)


def path_getter(path: Any) -> Callable[[Any], Any]:
    """A function that follows `path`, like `function.name` or `0`, from a value."""
    parts = [int(part) if part.isdigit() else part for part in str(path).split(".")]

    def follow(value: Any) -> Any:
        for part in parts:
            value = item(value, part)
        return value

    return follow


@dataclass(slots=True)
class Loop:
    """The `loop` variable of a for loop over `items`."""

    items: list[Any]
    place: int = 0
    seen: Any = None

    def attribute(self, name: str) -> Any:
        count, place = len(self.items), self.place
        values: dict[str, Any] = {
            "index": place + 1,
            "index0": place,
            "revindex": count - place,
            "revindex0": count - place - 1,
            "first": place == 0,
            "last": place == count - 1,
            "length": count,
            "depth": 1,
            "depth0": 0,
        }
        if name in values:
            return values[name]
        if name == "previtem":
            return self.items[place - 1] if place else Undefined("there is no previous item")
        if name == "nextitem":
            return (
                self.items[place + 1] if place + 1 < count else Undefined("there is no next item")
            )
        if name == "cycle":
            return Method(self, name, Loop._cycle)
        if name == "changed":
            return Method(self, name, Loop._changed)
        return Undefined(obj=self, name=name)

    def _cycle(self, *values: Any) -> Any:
        return values[self.place % len(values)]

    def _changed(self, *value: Any) -> bool:
        changed = bool(self.seen != value)
        self.seen = value
        return changed


def _folded(value: Any, case_sensitive: bool) -> Any:
    return value.lower() if isinstance(value, str) and not case_sensitive else value


def _key(attribute_path: Any, case_sensitive: bool) -> Callable[[Any], Any]:
    if attribute_path is None:
        return lambda value: _folded(value, case_sensitive)
    follow = path_getter(attribute_path)
    return lambda value: _folded(follow(value), case_sensitive)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > 64:
        raise TemplateFault(f"tojson: an indent of {indent} is too large")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=tuple(separators) if separators else None,
        sort_keys=sort_keys,
    )


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if isinstance(width, int) and width > 256:
        raise TemplateFault(f"indent: a width of {width} is too large")
    margin = width if isinstance(width, str) else " " * width
    lines = (str(text) + "\n").splitlines()
    if len(margin) * len(lines) > MAX_TEXT:
        raise TemplateFault("indent: the result is too large")
    rest = [margin + line if line or blank else line for line in lines[1:]]
    return (margin if first else "") + "\n".join([lines[0], *rest])


def _join(value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    values = value if attribute is None else map(path_getter(attribute), value)
    return str(d).join(map(str, values))


def _format_percent(value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TemplateFault("format: takes positions or names, not both")
    return str(_text(value) % (kwargs or args))


def _default(value: Any, default: Any = "", boolean: bool = False) -> Any:
    return default if isinstance(value, Undefined) or (boolean and not value) else value


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, Undefined):
        return iter(())
    if not isinstance(value, dict):
        raise TemplateFault("items: can only list the pairs of a mapping")
    return iter(value.items())


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    try:
        return int(value, base) if isinstance(value, str) else int(value)
    except (TypeError, ValueError):
        try:
            return int(float(value))
        except (TypeError, ValueError, OverflowError):
            return default


def _float(value: Any, default: float = 0.0) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if method not in ("common", "ceil", "floor") or abs(precision) > 300:
        raise TemplateFault("round: wrong method or precision")
    if method == "common":
        return round(value, precision)
    import math

    scale = 10.0**precision
    return (math.ceil if method == "ceil" else math.floor)(value * scale) / scale


def _title(text: Any) -> str:
    words = re.split(r"([-\s({\[<]+)", str(text))
    return "".join(word[0].upper() + word[1:].lower() for word in words if word)


def _unique(
    value: Iterable[Any], case_sensitive: bool = False, attribute: Any = None
) -> Iterator[Any]:
    key = _key(attribute, case_sensitive)
    seen: set[Any] = set()
    kept: list[Any] = []
    for entry in value:
        if (folded := key(entry)) not in seen:
            seen.add(folded)
            kept.append(entry)
    return iter(kept)


def _extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    def pick(value: Iterable[Any], case_sensitive: bool = False, attribute: Any = None) -> Any:
        values = list(value)
        if not values:
            return Undefined("No aggregated item, sequence was empty.")
        return choose(values, key=_key(attribute, case_sensitive))

    return pick


def _dictsort(
    value: dict[Any, Any], case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[Any]:
    if by not in ("key", "value"):
        raise TemplateFault("dictsort: by is 'key' or 'value'")
    place = 0 if by == "key" else 1
    pairs = value.items()
    return sorted(pairs, key=lambda pair: _folded(pair[place], case_sensitive), reverse=reverse)


def _sum(value: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    if not isinstance(start, (int, float)):
        raise TemplateFault("sum: only numbers are summed")
    return sum(value if attribute is None else map(path_getter(attribute), value), start)


def _first(value: Any) -> Any:
    return next(iter(value), Undefined("No first item, sequence was empty."))


def _last(value: Any) -> Any:
    return next(iter(reversed(value)), Undefined("No last item, sequence was empty."))


def _reverse(value: Any) -> Any:
    return value[::-1] if isinstance(value, str) else reversed(value)


def _sort(
    value: Iterable[Any], reverse: bool = False, case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    return sorted(value, key=_key(attribute, case_sensitive), reverse=reverse)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    return _text(value).replace(old, new, -1 if count is None else count)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "capitalize": lambda value: _text(value).capitalize(),
    "count": len,
    "d": _default,
    "default": _default,
    "dictsort": _dictsort,
    "e": escape,
    "escape": escape,
    "first": _first,
    "float": _float,
    "format": _format_percent,
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "length": len,
    "list": list,
    "lower": lambda value: _text(value).lower(),
    "max": _extreme(max),
    "min": _extreme(min),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "safe": lambda value: Markup(value),
    "sort": _sort,
    "string": _text,
    "sum": _sum,
    "title": _title,
    "tojson": _tojson,
    "trim": lambda value, chars=None: _text(value).strip(chars),
    "unique": _unique,
    "upper": lambda value: _text(value).upper(),
}


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, dict, Undefined))


def _is_iterable(value: Any) -> bool:
    return _is_sequence(value) or isinstance(value, Iterator)


TESTS: Mapping[str, Callable[..., bool]] = {
    "!=": lambda value, other: value != other,
    "<": lambda value, other: value < other,
    "<=": lambda value, other: value <= other,
    "==": lambda value, other: value == other,
    ">": lambda value, other: value > other,
    ">=": lambda value, other: value >= other,
    "boolean": lambda value: value is True or value is False,
    "callable": lambda value: isinstance(value, Method) or callable(value),
    "defined": lambda value: not isinstance(value, Undefined),
    "divisibleby": lambda value, number: value % number == 0,
    "eq": lambda value, other: value == other,
    "equalto": lambda value, other: value == other,
    "even": lambda value: value % 2 == 0,
    "false": lambda value: value is False,
    "filter": lambda value: value in FILTERS or value in ("map", "select", "reject"),
    "float": lambda value: isinstance(value, float),
    "ge": lambda value, other: value >= other,
    "greaterthan": lambda value, other: value > other,
    "gt": lambda value, other: value > other,
    "in": lambda value, other: value in other,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": _is_iterable,
    "le": lambda value, other: value <= other,
    "lessthan": lambda value, other: value < other,
    "lower": lambda value: str(value).islower(),
    "lt": lambda value, other: value < other,
    "mapping": lambda value: isinstance(value, dict),
    "ne": lambda value, other: value != other,
    "none": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)),
    "odd": lambda value: value % 2 == 1,
    "sameas": lambda value, other: value is other,
    "sequence": _is_sequence,
    "string": lambda value: isinstance(value, str),
    "test": lambda value: value in TESTS,
    "true": lambda value: value is True,
    "undefined": lambda value: isinstance(value, Undefined),
    "upper": lambda value: str(value).isupper(),
}
