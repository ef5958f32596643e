"""One call of a tool, read in each of the forms that models write.

A reader of a call says whether there was one. Until it has seen that (the name of a tool that there
is, and the beginning of its arguments) it gives nothing out, and the caller makes text of what was
read; from then on the arguments go out as they come.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ridgeline.engine.constrain.instance import is_instance
from ridgeline.engine.constrain.text_grammar import TextGrammar
from ridgeline.serve.parse.braced import read_braced, read_key
from ridgeline.serve.parse.format import ToolFormat
from ridgeline.serve.parse.json_scan import read_value
from ridgeline.serve.parse.parts import CallArguments, CallBegin
from ridgeline.serve.parse.reader import ANY_TRUTH, Reader, Steps

MAX_PYTHON = 1 << 16


@dataclass(slots=True)
class Calls:
    """What all calls of one answer share: the tools' argument schemas by name, the ids, and what
    the texts keep to that some tools are called with.
    """

    reader: Reader
    form: ToolFormat
    schemas: Mapping[str, Mapping[str, Any]]
    id_of: Callable[[int, str], str]
    texts: Mapping[str, TextGrammar] = field(default_factory=dict)
    count: int = 0

    def knows(self, name: str) -> bool:
        return name in self.schemas

    def holds(self, name: str, arguments: str) -> bool:
        """Whether a whole call that no grammar has held to its tool's schema, or to its text, keeps
        to it.
        """
        try:
            given = json.loads(arguments)
            if not is_instance(given, self.schemas[name]):
                return False
        except (ValueError, RecursionError):
            return False
        if name not in self.texts:
            return True
        text = given.get("input") if len(given) == 1 else None
        return isinstance(text, str) and self.texts[name].accepts(text)

    def begin(self, name: str) -> None:
        self.reader.parts.append(CallBegin(self.id_of(self.count, name), name))
        self.count += 1

    def give(self, text: str) -> None:
        self.reader.parts.append(CallArguments(text))


def read_call(calls: Calls) -> Steps[bool]:
    """Reads a call's body from the place on."""
    return (yield from _READERS[calls.form.body](calls))


def _read_object(calls: Calls) -> Steps[bool]:
    """{"name": "f", "arguments": {...}}, in any order and with anything beside."""
    reader = calls.reader
    yield from reader.space()
    if not (yield from reader.literal("{")):
        return False
    name, kept, began = "", "", False
    while True:
        yield from reader.space()
        start = reader.at
        if not (yield from read_value(reader)) or reader.text[start] != '"':
            return began
        key = json.loads(reader.text[start : reader.at])
        yield from reader.space()
        if not (yield from reader.literal(":")):
            return began
        yield from reader.space()
        start = reader.at
        if not began and name and key in (calls.form.args_key, "arguments", "parameters"):
            if (yield from reader.char()) != "{":
                return False
            calls.begin(name)
            began = True
            if not (yield from read_value(reader, calls.give)):
                return True
        else:
            if not (yield from read_value(reader)):
                return began
            value = reader.text[start : reader.at]
            if key == calls.form.name_key and not name:
                name = str(json.loads(value))
                if value[0] != '"' or not calls.knows(name):
                    return False
                if kept:
                    calls.begin(name)
                    calls.give(kept)
                    began = True
            elif key in (calls.form.args_key, "arguments", "parameters") and value[0] == "{":
                kept = value
        yield from reader.space()
        if (yield from reader.literal(",")):
            continue
        if not (yield from reader.literal("}")):
            return began
        if name and not began:
            calls.begin(name)
            calls.give("{}")
            began = True
        return began


def bare_call(calls: Calls) -> Steps[bool]:
    """{"name": "f", "arguments": {...}}, these two alone, up to the end of the text, and arguments
    that the tool takes. It is held till it is whole, or till it is seen to be none.
    """
    reader, form = calls.reader, calls.form
    yield from reader.literal("{")
    parts: dict[str, str] = {}
    while True:
        yield from reader.space()
        start = reader.at
        if not (yield from read_value(reader)) or reader.text[start] != '"':
            return False
        key = json.loads(reader.text[start : reader.at])
        key = "" if key == form.name_key else "arguments" if key == form.args_key else key
        yield from reader.space()
        if key not in ("", "arguments") or key in parts or not (yield from reader.literal(":")):
            return False
        yield from reader.space()
        start = reader.at
        if not (yield from read_value(reader)):
            return False
        parts[key] = reader.text[start : reader.at]
        if key == "" and (parts[key][0] != '"' or not calls.knows(json.loads(parts[key]))):
            return False
        yield from reader.space()
        if not (yield from reader.literal(",")):
            break
    if len(parts) != 2 or parts["arguments"][0] != "{" or not (yield from reader.literal("}")):
        return False
    yield from reader.space()
    if (yield from reader.char()):
        return False
    name = json.loads(parts[""])
    if not calls.holds(name, parts["arguments"]):
        return False
    calls.begin(name)
    calls.give(parts["arguments"])
    return True


def _read_keyed(calls: Calls) -> Steps[bool]:
    """{"f": {...}}"""
    reader = calls.reader
    yield from reader.space()
    if not (yield from reader.literal("{")):
        return False
    yield from reader.space()
    start = reader.at
    if not (yield from read_value(reader)) or reader.text[start] != '"':
        return False
    name = json.loads(reader.text[start : reader.at])
    yield from reader.space()
    if not calls.knows(name) or not (yield from reader.literal(":")):
        return False
    yield from reader.space()
    if (yield from reader.char()) != "{":
        return False
    calls.begin(name)
    if (yield from read_value(reader, calls.give)):
        yield from reader.space()
        yield from reader.literal("}")
    return True


