"""Items of the Responses API as messages that chat templates know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ridgeline.errors import RequestError
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.responses.bodies import (
    CallItem,
    CallOutputItem,
    ImagePart,
    MessageItem,
    OtherPart,
    Part,
    ReasoningItem,
    ReferenceItem,
    Tool,
)

_KINDS: dict[str, type[Body]] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": CallOutputItem,
    "reasoning": ReasoningItem,
    "item_reference": ReferenceItem,
}
Item = MessageItem | CallItem | CallOutputItem | ReasoningItem


def read_items(
    given: str | Sequence[dict[str, Any]], known: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The input as plain items, references replaced by those among `known` (by id). Raises
    RequestError, naming the place, for what is none or cannot be read here.
    """
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    found: list[dict[str, Any]] = []
    for place, item in enumerate(given):
        where = f"input[{place}]"
        kind = item.get("type", "message")
        if kind not in _KINDS:
            raise RequestError(
                f"{where}.type", f"{kind!r} is not known here; there are {', '.join(_KINDS)}"
            )
        read = _validated(item, kind, where)
        if isinstance(read, ReferenceItem):
            if read.id not in known:
                raise RequestError(f"{where}.id", f"no item {read.id!r} is stored")
            found.append(known[read.id])
            continue
        if isinstance(read, ReasoningItem) and read.encrypted_content is not None:
            raise RequestError(f"{where}.encrypted_content", "cannot be read here")
        found.append({"type": kind, **item})
    return found


def _validated(item: dict[str, Any], kind: str, where: str) -> Body:
    try:
        return TypeAdapter(_KINDS[kind]).validate_python(item)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{where}.{place}" if place else where, str(first["msg"])) from None


def messages_of(items: Sequence[dict[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """A model's own message, its reasoning and its calls that stand together are one message."""
    found: list[dict[str, Any]] = []
    if instructions:
        found.append({"role": "system", "content": instructions})
    names: dict[str, str] = {}
    own: dict[str, Any] | None = None
    for place, plain in enumerate(items):
        where = f"input[{place}]"
        item = _validated(plain, plain["type"], where)
        if isinstance(item, MessageItem) and item.role != "assistant":
            own = None
            role = "system" if item.role == "developer" else item.role
            seen = item.role == "user"
            both = _parts(item.content, f"{where}.content") if seen else None
            content = both or _text(item.content, f"{where}.content")
            found.append({"role": role, "content": content})
        elif isinstance(item, CallOutputItem):
            own = None
            if item.call_id not in names:
                raise RequestError(
                    f"{where}.call_id", f"{item.call_id!r} is no function_call of an item before"
                )
            entry = {"role": "tool", "tool_call_id": item.call_id, "name": names[item.call_id]}
            found.append({**entry, "content": _text(item.output, f"{where}.output")})
        else:
            if own is None or (isinstance(item, MessageItem) and "tool_calls" in own):
                own = {"role": "assistant", "content": ""}
                found.append(own)
            if isinstance(item, MessageItem):
                own["content"] += _text(item.content, f"{where}.content")
            elif isinstance(item, CallItem):
                names[item.call_id] = item.name
                function = {"name": item.name, "arguments": _arguments(item, where)}
                call = {"id": item.call_id, "type": "function", "function": function}
                own.setdefault("tool_calls", []).append(call)
            elif isinstance(item, ReasoningItem):
                parts = item.content if item.content is not None else item.summary
                thought = "".join(part.text for part in parts)
                own["reasoning_content"] = own.get("reasoning_content", "") + thought
    return found


def tools_of(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Definitions as chat templates read them."""
    found = []
    for place, tool in enumerate(tools or ()):
        if tool.type != "function":
            raise RequestError(
                f"tools[{place}].type", f"{tool.type!r} runs at OpenAI; only function does here"
            )
        function: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
        found.append({"type": "function", "function": function})
    return found


def _arguments(item: CallItem, where: str) -> Any:
    try:
        found = json.loads(item.arguments)
    except ValueError:
        raise RequestError(f"{where}.arguments", "is not JSON") from None
    if not isinstance(found, dict):
        raise RequestError(f"{where}.arguments", "is not a JSON object")
    return found


def _parts(content: str | Sequence[Part], where: str) -> list[dict[str, Any]] | None:
    """The parts, in order, of a message with images; None: it has none."""
    if isinstance(content, str) or not any(isinstance(part, ImagePart) for part in content):
        return None
    found: list[dict[str, Any]] = []
    for place, part in enumerate(content):
        if not isinstance(part, ImagePart):
            found.append({"type": "text", "text": _text([part], where)})
            continue
        if part.image_url is None:
            raise RequestError(
                f"{where}[{place}].image_url", "is missing: input_image is a data: URL in base64"
            )
        if part.file_id is not None:
            raise RequestError(f"{where}[{place}].file_id", "and image_url: give the latter alone")
        found.append({"type": "image_url", "image_url": part.image_url})
    return found


def _text(content: str | Sequence[Part], where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for place, part in enumerate(content):
        if isinstance(part, ImagePart):
            raise RequestError(f"{where}[{place}].type", "images are a user's alone")
        if isinstance(part, OtherPart):
            raise RequestError(f"{where}[{place}].type", f"this model reads text, not {part.type}")
        texts.append(part.text or part.refusal or "")
    return "\n".join(texts)
