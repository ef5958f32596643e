"""The grammar of a model's calls of tools, in its own form: Lark, as llguidance reads it.

Required: the answer is calls (after reasoning, where the model reasons). Otherwise: free text, and
from the mark of a call on nothing but a call. Arguments are of the tool's own schema. What
`parser.Parser` reads is wider than what this lets a model write.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ridgeline.engine.constrain.compile import WHITESPACE
from ridgeline.engine.constrain.quoted_regex import exactly
from ridgeline.engine.constrain.text_grammar import TextGrammar
from ridgeline.errors import RequestError
from ridgeline.serve.parse import harmony
from ridgeline.serve.parse.braced import BracedGrammar
from ridgeline.serve.parse.format import ModelFormat, ToolFormat
from ridgeline.serve.parse.reader import ANY_ID, ANY_NUMBER, ANY_TRUTH

Schema = Mapping[str, Any]
_TEXT = r"/(.|\n)*/"


def tool_grammar(
    form: ModelFormat,
    tools: Sequence[tuple[str, Schema]],
    *,
    required: bool,
    many: bool = True,
    reasons: bool = False,
    special: Mapping[str, int] | None = None,
    texts: Mapping[str, TextGrammar] | None = None,
) -> str:
    """tools: names and argument schemas, of which each call has one. many: more than one call in an
    answer. reasons: the prompt ends inside a reasoning section. special: the tokenizer's special
    tokens by text: they are written by their ids. texts: by tool, what its one argument, the text
    `input`, keeps to.

    Raises RequestError, with a JSON pointer into the schema, for what the form cannot hold.
    """
    assert form.tools is not None
    writer = _Writer(form.tools, special or {}, texts or {})
    if form.tools.body == "harmony":
        return _harmony(writer, tools, required)
    many = many and form.tools.many
    calls = [writer.rule(writer.call(name, schema)) for name, schema in tools]
    one = writer.rule(" | ".join(calls))
    section, rest = writer.section(one, many)
    thinking = _thinking(writer, form, reasons, required)
    if required:
        return writer.grammar(f"{thinking} {section}")
    text = writer.free()
    if form.tools.at_start:
        # What begins as a call does is one.
        marks = "".join(f"{writer.literal(mark)} | " for mark in form.tools.triggers)
        start = writer.rule(f'({marks}"") {section}')
        begins = r"\[" if form.tools.body == "pythonic" else "{"
        other = writer.free(rf"\s*([^\s{begins}<]|<[^|])(.|\n)*")
        words = writer.rule(rf"/\s*/ | {other}")
        return writer.grammar(f"{thinking} ({start} | {words})")
    trigger = writer.until(form.tools.triggers[0])
    tag = writer.rule(f"{trigger} {rest}")
    tail = writer.rule(text)
    return writer.grammar(f"{thinking} {tag}* {tail}" if many else f"{thinking} ({tag} | {tail})")


def _thinking(writer: _Writer, form: ModelFormat, reasons: bool, required: bool) -> str:
    marks = form.reasoning
    if marks is None or (not reasons and not required):
        return ""
    close = writer.until(marks.close.strip())
    if reasons:
        return f"{writer.rule(close)} {_SPACE}"
    return f"({writer.literal(marks.open.strip())} {close} {_SPACE})?"


_SPACE = r"/[ \n]{0,4}/"


@dataclass(slots=True)
class _Writer:
    """Rules as they are made, each with a name of its own."""

    form: ToolFormat
    special: Mapping[str, int]
    texts: Mapping[str, TextGrammar]
    rules: list[str] = field(default_factory=list)
    _known: dict[str, str] = field(default_factory=dict)

    def rule(self, body: str, options: str = "") -> str:
        text = f"{options}: {body}"
        if text not in self._known:
            self._known[text] = f"r{len(self.rules)}"
            self.rules.append(f"{self._known[text]}{text}")
        return self._known[text]

    def grammar(self, start: str) -> str:
        return "\n".join(["%llguidance {}", f"start: {start.strip()}", *self.rules]) + "\n"

    def literal(self, text: str) -> str:
        """A marker: special tokens by id, what stands for an id or a number as such."""
        found: list[str] = []
        plain = ""
        at = 0
        tokens = sorted(self.special, key=len, reverse=True)
        while at < len(text):
            token = next((token for token in tokens if token and text.startswith(token, at)), None)
            wild = {ANY_ID: self._id(), ANY_NUMBER: "/[0-9]{1,3}/"}.get(text[at])
            if token is None and wild is None:
                plain += text[at]
                at += 1
                continue
            if plain:
                found.append(json.dumps(plain, ensure_ascii=False))
                plain = ""
            found.append(wild if wild is not None else f"<[{self.special[token or '']}]>")
            at += 1 if wild is not None else len(token or "")
        if plain:
            found.append(json.dumps(plain, ensure_ascii=False))
        return " ".join(found)

    def _id(self) -> str:
        return "/[A-Za-z0-9]{9}/" if self.form.ids == "nine" else "/[A-Za-z0-9_-]{1,40}/"

    def until(self, mark: str) -> str:
        """Any text, and the first `mark` behind it."""
        written = self.literal(mark)
        if written.startswith("<["):
            return self.rule(f"{self.free()} {written}")
        return self.rule(f"{_TEXT} {written}", "[lazy]")

    def free(self, regex: str = r"(.|\n)*") -> str:
        """A terminal of texts without the marks that begin calls, or messages, where these are
        special tokens: such a token is no part of a text, and spelled in letters it is not, either.
        """
        marks = [mark for mark in (*self.form.triggers, *harmony.MARKERS) if mark in self.special]
        if not marks:
            return f"/{regex}/"
        body = f"/{regex}/ & ~/(.|\n)*({'|'.join(map(exactly, marks))})(.|\n)*/"
        name = f"FREE_{hashlib.sha256(body.encode()).hexdigest()[:8].upper()}"
        self._define([f"{name}: {body}"])
        return name

    def section(self, call: str, many: bool) -> tuple[str, str]:
        """Calls with all their marks, and the same without the first mark of all."""
        form = self.form
        whole = form.section_open + form.call_open
        trigger = form.triggers[0] if form.triggers and whole.startswith(form.triggers[0]) else ""
        more = ""
        if many:
            joint = self.literal(form.separator + form.call_open)
            more = self.rule(f"{joint} {call} {self.literal(form.call_close)}") + "*"
        body = f"{call} {self.literal(form.call_close)} {more} {self.literal(form.section_close)}"
        return (
            f"{self.literal(whole)} {body}",
            f"{self.literal(whole[len(trigger) :])} {body}",
        )

    def call(self, name: str, schema: Schema) -> str:
        form = self.form
        if form.body == "tagged":
            return f"{self.literal(name + form.args_open)} {self._tagged(name, schema)}"
        if form.body == "pythonic":
            return f'{self.literal(name + "(")} {self._pythonic(name, schema)} ")"'
        if form.body == "braced" and name in self.texts:
            value = self._marked(self.texts[name], form.quote, form.quote)
            return f"{self.literal(name + '{input:' + form.quote)} {value} {self.literal('}')}"
        if form.body == "braced":
            braces = BracedGrammar(form.quote, self.literal, self.until, self.rule)
            arguments = braces.object({"type": "object", **schema}, name, in_order=form.in_order)
            return f"{self.literal(name)} {arguments}"
        arguments = self.json(name, schema)
        if form.body == "named":
            return f"{self.literal(name + form.args_open)} {arguments}"
        if form.body == "keyed":
            return f'{self.literal("{" + json.dumps(name) + ": ")} {arguments} "}}"'
        lead = '"{"'
        if form.lead is not None:
            key, _ = form.lead
            lead = f'{json.dumps("{" + json.dumps(key) + ": ")} /"[A-Za-z0-9]{{1,9}}"/ ", "'
        head = f"{json.dumps(form.name_key)}: {json.dumps(name)}, {json.dumps(form.args_key)}: "
        tail = ""
        if form.tail is not None:
            tail = f'({json.dumps(", " + json.dumps(form.tail) + ": ")} "\\"" {self._id()} "\\"")?'
        return f'{lead} {json.dumps(head)} {arguments} {tail} "}}"'

    def json(self, name: str, schema: Schema) -> str:
        """A tool's arguments as JSON."""
        if name not in self.texts:
            return _json(_closed(schema))
        space = f"/{WHITESPACE}?/"
        return f'"{{" {space} "\\"input\\"" {space} ":" {space} {self.quoted(name)} {space} "}}"'

    def quoted(self, name: str) -> str:
        """The text that a tool is called with, as JSON."""
        text = self.texts[name]
        self._define(text.lines)
        return f'"\\"" {text.quoted}'

    def _define(self, lines: Sequence[str]) -> None:
        self.rules += [line for line in lines if line not in self.rules]

    def _marked(self, text: TextGrammar, sought: str, close: str) -> str:
        """The text as it stands and `close`. sought: what the parser takes for its end."""
        written = self.literal(close)
        is_special = written.startswith("<[")
        symbol, lines = text.before(sought, None if is_special else close)
        self._define(lines)
        return f"{symbol} {written}" if is_special else symbol

    def _tagged(self, name: str, schema: Schema) -> str:
        form = self.form
        if name in self.texts:
            key = form.key_close.replace(ANY_TRUTH, "true")
            close = form.value_close
            value = self._marked(self.texts[name], close.strip(), close)
            return f"{self.literal(form.key_open + 'input' + key)} {value}"
        found = []
        for key, part, is_required in _arguments(name, schema):
            said = "true" if _is_text(part) else "false"
            head = self.literal(form.key_open + key + form.key_close.replace(ANY_TRUTH, said))
            value = self._tagged_value(part, f"{name}/properties/{key}")
            found.append(self.rule(f"{head} {value}") + ("" if is_required else "?"))
        return " ".join(found)

    def _tagged_value(self, schema: Schema, where: str) -> str:
        """Text as it is, up to its closing mark; all else as JSON."""
        close = self.form.value_close
        options = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if options is not None and all(isinstance(option, str) for option in options):
            texts = " | ".join(json.dumps(option, ensure_ascii=False) for option in options)
            return f"({texts}) {self.literal(close)}"
        if schema.get("type") == "string":
            for limit in ("pattern", "format", "minLength", "maxLength"):
                if limit in schema:
                    raise RequestError(
                        f"tools: /{where}/{limit}",
                        "is not supported for a text that this model writes between tags; "
                        "leave it out, or use enum",
                    )
            return self.until(close) if close.strip() == close else self._lined(close)
        return f"{_json(schema)} {self.literal(close)}"

    def _lined(self, close: str) -> str:
        core = close.strip()
        after = close[close.index(core) + len(core) :]
        return f"{self.until(close.rstrip())} {self.literal(after)}".rstrip()

    def _pythonic(self, name: str, schema: Schema) -> str:
        """Keywords in the schema's order; the first that is given has no comma before it."""
        if name in self.texts:
            return f"{self.literal('input=')} {self.quoted(name)}"
        parts = _arguments(name, schema)
        pairs = [
            (self.rule(f"{self.literal(key + '=')} ({_python(part)})"), must)
            for key, part, must in parts
        ]
        # What may follow where none was given yet, and where one was.
        first, rest = '""', '""'
        for pair, must in reversed(pairs):
            alone, behind = f"{pair} {rest}", f'", " {pair} {rest}'
            first = self.rule(alone if must else f"({alone}) | {first}")
            rest = self.rule(behind if must else f"({behind}) | {rest}")
        return first