def _read_named(calls: Calls) -> Steps[bool]:
    """f ARGS_OPEN {...}"""
    reader = calls.reader
    name = yield from reader.name()
    if not calls.knows(name) or not (yield from reader.accept(calls.form.args_open)):
        return False
    yield from reader.space()
    if (yield from reader.char()) != "{":
        return False
    calls.begin(name)
    yield from read_value(reader, calls.give)
    return True


def _read_tagged(calls: Calls) -> Steps[bool]:
    """f ARGS_OPEN (KEY_OPEN key KEY_CLOSE value VALUE_CLOSE)*; the values become JSON."""
    reader, form = calls.reader, calls.form
    name = yield from reader.name()
    if not calls.knows(name) or not (yield from reader.accept(form.args_open)):
        return False
    calls.begin(name)
    given: set[str] = set()
    opened = "{"
    while True:
        before = reader.at
        if not (yield from reader.accept(form.key_open)):
            break
        key = yield from reader.name()
        marked = reader.at
        if not key or key in given or not (yield from reader.accept(form.key_close.rstrip())):
            reader.at = before
            break
        mark = reader.text[marked : reader.at]
        value = yield from _tagged_value(reader, form)
        if value is None:
            reader.at = before
            break
        given.add(key)
        is_text = ANY_TRUTH in form.key_close and "true" in mark
        told = json.dumps(value, ensure_ascii=False) if is_text else None
        told = told or _json_of(value, calls, name, key)
        pair = f"{json.dumps(key, ensure_ascii=False)}: {told}"
        calls.give(opened + pair)
        opened = ", "
    before = reader.at
    if (yield from reader.accept(form.call_close)):
        calls.give("{}" if opened == "{" else "}")
    elif opened == "{":
        calls.give("{")  # cut off: the arguments are not whole, and do not look so
    reader.at = before
    return True


def _tagged_value(reader: Reader, form: ToolFormat) -> Steps[str | None]:
    """The text up to value_close, held until it is whole: only then is it known what it is."""
    if form.key_close != form.key_close.rstrip():
        yield from reader.literal("\n")
    start = sought = reader.at
    close = form.value_close.strip()
    while (end := reader.text.find(close, sought)) < 0:
        sought = max(start, len(reader.text) - len(close))
        if reader.closed:
            return None
        yield
    reader.at = end + len(close)
    value = reader.text[start:end]
    return value.removesuffix("\n") if form.value_close[:1].isspace() else value


def _json_of(value: str, calls: Calls, name: str, key: str) -> str:
    """A value written as bare text: text where its schema lets it be text only, else what it is as
    JSON, and text where it is none.
    """
    properties = calls.schemas[name].get("properties")
    schema = properties.get(key) if isinstance(properties, Mapping) else None
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    is_text = kinds == "string"
    if isinstance(schema, Mapping) and kinds is None:
        options = schema.get("enum", [schema["const"]] if "const" in schema else ())
        is_text = bool(options) and all(isinstance(option, str) for option in options)
    if not is_text:
        try:
            json.loads(value, parse_constant=_refuse_constant)
            return value.strip()
        except (ValueError, RecursionError):
            pass
    return json.dumps(value, ensure_ascii=False)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _read_braced(calls: Calls) -> Steps[bool]:
    """f{a:1,b:QxQ}; the values become JSON, each as soon as it is whole."""
    reader, quote = calls.reader, calls.form.quote
    name = yield from reader.name()
    yield from reader.space()
    if not calls.knows(name) or not (yield from reader.literal("{")):
        return False
    calls.begin(name)
    given: set[str] = set()
    opened = "{"
    while True:
        before = reader.at
        yield from reader.space()
        if (yield from reader.literal("}")):
            calls.give("{}" if opened == "{" else "}")
            return True
        if given and not (yield from reader.literal(",")):
            break
        key = yield from read_key(reader, quote)
        value = None
        if key and key not in given:
            value = yield from read_braced(reader, quote)
        if value is None:
            break
        given.add(key)
        calls.give(f"{opened}{json.dumps(key, ensure_ascii=False)}: {value}")
        opened = ", "
    reader.at = before
    if opened == "{":
        calls.give("{")  # cut off: the arguments are not whole, and do not look so
    return True


def _read_pythonic(calls: Calls) -> Steps[bool]:
    """f(a=1, b='x'): Python's literals, held until the call is whole."""
    reader = calls.reader
    yield from reader.space()
    name = yield from reader.name()
    if not calls.knows(name) or (yield from reader.char()) != "(":
        return False
    start, depth, quote = reader.at, 0, ""
    while True:
        char = yield from reader.char()
        if not char or reader.at - start > MAX_PYTHON:
            return False
        reader.at += 1
        if quote:
            if char == "\\":
                if not (yield from reader.char()):
                    return False
                reader.at += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                break
    arguments = _python_arguments(reader.text[start : reader.at])
    if arguments is None:
        return False
    calls.begin(name)
    calls.give(arguments)
    return True


def _python_arguments(text: str) -> str | None:
    """(a=1, b='x') as JSON; None where it is not keywords with literals."""
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            return None
        values = {str(k.arg): _literal(k.value) for k in call.keywords}
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(part) for part in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else ast.literal_eval(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key that is no text")
        return dict(zip(keys, map(_literal, node.values), strict=True))
    value = ast.literal_eval(node)
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("not JSON")
    return value


_READERS: Mapping[str, Callable[[Calls], Steps[bool]]] = {
    "object": _read_object,
    "keyed": _read_keyed,
    "named": _read_named,
    "tagged": _read_tagged,
    "pythonic": _read_pythonic,
    "braced": _read_braced,
}
