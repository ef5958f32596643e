"""Whether a JSON value is an instance of a schema, of the keywords that are kept (`KEPT`).

Where llguidance writes an instance it holds its tokens to the schema, and its properties to the
schema's order. This looks at values that were written freely, whatever their order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ridgeline.engine.constrain.schema import resolved

# References followed within one look: schemas may refer to themselves.
MAX_LOOKS = 5_000


def is_instance(value: Any, schema: Any) -> bool:
    """value: as `json.loads` gives it; schema: one that `check_schema` has let through. What is
    beyond `MAX_LOOKS` schemas is not looked at: True then. Patterns and formats are llguidance's,
    whose regexes take no more time than the text is long.
    """
    return _Look(schema).holds(value, schema)


class _Look:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = MAX_LOOKS
        self._matchers: dict[str, Any] = {}

    def holds(self, value: Any, schema: Any) -> bool:
        self._left -= 1
        if isinstance(schema, bool):
            return schema
        if self._left < 0 or not isinstance(schema, Mapping):
            return True
        return (
            self._plain(value, schema)
            and self._combined(value, schema)
            and (not isinstance(value, str) or self._text(value, schema))
            and (not isinstance(value, list) or self._list(value, schema))
            and (not isinstance(value, dict) or self._object(value, schema))
            and (not _is_number(value) or self._number(value, schema))
        )

    def _plain(self, value: Any, schema: Mapping[str, Any]) -> bool:
        kinds = schema.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if isinstance(kinds, list) and not any(_is_of(value, kind) for kind in kinds):
            return False
        if "const" in schema and not _same(value, schema["const"]):
            return False
        return "enum" not in schema or any(_same(value, one) for one in schema["enum"])

    def _combined(self, value: Any, schema: Mapping[str, Any]) -> bool:
        target = schema.get("$ref")
        if isinstance(target, str) and target.startswith("#"):
            try:
                if not self.holds(value, resolved(self._root, unquote(target))):
                    return False
            except KeyError:
                pass  # an anchor
        if not all(self.holds(value, one) for one in schema.get("allOf", ())):
            return False
        for key in ("anyOf", "oneOf"):
            if key in schema and not any(self.holds(value, one) for one in schema[key]):
                return False
        return True

    def _text(self, value: str, schema: Mapping[str, Any]) -> bool:
        if not _within(len(value), schema.get("minLength"), schema.get("maxLength")):
            return False
        kept = {key: schema[key] for key in ("pattern", "format") if key in schema}
        return not kept or self._matches(kept, value)

    def _matches(self, kept: Mapping[str, Any], text: str) -> bool:
        """Whether a text keeps to a pattern, a format."""
        from llguidance import LLMatcher, LLTokenizer

        key = json.dumps(kept, sort_keys=True)
        if key not in self._matchers:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", **kept}))
            self._matchers[key] = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
        matcher = self._matchers[key].deep_copy()
        given = list(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))
        return bool(matcher.try_consume_tokens(given) == len(given) and matcher.is_accepting())

    def _list(self, value: list[Any], schema: Mapping[str, Any]) -> bool:
        first: Sequence[Any] = schema.get("prefixItems", ())
        rest = schema.get("items", True)
        return (
            _within(len(value), schema.get("minItems"), schema.get("maxItems"))
            and all(self.holds(one, own) for one, own in zip(value, first, strict=False))
            and all(self.holds(one, rest) for one in value[len(first) :])
        )

    def _object(self, value: dict[str, Any], schema: Mapping[str, Any]) -> bool:
        if not _within(len(value), schema.get("minProperties"), schema.get("maxProperties")):
            return False
        if not all(name in value for name in schema.get("required", ())):
            return False
        named = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        for name, one in value.items():
            own = [named[name]] if name in named else []
            own += [
                part
                for pattern, part in patterns.items()
                if self._matches({"pattern": pattern}, name)
            ]
            if not all(self.holds(one, part) for part in own or [self._others(schema)]):
                return False
        return True

    def _others(self, schema: Mapping[str, Any]) -> Any:
        return schema.get("additionalProperties", True)

    def _number(self, value: float, schema: Mapping[str, Any]) -> bool:
        step = schema.get("multipleOf")
        if step and not math.isclose(value / step, round(value / step), rel_tol=1e-9):
            return False
        return bool(
            value >= schema.get("minimum", -math.inf)
            and value <= schema.get("maximum", math.inf)
            and value > schema.get("exclusiveMinimum", -math.inf)
            and value < schema.get("exclusiveMaximum", math.inf)
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_of(value: Any, kind: str) -> bool:
    if kind == "integer":
        return _is_number(value) and (isinstance(value, int) or value.is_integer())
    if kind == "number":
        return _is_number(value)
    kinds = {"string": str, "object": dict, "array": list, "boolean": bool, "null": type(None)}
    return isinstance(value, kinds.get(kind, object))


def _same(one: Any, other: Any) -> bool:
    """As JSON: true is not 1, but 1.0 is."""
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _within(count: int, least: int | None, most: int | None) -> bool:
    return (least is None or count >= least) and (most is None or count <= most)