def _is_text(schema: Schema) -> bool:
    options = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if options is not None:
        return all(isinstance(option, str) for option in options)
    return schema.get("type") == "string"


def _arguments(name: str, schema: Schema) -> list[tuple[str, Schema, bool]]:
    """The arguments of a tool one by one: name, schema, and whether it must be given."""
    for keyword in ("anyOf", "oneOf", "allOf", "$ref", "patternProperties", "if", "not"):
        if keyword in schema:
            raise RequestError(
                f"tools: /{name}/{keyword}",
                "is not supported at the root of a tool's parameters for this model, which writes "
                "arguments one by one; use properties",
            )
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    required = schema.get("required", ())
    found = []
    for key, part in schema.get("properties", {}).items():
        if part is False:
            continue
        if not isinstance(part, Mapping):
            part = {}
        part = {**part, **shared} if shared else part
        if "$ref" in part and shared:
            part = {"allOf": [{"$ref": part["$ref"]}], **shared}
        found.append((key, part, key in required))
    return found


def _closed(schema: Schema) -> Schema:
    """An object's schema; where it does not say what else may be in it, nothing may."""
    closed = {"type": "object", **schema}
    combined = any(key in schema for key in ("anyOf", "oneOf", "allOf", "$ref"))
    if "additionalProperties" not in schema and not combined:
        closed["additionalProperties"] = False
    return closed


