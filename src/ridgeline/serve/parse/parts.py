"""What a parser makes of a model's text: pieces of answer, of reasoning, and calls of tools."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model wrote before it answered."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of a tool begins; the pieces of its arguments follow."""

    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments, as JSON, of the call that began last."""

    text: str


Part = Text | Reasoning | CallBegin | CallArguments


def folded(parts: list[Part]) -> list[Part]:
    """The same parts with neighbours of one kind joined: what any split of a text comes to."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Text) and isinstance(last, Text):
            found[-1] = Text(last.text + part.text)
        elif isinstance(part, Reasoning) and isinstance(last, Reasoning):
            found[-1] = Reasoning(last.text + part.text)
        elif isinstance(part, CallArguments) and isinstance(last, CallArguments):
            found[-1] = CallArguments(last.text + part.text)
        elif isinstance(part, CallBegin) or part.text:
            found.append(part)
    return found
