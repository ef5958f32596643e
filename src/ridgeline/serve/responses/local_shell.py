"""Codex's `local_shell`: commands that the client runs, which the model calls a function for."""

from __future__ import annotations

import json
from typing import Any

from ridgeline.serve.core.ask import Tool
from ridgeline.serve.responses.bodies import LocalShellAction

NAME = "local_shell"
KIND = "local_shell_call"
TOOL = Tool(
    NAME,
    "Runs a command on the user's machine and returns its output.",
    {
        "type": "object",
        "properties": {
            "command": {
                "type": "array",
                "items": {"type": "string"},
                "description": "The program and its arguments.",
            },
            "working_directory": {"type": "string"},
            "timeout_ms": {"type": "integer"},
        },
        "required": ["command"],
        "additionalProperties": False,
    },
)


def action_of(arguments: str) -> dict[str, Any] | None:
    """What a call's arguments ask to be run; None: they are none, cut off say."""
    try:
        given = json.loads(arguments)
        action = LocalShellAction.model_validate(given)
    except (ValueError, RecursionError):  # pydantic's errors are such
        return None
    return {"env": {}, **action.model_dump(exclude_none=True), "type": "exec"}


def arguments_of(action: LocalShellAction) -> dict[str, Any]:
    """The same as the model writes it."""
    given = action.model_dump(exclude_none=True, exclude={"type"})
    return {name: value for name, value in given.items() if value != {}}
