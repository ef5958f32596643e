"""Anthropic's messages as those that chat templates know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ridgeline.errors import RequestError
from ridgeline.serve.anthropic.bodies import (
    CountBody,
    ImageBlock,
    Message,
    OtherBlock,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolDefinition,
    ToolResultBlock,
    ToolUseBlock,
)
from ridgeline.serve.core.sealed import unseal

# Claude Code's first block of `system`, for Anthropic's billing. It differs at every request: as
# text for a model it would also keep every prompt from the prefix cache.
_BILLING = "x-anthropic-billing-header:"


def messages_of(body: CountBody, ignored: list[str] | None = None) -> list[dict[str, Any]]:
    """Raises RequestError, naming the place, for what a model that reads text cannot be given.
    ignored: is given the places of sealed thinking of other servers; None: that is refused, too.
    """
    found: list[dict[str, Any]] = []
    system = body.system
    if system is not None and not isinstance(system, str):
        system = [block for block in system if not block.text.startswith(_BILLING)]
    if system:
        found.append({"role": "system", "content": _text(system, "system")})
    names: dict[str, str] = {}
    for place, message in enumerate(body.messages):
        where = f"messages.{place}.content"
        if isinstance(message.content, str):
            found.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            found.append(_assistant(message, where, names, ignored))
        else:
            found += _user(message, where, names)
    return found


def tools_of(
    tools: Sequence[ToolDefinition] | None, ignored: list[str] | None = None
) -> list[dict[str, Any]]:
    """Definitions as chat templates read them: OpenAI's form. ignored: is given the places of what
    runs at Anthropic and is left out; None: it is refused.
    """
    found = []
    for place, tool in enumerate(tools or ()):
        if tool.type not in (None, "custom") and ignored is not None:
            ignored.append(f"tools.{place}")
            continue
        if tool.type not in (None, "custom"):
            raise RequestError(
                f"tools.{place}.type", f"{tool.type!r} runs at Anthropic; only custom tools do here"
            )
        function: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        function["parameters"] = tool.input_schema or {"type": "object", "properties": {}}
        if tool.input_examples:
            raise RequestError(f"tools.{place}.input_examples", "are not read; leave them out")
        found.append({"type": "function", "function": function})
    return found


def _assistant(
    message: Message, where: str, names: dict[str, str], ignored: list[str] | None
) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    assert not isinstance(message.content, str)
    for place, block in enumerate(message.content):
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ThinkingBlock):
            thoughts.append(_thought(block, f"{where}.{place}", ignored))
        elif isinstance(block, ToolUseBlock):
            names[block.id] = block.name
            function = {"name": block.name, "arguments": block.input}
            calls.append({"id": block.id, "type": "function", "function": function})
        else:
            raise _cannot(block, f"{where}.{place}", message.role)
    found: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        found["reasoning_content"] = "".join(thoughts)
    if calls:
        found["tool_calls"] = calls
    return found


def _thought(block: ThinkingBlock, where: str, ignored: list[str] | None) -> str:
    if block.thinking or not block.signature:
        return block.thinking
    thought = unseal(block.signature)
    if thought is None and ignored is None:
        raise RequestError(f"{where}.signature", "is another server's, and cannot be read here")
    if thought is None and ignored is not None:
        ignored.append(where)
    return thought or ""


def _user(message: Message, where: str, names: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    assert not isinstance(message.content, str)
    for place, block in enumerate(message.content):
        if isinstance(block, TextBlock):
            parts.append({"type": "text", "text": block.text})
        elif isinstance(block, ImageBlock):
            parts.append(_image(block, f"{where}.{place}.source"))
        elif isinstance(block, ToolResultBlock) and message.role == "user":
            if block.tool_use_id not in names:
                raise RequestError(
                    f"{where}.{place}.tool_use_id",
                    f"{block.tool_use_id!r} is no tool_use of a message before",
                )
            content, images = _result(block, f"{where}.{place}.content")
            parts += images
            found.append(
                {
                    "role": "tool",
                    "tool_call_id": block.tool_use_id,
                    "name": names[block.tool_use_id],
                    "content": f"Error: {content}" if block.is_error else content,
                }
            )
        else:
            raise _cannot(block, f"{where}.{place}", message.role)
    if any(part["type"] == "image_url" for part in parts):
        found.append({"role": message.role, "content": parts})
    elif parts or not found:
        found.append({"role": message.role, "content": "\n".join(part["text"] for part in parts)})
    return found


def _result(block: ToolResultBlock, where: str) -> tuple[str, list[dict[str, Any]]]:
    """The text of a tool's result; its images as parts of the user's message that follows, since
    chat templates know images of users alone.
    """
    if isinstance(block.content, str):
        return block.content, []
    texts: list[TextBlock | OtherBlock] = []
    images = []
    for place, one in enumerate(block.content):
        if isinstance(one, ImageBlock):
            images.append(_image(one, f"{where}.{place}.source"))
        else:
            texts.append(one)
    return _text(texts, where), images


def _image(block: ImageBlock, where: str) -> dict[str, Any]:
    source = block.source
    if source.type != "base64" or source.data is None:
        raise RequestError(where, "must be the image in base64; none is fetched")
    url = f"data:{source.media_type or ''};base64,{source.data}"
    return {"type": "image_url", "image_url": url}


def _text(content: str | Sequence[TextBlock | ImageBlock | OtherBlock], where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for place, block in enumerate(content):
        if not isinstance(block, TextBlock):
            raise _cannot(block, f"{where}.{place}", "user")
        texts.append(block.text)
    return "\n".join(texts)


def _cannot(block: object, where: str, role: str) -> RequestError:
    if isinstance(block, ImageBlock | OtherBlock):
        return RequestError(f"{where}.type", f"{block.type!r} cannot be read here")
    if isinstance(block, RedactedThinkingBlock):
        return RequestError(f"{where}.type", "'redacted_thinking' cannot be read here")
    return RequestError(
        f"{where}.type", f"{getattr(block, 'type', '?')!r} has no place in a message of the {role}"
    )
