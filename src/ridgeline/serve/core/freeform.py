"""Freeform tools: called with a text, where a model knows functions with JSON arguments alone.

Such a tool is told to the model as a function of one text, `input`; what it is called with is
told to the client as that text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ridgeline.serve.core.ask import TextFormat, Tool

_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
_KEEPS = {
    "lark": "input keeps to this grammar (Lark):",
    "regex": "The whole input matches this regex:",
}


def freeform_tool(name: str, descriptions: list[str], text: TextFormat | None) -> Tool:
    """As the model knows it. descriptions: what the client says of it; text: what its input keeps
    to, which is told to the model as well.
    """
    told = list(descriptions)
    if text is not None:
        told.append(f"{_KEEPS[text.syntax]}\n{text.definition}")
    return Tool(name, "\n\n".join(told) or None, _PARAMETERS, text=text)


def arguments_of(text: str) -> dict[str, str]:
    """A freeform call's arguments, as the model knows them."""
    return {"input": text}


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
