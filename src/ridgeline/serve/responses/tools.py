"""Tools of the Responses API: functions, freeform ones (`custom`), and both in namespaces.

A model knows functions with JSON arguments alone. A freeform tool is told to it as a function of
one text, `input`; a namespace's tools as NAMESPACE.NAME. What it calls is told to the client by the
client's names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ridgeline.errors import RequestError
from ridgeline.serve.core.ask import TextFormat, Tool
from ridgeline.serve.responses.bodies import (
    CustomTool,
    FunctionTool,
    HostedTool,
    NamespaceTool,
    ToolDefinition,
)


@dataclass(frozen=True, slots=True)
class Offered:
    """A tool as the model knows it, and as the client does."""

    tool: Tool
    name: str
    namespace: str | None = None
    freeform: bool = False


def offered_of(
    tools: Sequence[ToolDefinition] | None, ignored: list[str] | None
) -> dict[str, Offered]:
    """By the model's names. ignored: is given the places of what is left out; None: such a thing is
    a RequestError.
    """
    found: dict[str, Offered] = {}

    def add(one: Offered, where: str) -> None:
        if one.tool.name in found:
            raise RequestError(f"{where}.name", f"{one.tool.name!r} is there twice")
        found[one.tool.name] = one

    for place, tool in enumerate(tools or ()):
        where = f"tools.{place}"
        if isinstance(tool, HostedTool):
            if ignored is None:
                raise RequestError(
                    f"{where}.type",
                    f"{tool.type!r} runs at OpenAI; function, custom and namespace tools do here. "
                    "Switch it off at the client, or serve with --lenient",
                )
            ignored.append(where)
        elif isinstance(tool, NamespaceTool):
            for number, one in enumerate(tool.tools):
                add(_offered(one, f"{where}.tools.{number}", tool), where)
        else:
            add(_offered(tool, where, None), where)
    return found


def _offered(
    tool: FunctionTool | CustomTool,
    where: str,
    space: NamespaceTool | None,
) -> Offered:
    told = [space.description] if space is not None and space.description else []
    told += [tool.description] if tool.description else []
    freeform = isinstance(tool, CustomTool)
    text = None
    if isinstance(tool, CustomTool):
        form = tool.format
        if form is not None and form.type == "grammar":
            if form.syntax is None or form.definition is None:
                raise RequestError(f"{where}.format", "a grammar has syntax and definition")
            text = TextFormat(form.syntax, form.definition, f"{where}.format.definition")
            told.append(f"{_KEEPS[form.syntax]}\n{form.definition}")
        parameters: Mapping[str, object] = {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
            "additionalProperties": False,
        }
    else:
        parameters = tool.parameters or {}
    name = tool.name if space is None else f"{space.name}.{tool.name}"
    made = Tool(name, "\n\n".join(told) or None, parameters, text=text)
    return Offered(made, tool.name, None if space is None else space.name, freeform)


_KEEPS = {
    "lark": "input keeps to this grammar (Lark):",
    "regex": "The whole input matches this regex:",
}
_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_WHOLE = re.compile(
    r"(?:[^\"\\]|\\[\"\\/bfnrt]|\\u(?!d[89a-f])[0-9a-f]{4}"
    r"|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})+",
    re.IGNORECASE,
)
_END = re.compile(r'"\s*\}\s*')


class FreeformInput:
    """The text of {"input": "..."} while its JSON comes. What is no such object, or none any more,
    is given as it was written: nothing is lost.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._inside = False

    def feed(self, piece: str) -> str:
        """What is certain of the text, after all before it."""
        self._rest += piece
        if not self._inside:
            head = _HEAD.match(self._rest)
            if head is None:
                return ""
            self._inside, self._rest = True, self._rest[head.end() :]
        whole = _WHOLE.match(self._rest)
        if whole is None:
            return ""
        self._rest = self._rest[whole.end() :]
        return str(json.loads(f'"{whole[0]}"', strict=False))

    def finish(self) -> str:
        """The rest: nothing comes after."""
        rest, self._rest = self._rest, ""
        return "" if self._inside and _END.fullmatch(rest) else rest


def arguments_of(text: str) -> dict[str, str]:
    """A freeform call's arguments, as the model knows them."""
    return {"input": text}
