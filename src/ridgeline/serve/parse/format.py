"""How a model writes calls of tools and its reasoning: markers around names and values, as data.

In a marker white space stands for any or none, `reader.ANY_ID` for a call's id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Body = Literal["object", "keyed", "named", "tagged", "pythonic", "braced", "harmony"]
IdStyle = Literal["plain", "nine", "indexed"]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The form of calls: section_open (call_open BODY call_close) separated by separator,
    section_close.

    body "object": {name_key: "f", args_key: {...}}. "keyed": {"f": {...}}. "named": the name,
    args_open, {...}. "tagged": the name, args_open, then for each argument key_open, its name,
    key_close, the value, value_close. "pythonic": f(a=1, b='x'). "braced": f{a:1,b:QxQ}, quote on
    both sides of a text. "harmony": messages to functions.f.

    at_start: calls stand at the start of an answer, unmarked. many: more than one call in an
    answer. triggers: what begins calls anywhere in a text. ids: "plain" names ours to choose,
    "nine" letters and digits (Mistral's templates accept no other), "indexed" functions.NAME:N
    (Kimi). lead: key and value that the object has before its name (Command R's tool_call_id).
    in_order: arguments go by the alphabet.
    """

    body: Body
    section_open: str = ""
    call_open: str = ""
    call_close: str = ""
    separator: str = ""
    section_close: str = ""
    name_key: str = "name"
    args_key: str = "arguments"
    lead: tuple[str, str] | None = None
    tail: str | None = None
    args_open: str = ""
    key_open: str = ""
    key_close: str = ""
    value_close: str = ""
    quote: str = ""
    in_order: bool = False
    many: bool = True
    at_start: bool = False
    triggers: tuple[str, ...] = ()
    ids: IdStyle = "plain"
    variable: str | None = "tools"


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The marks around what a model writes before it answers. harmony: by channels instead."""

    open: str
    close: str
    harmony: bool = False


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """What a chat template says of a model's output. tools None: no_tools says why. wrappers: marks
    around an answer that are no part of it.
    """

    tools: ToolFormat | None
    reasoning: ReasoningFormat | None
    no_tools: str = ""
    wrappers: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """All texts that a parser of this format looks for; a tokenizer must not hide them."""
        found: list[str] = list(self.wrappers)
        if self.reasoning is not None:
            found += [self.reasoning.open, self.reasoning.close]
        tools = self.tools
        if tools is not None:
            found += [tools.section_open, tools.call_open, tools.call_close, tools.separator]
            found += [tools.section_close, tools.args_open, tools.key_open, tools.key_close]
            found += [tools.value_close, tools.quote, *tools.triggers]
        return tuple(marker for marker in found if marker.strip())
