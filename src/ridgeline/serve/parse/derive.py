"""How a model writes calls and reasoning, found out from its own chat template.

The template prints a conversation in which a probe was called; what it prints around the probe's
name and arguments is the format. Nothing is known by model names. Templates that print no calls
but tell the model how to write them are known by the marks that they tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ridgeline.errors import RidgelineError
from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.parse import harmony
from ridgeline.serve.parse.format import IdStyle, ModelFormat, ReasoningFormat, ToolFormat
from ridgeline.serve.parse.reader import ANY_ID, ANY_NUMBER, ANY_TRUTH, marker_pieces

NAMES = ("probe_fn", "probe_gn")
ARGUMENTS: Mapping[str, Any] = {"probe_arg": "probe value", "probe_num": 71}
CONTENT = "PROBE CONTENT"
# Names under which templates want tools: all but SmolLM3's call them "tools".
TOOL_VARIABLES = ("tools", "xml_tools")
_LONG_IDS = ("call_probe00000000000000a", "call_probe00000000000000b")
_NINE_IDS = ("probe000a", "probe000b")

_ID_STYLES: tuple[tuple[tuple[str, str], IdStyle], ...] = (
    (_LONG_IDS, "plain"),
    (_NINE_IDS, "nine"),
)

_REASONING = (
    ReasoningFormat("<think>", "</think>"),
    ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningFormat("[THINK]", "[/THINK]"),
    ReasoningFormat("<seed:think>", "</seed:think>"),
    ReasoningFormat("<think:opensource>", "</think:opensource>"),
    ReasoningFormat("<|channel>thought", "<channel|>"),
    ReasoningFormat("<|inner_prefix|>", "<|inner_suffix|>"),
    ReasoningFormat("<mm:think>", "</mm:think>"),
    ReasoningFormat("<reasoning>", "</reasoning>"),
)
_WRAPPERS = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")

# What templates tell models to write that print no calls themselves.
_TOLD = (
    (
        "<tool_call>",
        ToolFormat(
            "object", call_open="<tool_call>\n", call_close="\n</tool_call>", separator="\n"
        ),
    ),
    (
        "<|tool_list_start|>",
        ToolFormat(
            "pythonic",
            section_open="<|tool_call_start|>[",
            separator=", ",
            section_close="]<|tool_call_end|>",
        ),
    ),
    (
        "List of tools: [",
        ToolFormat(
            "pythonic",
            section_open="<|tool_call_start|>[",
            separator=", ",
            section_close="]<|tool_call_end|>",
        ),
    ),
    (
        "<|tool_call|>",
        ToolFormat("object", section_open="<|tool_call|>[", separator=", ", section_close="]"),
    ),
)


def format_of(template: ChatTemplate, ends: Sequence[str] = ()) -> ModelFormat:
    """What `template` says of its model's output. ends: texts of the tokens that end an answer."""
    source = template.source
    if all(mark in source for mark in (harmony.START, harmony.CHANNEL, harmony.MESSAGE)):
        tools = ToolFormat("harmony", many=False) if "functions." in source else None
        why = "" if tools else _NO_TOOLS
        return ModelFormat(tools, ReasoningFormat("", "", harmony=True), why)
    reasoning = next((found for found in _REASONING if found.close in source), None)
    wrappers = _WRAPPERS if all(mark in source for mark in _WRAPPERS) else ()
    probe = _Probe(template, reasoning, tuple(ends))
    tools, why = probe.tools()
    return ModelFormat(tools, reasoning, why, wrappers)


_NO_TOOLS = (
    "this model's chat template knows no tools; use a model that was trained to call them, or "
    "describe them in a message and leave tools out"
)


