"""Claude Code's edits of the context: old uses of tools are cleared by the documented rules."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import pytest
from test_agents import TOLD, claude, core_of, playing

from ridgeline.serve.anthropic.edits import CLEARED

LONG = "result " * 12


def history(names: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"role": "user", "content": "Look"}]
    for number, name in enumerate(names):
        use = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {"a": "x" * 20}}
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": LONG}
        found += [
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
    return found


def cleared(
    messages: list[dict[str, Any]], places: list[int], inputs: bool = False
) -> list[dict[str, Any]]:
    """The same history, written with those uses cleared."""
    found = list(messages)
    for place in places:
        result = found[2 * place + 2]["content"][0] | {"content": CLEARED}
        found[2 * place + 2] = {"role": "user", "content": [result]}
        if inputs:
            use = found[2 * place + 1]["content"][0] | {"input": {}}
            found[2 * place + 1] = {"role": "assistant", "content": [use]}
    return found


USES = {"type": "tool_uses"}
TOKENS = {"type": "input_tokens"}
ALWAYS = {"trigger": TOKENS | {"value": 1}}
CASES: list[tuple[dict[str, Any], list[int], bool]] = [
    (ALWAYS, [0, 1], False),
    (ALWAYS | {"keep": USES | {"value": 1}}, [0, 1, 2, 3], False),
    (ALWAYS | {"keep": USES | {"value": 0}}, [0, 1, 2, 3, 4], False),
    (ALWAYS | {"keep": USES | {"value": 9}}, [], False),
    (ALWAYS | {"keep": USES | {"value": 1}, "exclude_tools": ["web"]}, [0, 2], False),
    (ALWAYS | {"clear_tool_inputs": True}, [0, 1], True),
    (ALWAYS | {"clear_tool_inputs": ["nobody"]}, [0, 1], False),
    (ALWAYS | {"clear_at_least": TOKENS | {"value": 20}}, [0, 1], False),
    (ALWAYS | {"clear_at_least": TOKENS | {"value": 5000}}, [], False),
    ({"trigger": USES | {"value": 4}}, [0, 1], False),
    ({"trigger": USES | {"value": 5}}, [], False),
    ({}, [], False),  # 100,000 tokens
]


def test_old_uses_of_tools_are_cleared_by_the_rules() -> None:
    core = core_of(TOLD.replace("{# <think> </think> #}", ""))
    messages: Any = history(["bash", "web", "bash", "web", "bash"])

    async def play(http: httpx.AsyncClient) -> None:
        client = claude(http)

        async def count(given: Any, edit: Any = None) -> Any:
            more = {} if edit is None else {"context_management": {"edits": [edit]}}
            return await client.beta.messages.count_tokens(model="tiny", messages=given, **more)

        whole = (await count(messages)).input_tokens
        for options, places, inputs in CASES:
            edit: Any = {"type": "clear_tool_uses_20250919", **options}
            told = await count(messages, edit)
            expected = (await count(cleared(messages, places, inputs))).input_tokens
            assert told.input_tokens == expected, options
            assert told.context_management.original_input_tokens == whole
        answer = await client.beta.messages.create(
            model="tiny",
            messages=messages,
            max_tokens=2,
            context_management={"edits": [{"type": "clear_tool_uses_20250919", **ALWAYS}]},  # type: ignore[typeddict-item]
        )
        assert answer.context_management is not None
        (done,) = answer.context_management.applied_edits
        assert done.to_dict() == {
            "type": "clear_tool_uses_20250919",
            "cleared_tool_uses": 2,
            "cleared_input_tokens": whole
            - answer.usage.input_tokens
            - (answer.usage.cache_read_input_tokens or 0),
        }
        both: Any = {
            "edits": [
                {"type": "clear_tool_uses_20250919"},
                {"type": "clear_thinking_20251015", "keep": "all"},
            ]
        }
        with pytest.raises(anthropic.BadRequestError, match="stands before"):
            await client.beta.messages.count_tokens(
                model="tiny", messages=messages, context_management=both
            )

    playing(core, play)
    core.close()
