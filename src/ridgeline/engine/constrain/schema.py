"""Which JSON schemas are accepted: a walk that names what is not, by its JSON pointer.

llguidance keeps to every keyword of `KEPT`; it ignores unknown ones, and with "x-guidance" all that
it does not know. Here whatever is neither kept nor said to constrain nothing is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from ridgeline.errors import RequestError

MAX_DEPTH, MAX_NODES = 64, 20_000

_ONE = ("additionalProperties", "items")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
KEPT = frozenset(
    [
        *(*_ONE, *_MANY, *_NAMED, *_COUNTS, *_NUMBERS),
        *("$ref", "$anchor", "const", "enum", "type", "required", "pattern", "format"),
    ]
)
# What constrains nothing by the specification (2020-12, "annotations"), or by OpenAPI 3.1.
ANNOTATIONS = frozenset(
    [
        *("$schema", "$id", "$comment", "title", "description", "default", "example", "examples"),
        *("deprecated", "readOnly", "writeOnly", "discriminator", "externalDocs", "xml"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    ]
)
TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")
FORMATS = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
)


def check_schema(text: str, field: str = "structured_outputs.json") -> None:
    """Raises RequestError with the pointer of what is not supported or is no schema. text: JSON."""
    _Walk(field).walk(json.loads(text))


def check_lark(text: str, field: str) -> None:
    """The schemas inside a Lark grammar (`%json {...}`)."""
    for found in re.finditer(r"%json\s*", text):
        try:
            schema, _end = json.JSONDecoder().raw_decode(text, found.end())
        except ValueError:
            continue  # llguidance says where
        except RecursionError:
            raise RequestError(field, "a schema in it is nested too deeply") from None
        _Walk(field).walk(schema)


def subschemas(schema: Any, pointer: str) -> list[tuple[str, Any]]:
    """The schemas right within one of a checked schema, and the one that it refers to, with their
    pointers. pointer: that of `schema`'s place.
    """
    found = resolved(schema, pointer)
    if not isinstance(found, Mapping):
        return []
    parts = list(_Walk("").parts(pointer, found))
    target = found.get("$ref")
    if isinstance(target, str) and target.startswith("#/"):
        parts.append((unquote(target), None))
    return parts


def resolved(root: Any, pointer: str) -> Any:
    """What a pointer ("#/a/0") leads to. Raises KeyError."""
    node = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, Mapping):
            node = node[name]
        else:
            raise KeyError(pointer)
    return node


def placed(schema: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    """A schema of what stands at `pointer` alone, its references still within `schema`."""
    home = "#/$defs/root"

    def moved(node: Any) -> Any:
        if isinstance(node, list):
            return [moved(part) for part in node]
        if not isinstance(node, Mapping):
            return node
        parts = {key: moved(part) for key, part in node.items()}
        target = parts.get("$ref")
        if isinstance(target, str) and (target == "#" or target.startswith("#/")):
            parts["$ref"] = home + target[1:]
        return parts

    root = {key: part for key, part in moved(schema).items() if key not in ("$id", "$schema")}
    return {"$ref": home + quote(pointer[1:], safe="/~"), "$defs": {"root": root}}


def spaced(text: str, whitespace: str) -> str:
    """A checked Lark grammar, its schemas with this regex of what stands between their parts."""
    out, done = [], 0
    for found in re.finditer(r"%json\s*", text):
        try:
            schema, end = json.JSONDecoder().raw_decode(text, found.end())
        except ValueError:
            continue
        if isinstance(schema, dict) and found.end() >= done:
            own = schema | {"x-guidance": {"whitespace_pattern": whitespace}}
            out += [text[done : found.end()], json.dumps(own)]
            done = end
    return "".join([*out, text[done:]])


class _Walk:
    def __init__(self, field: str) -> None:
        self._field = field
        self._num_nodes = 0

    def walk(self, schema: Any) -> None:
        """A reference leads to a schema that is walked too, so nothing goes by unchecked."""
        walked, targets = set[str](), list[tuple[str, str]]()
        left: list[tuple[str, Any, int]] = [("#", schema, 0)]
        while left:
            pointer, node, depth = left.pop()
            self._num_nodes += 1
            walked.add(pointer)
            if depth > MAX_DEPTH or self._num_nodes > MAX_NODES:
                self._refuse(
                    pointer, f"schemas may be nested {MAX_DEPTH} deep and be {MAX_NODES} in all"
                )
            if isinstance(node, bool):
                continue
            if not isinstance(node, Mapping):
                self._refuse(pointer, "a schema is an object, or true or false")
            self._check(pointer, node)
            target = node.get("$ref", "")
            if target.startswith("#/"):
                targets.append((f"{pointer}/$ref", target))
            left += [(where, part, depth + 1) for where, part in self.parts(pointer, node)]
        for where, target in targets:
            if unquote(target) not in walked:
                self._refuse(where, f"{target[:80]!r} leads to no schema in it")

    def _check(self, pointer: str, node: Mapping[str, Any]) -> None:
        for key, value in node.items():
            where = f"{pointer}/{_escaped(key)}"
            if key in ANNOTATIONS or (key.startswith("x-") and key != "x-guidance"):
                if key == "$id" and pointer != "#":
                    self._refuse(where, "is supported at the root only")
            elif key not in KEPT:
                self._refuse(where, "is a keyword that is not supported")
            else:
                self._check_value(where, key, value)
        least = node.get("minProperties", 0)
        if least > len(set(node.get("required", ()))):
            # A key that comes twice is one property, and a grammar cannot count those.
            self._refuse(f"{pointer}/minProperties", "is supported up to the number of required")

    def _check_value(self, where: str, key: str, value: Any) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _COUNTS and not (is_number and value >= 0 and value == int(value)):
            self._refuse(where, "must be a whole number from 0 on")
        if key in _NUMBERS and not is_number:
            self._refuse(where, "must be a number")
        if key == "multipleOf" and value <= 0:
            self._refuse(where, "must be above 0")
        if key in ("$ref", "$anchor", "pattern", "format") and not isinstance(value, str):
            self._refuse(where, "must be a text")
        if key == "$ref" and not value.startswith("#"):
            self._refuse(where, "must be within the schema; nothing is fetched")
        if key == "format" and value not in FORMATS:
            self._refuse(where, f"{value[:40]!r}; there are: {', '.join(sorted(FORMATS))}")
        if key == "type":
            kinds = value if isinstance(value, list) else [value]
            if not kinds or any(kind not in TYPES for kind in kinds):
                self._refuse(where, f"must be of {', '.join(TYPES)}")
        if key == "enum" and (not isinstance(value, list) or not value):
            self._refuse(where, "must be a list of at least one value")
        if key == "required" and not (
            isinstance(value, list) and all(isinstance(name, str) for name in value)
        ):
            self._refuse(where, "must be a list of names")

    def parts(self, pointer: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key in _ONE:
            if key in node:
                if isinstance(node[key], list):
                    self._refuse(f"{pointer}/{key}", "must be a schema (a list: use prefixItems)")
                yield f"{pointer}/{key}", node[key]
        for key in _MANY:
            if key in node:
                if not isinstance(node[key], list) or not node[key]:
                    self._refuse(f"{pointer}/{key}", "must be a list of at least one schema")
                for i, part in enumerate(node[key]):
                    yield f"{pointer}/{key}/{i}", part
        for key in _NAMED:
            if key in node:
                if not isinstance(node[key], Mapping):
                    self._refuse(f"{pointer}/{key}", "must map names to schemas")
                for name, part in node[key].items():
                    yield f"{pointer}/{key}/{_escaped(name)}", part

    def _refuse(self, pointer: str, why: str) -> None:
        raise RequestError(self._field, f"{pointer}: {why}")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
