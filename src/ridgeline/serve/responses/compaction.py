"""A conversation that has grown long, made short: what was said to the model, and one summary.

The model writes the summary itself, asked behind the conversation. It comes sealed, as an item that
stands for all that the model has said and done; sent back it is a message of the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ridgeline.serve.core.ask import Ask, Conversation
from ridgeline.serve.core.sealed import unseal

KIND = "compaction"
TRIGGER = "compaction_trigger"
# A summary is shorter than what it stands for; where the client has not said how long it may be.
MAX_TOKENS = 2048
_WORDS = (
    "This conversation is getting too long. From now on you will see of it what was said to you, "
    "and, in place of everything that you have said, called and been given, a summary that you "
    "write now. Put into it what you will need: what is wanted, what was decided and why, what was "
    "done and found out (names of files, commands, values, errors as they were), and what is still "
    "to be done. Answer with the summary alone."
)
_HEAD = "Summary of what I have said and done so far:\n\n"


def is_asked(items: Sequence[dict[str, Any]]) -> bool:
    return bool(items) and items[-1]["type"] == TRIGGER


def retained(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a summary does not stand for: messages to the model."""
    return [one for one in items if one["type"] == "message" and one["role"] != "assistant"]


def before_next(items: Sequence[dict[str, Any]], output: Sequence[dict[str, Any]]) -> list[Any]:
    """The items that an answer behind a stored response is made of."""
    kept = retained(items) if any(one["type"] == KIND for one in output) else items
    return [*kept, *output]


def summarizing(ask: Ask) -> Ask:
    """The ask for a summary of what an ask would go on from; no tool may be called."""
    assert isinstance(ask.prompt, Conversation)
    asked = {"role": "user", "content": _WORDS}
    most = ask.sampling.max_tokens or MAX_TOKENS
    return replace(
        ask,
        prompt=replace(ask.prompt, messages=(*ask.prompt.messages, asked)),
        sampling=replace(ask.sampling, max_tokens=most, min_tokens=1),
        tools=(),
        tool_choice="auto",
    )


def remembered(sealed: str) -> str:
    """A sealed summary as the model reads it."""
    return _HEAD + (unseal(sealed) or "")