@dataclass(frozen=True, slots=True)
class _Probe:
    template: ChatTemplate
    reasoning: ReasoningFormat | None
    ends: tuple[str, ...]

    def tools(self) -> tuple[ToolFormat | None, str]:
        variable = next((name for name in TOOL_VARIABLES if self._tells(name)), None)
        printed = False
        for ids, style in _ID_STYLES:
            for as_text in (False, True):
                one = self._call(ids, as_text, 1)
                if one is None:
                    continue
                printed = True
                found = _format_from(one, self._call(ids, as_text, 2), ids, self._ends(one))
                if found is not None and _is_sound(found):
                    if found.body == "braced":
                        turned = self._call(
                            ids, as_text, 1, dict(reversed(list(ARGUMENTS.items())))
                        )
                        found = replace(found, in_order=turned == one)
                    return self._marked(found, style, variable), ""
        if variable is None:
            return None, _NO_TOOLS
        told_text = self._told(variable) or ""
        for told, form in _TOLD:
            if told in told_text and not printed:
                return self._marked(form, "plain", variable), ""
        return None, (
            "this model's chat template prints calls of tools in a form that is not known here; "
            "describe the tools in a message and leave tools out"
        )

    def _told(self, variable: str) -> str | None:
        """The prompt of a conversation in which tools are offered as `variable`."""
        offer = _offer()
        extra = {} if variable == "tools" else {variable: offer}
        try:
            return self.template.render(
                [_USER], tools=None if extra else offer, add_generation_prompt=True, **extra
            )
        except RidgelineError:
            return None

    def _tells(self, variable: str) -> bool:
        return NAMES[0] in (self._told(variable) or "")

    def _marked(self, form: ToolFormat, ids: IdStyle, variable: str | None) -> ToolFormat:
        """With what begins a call in the middle of a text."""
        source = self.template.source
        if form.body == "named" and ANY_NUMBER in form.args_open:
            ids = "indexed"
        opening = marker_pieces(form.section_open) or marker_pieces(form.call_open)
        triggers = [opening[0]] if opening and opening[0] not in ("{", "[") else []
        if form.body == "object" and not triggers and "<|python_tag|>" in source:
            triggers.append("<|python_tag|>")
        if form.body == "pythonic" and "<|python_start|>" in source and not triggers:
            triggers.append("<|python_start|>")
        at_start = not opening or opening[0] in ("{", "[")
        return replace(
            form, ids=ids, triggers=tuple(triggers), at_start=at_start, variable=variable
        )

    def _call(
        self, ids: Sequence[str], as_text: bool, count: int, given: Mapping[str, Any] = ARGUMENTS
    ) -> str | None:
        """What is printed for an answer that calls, after what an answer in words begins with."""
        arguments = json.dumps(given) if as_text else dict(given)
        calls = [
            {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, name in zip(ids[:count], NAMES, strict=False)
        ]
        words = self._render([_USER, {"role": "assistant", "content": CONTENT}], _offer(), False)
        for content in ("", None):
            message = {"role": "assistant", "content": content, "tool_calls": calls}
            text = self._render([_USER, message], _offer(), False)
            if text is None or words is None or NAMES[0] not in text:
                continue
            same = _snapped_back(_shared(text, words))
            text = text[len(same) :]
            close = self.reasoning.close if self.reasoning is not None else ""
            called = text.find(NAMES[0])
            if close and text.rfind(close, 0, called) >= 0:
                text = text[text.rfind(close, 0, called) + len(close) :]
            if called >= 0:
                return text.lstrip()
        return None

    def _ends(self, text: str) -> tuple[str, ...]:
        """Texts at which an answer has ended, whatever is printed after."""
        words = self._render([_USER, {"role": "assistant", "content": CONTENT}], _offer(), False)
        common = ""
        if words is not None and CONTENT in words:
            after = words[words.rindex(CONTENT) + len(CONTENT) :]
            common = _shared_end(after, text)
            common = common[common.index("<") :] if "<" in common else ""
        known = self.template.tokens.get("eos_token", "")
        return tuple(end for end in (common.strip(), known, *self.ends) if end.strip())

    def _render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, prompt: bool
    ) -> str | None:
        try:
            return self.template.render(messages, tools=tools, add_generation_prompt=prompt)
        except RidgelineError:
            return None


_USER: dict[str, Any] = {"role": "user", "content": "PROBE QUESTION"}


def _offer() -> list[dict[str, Any]]:
    properties = {"probe_arg": {"type": "string"}, "probe_num": {"type": "integer"}}
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": "A probe.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        key: {**kind, "description": "One."} for key, kind in properties.items()
                    },
                    "required": list(properties),
                },
            },
        }
        for name in NAMES
    ]


def _is_sound(form: ToolFormat) -> bool:
    """Whether the marks say where a call begins, and are none of the probe's own text."""
    if any(name in str(part) for name in NAMES for part in (form.args_open, form.call_open)):
        return False
    opening = (form.section_open + form.call_open).strip()
    return bool(opening) or form.body in ("object", "pythonic")


@dataclass(frozen=True, slots=True)
class _Core:
    """Where one call's body lies in a text, and what else is known of its form."""

    start: int
    end: int
    form: ToolFormat


def _format_from(
    one: str, two: str | None, ids: Sequence[str], ends: tuple[str, ...]
) -> ToolFormat | None:
    core = _core(one, 0, NAMES[0])
    if core is None:
        return None
    before, after = one[: core.start], _until(one[core.end :], ends)
    form = core.form
    again = None
    if two is not None:
        first = _core(two, 0, NAMES[0])
        again = None if first is None else _core(two, first.end, NAMES[1])
    if two is None or first is None or again is None:
        opening, closing = _wild(before, ids), _wild(after.rstrip(), ids)
        return replace(form, call_open=opening, call_close=closing, many=False)
    between = two[first.end : again.start]
    before, after, between = (_wild(text, ids) for text in (before, after, between))
    opening = _shared_end(before, between)
    opening = _snapped_forward(opening)
    between = between[: len(between) - len(opening)]
    closing = _snapped_back(_shared(after, between))
    return replace(
        form,
        section_open=before[: len(before) - len(opening)],
        call_open=opening,
        call_close=closing,
        separator=between[len(closing) :],
        section_close=after[len(closing) :].rstrip(),
    )


