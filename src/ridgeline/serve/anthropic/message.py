"""An answer as Anthropic's message: events as they come, and the whole that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    Done,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
)
from ridgeline.serve.core.sealed import seal

Event = tuple[str, dict[str, Any]]

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageBuilder:
    """Takes an answer's events; gives those of the stream. `whole` is the message so far.

    omits: thinking is given as a sealed signature alone. edits: what was done to the context, as it
    is told; None: nothing was asked for.
    """

    def __init__(
        self,
        message_id: str,
        model: str,
        *,
        omits: bool = False,
        edits: list[dict[str, Any]] | None = None,
    ) -> None:
        self._omits = omits
        self._edited: dict[str, Any] = (
            {} if edits is None else {"context_management": {"applied_edits": edits}}
        )
        self._hidden = ""
        self._head: dict[str, Any] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._blocks: list[dict[str, Any]] = []
        self._open: str | None = None
        self._arguments: dict[int, str] = {}
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None
        self._usage: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0}

    def start(self) -> list[Event]:
        return [("message_start", {"type": "message_start", "message": self.whole()})]

    def take(self, event: AnswerEvent) -> list[Event]:
        """What the stream says of it. The ends of failed answers are the caller's to tell."""
        if isinstance(event, TextDelta):
            return self._piece("text", event.text, {"type": "text_delta", "text": event.text})
        if isinstance(event, ReasoningDelta):
            if self._omits:
                return self._omitted(event.text)
            delta = {"type": "thinking_delta", "thinking": event.text}
            return self._piece("thinking", event.text, delta)
        if isinstance(event, ToolCallBegin):
            closed = self._close()
            block = {"type": "tool_use", "id": event.call_id, "name": event.name, "input": {}}
            return closed + self._begin("tool_use", block)
        if isinstance(event, ToolCallArguments):
            place = len(self._blocks) - 1
            self._arguments[place] = self._arguments.get(place, "") + event.text
            return [self._delta({"type": "input_json_delta", "partial_json": event.text})]
        if isinstance(event, AnswerEnd):
            if event.finish_reason == "stop" and isinstance(event.stop_reason, str):
                self._stop_reason, self._stop_sequence = "stop_sequence", event.stop_reason
            else:
                self._stop_reason = _STOPS.get(event.finish_reason, "end_turn")
            return self._close()
        if isinstance(event, Done):
            self._usage = usage_of(event)
            end = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
            last = {"type": "message_delta", "delta": end, "usage": self._usage, **self._edited}
            return [("message_delta", last), ("message_stop", {"type": "message_stop"})]
        return []

    def whole(self) -> dict[str, Any]:
        return {
            **self._head,
            "content": [self._content(place) for place in range(len(self._blocks))],
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": self._usage,
            **self._edited,
        }

    def _content(self, place: int) -> dict[str, Any]:
        block = dict(self._blocks[place])
        if place in self._arguments:
            # Cut off by max_tokens they are no whole JSON: what is there is given, as the official
            # client reads it from the stream.
            block["input"] = from_json(self._arguments[place], allow_partial=True)
        return block

    def _piece(self, kind: str, text: str, delta: dict[str, Any]) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        if self._open != kind:
            empty: dict[str, Any] = {"type": kind, kind: ""}
            if kind == "thinking":
                empty["signature"] = ""
            events = self._close() + self._begin(kind, empty)
        self._blocks[-1][kind] += text
        return [*events, self._delta(delta)]

    def _omitted(self, text: str) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        if self._open != "thinking":
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            events = self._close() + self._begin("thinking", empty)
        self._hidden += text
        return events

    def _begin(self, kind: str, block: dict[str, Any]) -> list[Event]:
        self._open = kind
        self._blocks.append(block)
        data = {
            "type": "content_block_start",
            "index": len(self._blocks) - 1,
            "content_block": dict(block),
        }
        return [("content_block_start", data)]

    def _delta(self, delta: dict[str, Any]) -> Event:
        index = len(self._blocks) - 1
        return (
            "content_block_delta",
            {"type": "content_block_delta", "index": index, "delta": delta},
        )

    def _close(self) -> list[Event]:
        if self._open is None:
            return []
        self._open = None
        index = len(self._blocks) - 1
        events: list[Event] = []
        if self._hidden:
            signature, self._hidden = seal(self._hidden), ""
            self._blocks[-1]["signature"] = signature
            events.append(self._delta({"type": "signature_delta", "signature": signature}))
        return [*events, ("content_block_stop", {"type": "content_block_stop", "index": index})]


def usage_of(done: Done) -> dict[str, Any]:
    """input_tokens leaves out what the prefix cache had, as Anthropic counts."""
    usage = done.usage
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def folded(builder: MessageBuilder, events: Sequence[AnswerEvent]) -> dict[str, Any]:
    for event in events:
        builder.take(event)
    return builder.whole()
