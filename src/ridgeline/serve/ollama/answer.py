"""An answer as Ollama's objects: one a line as it comes, or the one that they come to."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Literal

from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    Done,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
)


class Lines:
    """Takes an answer's events; gives the objects of the stream. `whole` is all of it as one.

    ends: ids that end an answer: what was read and written without such a one is told as `context`,
    for a turn to come; None: no context is told.
    """

    def __init__(
        self,
        model: str,
        form: Literal["chat", "generate"],
        *,
        logprobs: bool,
        ends: Collection[int] | None = None,
    ) -> None:
        self._ends = ends
        self._model = model
        self._form = form
        self._wants_logprobs = logprobs
        self._created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._text = ""
        self._thinking = ""
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[Any] = []
        self._call: dict[str, Any] | None = None
        self._arguments = ""
        self._reason = "stop"
        self._last: dict[str, Any] = {}

    def take(self, event: AnswerEvent) -> list[dict[str, Any]]:
        if isinstance(event, TextDelta):
            return self._ended_call() + self._line(text=event.text, logprobs=event.logprobs)
        if isinstance(event, ReasoningDelta):
            return self._ended_call() + self._line(thinking=event.text, logprobs=event.logprobs)
        if isinstance(event, ToolCallBegin):
            lines = self._ended_call()
            self._call, self._arguments = {"name": event.name, "id": event.call_id}, ""
            return lines
        if isinstance(event, ToolCallArguments):
            self._arguments += event.text
            return []
        if isinstance(event, AnswerEnd):
            self._reason = "length" if event.finish_reason == "length" else "stop"
            return self._ended_call()
        if isinstance(event, Done):
            self._last = {"done": True, "done_reason": self._reason, **durations(event)}
            if self._ends is not None:
                self._last["context"] = context_of(event, self._ends)
            return [self._object("", "", [], []) | self._last]
        return []

    def whole(self) -> dict[str, Any]:
        return self._object(self._text, self._thinking, self._calls, self._logprobs) | self._last

    def _ended_call(self) -> list[dict[str, Any]]:
        """A call, now that its arguments are whole; where they are cut off, their text."""
        if self._call is None:
            return []
        call, self._call = self._call, None
        try:
            arguments = json.loads(self._arguments)
        except ValueError:
            return self._line(text=self._arguments)
        function = {"index": len(self._calls), "name": call["name"], "arguments": arguments}
        entry = {"id": call["id"], "function": function}
        self._calls.append(entry)
        return [self._object("", "", [entry], [])]

    def _line(
        self, text: str = "", thinking: str = "", logprobs: Any = None
    ) -> list[dict[str, Any]]:
        found = logprobs_of(logprobs) if self._wants_logprobs and logprobs else []
        if not text and not thinking and not found:
            return []
        self._text += text
        self._thinking += thinking
        self._logprobs += found
        return [self._object(text, thinking, [], found)]

    def _object(
        self, text: str, thinking: str, calls: list[dict[str, Any]], logprobs: list[Any]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self._model, "created_at": self._created}
        if self._form == "generate":
            found["response"] = text
            if thinking:
                found["thinking"] = thinking
        else:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if thinking:
                message["thinking"] = thinking
            if calls:
                message["tool_calls"] = calls
            found["message"] = message
        found["done"] = False
        if logprobs:
            found["logprobs"] = logprobs
        return found


def context_of(done: Done, ends: Collection[int]) -> list[int]:
    answer = done.output.outputs[0]
    ids = [*done.output.prompt_token_ids, *answer.token_ids]
    ended = answer.finish_reason == "stop" and answer.token_ids and answer.token_ids[-1] in ends
    return ids[:-1] if ended else ids


def durations(done: Done) -> dict[str, Any]:
    """Counts, and how long things took, in nanoseconds."""
    metrics = done.output.metrics
    first = metrics.first_token if metrics.first_token is not None else metrics.finished
    end = metrics.finished if metrics.finished is not None else metrics.arrival
    first = first if first is not None else end

    def nanoseconds(seconds: float) -> int:
        return max(0, round(seconds * 1e9))

    return {
        "total_duration": nanoseconds(end - metrics.arrival),
        "load_duration": 0,
        "prompt_eval_count": done.usage.prompt_tokens,
        "prompt_eval_duration": nanoseconds(first - metrics.submitted),
        "eval_count": done.usage.completion_tokens,
        "eval_duration": nanoseconds(end - first),
    }


def logprobs_of(logprobs: Any) -> list[dict[str, Any]]:
    """Each token's, the sampled one first in its mapping."""
    found = []
    for token in logprobs:
        sampled, *_ = token.values()
        entry: dict[str, Any] = {
            "token": sampled.decoded_token,
            "logprob": sampled.logprob,
            "bytes": list(sampled.decoded_token.encode()),
        }
        ranked = sorted(
            (one for one in token.values() if one.rank is not None), key=lambda one: one.rank
        )
        entry["top_logprobs"] = [
            {"token": one.decoded_token, "logprob": one.logprob} for one in ranked
        ]
        found.append(entry)
    return found
