"""What a caller asks for: the form that an answer keeps to. docs/structured_outputs.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ridgeline.errors import RequestError

# Bounds before anything is parsed.
MAX_SCHEMA_CHARACTERS = 256 * 1024
MAX_GRAMMAR_CHARACTERS = 256 * 1024
MAX_REGEX_CHARACTERS = 16 * 1024
MAX_CHOICES, MAX_CHOICE_CHARACTERS = 4096, 64 * 1024

KINDS = ("json", "json_object", "regex", "choice", "grammar")


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """Exactly one of json (a JSON schema, as a mapping or as text), json_object (any JSON object),
    regex (the whole answer matches), choice (the answer is one of these texts) and grammar (Lark,
    with llguidance's extensions).

    disable_any_whitespace: JSON without white space between its parts. whitespace_pattern: a regex
    of what may stand there; None: a space, or a line break and indentation. Both go with
    json and json_object only.

    Raises RequestError, naming the field. What a schema or grammar says is checked when a request
    is submitted: see `compile.Constraints`.
    """

    json: Mapping[str, Any] | str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        for name in ("json_object", "disable_any_whitespace"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong(name, "must be true or false")
        kinds = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(kinds) != 1:
            given = f"; {' and '.join(kinds)} are given" if kinds else ""
            raise _wrong("", f"takes exactly one of {', '.join(KINDS)}{given}")
        if self.json is not None:
            self.schema_text()
        _text("regex", self.regex, MAX_REGEX_CHARACTERS)
        _text("grammar", self.grammar, MAX_GRAMMAR_CHARACTERS)
        _text("whitespace_pattern", self.whitespace_pattern, 256)
        if self.choice is not None:
            self._check_choice()
        spaced = self.disable_any_whitespace or self.whitespace_pattern is not None
        if spaced and kinds[0] not in ("json", "json_object"):
            raise _wrong("whitespace_pattern", "goes with json or json_object only")
        if self.disable_any_whitespace and self.whitespace_pattern is not None:
            raise _wrong("whitespace_pattern", "and disable_any_whitespace: give one")

    def schema_text(self) -> str:
        """The JSON schema as text, its keys in the order given."""
        if self.json_object:
            return '{"type":"object"}'
        try:
            parsed = json.loads(self.json) if isinstance(self.json, str) else self.json
            text = json.dumps(parsed, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
            text.encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise _wrong("json", f"is not JSON: {str(error)[:200]}") from None
        if not isinstance(parsed, Mapping | bool):
            raise _wrong("json", "#: a schema is an object, or true or false")
        if len(text) > MAX_SCHEMA_CHARACTERS:
            raise _wrong("json", f"has {len(text)} characters; {MAX_SCHEMA_CHARACTERS} are allowed")
        return text

    def _check_choice(self) -> None:
        texts: object = self.choice
        if (
            not isinstance(texts, Sequence)
            or isinstance(texts, str | bytes)
            or not texts
            or any(not isinstance(text, str) or not text for text in texts)
        ):
            raise _wrong("choice", "must be texts of at least one character")
        if len(texts) > MAX_CHOICES or sum(map(len, texts)) > MAX_CHOICE_CHARACTERS:
            raise _wrong(
                "choice",
                f"may be {MAX_CHOICES} texts, {MAX_CHOICE_CHARACTERS} characters in all",
            )
        for text in texts:
            _text("choice", text, MAX_CHOICE_CHARACTERS)


def _text(name: str, value: object, most: int) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value:
        raise _wrong(name, "must be a text of at least one character")
    if len(value) > most:
        raise _wrong(name, f"has {len(value)} characters; {most} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(name, "has half of a surrogate pair") from None


def _wrong(name: str, why: str) -> RequestError:
    return RequestError(f"structured_outputs.{name}" if name else "structured_outputs", why)
