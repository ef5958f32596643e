"""Chat templates: messages to the very text that a model was trained to answer.

The template comes from the model's files and is as hostile as they are: it is parsed by jinja2 and
walked by `template`, in bounded time and memory. It sees what transformers shows one (`messages`,
`tools`, `documents`, `add_generation_prompt`, the special tokens' text, `raise_exception`,
`strftime_now`) and prints the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import UndefinedError, nodes

from ridgeline.errors import ModelError, RequestError
from ridgeline.model.text.template import Evaluator, parse_template
from ridgeline.model.text.template_meter import Meter
from ridgeline.model.text.template_values import TemplateFault
from ridgeline.model.text.tokenizer import Tokenizer

BASE_STEPS = 2_000_000
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A parsed chat template. `source` is its text; `tokens` are names it knows, such as
    `bos_token`.
    """

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    _tree: nodes.Template = field(init=False, repr=False, compare=False)
    _reads_parts: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises `ModelError` for a template that is not Jinja."""
        try:
            tree = parse_template(self.source)
            reads_parts = _loops_over_content(tree)
        except RecursionError:
            raise ModelError(
                "chat template: is nested too deeply; use --raw (Python: generate) to go without it"
            ) from None
        except TemplateFault as fault:
            raise ModelError(
                f"chat template: {fault}; use --raw (Python: generate) to go without it"
            ) from None
        object.__setattr__(self, "_tree", tree)
        object.__setattr__(self, "_reads_parts", reads_parts)

    @staticmethod
    def of(tokenizer: Tokenizer) -> ChatTemplate:
        """The template of a tokenizer's files. Raises `ModelError` where they hold none."""
        if tokenizer.chat_template is None:
            raise ModelError(
                "this model has no chat template; use --raw (Python: generate) for plain text"
            )
        ids = {
            "bos_token": tokenizer.bos_id,
            "eos_token": tokenizer.eos_id,
            "unk_token": tokenizer.unknown_id,
            "pad_token": tokenizer.pad_id,
        }
        texts = {
            name: tokenizer.token_text(index) for name, index in ids.items() if index is not None
        }
        return ChatTemplate(tokenizer.chat_template, texts)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a conversation, to be encoded with `add_special=False`.

        messages: {"role": ..., "content": text or a list of parts {"type": "text", "text": ...},
        ...}. tools: JSON schemas as OpenAI writes them. variables: what a template may know
        besides, such as `enable_thinking`. Raises `RequestError` for messages that are wrong or
        that the template refuses (roles that must alternate), `ModelError` for a template that
        fails or does not end.
        """
        plain = [self._message(message, place) for place, message in enumerate(messages)]
        names: dict[str, Any] = {
            **self.tokens,
            "documents": None,
            **{name: _plain(value, name) for name, value in variables.items()},
            "messages": plain,
            "tools": None if tools is None else _plain(list(tools), "tools"),
            "add_generation_prompt": add_generation_prompt,
            "raise_exception": _refuse,
            "strftime_now": _strftime_now,
        }
        evaluator = Evaluator(Meter(BASE_STEPS + _size(plain) + _size(names["tools"])))
        try:
            return evaluator.render(self._tree, names)
        except (RequestError, ModelError):
            raise
        except (TemplateFault, UndefinedError, ArithmeticError, LookupError) as error:
            reason = str(error) or type(error).__name__
        except (TypeError, ValueError, AttributeError, MemoryError) as error:
            reason = str(error) or type(error).__name__
        raise ModelError(
            f"chat template, line {evaluator.line}: {reason.splitlines()[0]}; "
            "use --raw (Python: generate) to go without it"
        )

    def _message(self, message: Mapping[str, Any], place: int) -> dict[str, Any]:
        where = f"messages[{place}]"
        if not isinstance(message, Mapping):
            raise RequestError(where, "must be an object with a role and a content")
        if not isinstance(message.get("role"), str):
            raise RequestError(f"{where}.role", "must be a string, such as 'user'")
        plain: dict[str, Any] = _plain(dict(message), where)
        content = plain.get("content")
        if isinstance(content, list):
            if not self._reads_parts:
                plain["content"] = _joined_parts(content, where)
        elif not isinstance(content, (str, dict, type(None))):
            raise RequestError(f"{where}.content", "must be a string or a list of parts")
        return plain


def _joined_parts(parts: Sequence[Any], where: str) -> str:
    """The text of a list of parts, for a template that knows only strings."""
    texts: list[str] = []
    for place, part in enumerate(parts):
        text = part.get("text") if isinstance(part, dict) else part
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind != "text" or not isinstance(text, str):
            raise RequestError(
                f"{where}.content[{place}]", f"this model reads text, not a part of type {kind!r}"
            )
        texts.append(text)
    return "\n".join(texts)


def _loops_over_content(tree: nodes.Template) -> bool:
    """Whether the template itself takes a message's content apart: a loop over `….content` or a
    name set to it.
    """
    names = {"content"}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_content(assign.node, names):
            names.add(assign.target.name)
    return any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    while isinstance(node, nodes.Filter):
        node = node.node
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        return node.node.attr == "get" and _is_constant_content(node.args[0] if node.args else None)
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return _is_constant_content(node.arg)
    return isinstance(node, nodes.Name) and node.name in names


def _is_constant_content(node: nodes.Node | None) -> bool:
    return isinstance(node, nodes.Const) and node.value == "content"


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of JSON-like `value` made of dicts, lists and scalars alone."""
    if depth > MAX_DEPTH:
        raise RequestError(where, f"is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part, where, depth + 1) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, where, depth + 1) for part in value]
    raise RequestError(where, f"holds a value of type {type(value).__name__}, not JSON")


def _size(value: Any) -> int:
    return sum(len(part) if isinstance(part, str) else 1 for part in _walk(value))


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from _walk(part)


def _refuse(message: Any = "") -> NoReturn:
    text = " ".join(str(message).split())[:300] if isinstance(message, str) else "not allowed"
    raise RequestError("messages", f"the model's chat template refuses them: {text}")


def _strftime_now(format: Any) -> str:  # noqa: A002  the name that templates use
    if not isinstance(format, str) or not re.fullmatch(r"(?:%-?[a-zA-Z%]|[^%]){0,100}", format):
        raise TemplateFault("strftime_now: the format must be short and without widths")
    return datetime.now().strftime(format)
