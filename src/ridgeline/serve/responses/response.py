"""An answer as OpenAI's Response: events as they come, and the object that they come to."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    Done,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
)
from ridgeline.serve.core.freeform import FreeformInput
from ridgeline.serve.core.sealed import seal
from ridgeline.serve.responses import local_shell
from ridgeline.serve.responses.compaction import KIND as COMPACTION
from ridgeline.serve.responses.tools import Offered

Event = dict[str, Any]


class ResponseBuilder:
    """Takes an answer's events; gives those of the stream, numbered. `response` is the object so
    far: what the last of the events carries, and what a caller gets who does not stream.

    head: the fields that repeat the request. wants_logprobs: whether texts carry them. offered: the
    tools, by the model's names. summarizes: reasoning is given as the summary that was asked for,
    whole, since nothing here shortens it. seals: it is also given sealed, for the client to keep.
    given: the items that the request itself came with. compacts: the answer is a summary, and the
    response one item that has it.
    """

    def __init__(
        self,
        response_id: str,
        head: dict[str, Any],
        *,
        wants_logprobs: bool,
        offered: Mapping[str, Offered] | None = None,
        summarizes: bool = False,
        seals: bool = False,
        given: Sequence[dict[str, Any]] = (),
        compacts: bool = False,
    ) -> None:
        self._id = response_id
        self._wants_logprobs = wants_logprobs
        self._offered = offered or {}
        self._summarizes = summarizes
        self._seals = seals
        self.given = given
        self._compacts = compacts
        self._summary = self._thoughts = ""
        self._input = FreeformInput()
        # A shell's call, which is told when it is whole.
        self._shell: dict[str, Any] = {}
        self._output: list[dict[str, Any]] = []
        self._open: str | None = None
        self._number = 0
        self.response: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": self._output,
            "usage": None,
            **head,
        }

    def start(self) -> list[Event]:
        return [
            self._event("response.created", response=self._snapshot()),
            self._event("response.in_progress", response=self._snapshot()),
        ]

    def queued(self) -> list[Event]:
        """The same, of one that is not begun at once."""
        waiting = {**self._snapshot(), "status": "queued"}
        return [
            self._event("response.created", response=waiting),
            self._event("response.queued", response=waiting),
            self._event("response.in_progress", response=self._snapshot()),
        ]

    def take(self, event: AnswerEvent) -> list[Event]:
        if self._compacts and isinstance(event, TextDelta):
            self._summary += event.text
            return []
        if self._compacts and isinstance(event, ReasoningDelta):
            self._thoughts += event.text
            return []
        if isinstance(event, TextDelta):
            return self._piece("message", event.text, event.logprobs)
        if isinstance(event, ReasoningDelta):
            return self._piece("reasoning", event.text, None)
        if isinstance(event, ToolCallBegin):
            return self._close("completed") + self._call(event)
        if isinstance(event, ToolCallArguments):
            if self._open == "custom_tool_call":
                return self._free(self._input.feed(event.text))
            if self._open == local_shell.KIND:
                self._shell["arguments"] += event.text
                return []
            self._output[-1]["arguments"] += event.text
            kind = "response.function_call_arguments.delta"
            return [self._event(kind, delta=event.text, **self._place())]
        if isinstance(event, AnswerEnd):
            if self._compacts and event.finish_reason in ("stop", "length"):
                return self._compacted()
            cut = event.finish_reason in ("length", "abort", "deadline", "error")
            if event.finish_reason == "length":
                self.response["incomplete_details"] = {"reason": "max_output_tokens"}
                self.response["status"] = "incomplete"
            elif event.finish_reason == "abort":
                self.response["status"] = "cancelled"
            elif cut:
                message = str(event.error) if event.error is not None else event.finish_reason
                self.response["status"] = "failed"
                self.response["error"] = {"code": "server_error", "message": message}
            else:
                self.response["status"] = "completed"
            return self._close("incomplete" if cut else "completed")
        if isinstance(event, Done):
            self.response["usage"] = usage_of(event)
            if self.response["status"] == "completed":
                self.response["completed_at"] = int(time.time())
            status = self.response["status"]
            kind = status if status in ("completed", "incomplete", "failed") else "failed"
            return [self._event(f"response.{kind}", response=self._snapshot())]
        return []

    def failed(self, code: str, message: str) -> list[Event]:
        """The end of an answer that could not begin, or broke off."""
        events = self._close("incomplete")
        self.response["status"] = "failed"
        self.response["error"] = {"code": code, "message": message}
        return [*events, self._event("response.failed", response=self._snapshot())]

    def cancelled(self) -> list[Event]:
        """The end of one that was cancelled; OpenAI's streams have no event of that name."""
        events = self._close("incomplete")
        self.response["status"] = "cancelled"
        return [*events, self._event("response.failed", response=self._snapshot())]

    def _snapshot(self) -> dict[str, Any]:
        return copy.deepcopy(self.response)

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}

    def _begin(self, kind: str, item: dict[str, Any]) -> list[Event]:
        self._open = kind
        self._output.append(item)
        place = len(self._output) - 1
        return [
            self._event("response.output_item.added", item=copy.deepcopy(item), output_index=place)
        ]

    def _compacted(self) -> list[Event]:
        """A summary that may be no longer is whole. What was thought about is one, if need be."""
        text = self._summary.strip() or self._thoughts.strip()
        if not text:
            self.response["status"] = "failed"
            message = "the model wrote no summary"
            self.response["error"] = {"code": "server_error", "message": message}
            return []
        self.response["status"] = "completed"
        item = {"id": f"cmp_{self._id[5:]}_0", "type": COMPACTION, "encrypted_content": seal(text)}
        return self._begin(COMPACTION, item) + self._close("completed")

    def _call(self, event: ToolCallBegin) -> list[Event]:
        offered = self._offered.get(event.name)
        if offered is not None and offered.is_shell:
            self._open = local_shell.KIND
            self._shell = {"call_id": event.call_id, "name": event.name, "arguments": ""}
            return []
        free = offered is not None and offered.freeform
        kind = "custom_tool_call" if free else "function_call"
        item = {
            "id": f"{'ctc' if free else 'fc'}_{self._id[5:]}_{len(self._output)}",
            "type": kind,
            "status": "in_progress",
            "call_id": event.call_id,
            "name": event.name if offered is None else offered.name,
            "input" if free else "arguments": "",
        }
        if offered is not None and offered.namespace is not None:
            item["namespace"] = offered.namespace
        self._input = FreeformInput()
        return self._begin(kind, item)

    def _shell_told(self) -> tuple[str, list[Event]]:
        """A shell's call, with its kind: what is no command is told as it was written."""
        arguments = self._shell["arguments"]
        action = local_shell.action_of(arguments)
        number = f"{self._id[5:]}_{len(self._output)}"
        if action is not None:
            command = {"call_id": self._shell["call_id"], "action": action}
            head = {"id": f"lsh_{number}", "type": local_shell.KIND, "status": "in_progress"}
            return local_shell.KIND, self._begin(local_shell.KIND, head | command)
        head = {"id": f"fc_{number}", "type": "function_call", "status": "in_progress"}
        events = self._begin("function_call", head | self._shell | {"arguments": ""})
        self._output[-1]["arguments"] = arguments
        delta = "response.function_call_arguments.delta"
        return "function_call", [*events, self._event(delta, delta=arguments, **self._place())]

    def _free(self, text: str) -> list[Event]:
        if not text:
            return []
        self._output[-1]["input"] += text
        return [self._event("response.custom_tool_call_input.delta", delta=text, **self._place())]

    def _thought(self, text: str) -> list[Event]:
        """A piece of reasoning that is told as its own summary."""
        events: list[Event] = []
        place: dict[str, Any] = {}
        if self._open != "reasoning":
            events = self._close("completed") + self._begin("reasoning", self._empty("reasoning"))
            part = {"type": "summary_text", "text": ""}
            self._output[-1]["summary"].append(part)
            place = {"summary_index": 0, **self._place()}
            kind = "response.reasoning_summary_part.added"
            events.append(self._event(kind, part=dict(part), **place))
        place = place or {"summary_index": 0, **self._place()}
        self._output[-1]["summary"][0]["text"] += text
        kind = "response.reasoning_summary_text.delta"
        return [*events, self._event(kind, delta=text, **place)]

    def _thought_over(self) -> list[Event]:
        """The end of what `_thought` began."""
        part = dict(self._output[-1]["summary"][0])
        place = {"summary_index": 0, **self._place()}
        kind = "response.reasoning_summary"
        return [
            self._event(f"{kind}_text.done", text=part["text"], **place),
            self._event(f"{kind}_part.done", part=part, **place),
        ]

    def _piece(self, kind: str, text: str, logprobs: Any) -> list[Event]:
        found = _logprobs(logprobs) if self._wants_logprobs and logprobs else []
        if not text and not found:
            return []
        if kind == "reasoning" and self._summarizes:
            return self._thought(text)
        events: list[Event] = []
        if self._open != kind:
            events = self._close("completed") + self._begin(kind, self._empty(kind))
            part = self._empty_part(kind)
            self._output[-1]["content"].append(part)
            events.append(
                self._event(
                    "response.content_part.added",
                    content_index=0,
                    part=copy.deepcopy(part),
                    **self._place(),
                )
            )
        part = self._output[-1]["content"][0]
        part["text"] += text
        place = {"content_index": 0, **self._place()}
        if kind == "reasoning":
            events.append(self._event("response.reasoning_text.delta", delta=text, **place))
            return events
        if self._wants_logprobs:
            part["logprobs"] += found
        events.append(
            self._event("response.output_text.delta", delta=text, logprobs=found, **place)
        )
        return events

    def _empty(self, kind: str) -> dict[str, Any]:
        item_id = f"{'msg' if kind == 'message' else 'rs'}_{self._id[5:]}_{len(self._output)}"
        if kind == "message":
            return {
                "id": item_id,
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
        found: dict[str, Any] = {"id": item_id, "type": "reasoning", "summary": []}
        found["status"] = "in_progress"
        if not self._summarizes:
            found["content"] = []
        return found | ({"encrypted_content": None} if self._seals else {})

    def _empty_part(self, kind: str) -> dict[str, Any]:
        if kind == "reasoning":
            return {"type": "reasoning_text", "text": ""}
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
        return part | ({"logprobs": []} if self._wants_logprobs else {})

    def _close(self, status: str) -> list[Event]:
        """Ends the item that is open. A call that is followed by anything is whole."""
        kind, self._open = self._open, None
        if kind is None:
            return []
        events: list[Event] = []
        if kind == local_shell.KIND:
            kind, events = self._shell_told()
            self._open = None
        item = self._output[-1]
        place = self._place()
        if kind == "custom_tool_call":
            events += self._free(self._input.finish())
            done = "response.custom_tool_call_input.done"
            events.append(self._event(done, input=item["input"], **place))
        if kind != COMPACTION:
            item["status"] = status
        if kind == "reasoning" and self._seals:
            (part,) = item["summary"] if self._summarizes else item["content"]
            item["encrypted_content"] = seal(part["text"])
        if kind == "reasoning" and self._summarizes:
            events += self._thought_over()
        elif kind in ("custom_tool_call", local_shell.KIND, COMPACTION):
            pass
        elif kind == "function_call":
            events.append(
                self._event(
                    "response.function_call_arguments.done",
                    arguments=item["arguments"],
                    name=item["name"],
                    **place,
                )
            )
        else:
            part = copy.deepcopy(item["content"][0])
            if kind == "reasoning":
                events.append(
                    self._event(
                        "response.reasoning_text.done",
                        content_index=0,
                        text=part["text"],
                        **place,
                    )
                )
            else:
                events.append(
                    self._event(
                        "response.output_text.done",
                        content_index=0,
                        text=part["text"],
                        logprobs=part.get("logprobs", []),
                        **place,
                    )
                )
            events.append(
                self._event("response.content_part.done", content_index=0, part=part, **place)
            )
        events.append(
            self._event(
                "response.output_item.done",
                item=copy.deepcopy(item),
                output_index=place["output_index"],
            )
        )
        return events


def usage_of(done: Done) -> dict[str, Any]:
    usage = done.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _logprobs(logprobs: Any) -> list[dict[str, Any]]:
    """Each token's; the sampled one comes first in its mapping."""
    found = []
    for token in logprobs:
        sampled, *_ = token.values()
        ranked = sorted((one for one in token.values() if one.rank), key=lambda one: one.rank)
        found.append(_logprob(sampled) | {"top_logprobs": [_logprob(one) for one in ranked]})
    return found


def _logprob(one: Any) -> dict[str, Any]:
    return {
        "token": one.decoded_token,
        "logprob": one.logprob,
        "bytes": list(one.decoded_token.encode()),
    }
