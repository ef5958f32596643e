"""Schemas of our own, in kind as the JSON Schema Test Suite has them, and refusals.

Instances have their properties in the schema's order: a grammar asks for that, a schema does not.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """valid, invalid: instances."""

    keyword: str
    schema: Any
    valid: tuple[Any, ...] = ()
    invalid: tuple[Any, ...] = ()


def _object(required: bool = True, **properties: Any) -> dict[str, Any]:
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": list(properties)} if required else found


_SHORT = {"type": "string", "maxLength": 6}
_TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": _object(
            value={"type": "integer", "minimum": 0, "maximum": 9},
            children={"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
        )
    },
}
_LIST = {
    "$ref": "#/definitions/list",
    "definitions": {
        "list": {
            "anyOf": [
                {"type": "null"},
                _object(head={"enum": [1, 2]}, tail={"$ref": "#/definitions/list"}),
            ]
        }
    },
}

CASES: tuple[Case, ...] = (
    Case("type", {"type": "null"}, (None,), (0, False, "", "null")),
    Case("type", {"type": "boolean"}, (True, False), (0, "true", None)),
    Case("type", {"type": "integer"}, (0, -7, 123456), (1.5, "1", None, [])),
    Case("type", {"type": "number"}, (0, -1.25, 1e30), ("1", None)),
    Case("type", {"type": "string"}, ("", 'a"b\\', "x y"), (1, None)),
    Case("type", {"type": ["null", "boolean"]}, (None, True), (0, "")),
    Case("type", {"type": ["integer", "string"], "maxLength": 4, "maximum": 9}, (3, "a"), (10,)),
    Case("enum", {"enum": ["red", "green", 3, None, {"a": [1]}]}, ("red", 3, {"a": [1]}), ("re",)),
    Case("enum", {"type": "string", "enum": ["a", "b"]}, ("a", "b"), ("c", 1, "")),
    Case("enum", {"type": "integer", "enum": [1, "a", 2]}, (1, 2), ("a", 3)),
    Case("const", {"const": 'fixed "text"'}, ('fixed "text"',), ("fixed", None)),
    Case("const", {"const": {"a": [1, {"b": None}]}}, ({"a": [1, {"b": None}]},), ({}, {"a": 1})),
    Case("const", {"const": 0}, (0,), (False, 1, "0")),
    Case(
        "minLength", {"type": "string", "minLength": 3, "maxLength": 5}, ("abc",), ("ab", "abcdef")
    ),
    Case("maxLength", {"type": "string", "maxLength": 0}, ("",), ("a",)),
    Case("pattern", {"type": "string", "pattern": "^[a-f]{2,4}$"}, ("abc",), ("a", "xyz", "abcde")),
    Case("pattern", {"type": "string", "pattern": "^a|b$", "maxLength": 6}, ("ac", "cb"), ("cc",)),
    Case("pattern", {"type": "string", "pattern": "^(0|[1-9][0-9]*)$"}, ("0", "12"), ("01", "")),
    Case(
        "pattern with lengths",
        {"type": "string", "pattern": "^[ab]+$", "minLength": 2, "maxLength": 4},
        ("ab", "bbbb"),
        ("a", "aaaaa", "c"),
    ),
    Case("minimum", {"type": "integer", "minimum": 5, "maximum": 12}, (5, 12), (4, 13, -6)),
    Case("minimum", {"type": "integer", "minimum": -3}, (-3, 0, 400), (-4,)),
    Case("maximum", {"type": "number", "minimum": -1.5, "maximum": 2.25}, (2.25, 0), (2.26, -1.6)),
    Case(
        "exclusiveMinimum", {"type": "integer", "exclusiveMinimum": 0, "maximum": 3}, (1, 3), (0,)
    ),
    Case(
        "exclusiveMaximum", {"type": "number", "minimum": 0, "exclusiveMaximum": 1}, (0.5,), (1, 2)
    ),
    Case("multipleOf", {"type": "integer", "multipleOf": 5}, (0, 15, 120), (3, 14)),
    Case(
        "multipleOf", {"type": "integer", "multipleOf": 3, "minimum": 0, "maximum": 99}, (9,), (8,)
    ),
    Case("properties", _object(a={"type": "integer"}), ({"a": 1},), ({}, {"a": ""}, {"b": 1})),
    Case("properties", _object(False, a={"type": "null"}, b=_SHORT), ({}, {"b": ""}), ({"c": 1},)),
    Case("properties", _object(**{'q"uo\\te': {"enum": [1]}}), ({'q"uo\\te': 1},), ({},)),
    Case(
        "properties",
        {"type": "object", "properties": {"a": {"enum": [1]}, "b": False}, "required": ["a"]},
        ({"a": 1},),
        ({"a": 1, "b": 1}, {"a": 2}, {}),
    ),
    Case("required", {"type": "object", "required": ["z"], "maxProperties": 2}, ({"z": 1},), ({},)),
    Case(
        "required",
        {**_object(False, a=_SHORT, b=_SHORT, c=_SHORT), "required": ["c"]},
        ({"c": ""}, {"a": "", "c": ""}),
        ({"a": ""},),
    ),
    Case(
        "additionalProperties",
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}},
            "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        ({"a": True}, {"x": 4}),
        ({"a": 4}, {"x": True}),
    ),
    Case(
        "patternProperties",
        {
            "type": "object",
            "patternProperties": {"^n_[a-z]{1,3}$": {"type": "integer", "maximum": 5}},
            "additionalProperties": False,
        },
        ({"n_a": 1}, {}),
        ({"n_a": 9}, {"x": 1}),
    ),
    Case(
        "minProperties", {**_object(a=_SHORT, b=_SHORT), "minProperties": 2}, ({"a": "", "b": ""},)
    ),
    Case(
        "maxProperties",
        {"type": "object", "additionalProperties": {"enum": [0]}, "maxProperties": 2},
        ({}, {"a": 0, "b": 0}),
        ({"a": 0, "b": 0, "c": 0},),
    ),
    Case("items", {"type": "array", "items": {"enum": ["x"]}}, ([], ["x", "x"]), (["y"], "x")),
    Case("items", {"type": "array", "items": False}, ([],), ([1],)),
    Case(
        "items",
        {"type": "array", "items": {"type": "array", "items": {"enum": [1]}, "maxItems": 2}},
        ([[1], []],),
        ([1], [[2]]),
    ),
    Case(
        "prefixItems",
        {"type": "array", "prefixItems": [{"enum": [1]}, _SHORT], "items": False, "minItems": 2},
        ([1, "a"],),
        ([1], ["a", 1], [1, "a", 2]),
    ),
    Case(
        "prefixItems",
        {"type": "array", "prefixItems": [{"type": "null"}], "items": {"enum": [0, 1]}},
        ([], [None], [None, 1, 0]),
        ([0], [None, 2]),
    ),
    Case(
        "minItems",
        {"type": "array", "items": {"enum": [7]}, "minItems": 2, "maxItems": 3},
        ([7, 7],),
        ([7], [7, 7, 7, 7]),
    ),
    Case("maxItems", {"type": "array", "maxItems": 0}, ([],), ([0],)),
    Case(
        "anyOf", {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 8}]}, (None, 9), (7,)
    ),
    Case(
        "anyOf",
        {"type": "string", "anyOf": [{"maxLength": 2}, {"pattern": "^long[a-z]{0,3}$"}]},
        ("ab", "longer"),
        ("abc", 1),
    ),
    Case("anyOf", {"anyOf": [_object(a=_SHORT), _object(b=_SHORT)]}, ({"a": ""},), ({"a": 1}, {})),
    Case("oneOf", {"oneOf": [{"type": "boolean"}, {"type": "null"}]}, (True, None), (1,)),
    Case(
        "oneOf",
        {
            "oneOf": [
                _object(kind={"const": "circle"}, r={"type": "integer", "minimum": 1}),
                _object(kind={"const": "square"}, side={"type": "integer", "maximum": 9}),
            ]
        },
        ({"kind": "circle", "r": 2},),
        ({"kind": "circle", "side": 2}, {"kind": "oval"}),
    ),
    Case("allOf", {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 6}]}, (3, 6), (2, 7)),
    Case(
        "allOf",
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]},
                {"properties": {"a": {"enum": [2, 3]}}, "maxProperties": 2},
            ]
        },
        ({"a": 2},),
        ({"a": 1}, {"a": 3}, {}),
    ),
    Case("$ref", {"$ref": "#/$defs/s", "$defs": {"s": _SHORT}}, ("abc",), ("abcdefg", 1)),
    Case("$ref", {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"enum": [5]}}}, (5,), (6,)),
    Case(
        "$ref beside others",
        {"$ref": "#/$defs/n", "maximum": 4, "$defs": {"n": {"type": "integer", "minimum": 2}}},
        (2, 4),
        (1, 5),
    ),
    Case("$ref", {"$ref": "#/$defs/a%20b", "$defs": {"a b": {"enum": [5]}}}, (5,), (6,)),
    Case("recursive", _TREE, ({"value": 1, "children": []},), ({"value": 1}, {"children": []})),
    Case("recursive", _LIST, (None, {"head": 1, "tail": None}), ({"head": 3, "tail": None}, 1)),
    Case(
        "recursive",
        {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
        ([], [[], []]),
        ([1],),
    ),
    Case("format", {"type": "string", "format": "date"}, ("2024-02-28",), ("2024-13-01", "x")),
    Case("format", {"type": "string", "format": "time"}, ("10:20:30Z",), ("25:00:00Z", "10:20")),
    Case("format", {"type": "string", "format": "date-time"}, ("2024-02-28T10:20:30Z",), ("2024",)),
    Case("format", {"type": "string", "format": "duration"}, ("P1D", "PT3H"), ("P", "1D")),
    Case("format", {"type": "string", "format": "ipv4"}, ("127.0.0.1",), ("256.0.0.1", "1.2.3")),
    Case("format", {"type": "string", "format": "ipv6"}, ("::1",), ("12345::", "g::")),
    Case(
        "format",
        {"type": "string", "format": "uuid"},
        ("12345678-90ab-cdef-1234-567890abcdef",),
        ("1234",),
    ),
    Case("format", {"type": "string", "format": "email"}, ("a@example.com",), ("a", "@")),
    Case("format", {"type": "string", "format": "hostname"}, ("example.com",), ("-a", "a..b")),
    Case("format", {"type": "string", "format": "uri"}, ("http://a.example/x",), ("a b",)),
    Case("annotations", {"title": "t", "description": "d", "default": 1, "enum": [1]}, (1,), (2,)),
    Case(
        "nested",
        _object(a=_object(b=_object(c={"enum": ["deep"]}))),
        ({"a": {"b": {"c": "deep"}}},),
        ({"a": {"b": {}}},),
    ),
    Case("any", {}, (1, "a", None, [1, {}], {"a": 1})),
    Case("any", True, (1, [])),
)

# What is not kept to: the pointer that the refusal names.
REFUSED: tuple[tuple[Any, str], ...] = (
    ({"not": {"type": "null"}}, "#/not"),
    ({"if": {}, "then": {}}, "#/if"),
    ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
    ({"type": "array", "contains": {}}, "#/contains"),
    ({"type": "array", "unevaluatedItems": False}, "#/unevaluatedItems"),
    ({"type": "object", "unevaluatedProperties": False}, "#/unevaluatedProperties"),
    ({"type": "object", "propertyNames": {}}, "#/propertyNames"),
    ({"type": "object", "dependentRequired": {}}, "#/dependentRequired"),
    ({"type": "object", "dependentSchemas": {}}, "#/dependentSchemas"),
    ({"type": "object", "minProperties": 1}, "#/minProperties"),
    ({"$dynamicRef": "#a"}, "#/$dynamicRef"),
    ({"$ref": "https://example.com/schema"}, "#/$ref"),
    ({"type": "string", "format": "iri"}, "#/format"),
    ({"type": "any"}, "#/type"),
    ({"type": []}, "#/type"),
    ({"enum": []}, "#/enum"),
    ({"items": [{}]}, "#/items"),
    ({"anyOf": []}, "#/anyOf"),
    ({"minLength": 1.5}, "#/minLength"),
    ({"maxItems": -1}, "#/maxItems"),
    ({"multipleOf": 0}, "#/multipleOf"),
    ({"properties": {"a": {"properties": {"b": {"not": {}}}}}}, "#/properties/a/properties/b/not"),
    ({"allOf": [{}, {"prefixItems": [{}, {"else": {}}]}]}, "#/allOf/1/prefixItems/1/else"),
    ({"$defs": {"x~/y": {"contains": {}}}}, "#/$defs/x~0~1y/contains"),
    ({"x-guidance": {"lenient": True}}, "#/x-guidance"),
    ({"unheard-of": 1}, "#/unheard-of"),
    ({"$ref": "#/default", "default": {"not": {}}}, "#/$ref"),
    ({"items": {"$ref": "#/x-a"}, "x-a": {"x-guidance": {"lenient": True}}}, "#/items/$ref"),
    # By llguidance, which names no place.
    ({"items": {"properties": {"a": {}}, "maxProperties": 3}}, "#/items"),
    ({"properties": {"a/b": {"type": "string", "pattern": "(?=a)b"}}}, "#/properties/a~1b"),
    ({"items": {"items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}, "#/items/items"),
    ({"properties": {"a%20b ü": {"pattern": "(?=a)b"}}}, "#/properties/a%20b ü"),
    ({"items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"pattern": "(?!a)"}}}, "#/$defs/x"),
    ({"prefixItems": [{"$ref": "#/$defs/none"}], "$defs": {}}, "#/prefixItems/0/$ref"),
)
