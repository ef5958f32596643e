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

from ridgeline.serve.app import build_app, build_routes

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


def run(cases: int) -> int:
    """Cases for all operations together; the number of those that were run."""
    core = tiny_core(max_answers=4, context_length=32)
    schema = schemathesis.openapi.from_asgi("/openapi.json", build_app(core))  # type: ignore[arg-type]
    done = 0
    operations = [one.ok() for one in schema.get_all_operations()]
    given_something = [one for one in operations if one.body or one.path_parameters]
    each = -(-cases // len(given_something))
    for operation in operations:

        @seed(1)
        @settings(
            max_examples=each,
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
    assert run(120) > 60


def test_a_definition_is_of_one_dialect_alone() -> None:
    core = tiny_core()
    document = build_routes(core).openapi()
    core.close()
    parts = document["components"]["schemas"]
    assert parts["openai.ChatBody.Message"] != parts["anthropic.MessagesBody.Message"]
    assert {"text/event-stream", "application/json"} == set(
        document["paths"]["/v1/messages"]["post"]["responses"]["200"]["content"]
    )
    lines = document["paths"]["/api/chat"]["post"]["responses"]["200"]["content"]
    assert "application/x-ndjson" in lines


if __name__ == "__main__":
    print(run(int(sys.argv[1])), "cases")
