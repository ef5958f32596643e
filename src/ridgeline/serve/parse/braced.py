"""Calls whose arguments lie in braces and are no JSON: f{city:<|"|>Ulm<|"|>,days:2} (Gemma 4,
FunctionGemma). Names of arguments are bare, a mark stands on both sides of a text, and nothing in a
text is escaped. Read here as JSON, and written as a grammar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ridgeline.errors import RequestError
from ridgeline.serve.parse.json_scan import read_value
from ridgeline.serve.parse.reader import Reader, Steps

MAX_DEPTH = 64
_ENDS = ",}] \t\r\n"
# What may stand in a schema and says nothing that an answer has to keep to.
_TOLD = frozenset(
    {"title", "description", "default", "examples", "$schema", "$comment", "deprecated", "nullable"}
)
_OF_NUMBERS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"}
)
_OF_LISTS = frozenset({"items", "minItems", "maxItems"})
_OF_OBJECTS = frozenset({"properties", "required", "additionalProperties"})
# Every keyword that is about one type, and which: those that cannot be held to here among them.
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": _OF_NUMBERS,
    "number": _OF_NUMBERS,
    "array": _OF_LISTS | {"prefixItems", "uniqueItems", "contains", "minContains", "maxContains"},
    "object": _OF_OBJECTS
    | {"patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired"},
}
_TYPED = frozenset().union(*_KEYWORDS.values())

Schema = Mapping[str, Any]


def read_braced(reader: Reader, quote: str, depth: int = 0) -> Steps[str | None]:
    """A value as JSON; None where it is none, or is cut off."""
    yield from reader.space()
    if (yield from reader.literal(quote)):
        return (yield from _read_text(reader, quote))
    char = yield from reader.char()
    if char == '"':
        start = reader.at
        whole = yield from read_value(reader)
        return reader.text[start : reader.at] if whole else None
    if char in ("{", "[") and depth < MAX_DEPTH:
        return (yield from _read_many(reader, quote, depth, char))
    start = reader.at
    while True:
        char = yield from reader.char()
        if not char:
            return None
        if char in _ENDS:
            break
        reader.at += 1
    return _bare(reader.text[start : reader.at])


def read_key(reader: Reader, quote: str) -> Steps[str]:
    """The name of an argument and the colon behind it; "": there is none."""
    yield from reader.space()
    if (yield from reader.literal(quote)):
        text = yield from _read_text(reader, quote)
        key = "" if text is None else json.loads(text)
    elif (yield from reader.char()) == '"':
        start = reader.at
        whole = yield from read_value(reader)
        key = json.loads(reader.text[start : reader.at]) if whole else ""
    else:
        key = yield from reader.name()
    yield from reader.space()
    return str(key) if (yield from reader.literal(":")) else ""


def _read_text(reader: Reader, quote: str) -> Steps[str | None]:
    start = sought = reader.at
    while (end := reader.text.find(quote, sought)) < 0:
        sought = max(start, len(reader.text) - len(quote))
        if reader.closed:
            return None
        yield
    reader.at = end + len(quote)
    return json.dumps(reader.text[start:end], ensure_ascii=False)


def _read_many(reader: Reader, quote: str, depth: int, opened: str) -> Steps[str | None]:
    closes = "}" if opened == "{" else "]"
    reader.at += 1
    parts: list[str] = []
    while True:
        yield from reader.space()
        if (yield from reader.literal(closes)):
            return f"{opened}{', '.join(parts)}{closes}"
        if parts and not (yield from reader.literal(",")):
            return None
        head = ""
        if opened == "{":
            key = yield from read_key(reader, quote)
            if not key:
                return None
            head = f"{json.dumps(key, ensure_ascii=False)}: "
        value = yield from read_braced(reader, quote, depth + 1)
        if value is None:
            return None
        parts.append(head + value)


def _bare(text: str) -> str | None:
    """A number or a word; a word that JSON does not know is a text that lost its marks."""
    if text in ("None", "none"):
        return "null"
    try:
        found = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False) if text else None
    return json.dumps(text) if found is None and text != "null" else text


def written_braced(value: Any, quote: str) -> str:
    """A value as the model writes it."""
    if isinstance(value, str):
        return f"{quote}{value}{quote}"
    if isinstance(value, Mapping):
        pairs = (f"{key}:{written_braced(part, quote)}" for key, part in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written_braced(part, quote) for part in value) + "]"
    return json.dumps(value)


class BracedGrammar:
    """Writes the rules of values. literal, until, rule: the writer's own (`grammar._Writer`)."""

    def __init__(
        self,
        quote: str,
        literal: Callable[[str], str],
        until: Callable[[str], str],
        rule: Callable[[str], str],
    ) -> None:
        self._quote = quote
        self._literal, self._until, self._rule = literal, until, rule

    def object(self, schema: Schema, where: str, *, in_order: bool) -> str:
        """The braces and what is in them. in_order: arguments go by the alphabet, as the template
        prints them; else by the schema. RequestError, with a JSON pointer, for what cannot be held
        to in this form.
        """
        self._check(schema, _OF_OBJECTS | {"type"}, where)
        if schema.get("additionalProperties") not in (None, False):
            if "properties" in schema:
                raise _refused(f"{where}/additionalProperties")
            return self._any_object()
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        if not required <= set(properties):
            raise _refused(f"{where}/required")
        pairs = []
        for key in sorted(properties) if in_order else properties:
            place = f"{where}/properties/{key}"
            if not key.replace("-", "_").isidentifier():
                raise RequestError(f"tools: {place}", "is no name that this model writes bare")
            part = properties[key]
            value = self.value(part if isinstance(part, Mapping) else {}, place, in_order=in_order)
            pairs.append((self._rule(f"{self._literal(key + ':')} {value}"), key in required))
        # What may follow where none was given yet, and where one was.
        first, rest = '""', '""'
        for pair, must in reversed(pairs):
            alone, behind = f"{pair} {rest}", f'"," {pair} {rest}'
            first = self._rule(alone if must else f"({alone}) | {first}")
            rest = self._rule(behind if must else f"({behind}) | {rest}")
        return f'"{{" {first} "}}"'

    def value(self, schema: Schema, where: str, *, in_order: bool) -> str:
        if "enum" in schema or "const" in schema:
            self._check(schema, {"enum", "const", "type"}, where)
            options = schema["enum"] if "enum" in schema else [schema["const"]]
            quote = json.dumps(self._quote)[1:-1]
            if any(quote in json.dumps(option) for option in options):
                raise _refused(f"{where}/{'enum' if 'enum' in schema else 'const'}")
            texts = [self._literal(written_braced(option, self._quote)) for option in options]
            return self._rule(" | ".join(f"({text})" for text in texts))
        if "anyOf" in schema:
            self._check(schema, {"anyOf"}, where)
            parts = [
                self.value(part, f"{where}/anyOf/{number}", in_order=in_order)
                for number, part in enumerate(schema["anyOf"])
            ]
            return self._rule(" | ".join(f"({part})" for part in parts))
        kind = schema.get("type")
        if isinstance(kind, str):  # what is said of other types says nothing of this one
            others = _TYPED.difference(_KEYWORDS.get(kind, ()))
            schema = {key: part for key, part in schema.items() if key not in others}
        if isinstance(kind, list):
            parts = [self.value({**schema, "type": one}, where, in_order=in_order) for one in kind]
            return self._rule(" | ".join(f"({part})" for part in parts))
        if kind == "string":
            self._check(schema, {"type"}, where)
            return self._text()
        if kind in ("integer", "number"):
            self._check(schema, _OF_NUMBERS | {"type"}, where)
            return f"%json {json.dumps(schema)}"
        if kind in ("boolean", "null"):
            self._check(schema, {"type"}, where)
            return '("true" | "false")' if kind == "boolean" else '"null"'
        if kind == "array":
            self._check(schema, _OF_LISTS | {"type"}, where)
            return self._list(schema, where, in_order)
        if kind == "object" and "properties" not in schema and "required" not in schema:
            self._check(schema, _OF_OBJECTS | {"type"}, where)
            closed = schema.get("additionalProperties") is False
            return '"{}"' if closed else self._any_object()
        if kind == "object" or "properties" in schema:
            return self.object(schema, where, in_order=in_order)
        if kind is not None:
            raise _refused(f"{where}/type")
        self._check(schema, set(), where)
        return self._any()

    def _list(self, schema: Schema, where: str, in_order: bool) -> str:
        items = schema.get("items", {})
        items = items if isinstance(items, Mapping) else {}
        value = self._rule(self.value(items, f"{where}/items", in_order=in_order))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if least > 256 or (most is not None and not least <= most <= 256):
            raise _refused(f"{where}/{'minItems' if least > 256 else 'maxItems'}")
        if most == 0:
            return '"[]"'
        more = self._rule(f'"," {value}')
        bound = "" if most is None else str(most - 1)
        some = f"{value} {more}{{{max(least - 1, 0)},{bound}}}"
        return self._rule(f'"[" {some} "]"' if least else f'"[" ({some})? "]"')

    def _text(self) -> str:
        return f"{self._literal(self._quote)} {self._until(self._quote)}"

    def _any(self) -> str:
        """Any value, five deep."""
        plain = f'({self._text()}) | %json {{"type": "number"}} | "true" | "false" | "null"'
        value = self._rule(plain)
        for _ in range(5):
            members = rf'/[A-Za-z_][A-Za-z0-9_]*/ ":" {value}'
            one = self._rule(members)
            value = self._rule(
                f'{plain} | "[" ({value} ("," {value})*)? "]" | "{{" ({one} ("," {one})*)? "}}"'
            )
        return value

    def _any_object(self) -> str:
        one = self._rule(rf'/[A-Za-z_][A-Za-z0-9_]*/ ":" {self._any()}')
        return self._rule(f'"{{" ({one} ("," {one})*)? "}}"')

    def _check(self, schema: Schema, known: set[str] | frozenset[str], where: str) -> None:
        for keyword in schema:
            if keyword not in known and keyword not in _TOLD:
                raise _refused(f"{where}/{keyword}")


def _refused(place: str) -> RequestError:
    return RequestError(
        f"tools: {place}",
        "is not supported for this model, which writes arguments in a form of its own; leave it "
        "out, or use enum",
    )
