"""An answer as OpenAI's chat completion: chunks as they come, and the whole that they come to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ridgeline.engine.answer import Logprob
from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    Done,
    Logprobs,
    PromptRead,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
    raise_error,
)
from ridgeline.serve.core.freeform import FreeformInput
from ridgeline.serve.core.http import compact, sent


class ChatBuilder:
    """Takes an answer's events; gives the chunks of the stream. `whole`: the completion so far.

    token_ids: ids are told, those of the prompt with the first chunk; `PromptRead` must come then.
    freeform: names of tools that are called with a text.
    """

    def __init__(
        self,
        chat_id: str,
        model: str,
        count: int,
        logprobs: bool,
        *,
        token_ids: bool = False,
        freeform: frozenset[str] = frozenset(),
    ) -> None:
        self._freeform = freeform
        # Of each answer, the text of a freeform call that is being written.
        self._inputs: list[FreeformInput | None] = [None] * count
        self._head = {"id": chat_id, "created": int(time.time()), "model": model}
        # What the chunks of one stream have in common, written once.
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": []}
        self._before = "data: " + compact(chunk).removesuffix("]}") + '{"index":'
        self._wants_logprobs = logprobs
        self._wants_ids = token_ids
        self._prompt_ids: tuple[int, ...] = ()
        self._ids: list[list[int]] = [[] for _ in range(count)]
        self._texts = [""] * count
        self._reasoning = [""] * count
        self._calls: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        self._logprobs: list[list[Any]] = [[] for _ in range(count)]
        self._ends: list[AnswerEnd | None] = [None] * count
        self._usage: dict[str, Any] | None = None
        self._scores: list[dict[str, Any] | None] | None = None
        self._shows_usage = False

    def start(self, usage: bool) -> list[dict[str, Any]]:
        """The chunks that say whose answers come; none before the prompt's ids are known, if they
        are to be told. usage: the stream ends with the usage.
        """
        self._shows_usage = usage
        return [] if self._wants_ids else self._heads()

    def _heads(self) -> list[dict[str, Any]]:
        first = {"role": "assistant", "content": ""}
        return [self._chunk(index, dict(first)) for index in range(len(self._texts))]

    def said(self, event: AnswerEvent) -> str:
        """The chunks that `take` gives, as they are sent: for texts, of which there are many, only
        what is new is written. Raises as `raise_error` does.
        """
        plain = not self._wants_logprobs and not self._wants_ids
        if plain and isinstance(event, TextDelta) and event.text:
            self._texts[event.index] += event.text
            delta = f'{event.index},"delta":{{"content":{compact(event.text)}}}'
            return f'{self._before}{delta},"finish_reason":null,"logprobs":null}}]}}\n\n'
        raise_error(event)
        return "".join(sent(compact(chunk)) for chunk in self.take(event))

    def take(self, event: AnswerEvent) -> list[dict[str, Any]]:
        if isinstance(event, ToolCallArguments):
            return self._arguments(event)
        before: list[dict[str, Any]] = []
        if isinstance(event, ToolCallBegin | AnswerEnd):
            before = self._input_over(event.index)
        return before + self._take(event)

    def _take(self, event: AnswerEvent) -> list[dict[str, Any]]:
        if isinstance(event, PromptRead):
            self._prompt_ids = event.token_ids
            first, *others = self._heads()
            return [first | {"prompt_token_ids": event.token_ids}, *others]
        if isinstance(event, TextDelta):
            self._texts[event.index] += event.text
            return self._piece(event, "content")
        if isinstance(event, ReasoningDelta):
            self._reasoning[event.index] += event.text
            return self._piece(event, "reasoning_content")
        if isinstance(event, ToolCallBegin):
            free = event.name in self._freeform
            self._inputs[event.index] = FreeformInput() if free else None
            kind, said = ("custom", "input") if free else ("function", "arguments")
            called = {"name": event.name, said: ""}
            call = {"id": event.call_id, "type": kind, kind: called}
            self._calls[event.index].append(call)
            piece = {"index": event.call, **call, kind: dict(called)}
            return [self._chunk(event.index, {"tool_calls": [piece]})]
        if isinstance(event, AnswerEnd):
            self._ends[event.index] = event
            return [self._chunk(event.index, {}, end=event)]
        if isinstance(event, Done):
            self._usage = usage_of(event.usage)
            if event.output.prompt_logprobs is not None:
                self._scores = scores_of(event.output.prompt_logprobs)
            if self._shows_usage:
                return [{**self._chunk(0, {}), "choices": [], "usage": self._usage}]
        return []

    def whole(self) -> dict[str, Any]:
        choices = []
        for index, text in enumerate(self._texts):
            calls = self._calls[index]
            message: dict[str, Any] = {
                "role": "assistant",
                "content": None if calls and not text else text,
                "refusal": None,
            }
            if self._reasoning[index]:
                message["reasoning_content"] = self._reasoning[index]
            if calls:
                message["tool_calls"] = calls
            logprobs = {"content": self._logprobs[index], "refusal": None}
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": logprobs if self._wants_logprobs else None,
                    **_end(self._ends[index]),
                    **({"token_ids": self._ids[index]} if self._wants_ids else {}),
                }
            )
        whole = {**self._head, "object": "chat.completion", "choices": choices}
        if self._wants_ids:
            whole["prompt_token_ids"] = self._prompt_ids
        if self._scores is not None:
            whole["prompt_logprobs"] = self._scores
        return whole | {"usage": self._usage}

    def _arguments(self, event: ToolCallArguments) -> list[dict[str, Any]]:
        text = self._inputs[event.index]
        if text is not None:
            return self._called(event.index, event.call, "custom", "input", text.feed(event.text))
        return self._called(event.index, event.call, "function", "arguments", event.text)

    def _input_over(self, index: int) -> list[dict[str, Any]]:
        """What is left of a freeform call's text, which nothing follows."""
        text, self._inputs[index] = self._inputs[index], None
        if text is None:
            return []
        last = len(self._calls[index]) - 1
        return self._called(index, last, "custom", "input", text.finish())

    def _called(
        self, index: int, call: int, kind: str, said: str, text: str
    ) -> list[dict[str, Any]]:
        """A piece of what a call has as its arguments."""
        self._calls[index][call][kind][said] += text
        if not text:
            return []
        piece = {"index": call, kind: {said: text}}
        return [self._chunk(index, {"tool_calls": [piece]})]

    def _piece(self, event: TextDelta | ReasoningDelta, field: str) -> list[dict[str, Any]]:
        found = self._taken_logprobs(event.index, event.logprobs)
        ids = list(event.token_ids) if self._wants_ids else []
        self._ids[event.index] += ids
        if not event.text and not found and not ids:
            return []
        return [self._chunk(event.index, {field: event.text}, logprobs=found, ids=ids)]

    def _taken_logprobs(self, index: int, logprobs: Logprobs | None) -> list[Any]:
        if not self._wants_logprobs or not logprobs:
            return []
        found = logprobs_of(logprobs)
        self._logprobs[index] += found
        return found

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        end: AnswerEnd | None = None,
        logprobs: list[Any] | None = None,
        ids: list[int] | None = None,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, **_end(end)}
        choice["logprobs"] = {"content": logprobs, "refusal": None} if logprobs else None
        if ids:
            choice["token_ids"] = ids
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def _end(end: AnswerEnd | None) -> dict[str, Any]:
    """finish_reason, and stop_reason where something of the request's own ended it."""
    if end is None:
        return {"finish_reason": None}
    found: dict[str, Any] = {"finish_reason": end.finish_reason}
    if end.stop_reason is not None:
        found["stop_reason"] = end.stop_reason
    return found


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "forced_tokens": usage.forced_tokens,
        },
        "seconds": dict(usage.seconds),
    }


def scores_of(scored: Sequence[Mapping[int, Logprob] | None]) -> list[dict[str, Any] | None]:
    """A prompt's: by token id, its own first; the first token has none."""
    return [
        None
        if entry is None
        else {
            str(token_id): {
                "logprob": one.logprob,
                "rank": one.rank,
                "decoded_token": one.decoded_token,
            }
            for token_id, one in entry.items()
        }
        for entry in scored
    ]


def logprobs_of(logprobs: Logprobs) -> list[dict[str, Any]]:
    """Each token's; the sampled one comes first in its mapping."""
    found = []
    for token in logprobs:
        sampled, *_ = token.values()
        ranked = sorted((one for one in token.values() if one.rank), key=lambda one: one.rank or 0)
        found.append(_logprob(sampled) | {"top_logprobs": [_logprob(one) for one in ranked]})
    return found


def _logprob(one: Any) -> dict[str, Any]:
    text = one.decoded_token
    return {"token": text, "logprob": one.logprob, "bytes": list(text.encode("utf-8"))}
