"""Tools of the Responses API: functions, freeform ones (`custom`), both in namespaces, and Codex's
`local_shell`.

A model knows functions with JSON arguments alone. A freeform tool is one of one text (`freeform`);
a namespace's tools are told to it as NAMESPACE.NAME. What it calls is told to the client by the
client's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.errors import RequestError
from ridgeline.serve.core.ask import TextFormat, Tool
from ridgeline.serve.core.freeform import freeform_tool
from ridgeline.serve.responses import local_shell
from ridgeline.serve.responses.bodies import (
    CustomTool,
    FunctionTool,
    HostedTool,
    LocalShellTool,
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
    is_shell: bool = False


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
                    f"{tool.type!r} runs at OpenAI; function, custom, namespace and local_shell "
                    "tools do here. "
                    "Switch it off at the client, or serve with --lenient",
                )
            ignored.append(where)
        elif isinstance(tool, LocalShellTool):
            add(Offered(local_shell.TOOL, local_shell.NAME, is_shell=True), where)
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
    name = tool.name if space is None else f"{space.name}.{tool.name}"
    if isinstance(tool, CustomTool):
        text = None
        form = tool.format
        if form is not None and form.type == "grammar":
            if form.syntax is None or form.definition is None:
                raise RequestError(f"{where}.format", "a grammar has syntax and definition")
            text = TextFormat(form.syntax, form.definition, f"{where}.format.definition")
        made = freeform_tool(name, told, text)
    else:
        made = Tool(name, "\n\n".join(told) or None, tool.parameters or {})
    namespace = None if space is None else space.name
    return Offered(made, tool.name, namespace, isinstance(tool, CustomTool))
