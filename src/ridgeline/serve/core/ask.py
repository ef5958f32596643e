"""What a request asks for, in whatever dialect it was said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ridgeline.engine.prompts import Prompt
from ridgeline.engine.request import ORDINARY_SERVICE, SamplingParams, Service


@dataclass(frozen=True, slots=True)
class TextFormat:
    """What a text keeps to. field: the caller's name of the definition, for errors."""

    syntax: Literal["lark", "regex"]
    definition: str
    field: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. parameters: JSON Schema of its arguments. text: what its
    one argument, `input`, keeps to beyond that.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    text: TextFormat | None = None

    @property
    def definition(self) -> dict[str, Any]:
        """As chat templates read it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = dict(self.parameters) or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The one tool that must be called."""

    name: str


@dataclass(frozen=True, slots=True)
class AllowedTools:
    """The model is told of all tools, and may call these; required: it must."""

    names: tuple[str, ...]
    required: bool = False


ToolChoice = Literal["auto", "none", "required"] | NamedTool | AllowedTools


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as chat templates know them, and what else the template is told. ends: with the head
    of an answer that is to come; with the last message, as a whole; or in the midst of it, an
    answer's text that the model goes on with. continued_as: how the client wished for that. after:
    tokens of turns before these, up to the end of an answer's text.
    """

    messages: tuple[Mapping[str, Any], ...]
    variables: Mapping[str, Any] = field(default_factory=dict)
    ends: Literal["answering", "closed", "continued"] = "answering"
    continued_as: str = "continue_final_message"
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    """enabled: the template's switch; None: as the template has it. separate: reasoning comes as
    events of its own, else as text as the model wrote it. effort: for templates that know it.
    enabled_as, effort_as: the client's names of both, for errors.
    """

    enabled: bool | None = None
    separate: bool = True
    effort: str | None = None
    enabled_as: str = "reasoning"
    effort_as: str = "reasoning_effort"


@dataclass(frozen=True, slots=True)
class Beams:
    """The answers are searched for, not drawn: see `engine.beams.BeamSearchParams`."""

    width: int
    length_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Ask:
    """truncate: a longer prompt loses its beginning, down to so many tokens; None: is refused.
    traceparent: the client's trace, as W3C's Trace Context has it. merges: pieces that wait for a
    reader who is slow may come as one. tells_prompt: the events begin with the prompt's ids. beams:
    of the sampling only n, max_tokens, ignore_eos and skip_special_tokens have a meaning then.
    """

    prompt: Conversation | Prompt
    sampling: SamplingParams
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning()
    service: Service = ORDINARY_SERVICE
    request_id: str | None = None
    truncate: int | None = None
    traceparent: str | None = None
    merges: bool = True
    tells_prompt: bool = False
    beams: Beams | None = None
