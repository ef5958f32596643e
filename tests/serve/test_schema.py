"""schemathesis over our OpenAPI document: whatever it makes up, no 5xx and no answer off schema.

As many cases as one likes: `python tests/serve/test_schema.py 10000`.
"""

from __future__ import annotations

import sys

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)
from tiny import tiny_core

from ridgeline.serve.app import build_app

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
# Made-up numbers of tokens would take long to write.
PATHS = ("/livez", "/readyz", "/health", "/v1/models", "/v1/completions", "/v1/chat/completions")
PATHS += ("/tokenize", "/detokenize", "/apply-template", "/generate")


def run(cases: int) -> int:
    """Cases for each operation; the number of all that were run."""
    core = tiny_core(max_answers=4, context_length=32)
    schema = schemathesis.openapi.from_asgi("/openapi.json", build_app(core))  # type: ignore[arg-type]
    done = 0
    for operation in (one.ok() for one in schema.get_all_operations()):
        if operation.path not in PATHS:
            continue

        @seed(1)
        @settings(
            max_examples=cases,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            nonlocal done
            done += 1
            case.call_and_validate(checks=CHECKS)

        check()
    core.close()
    return done


def test_made_up_requests_are_answered_by_the_schema() -> None:
    assert run(5) > 30


if __name__ == "__main__":
    print(run(int(sys.argv[1]) // len(PATHS)), "cases")
