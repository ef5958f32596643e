"""Values beside schemas: as the JSON Schema Test Suite's kinds of cases have them."""

from __future__ import annotations

from typing import Any

import pytest
from schema_cases import CASES, Case

from ridgeline.engine.constrain.instance import MAX_LOOKS, is_instance


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.keyword)
def test_instances_are_told_from_others(case: Case) -> None:
    for value in case.valid:
        assert is_instance(value, case.schema), (case, value)
    for value in case.invalid:
        assert not is_instance(value, case.schema), (case, value)


def test_properties_come_in_any_order() -> None:
    schema = {"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
    assert is_instance({"b": "x", "a": 1}, schema)
    assert not is_instance({"b": 1, "a": 1}, schema)


def test_what_is_large_costs_little() -> None:
    """Nested choices, and an expression that backtracking would never end with."""
    schema: dict[str, Any] = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": []}}}
    item = {"items": {"$ref": "#/$defs/n"}}
    schema["$defs"]["n"]["anyOf"] = [{**item, "maxItems": 1}, {**item, "minItems": 2}]
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    assert is_instance(value, schema)
    assert MAX_LOOKS < 10_000
    slow = {"type": "string", "pattern": "^(a+)+$"}
    assert not is_instance("a" * 4000 + "b", slow)
    assert is_instance("a" * 4000, slow)
