"""Items of the Responses API as messages that chat templates know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ridgeline.errors import RequestError
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.freeform import arguments_of
from ridgeline.serve.core.sealed import unseal
from ridgeline.serve.responses import local_shell
from ridgeline.serve.responses.bodies import (
    CallItem,
    CallOutputItem,
    CompactionItem,
    CustomCallItem,
    CustomCallOutputItem,
    ImagePart,
    LocalShellCallItem,
    LocalShellOutputItem,
    MessageItem,
    OtherPart,
    Part,
    ReasoningItem,
    ReferenceItem,
    TriggerItem,
)
from ridgeline.serve.responses.compaction import TRIGGER, remembered

_KINDS: dict[str, type[Body]] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": CallOutputItem,
    "custom_tool_call": CustomCallItem,
    "custom_tool_call_output": CustomCallOutputItem,
    "local_shell_call": LocalShellCallItem,
    "local_shell_call_output": LocalShellOutputItem,
    "reasoning": ReasoningItem,
    "compaction": CompactionItem,
    "compaction_summary": CompactionItem,
    TRIGGER: TriggerItem,
    "item_reference": ReferenceItem,
}


def read_items(
    given: str | Sequence[dict[str, Any]],
    known: dict[str, dict[str, Any]],
    ignored: list[str] | None = None,
) -> list[dict[str, Any]]:
    """The input as plain items, references replaced by those among `known` (by id). Raises
    RequestError, naming the place, for what is none or cannot be read here; what another server has
    sealed is left out, and its place told, if there is a list of what is ignored.
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
        if isinstance(read, TriggerItem) and place + 1 < len(given):
            raise RequestError(f"{where}.type", f"{kind!r} is the last item, or none")
        if isinstance(read, ReasoningItem | CompactionItem) and _is_foreign(read):
            if ignored is None:
                raise RequestError(
                    f"{where}.encrypted_content", "is another server's, and cannot be read here"
                )
            ignored.append(f"input.{place}.encrypted_content")
            if isinstance(read, CompactionItem):
                continue
            item = {**item, "encrypted_content": None}
        found.append({"type": kind, **item})
    return found


def _is_foreign(item: ReasoningItem | CompactionItem) -> bool:
    return item.encrypted_content is not None and unseal(item.encrypted_content) is None


def _validated(item: dict[str, Any], kind: str, where: str) -> Body:
    try:
        return TypeAdapter(_KINDS[kind]).validate_python(item)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{where}.{place}" if place else where, str(first["msg"])) from None


def messages_of(items: Sequence[dict[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """A model's own message, its reasoning and its calls that stand together are one message; so
    are instructions and what a system or developer says right after them, since many templates
    know one system message, the first. Images of a tool's result follow the results as a user's.
    """
    found: list[dict[str, Any]] = []
    if instructions:
        found.append({"role": "system", "content": instructions})
    names: dict[str, str] = {}
    shells: dict[str | None, str] = {}
    own: dict[str, Any] | None = None
    shown: list[dict[str, Any]] = []
    for place, plain in enumerate(items):
        where = f"input[{place}]"
        item = _validated(plain, plain["type"], where)
        if isinstance(item, CallOutputItem | CustomCallOutputItem | LocalShellOutputItem):
            own = None
            by = _answered(item, names, shells)
            if by is None or by not in names:
                raise RequestError(
                    f"{where}.call_id", f"{by!r} is no function_call of an item before"
                )
            entry = {"role": "tool", "tool_call_id": by, "name": names[by]}
            text, images = _result(item.output, f"{where}.output")
            found.append({**entry, "content": text})
            shown += images
            continue
        if shown:
            found.append({"role": "user", "content": shown})
            shown = []
        if isinstance(item, MessageItem) and item.role != "assistant":
            own = None
            role = "system" if item.role == "developer" else item.role
            seen = item.role == "user"
            both = _parts(item.content, f"{where}.content") if seen else None
            content = both or _text(item.content, f"{where}.content")
            if role == "system" and len(found) == 1 and found[0]["role"] == "system":
                found[0]["content"] += f"\n\n{content}"
            else:
                found.append({"role": role, "content": content})
        else:
            if own is None or (isinstance(item, MessageItem) and "tool_calls" in own):
                own = {"role": "assistant", "content": ""}
                found.append(own)
            if isinstance(item, MessageItem):
                own["content"] += _text(item.content, f"{where}.content")
            elif isinstance(item, CallItem | CustomCallItem):
                name = item.name if item.namespace is None else f"{item.namespace}.{item.name}"
                names[item.call_id] = name
                given: Any = (
                    arguments_of(item.input)
                    if isinstance(item, CustomCallItem)
                    else _arguments(item, where)
                )
                function = {"name": name, "arguments": given}
                call = {"id": item.call_id, "type": "function", "function": function}
                own.setdefault("tool_calls", []).append(call)
            elif isinstance(item, LocalShellCallItem):
                names[item.call_id] = local_shell.NAME
                shells[item.id] = item.call_id
                function = {
                    "name": local_shell.NAME,
                    "arguments": local_shell.arguments_of(item.action),
                }
                call = {"id": item.call_id, "type": "function", "function": function}
                own.setdefault("tool_calls", []).append(call)
            elif isinstance(item, CompactionItem):
                own["content"] += remembered(item.encrypted_content)
            elif isinstance(item, ReasoningItem):
                own["reasoning_content"] = own.get("reasoning_content", "") + _thought(item)
    if shown:
        found.append({"role": "user", "content": shown})
    return found


def _answered(
    item: CallOutputItem | CustomCallOutputItem | LocalShellOutputItem,
    names: Mapping[str, str],
    shells: Mapping[str | None, str],
) -> str | None:
    """The id of the call whose result it is; a shell's may be named by its item's. shells: calls
    by the ids of their items.
    """
    if item.call_id is not None or item.id is None:
        return item.call_id
    return item.id if item.id in names else shells.get(item.id, item.id)


def listed_item(item: dict[str, Any]) -> dict[str, Any]:
    """An item as it is listed: a text is a part."""
    if item["type"] != "message" or not isinstance(item["content"], str):
        return item
    if item["role"] == "assistant":
        part: dict[str, Any] = {"type": "output_text", "text": item["content"], "annotations": []}
    else:
        part = {"type": "input_text", "text": item["content"]}
    return {"status": "completed", **item, "content": [part]}


def _thought(item: ReasoningItem) -> str:
    parts = item.content or item.summary
    if not parts and item.encrypted_content is not None:
        return unseal(item.encrypted_content) or ""
    return "".join(part.text for part in parts)


def _result(content: str | Sequence[Part], where: str) -> tuple[str, list[dict[str, Any]]]:
    """The text of a tool's result, and its images as parts of a message."""
    both = _parts(content, where)
    if both is None:
        return _text(content, where), []
    texts = [part["text"] for part in both if part["type"] == "text"]
    return "\n".join(texts), [part for part in both if part["type"] != "text"]


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