def _core(text: str, at: int, name: str) -> _Core | None:
    for find in (_object_core, _named_core, _pythonic_core, _braced_core, _tagged_core):
        found = find(text, at, name)
        if found is not None:
            return found
    return None


def _object_core(text: str, at: int, name: str) -> _Core | None:
    """The innermost JSON object that has both the name and the arguments."""
    found = None
    for place in _places(text, "{", at):
        value, end = _json_at(text, place)
        if not isinstance(value, dict):
            continue
        names = [key for key, part in value.items() if part == name]
        args = [key for key, part in value.items() if _is_arguments(part)]
        if names and args and isinstance(value[args[0]], dict):
            key, part = next(iter(value.items()))
            lead = (key, str(part)) if key != names[0] and isinstance(part, str) else None
            last, part = list(value.items())[-1]
            tail = last if part in (*_LONG_IDS, *_NINE_IDS) else None
            form = ToolFormat("object", name_key=names[0], args_key=args[0], lead=lead, tail=tail)
            found = _Core(place, end, form)
        elif list(value) == [name] and _is_arguments(value[name]):
            found = _Core(place, end, ToolFormat("keyed"))
        if found is not None:
            return found
    return None


def _named_core(text: str, at: int, name: str) -> _Core | None:
    """The name, something, and the arguments as one JSON object."""
    for place in _places(text, name, at):
        after = place + len(name)
        begin = text.find("{", after)
        if begin < 0:
            return None
        value, end = _json_at(text, begin)
        if _is_arguments(value):
            between = re.sub(r"^:\d+", ":" + ANY_NUMBER, text[after:begin])
            between = _wild(between, (*_LONG_IDS, *_NINE_IDS))
            return _Core(place, end, ToolFormat("named", args_open=between))
    return None


def _pythonic_core(text: str, at: int, name: str) -> _Core | None:
    call = rf"{name}\(probe_arg=(['\"])probe value\1,\s*probe_num=71\)"
    found = re.compile(call).search(text, at)
    return found and _Core(found.start(), found.end(), ToolFormat("pythonic"))


def _braced_core(text: str, at: int, name: str) -> _Core | None:
    call = rf"{name}\{{probe_arg:(\S{{1,40}}?)probe value\1,\s*probe_num:71\}}"
    found = re.compile(call).search(text, at)
    return found and _Core(found.start(), found.end(), ToolFormat("braced", quote=found[1]))


def _tagged_core(text: str, at: int, name: str) -> _Core | None:
    """The name, and each argument's name and value between marks of its own."""
    place = text.find(name, at)
    if place < 0:
        return None
    bounds = [place + len(name)]
    for part in ("probe_arg", "probe value", "probe_num", "71"):
        start = text.find(part, bounds[-1])
        if start < 0:
            return None
        bounds += [start, start + len(part)]
    opening, first, between, second = (text[bounds[i] : bounds[i + 1]] for i in (0, 2, 4, 6))
    if first != second:
        # It says of each value whether it is text (DeepSeek V3.2).
        if first.count("true") != 1 or first.replace("true", "false") != second:
            return None
        first = first.replace("true", ANY_TRUTH)
    after = text[bounds[8] :]
    key_open = _shared_end(opening, between)
    key_open = _snapped_forward(key_open)
    value_close = between[: len(between) - len(key_open)]
    if not after.startswith(value_close.rstrip()) or not value_close.strip():
        return None
    end = bounds[8] + len(_shared(after, value_close))
    form = ToolFormat(
        "tagged",
        args_open=opening[: len(opening) - len(key_open)],
        key_open=key_open,
        key_close=first,
        value_close=value_close,
    )
    return _Core(place, end, form)


def _is_arguments(value: Any) -> bool:
    return isinstance(value, dict) and value == ARGUMENTS


def _places(text: str, part: str, at: int) -> list[int]:
    return [found.start() for found in re.compile(re.escape(part)).finditer(text, at)]


def _json_at(text: str, place: int) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place


def _until(text: str, ends: tuple[str, ...]) -> str:
    places = [place for end in ends if (place := text.find(end)) >= 0]
    return text[: min(places, default=len(text))]


def _wild(text: str, ids: Sequence[str]) -> str:
    for one in ids:
        text = text.replace(one, ANY_ID)
    return text


def _snapped_back(text: str) -> str:
    """Without a mark at its end that is only begun."""
    for opened, closed in (("<", ">"), ("[", "]")):
        place = text.rfind(opened)
        if place > text.rfind(closed):
            text = text[:place]
    return text


def _snapped_forward(text: str) -> str:
    """Without the rest of a mark at its beginning."""
    places = [place for char in "<[" if (place := text.find(char)) >= 0]
    return text[min(places) :] if places else ("" if not text.strip().isalnum() else text)


def _shared(a: str, b: str) -> str:
    """What both begin with."""
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    return a[: min(len(a), len(b)) if same is None else same]


def _shared_end(a: str, b: str) -> str:
    """What both end with."""
    return _shared(a[::-1], b[::-1])[::-1]
