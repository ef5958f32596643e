"""An answer as it comes: the one incremental form that every dialect writes from.

What is not streamed is these events folded. For each answer (`index`, from 0): pieces, then
`AnswerEnd`; after the ends of all, `Done`; before all, where it was asked for, `PromptRead`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ridgeline.engine.answer import Logprob
from ridgeline.engine.outputs import RequestOutput
from ridgeline.errors import RidgelineError
from ridgeline.serve.core.errors import HttpError

AnswerFinish = Literal["stop", "length", "tool_calls", "abort", "deadline", "error"]
Logprobs = tuple[Mapping[int, Logprob], ...]


@dataclass(frozen=True, slots=True)
class PromptRead:
    """The prompt as the model reads it, before all else; only of asks that want to be told."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text of the answer. token_ids, logprobs: of the tokens that came since the last piece, those
    of marks included; both may come without text.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text that the model wrote before it answered."""

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class ToolCallBegin:
    """Call number `call` (from 0) of an answer; its arguments follow."""

    index: int
    call: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A piece of a call's arguments: JSON."""

    index: int
    call: int
    text: str


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The end of one answer. stop_reason: the stop string, pattern or token id that ended it."""

    index: int
    finish_reason: AnswerFinish
    stop_reason: str | int | None = None
    error: RidgelineError | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. cached_tokens: of the prompt's, those that the prefix cache had. reasoning_tokens: of
    the answers', those of reasoning sections. seconds: of the answer that took longest, by phase.
    forced_tokens: of the answers', those that their grammar forced.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    forced_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Of two asks in one; the seconds are those of the one that took longer."""
        longer = max(self, other, key=lambda one: one.seconds.get("total_seconds", 0.0))
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            longer.seconds,
            self.forced_tokens + other.forced_tokens,
        )


@dataclass(frozen=True, slots=True)
class Done:
    """All answers have ended."""

    usage: Usage
    output: RequestOutput


AnswerEvent = (
    PromptRead | TextDelta | ReasoningDelta | ToolCallBegin | ToolCallArguments | AnswerEnd | Done
)


def raise_error(event: AnswerEvent) -> None:
    """An answer that failed, or was not done in time, is an error and no answer."""
    if isinstance(event, AnswerEnd):
        if event.error is not None:
            raise event.error
        if event.finish_reason == "deadline":
            raise HttpError(504, "timeout", "the request was not done by its deadline")
