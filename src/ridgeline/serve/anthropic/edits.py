"""Edits of the context (`context_management`), one after the other, as Anthropic documents them.

The client keeps its whole history and sends it each time; what is cleared here is cleared of the
prompt alone. What an edit has taken is counted in tokens of the prompt before and after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ridgeline.errors import RequestError
from ridgeline.serve.anthropic.bodies import (
    ClearThinking,
    ClearToolUses,
    CountBody,
    Message,
    OtherEdit,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

# What Anthropic's documentation has where nothing is said.
TRIGGER_TOKENS, KEPT_USES = 100_000, 3
CLEARED = "[This result was cleared to save context.]"

Count = Callable[[CountBody], Awaitable[int]]


async def edited(
    body: CountBody, count: Count, ignored: list[str] | None
) -> tuple[CountBody, list[dict[str, Any]]]:
    """The body as its edits leave it, and what they did, as Anthropic tells it. ignored: is given
    the places of edits that are not done here; None: they are refused.
    """
    applied: list[dict[str, Any]] = []
    edits = body.context_management.edits if body.context_management is not None else []
    for place, edit in enumerate(edits):
        where = f"context_management.edits.{place}"
        if isinstance(edit, OtherEdit):
            if ignored is None:
                raise RequestError(f"{where}.type", f"{edit.type!r} is not done here; leave it out")
            ignored.append(where)
        elif isinstance(edit, ClearThinking):
            if any(isinstance(other, ClearToolUses) for other in edits[:place]):
                raise RequestError(where, "stands before clear_tool_uses_20250919")
            kept, number = _without_thinking(body, edit, where)
            if number:
                fewer = await count(body) - await count(kept)
                done = {"cleared_thinking_turns": number, "cleared_input_tokens": fewer}
                applied.append({"type": edit.type, **done})
                body = kept
        else:
            kept, number = _without_uses(body, edit)
            if not number:
                continue
            before = await count(body)
            trigger = edit.trigger
            if trigger is None or trigger.type == "input_tokens":
                if before <= (TRIGGER_TOKENS if trigger is None else trigger.value):
                    continue
            elif len(_uses(body)) <= trigger.value:
                continue
            fewer = before - await count(kept)
            if edit.clear_at_least is not None and fewer < edit.clear_at_least.value:
                continue
            done = {"cleared_tool_uses": number, "cleared_input_tokens": fewer}
            applied.append({"type": edit.type, **done})
            body = kept
    return body, applied


def _without_thinking(body: CountBody, edit: ClearThinking, where: str) -> tuple[CountBody, int]:
    """And how many turns lost their thinking."""
    turns = [
        place
        for place, message in enumerate(body.messages)
        if any(isinstance(block, ThinkingBlock) for block in message.content)
    ]
    kept: int | None = 1
    if edit.keep == "all" or (edit.keep is not None and edit.keep.type == "all"):
        kept = None
    elif edit.keep is not None:
        if edit.keep.value is None:
            raise RequestError(f"{where}.keep.value", "is missing")
        kept = edit.keep.value
    cleared = [] if kept is None else turns[: max(0, len(turns) - kept)]
    messages = list(body.messages)
    for place in cleared:
        blocks = [b for b in messages[place].content if not isinstance(b, ThinkingBlock)]
        messages[place] = messages[place].model_copy(update={"content": blocks})
    return body.model_copy(update={"messages": messages}), len(cleared)


def _uses(body: CountBody) -> list[ToolUseBlock]:
    return [
        block
        for message in body.messages
        for block in message.content
        if isinstance(block, ToolUseBlock)
    ]


def _without_uses(body: CountBody, edit: ClearToolUses) -> tuple[CountBody, int]:
    """And how many uses were cleared: those with a result, but for the last ones that are to be
    kept and those of tools that are excluded.
    """
    kept = KEPT_USES if edit.keep is None else edit.keep.value
    results = {
        block.tool_use_id
        for message in body.messages
        for block in message.content
        if isinstance(block, ToolResultBlock)
    }
    uses = [use for use in _uses(body) if use.id in results]
    excluded = set(edit.exclude_tools or ())
    old = [use for use in uses[: max(0, len(uses) - kept)] if use.name not in excluded]
    cleared = {use.id for use in old}
    inputs = edit.clear_tool_inputs
    names = set(inputs) if isinstance(inputs, list) else None

    def left(block: Any) -> Any:
        if isinstance(block, ToolResultBlock) and block.tool_use_id in cleared:
            return block.model_copy(update={"content": CLEARED})
        if not isinstance(block, ToolUseBlock) or block.id not in cleared:
            return block
        if block.name in names if names is not None else inputs:
            return block.model_copy(update={"input": {}})
        return block

    def cut(message: Message) -> Message:
        if isinstance(message.content, str):
            return message
        return message.model_copy(update={"content": [left(block) for block in message.content]})

    messages = [cut(message) for message in body.messages]
    return body.model_copy(update={"messages": messages}), len(cleared)
