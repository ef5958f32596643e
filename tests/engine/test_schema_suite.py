"""A part of benchmarks/structured_outputs.py: each schema of our own suite, and each refusal."""

from __future__ import annotations

import json

from schema_cases import CASES, REFUSED
from structured_outputs import check_refusals, check_validity, judge, tiny_llm


def test_every_schema_yields_only_its_instances() -> None:
    found = check_validity(2, tiny_llm())
    assert [fault for tally in found.values() for fault in tally.faults] == []
    assert sum(tally.schemas for tally in found.values()) == len(CASES)
    assert sum(tally.whole for tally in found.values()) > len(CASES)


def test_what_is_refused_is_refused_before_it_is_queued_with_its_pointer() -> None:
    llm = tiny_llm()
    assert check_refusals(llm) == []
    assert len(REFUSED) > 25
    assert not llm.session.engine.has_work


def test_the_judge_finds_faults() -> None:
    for case in CASES:
        for instance in case.valid:
            assert judge(case.schema, json.dumps(instance)) is None, case
        for instance in case.invalid:
            assert judge(case.schema, json.dumps(instance)) is not None, (case, instance)