def _json(schema: Schema) -> str:
    return f"%json {json.dumps(schema, ensure_ascii=False)}"


def _python(schema: Schema) -> str:
    """A value as JSON, or a text in single quotes too."""
    quoted = schema.get("type") == "string" and not {"enum", "const", "pattern", "format"} & set(
        schema
    )
    lengths = "minLength" in schema or "maxLength" in schema
    single = r""" | /'([^'\\\n]|\\['"\\nrt])*'/"""
    return _json(schema) + (single if quoted and not lengths else "")


def _harmony(writer: _Writer, tools: Sequence[tuple[str, Schema]], required: bool) -> str:
    """Messages on channels; the call ends the answer."""
    channel, message = writer.literal(harmony.CHANNEL), writer.literal(harmony.MESSAGE)
    end = writer.until("<|end|>")
    again = f'{end} {writer.literal(harmony.START)} "assistant"'
    analysis = writer.rule(f'{channel} "analysis" {message} {again}')
    preamble = writer.rule(f'{channel} "commentary" {message} {again}')
    calls = []
    for name, schema in tools:
        to = json.dumps(f"to=functions.{name}")[1:-1]
        arguments = f"{message} {writer.json(name, schema)}"
        calls.append(f'" {to}" {channel} "commentary json" {arguments}')
        constrain = writer.literal("<|constrain|>")
        calls.append(f'{channel} "commentary {to} " {constrain} "json" {arguments}')
    call = writer.rule(" | ".join(f"({one})" for one in calls))
    if required:
        return writer.grammar(f"{analysis}? {call}")
    final = writer.rule(f'{channel} "final" {message} {writer.free()}')
    return writer.grammar(f"({analysis} | {preamble})* ({call} | {final})")
